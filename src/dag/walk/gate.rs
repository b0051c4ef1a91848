//! What a walk lets through: which vertices, from which one on, how many.
//!
//! Promises: a filter chooses what is answered, never where the walk goes; a full gate knows whether something was left.
//! Does not: decide by a label itself: by its hash, so that one in 2^32 other labels passes too.

use super::super::skeleton::{Number, View};

/// A filter in the words of the skeleton. The default lets everything pass.
#[derive(Clone, Debug, Default)]
pub struct Sieve {
    /// Per class, whether it passes.
    pub(in crate::dag) classes: Option<Vec<bool>>,
    /// Hashes of labels that a vertex must have, all of them.
    pub label_hashes: Vec<u32>,
    /// The earliest timestamp that passes, in milliseconds.
    pub since_ms: Option<u64>,
    /// The latest timestamp that passes, in milliseconds.
    pub until_ms: Option<u64>,
    /// The least generation that passes.
    pub generation_min: Option<u32>,
    /// The greatest generation that passes.
    pub generation_max: Option<u32>,
}

impl Sieve {
    /// Whether a vertex passes.
    #[inline]
    pub fn passes(&self, view: &View<'_>, number: Number) -> bool {
        // A class that came after the sieve was made cannot be a vertex of the walk's snapshot with a word the sieve knows.
        self.classes.as_ref().is_none_or(|of| of.get(usize::from(view.class(number))).copied().unwrap_or(false))
            && self.generation_min.is_none_or(|least| least <= view.generation(number))
            && self.generation_max.is_none_or(|greatest| view.generation(number) <= greatest)
            && self.since_ms.is_none_or(|since| since <= view.timestamp_ms(number))
            && self.until_ms.is_none_or(|until| view.timestamp_ms(number) <= until)
            && self.label_hashes.iter().all(|&hash| view.label_hashes(number).any(|has| has == hash))
    }
}

/// Where a walk's vertices leave it.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    sieve: Sieve,
    skip: u32,
    left: Option<usize>,
    passed: usize,
    more: bool,
}

impl Gate {
    /// Lets pass what the sieve does, without the first `skip`, at most `limit`.
    pub fn new(sieve: Sieve, skip: u32, limit: Option<usize>) -> Self {
        Self { sieve, skip, left: limit, passed: 0, more: false }
    }

    /// Whether something would have passed beyond the limit.
    pub fn more(&self) -> bool {
        self.more
    }

    /// How many passed, without the skipped ones.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// The filter.
    pub(super) fn sieve(&self) -> &Sieve {
        &self.sieve
    }

    /// Offers a vertex; false when the walk may stop, since nothing more will pass.
    #[inline]
    pub(in crate::dag) fn offer(&mut self, view: &View<'_>, number: Number, out: &mut Vec<Number>) -> bool {
        if !self.sieve.passes(view, number) {
            return true;
        }
        if 0 < self.skip {
            self.skip -= 1;
            return true;
        }
        if self.left == Some(0) {
            self.more = true;
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        self.passed += 1;
        out.push(number);
        true
    }
}
