//! How every fuzz target is driven: for how long, from which seed, and what is told when it ends.
//!
//! `QMESH_FUZZ_SECONDS` is the time of one target (a fraction will do; 0 is a single case). Every case draws from a seed of its
//! own; a case that fails prints it, and `QMESH_FUZZ_SEED=SEED` makes it the first case of the next run.
//!
//! Promises: one line for each target with the count of its cases. Does not: know what a case is.

use std::time::{Duration, Instant};

/// Seconds of one target when nobody says otherwise.
const SECONDS_DEFAULT: f64 = 1.0;
/// The first case's seed when nobody says otherwise.
const SEED_DEFAULT: u64 = 0x71_6d65_7368;
/// Between the seeds of two cases.
const SEED_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Runs `case` again and again, each time with its own numbers.
pub(crate) fn fuzz(target: &str, case: impl FnMut(&mut Random)) {
    fuzz_from(target, &[], case);
}

/// The same after cases that failed once.
#[allow(dead_code, reason = "not every place has cases that failed once")]
pub(crate) fn fuzz_from(target: &str, failed_once: &[u64], mut case: impl FnMut(&mut Random)) {
    for &seed in failed_once {
        let running = Running { target, number: 0, seed };
        case(&mut Random(seed));
        drop(running);
    }
    let asked = |name: &str| std::env::var(name).ok();
    let seconds =
        asked("QMESH_FUZZ_SECONDS").map_or(SECONDS_DEFAULT, |text| text.parse().expect("a number of seconds"));
    let seed = asked("QMESH_FUZZ_SEED").map_or(SEED_DEFAULT, |text| {
        let digits = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
        digits.expect("a seed: a number, or hexadecimal digits after 0x")
    });
    let (begun, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut count = 0u64;
    loop {
        let running = Running { target, number: count, seed: seed.wrapping_add(count.wrapping_mul(SEED_STEP)) };
        case(&mut Random(running.seed));
        drop(running);
        count += 1;
        if limit <= begun.elapsed() {
            break;
        }
    }
    eprintln!(
        "fuzz {target}: {count} cases in {:.1} s from seed {seed:#x}, none failed",
        begun.elapsed().as_secs_f64()
    );
}

/// The case that runs: says how to run it again when it fails.
struct Running<'a> {
    target: &'a str,
    number: u64,
    seed: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { target, number, seed } = self;
            eprintln!("fuzz {target}: case {number} failed; run it first with QMESH_FUZZ_SEED={seed:#x}");
        }
    }
}

/// Numbers that are the same on every machine (SplitMix64).
pub(crate) struct Random(u64);

#[allow(dead_code, reason = "each place that is driven draws what it needs")]
impl Random {
    /// Numbers from a seed of the caller's own.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(SEED_STEP);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True one time in `count`.
    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Small mostly, large sometimes: a length that is likely to matter, at most `most`.
    pub(crate) fn length(&mut self, most: usize) -> usize {
        let bits = self.below(usize::BITS as usize - most.leading_zeros() as usize + 1);
        self.below(1 << bits).min(most)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
