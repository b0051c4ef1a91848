//! Fuzz targets of imports, which no other crate can reach: files of strangers, changed at every level.
//!
//! What is read from a changed file is a vertex that proves itself, and can be written and read again.

use std::io::BufReader;

use super::{car, ndjson};
use crate::dag::archive::SealedVertex;
use crate::dag::signature::{Algorithm, SigningKey};
use crate::dag::vertex::Vertex;
use crate::error::Refusal;
use crate::fuzz::drive::{Random, fuzz};
use crate::fuzz::mutate::mutate;
use crate::gateway::json::vertex_into;

fn vertices() -> Vec<SealedVertex> {
    let mut made: Vec<SealedVertex> = Vec::new();
    for nth in 0..6u64 {
        let vertex = Vertex {
            namespace: "n".to_owned(),
            kind: "k".to_owned(),
            author: (nth == 3).then(|| "Ada \u{1f980}".to_owned()),
            timestamp_ms: nth,
            parents: made.iter().map(SealedVertex::id).collect(),
            labels: (0..nth).map(|label| (format!("k{label}"), "v".to_owned())).collect(),
            payload: if nth == 2 { vec![0xff; 300] } else { vec![b'a'; nth as usize * 50] },
        };
        let signature = SigningKey::from_seed(Algorithm::Ed25519, &[nth as u8; 32])
            .ok()
            .and_then(|key| key.sign(&vertex.id()).ok());
        made.extend(SealedVertex::seal(&vertex, signature.filter(|_| nth % 2 == 1)).ok());
    }
    assert_eq!(made.len(), 6);
    made
}

/// Reads until the end or the first refusal, which must say something.
fn read(mut next: impl FnMut() -> Result<Option<SealedVertex>, Refusal>) -> Vec<SealedVertex> {
    let mut found = Vec::new();
    loop {
        match next() {
            Ok(Some(vertex)) => {
                assert_eq!(vertex.to_vertex().id(), vertex.id(), "a vertex that does not prove itself");
                found.push(vertex);
            }
            Ok(None) => return found,
            Err(refusal) => {
                assert!(!refusal.detail.is_empty());
                return found;
            }
        }
    }
}

#[test]
fn s1_1_8_fuzz_car_files() {
    let made = vertices();
    let ids: Vec<_> = made.iter().map(SealedVertex::id).collect();
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for vertex in &made {
        let mut block = Vec::new();
        car::block(vertex, &mut block);
        blocks.push(block);
    }
    let words: [&[u8]; 6] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80",
        b"\xa2\x65roots",
        b"\x67version\x01",
        b"\x01\x71\x1e\x20",
        b"\x00",
    ];
    fuzz("CAR files", |random| {
        let mut file = car::header(&ids[..random.below(ids.len() + 1)]);
        for _ in 0..random.below(6) {
            let mut block = random.pick(&blocks).clone();
            // A changed content under its own id, so that it is read as a canonical form.
            if random.one_in(4) {
                block = renamed(random, &block, &blocks);
            }
            file.extend(block);
        }
        if random.one_in(2) {
            mutate(random, &mut file, &blocks, &words);
        }
        let Ok(mut reader) = car::Reader::new(&file[..]) else { return };
        for vertex in read(|| reader.next()) {
            let mut again = car::header(&[]);
            car::block(&vertex, &mut again);
            let mut reader = car::Reader::new(&again[..]).expect("a file of ours");
            assert_eq!(reader.next().ok().flatten().map(|read| read.id()), Some(vertex.id()));
        }
    });
}

/// A block whose content was changed, with the length and the id that it then has.
fn renamed(random: &mut Random, block: &[u8], blocks: &[Vec<u8>]) -> Vec<u8> {
    const CID_BYTES: usize = 36;
    let start = block.iter().position(|byte| byte & 0x80 == 0).map_or(0, |at| at + 1);
    let mut content = block[start + CID_BYTES..].to_vec();
    mutate(random, &mut content, blocks, &[]);
    let mut out = Vec::new();
    let mut length = CID_BYTES + content.len();
    while 0x80 <= length {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(&crate::ids::VertexId(*blake3::hash(&content).as_bytes()).cid_bytes());
    out.extend(content);
    out
}

#[test]
fn s1_1_8_fuzz_ndjson_files() {
    let lines: Vec<Vec<u8>> = vertices()
        .iter()
        .map(|vertex| {
            let mut line = Vec::new();
            vertex_into(vertex, &mut line);
            line.push(b'\n');
            line
        })
        .collect();
    let words: [&[u8]; 8] =
        [b"\n", b"\r\n", b"{", b"\"id\":", b"\"hex\":null,", b"\"kind\":\"x\",", b"\\u0000", b"1e999"];
    fuzz("NDJSON files", |random| {
        let mut file: Vec<u8> = (0..random.below(5)).flat_map(|_| random.pick(&lines).clone()).collect();
        mutate(random, &mut file, &lines, &words);
        // A buffer of any size, so that lines are cut anywhere.
        let mut reader = ndjson::Reader::new(BufReader::with_capacity(1 + random.length(4096), &file[..]));
        for vertex in read(|| reader.next()) {
            let mut again = Vec::new();
            vertex_into(&vertex, &mut again);
            let mut reader = ndjson::Reader::new(&again[..]);
            assert_eq!(reader.next().ok().flatten().as_ref(), Some(&vertex));
        }
    });
}
