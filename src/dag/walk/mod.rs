//! Walks over the skeleton, as state machines that go on where they stopped.
//!
//! Promises: a step follows about as many edges as its budget says, and the answer does not depend on the budgets. A walk costs
//! what it visits, not what the skeleton holds. Where generations allow, a walk stops early, and never wrongly.
//! Does not: know ids, cursors or doors (see `dag::query`).
//!
//! Every step of one walk must be given the same snapshot and the same [`Scratch`].

mod closure;
mod frontier;
mod gate;
mod paint;
mod reach;
mod scratch;
#[cfg(test)]
mod tests;
mod tips;

pub use closure::{Closure, Direction, Order, Topo};
pub use gate::{Gate, Sieve};
pub use paint::{BestCommon, Diff, Difference, Range};
pub use reach::{IsAncestor, Path};
pub use scratch::Scratch;
pub use tips::Tips;

/// Whether a walk has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The budget is spent; step again.
    More,
    /// The walk is over.
    Done,
}

/// What a step may still spend, in edges followed or vertices looked at.
struct Budget(usize);

impl Budget {
    /// A step without a budget would never end its walk, so it has at least one.
    fn new(edges: usize) -> Self {
        Self(edges.max(1))
    }

    /// Spends one; false when nothing is left.
    #[inline]
    fn spend(&mut self) -> bool {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}
