//! The vertices without children, of one namespace or of all, in ascending order.
//!
//! Promises: exactly the tips of one moment, which is when the walk was begun. It costs what the namespace has of tips (and of
//! recent ones), not what the skeleton holds.
//! Does not: hold still between two walks: a later page shows the tips of a later moment.

use super::super::skeleton::{Number, Skeleton, View};
use super::{Gate, Step};

/// The tips.
pub struct Tips {
    length: u32,
    candidates: std::vec::IntoIter<Number>,
    last: Option<Number>,
}

impl Tips {
    /// Begins with the first tip not below `from`; `None` when no vertex of the namespace was ever seen.
    pub fn new(skeleton: &Skeleton, namespace: Option<&str>, from: Number) -> Option<Self> {
        let (view, candidates) = skeleton.tip_candidates(namespace, from)?;
        Some(Self { length: view.len(), candidates: candidates.into_iter(), last: None })
    }

    /// How many vertices the skeleton had at that moment; each step needs the view of this length.
    pub fn view_len(&self) -> u32 {
        self.length
    }

    /// The last tip that was offered.
    pub fn last(&self) -> Option<Number> {
        self.last
    }

    /// Goes on for `budget` candidates, and appends what it finds to `out`.
    pub fn step(&mut self, view: &View<'_>, gate: &mut Gate, budget: usize, out: &mut Vec<Number>) -> Step {
        assert!(view.len() == self.length, "the tips of one moment need its view");
        for _ in 0..budget.max(1) {
            let Some(candidate) = self.candidates.next() else { return Step::Done };
            if view.is_tip(candidate) {
                let passed = gate.passed();
                if !gate.offer(view, candidate, out) {
                    self.candidates = Vec::new().into_iter();
                    return Step::Done;
                }
                if passed < gate.passed() {
                    self.last = Some(candidate);
                }
            }
        }
        Step::More
    }
}
