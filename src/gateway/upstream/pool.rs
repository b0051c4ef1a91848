//! The endpoints of one upstream: how each of them is, and which takes the next call. One for the whole node; every core reads and
//! writes it without a lock.
//!
//! Promises: an endpoint that is ejected leaves at least the declared part in; one that comes back gets its share little by little;
//! where all are out, all are tried; what an endpoint refuses because it is busy or because of the caller says nothing of it.
//! Does not: send anything, or read a clock: the time comes in, in milliseconds of [`now`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::window::{Breaker, Window};
use crate::config::pool::{Balance, Pooling};

/// The time over which a latency is forgotten (as Linkerd's balancer does).
const LATENCY_DECAY: Duration = Duration::from_secs(10);
/// What a failure costs in the choice by load: one that fails fast must not look cheap.
const FAILURE_COST_US: u64 = 5_000_000;
/// The part of its share with which an endpoint that came back begins, in hundredths.
const SLOW_START_PERCENT: u64 = 10;
/// Calls that an endpoint may have beyond its even share when a key leads to it, in hundredths of that share.
const BOUND_PERCENT: usize = 125;
/// The time over which the retry budget is counted.
const BUDGET_MS: u64 = 10_000;

/// Milliseconds since the process began to count, never 0.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// The endpoints of one upstream.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) rule: Pooling,
    pub(crate) endpoints: Vec<Endpoint>,
    open_max: usize,
    open: AtomicUsize,
    /// One bit for each that the error rate put out.
    ejected: AtomicU64,
    /// One bit for each that active checks put out.
    ill: AtomicU64,
    /// Calls, and apart from them retries.
    spent: Window,
    retries: AtomicU64,
    retries_refused: AtomicU64,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// What names it in a client's session: the same on every gateway.
    pub(crate) id: String,
    /// Its address without what may be secret.
    pub(crate) shown: String,
    hash: u64,
    open: AtomicUsize,
    calls: AtomicU64,
    failures: AtomicU64,
    window: Window,
    /// Peak latency, forgotten with time: microseconds, and when that was so.
    cost_us: AtomicU64,
    cost_at: AtomicU64,
    /// Mean latency of the last calls, in microseconds; 0 before the first.
    latency_us: AtomicU64,
    ejected_until: AtomicU64,
    ejections: AtomicU32,
    /// When it came back; 0 for never.
    back_at: AtomicU64,
    /// Checks in a row that ended as the last one did, and how that was.
    streak: AtomicU32,
    last_good: AtomicU64,
}

/// What one core keeps for its choices.
#[derive(Debug)]
pub(crate) struct Turns {
    current: Vec<i64>,
    lot: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Well,
    Failed,
    /// Busy, or not for us: it says nothing of the endpoint.
    Neither,
}

impl Pool {
    /// The endpoints at `urls`; a process is one endpoint without an address.
    pub(crate) fn new(rule: Pooling, urls: &[String], open_max: usize) -> Self {
        let window_ms = rule.health.error_window_ms;
        let mut endpoints: Vec<Endpoint> = urls.iter().map(|url| Endpoint::new(url, window_ms)).collect();
        if endpoints.is_empty() {
            endpoints.push(Endpoint::new("process", window_ms));
        }
        Self {
            rule,
            endpoints,
            open_max,
            open: AtomicUsize::new(0),
            ejected: AtomicU64::new(0),
            ill: AtomicU64::new(0),
            spent: Window::new(BUDGET_MS),
            retries: AtomicU64::new(0),
            retries_refused: AtomicU64::new(0),
        }
    }

    /// A place for one call, if there is one; [`Self::leave`] gives it back.
    pub(crate) fn enter(&self) -> bool {
        let next = |open: usize| (open < self.open_max).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    pub(crate) fn leave(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Which endpoint a name in a client's session means.
    pub(crate) fn named(&self, id: &str) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.id == id)
    }

    /// Those that are in, as bits.
    pub(crate) fn well(&self, now: u64) -> u64 {
        let mut ejected = self.ejected.load(Relaxed);
        for at in bits(ejected) {
            let endpoint = &self.endpoints[at];
            if endpoint.ejected_until.load(Relaxed) <= now {
                ejected &= !(1 << at);
                if self.ejected.fetch_and(!(1 << at), Relaxed) >> at & 1 == 1 {
                    endpoint.window.clear();
                    endpoint.back_at.store(now, Relaxed);
                }
            }
        }
        self.all() & !ejected & !self.ill.load(Relaxed)
    }

    fn all(&self) -> u64 {
        u64::MAX >> (64 - self.endpoints.len())
    }

    /// One that is in, or the first.
    pub(crate) fn any(&self, now: u64) -> usize {
        let well = self.well(now);
        if well == 0 { 0 } else { well.trailing_zeros() as usize }
    }

    /// The endpoint for a call, and why that one. `tried` are those that failed it already, as bits: after the first only those
    /// that are in are chosen.
    ///
    /// # Errors
    /// Milliseconds until one may be tried; 0 when there is none to wait for.
    pub(crate) fn choose(
        &self,
        tried: u64,
        key: Option<u64>,
        breakers: &[Breaker],
        turns: &mut Turns,
        now: u64,
    ) -> Result<(usize, &'static str), u64> {
        let well = self.well(now);
        let mut candidates = if tried == 0 && well == 0 { self.all() } else { well & !tried };
        let rule = &self.rule.breaker;
        let waits = |at: usize| breakers.get(at).map_or(0, |breaker| breaker.wait(rule, now));
        let mut wait = 0;
        for at in bits(candidates) {
            let own = waits(at);
            if 0 < own {
                candidates &= !(1 << at);
                wait = if wait == 0 { own } else { own.min(wait) };
            }
        }
        while candidates != 0 {
            let (at, why) = if candidates.is_power_of_two() {
                (candidates.trailing_zeros() as usize, "only one")
            } else {
                self.choose_of(candidates, key, turns, now)
            };
            if breakers.get(at).is_none_or(|breaker| breaker.enter(rule, now)) {
                return Ok((at, if well == 0 { "all are out" } else { why }));
            }
            candidates &= !(1 << at);
            wait = wait.max(1);
        }
        Err(wait)
    }

    fn choose_of(&self, candidates: u64, key: Option<u64>, turns: &mut Turns, now: u64) -> (usize, &'static str) {
        match (self.rule.balance, key) {
            (Balance::Hash, Some(key)) => self.by_key(candidates, key),
            (Balance::LeastLoaded, _) => (self.by_load(candidates, turns, now), "least loaded of two"),
            _ => (self.by_turn(candidates, turns, now), "its turn"),
        }
    }

    /// Smooth weighted round robin.
    fn by_turn(&self, candidates: u64, turns: &mut Turns, now: u64) -> usize {
        turns.current.resize(self.endpoints.len(), 0);
        let (mut total, mut best) = (0, candidates.trailing_zeros() as usize);
        for at in bits(candidates) {
            let weight = self.weight(at, now) as i64;
            total += weight;
            turns.current[at] += weight;
            if turns.current[best] < turns.current[at] {
                best = at;
            }
        }
        turns.current[best] -= total;
        best
    }

    /// The cheaper of two.
    fn by_load(&self, candidates: u64, turns: &mut Turns, now: u64) -> usize {
        let count = u64::from(candidates.count_ones());
        let first = turns.draw(count);
        let second = (first + 1 + turns.draw(count - 1)) % count;
        let nth = |n: u64| bits(candidates).nth(n as usize).unwrap_or_default();
        let (first, second) = (nth(first), nth(second));
        // One that has not been measured costs what the dearest does, so that it does not draw all calls at once.
        let dearest = bits(candidates).map(|at| self.endpoints[at].cost(now)).max().unwrap_or_default().max(1);
        let cost = |at: usize| {
            let endpoint = &self.endpoints[at];
            let own = if endpoint.cost_at.load(Relaxed) == 0 { dearest } else { endpoint.cost(now).max(1) };
            u128::from(own) * (1 + endpoint.open.load(Relaxed)) as u128 * 100 / u128::from(self.weight(at, now))
        };
        if cost(second) < cost(first) { second } else { first }
    }

    /// Rendezvous hashing: the first in the key's own order that is not above the bound.
    fn by_key(&self, candidates: u64, key: u64) -> (usize, &'static str) {
        let open: usize = bits(candidates).map(|at| self.endpoints[at].open.load(Relaxed)).sum();
        let bound = ((open + 1) * BOUND_PERCENT).div_ceil(100 * candidates.count_ones() as usize);
        let mut order: Vec<usize> = bits(candidates).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(mix(self.endpoints[at].hash ^ key)));
        match order.iter().position(|&at| self.endpoints[at].open.load(Relaxed) < bound) {
            Some(0) | None => (order[0], "its key"),
            Some(next) => (order[next], "its key, within the bound"),
        }
    }

    /// The part of its share that an endpoint gets, in hundredths.
    pub(crate) fn weight(&self, at: usize, now: u64) -> u64 {
        let health = &self.rule.health;
        let back = self.endpoints[at].back_at.load(Relaxed);
        let since = now.saturating_sub(back);
        let started = if back == 0 || health.slow_start_ms <= since {
            100
        } else {
            SLOW_START_PERCENT + (100 - SLOW_START_PERCENT) * since / health.slow_start_ms
        };
        let share = if self.is_slow(at) { health.slow_weight_percent } else { 100 };
        (started * share / 100).max(1)
    }

    /// Whether it is slow by itself, and twice as slow as the middle one of its peers.
    fn is_slow(&self, at: usize) -> bool {
        let slow_us = self.rule.health.slow_ms * 1000;
        let own = self.endpoints[at].latency_us.load(Relaxed);
        if slow_us == 0 || own <= slow_us {
            return false;
        }
        let others = self.endpoints.iter().enumerate().filter(|(other, _)| *other != at);
        let mut peers: Vec<u64> =
            others.map(|(_, peer)| peer.latency_us.load(Relaxed)).filter(|latency| 0 < *latency).collect();
        peers.sort_unstable();
        peers.get(peers.len() / 2).is_some_and(|peer| 2 * peer < own)
    }

    /// A call goes to an endpoint.
    pub(crate) fn begin(&self, at: usize, is_retry: bool, now: u64) {
        self.endpoints[at].open.fetch_add(1, Relaxed);
        self.endpoints[at].calls.fetch_add(1, Relaxed);
        if !is_retry {
            self.spent.add(now, 1, 0);
        }
    }

    /// It is no longer there.
    pub(crate) fn release(&self, at: usize) {
        self.endpoints[at].open.fetch_sub(1, Relaxed);
    }

    /// It ended.
    pub(crate) fn ended(&self, at: usize, outcome: Outcome, now: u64) {
        let endpoint = &self.endpoints[at];
        match outcome {
            Outcome::Neither => {}
            Outcome::Well => endpoint.window.add(now, 1, 0),
            Outcome::Failed => {
                endpoint.failures.fetch_add(1, Relaxed);
                endpoint.window.add(now, 1, 1);
                endpoint.costs(FAILURE_COST_US, now);
                self.judge(at, now);
            }
        }
    }

    /// The first of an answer came, after that long.
    pub(crate) fn answered(&self, at: usize, took: Duration, now: u64) {
        let took_us = took.as_micros() as u64;
        let endpoint = &self.endpoints[at];
        endpoint.costs(took_us, now);
        let old = endpoint.latency_us.load(Relaxed);
        let next = if old == 0 { took_us } else { (old * 7 + took_us * 3) / 10 };
        endpoint.latency_us.store(next.max(1), Relaxed);
    }

    /// Puts an endpoint out whose error rate is too high, if enough are left.
    fn judge(&self, at: usize, now: u64) {
        let (health, endpoint) = (&self.rule.health, &self.endpoints[at]);
        let (calls, failed) = endpoint.window.sum(now);
        if self.ejected.load(Relaxed) >> at & 1 == 1 {
            return;
        }
        let bad = health.error_percent != 0 && health.error_percent * calls <= failed * 100;
        if !bad || calls < health.error_calls_min {
            return;
        }
        let times = u64::from(endpoint.ejections.load(Relaxed)) + 1;
        let until = now + (health.ejection_ms * times).min(health.ejection_ms_max);
        let ill = self.ill.load(Relaxed);
        let most = self.endpoints.len() as u64 * health.max_ejection_percent;
        let next = |ejected: u64| {
            let out = u64::from((ejected | ill | 1 << at).count_ones());
            (ejected >> at & 1 == 0 && out * 100 <= most).then_some(ejected | 1 << at)
        };
        // Before the bit, so that nobody who sees the bit finds a time that is over.
        endpoint.ejected_until.store(until, Relaxed);
        if self.ejected.fetch_update(Relaxed, Relaxed, next).is_ok() {
            endpoint.ejections.fetch_add(1, Relaxed);
            tracing::warn!(endpoint = endpoint.shown, calls, failed, "an endpoint is ejected: it fails too often");
        }
    }

    /// An active check ended.
    pub(crate) fn checked(&self, at: usize, good: bool, now: u64) {
        let (health, endpoint) = (&self.rule.health, &self.endpoints[at]);
        let same = (endpoint.last_good.swap(u64::from(good), Relaxed) == 1) == good;
        let streak = if same { endpoint.streak.load(Relaxed).saturating_add(1) } else { 1 };
        endpoint.streak.store(streak, Relaxed);
        let bit = 1 << at;
        if good && health.healthy_checks <= streak {
            if self.ill.fetch_and(!bit, Relaxed) & bit != 0 {
                endpoint.back_at.store(now, Relaxed);
                endpoint.window.clear();
                tracing::info!(endpoint = endpoint.shown, "an endpoint answers its checks again");
            }
        } else if !good && health.unhealthy_checks <= streak && self.ill.fetch_or(bit, Relaxed) & bit == 0 {
            tracing::warn!(endpoint = endpoint.shown, "an endpoint does not answer its checks");
        }
    }

    /// Takes one retry out of the budget, if it has one.
    pub(crate) fn may_retry(&self, now: u64) -> bool {
        let rule = &self.rule.retries;
        let (calls, retries) = self.spent.sum(now);
        let budget = calls * rule.budget_percent / 100 + rule.min_per_second * BUDGET_MS / 1000;
        if budget <= retries {
            self.retries_refused.fetch_add(1, Relaxed);
            return false;
        }
        self.spent.add(now, 0, 1);
        self.retries.fetch_add(1, Relaxed);
        true
    }

    /// Calls, failures and calls in flight of all.
    pub(crate) fn counts(&self) -> (u64, u64, usize) {
        let sum = |of: fn(&Endpoint) -> &AtomicU64| self.endpoints.iter().map(|one| of(one).load(Relaxed)).sum();
        (sum(|one| &one.calls), sum(|one| &one.failures), self.open.load(Relaxed))
    }

    /// Retries that went, and those that the budget refused.
    pub(crate) fn retried(&self) -> (u64, u64) {
        (self.retries.load(Relaxed), self.retries_refused.load(Relaxed))
    }

    /// How each is, for people.
    pub(crate) fn report(&self, now: u64) -> Vec<Value> {
        let well = self.well(now);
        let rows = self.endpoints.iter().enumerate().map(|(at, endpoint)| {
            let (ill, ejected) = (self.ill.load(Relaxed) >> at & 1 == 1, self.ejected.load(Relaxed) >> at & 1 == 1);
            let (calls, failed) = endpoint.window.sum(now);
            let weight = self.weight(at, now);
            let state = match (well >> at & 1 == 1, ill, ejected) {
                (false, true, _) => "unhealthy",
                (false, ..) => "ejected",
                (true, ..) if self.is_slow(at) => "slow",
                (true, ..) if weight < 100 => "slow_start",
                (true, ..) => "healthy",
            };
            json!({
                "endpoint": endpoint.shown, "id": endpoint.id, "state": state, "weight_percent": weight,
                "open": endpoint.open.load(Relaxed), "calls": endpoint.calls.load(Relaxed),
                "failures": endpoint.failures.load(Relaxed), "latency_ms": endpoint.latency_us.load(Relaxed) / 1000,
                "window_calls": calls, "window_failures": failed, "ejections": endpoint.ejections.load(Relaxed),
                "ejected_ms": if ejected { endpoint.ejected_until.load(Relaxed).saturating_sub(now) } else { 0 },
            })
        });
        rows.collect()
    }
}

impl Endpoint {
    fn new(url: &str, window_ms: u64) -> Self {
        let digest = blake3::hash(url.as_bytes());
        let hash = u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap_or_default());
        Self {
            id: digest.to_hex()[..12].to_owned(),
            shown: shown(url),
            hash,
            open: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            window: Window::new(window_ms),
            cost_us: AtomicU64::new(0),
            cost_at: AtomicU64::new(0),
            latency_us: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            back_at: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            last_good: AtomicU64::new(1),
        }
    }

    /// Its peak latency, as far as it is not forgotten, in microseconds.
    fn cost(&self, now: u64) -> u64 {
        let age_ms = now.saturating_sub(self.cost_at.load(Relaxed));
        let kept = (-(age_ms as f64) / LATENCY_DECAY.as_millis() as f64).exp();
        (self.cost_us.load(Relaxed) as f64 * kept) as u64
    }

    /// A higher latency counts at once, a lower one little by little.
    fn costs(&self, took_us: u64, now: u64) {
        let old = self.cost(now);
        let next = if old <= took_us { took_us } else { (old * 7 + took_us * 3) / 10 };
        self.cost_us.store(next, Relaxed);
        self.cost_at.store(now, Relaxed);
    }
}

impl Turns {
    /// For one core; `seed` is any number.
    pub(crate) fn new(seed: u64) -> Self {
        Self { current: Vec::new(), lot: seed }
    }

    /// A number below `count`.
    fn draw(&mut self, count: u64) -> u64 {
        self.lot = self.lot.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.lot) % count.max(1)
    }
}

/// The finalizer of splitmix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The bits that are set, lowest first.
fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |at| mask >> at & 1 == 1)
}

/// An address without the user's part and the query.
fn shown(url: &str) -> String {
    let Ok(uri) = url.parse::<hyper::Uri>() else { return url.to_owned() };
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) => {
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", uri.path())
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
