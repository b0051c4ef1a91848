//! Records of strangers: the envelope, the archive of a vertex, the archive of a ref's move, the shape in a hint.
//!
//! The checksum of a changed record is mended, and the id where only that is wrong, so that the archive itself is what is tried.

use bytes::Bytes;
use qmesh::dag::archive::{Scratch, SealedVertex};
use qmesh::dag::ref_record::RefRecord;
use qmesh::dag::shape::Shape;
use qmesh::dag::vertex::VertexError;
use qmesh_storage::Record;
use qmesh_storage::record::{RECORD_HEADER_BYTES, check};
use qmesh_storage::wire::crc;

use super::corpus::{ref_moves, vertices};
use super::drive::{Random, fuzz};
use super::mutate::mutate;

/// Makes the envelope of changed bytes valid again: version, reserved bytes, length, padding, checksum.
pub(crate) fn mend(bytes: &mut Vec<u8>) {
    if bytes.len() < RECORD_HEADER_BYTES {
        return;
    }
    let body_bytes = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    let body_bytes = body_bytes.min(bytes.len() - RECORD_HEADER_BYTES);
    bytes.truncate(RECORD_HEADER_BYTES + body_bytes);
    bytes[0] = 1;
    bytes[2..4].fill(0);
    bytes[12..16].fill(0);
    bytes[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    let covered = [&bytes[..8], &bytes[12..]].concat();
    bytes[8..12].copy_from_slice(&crc(&covered).to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(16), 0);
}

/// A changed record whose envelope is valid one time in two.
pub(crate) fn changed(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    mutate(random, &mut bytes, corpus, &[]);
    if random.one_in(2) {
        mend(&mut bytes);
    }
    bytes
}

#[test]
fn s6_1_12_fuzz_records_of_vertices() {
    let corpus: Vec<Vec<u8>> = vertices().iter().map(|vertex| vertex.record().bytes().to_vec()).collect();
    let mut scratch = Scratch::default();
    let mut accepted = 0;
    fuzz("records of vertices", |random| {
        let mut bytes = changed(random, &corpus);
        let alone = check(&bytes);
        let Ok(record) = Record::parse(&Bytes::from(bytes.clone())) else {
            assert!(alone.is_err(), "check and parse disagree");
            return;
        };
        assert_eq!(alone, Ok(record.bytes().len()));
        let vertex = match SealedVertex::verify_with(record, &mut scratch) {
            Err(VertexError::IdMismatch { found, .. }) => {
                bytes[16..48].copy_from_slice(&found.0);
                mend(&mut bytes);
                SealedVertex::verify_with(Record::parse(&Bytes::from(bytes)).unwrap(), &mut scratch)
            }
            verified => verified,
        };
        let Ok(vertex) = vertex else { return };
        accepted += 1;
        // Whatever was accepted is a vertex in every form.
        let domain = vertex.to_vertex();
        assert_eq!(domain.id(), vertex.id());
        assert_eq!(domain.check(), Ok(()));
        for (key, value) in vertex.labels() {
            assert_eq!(vertex.label(key), Some(value));
        }
        let resealed = SealedVertex::seal_with(&domain, vertex.signature(), &mut scratch).unwrap();
        assert_eq!(resealed.record().body().len(), vertex.record().body().len());
        let shape = Shape::of(&vertex);
        assert_eq!(Shape::decode(&vertex.id().0, &shape.encode()), Ok(shape));
    });
    assert!(0 < accepted, "no changed record was a vertex: the target tests little");
}

#[test]
fn s6_1_12_fuzz_records_of_ref_moves() {
    let corpus: Vec<Vec<u8>> = ref_moves().iter().map(|moved| moved.to_record().bytes().to_vec()).collect();
    fuzz("records of ref moves", |random| {
        let mut bytes = changed(random, &corpus);
        let Ok(record) = Record::parse(&Bytes::from(bytes.clone())) else { return };
        let moved = match RefRecord::from_record(&record) {
            Err(qmesh::dag::ref_record::RefRecordError::Key(name)) => {
                bytes[16..48].copy_from_slice(&name.key());
                mend(&mut bytes);
                RefRecord::from_record(&Record::parse(&Bytes::from(bytes)).unwrap())
            }
            read => read,
        };
        if let Ok(moved) = moved {
            assert_eq!(RefRecord::from_record(&moved.to_record()), Ok(moved));
        }
    });
}

#[test]
fn s1_1_9_fuzz_shapes() {
    let corpus: Vec<Vec<u8>> = vertices().iter().map(|vertex| Shape::of(vertex).encode()).collect();
    fuzz("shapes", |random| {
        let mut bytes = random.pick(&corpus).clone();
        mutate(random, &mut bytes, &corpus, &[]);
        if let Ok(shape) = Shape::decode(&[9; 32], &bytes) {
            assert_eq!(shape.encode(), bytes, "a shape has one form");
        }
    });
}
