//! Whether one vertex reaches another, and by which shortest chain.
//!
//! Promises: both are cut off by generation and by number: an ancestor has less of each. `IsAncestor` searches from both ends by
//! turns, so that it costs about twice the smaller side. A chain is one of the shortest.
//! Does not: choose among chains of equal length otherwise than by the order of parents.

use super::super::skeleton::{Number, View};
use super::{Budget, Scratch, Step};
use std::ops::Range;

/// Reached from the descendant.
const ABOVE: u8 = 1;
/// Reached from the ancestor.
const BELOW: u8 = 2;

/// Whether `a` is an ancestor of `b`. A vertex counts as its own ancestor, as in git.
pub struct IsAncestor {
    a: Number,
    b: Number,
    generations: Range<u32>,
    above: Vec<Number>,
    below: Vec<Number>,
    above_edges: Range<usize>,
    below_child: Option<(Number, Number)>,
    answer: Option<bool>,
}

impl IsAncestor {
    /// Begins.
    pub fn new(view: &View<'_>, scratch: &mut Scratch, a: Number, b: Number) -> Self {
        scratch.begin(view);
        let generations = view.generation(a)..view.generation(b);
        let answer = if a == b { Some(true) } else { (b < a || generations.is_empty()).then_some(false) };
        scratch.add_flags(a, BELOW);
        scratch.add_flags(b, ABOVE);
        let (above, below) = (vec![b], vec![a]);
        Self { a, b, generations, above, below, above_edges: 0..0, below_child: None, answer }
    }

    /// Goes on for about `edges_budget` edges.
    pub fn step(&mut self, view: &View<'_>, scratch: &mut Scratch, edges_budget: usize) -> Step {
        let mut budget = Budget::new(edges_budget);
        while self.answer.is_none() {
            self.answer = match self.follow_parent(view, scratch) {
                None => self.follow_child(view, scratch),
                answer => answer,
            };
            if !budget.spend() {
                break;
            }
        }
        if self.answer.is_none() { Step::More } else { Step::Done }
    }

    /// The answer, once a step said that the search is over.
    pub fn finish(&self) -> Option<bool> {
        self.answer
    }

    fn follow_parent(&mut self, view: &View<'_>, scratch: &mut Scratch) -> Option<bool> {
        let Some(edge) = self.above_edges.next() else {
            match self.above.pop() {
                Some(number) => self.above_edges = view.parent_edges(number),
                None => return Some(false),
            }
            return None;
        };
        let parent = view.edge_parent(edge);
        if parent < self.a || view.generation(parent) < self.generations.start {
            return None;
        }
        let had = scratch.add_flags(parent, ABOVE);
        if had & BELOW != 0 {
            return Some(true);
        }
        // Beside `a` in its generation is not above it.
        if had == 0 && view.generation(parent) != self.generations.start {
            self.above.push(parent);
        }
        None
    }

    fn follow_child(&mut self, view: &View<'_>, scratch: &mut Scratch) -> Option<bool> {
        let Some((parent, child)) = self.below_child else {
            match self.below.pop() {
                Some(number) => self.below_child = view.first_child(number).map(|child| (number, child)),
                None => return Some(false),
            }
            return None;
        };
        self.below_child = view.next_child(parent, child).map(|next| (parent, next));
        if self.b < child || self.generations.end < view.generation(child) {
            return None;
        }
        let had = scratch.add_flags(child, BELOW);
        if had & ABOVE != 0 {
            return Some(true);
        }
        if had == 0 && view.generation(child) != self.generations.end {
            self.below.push(child);
        }
        None
    }
}

/// A shortest chain between two vertices, where one is an ancestor of the other.
pub struct Path {
    from: Number,
    to: Number,
    generation_min: u32,
    at: usize,
    edges: Range<usize>,
    met: bool,
}

impl Path {
    /// Begins.
    pub fn new(view: &View<'_>, scratch: &mut Scratch, from: Number, to: Number) -> Self {
        scratch.begin(view);
        scratch.begin_links(view);
        let descendant = from.max(to);
        scratch.add_flags(descendant, ABOVE);
        scratch.queue.push(descendant);
        Self { from, to, generation_min: view.generation(from.min(to)), at: 0, edges: 0..0, met: from == to }
    }

    /// Goes on for about `edges_budget` edges.
    pub fn step(&mut self, view: &View<'_>, scratch: &mut Scratch, edges_budget: usize) -> Step {
        let ancestor = self.from.min(self.to);
        let mut budget = Budget::new(edges_budget);
        while !self.met {
            let Some(edge) = self.edges.next() else {
                let Some(&number) = scratch.queue.get(self.at) else { return Step::Done };
                self.at += 1;
                self.edges = view.parent_edges(number);
                continue;
            };
            let parent = view.edge_parent(edge);
            if ancestor <= parent
                && self.generation_min <= view.generation(parent)
                && scratch.add_flags(parent, ABOVE) == 0
            {
                scratch.set_link(parent, scratch.queue[self.at - 1]);
                scratch.queue.push(parent);
                self.met = parent == ancestor;
            }
            if !budget.spend() {
                return if self.met { Step::Done } else { Step::More };
            }
        }
        Step::Done
    }

    /// The chain from the first vertex to the second, both included, once a step said that the search is over; `None` when
    /// neither is an ancestor of the other.
    pub fn finish(&self, scratch: &Scratch) -> Option<Vec<Number>> {
        if !self.met {
            return None;
        }
        let (descendant, ancestor) = (self.from.max(self.to), self.from.min(self.to));
        let mut chain = vec![ancestor];
        let mut at = ancestor;
        while at != descendant {
            at = scratch.link(at);
            chain.push(at);
        }
        if self.from == descendant {
            chain.reverse();
        }
        Some(chain)
    }
}
