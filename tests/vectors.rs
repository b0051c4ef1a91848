//! The published test vectors: `tests/vectors/vertices.json`, which `tests/vectors/check.py` checks with other people's
//! code.
//!
//! Promises: the file holds exactly what this build makes of the cases below. Does not: write the file, unless
//! `QMESH_WRITE_VECTORS=1` says that the form was changed on purpose.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use qmesh::dag::archive::SealedVertex;
use qmesh::dag::signature::{Algorithm, SEED_BYTES, Signature, SigningKey};
use qmesh::dag::vertex::Vertex;
use qmesh::ids::{VertexId, hex, unhex};
use qmesh::limits::{LABELS_MAX, PARENTS_MAX};
use qmesh_storage::Record;
use serde_json::{Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/vertices.json");

struct Case {
    name: &'static str,
    vertex: Vertex,
    signed: Option<(Algorithm, [u8; SEED_BYTES])>,
}

fn cases() -> Vec<Case> {
    let base = || Vertex {
        namespace: "default".into(),
        kind: "note".into(),
        author: None,
        timestamp_ms: 1_700_000_000_000,
        parents: Vec::new(),
        labels: BTreeMap::new(),
        payload: b"hello".to_vec(),
    };
    let parent = |n: u16| VertexId(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    let mut cases = Vec::new();
    let mut case = |name, vertex| cases.push(Case { name, vertex, signed: None });
    case("no parents", base());
    case("two parents", Vertex { parents: vec![parent(2), parent(1)], ..base() });
    case("the same parents in another order", Vertex { parents: vec![parent(1), parent(2)], ..base() });
    case("parents at the limit", Vertex { parents: (0..PARENTS_MAX as u16).map(parent).collect(), ..base() });
    case("author", Vertex { author: Some("Ada Lovelace <ada@example.org>".into()), ..base() });
    let unicode = Vertex {
        author: Some("Åsa Öberg 安娜".into()),
        labels: labels(&[("größe", "klein"), ("emoji", "🕸️"), ("combining", "e\u{301}"), ("composed", "\u{e9}")]),
        payload: "Unicode is kept as it came: no normalisation. 🦀".into(),
        ..base()
    };
    case("unicode", unicode);
    // Shorter keys first, then by bytes: not the order of a dictionary.
    let sorted =
        labels(&[("b", "1"), ("aa", "2"), ("a", "3"), ("ab", "4"), ("Z", "5"), ("aaa", "6"), ("é", "7"), ("zz", "8")]);
    case("labels in canonical order", Vertex { labels: sorted, ..base() });
    case("label with an empty value", Vertex { labels: labels(&[("empty", "")]), ..base() });
    let many = (0..LABELS_MAX).map(|n| (format!("label-{n}"), format!("value {n}"))).collect();
    case("labels at the limit", Vertex { labels: many, ..base() });
    case("empty payload", Vertex { payload: Vec::new(), ..base() });
    case("every byte as payload", Vertex { payload: (0..=255).collect(), ..base() });
    let names = Vertex { namespace: "team/a-b_c.d/0".into(), kind: "git/commit.v1".into(), ..base() };
    case("every kind of character in names", names);
    for (name, timestamp_ms) in [
        ("timestamp 0", 0),
        ("timestamp 23", 23),
        ("timestamp 24", 24),
        ("timestamp 255", 255),
        ("timestamp 256", 256),
        ("timestamp 65535", 65_535),
        ("timestamp 65536", 65_536),
        ("timestamp 2^32 - 1", (1 << 32) - 1),
        ("timestamp 2^32", 1 << 32),
        ("timestamp 2^64 - 1", u64::MAX),
    ] {
        case(name, Vertex { timestamp_ms, ..base() });
    }
    for (name, algorithm) in [("signed ed25519", Algorithm::Ed25519), ("signed ml-dsa-65", Algorithm::MlDsa65)] {
        let vertex = Vertex { parents: vec![parent(1)], author: Some("ada".into()), ..base() };
        cases.push(Case { name, vertex, signed: Some((algorithm, [0x42; SEED_BYTES])) });
    }
    cases
}

fn rendered(case: &Case, signature: Option<&Signature>) -> Value {
    let vertex = &case.vertex;
    let mut rendered = json!({
        "name": case.name,
        "fields": {
            "version": 1,
            "namespace": vertex.namespace,
            "kind": vertex.kind,
            "timestamp_ms": vertex.timestamp_ms,
            "parents": vertex.parents.iter().map(VertexId::to_string).collect::<Vec<_>>(),
            "labels": vertex.labels,
            "payload_hex": hex(&vertex.payload),
        },
        "canonical_hex": hex(&vertex.canonical()),
        "id_hex": vertex.id().hex(),
        "cid": vertex.id().to_string(),
    });
    if let Some(author) = &vertex.author {
        rendered["fields"]["author"] = json!(author);
    }
    if let (Some(signature), Some((_, seed))) = (signature, &case.signed) {
        rendered["signature"] = json!({
            "algorithm": signature.algorithm.name(),
            "seed_hex": hex(seed),
            "public_key_hex": hex(&signature.public_key),
            "bytes_hex": hex(&signature.bytes),
        });
    }
    rendered
}

fn sign(case: &Case) -> Option<Signature> {
    let (algorithm, seed) = case.signed?;
    Some(SigningKey::from_seed(algorithm, &seed).unwrap().sign(&case.vertex.id()).unwrap())
}

/// The signature a published case holds.
fn published_signature(published: &Value) -> Option<Signature> {
    let signature = published.get("signature")?;
    let text = |key: &str| signature[key].as_str().unwrap();
    Some(Signature {
        algorithm: Algorithm::from_name(text("algorithm")).unwrap(),
        public_key: unhex(text("public_key_hex")).unwrap(),
        bytes: unhex(text("bytes_hex")).unwrap(),
    })
}

#[test]
fn s1_1_8_published_vectors_are_what_this_build_makes() {
    let cases = cases();
    if std::env::var_os("QMESH_WRITE_VECTORS").is_some_and(|value| value == "1") {
        let all: Vec<_> = cases.iter().map(|case| rendered(case, sign(case).as_ref())).collect();
        std::fs::write(PATH, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    }
    let published: Vec<Value> = serde_json::from_slice(&std::fs::read(PATH).unwrap()).unwrap();
    assert_eq!(published.len(), cases.len(), "cases in the file");
    for (case, published) in cases.iter().zip(&published) {
        // An ML-DSA signature is another one each time, so the published one is taken and verified by the seal below.
        let signature = match case.signed {
            Some((Algorithm::MlDsa65, seed)) => {
                let key = SigningKey::from_seed(Algorithm::MlDsa65, &seed).unwrap();
                let signature = published_signature(published).unwrap();
                assert_eq!(signature.public_key, key.public_key(), "{}", case.name);
                Some(signature)
            }
            _ => sign(case),
        };
        assert_eq!(&rendered(case, signature.as_ref()), published, "{}", case.name);
        let sealed = SealedVertex::seal(&case.vertex, signature.clone()).unwrap();
        let arrived = SealedVertex::verify(Record::parse(sealed.record().bytes()).unwrap()).unwrap();
        assert_eq!(arrived.signature().map(|view| view.to_signature()), signature, "{}", case.name);
        let canonical = unhex(published["canonical_hex"].as_str().unwrap()).unwrap();
        assert_eq!(Vertex::from_canonical(&canonical), Ok(arrived.to_vertex()), "{}", case.name);
        assert_eq!(published["cid"].as_str().unwrap().parse(), Ok(arrived.id()), "{}", case.name);
    }
}
