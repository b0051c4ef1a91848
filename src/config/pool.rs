//! How calls are spread over the endpoints of an upstream, and when one of them is left out.
//!
//! Promises: every number has a unit in its key, a default, and bounds that are checked. Does not: measure anything.

use std::time::Duration;

use serde::Deserialize;

/// Endpoints of one upstream: one bit of a word each.
pub const ENDPOINTS_MAX: usize = 64;
/// A day, the most that a time may be.
const DAY_MS: u64 = 86_400_000;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other, by weight (S4.1-2).
    #[default]
    RoundRobin,
    /// The cheaper of two drawn by lot: latency times calls in flight (S4.1-3).
    LeastLoaded,
    /// The same endpoint for the same key, within a bounded load (S4.1-4).
    Hash,
}

impl Balance {
    /// Its name in a declaration.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastLoaded => "least_loaded",
            Self::Hash => "hash",
        }
    }
}

/// The active checks, and the two detectors that watch calls.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Whether endpoints are asked how they are.
    pub active: bool,
    /// Time between two checks; it varies by a tenth.
    pub interval_ms: u64,
    /// Time for one check.
    pub timeout_ms: u64,
    /// Good checks in a row that take an endpoint in again.
    pub healthy_checks: u32,
    /// Bad checks in a row that take it out.
    pub unhealthy_checks: u32,
    /// Failed calls, in hundredths of all, that eject an endpoint; 0 for never.
    pub error_percent: u64,
    /// The time that is looked back.
    pub error_window_ms: u64,
    /// Calls in that time below which nothing is concluded.
    pub error_calls_min: u64,
    /// How long an ejection lasts, the first time; it grows by that with each one after.
    pub ejection_ms: u64,
    /// The most that it lasts.
    pub ejection_ms_max: u64,
    /// Endpoints, in hundredths of all, that may be out when one is ejected.
    pub max_ejection_percent: u64,
    /// Latency above which an endpoint gets less, when it is also twice that of its peers; 0 for never.
    pub slow_ms: u64,
    /// What it gets, in hundredths of its share.
    pub slow_weight_percent: u64,
    /// Time in which an endpoint that came back is given its whole share again.
    pub slow_start_ms: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            active: true,
            interval_ms: 10_000,
            timeout_ms: 5_000,
            healthy_checks: 2,
            unhealthy_checks: 3,
            error_percent: 5,
            error_window_ms: 30_000,
            error_calls_min: 20,
            ejection_ms: 30_000,
            ejection_ms_max: 300_000,
            max_ejection_percent: 50,
            slow_ms: 500,
            slow_weight_percent: 25,
            slow_start_ms: 10_000,
        }
    }
}

/// The breaker of each tool at each endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerRule {
    /// Failures without an answer between them that open it; 0 for never.
    pub failures: u64,
    /// The time within which they must fall.
    pub window_ms: u64,
    /// How long it is open, the first time; twice as long with each trial that fails.
    pub open_ms: u64,
    /// The most that it is open.
    pub open_ms_max: u64,
}

impl Default for BreakerRule {
    fn default() -> Self {
        Self { failures: 10, window_ms: 60_000, open_ms: 30_000, open_ms_max: 600_000 }
    }
}

/// How often what failed is asked again elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Retries, in hundredths of the calls of the last ten seconds (S3.1-4).
    pub budget_percent: u64,
    /// Retries a second that are allowed however few calls there are.
    pub min_per_second: u64,
    /// Attempts beyond the first, for one call; 0 for none.
    pub attempts_max: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { budget_percent: 20, min_per_second: 1, attempts_max: 2 }
    }
}

/// All that is said of an upstream's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pooling {
    /// How one is chosen.
    pub balance: Balance,
    /// The argument whose value is the key of [`Balance::Hash`]; the caller where it is none.
    pub hash_argument: Option<String>,
    /// When one is left out.
    pub health: Health,
    /// When a tool of one is left out.
    pub breaker: BreakerRule,
    /// When a call goes to another.
    pub retries: Retries,
}

impl Pooling {
    /// Checks every number.
    ///
    /// # Errors
    /// The first that is out of its bounds, with them.
    pub fn check(&self) -> Result<(), String> {
        let Self { balance, hash_argument, health, breaker, retries } = self;
        if hash_argument.is_some() && *balance != Balance::Hash {
            return Err("hash_argument belongs to balance = \"hash\"".to_owned());
        }
        for (key, value, least, most) in [
            ("health.interval_ms", health.interval_ms, 10, DAY_MS),
            ("health.timeout_ms", health.timeout_ms, 1, DAY_MS),
            ("health.healthy_checks", health.healthy_checks.into(), 1, 100),
            ("health.unhealthy_checks", health.unhealthy_checks.into(), 1, 100),
            ("health.error_percent", health.error_percent, 0, 100),
            ("health.error_window_ms", health.error_window_ms, 60, DAY_MS),
            ("health.error_calls_min", health.error_calls_min, 1, 100_000),
            ("health.ejection_ms", health.ejection_ms, 1, DAY_MS),
            ("health.ejection_ms_max", health.ejection_ms_max, health.ejection_ms, DAY_MS),
            ("health.max_ejection_percent", health.max_ejection_percent, 0, 99),
            ("health.slow_ms", health.slow_ms, 0, DAY_MS),
            ("health.slow_weight_percent", health.slow_weight_percent, 1, 100),
            ("health.slow_start_ms", health.slow_start_ms, 0, DAY_MS),
            ("breaker.failures", breaker.failures, 0, 100_000),
            ("breaker.window_ms", breaker.window_ms, 60, DAY_MS),
            ("breaker.open_ms", breaker.open_ms, 1, DAY_MS),
            ("breaker.open_ms_max", breaker.open_ms_max, breaker.open_ms, DAY_MS),
            ("retries.budget_percent", retries.budget_percent, 0, 100),
            ("retries.min_per_second", retries.min_per_second, 0, 1000),
            ("retries.attempts_max", retries.attempts_max.into(), 0, 10),
        ] {
            super::upstream::within(key, value, least, most)?;
        }
        Ok(())
    }

    /// Time for one active check.
    pub fn check_timeout(&self) -> Duration {
        Duration::from_millis(self.health.timeout_ms)
    }
}
