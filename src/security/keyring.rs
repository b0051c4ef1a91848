//! When an issuer is asked for its keys, and how long what it said is believed.
//!
//! Promises: pure; keys are asked for again before they are old; a token with an unknown key asks sooner, but never more often
//! than the least interval; an issuer that does not answer leaves its keys believed for a bounded time.
//! Does not: fetch. Its driver does when [`Keyring::expire`] says so, one fetch at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keys::KeySet;
use crate::limits::{ISSUER_REFRESH_MS, ISSUER_RETRY_MS};

const REFRESH: Duration = Duration::from_millis(ISSUER_REFRESH_MS);
const RETRY: Duration = Duration::from_millis(ISSUER_RETRY_MS);

/// What is known of one issuer's keys.
#[derive(Clone, Debug)]
pub struct Keyring {
    stale: Duration,
    refetch: Duration,
    keys: Option<Known>,
    fetch_at: Instant,
    /// When the last fetch ended.
    fetched_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Known {
    keys: Arc<KeySet>,
    /// When they are no longer believed, unless the issuer is heard again.
    forgotten_at: Instant,
}

impl Keyring {
    /// An issuer that is to be asked at once.
    pub fn new(now: Instant, stale: Duration, refetch: Duration) -> Self {
        Self { stale, refetch, keys: None, fetch_at: now, fetched_at: None }
    }

    /// The issuer answered.
    pub fn heard(&mut self, now: Instant, keys: KeySet) {
        // Refreshed keys are believed until the next refresh, and then as long as an outage may last.
        self.keys = Some(Known { keys: Arc::new(keys), forgotten_at: now + REFRESH + self.stale });
        self.fetch_at = now + REFRESH;
        self.fetched_at = Some(now);
    }

    /// The issuer did not answer, or not with keys.
    pub fn failed(&mut self, now: Instant) {
        self.fetch_at = now + RETRY.max(self.refetch);
        self.fetched_at = Some(now);
    }

    /// A token names a key that is not here: whether that is worth a fetch, which is then due.
    pub fn miss(&mut self, now: Instant) -> bool {
        let worth = self.fetched_at.is_none_or(|fetched| fetched + self.refetch <= now);
        if worth {
            self.fetch_at = self.fetch_at.min(now);
        }
        worth
    }

    /// Lets time pass: whether the issuer is to be asked now.
    pub fn expire(&mut self, now: Instant) -> bool {
        if self.keys.as_ref().is_some_and(|known| known.forgotten_at <= now) {
            self.keys = None;
        }
        self.fetch_at <= now
    }

    /// When time matters next.
    pub fn deadline(&self) -> Instant {
        self.keys.as_ref().map_or(self.fetch_at, |known| known.forgotten_at.min(self.fetch_at))
    }

    /// The keys that are believed.
    pub fn keys(&self) -> Option<&Arc<KeySet>> {
        self.keys.as_ref().map(|known| &known.keys)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::super::keys::tests::ed25519_document;
    use super::*;

    const STALE: Duration = Duration::from_secs(60);
    const REFETCH: Duration = Duration::from_secs(10);

    #[test]
    fn s6_1_10_an_outage_leaves_the_keys_believed_for_a_bounded_time() {
        let begun = Instant::now();
        let mut ring = Keyring::new(begun, STALE, REFETCH);
        assert!(ring.expire(begun), "nothing is known at first");
        ring.heard(begun, KeySet::parse(&ed25519_document("a")).unwrap());
        assert!(!ring.expire(begun));
        let refresh = ring.deadline();
        assert_eq!(refresh, begun + REFRESH);
        let mut now = refresh;
        // The issuer is gone: it is tried again and again, and its keys stay until the outage is too long.
        while now < begun + REFRESH + STALE {
            if ring.expire(now) {
                ring.failed(now);
            }
            assert!(ring.keys().is_some(), "after {:?}", now - begun);
            now = ring.deadline();
        }
        ring.expire(begun + REFRESH + STALE);
        assert!(ring.keys().is_none());
        ring.heard(now, KeySet::parse(&ed25519_document("a")).unwrap());
        assert!(ring.keys().is_some());
    }

    #[test]
    fn s6_1_10_unknown_keys_ask_the_issuer_no_more_often_than_the_least_interval() {
        let begun = Instant::now();
        let mut ring = Keyring::new(begun, STALE, REFETCH);
        ring.heard(begun, KeySet::parse(&ed25519_document("a")).unwrap());
        let mut fetches = 0;
        for second in 0..30 {
            let now = begun + Duration::from_secs(second);
            for _ in 0..1000 {
                ring.miss(now);
                if ring.expire(now) {
                    fetches += 1;
                    ring.heard(now, KeySet::parse(&ed25519_document("a")).unwrap());
                }
            }
        }
        assert_eq!(fetches, 2, "at 10 s and at 20 s");
    }
}
