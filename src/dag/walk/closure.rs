//! Ancestors and descendants, in three orders.
//!
//! Promises: each vertex once. Breadth-first: nearest first. Topological: children before parents towards the ancestors, parents
//! before children towards the descendants, ties by number. By time: of all vertices found so far the latest first towards the
//! ancestors (as `git rev-list` does), the earliest first towards the descendants.
//! Does not: order by time across vertices not found yet; clocks of authors are not trusted to agree with the edges.

use super::super::skeleton::{Number, View};
use super::frontier::Frontier;
use super::{Budget, Gate, Scratch, Step};
use std::collections::BinaryHeap;

/// Where a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the parents.
    Ancestors,
    /// To the children.
    Descendants,
}

/// In which order a walk answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The nearest first.
    Bfs,
    /// By generation, away from the roots of the walk.
    Topo,
    /// By timestamp, away from the roots of the walk.
    Time,
}

/// The walk met this vertex.
const MET: u8 = 1;
/// The vertex is a root of the walk.
const ROOT: u8 = 2;
/// The vertex is near enough (only where an order other than breadth-first is bounded in depth).
const NEAR: u8 = 4;

/// Ancestors or descendants of a set of roots.
pub struct Closure {
    direction: Direction,
    roots_pass: bool,
    generation_prune: Option<u32>,
    /// The depth-bounded search for vertices that are near enough, before the walk in another order.
    search: Option<Breadth>,
    only_near: bool,
    pending: Pending,
    roots: Vec<Number>,
    edges: Edges,
    stopped: bool,
}

/// Met and not yet offered.
enum Pending {
    Breadth(Breadth),
    Generations(Frontier),
    Times(BinaryHeap<(u64, u32)>),
}

/// A place in the scratch's queue: all before was offered.
struct Breadth {
    at: usize,
    depth_left: Option<u32>,
    /// Where the vertices of this depth end.
    depth_end: usize,
}

/// The edges of the vertex at hand that were not followed yet. Kept between steps, as a vertex may have a million children.
enum Edges {
    Parents(std::ops::Range<usize>),
    Children { of: Number, next: Option<Number> },
}

impl Edges {
    const NONE: Self = Self::Parents(0..0);

    #[inline]
    fn of(view: &View<'_>, direction: Direction, number: Number) -> Self {
        match direction {
            Direction::Ancestors => Self::Parents(view.parent_edges(number)),
            Direction::Descendants => Self::Children { of: number, next: view.first_child(number) },
        }
    }

    #[inline]
    fn next(&mut self, view: &View<'_>) -> Option<Number> {
        match self {
            Self::Parents(edges) => Some(view.edge_parent(edges.next()?)),
            Self::Children { of, next } => {
                let child = (*next)?;
                *next = view.next_child(*of, child);
                Some(child)
            }
        }
    }
}

impl Breadth {
    fn new(roots: usize, depth_max: Option<u32>) -> Self {
        Self { at: 0, depth_left: depth_max, depth_end: roots }
    }

    /// The next vertex, and whether its neighbours are near enough.
    #[inline]
    fn pop(&mut self, scratch: &Scratch) -> Option<(Number, bool)> {
        if self.at == self.depth_end {
            self.depth_left = self.depth_left.map(|left| left.saturating_sub(1));
            self.depth_end = scratch.queue.len();
        }
        let number = *scratch.queue.get(self.at)?;
        self.at += 1;
        Some((number, self.depth_left != Some(0)))
    }
}

impl Closure {
    /// Begins a walk from `roots`. `roots_pass` says whether they are part of the answer; at most `depth_max` edges away.
    #[expect(clippy::too_many_arguments, reason = "the five of them that are the question are named in dag::query")]
    pub fn new(
        view: &View<'_>,
        scratch: &mut Scratch,
        gate: &Gate,
        roots: &[Number],
        direction: Direction,
        order: Order,
        depth_max: Option<u32>,
        roots_pass: bool,
    ) -> Self {
        scratch.begin(view);
        let mut distinct = Vec::with_capacity(roots.len());
        for &root in roots {
            if scratch.add_flags(root, ROOT) & ROOT == 0 {
                distinct.push(root);
            }
        }
        let (ascending, sieve) = (direction == Direction::Descendants, gate.sieve());
        let pending = match order {
            Order::Bfs => Pending::Breadth(Breadth::new(distinct.len(), depth_max)),
            Order::Topo => Pending::Generations(Frontier::new(view, scratch, ascending, true)),
            Order::Time => Pending::Times(BinaryHeap::new()),
        };
        let only_near = depth_max.is_some() && order != Order::Bfs;
        let mut walk = Self {
            direction,
            roots_pass,
            // A vertex beyond has only vertices further beyond behind it.
            generation_prune: if ascending { sieve.generation_max } else { sieve.generation_min },
            search: only_near.then(|| Breadth::new(distinct.len(), depth_max)),
            only_near,
            pending,
            roots: Vec::new(),
            edges: Edges::NONE,
            stopped: false,
        };
        if only_near {
            for &root in &distinct {
                scratch.add_flags(root, NEAR);
                scratch.queue.push(root);
            }
            walk.roots = distinct;
        } else {
            walk.begin(view, scratch, &distinct);
        }
        walk
    }

    /// Goes on for about `edges_budget` edges, and appends what it finds to `out`.
    pub fn step(
        &mut self,
        view: &View<'_>,
        scratch: &mut Scratch,
        gate: &mut Gate,
        edges_budget: usize,
        out: &mut Vec<Number>,
    ) -> Step {
        let mut budget = Budget::new(edges_budget);
        if self.search.is_some() && self.search_near(view, scratch, &mut budget) == Step::More {
            return Step::More;
        }
        if self.stopped {
            return Step::Done;
        }
        loop {
            while let Some(found) = self.edges.next(view) {
                self.meet(view, scratch, found);
                if !budget.spend() {
                    return Step::More;
                }
            }
            self.edges = Edges::NONE;
            let (number, further) = match &mut self.pending {
                Pending::Breadth(breadth) => match breadth.pop(scratch) {
                    Some(next) => next,
                    None => return Step::Done,
                },
                Pending::Generations(frontier) => match frontier.pop(scratch, &mut budget) {
                    Some(number) => (number, true),
                    None if frontier.is_empty() => return Step::Done,
                    None => return Step::More,
                },
                Pending::Times(heap) => match heap.pop() {
                    Some((_, raw)) => (self.direction.number_of(raw), true),
                    None => return Step::Done,
                },
            };
            if further {
                self.edges = Edges::of(view, self.direction, number);
            }
            let passes = self.roots_pass || scratch.flags(number) & ROOT == 0;
            if passes && !gate.offer(view, number, out) {
                self.stopped = true;
                return Step::Done;
            }
            if !budget.spend() {
                return Step::More;
            }
        }
    }

    fn begin(&mut self, view: &View<'_>, scratch: &mut Scratch, roots: &[Number]) {
        for &root in roots {
            self.meet(view, scratch, root);
        }
        if let Pending::Breadth(breadth) = &mut self.pending {
            breadth.depth_end = scratch.queue.len();
        }
    }

    #[inline]
    fn meet(&mut self, view: &View<'_>, scratch: &mut Scratch, number: Number) {
        if let Some(bound) = self.generation_prune {
            let generation = view.generation(number);
            if if self.direction == Direction::Ancestors { generation < bound } else { bound < generation } {
                return;
            }
        }
        if self.only_near && scratch.flags(number) & NEAR == 0 || scratch.add_flags(number, MET) & MET != 0 {
            return;
        }
        match &mut self.pending {
            Pending::Breadth(_) => scratch.queue.push(number),
            Pending::Generations(frontier) => frontier.push(view, scratch, number),
            Pending::Times(heap) => heap.push(self.direction.time_key(view, number)),
        }
    }

    fn search_near(&mut self, view: &View<'_>, scratch: &mut Scratch, budget: &mut Budget) -> Step {
        while let Some(search) = &mut self.search {
            while let Some(found) = self.edges.next(view) {
                if scratch.add_flags(found, NEAR) & NEAR == 0 {
                    scratch.queue.push(found);
                }
                if !budget.spend() {
                    return Step::More;
                }
            }
            self.edges = Edges::NONE;
            match search.pop(scratch) {
                Some((number, true)) => self.edges = Edges::of(view, self.direction, number),
                Some((_, false)) => {}
                None => {
                    self.search = None;
                    let roots = std::mem::take(&mut self.roots);
                    self.begin(view, scratch, &roots);
                }
            }
            if !budget.spend() {
                return Step::More;
            }
        }
        Step::Done
    }
}

impl Direction {
    /// The key of a max-heap that gives the vertex next in time, ties by number.
    fn time_key(self, view: &View<'_>, number: Number) -> (u64, u32) {
        match self {
            Self::Ancestors => (view.timestamp_ms(number), number.0),
            Self::Descendants => (!view.timestamp_ms(number), !number.0),
        }
    }

    fn number_of(self, raw: u32) -> Number {
        Number(if self == Self::Ancestors { raw } else { !raw })
    }
}

/// All ancestors of the roots with the roots, parents before children, ties by number.
pub struct Topo {
    /// Finds them the other way round.
    closure: Closure,
    found: Vec<Number>,
    closed: bool,
}

impl Topo {
    /// Begins with the ancestors of `roots`.
    pub fn new(view: &View<'_>, scratch: &mut Scratch, roots: &[Number]) -> Self {
        let (direction, order) = (Direction::Ancestors, Order::Topo);
        let closure = Closure::new(view, scratch, &Gate::default(), roots, direction, order, None, true);
        Self { closure, found: Vec::new(), closed: false }
    }

    /// Goes on for about `edges_budget` edges or vertices, and appends what it finds to `out`.
    pub fn step(
        &mut self,
        view: &View<'_>,
        scratch: &mut Scratch,
        gate: &mut Gate,
        edges_budget: usize,
        out: &mut Vec<Number>,
    ) -> Step {
        if !self.closed {
            let all = &mut Gate::default();
            self.closed = self.closure.step(view, scratch, all, edges_budget, &mut self.found) == Step::Done;
            return Step::More;
        }
        for _ in 0..edges_budget.max(1) {
            let Some(number) = self.found.pop() else { return Step::Done };
            if !gate.offer(view, number, out) {
                self.found.clear();
                return Step::Done;
            }
        }
        Step::More
    }
}
