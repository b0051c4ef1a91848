//! The skeleton: admitting vertices, full ancestor walks, common ancestors, is-ancestor; 100,000 vertices.
//!
//! Limit: memory. A vertex is about 95 bytes in a dozen columns, so admitting one touches about a dozen cache lines and one
//! probe of the id table; the least that any skeleton must do is the first bench of "admit" (ids into a hash map, parents into
//! two plain arrays). A walk loads one edge, one mark and two offsets for each step; the first bench of "walk" is that over plain
//! arrays (aim: 10 million edges a second). A question with an early end costs at least the look-up of its ids: the first bench
//! of "question".

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use qmesh::dag::query::{Answer, Direction, Machine, Order, Query, Verb};
use qmesh::dag::skeleton::{self, Number, ShapeRef, Skeleton, Writer};
use qmesh::dag::walk::{Scratch, Step};
use qmesh::ids::{LogIndex, ShardId, VertexId};

const VERTICES: u32 = 100_000;
/// A vertex's parents lie among so many before it.
const REACH: u64 = 80;
/// One vertex in so many is a merge.
const MERGES: u64 = 4;
/// Pairs that are asked about in turn.
const PAIRS: usize = 256;
/// How far apart near pairs lie, in vertices.
const NEAR: u32 = 64;
/// Which start of the node a cursor would belong to.
const BOOT: u64 = 1;

/// A small generator of numbers (xorshift64*): the same seed gives the same graph.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// A history like that of a busy repository: one line of work with short branches and merges.
struct History {
    ids: Vec<VertexId>,
    parents: Vec<Vec<VertexId>>,
    /// The same edges as plain arrays: where those of a vertex begin, and whom they name.
    offsets: Vec<u32>,
    edges: Vec<u32>,
}

impl History {
    fn new() -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let ids: Vec<VertexId> =
            (0..VERTICES).map(|at| VertexId(*blake3::hash(&at.to_le_bytes()).as_bytes())).collect();
        let (mut offsets, mut edges, mut parents) = (vec![0], Vec::new(), Vec::new());
        for vertex in 0..u64::from(VERTICES) {
            let from = edges.len();
            if vertex != 0 {
                edges.push((vertex - 1 - random.below(vertex.min(2))) as u32);
                let merged = (vertex - 1 - random.below(vertex.min(REACH))) as u32;
                if random.below(MERGES) == 0 && edges[from] != merged {
                    edges.push(merged);
                }
            }
            parents.push(edges[from..].iter().map(|&parent| ids[parent as usize]).collect());
            offsets.push(edges.len() as u32);
        }
        Self { ids, parents, offsets, edges }
    }

    fn admit(&self, writer: &mut Writer) {
        for (at, (&id, parents)) in self.ids.iter().zip(&self.parents).enumerate() {
            let shape = ShapeRef {
                id,
                parents,
                timestamp_ms: 1_700_000_000_000 + at as u64 * 1000,
                namespace: "default",
                kind: "commit",
                label_hashes: &[7, at as u32],
                git: None,
            };
            writer.apply(ShardId(0), LogIndex(at as u64 + 1), shape);
        }
    }

    fn skeleton(&self) -> Arc<Skeleton> {
        let (mut writer, skeleton) = skeleton::new(1);
        self.admit(&mut writer);
        assert_eq!(skeleton.view().len(), VERTICES);
        skeleton
    }

    /// The least that admitting can be.
    fn admit_plainly(&self) -> (HashMap<VertexId, u32>, Vec<u32>, Vec<u32>) {
        let (mut numbers, mut offsets, mut edges) = (HashMap::new(), vec![0], Vec::new());
        for (at, (id, parents)) in self.ids.iter().zip(&self.parents).enumerate() {
            edges.extend(parents.iter().map(|parent| numbers[parent]));
            offsets.push(edges.len() as u32);
            numbers.insert(*id, at as u32);
        }
        (numbers, offsets, edges)
    }

    /// All ancestors of the last vertex, and how many edges led to them.
    fn walk_plainly(&self) -> (Vec<u32>, u64) {
        let mut met = vec![false; self.ids.len()];
        let (mut found, mut edge_count) = (vec![VERTICES - 1], 0);
        met[VERTICES as usize - 1] = true;
        let mut next = 0;
        while let Some(&vertex) = found.get(next) {
            next += 1;
            let edges = self.offsets[vertex as usize]..self.offsets[vertex as usize + 1];
            edge_count += u64::from(edges.end - edges.start);
            for edge in edges {
                let parent = self.edges[edge as usize];
                if !std::mem::replace(&mut met[parent as usize], true) {
                    found.push(parent);
                }
            }
        }
        (found, edge_count)
    }
}

/// Puts a question and lends its working memory on to the next.
fn ask(skeleton: &Skeleton, verb: Verb, scratch: &mut Scratch) -> Answer {
    let mut machine =
        Machine::with_scratch(Query::new(verb), skeleton, BOOT, std::mem::take(scratch)).expect("it is there");
    let mut numbers = Vec::new();
    while machine.step(skeleton, usize::MAX, &mut numbers) == Step::More {}
    let (answer, used) = machine.finish(numbers);
    *scratch = used;
    answer
}

fn admitting(criterion: &mut Criterion, history: &History) {
    let mut group = criterion.benchmark_group("skeleton/admit");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(u64::from(VERTICES)));
    group.bench_function("limit: a hash map of ids, parents in plain arrays", |bencher| {
        bencher.iter_with_large_drop(|| history.admit_plainly());
    });
    group.bench_function("apply", |bencher| {
        let admit = |(mut writer, skeleton): (Writer, Arc<Skeleton>)| {
            history.admit(&mut writer);
            (writer, skeleton)
        };
        bencher.iter_batched(|| skeleton::new(1), admit, BatchSize::PerIteration);
    });
    group.finish();
}

fn walking(criterion: &mut Criterion, history: &History, skeleton: &Skeleton) {
    let mut group = criterion.benchmark_group("skeleton/walk, edges");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let (found, edge_count) = history.walk_plainly();
    group.throughput(Throughput::Elements(edge_count));
    group.bench_function("limit: breadth first over plain arrays", |bencher| {
        bencher.iter_with_large_drop(|| black_box(history).walk_plainly());
    });
    let tip = history.ids[VERTICES as usize - 1];
    let mut scratch = Scratch::new();
    for order in [Order::Bfs, Order::Topo, Order::Time] {
        let verb = Verb::Walk { roots: vec![tip], direction: Direction::Ancestors, order, depth: None };
        let Answer::Vertices { numbers, .. } = ask(skeleton, verb.clone(), &mut scratch) else {
            panic!("a walk's answer")
        };
        assert_eq!(numbers.len(), found.len(), "the walk is whole");
        group.bench_function(BenchmarkId::new("all ancestors of a tip", format!("{order:?}")), |bencher| {
            bencher.iter_with_large_drop(|| ask(skeleton, verb.clone(), &mut scratch));
        });
    }
    group.finish();
}

fn questions(criterion: &mut Criterion, history: &History, skeleton: &Skeleton) {
    let mut group = criterion.benchmark_group("skeleton/question");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut random = Random(7);
    let mut vertex = |from: u32, to: u32| history.ids[(u64::from(from) + random.below(u64::from(to - from))) as usize];
    let mut pairs = |apart: fn(u32) -> (u32, u32)| -> Vec<(VertexId, VertexId)> {
        (0..PAIRS as u32)
            .map(|pair| {
                let middle = VERTICES / 2 + pair * (VERTICES / 2 / PAIRS as u32);
                let (low, high) = apart(middle);
                (vertex(low, middle), vertex(middle, high))
            })
            .collect()
    };
    let near = pairs(|middle| (middle - NEAR / 2, (middle + NEAR / 2).min(VERTICES)));
    let any = pairs(|_| (0, VERTICES));
    let view = skeleton.view();
    let mut at = 0;
    let mut turn = |pairs: &[(VertexId, VertexId)]| {
        at = (at + 1) % PAIRS;
        pairs[at]
    };
    group.bench_function("limit: both ids looked up", |bencher| {
        bencher.iter(|| -> [Option<Number>; 2] {
            let (a, b) = turn(&any);
            [view.number(&a), view.number(&b)]
        });
    });
    let mut scratch = Scratch::new();
    for (name, pairs) in [("near", &near), ("any", &any)] {
        group.bench_function(BenchmarkId::new("best common ancestor", name), |bencher| {
            bencher.iter(|| {
                let (a, b) = turn(pairs);
                ask(skeleton, Verb::BestCommon(vec![a, b]), &mut scratch)
            });
        });
        group.bench_function(BenchmarkId::new("is ancestor", name), |bencher| {
            bencher.iter(|| {
                let (a, b) = turn(pairs);
                ask(skeleton, Verb::IsAncestor(a, b), &mut scratch)
            });
        });
    }
    group.finish();
}

fn skeletons(criterion: &mut Criterion) {
    let history = History::new();
    admitting(criterion, &history);
    let skeleton = history.skeleton();
    walking(criterion, &history, &skeleton);
    questions(criterion, &history, &skeleton);
}

criterion_group!(benches, skeletons);
criterion_main!(benches);
