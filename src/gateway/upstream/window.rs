//! Counts of what happened lately, and the breaker that is built on them, shared by all cores without a lock.
//!
//! Pure: the time comes in, in milliseconds. Promises: what is older than the window does not count; a breaker that is open lets one
//! call through when its time is over, and that call's outcome decides; each trial that fails doubles the time. Does not: count
//! exactly while two cores race for one slot's turn, which costs at most what they add at that instant.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::config::pool::BreakerRule;

/// Parts of a window. What is counted is from between `SLOTS - 1` and `SLOTS` of them.
const SLOTS: usize = 6;
/// Bits of each of the two counts in a slot; the rest says when it was.
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const STAMP_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// What happened within a time.
#[derive(Debug)]
pub(crate) struct Window {
    slots: [AtomicU64; SLOTS],
    slot_ms: u64,
}

impl Window {
    /// A window of that many milliseconds.
    pub(crate) fn new(window_ms: u64) -> Self {
        Self { slots: Default::default(), slot_ms: (window_ms / SLOTS as u64).max(1) }
    }

    /// Something happened: one of all, and perhaps one of those that are counted apart.
    pub(crate) fn add(&self, now: u64, all: u64, apart: u64) {
        let turn = now / self.slot_ms;
        let stamp = turn & STAMP_MASK;
        let slot = &self.slots[(turn % SLOTS as u64) as usize];
        let next = |word: u64| {
            let (was, total, special) = unpack(word);
            let (total, special) = if was == stamp { (total, special) } else { (0, 0) };
            Some(pack(stamp, (total + all).min(COUNT_MAX), (special + apart).min(COUNT_MAX)))
        };
        let _always = slot.fetch_update(Relaxed, Relaxed, next);
    }

    /// How many of all, and how many of those apart.
    pub(crate) fn sum(&self, now: u64) -> (u64, u64) {
        let turn = now / self.slot_ms;
        self.slots.iter().map(|slot| unpack(slot.load(Relaxed))).fold((0, 0), |(all, apart), (was, total, special)| {
            let age = turn.wrapping_sub(was) & STAMP_MASK;
            if age < SLOTS as u64 { (all + total, apart + special) } else { (all, apart) }
        })
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        for slot in &self.slots {
            // A store of what is there already would still take the line from the other cores.
            if slot.load(Relaxed) != 0 {
                slot.store(0, Relaxed);
            }
        }
    }
}

fn pack(stamp: u64, total: u64, special: u64) -> u64 {
    stamp << (2 * COUNT_BITS) | total << COUNT_BITS | special
}

fn unpack(word: u64) -> (u64, u64, u64) {
    (word >> (2 * COUNT_BITS), word >> COUNT_BITS & COUNT_MAX, word & COUNT_MAX)
}

/// Whether calls of one tool may go to one endpoint.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: Window,
    /// Closed when it is 0, open until then otherwise; from then on it waits for its trial.
    until: AtomicU64,
    /// When the trial that is on was let through; 0 when none is.
    trial: AtomicU64,
    /// Times that it opened in a row.
    trips: AtomicU32,
}

impl Breaker {
    /// One that is closed.
    pub(crate) fn new(rule: &BreakerRule) -> Self {
        Self {
            failures: Window::new(rule.window_ms),
            until: AtomicU64::new(0),
            trial: AtomicU64::new(0),
            trips: AtomicU32::new(0),
        }
    }

    /// How long to wait before a call may go, in milliseconds; 0 for now.
    pub(crate) fn wait(&self, rule: &BreakerRule, now: u64) -> u64 {
        let until = self.until.load(Relaxed);
        if until == 0 {
            return 0;
        }
        if now < until {
            return until - now;
        }
        // A trial that was never ended, because its caller went away, must not keep the others out for ever.
        match self.trial.load(Relaxed) {
            0 => 0,
            since => (since + rule.open_ms).saturating_sub(now),
        }
    }

    /// Lets a call go. False when another took the trial, or it is not the time.
    pub(crate) fn enter(&self, rule: &BreakerRule, now: u64) -> bool {
        if self.until.load(Relaxed) == 0 {
            return true;
        }
        let trial = self.trial.load(Relaxed);
        self.wait(rule, now) == 0 && self.trial.compare_exchange(trial, now, Relaxed, Relaxed).is_ok()
    }

    /// A call was answered.
    pub(crate) fn succeeded(&self, now: u64) {
        let until = self.until.load(Relaxed);
        // The answer to a call from before it opened proves nothing.
        if until == 0 || until <= now {
            self.reset();
        }
    }

    /// A call failed.
    pub(crate) fn failed(&self, rule: &BreakerRule, now: u64) {
        let until = self.until.load(Relaxed);
        if rule.failures == 0 || now < until {
            return;
        }
        self.failures.add(now, 1, 1);
        if until == 0 && self.failures.sum(now).1 < rule.failures {
            return;
        }
        let open_ms = rule.open_ms.saturating_mul(1 << self.trips.load(Relaxed).min(20)).min(rule.open_ms_max);
        // Of two cores that see the last failure, one opens it.
        if self.until.compare_exchange(until, now + open_ms, Relaxed, Relaxed).is_ok() {
            self.trips.fetch_add(1, Relaxed);
            self.trial.store(0, Relaxed);
            self.failures.clear();
        }
    }

    /// Closes it.
    pub(crate) fn reset(&self) {
        self.failures.clear();
        if self.until.load(Relaxed) != 0 {
            self.until.store(0, Relaxed);
            self.trial.store(0, Relaxed);
        }
        if self.trips.load(Relaxed) != 0 {
            self.trips.store(0, Relaxed);
        }
    }

    /// What it is, in one word.
    pub(crate) fn word(&self, now: u64) -> &'static str {
        match self.until.load(Relaxed) {
            0 => "closed",
            until if now < until => "open",
            _ => "half_open",
        }
    }

    /// Failures that count now.
    pub(crate) fn failures(&self, now: u64) -> u64 {
        self.failures.sum(now).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_1_7_a_window_forgets_what_is_older() {
        let window = Window::new(30_000);
        window.add(1_000, 3, 1);
        window.add(20_000, 2, 2);
        assert_eq!(window.sum(20_000), (5, 3));
        assert_eq!(window.sum(31_000), (2, 2));
        assert_eq!(window.sum(60_000), (0, 0));
        window.add(60_000, 1, 0);
        assert_eq!(window.sum(60_000), (1, 0));
        window.clear();
        assert_eq!(window.sum(60_000), (0, 0));
    }

    #[test]
    fn s4_1_9_ten_failures_in_a_minute_open_it_and_each_trial_that_fails_doubles_the_time() {
        let rule = BreakerRule::default();
        let breaker = Breaker::new(&rule);
        for second in 0..9 {
            breaker.failed(&rule, second * 1000);
        }
        let now = 9000;
        assert!(breaker.enter(&rule, now));
        breaker.failed(&rule, now);
        assert_eq!((breaker.wait(&rule, now), breaker.word(now)), (30_000, "open"));
        breaker.succeeded(now + 1);
        assert!(!breaker.enter(&rule, now + 1), "what was asked before proves nothing");
        let later = now + 30_000;
        assert!(breaker.enter(&rule, later), "one call is let through");
        assert!(!breaker.enter(&rule, later), "and only one");
        breaker.failed(&rule, later);
        assert_eq!(breaker.wait(&rule, later), 60_000, "it failed");
        let later = later + 60_000;
        assert!(breaker.enter(&rule, later));
        breaker.succeeded(later);
        assert_eq!((breaker.wait(&rule, later), breaker.word(later)), (0, "closed"));
    }

    #[test]
    fn s4_1_9_failures_further_apart_do_not_open_it() {
        let rule = BreakerRule::default();
        let breaker = Breaker::new(&rule);
        for number in 1..100 {
            breaker.failed(&rule, 7000 * number);
            assert!(breaker.enter(&rule, 7000 * number));
        }
    }

    #[test]
    fn s4_1_9_a_trial_whose_caller_went_away_does_not_keep_the_others_out() {
        let rule = BreakerRule::default();
        let breaker = Breaker::new(&rule);
        for _ in 0..rule.failures {
            breaker.failed(&rule, 1);
        }
        let later = 1 + rule.open_ms;
        assert!(breaker.enter(&rule, later));
        assert!(breaker.enter(&rule, later + rule.open_ms));
    }
}
