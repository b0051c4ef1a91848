//! The working memory of a walk: marks on vertices, links between them, a queue.
//!
//! Promises: beginning a walk costs nothing in proportion to the skeleton: old marks are told from new ones by their epoch. At
//! most 16 bytes a vertex, taken from the system page by page as walks touch them.
//! Does not: serve two walks at once.

use super::super::skeleton::{Number, View};

/// Bits of a mark that are flags; the rest is the epoch.
const FLAG_BITS: u32 = 8;
/// The last epoch before all marks are wiped.
const EPOCH_MAX: u32 = (1 << (u32::BITS - FLAG_BITS)) - 1;

/// Working memory, to be used by one walk after the other.
#[derive(Default)]
pub struct Scratch {
    epoch: u32,
    marks: Vec<u32>,
    /// One link for each vertex: the next of a list, or where a path came from. Needs no epoch: it is read only where the walk
    /// has written it.
    links: Vec<u32>,
    /// For each generation, the first vertex of its list plus one, above it the epoch.
    heads: Vec<u64>,
    /// What a breadth-first walk has found, in order.
    pub(super) queue: Vec<Number>,
}

impl Scratch {
    /// New working memory, which grows as it is used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the walk before.
    pub(super) fn begin(&mut self, view: &View<'_>) {
        let vertices = view.len() as usize;
        if self.marks.len() < vertices || self.epoch == EPOCH_MAX {
            // Fresh zeroed memory comes from the system lazily; wiping or copying the old would touch all of it.
            self.marks = vec![0; vertices.next_power_of_two()];
            self.heads = Vec::new();
            self.epoch = 0;
        }
        self.epoch += 1;
        self.queue.clear();
    }

    /// Makes room for links and lists by generation.
    pub(super) fn begin_lists(&mut self, view: &View<'_>) {
        self.begin_links(view);
        let generations = view.generation_bound() as usize + 1;
        if self.heads.len() < generations {
            self.heads = vec![0; generations.next_power_of_two()];
        }
    }

    /// Makes room for links.
    pub(super) fn begin_links(&mut self, view: &View<'_>) {
        let vertices = view.len() as usize;
        if self.links.len() < vertices {
            self.links = vec![0; vertices.next_power_of_two()];
        }
    }

    /// The flags of a vertex; 0 when the walk has not met it.
    #[inline]
    pub(super) fn flags(&self, number: Number) -> u8 {
        let mark = self.marks[number.index()];
        if mark >> FLAG_BITS == self.epoch { mark as u8 } else { 0 }
    }

    /// Adds flags to a vertex, and returns those it had.
    #[inline]
    pub(super) fn add_flags(&mut self, number: Number, flags: u8) -> u8 {
        let mark = &mut self.marks[number.index()];
        let had = if *mark >> FLAG_BITS == self.epoch { *mark as u8 } else { 0 };
        *mark = self.epoch << FLAG_BITS | u32::from(had | flags);
        had
    }

    /// The link of a vertex.
    #[inline]
    pub(super) fn link(&self, number: Number) -> Number {
        Number(self.links[number.index()])
    }

    /// Sets the link of a vertex.
    #[inline]
    pub(super) fn set_link(&mut self, number: Number, to: Number) {
        self.links[number.index()] = to.0;
    }

    /// Puts a vertex into the list of its generation.
    #[inline]
    pub(super) fn list_push(&mut self, generation: u32, number: Number) {
        let head = &mut self.heads[generation as usize];
        let next = if (*head >> u32::BITS) as u32 == self.epoch { *head as u32 } else { 0 };
        *head = u64::from(self.epoch) << u32::BITS | u64::from(number.0 + 1);
        self.links[number.index()] = next;
    }

    /// Empties the list of a generation into `into`.
    pub(super) fn list_take(&mut self, generation: u32, into: &mut Vec<Number>) {
        let head = std::mem::take(&mut self.heads[generation as usize]);
        let mut next = if (head >> u32::BITS) as u32 == self.epoch { head as u32 } else { 0 };
        while next != 0 {
            into.push(Number(next - 1));
            next = self.links[next as usize - 1];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::skeleton::tests::Graph;
    use super::*;

    #[test]
    fn s1_1_8_scratch_forgets_at_the_last_epoch() {
        let skeleton = Graph { parents: vec![vec![]] }.skeleton();
        let view = skeleton.view();
        let mut scratch = Scratch::new();
        scratch.begin(&view);
        scratch.add_flags(Number(0), 1);
        for epoch in [EPOCH_MAX - 1, EPOCH_MAX, 1, 2] {
            if epoch == EPOCH_MAX - 1 {
                scratch.epoch = epoch - 1;
            }
            scratch.begin(&view);
            assert_eq!(scratch.epoch, epoch);
            assert_eq!(scratch.flags(Number(0)), 0);
            assert_eq!(scratch.add_flags(Number(0), 3), 0);
            assert_eq!(scratch.add_flags(Number(0), 4), 3);
            assert_eq!(scratch.flags(Number(0)), 7);
        }
    }
}
