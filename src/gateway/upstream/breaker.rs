//! A circuit breaker: a server that fails often is left alone for a while, then tried with one call.
//!
//! Pure: the time comes in. Promises: [`FAILURES`] failures within [`WINDOW`] open it for [`OPEN`]; then one call goes through, and its
//! outcome decides; what a server refuses because it is busy or because of the caller is no failure.
//! Does not: time calls, or say what a failure is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Failures that open it (S4.1-9: 10 a minute).
pub(crate) const FAILURES: usize = 10;
/// The time within which they must fall.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// How long it stays open.
pub(crate) const OPEN: Duration = Duration::from_secs(30);

/// Whether calls may go to a server.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: VecDeque<Instant>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Calls go.
    #[default]
    Closed,
    /// None go until then.
    Open(Instant),
    /// One call was let through, at that time; the others wait for its outcome.
    Trying(Instant),
}

impl Breaker {
    /// Lets a call go, or says how long to wait.
    ///
    /// # Errors
    /// The time until the next call may go.
    pub(crate) fn enter(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed => Ok(()),
            State::Open(until) if now < until => Err(until - now),
            // A trial that was never ended, because its caller went away, must not keep the others out for ever.
            State::Trying(since) if now < since + OPEN => Err((since + OPEN) - now),
            State::Open(_) | State::Trying(_) => {
                self.state = State::Trying(now);
                Ok(())
            }
        }
    }

    /// A call was answered.
    pub(crate) fn succeeded(&mut self) {
        self.state = State::Closed;
        self.failures.clear();
    }

    /// A call failed.
    pub(crate) fn failed(&mut self, now: Instant) {
        while self.failures.front().is_some_and(|&at| at + WINDOW <= now) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if matches!(self.state, State::Trying(_)) || FAILURES <= self.failures.len() {
            self.state = State::Open(now + OPEN);
            self.failures.clear();
        }
    }

    /// What it is, in one word.
    pub(crate) fn word(&self, now: Instant) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open(until) if now < until => "open",
            State::Open(_) | State::Trying(_) => "half_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_1_9_ten_failures_in_a_minute_open_it_and_one_call_closes_it_again() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for second in 0..9 {
            breaker.failed(start + Duration::from_secs(second));
        }
        let now = start + Duration::from_secs(9);
        assert_eq!(breaker.enter(now), Ok(()));
        breaker.failed(now);
        assert_eq!(breaker.enter(now), Err(OPEN));
        assert_eq!(breaker.word(now), "open");
        let later = now + OPEN;
        assert_eq!(breaker.enter(later), Ok(()), "one call is let through");
        assert!(breaker.enter(later).is_err(), "and only one");
        breaker.failed(later);
        assert_eq!(breaker.enter(later), Err(OPEN), "it failed");
        let later = later + OPEN;
        assert_eq!(breaker.enter(later), Ok(()));
        breaker.succeeded();
        assert_eq!((breaker.enter(later), breaker.word(later)), (Ok(()), "closed"));
    }

    #[test]
    fn s4_1_9_failures_further_apart_do_not_open_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for number in 0..100 {
            breaker.failed(start + Duration::from_secs(7) * number);
            assert_eq!(breaker.enter(start + Duration::from_secs(7) * number), Ok(()));
        }
    }

    #[test]
    fn s4_1_9_a_trial_whose_caller_went_away_does_not_keep_the_others_out() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            breaker.failed(start);
        }
        let later = start + OPEN;
        assert_eq!(breaker.enter(later), Ok(()));
        assert_eq!(breaker.enter(later + OPEN), Ok(()));
    }
}
