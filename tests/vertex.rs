//! The vertex from every side: canonical form, id, archive, signature, shape.
//!
//! Promises: what one form says, all forms say; bytes of strangers are refused or read, never a panic.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use ipld_core::ipld::Ipld;
use proptest::prelude::*;
use qmesh::dag::archive::{RECORD_KIND_VERTEX, Scratch, SealedVertex};
use qmesh::dag::shape::{GitHash, Shape, ShapeError, label_hash};
use qmesh::dag::signature::{Algorithm, SEED_BYTES, Signature, SigningKey};
use qmesh::dag::vertex::{Vertex, VertexError};
use qmesh::error::Reason;
use qmesh::ids::VertexId;
use qmesh::limits::*;
use qmesh_storage::{Record, RecordError};

fn vertex() -> Vertex {
    Vertex {
        namespace: "default".to_owned(),
        kind: "note".to_owned(),
        author: None,
        timestamp_ms: 1_700_000_000_000,
        parents: Vec::new(),
        labels: BTreeMap::new(),
        payload: b"hello".to_vec(),
    }
}

fn rich_vertex() -> Vertex {
    Vertex {
        author: Some("Ada Lovelace <ada@example.org>".to_owned()),
        parents: (1..=3).map(|byte| VertexId([byte; 32])).collect(),
        labels: [("b", "2"), ("aa", "1"), ("git", "0123456789abcdef0123456789abcdef01234567")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..vertex()
    }
}

/// A record of our making around any body, its checksum valid.
fn record(kind: u8, key: &[u8; 32], body: &[u8]) -> Record {
    Record::build::<RecordError>(kind, key, body.len(), |mut buffer| {
        buffer.extend_from_slice(body);
        Ok(buffer)
    })
    .unwrap()
}

fn oracle(vertex: &Vertex) -> Vec<u8> {
    let text = |value: &str| Ipld::String(value.to_owned());
    let mut map: BTreeMap<String, Ipld> = [
        ("version", Ipld::Integer(1)),
        ("namespace", text(&vertex.namespace)),
        ("kind", text(&vertex.kind)),
        ("timestamp_ms", Ipld::Integer(i128::from(vertex.timestamp_ms))),
        ("parents", Ipld::List(vertex.parents.iter().map(|parent| Ipld::Link(link(parent))).collect())),
        ("labels", Ipld::Map(vertex.labels.iter().map(|(key, value)| (key.clone(), text(value))).collect())),
        ("payload", Ipld::Bytes(vertex.payload.clone())),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if let Some(author) = &vertex.author {
        map.insert("author".to_owned(), text(author));
    }
    serde_ipld_dagcbor::to_vec(&Ipld::Map(map)).unwrap()
}

fn link(id: &VertexId) -> cid::Cid {
    cid::Cid::try_from(&id.cid_bytes()[..]).unwrap()
}

/// All that can be read of a sealed vertex; touches every part of the archive.
fn read(sealed: &SealedVertex) -> (VertexId, Vertex, Option<Signature>) {
    (sealed.id(), sealed.to_vertex(), sealed.signature().map(|view| view.to_signature()))
}

prop_compose! {
    fn any_vertex()(
        namespace in "[a-z0-9._/-]{1,64}",
        kind in "[a-z0-9._/-]{1,64}",
        author in proptest::option::of("\\PC{1,40}"),
        timestamp_ms in prop_oneof![0..70_000u64, any::<u64>(), (0..64u32).prop_map(|shift| 1 << shift)],
        parents in proptest::collection::hash_set(any::<[u8; 32]>(), 0..20),
        labels in proptest::collection::btree_map("\\PC{1,12}", "\\PC{0,40}", 0..30),
        payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            (0..70_000usize).prop_map(|length| vec![0x5a; length]),
        ],
    ) -> Vertex {
        let parents = parents.into_iter().map(VertexId).collect();
        Vertex { namespace, kind, author, timestamp_ms, parents, labels, payload }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn s1_1_8_canonical_form_is_what_another_encoder_writes(vertex in any_vertex()) {
        let canonical = vertex.canonical();
        prop_assert_eq!(&canonical, &oracle(&vertex));
        prop_assert_eq!(Vertex::from_canonical(&canonical), Ok(vertex.clone()));
        prop_assert_eq!(vertex.id().0, *blake3::hash(&canonical).as_bytes());
    }

    #[test]
    fn s1_1_8_seal_and_verify_agree(vertex in any_vertex()) {
        let sealed = SealedVertex::seal(&vertex, None).unwrap();
        prop_assert_eq!(sealed.id(), vertex.id());
        prop_assert_eq!(sealed.to_vertex(), vertex.clone());
        let mut canonical = Vec::new();
        sealed.canonical_into(&mut canonical);
        prop_assert_eq!(canonical, vertex.canonical());

        let arrived = Record::parse(sealed.record().bytes()).unwrap();
        prop_assert_eq!(&SealedVertex::verify(arrived.clone()).unwrap(), &sealed);
        prop_assert_eq!(&SealedVertex::trusted(arrived), &sealed);
        for (key, value) in &vertex.labels {
            prop_assert_eq!(sealed.label(key), Some(value.as_str()));
        }
        prop_assert_eq!(sealed.label("no such label, too long for one"), None);

        let shape = Shape::of(&sealed);
        let encoded = shape.encode();
        prop_assert_eq!(Shape::decode(&sealed.id().0, &encoded), Ok(shape));
    }
}

#[test]
fn s1_1_8_sealed_vertex_reads_as_it_was_written() {
    let vertex = rich_vertex();
    let sealed = SealedVertex::seal(&vertex, None).unwrap();
    assert_eq!((sealed.namespace(), sealed.kind()), ("default", "note"));
    assert_eq!(sealed.author(), Some("Ada Lovelace <ada@example.org>"));
    assert_eq!(sealed.timestamp_ms(), 1_700_000_000_000);
    assert_eq!(sealed.parents().collect::<Vec<_>>(), vertex.parents);
    let keys: Vec<_> = sealed.labels().map(|(key, _)| key).collect();
    assert_eq!(keys, ["b", "aa", "git"], "shorter first");
    assert_eq!((sealed.label("aa"), sealed.label("a")), (Some("1"), None));
    assert_eq!(sealed.payload(), b"hello");
    assert_eq!(sealed.signature(), None);
    assert_eq!(sealed.record().kind(), RECORD_KIND_VERTEX);
}

#[test]
fn s1_1_8_each_limit_says_its_bound() {
    let check = |break_it: &dyn Fn(&mut Vertex), expected: &str, reason: Reason| {
        let mut broken = vertex();
        break_it(&mut broken);
        let error = broken.check().unwrap_err();
        assert_eq!((error.to_string().as_str(), error.reason()), (expected, reason));
        assert_eq!(SealedVertex::seal(&broken, None), Err(error.clone()), "seal");
        assert_eq!(Vertex::from_canonical(&broken.canonical()), Err(error), "from_canonical");
    };
    let label = |vertex: &mut Vertex, key: usize, value: usize| {
        vertex.labels.insert("k".repeat(key), "v".repeat(value));
    };
    use Reason::{BadRequest, LimitExceeded};
    check(&|v| v.payload = vec![0; (1 << 20) + 1], "payload: 1048577 bytes, at most 1048576 bytes", LimitExceeded);
    check(
        &|v| v.parents = (0..257u16).map(|n| VertexId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect(),
        "parents: 257 parents, at most 256 parents",
        LimitExceeded,
    );
    check(
        &|v| v.labels = (0..65).map(|n| (format!("k{n}"), String::new())).collect(),
        "labels: 65 labels, at most 64 labels",
        LimitExceeded,
    );
    check(&|v| label(v, 129, 0), "label key: 129 bytes, at most 128 bytes", LimitExceeded);
    check(&|v| label(v, 1, 1025), "label value: 1025 bytes, at most 1024 bytes", LimitExceeded);
    check(&|v| v.kind = "k".repeat(65), "kind: 65 bytes, at most 64 bytes", LimitExceeded);
    check(&|v| v.namespace = "n".repeat(65), "namespace: 65 bytes, at most 64 bytes", LimitExceeded);
    check(&|v| v.author = Some("a".repeat(257)), "author: 257 bytes, at most 256 bytes", LimitExceeded);
    check(&|v| label(v, 0, 1), "label key is empty", BadRequest);
    check(&|v| v.kind.clear(), "kind is empty", BadRequest);
    check(&|v| v.namespace.clear(), "namespace is empty", BadRequest);
    check(&|v| v.author = Some(String::new()), "author is empty", BadRequest);
    check(&|v| v.kind = "Note".into(), "kind has the character 'N'; allowed are a-z 0-9 . _ / -", BadRequest);
    check(&|v| v.namespace = "aé".into(), "namespace has the character 'é'; allowed are a-z 0-9 . _ / -", BadRequest);
    for parents in [2, 8, 9, 100u8] {
        let twice = VertexId([parents - 1; 32]);
        check(
            &|v| {
                v.parents = (0..parents).map(|n| VertexId([n; 32])).collect();
                v.parents[0] = twice;
            },
            &format!("parent {twice} is named twice"),
            BadRequest,
        );
    }
}

#[test]
fn s1_1_8_a_vertex_at_every_limit_is_sealed() {
    let largest = Vertex {
        namespace: "n".repeat(NAMESPACE_BYTES_MAX),
        kind: "k".repeat(KIND_BYTES_MAX),
        author: Some("a".repeat(AUTHOR_BYTES_MAX)),
        timestamp_ms: u64::MAX,
        parents: (0..PARENTS_MAX as u16).map(|n| VertexId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect(),
        labels: (0..LABELS_MAX)
            .map(|n| (format!("{n:0>LABEL_KEY_BYTES_MAX$}"), "v".repeat(LABEL_VALUE_BYTES_MAX)))
            .collect(),
        payload: vec![0xff; PAYLOAD_BYTES_MAX],
    };
    let key = SigningKey::from_seed(Algorithm::MlDsa65, &[1; SEED_BYTES]).unwrap();
    let sealed = SealedVertex::seal(&largest, Some(key.sign(&largest.id()).unwrap())).unwrap();
    let arrived = SealedVertex::verify(Record::parse(sealed.record().bytes()).unwrap()).unwrap();
    assert_eq!(arrived.to_vertex(), largest);
    assert_eq!(arrived.signature().unwrap().public_key, key.public_key());
    let shape = Shape::of(&arrived);
    assert_eq!(Shape::decode(&arrived.id().0, &shape.encode()), Ok(shape));
}

#[test]
fn s1_1_8_a_record_that_lies_is_refused() {
    let sealed = SealedVertex::seal(&rich_vertex(), None).unwrap();
    let body = sealed.record().body();
    let check = |record: Record, expected: VertexError| assert_eq!(SealedVertex::verify(record), Err(expected));

    let claimed = VertexId([9; 32]);
    let lie = record(RECORD_KIND_VERTEX, &claimed.0, body);
    check(lie, VertexError::IdMismatch { claimed, found: sealed.id() });
    let other_kind = record(2, &sealed.id().0, body);
    check(other_kind, VertexError::RecordKind { kind: 2, wanted: 1 });
    check(record(1, &sealed.id().0, b""), VertexError::Archive("its parts do not fit together"));

    // Eight bytes hidden before the parts: every pointer still leads where it should.
    let padded = [&[0; 8][..], body].concat();
    check(record(1, &sealed.id().0, &padded), VertexError::Archive("it is longer or shorter than its parts"));
    let root = body.len() - 80;
    let bent = |at: usize, value: u8| {
        let mut bent = body.to_vec();
        bent[root + at] = value;
        record(1, &sealed.id().0, &bent)
    };
    check(bent(0, 2), VertexError::Version { version: 2 });
    check(bent(2, 1), VertexError::SignatureLength { what: "public key", bytes: 0, bytes_wanted: 32 });
    check(bent(2, 3), VertexError::Algorithm(3));
    check(bent(3, 1), VertexError::Archive("reserved bytes are not zero"));
    check(bent(7, 1), VertexError::Archive("reserved bytes are not zero"));
}

#[test]
fn s1_1_8_any_flipped_bit_of_a_body_is_refused_or_changes_nothing() {
    for algorithm in [None, Some(Algorithm::Ed25519)] {
        let vertex = rich_vertex();
        let signature = algorithm.map(|algorithm| {
            let key = SigningKey::from_seed(algorithm, &[3; SEED_BYTES]).unwrap();
            key.sign(&vertex.id()).unwrap()
        });
        let good = SealedVertex::seal(&vertex, signature).unwrap();
        let expected = read(&good);
        let mut scratch = Scratch::default();
        let mut accepted = 0;
        for bit in 0..good.record().body().len() * 8 {
            let mut body = good.record().body().to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            if let Ok(sealed) = SealedVertex::verify_with(record(1, &good.id().0, &body), &mut scratch) {
                assert_eq!(read(&sealed), expected, "bit {bit}");
                accepted += 1;
            }
        }
        // Padding, and the pointers of empty slices, which point at nothing.
        assert!(accepted <= 8 * 8 + 2 * 32, "{accepted} bits of the body do not matter");
    }
}

#[test]
fn s1_1_8_bytes_of_strangers_never_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let vertex = rich_vertex();
    let good = SealedVertex::seal(&vertex, None).unwrap();
    let expected = read(&good);
    let canonical = vertex.canonical();
    let shape = Shape::of(&good).encode();
    let mut scratch = Scratch::default();
    for round in 0..30_000 {
        // Half the inputs are noise, half are a good form with a few bytes replaced and sometimes cut.
        let mut mutate = |good: &[u8]| {
            let mut bytes = if round % 2 == 0 { vec![0; random() as usize % 200] } else { good.to_vec() };
            let noise = if round % 2 == 0 { bytes.len() } else { 1 + random() as usize % 4 };
            for _ in 0..noise.min(bytes.len()) {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
            if random() % 8 == 0 {
                bytes.truncate(random() as usize % (bytes.len() + 1));
            }
            bytes
        };
        let body = mutate(good.record().body());
        if let Ok(sealed) = SealedVertex::verify_with(record(1, &good.id().0, &body), &mut scratch) {
            assert_eq!(read(&sealed), expected, "round {round}");
        }
        let bytes = mutate(&canonical);
        if let Ok(vertex) = Vertex::from_canonical(&bytes) {
            assert_eq!(vertex.canonical(), bytes, "round {round}");
        }
        let bytes = mutate(&shape);
        if let Ok(shape) = Shape::decode(&[0; 32], &bytes) {
            assert_eq!(shape.encode(), bytes, "round {round}");
        }
    }
}

#[test]
fn s1_1_8_only_the_canonical_spelling_is_read() {
    let vertex = Vertex { labels: [("a".into(), "1".into()), ("b".into(), "2".into())].into(), ..vertex() };
    let good = vertex.canonical();
    let check = |bytes: &[u8], what: &str| {
        let error = Vertex::from_canonical(bytes).unwrap_err();
        assert!(matches!(error, VertexError::Malformed(_)), "{what}: {error}");
    };
    for length in 0..good.len() {
        check(&good[..length], "cut short");
    }
    check(&[&good[..], &[0]].concat(), "a byte behind");
    let replace = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|window| window == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    check(&replace(b"aa1ab", b"ba1aa"), "labels out of order");
    check(&replace(b"aa1ab", b"aa1aa"), "a label twice");
    check(&replace(&[0x64, b'k', b'i', b'n', b'd'], &[0x78, 4, b'k', b'i', b'n', b'd']), "a long head");
    check(&replace(b"gparents\x80", b"gparents\x9f\xff"), "an indefinite list");
    check(&replace(b"gversion\x01", b"gversion\xf9\x3c\x00"), "the version as a float");
    check(&replace(b"gpayloadE", b"gpayloade"), "the payload as text");
    assert_eq!(
        Vertex::from_canonical(&replace(b"gversion\x01", b"gversion\x02")),
        Err(VertexError::Version { version: 2 })
    );
    // A list that claims 2^64 parents costs nothing.
    check(&replace(b"gparents\x80", b"gparents\x9b\xff\xff\xff\xff\xff\xff\xff\xff"), "too many parents");
}

#[test]
fn s1_1_8_signed_vertices_are_verified_on_entry() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::from_seed(algorithm, &[5; SEED_BYTES]).unwrap();
        let vertex = rich_vertex();
        let signature = key.sign(&vertex.id()).unwrap();
        let sealed = SealedVertex::seal(&vertex, Some(signature.clone())).unwrap();
        assert_eq!(sealed.signature().map(|view| view.to_signature()), Some(signature.clone()));
        let of_another = key.sign(&VertexId([0; 32])).unwrap();
        assert_eq!(SealedVertex::seal(&vertex, Some(of_another)), Err(VertexError::Signature));

        // A signature exchanged inside the record, the checksum made good.
        let mut body = sealed.record().body().to_vec();
        let at = body.windows(16).position(|window| window == &signature.bytes[..16]).unwrap();
        body[at] ^= 1;
        assert_eq!(SealedVertex::verify(record(1, &sealed.id().0, &body)), Err(VertexError::Signature));
    }
}

#[test]
fn s2_2_5_shape_holds_what_the_skeleton_needs() {
    let sealed = SealedVertex::seal(&rich_vertex(), None).unwrap();
    let shape = Shape::of(&sealed);
    assert_eq!(
        (shape.id, shape.timestamp_ms, shape.namespace, shape.kind),
        (sealed.id(), 1_700_000_000_000, "default", "note")
    );
    assert_eq!(shape.parents, rich_vertex().parents);
    assert_eq!(shape.label_hashes[..2], [label_hash("b", "2"), label_hash("aa", "1")]);
    assert_eq!(shape.git, GitHash::from_hex("0123456789ABCDEF0123456789abcdef01234567"));
    assert_eq!(shape.git_bytes().map(<[u8]>::len), Some(20));
    assert_eq!(shape.encode().len(), 16 + 3 * 32 + 3 * 4 + 20 + "default".len() + "note".len());
    // Pinned, because hint files on disk hold it.
    for length in [0, 1, 123, 124, 125, 126, 1024] {
        let value = "v".repeat(length);
        let expected = blake3::hash(format!("key\0{value}").as_bytes());
        assert_eq!(label_hash("key", &value).to_le_bytes(), expected.as_bytes()[..4], "value of {length} bytes");
    }
    assert_eq!(GitHash::from_hex(&"ab".repeat(32)), Some(GitHash::Sha256([0xab; 32])));
    for other in ["", "0123", &"xy".repeat(20), &"é".repeat(20)] {
        assert_eq!(GitHash::from_hex(other), None, "{other:?}");
    }
}

#[test]
fn s2_2_5_shape_of_strangers_is_refused() {
    let sealed = SealedVertex::seal(&rich_vertex(), None).unwrap();
    let good = Shape::of(&sealed).encode();
    let check = |at: usize, value: u8, expected: ShapeError| {
        let mut bent = good.clone();
        bent[at] = value;
        assert_eq!(Shape::decode(&[0; 32], &bent), Err(expected), "byte {at} = {value}");
    };
    check(0, 2, ShapeError::Version(2));
    check(1, 19, ShapeError::Field("git hash"));
    check(2, 0, ShapeError::Field("namespace"));
    check(3, 65, ShapeError::Field("kind"));
    check(5, 2, ShapeError::Field("count of parents"));
    check(6, 65, ShapeError::Field("count of labels"));
    check(7, 1, ShapeError::Field("reserved byte"));
    check(4, 2, ShapeError::Length { bytes: good.len(), wanted: good.len() - 32 });
    check(good.len() - 1, 0xff, ShapeError::Field("kind"));
    for length in 0..good.len() {
        assert!(Shape::decode(&[0; 32], &good[..length]).is_err(), "cut at {length}");
    }
}
