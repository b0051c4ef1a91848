//! The skeleton against plain lists, in any order of arrival, and under readers on other threads.

use super::*;
use crate::ids::Token;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

/// A small generator of numbers (xorshift64*): the same seed gives the same graph.
pub(in crate::dag) struct Random(pub(in crate::dag) u64);

impl Random {
    pub(in crate::dag) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Parents of each vertex, all lower than the vertex. What else a vertex has follows from its place.
pub(in crate::dag) struct Graph {
    pub(in crate::dag) parents: Vec<Vec<u32>>,
}

impl Graph {
    /// From long and narrow to short and wide, with several roots, merges and octopus merges of up to eight.
    pub(in crate::dag) fn random(random: &mut Random, count: u32) -> Self {
        let (reach, root_chance) = ([2, 4, 10, 80][random.below(4) as usize], [30, 12, 6][random.below(3) as usize]);
        let mut parents = Vec::new();
        for vertex in 0..count {
            let wanted = match random.below(root_chance) {
                0 => 0,
                1 => 3 + random.below(6),
                2..5 => 2,
                _ => 1,
            };
            let mut own = Vec::new();
            for _ in 0..if vertex == 0 { 0 } else { wanted } {
                let parent = vertex - 1 - random.below(u64::from(vertex.min(reach))) as u32;
                if !own.contains(&parent) {
                    own.push(parent);
                }
            }
            parents.push(own);
        }
        Self { parents }
    }

    pub(in crate::dag) fn id(vertex: u32) -> VertexId {
        VertexId(*blake3::hash(&vertex.to_le_bytes()).as_bytes())
    }

    /// Roughly ascending, as authors' clocks are.
    pub(in crate::dag) fn timestamp_ms(&self, vertex: usize) -> u64 {
        vertex as u64 * 20 + vertex as u64 * 7919 % 97
    }

    pub(in crate::dag) fn namespace(&self, vertex: usize) -> &'static str {
        // The first two settle that both exist.
        if vertex % 5 < 3 && vertex != 1 { "a" } else { "b" }
    }

    pub(in crate::dag) fn kind(&self, vertex: usize) -> &'static str {
        ["k0", "k1", "k2"][vertex % 3]
    }

    pub(in crate::dag) fn labels(&self, vertex: usize) -> Vec<u32> {
        (0..vertex as u32 % 4).collect()
    }

    fn git(vertex: usize) -> Option<Vec<u8>> {
        let hash = *Self::id(vertex as u32).0.first_chunk::<20>()?;
        match vertex % 3 {
            0 => None,
            1 => Some(hash.to_vec()),
            _ => Some(Self::id(vertex as u32).0.to_vec()),
        }
    }

    pub(in crate::dag) fn apply_one(&self, writer: &mut Writer, vertex: usize) -> Outcome {
        let parents: Vec<VertexId> = self.parents[vertex].iter().map(|&parent| Self::id(parent)).collect();
        let git = Self::git(vertex);
        let shape = ShapeRef {
            id: Self::id(vertex as u32),
            parents: &parents,
            timestamp_ms: self.timestamp_ms(vertex),
            namespace: self.namespace(vertex),
            kind: self.kind(vertex),
            label_hashes: &self.labels(vertex),
            git: git.as_deref(),
        };
        writer.apply(ShardId(0), LogIndex(vertex as u64 + 1), shape)
    }

    pub(in crate::dag) fn apply(&self, writer: &mut Writer, vertices: Range<usize>) {
        for vertex in vertices {
            assert_eq!(self.apply_one(writer, vertex), Outcome::Admitted { count: 1 });
        }
    }

    pub(in crate::dag) fn skeleton(&self) -> Arc<Skeleton> {
        let (mut writer, skeleton) = new(1);
        self.apply(&mut writer, 0..self.parents.len());
        skeleton
    }

    /// Checks every property of every vertex, whatever numbers they got.
    fn check(&self, skeleton: &Skeleton) {
        let view = skeleton.view();
        assert_eq!(view.len() as usize, self.parents.len());
        let number = |vertex: u32| view.number(&Self::id(vertex)).expect("admitted");
        let mut children = vec![BTreeSet::new(); self.parents.len()];
        let mut generations: Vec<u32> = Vec::new();
        for (vertex, parents) in self.parents.iter().enumerate() {
            let at = number(vertex as u32);
            assert_eq!(view.id(at), Self::id(vertex as u32));
            assert_eq!(view.parents(at).collect::<Vec<_>>(), parents.iter().map(|&p| number(p)).collect::<Vec<_>>());
            assert!(view.parents(at).all(|parent| parent < at), "parents before children");
            let deepest = parents.iter().map(|&parent| generations[parent as usize]).max();
            generations.push(deepest.unwrap_or(0) + 1);
            assert_eq!(view.generation(at), generations[vertex]);
            assert_eq!(view.timestamp_ms(at), self.timestamp_ms(vertex));
            assert_eq!(view.namespace(at), Some(self.namespace(vertex)));
            assert_eq!(view.kind(at), Some(self.kind(vertex)));
            assert_eq!(view.label_hashes(at).collect::<Vec<_>>(), self.labels(vertex));
            assert_eq!(view.git(at), Self::git(vertex));
            if let Some(git) = Self::git(vertex) {
                assert_eq!(view.by_git(&git), Some(at));
            }
            for &parent in parents {
                children[parent as usize].insert(at);
            }
        }
        for (vertex, expected) in children.iter().enumerate() {
            let found: Vec<Number> = view.children(number(vertex as u32)).collect();
            assert!(found.is_sorted_by(|a, b| b < a), "the newest first, each once");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), *expected);
        }
        let counts = skeleton.counts();
        assert_eq!(counts.edges as usize, self.parents.iter().map(Vec::len).sum::<usize>());
        assert_eq!(counts.roots as usize, self.parents.iter().filter(|parents| parents.is_empty()).count());
        assert_eq!(counts.tips as usize, children.iter().filter(|children| children.is_empty()).count());
        assert_eq!(Some(counts.generation_max), generations.iter().copied().max());
        assert_eq!(counts.staged, 0);
        assert!(!view.contains(&Self::id(u32::MAX)));
        assert_eq!(view.by_git(&[1; 20]), None);
        assert_eq!(view.by_git(&[1; 7]), None);
    }
}

#[test]
fn s1_1_8_skeleton_gives_back_what_was_applied() {
    for seed in 0..20 {
        let graph = Graph::random(&mut Random(seed * 2 + 1), 300);
        graph.check(&graph.skeleton());
    }
}

#[test]
fn s2_2_5_any_order_of_arrival_gives_the_same_shape() {
    for seed in 0..40 {
        let mut random = Random(seed * 2 + 1);
        let graph = Graph::random(&mut random, 120);
        let mut order: Vec<usize> = (0..120).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at as u64 + 1) as usize);
        }
        let (mut writer, skeleton) = new(1);
        if seed % 2 == 0 {
            writer.reserve(5_000, 3_000);
        }
        let (mut admitted, mut handed) = (0, 0);
        for &vertex in &order {
            match graph.apply_one(&mut writer, vertex) {
                Outcome::Admitted { count } => admitted += count as usize,
                Outcome::Staged => assert_eq!(graph.apply_one(&mut writer, vertex), Outcome::Known),
                Outcome::Known => panic!("vertex {vertex} was never handed over"),
            }
            handed += 1;
            assert_eq!(skeleton.view().len() as usize, admitted);
            assert_eq!(writer.staged_count(), handed - admitted);
            assert_eq!(skeleton.counts().staged_bytes == 0, handed == admitted);
            assert_eq!(skeleton.counts().staged as usize, handed - admitted);
            assert_eq!(writer.missing_parents(1).is_empty(), handed == admitted);
        }
        assert_eq!(admitted, 120);
        for vertex in 0..120 {
            assert_eq!(graph.apply_one(&mut writer, vertex), Outcome::Known);
        }
        graph.check(&skeleton);
    }
}

#[test]
fn s2_2_5_a_missing_parent_is_named_with_who_waits() {
    let graph = Graph { parents: vec![vec![], vec![0], vec![1], vec![1, 0]] };
    let (mut writer, skeleton) = new(1);
    assert_eq!(graph.apply_one(&mut writer, 2), Outcome::Staged);
    assert_eq!(graph.apply_one(&mut writer, 0), Outcome::Admitted { count: 1 });
    assert_eq!(graph.apply_one(&mut writer, 3), Outcome::Staged);
    let token = Token { shard: ShardId(0), index: LogIndex(3) };
    assert_eq!(writer.missing_parents(9), vec![(Graph::id(1), token)]);
    assert_eq!(graph.apply_one(&mut writer, 1), Outcome::Admitted { count: 3 });
    assert_eq!(writer.missing_parents(9), vec![]);
    graph.check(&skeleton);
}

#[test]
fn s1_1_8_a_parent_named_twice_counts_once() {
    let (mut writer, skeleton) = new(1);
    let shape = |id: u32, parents| ShapeRef {
        id: Graph::id(id),
        parents,
        timestamp_ms: u64::MAX,
        namespace: "",
        kind: "",
        label_hashes: &[],
        git: Some(&[1; 21]),
    };
    let twice = [Graph::id(0), Graph::id(0)];
    assert_eq!(writer.apply(ShardId(0), LogIndex(1), shape(1, &twice)), Outcome::Staged);
    assert_eq!(writer.apply(ShardId(0), LogIndex(2), shape(0, &[])), Outcome::Admitted { count: 2 });
    let view = skeleton.view();
    assert_eq!(view.parents(Number(1)).collect::<Vec<_>>(), vec![Number(0)]);
    assert_eq!(view.timestamp_ms(Number(0)), TIMESTAMP_MS_MAX);
    assert_eq!(view.git(Number(0)), None);
}

#[test]
fn s2_2_5_applied_index_moves_by_shard_and_only_forward() {
    let (mut writer, skeleton) = new(2);
    writer.advance(ShardId(1), LogIndex(7));
    writer.advance(ShardId(1), LogIndex(7));
    assert_eq!(skeleton.applied(ShardId(0)), LogIndex(0));
    assert_eq!(skeleton.applied(ShardId(1)), LogIndex(7));
    assert_eq!(skeleton.applied(ShardId(2)), LogIndex(0));
    let back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.advance(ShardId(1), LogIndex(6))));
    assert!(back.is_err());
}

#[test]
fn s1_1_8_words_beyond_the_last_class_are_not_answered_wrongly() {
    let (mut writer, skeleton) = new(1);
    for vertex in 0..CLASSES_MAX as u32 + 2 {
        let kind = vertex.to_string();
        let id = Graph::id(vertex);
        let shape =
            ShapeRef { id, parents: &[], timestamp_ms: 0, namespace: "n", kind: &kind, label_hashes: &[], git: None };
        writer.apply(ShardId(0), LogIndex(1), shape);
        let view = skeleton.view();
        let fits = (vertex as usize) < CLASSES_MAX;
        assert_eq!(view.kind(Number(vertex)), fits.then_some(kind.as_str()));
        if vertex as usize + 2 >= CLASSES_MAX {
            assert_eq!(view.classes_of(Some("n"), None).is_some(), fits);
        }
    }
}

#[test]
fn s1_1_8_views_of_the_past_do_not_change() {
    let graph = Graph::random(&mut Random(9), 400);
    let (mut writer, skeleton) = new(1);
    graph.apply(&mut writer, 0..200);
    let shape = |view: &View<'_>| -> Vec<(Vec<Number>, bool)> {
        (0..view.len()).map(|n| (view.children(Number(n)).collect(), view.is_tip(Number(n)))).collect()
    };
    let before = shape(&skeleton.view());
    graph.apply(&mut writer, 200..400);
    let view = skeleton.view_at(200).expect("a view of the past");
    assert_eq!(shape(&view), before);
    assert_eq!(view.number(&Graph::id(200)), None);
    assert!(skeleton.view_at(401).is_none());
}

#[test]
fn s1_1_8_readers_see_whole_vertices_while_one_thread_writes() {
    const COUNT: usize = 30_000;
    let graph = Graph::random(&mut Random(21), COUNT as u32);
    let (mut writer, skeleton) = new(1);
    let done = AtomicBool::new(false);
    let read = |seed: u64| {
        let mut random = Random(seed);
        let mut rounds = 0;
        // One round more after the end, so that the whole is looked at too.
        loop {
            let last = done.load(Ordering::Acquire);
            let view = skeleton.view();
            for _ in 0..if view.is_empty() { 0 } else { 200 } {
                let vertex = random.below(u64::from(view.len())) as u32;
                let number = Number(vertex);
                assert_eq!(view.number(&Graph::id(vertex)), Some(number));
                let parents: Vec<Number> = view.parents(number).collect();
                assert_eq!(parents.iter().map(|parent| parent.0).collect::<Vec<_>>(), graph.parents[vertex as usize]);
                for parent in parents {
                    assert!(view.children(parent).any(|child| child == number));
                    assert!(view.children(parent).all(|child| child < Number(view.len()) && parent < child));
                    assert!(view.generation(parent) < view.generation(number));
                }
            }
            check_tips(&skeleton);
            rounds += 1;
            if last {
                return rounds;
            }
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(|| read(3)), scope.spawn(|| read(5))];
        let finish = Finish(&done);
        graph.apply(&mut writer, 0..COUNT);
        drop(finish);
        for reader in readers {
            assert!(0 < reader.join().expect("a reader without a complaint"));
        }
    });
}

/// Ends the readers, also when the writer fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The candidates hold exactly the tips of their view: all of them, by looking at every vertex.
fn check_tips(skeleton: &Skeleton) {
    let Some((view, candidates)) = skeleton.tip_candidates(None, Number(0)) else { return };
    assert!(candidates.is_sorted_by(|a, b| a < b));
    let listed: Vec<Number> = candidates.into_iter().filter(|&number| view.is_tip(number)).collect();
    let tips: Vec<Number> = (0..view.len()).map(Number).filter(|&number| view.is_tip(number)).collect();
    assert_eq!(listed, tips);
}
