//! Valid inputs that the targets start from: vertices of every shape, and moves of refs.
//!
//! Promises: the same on every run. Does not: change them; `mutate` does.

use std::collections::BTreeMap;

use qmesh::dag::archive::SealedVertex;
use qmesh::dag::ref_record::RefRecord;
use qmesh::dag::signature::{Algorithm, SigningKey};
use qmesh::dag::vertex::Vertex;
use qmesh::ids::VertexId;
use qmesh::limits::{AUTHOR_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, PARENTS_MAX};

/// A plain vertex with this content.
pub(crate) fn vertex(payload: &[u8]) -> Vertex {
    Vertex {
        namespace: "default".to_owned(),
        kind: "note".to_owned(),
        author: None,
        timestamp_ms: 1,
        parents: Vec::new(),
        labels: BTreeMap::new(),
        payload: payload.to_vec(),
    }
}

/// The smallest, the usual, the signed, and one at each limit.
pub(crate) fn vertices() -> Vec<SealedVertex> {
    let parent = |number: usize| VertexId(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let label = |number: usize| (format!("key{number}"), "v".repeat(number % 7));
    let plain = [
        vertex(b""),
        vertex(b"hello"),
        Vertex { timestamp_ms: u64::MAX, ..vertex(&[0; 300]) },
        Vertex { parents: vec![parent(0)], ..vertex(b"a child") },
        Vertex { parents: (0..9).map(parent).collect(), ..vertex(b"an octopus") },
        Vertex { parents: (0..PARENTS_MAX).map(parent).collect(), ..vertex(b"all parents") },
        Vertex { labels: (0..3).map(label).collect(), author: Some("Ada \u{1f980}".to_owned()), ..vertex(b"\xff\x00") },
        Vertex { labels: (0..LABELS_MAX).map(label).collect(), ..vertex(b"all labels") },
        Vertex {
            author: Some("a".repeat(AUTHOR_BYTES_MAX)),
            labels: [("git".to_owned(), "0123456789".repeat(4)), ("k".to_owned(), "x".repeat(LABEL_VALUE_BYTES_MAX))]
                .into(),
            ..vertex(b"a commit")
        },
        Vertex { namespace: "a/b.c_d-e".to_owned(), kind: "k".repeat(64), ..vertex(&[7; 5000]) },
    ];
    let mut sealed: Vec<SealedVertex> = plain.iter().map(|vertex| SealedVertex::seal(vertex, None).unwrap()).collect();
    for algorithm in Algorithm::ALL {
        let key = SigningKey::from_seed(algorithm, &[5; 32]).unwrap();
        let vertex = Vertex { parents: vec![parent(3)], ..vertex(algorithm.name().as_bytes()) };
        sealed.push(SealedVertex::seal(&vertex, Some(key.sign(&vertex.id()).unwrap())).unwrap());
    }
    sealed
}

/// A ref that is made, moved and deleted.
pub(crate) fn ref_moves() -> Vec<RefRecord> {
    let (first, second) = (VertexId([1; 32]), VertexId([2; 32]));
    let made = |version, from, to| RefRecord {
        name: "heads/gr\u{f6}\u{df}e".parse().unwrap(),
        version,
        from,
        to,
        actor: "ada".to_owned(),
        reason: "because \u{1f980}".to_owned(),
        timestamp_ms: 7,
    };
    vec![made(1, None, Some(first)), made(2, Some(first), Some(second)), made(u64::MAX, Some(second), None)]
}
