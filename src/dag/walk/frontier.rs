//! A queue of vertices in the order of their generations.
//!
//! Promises: pushing and popping cost the same however long the queue is. As an edge always leads to another generation, each
//! vertex leaves the queue after all that lead to it: what is known of it then is final.
//! Does not: check that a vertex is pushed once.

use super::super::skeleton::{Number, View};
use super::{Budget, Scratch};

/// The queue. It keeps its lists in the walk's [`Scratch`].
pub(super) struct Frontier {
    ascending: bool,
    sorted: bool,
    /// The generation whose vertices stand in `current`; where there is none yet, where to begin.
    generation: Option<u32>,
    current: Vec<Number>,
    /// Vertices in the lists, without `current`.
    listed: usize,
}

impl Frontier {
    /// A queue from the highest generation down, or from the lowest up. `sorted` says that the numbers within a generation come
    /// in the same order as the generations; otherwise they come as it happens.
    pub(super) fn new(view: &View<'_>, scratch: &mut Scratch, ascending: bool, sorted: bool) -> Self {
        scratch.begin_lists(view);
        Self { ascending, sorted, generation: None, current: Vec::new(), listed: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, view: &View<'_>, scratch: &mut Scratch, number: Number) {
        let generation = view.generation(number);
        scratch.list_push(generation, number);
        self.listed += 1;
        let Some(at) = &mut self.generation else {
            self.generation = Some(generation);
            return;
        };
        // Only before the first pop: the roots of a walk come in any order.
        if self.ascending && generation < *at || !self.ascending && *at < generation {
            *at = generation;
        }
    }

    /// The next vertex; `None` when the queue is empty or the budget is spent before one was found (see `is_empty`).
    #[inline]
    pub(super) fn pop(&mut self, scratch: &mut Scratch, budget: &mut Budget) -> Option<Number> {
        loop {
            if let Some(number) = self.current.pop() {
                return Some(number);
            }
            if self.listed == 0 || !budget.spend() {
                return None;
            }
            let generation = self.generation?;
            scratch.list_take(generation, &mut self.current);
            self.listed -= self.current.len();
            if self.sorted && self.ascending {
                self.current.sort_unstable_by(|a, b| b.cmp(a));
            } else if self.sorted {
                self.current.sort_unstable();
            }
            // Wrapping, as after generation 0 nothing is listed.
            self.generation =
                Some(if self.ascending { generation.wrapping_add(1) } else { generation.wrapping_sub(1) });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listed == 0 && self.current.is_empty()
    }
}
