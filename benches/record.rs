//! Records: seal, verify, parse, read in place.
//!
//! Limit: BLAKE3 of 1 KiB is one chunk, so no SIMD across chunks: about 1.25 µs on the machine the design was measured on. The
//! first bench below is that limit here; verifying adds the check of the archive and the canonical form (aim: at most twice it).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qmesh::dag::archive::{Scratch, SealedVertex};
use qmesh::dag::vertex::Vertex;
use qmesh::ids::VertexId;
use qmesh_storage::Record;

fn vertex(payload_bytes: usize) -> Vertex {
    Vertex {
        namespace: "default".to_owned(),
        kind: "bench".to_owned(),
        author: Some("Ada Example <ada@example.org>".to_owned()),
        timestamp_ms: 1_700_000_000_000,
        parents: vec![VertexId([1; 32]), VertexId([2; 32])],
        labels: [("topic", "speed"), ("source", "bench")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        payload: (0..payload_bytes).map(|at| (at * 31) as u8).collect(),
    }
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    for payload_bytes in [256usize, 1024, 16 << 10] {
        let vertex = vertex(payload_bytes);
        let canonical = vertex.canonical();
        let sealed = SealedVertex::seal(&vertex, None).expect("within limits");
        let bytes = sealed.record().bytes().clone();
        let mut scratch = Scratch::default();
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        group.bench_function(BenchmarkId::new("limit: blake3 of the canonical form", payload_bytes), |bencher| {
            bencher.iter(|| blake3::hash(black_box(&canonical)));
        });
        group.bench_function(BenchmarkId::new("seal", payload_bytes), |bencher| {
            bencher.iter(|| SealedVertex::seal(black_box(&vertex), None));
        });
        group.bench_function(BenchmarkId::new("verify", payload_bytes), |bencher| {
            bencher.iter(|| SealedVertex::verify_with(black_box(sealed.record().clone()), &mut scratch));
        });
        group.bench_function(BenchmarkId::new("parse envelope and checksum", payload_bytes), |bencher| {
            bencher.iter(|| Record::parse(black_box(&bytes)));
        });
        group.bench_function(BenchmarkId::new("read in place", payload_bytes), |bencher| {
            bencher.iter(|| black_box(&sealed).parents().count() + black_box(&sealed).payload().len());
        });
    }
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
