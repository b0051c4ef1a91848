//! A load generator: closed loop (so many in flight) or open loop (so many a second), with percentiles that do not lie.
//!
//! Promises: in an open loop a latency counts from the moment an operation was due, not from when it was sent, so a stalled
//! server shows (coordinated omission); operations that could not even be started count as errors; the warm-up is not counted.
//! Does not: know what an operation is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in nanoseconds.
pub(super) const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Significant digits of a percentile.
const DIGITS: u8 = 3;
/// Operations an open loop keeps in flight at most; what is due beyond that is an error.
pub const OPEN_IN_FLIGHT_MAX: usize = 16_384;

/// How the load is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Operations in flight (closed loop).
    pub in_flight: usize,
    /// Operations a second (open loop); `None` is a closed loop.
    pub rate: Option<f64>,
    /// Time before counting begins.
    pub warm: Duration,
    /// Time that is counted.
    pub measured: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was done.
    pub workload: String,
    /// Operations in flight, or the rate asked for.
    pub load: String,
    /// Operations a second that succeeded.
    pub ops_per_s: f64,
    /// Median latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// 99.9th percentile, in microseconds.
    pub p999_us: f64,
    /// The longest, in microseconds.
    pub max_us: f64,
    /// Operations that succeeded.
    pub ops: u64,
    /// Operations that failed or could not be started.
    pub errors: u64,
    /// The first failure's sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// CPU of the server an operation, in microseconds, from its own figures before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us: Option<f64>,
    /// Commit rounds a second of the logs that were written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds_per_s: Option<f64>,
    /// Mean bytes of a commit round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_bytes: Option<f64>,
    /// Counted time, in seconds.
    pub seconds: f64,
}

impl Outcome {
    /// What the latencies of `measured` say.
    pub(super) fn of(workload: &str, load: String, latencies: &Histogram<u64>, measured: Duration) -> Self {
        let us = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            workload: workload.to_owned(),
            load,
            ops_per_s: latencies.len() as f64 / measured.as_secs_f64(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: latencies.max() as f64 / 1e3,
            ops: latencies.len(),
            errors: 0,
            first_error: None,
            server_cpu_us: None,
            rounds_per_s: None,
            round_bytes: None,
            seconds: measured.as_secs_f64(),
        }
    }

    /// Tells how many commit rounds carried it, and how many bytes they had in all.
    pub(super) fn tell_rounds(&mut self, rounds: u64, bytes: u64) {
        if rounds != 0 {
            self.rounds_per_s = Some(rounds as f64 / self.seconds);
            self.round_bytes = Some(bytes as f64 / rounds as f64);
        }
    }
}

struct Tally {
    latencies: RefCell<Histogram<u64>>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    counting_from: Instant,
    until: Instant,
}

impl Tally {
    fn count(&self, due: Instant, outcome: Result<(), String>) {
        let now = Instant::now();
        if due < self.counting_from || self.until < now {
            return;
        }
        match outcome {
            Ok(()) => self.latencies.borrow_mut().saturating_record((now - due).as_nanos() as u64),
            Err(sentence) => {
                self.errors.set(self.errors.get() + 1);
                self.first_error.borrow_mut().get_or_insert(sentence);
            }
        }
    }
}

/// Runs `operation` by the plan; it is given the number of the call, from 0. `mark` is called when counting begins and when it
/// ends, to take figures of the server.
pub async fn run<O, F>(workload: &str, plan: Plan, operation: O, mut mark: impl AsyncFnMut()) -> Outcome
where
    O: Fn(u64) -> F + 'static,
    F: Future<Output = Result<(), String>> + 'static,
{
    let started = Instant::now();
    let counting_from = started + plan.warm;
    let tally = Rc::new(Tally {
        latencies: RefCell::new(histogram()),
        errors: Cell::new(0),
        first_error: RefCell::new(None),
        counting_from,
        until: counting_from + plan.measured,
    });
    let operation = Rc::new(operation);
    let over = Rc::new(Cell::new(false));
    match plan.rate {
        None => {
            let next = Rc::new(Cell::new(0u64));
            for _ in 0..plan.in_flight {
                let (tally, operation, over, next) = (tally.clone(), operation.clone(), over.clone(), next.clone());
                crate::runtime::spawn(async move {
                    while !over.get() {
                        let number = next.replace(next.get() + 1);
                        let due = Instant::now();
                        let outcome = operation(number).await;
                        tally.count(due, outcome);
                    }
                });
            }
        }
        Some(rate) => {
            let (tally, operation, over) = (tally.clone(), operation.clone(), over.clone());
            crate::runtime::spawn(open_loop(rate, tally, operation, over));
        }
    }
    tokio::time::sleep_until((counting_from).into()).await;
    mark().await;
    tokio::time::sleep_until((counting_from + plan.measured).into()).await;
    over.set(true);
    mark().await;
    let load = plan.rate.map_or_else(|| format!("{} in flight", plan.in_flight), |rate| format!("{rate}/s"));
    Outcome {
        errors: tally.errors.get(),
        first_error: tally.first_error.borrow().clone(),
        ..Outcome::of(workload, load, &tally.latencies.borrow(), plan.measured)
    }
}

async fn open_loop<O, F>(rate: f64, tally: Rc<Tally>, operation: Rc<O>, over: Rc<Cell<bool>>)
where
    O: Fn(u64) -> F + 'static,
    F: Future<Output = Result<(), String>> + 'static,
{
    let started = Instant::now();
    let in_flight = Rc::new(Cell::new(0usize));
    let mut number = 0u64;
    while !over.get() {
        let due = started + Duration::from_secs_f64(number as f64 / rate);
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
        }
        if OPEN_IN_FLIGHT_MAX <= in_flight.get() {
            tally.count(due, Err(format!("more than {OPEN_IN_FLIGHT_MAX} operations were due at once")));
        } else {
            in_flight.set(in_flight.get() + 1);
            let (tally, operation, in_flight) = (tally.clone(), operation.clone(), in_flight.clone());
            crate::runtime::spawn(async move {
                let outcome = operation(number).await;
                tally.count(due, outcome);
                in_flight.set(in_flight.get() - 1);
            });
        }
        number += 1;
        if number.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn histogram() -> Histogram<u64> {
    // The bounds are constants that the library accepts; anything else is a defect here.
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).unwrap_or_else(|_| unreachable!("valid histogram bounds"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    #[test]
    fn s0_2_open_loop_counts_from_when_an_operation_was_due() {
        // A server that stalls once: an operation that blocks the loop for 60 ms makes all that were due meanwhile late.
        let plan =
            Plan { in_flight: 0, rate: Some(1000.0), warm: Duration::ZERO, measured: Duration::from_millis(200) };
        let outcome = crate::runtime::run_plain(run(
            "stall",
            plan,
            |number| async move {
                if number == 20 {
                    let began = Instant::now();
                    while began.elapsed() < Duration::from_millis(60) {
                        std::hint::spin_loop();
                    }
                }
                Ok(())
            },
            async || {},
        ))
        .unwrap();
        assert!(0 < outcome.ops);
        // A closed loop would see one slow operation; about a quarter of these were late.
        assert!(20_000.0 < outcome.p99_us, "p99 {} us hides the stall", outcome.p99_us);
    }

    #[test]
    fn s0_2_closed_loop_counts_errors_apart() {
        let plan = Plan { in_flight: 4, rate: None, warm: Duration::ZERO, measured: Duration::from_millis(50) };
        let outcome = crate::runtime::run_plain(run(
            "odd",
            plan,
            |number| async move {
                tokio::task::yield_now().await;
                if number % 2 == 1 { Err("odd".to_owned()) } else { Ok(()) }
            },
            async || {},
        ))
        .unwrap();
        assert!(0 < outcome.ops && 0 < outcome.errors);
        assert_eq!(outcome.first_error.as_deref(), Some("odd"));
    }
}
