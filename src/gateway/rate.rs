//! How often one caller may ask: GCRA, one bucket a caller and class.
//!
//! Promises: a caller has one bucket for the whole node, whichever cores its connections land on: its state is one atomic number
//! that every core holds by reference, so the cores together let through what one would, without a lock and without a message.
//! One core owns the table of buckets, which is bounded; another asks it once, when it first sees a caller, and remembers.
//! Does not: share between nodes; or remember a caller that no core has seen for a while, who then has a whole burst again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use quick_cache::unsync::Cache;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::config::gateway::{Rate, RateLimits};
use crate::limits::{RATE_BURST_DEFAULT, RATE_KEYS_MAX, RATE_KEYS_PER_CORE_MAX, RATE_PER_SECOND_DEFAULT};

/// Questions of all cores that wait for the table's owner.
const ASKS_MAX: usize = 1024;
/// How long a core waits for the owner before it takes the bucket that strangers share.
const ASK_PATIENCE: Duration = Duration::from_millis(100);
/// The least time between two searches of a full table for callers whom no core remembers.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Tokens whose signature is checked for one address: a check costs a hundred times what a refusal does.
const VERIFICATIONS: Rate = Rate { per_second: RATE_PER_SECOND_DEFAULT, burst: RATE_BURST_DEFAULT };
/// The class of tokens that were never seen.
pub const VERIFICATION: u16 = 1;
/// The class of the first tool that has its own rate.
const TOOLS_FROM: u16 = 2;

/// Who is limited, in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    caller: u128,
    class: u16,
}

impl Key {
    /// A verified principal.
    pub fn principal(key: u128) -> Self {
        Self { caller: key, class: 0 }
    }

    /// A caller without a name: its address, of IPv6 the network that one customer has.
    pub fn address(address: IpAddr) -> Self {
        let (kind, bits) = match address.to_canonical() {
            IpAddr::V4(address) => (4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (6, address.to_bits() & !u128::from(u64::MAX)),
        };
        let mut key = [0; 16];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind]).update(&bits.to_le_bytes()).finalize_xof().fill(&mut key);
        Self { caller: u128::from_le_bytes(key), class: 0 }
    }

    /// The same caller in another class.
    pub fn of_class(self, class: u16) -> Self {
        Self { class, ..self }
    }
}

/// What was decided of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rate that holds.
    pub rate: Rate,
    /// Requests that may still come at once.
    pub remaining: u32,
    /// When to come back, in milliseconds; 0 when the request may pass.
    pub retry_after_ms: u32,
}

impl Decision {
    /// Whether the request may pass.
    pub fn passes(&self) -> bool {
        self.retry_after_ms == 0
    }
}

/// One caller's state in one class.
struct Bucket {
    rate: Rate,
    limiter: RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(number(rate.per_second)).allow_burst(number(rate.burst));
        Self { rate, limiter: RateLimiter::direct(quota).with_middleware() }
    }

    fn charge(&self) -> Decision {
        let rate = self.rate;
        match self.limiter.check() {
            Ok(state) => Decision { rate, remaining: state.remaining_burst_capacity(), retry_after_ms: 0 },
            Err(until) => {
                let wait = until.wait_time_from(self.limiter.clock().now());
                let retry_after_ms = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
                Decision { rate, remaining: 0, retry_after_ms }
            }
        }
    }
}

/// Limits on one core.
pub struct Limits {
    limits: Arc<RateLimits>,
    near: RefCell<Cache<Key, Arc<Bucket>>>,
    table: Table,
}

/// The way to the table, for any core.
#[derive(Clone)]
pub struct Table {
    asks: mpsc::Sender<Ask>,
    /// Of each class, the bucket that callers beyond the table share.
    others: Arc<[Arc<Bucket>]>,
}

struct Ask {
    key: Key,
    reply: oneshot::Sender<Arc<Bucket>>,
}

/// The table. One core runs it.
pub struct Owner {
    asked: mpsc::Receiver<Ask>,
    buckets: HashMap<Key, Arc<Bucket>>,
    others: Arc<[Arc<Bucket>]>,
    keys_max: usize,
    swept_at: Option<Instant>,
}

/// The rates of a configuration, by class: 0 is all requests, 1 tokens that were never seen, then each tool that has its own.
fn rates(limits: &RateLimits) -> impl Iterator<Item = Rate> + '_ {
    [limits.requests, VERIFICATIONS].into_iter().chain(limits.tools.iter().map(|(_, rate)| *rate))
}

/// The table of a configuration: what each core has, and what one core runs.
pub fn table(limits: &RateLimits) -> (Table, Owner) {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let others: Arc<[Arc<Bucket>]> = rates(limits).map(|rate| Arc::new(Bucket::new(rate))).collect();
    let owner =
        Owner { asked, buckets: HashMap::new(), others: others.clone(), keys_max: RATE_KEYS_MAX, swept_at: None };
    (Table { asks, others }, owner)
}

impl Owner {
    /// Answers until every core is gone.
    pub async fn run(mut self) {
        while let Some(Ask { key, reply }) = self.asked.recv().await {
            // Who asked may have lost patience.
            drop(reply.send(self.bucket(key, Instant::now())));
        }
    }

    fn bucket(&mut self, key: Key, now: Instant) -> Arc<Bucket> {
        if let Some(bucket) = self.buckets.get(&key) {
            return bucket.clone();
        }
        let other = &self.others[usize::from(key.class)];
        if self.keys_max <= self.buckets.len() {
            if self.swept_at.is_none_or(|swept| swept + SWEEP_INTERVAL <= now) {
                self.swept_at = Some(now);
                // What no core holds has not been asked for since it fell out of their caches.
                self.buckets.retain(|_, bucket| 1 < Arc::strong_count(bucket));
            }
            if self.keys_max <= self.buckets.len() {
                return other.clone();
            }
        }
        let bucket = Arc::new(Bucket::new(other.rate));
        self.buckets.insert(key, bucket.clone());
        bucket
    }
}

impl Limits {
    /// The limits on this core.
    pub fn new(limits: Arc<RateLimits>, table: Table) -> Self {
        Self { limits, near: RefCell::new(Cache::new(RATE_KEYS_PER_CORE_MAX)), table }
    }

    /// The class of a tool's calls.
    pub fn class_of_tool(&self, tool: Option<&str>) -> u16 {
        let place = tool.and_then(|tool| self.limits.tools.iter().position(|(name, _)| name == tool));
        place.map_or(0, |place| TOOLS_FROM + place as u16)
    }

    /// The rate of a class.
    pub fn rate(&self, class: u16) -> Rate {
        self.table.others[usize::from(class)].rate
    }

    /// Counts one request.
    pub async fn charge(&self, key: Key) -> Decision {
        let near = self.near.borrow().get(&key).cloned();
        let bucket = match near {
            Some(bucket) => bucket,
            None => self.bucket(key).await,
        };
        bucket.charge()
    }

    async fn bucket(&self, key: Key) -> Arc<Bucket> {
        let other = || self.table.others[usize::from(key.class)].clone();
        let (reply, answer) = oneshot::channel();
        if self.table.asks.try_send(Ask { key, reply }).is_err() {
            return other();
        }
        match timeout(ASK_PATIENCE, answer).await {
            Ok(Ok(bucket)) => {
                self.near.borrow_mut().insert(key, bucket.clone());
                bucket
            }
            _ => other(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn s3_2_4_a_burst_passes_and_then_one_at_a_time() {
        let bucket = Bucket::new(SMALL);
        for remaining in [2, 1, 0] {
            let decision = bucket.charge();
            assert_eq!((decision.passes(), decision.remaining), (true, remaining));
        }
        let refused = bucket.charge();
        assert!(!refused.passes());
        assert!((1..=100).contains(&refused.retry_after_ms), "{refused:?}: ten a second is one in 100 ms");
    }

    #[test]
    fn s6_1_11_a_full_table_lets_further_callers_share_one_bucket() {
        let (_table, mut owner) = table(&RateLimits { requests: SMALL, tools: Vec::new() });
        owner.keys_max = 2;
        let now = Instant::now();
        let key = |number| Key::principal(number);
        let held = owner.bucket(key(1), now);
        drop(owner.bucket(key(2), now));
        assert!(Arc::ptr_eq(&owner.bucket(key(1), now), &held), "one caller has one bucket");
        // The second is remembered by no core and makes room; the first is.
        let third = owner.bucket(key(3), now);
        assert!(!Arc::ptr_eq(&third, &owner.others[0]));
        assert!(Arc::ptr_eq(&owner.bucket(key(4), now), &owner.others[0]), "all places are taken");
        drop(third);
        assert!(Arc::ptr_eq(&owner.bucket(key(4), now), &owner.others[0]), "searched a moment ago");
        assert!(!Arc::ptr_eq(&owner.bucket(key(4), now + SWEEP_INTERVAL), &owner.others[0]));
        assert_eq!(owner.buckets.len(), 2);
    }

    #[test]
    fn s6_1_11_an_address_is_a_host_or_a_customers_network() {
        let key = |text: &str| Key::address(text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_ne!(key("192.0.2.1").of_class(1), key("192.0.2.1"));
    }
}
