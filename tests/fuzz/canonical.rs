//! Canonical DAG-CBOR: one vertex has one form, and another decoder reads what ours accepts.

use ipld_core::ipld::Ipld;
use qmesh::dag::archive::SealedVertex;
use qmesh::dag::vertex::Vertex;

use super::corpus::vertices;
use super::drive::fuzz;
use super::mutate::mutate;

#[test]
fn s1_1_8_fuzz_canonical_forms() {
    let corpus: Vec<Vec<u8>> = vertices().iter().map(|vertex| vertex.to_vertex().canonical()).collect();
    let words: [&[u8]; 12] = [
        b"\xa7",
        b"\xa8",
        b"\x64kind",
        b"\x66author",
        b"\x66labels",
        b"\x67parents",
        b"\xd8\x2a\x58\x25\x00\x01\x71\x1e\x20",
        b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x9f",
        b"\xff",
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\xf9\x7e\x00",
    ];
    fuzz("canonical forms", |random| {
        let mut bytes = random.pick(&corpus).clone();
        mutate(random, &mut bytes, &corpus, &words);
        let Ok(vertex) = Vertex::from_canonical(&bytes) else { return };
        assert_eq!(vertex.canonical(), bytes, "a vertex has one form");
        let other: Ipld = serde_ipld_dagcbor::from_slice(&bytes).expect("another decoder reads what ours accepts");
        assert_eq!(serde_ipld_dagcbor::to_vec(&other).unwrap(), bytes, "and writes it the same");
        let sealed = SealedVertex::seal(&vertex, None).unwrap();
        assert_eq!(sealed.to_vertex(), vertex);
    });
}
