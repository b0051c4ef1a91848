//! Every walk against an oracle that computes with whole sets, on seeded random graphs.

use super::super::skeleton::tests::{Graph, Random};
use super::super::skeleton::{Number, Skeleton, View};
use super::*;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

type Set = BTreeSet<u32>;

/// Sets of ancestors and descendants, each vertex included.
struct Oracle {
    parents: Vec<Vec<u32>>,
    children: Vec<Vec<u32>>,
    ancestors: Vec<Set>,
    descendants: Vec<Set>,
}

impl Oracle {
    fn new(graph: &Graph) -> Self {
        let count = graph.parents.len();
        let mut children = vec![Vec::new(); count];
        let mut ancestors: Vec<Set> = Vec::new();
        for (vertex, parents) in graph.parents.iter().enumerate() {
            let mut set = Set::from([vertex as u32]);
            for &parent in parents {
                set.extend(&ancestors[parent as usize]);
                children[parent as usize].push(vertex as u32);
            }
            ancestors.push(set);
        }
        let of = |a: u32| (0..count as u32).filter(|&b| ancestors[b as usize].contains(&a)).collect();
        let descendants = (0..count as u32).map(of).collect();
        Self { parents: graph.parents.clone(), children, ancestors, descendants }
    }

    fn closure(&self, of: &[u32], direction: Direction) -> Set {
        let sets = if direction == Direction::Ancestors { &self.ancestors } else { &self.descendants };
        of.iter().flat_map(|&vertex| sets[vertex as usize].iter().copied()).collect()
    }

    /// Distance from the nearest root, by a search over plain lists.
    fn distances(&self, roots: &[u32], direction: Direction) -> Vec<Option<u32>> {
        let edges = if direction == Direction::Ancestors { &self.parents } else { &self.children };
        let mut distances = vec![None; edges.len()];
        let mut queue = VecDeque::new();
        for &root in roots {
            distances[root as usize] = Some(0);
            queue.push_back(root);
        }
        while let Some(at) = queue.pop_front() {
            for &next in &edges[at as usize] {
                if distances[next as usize].is_none() {
                    distances[next as usize] = distances[at as usize].map(|distance: u32| distance + 1);
                    queue.push_back(next);
                }
            }
        }
        distances
    }

    fn best_common(&self, of: &[u32]) -> Set {
        let mut sets = of.iter().map(|&vertex| self.ancestors[vertex as usize].clone());
        let first = sets.next().expect("at least one");
        let common = sets.fold(first, |common, set| common.intersection(&set).copied().collect());
        let beaten = |&a: &u32| common.iter().any(|&b| a != b && self.ancestors[b as usize].contains(&a));
        common.iter().copied().filter(|a| !beaten(a)).collect()
    }
}

fn numbers(raw: &[u32]) -> Vec<Number> {
    raw.iter().copied().map(Number).collect()
}

fn set(numbers: &[Number]) -> Set {
    let set: Set = numbers.iter().map(|number| number.0).collect();
    assert_eq!(set.len(), numbers.len(), "no vertex twice");
    set
}

/// Runs a walk with several budgets, and checks that they agree.
fn run(scratch: &mut Scratch, mut walk: impl FnMut(&mut Scratch, usize) -> Vec<Number>) -> Vec<Number> {
    let whole = walk(scratch, usize::MAX);
    for budget in [1, 2, 7] {
        assert_eq!(walk(scratch, budget), whole, "budget {budget}");
    }
    whole
}

fn closure(
    view: &View<'_>,
    scratch: &mut Scratch,
    gate: &Gate,
    roots: &[Number],
    how: (Direction, Order, Option<u32>, bool),
) -> Vec<Number> {
    let (direction, order, depth_max, roots_pass) = how;
    run(scratch, |scratch, budget| {
        let mut gate = gate.clone();
        let mut out = Vec::new();
        let mut walk = Closure::new(view, scratch, &gate, roots, direction, order, depth_max, roots_pass);
        while walk.step(view, scratch, &mut gate, budget, &mut out) == Step::More {}
        out
    })
}

/// Graphs of many forms, each with its skeleton and oracle.
fn for_graphs(count: u64, mut check: impl FnMut(&mut Random, &Arc<Skeleton>, &Graph, &Oracle, &mut Scratch)) {
    let mut scratch = Scratch::new();
    for seed in 0..count {
        let mut random = Random(seed * 2 + 1);
        let graph = Graph::random(&mut random, 70);
        let skeleton = graph.skeleton();
        check(&mut random, &skeleton, &graph, &Oracle::new(&graph), &mut scratch);
    }
}

fn pick(random: &mut Random, graph: &Graph, count: u64) -> Vec<u32> {
    (0..count).map(|_| random.below(graph.parents.len() as u64) as u32).collect()
}

#[test]
fn s1_1_8_closures_are_those_of_the_sets() {
    for_graphs(60, |random, skeleton, graph, oracle, scratch| {
        let view = skeleton.view();
        for direction in [Direction::Ancestors, Direction::Descendants] {
            for order in [Order::Bfs, Order::Topo, Order::Time] {
                let picked = 1 + random.below(3);
                let roots = pick(random, graph, picked);
                let depth_max = [None, None, Some(0), Some(1), Some(3)][random.below(5) as usize];
                let roots_pass = random.below(3) != 0;
                let how = (direction, order, depth_max, roots_pass);
                let found = closure(&view, scratch, &Gate::default(), &numbers(&roots), how);
                let distances = oracle.distances(&roots, direction);
                let mut expected = oracle.closure(&roots, direction);
                expected.retain(|&vertex| {
                    distances[vertex as usize].is_some_and(|distance| depth_max.is_none_or(|max| distance <= max))
                        && (roots_pass || !roots.contains(&vertex))
                });
                assert_eq!(set(&found), expected, "{direction:?} {order:?} {depth_max:?} of {roots:?}");
                check_order(&view, direction, order, &found, &distances, roots_pass);
            }
        }
    });
}

fn check_order(
    view: &View<'_>,
    direction: Direction,
    order: Order,
    found: &[Number],
    distances: &[Option<u32>],
    roots_pass: bool,
) {
    match order {
        Order::Bfs => assert!(found.is_sorted_by_key(|number| distances[number.index()])),
        Order::Topo => {
            let key = |number: &Number| (view.generation(*number), number.0);
            match direction {
                Direction::Ancestors => assert!(found.is_sorted_by(|a, b| key(b) < key(a))),
                Direction::Descendants => assert!(found.is_sorted_by(|a, b| key(a) < key(b))),
            }
        }
        Order::Time => {
            // Whoever comes out of time order was found late: a vertex that led to it stands between, or is a root not shown.
            for (at, pair) in found.windows(2).enumerate() {
                let late = match direction {
                    Direction::Ancestors => view.timestamp_ms(pair[0]) < view.timestamp_ms(pair[1]),
                    Direction::Descendants => view.timestamp_ms(pair[1]) < view.timestamp_ms(pair[0]),
                };
                let led = match direction {
                    Direction::Ancestors => view.parents(pair[0]).any(|parent| parent == pair[1]),
                    Direction::Descendants => view.children(pair[0]).any(|child| child == pair[1]),
                };
                assert!(!late || led || !roots_pass, "place {at}");
            }
        }
    }
}

#[test]
fn s1_1_8_filter_chooses_what_is_answered_and_not_where_the_walk_goes() {
    for_graphs(60, |random, skeleton, graph, oracle, scratch| {
        let view = skeleton.view();
        let roots = pick(random, graph, 2);
        let sieve = Sieve {
            classes: view.classes_of(Some("a"), (random.below(2) == 0).then_some("k1")),
            label_hashes: (random.below(2) == 0).then_some(2).into_iter().collect(),
            since_ms: (random.below(2) == 0).then_some(300),
            until_ms: (random.below(2) == 0).then_some(900),
            generation_min: (random.below(2) == 0).then_some(2),
            generation_max: (random.below(2) == 0).then_some(6),
        };
        for direction in [Direction::Ancestors, Direction::Descendants] {
            for order in [Order::Bfs, Order::Topo, Order::Time] {
                let how = (direction, order, None, true);
                let expected: Set = oracle
                    .closure(&roots, direction)
                    .into_iter()
                    .filter(|&vertex| sieve.passes(&view, Number(vertex)))
                    .collect();
                let gate = Gate::new(sieve.clone(), 0, None);
                let found = closure(&view, scratch, &gate, &numbers(&roots), how);
                assert_eq!(set(&found), expected, "{direction:?} {order:?}");
                // Pages of three, joined, are the whole.
                let mut joined = Vec::new();
                loop {
                    let mut gate = Gate::new(sieve.clone(), joined.len() as u32, Some(3));
                    let mut walk = Closure::new(&view, scratch, &gate, &numbers(&roots), direction, order, None, true);
                    while walk.step(&view, scratch, &mut gate, 5, &mut joined) == Step::More {}
                    if !gate.more() {
                        break;
                    }
                }
                assert_eq!(joined, found);
            }
        }
    });
}

#[test]
fn s1_1_8_sieve_judges_each_property() {
    let mut random = Random(5);
    let graph = Graph::random(&mut random, 70);
    let skeleton = graph.skeleton();
    let view = skeleton.view();
    for vertex in 0..graph.parents.len() {
        let number = Number(vertex as u32);
        let generation = view.generation(number);
        let time = graph.timestamp_ms(vertex);
        let check = |expected: bool, sieve: Sieve| assert_eq!(sieve.passes(&view, number), expected, "{sieve:?}");
        check(true, Sieve::default());
        check(true, Sieve { since_ms: Some(time), until_ms: Some(time), ..Sieve::default() });
        check(false, Sieve { since_ms: Some(time + 1), ..Sieve::default() });
        check(
            false,
            Sieve {
                until_ms: Some(time.wrapping_sub(1)).filter(|_| 0 < time),
                since_ms: Some(time + 1),
                ..Sieve::default()
            },
        );
        check(true, Sieve { generation_min: Some(generation), generation_max: Some(generation), ..Sieve::default() });
        check(false, Sieve { generation_min: Some(generation + 1), ..Sieve::default() });
        check(false, Sieve { generation_max: Some(generation - 1), ..Sieve::default() });
        check(graph.labels(vertex).contains(&2), Sieve { label_hashes: vec![2], ..Sieve::default() });
        let classes = view.classes_of(Some("a"), Some("k1"));
        check(graph.namespace(vertex) == "a" && graph.kind(vertex) == "k1", Sieve { classes, ..Sieve::default() });
    }
}

#[test]
fn s1_1_8_topo_has_parents_before_children() {
    for_graphs(60, |random, skeleton, graph, oracle, scratch| {
        let view = skeleton.view();
        let roots = pick(random, graph, 2);
        let found = run(scratch, |scratch, budget| {
            let (mut gate, mut out) = (Gate::default(), Vec::new());
            let mut walk = Topo::new(&view, scratch, &numbers(&roots));
            while walk.step(&view, scratch, &mut gate, budget, &mut out) == Step::More {}
            out
        });
        assert_eq!(set(&found), oracle.closure(&roots, Direction::Ancestors));
        let mut seen = Set::new();
        for number in found {
            assert!(oracle.parents[number.index()].iter().all(|parent| seen.contains(parent)), "{number:?}");
            seen.insert(number.0);
        }
    });
}

#[test]
fn s1_1_8_range_is_the_difference_of_the_sets() {
    for_graphs(120, |random, skeleton, graph, oracle, scratch| {
        let view = skeleton.view();
        let (included, excluded) = (1 + random.below(3), random.below(4));
        let (include, exclude) = (pick(random, graph, included), pick(random, graph, excluded));
        let found = run(scratch, |scratch, budget| {
            let (mut gate, mut out) = (Gate::default(), Vec::new());
            let mut walk = Range::new(&view, scratch, &numbers(&include), &numbers(&exclude));
            while walk.step(&view, scratch, &mut gate, budget, &mut out) == Step::More {}
            out
        });
        let excluded = oracle.closure(&exclude, Direction::Ancestors);
        let expected = oracle.closure(&include, Direction::Ancestors).difference(&excluded).copied().collect::<Set>();
        assert_eq!(set(&found), expected, "{include:?} without {exclude:?}");
        assert!(found.is_sorted_by_key(|&number| std::cmp::Reverse((view.generation(number), number))));
    });
}

fn best_common(view: &View<'_>, scratch: &mut Scratch, of: &[u32]) -> Set {
    let found = run(scratch, |scratch, budget| {
        let mut out = Vec::new();
        let mut walk = BestCommon::new(view, scratch, &numbers(of));
        while walk.step(view, scratch, budget, &mut out) == Step::More {}
        out
    });
    set(&found)
}

#[test]
fn s1_1_8_best_common_ancestors_are_common_and_unbeaten() {
    let mut several = 0;
    for_graphs(400, |random, skeleton, graph, oracle, scratch| {
        for count in [1, 2, 2, 2, 3, 5] {
            let of = pick(random, graph, count);
            let expected = oracle.best_common(&of);
            several += usize::from(1 < expected.len());
            assert_eq!(best_common(&skeleton.view(), scratch, &of), expected, "of {of:?}");
        }
    });
    assert!(50 < several, "the graphs have criss-cross merges: {several}");
}

#[test]
fn s1_1_8_criss_cross_has_two_bases() {
    // 1 and 2 fork from 0; 3 and 4 each merge both; 5 and 6 go on.
    let graph = Graph { parents: vec![vec![], vec![0], vec![0], vec![1, 2], vec![2, 1], vec![3], vec![4]] };
    let skeleton = graph.skeleton();
    assert_eq!(best_common(&skeleton.view(), &mut Scratch::new(), &[5, 6]), Set::from([1, 2]));
    assert_eq!(best_common(&skeleton.view(), &mut Scratch::new(), &[5, 6, 1]), Set::from([1]));
    assert_eq!(best_common(&skeleton.view(), &mut Scratch::new(), &[5, 5]), Set::from([5]));
}

#[test]
fn s1_1_8_is_ancestor_and_path_agree_with_the_sets() {
    for_graphs(80, |random, skeleton, graph, oracle, scratch| {
        let view = skeleton.view();
        for _ in 0..20 {
            let pair = pick(random, graph, 2);
            let (a, b) = (Number(pair[0]), Number(pair[1]));
            let expected = oracle.ancestors[b.index()].contains(&a.0);
            for budget in [1, 3, usize::MAX] {
                let mut walk = IsAncestor::new(&view, scratch, a, b);
                while walk.step(&view, scratch, budget) == Step::More {}
                assert_eq!(walk.finish(), Some(expected), "{a:?} of {b:?}");
                let mut walk = Path::new(&view, scratch, a, b);
                while walk.step(&view, scratch, budget) == Step::More {}
                check_path(oracle, a, b, walk.finish(scratch));
            }
        }
    });
}

fn check_path(oracle: &Oracle, from: Number, to: Number, found: Option<Vec<Number>>) {
    let up = oracle.distances(&[from.0], Direction::Ancestors)[to.index()];
    let down = oracle.distances(&[from.0], Direction::Descendants)[to.index()];
    let Some(distance) = up.or(down) else { return assert_eq!(found, None) };
    let found = found.expect("a chain");
    assert_eq!((found[0], found[found.len() - 1]), (from, to));
    assert_eq!(found.len() as u32, distance + 1, "a shortest chain");
    for pair in found.windows(2) {
        let (child, parent) = if up.is_some() { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
        assert!(oracle.parents[child.index()].contains(&parent.0));
    }
}

#[test]
fn s1_1_8_diff_has_both_sides_and_the_bases() {
    for_graphs(120, |random, skeleton, graph, oracle, scratch| {
        let view = skeleton.view();
        let pair = pick(random, graph, 2);
        let [a, b] = [pair[0], pair[1]];
        let mut answers = Vec::new();
        for budget in [1, 4, usize::MAX] {
            let mut walk = Diff::new(&view, scratch, Number(a), Number(b), usize::MAX);
            while walk.step(&view, scratch, budget) == Step::More {}
            answers.push(walk.finish());
        }
        assert!(answers.windows(2).all(|two| two[0] == two[1]));
        let found = &answers[0];
        let (of_a, of_b) = (&oracle.ancestors[a as usize], &oracle.ancestors[b as usize]);
        assert_eq!(set(&found.only_a), of_a.difference(of_b).copied().collect::<Set>());
        assert_eq!(set(&found.only_b), of_b.difference(of_a).copied().collect::<Set>());
        assert_eq!(set(&found.bases), oracle.best_common(&[a, b]));
        assert!(!found.truncated);
        let mut walk = Diff::new(&view, scratch, Number(a), Number(b), 1);
        while walk.step(&view, scratch, 9) == Step::More {}
        let cut = walk.finish();
        assert!(cut.only_a.len() <= 1 && cut.only_b.len() <= 1 && cut.bases.len() <= 1);
        let longest = found.only_a.len().max(found.only_b.len()).max(found.bases.len());
        assert_eq!(cut.truncated, 1 < longest);
    });
}

#[test]
fn s1_1_8_tips_are_the_vertices_without_children() {
    for_graphs(60, |_, skeleton, graph, oracle, _| {
        for namespace in [Some("a"), Some("b"), None] {
            let tips = |from: u32, limit: Option<usize>| {
                let mut gate = Gate::new(Sieve::default(), 0, limit);
                let mut out = Vec::new();
                let mut walk = Tips::new(skeleton, namespace, Number(from)).expect("a namespace with vertices");
                let view = skeleton.view_at(walk.view_len()).expect("a view");
                while walk.step(&view, &mut gate, 2, &mut out) == Step::More {}
                assert_eq!(walk.last(), out.last().copied());
                (out, gate.more())
            };
            let is_in = |vertex: u32| namespace.is_none_or(|name| name == graph.namespace(vertex as usize));
            let expected: Vec<Number> = (0..graph.parents.len() as u32)
                .filter(|&vertex| oracle.children[vertex as usize].is_empty() && is_in(vertex))
                .map(Number)
                .collect();
            assert_eq!(tips(0, None).0, expected);
            let (mut joined, mut from) = (Vec::<Number>::new(), 0);
            loop {
                let (page, more) = tips(from, Some(2));
                joined.extend(&page);
                let Some(last) = page.last().filter(|_| more) else { break };
                from = last.0 + 1;
            }
            assert_eq!(joined, expected);
        }
        assert!(Tips::new(skeleton, Some("nobody"), Number(0)).is_none());
    });
}

#[test]
fn s1_1_8_a_walk_keeps_its_snapshot_while_vertices_arrive() {
    let mut random = Random(77);
    let graph = Graph::random(&mut random, 200);
    let half = Graph { parents: graph.parents[..100].to_vec() };
    let (oracle, mut scratch) = (Oracle::new(&half), Scratch::new());
    let (mut writer, skeleton) = super::super::skeleton::new(1);
    graph.apply(&mut writer, 0..100);
    let view = skeleton.view();
    let (mut gate, mut out) = (Gate::default(), Vec::new());
    let roots = [Number(0), Number(1)];
    let (direction, order) = (Direction::Descendants, Order::Bfs);
    let mut walk = Closure::new(&view, &mut scratch, &gate, &roots, direction, order, None, true);
    walk.step(&view, &mut scratch, &mut gate, 3, &mut out);
    graph.apply(&mut writer, 100..200);
    while walk.step(&view, &mut scratch, &mut gate, 3, &mut out) == Step::More {}
    assert_eq!(set(&out), oracle.closure(&[0, 1], Direction::Descendants));
    for vertex in 0..100 {
        let found: Set = view.children(Number(vertex)).map(|child| child.0).collect();
        assert_eq!(found, oracle.children[vertex as usize].iter().copied().collect());
    }
}
