//! Seeds that failed once, each with the defect that it found.
//!
//! Promises: they are run before any other. Does not: keep a seed whose world has changed so that it shows nothing any more.

/// Seed, and what was wrong.
pub(crate) const FAILED_ONCE: [(u64, &str); 2] = [
    (14, "a node that died between the entry that makes a group and its first vote did not open again"),
    (75, "the same in another shard"),
];
