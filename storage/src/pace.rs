//! How fast slow work may take the disk from the commit rounds.
//!
//! Preparing a segment writes all of it, and sealing one reads all of it. At the device's full speed either fills its queue for tens of
//! milliseconds, and every sync that comes meanwhile waits behind it; done piece by piece as the log itself moves on, it costs a sync the
//! time of one piece at most.
//!
//! Promises: slow work goes at [`SHARE`] times the log's own speed, and never slower than [`FLOOR_BYTES_PER_MS`]; it waits for nothing
//! while the log waits for it. Does not: order the work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of slow work that a committed byte permits: it is prepared for once and read for its seal once, with something to spare.
const SHARE: u64 = 3;
/// Bytes that are permitted in advance: a log that was quiet does not let a whole segment pass at once.
const CREDIT_BYTES_MAX: u64 = 4 << 20;
/// Bytes that a millisecond permits whatever the log does: a segment of 64 MiB is ready after a second.
const FLOOR_BYTES_PER_MS: u64 = 64 << 10;

/// Shared between a log's driver and the threads of its chores.
#[derive(Debug)]
pub struct Pace {
    credit: AtomicU64,
    hurries: AtomicBool,
}

impl Default for Pace {
    /// Work that nobody else is slowed by.
    fn default() -> Self {
        Self { credit: AtomicU64::new(0), hurries: AtomicBool::new(true) }
    }
}

impl Pace {
    /// The log has committed `bytes`.
    pub(crate) fn earn(&self, bytes: u64) {
        // The driver alone adds, so what a chore takes meanwhile is lost at worst.
        let credit = self.credit.load(Ordering::Relaxed);
        self.credit.store((credit + SHARE * bytes).min(CREDIT_BYTES_MAX), Ordering::Relaxed);
    }

    /// Whether the log waits for its chores.
    pub(crate) fn hurry(&self, hurries: bool) {
        self.hurries.store(hurries, Ordering::Relaxed);
    }

    /// Waits, on a thread that may block, until `bytes` are permitted.
    pub(crate) fn take(&self, bytes: u64) {
        let mut missing = bytes;
        while 0 < missing && !self.hurries.load(Ordering::Relaxed) {
            let took = self
                .credit
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |credit| Some(credit - credit.min(missing)));
            missing -= took.unwrap_or(0).min(missing);
            if 0 < missing {
                std::thread::sleep(Duration::from_millis(1));
                missing -= missing.min(FLOOR_BYTES_PER_MS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn s1_1_9_slow_work_waits_for_the_log_and_never_while_the_log_waits_for_it() {
        let pace = Pace::default();
        let began = Instant::now();
        pace.take(1 << 40);
        pace.hurry(false);
        pace.earn(1 << 20);
        pace.take(SHARE << 20);
        assert_eq!(pace.credit.load(Ordering::Relaxed), 0, "what was earned is spent");
        // A gibibyte by the floor would take sixteen seconds.
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        let began = Instant::now();
        pace.take(32 * FLOOR_BYTES_PER_MS);
        assert!(Duration::from_millis(32) <= began.elapsed(), "by the floor alone: {:?}", began.elapsed());
        pace.earn(1 << 40);
        assert_eq!(pace.credit.load(Ordering::Relaxed), CREDIT_BYTES_MAX);
    }

    #[test]
    fn s1_1_9_slow_work_that_waits_goes_on_when_the_log_begins_to_wait() {
        let pace = std::sync::Arc::new(Pace::default());
        pace.hurry(false);
        let (other, began) = (pace.clone(), Instant::now());
        let work = std::thread::spawn(move || other.take(1 << 40));
        pace.hurry(true);
        assert!(work.join().is_ok());
        assert!(began.elapsed() < Duration::from_secs(8));
    }
}
