//! Texts that people and programs type: ids, tokens, cursors, names of refs, addresses, profiles, vertices in JSON.
//!
//! What is read and written again is the same: the second reading finds what the first did.

use std::str::FromStr;

use qmesh::client::Address;
use qmesh::config::Profile;
use qmesh::dag::archive::SealedVertex;
use qmesh::dag::query::Cursor;
use qmesh::dag::refs::RefName;
use qmesh::gateway::json::{self, VertexIn};
use qmesh::ids::{Token, VertexId};

use super::corpus::vertices;
use super::drive::{Random, fuzz};
use super::mutate::mutate;

fn text(random: &mut Random, corpus: &[Vec<u8>], words: &[&[u8]]) -> String {
    let mut bytes = random.pick(corpus).clone();
    mutate(random, &mut bytes, corpus, words);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is read, written and read again is the same.
fn reads_back<T: FromStr + ToString + PartialEq>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        assert!(written.parse::<T>().is_ok_and(|again| again == read), "{text:?} became {written:?}");
    }
}

#[test]
fn s3_2_10_fuzz_words() {
    let id = VertexId([7; 32]);
    let corpus: Vec<Vec<u8>> = [
        &id.to_string(),
        &id.hex(),
        "0.1",
        "3.18446744073709551615",
        "heads/main",
        "git/gr\u{f6}\u{df}e/a.b",
        "quic://[::1]:7420",
        "https://node.example/",
        "127.0.0.1:7420",
        "git:0123456789012345678901234567890123456789",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKFLQD",
        "zdpuAkfK8nZSCQ4mJVUqT5rGfL",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    let words: [&[u8]; 10] =
        [b"/", b"..", b"//", b"@{", b".lock", b"\xc3\xb6", b"\xf0\x9f\xa6\x80", b"/ipfs/", b"://", b"["];
    fuzz("words", |random| {
        let text = text(random, &corpus, &words);
        reads_back::<VertexId>(&text);
        reads_back::<Token>(&text);
        reads_back::<RefName>(&text);
        drop(text.parse::<Cursor>());
        if let Ok(address) = Address::parse(&text) {
            assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
    });
}

#[test]
fn s8_4_fuzz_profiles() {
    let corpus: Vec<Vec<u8>> = qmesh::config::SHIPPED.iter().map(|shipped| shipped.text.as_bytes().to_vec()).collect();
    let words: [&[u8]; 8] =
        [b"\"auto\"", b"\"25%\"", b"\"101%\"", b"-1", b"1e9", b"[storage]", b"cores = ", b"9223372036854775807"];
    fuzz("profiles", |random| {
        let text = text(random, &corpus, &words);
        if let Ok(profile) = Profile::parse("fuzz", &text) {
            drop(qmesh::config::resolve(&profile, &qmesh::config::Host::read(None)));
        }
    });
}

#[test]
fn s3_2_10_fuzz_vertices_in_json() {
    let corpus: Vec<Vec<u8>> = vertices()
        .iter()
        .map(|vertex| {
            let mut shown = json::vertex_to_json(vertex);
            shown.as_object_mut().unwrap().retain(|name, _| name != "id" && name != "hex");
            shown.to_string().into_bytes()
        })
        .collect();
    let words: [&[u8]; 10] = [
        b"\"payload\":",
        b"\"payload_base64\":",
        b"\"kind\":",
        b"null",
        b"{}",
        b"[",
        b"\\ud83e\\udd80",
        b"\\u0000",
        b"18446744073709551616",
        b"1e400",
    ];
    fuzz("vertices in JSON", |random| {
        let mut bytes = random.pick(&corpus).clone();
        mutate(random, &mut bytes, &corpus, &words);
        let read = |bytes: &[u8]| -> Option<SealedVertex> {
            let vertex: VertexIn = json::from_bytes("vertex", bytes).ok()?;
            let parents = vertex.parents.iter().map(|parent| parent.parse()).collect::<Result<_, _>>().ok()?;
            json::seal(vertex, parents, 7).ok()
        };
        let Some(vertex) = read(&bytes) else { return };
        let mut shown = json::vertex_to_json(&vertex);
        shown.as_object_mut().unwrap().retain(|name, _| name != "id" && name != "hex");
        assert_eq!(read(shown.to_string().as_bytes()).map(|again| again.id()), Some(vertex.id()), "{shown}");
    });
}
