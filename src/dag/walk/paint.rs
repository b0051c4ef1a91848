//! Two sets of vertices paint their ancestors, the deepest generation first: what both colours reach is common.
//!
//! Promises: best common ancestors as `git merge-base --all` means them (common, and not an ancestor of another common one),
//! ranges as `git rev-list B ^A`, differences as both at once. Since generations never lie, a vertex has all its colours when it
//! is reached, so there is no second pass over the result, and the walk stops where only what is settled remains.
//! Does not: take the hypothetical merge of several vertices, as git does for more than two: common is what all have in common
//! (`git merge-base --octopus`).

use super::super::skeleton::{Number, View};
use super::frontier::Frontier;
use super::{Budget, Gate, Scratch, Step};

/// An ancestor of the left set, or in it.
const LEFT: u8 = 1;
/// An ancestor of the right set, or in it.
const RIGHT: u8 = 2;
/// An ancestor of a common ancestor.
const STALE: u8 = 4;
/// An ancestor of both.
const COMMON: u8 = LEFT | RIGHT;
/// Neither colour matters any more.
const SETTLED: u8 = 0;

/// What a painting is for, which decides when it is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Best,
    Difference,
    Range,
}

/// What the colours of a vertex make of it, as a place in [`Painting::waiting`].
#[inline]
fn kind(flags: u8) -> usize {
    usize::from(if flags & STALE == 0 { flags & COMMON } else { SETTLED })
}

struct Painting {
    purpose: Purpose,
    frontier: Frontier,
    /// Vertices in the frontier: settled, of the left set only, of the right set only, of both.
    waiting: [usize; 4],
    /// Edges of the vertex at hand that were not painted yet, and their colours.
    edges: std::ops::Range<usize>,
    colours: u8,
}

/// What a painting came to.
enum Reached {
    Vertex(Number, u8),
    BudgetSpent,
    End,
}

impl Painting {
    fn new(view: &View<'_>, scratch: &mut Scratch, purpose: Purpose, left: &[Number], right: &[Number]) -> Self {
        scratch.begin(view);
        let frontier = Frontier::new(view, scratch, false, purpose != Purpose::Best);
        let mut painting = Self { purpose, frontier, waiting: [0; 4], edges: 0..0, colours: 0 };
        for (roots, colour) in [(left, LEFT), (right, RIGHT)] {
            for &root in roots {
                painting.paint(view, scratch, root, colour);
            }
        }
        painting
    }

    #[inline]
    fn paint(&mut self, view: &View<'_>, scratch: &mut Scratch, number: Number, colours: u8) {
        let had = scratch.add_flags(number, colours);
        if had == 0 {
            self.frontier.push(view, scratch, number);
        } else {
            self.waiting[kind(had)] -= 1;
        }
        self.waiting[kind(had | colours)] += 1;
    }

    /// Whether something may still be found.
    #[inline]
    fn is_going(&self) -> bool {
        let [_, left, right, common] = self.waiting;
        match self.purpose {
            // Where one colour has run out, nothing new can become common.
            Purpose::Best => 0 < common || 0 < left && 0 < right,
            Purpose::Difference => 0 < left + right + common,
            Purpose::Range => 0 < left,
        }
    }

    /// Goes on to the next vertex that is not settled. Its colours are final.
    fn next(&mut self, view: &View<'_>, scratch: &mut Scratch, budget: &mut Budget) -> Reached {
        loop {
            while let Some(edge) = self.edges.next() {
                self.paint(view, scratch, view.edge_parent(edge), self.colours);
                if !budget.spend() {
                    return Reached::BudgetSpent;
                }
            }
            if !self.is_going() {
                return Reached::End;
            }
            let Some(number) = self.frontier.pop(scratch, budget) else {
                assert!(!self.frontier.is_empty(), "who is waited for is in the frontier");
                return Reached::BudgetSpent;
            };
            let flags = scratch.flags(number);
            self.waiting[kind(flags)] -= 1;
            // Below a common ancestor everything is common, and none of it is best.
            self.colours = if flags & COMMON == COMMON { flags | STALE } else { flags };
            self.edges = view.parent_edges(number);
            if flags & STALE == 0 {
                return Reached::Vertex(number, flags);
            }
        }
    }
}

/// What `include` reaches and `exclude` does not, children before parents.
pub struct Range {
    painting: Painting,
    stopped: bool,
}

impl Range {
    /// Begins. Vertices of `include` are part of the answer, those of `exclude` are not.
    pub fn new(view: &View<'_>, scratch: &mut Scratch, include: &[Number], exclude: &[Number]) -> Self {
        Self { painting: Painting::new(view, scratch, Purpose::Range, include, exclude), stopped: false }
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
        while !self.stopped {
            match self.painting.next(view, scratch, &mut budget) {
                Reached::Vertex(number, LEFT) => self.stopped = !gate.offer(view, number, out),
                Reached::Vertex(..) => {}
                Reached::BudgetSpent => return Step::More,
                Reached::End => break,
            }
        }
        Step::Done
    }
}

/// The best common ancestors of two or more vertices: those that are common to all and no ancestor of another.
pub struct BestCommon {
    /// Vertices whose ancestors are still to be intersected with what was found.
    rest: Vec<Number>,
    painting: Painting,
    found: Vec<Number>,
}

impl BestCommon {
    /// Begins with at least one vertex; a single one is its own best common ancestor.
    pub fn new(view: &View<'_>, scratch: &mut Scratch, of: &[Number]) -> Self {
        let mut rest = of.to_vec();
        let left = rest.pop().as_slice().to_vec();
        let right = rest.pop().or(left.first().copied()).as_slice().to_vec();
        let painting = Painting::new(view, scratch, Purpose::Best, &left, &right);
        Self { rest, painting, found: Vec::new() }
    }

    /// Goes on for about `edges_budget` edges. At the end, appends the answer to `out`, the deepest first.
    pub fn step(&mut self, view: &View<'_>, scratch: &mut Scratch, edges_budget: usize, out: &mut Vec<Number>) -> Step {
        let mut budget = Budget::new(edges_budget);
        loop {
            match self.painting.next(view, scratch, &mut budget) {
                Reached::Vertex(number, COMMON) => self.found.push(number),
                Reached::Vertex(..) => {}
                Reached::BudgetSpent => return Step::More,
                Reached::End => {
                    // What the first vertices have in common is all that their best common ancestors reach.
                    let Some(next) = self.rest.pop().filter(|_| !self.found.is_empty()) else { break };
                    let left = std::mem::take(&mut self.found);
                    self.painting = Painting::new(view, scratch, Purpose::Best, &left, &[next]);
                }
            }
        }
        self.rest.clear();
        out.append(&mut self.found);
        Step::Done
    }
}

/// How two histories differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What only the first reaches, children before parents.
    pub only_a: Vec<Number>,
    /// What only the second reaches, children before parents.
    pub only_b: Vec<Number>,
    /// Their best common ancestors.
    pub bases: Vec<Number>,
    /// Whether a list was cut at the limit.
    pub truncated: bool,
}

/// What only one of two vertices reaches, and where they part.
pub struct Diff {
    painting: Painting,
    limit: usize,
    found: Difference,
}

impl Diff {
    /// Begins. Each list of the answer has at most `limit` vertices.
    pub fn new(view: &View<'_>, scratch: &mut Scratch, a: Number, b: Number, limit: usize) -> Self {
        let painting = Painting::new(view, scratch, Purpose::Difference, &[a], &[b]);
        Self { painting, limit, found: Difference::default() }
    }

    /// Goes on for about `edges_budget` edges.
    pub fn step(&mut self, view: &View<'_>, scratch: &mut Scratch, edges_budget: usize) -> Step {
        let mut budget = Budget::new(edges_budget);
        loop {
            let (number, flags) = match self.painting.next(view, scratch, &mut budget) {
                Reached::Vertex(number, flags) => (number, flags),
                Reached::BudgetSpent => return Step::More,
                Reached::End => return Step::Done,
            };
            let list = match flags {
                LEFT => &mut self.found.only_a,
                RIGHT => &mut self.found.only_b,
                _ => &mut self.found.bases,
            };
            if list.len() < self.limit {
                list.push(number);
            } else {
                self.found.truncated = true;
            }
        }
    }

    /// The answer, complete once a step said so.
    pub fn finish(self) -> Difference {
        self.found
    }
}
