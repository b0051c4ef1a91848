//! What the pipeline decided, counted.
//!
//! Promises: one core writes, a scrape reads; every label is one of a list that does not grow with callers.
//! Does not: say who was refused. That would be a label a caller.

use super::http::metrics::Count;
use crate::security::bearer::BearerError;

/// Why a caller was let in or not, beside the reasons of a token.
const REASONS: [(&str, &str); 5] = [
    ("allowed", "token"),
    ("allowed", "anonymous"),
    ("refused", "missing"),
    ("refused", "malformed_request"),
    ("refused", "scope"),
];

/// How authentication and authorisation came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A principal.
    Token,
    /// Nobody in particular, which is permitted.
    Anonymous,
    /// Nobody in particular, which is not.
    Missing,
    /// A token shown in a way that is not taken.
    MalformedRequest,
    /// A principal who may not do this.
    Scope,
    /// A token that does not count.
    Bearer(BearerError),
}

/// The counters of one core.
#[derive(Default)]
pub struct Decisions {
    reasons: [Count; REASONS.len()],
    tokens: [Count; BearerError::CODES.len()],
    passed: Count,
    limited: Count,
}

impl Decisions {
    /// Counts who asks and whether they may.
    pub fn auth(&self, verdict: Verdict) {
        let reason = match verdict {
            Verdict::Token => 0,
            Verdict::Anonymous => 1,
            Verdict::Missing => 2,
            Verdict::MalformedRequest => 3,
            Verdict::Scope => 4,
            Verdict::Bearer(error) => {
                let code = BearerError::CODES.iter().position(|code| *code == error.code()).unwrap_or(0);
                return self.tokens[code].add(1);
            }
        };
        self.reasons[reason].add(1);
    }

    /// Counts whether the rate permitted it.
    pub fn rate(&self, passes: bool) {
        if passes { &self.passed } else { &self.limited }.add(1);
    }

    /// Decision, reason and count, for each that may be.
    pub fn auth_rows(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        let reasons =
            REASONS.iter().zip(&self.reasons).map(|((decision, reason), count)| (*decision, *reason, count.get()));
        let tokens = BearerError::CODES.iter().zip(&self.tokens).map(|(code, count)| ("refused", *code, count.get()));
        reasons.chain(tokens)
    }

    /// Decision and count of the rate.
    pub fn rate_rows(&self) -> [(&'static str, u64); 2] {
        [("passed", self.passed.get()), ("limited", self.limited.get())]
    }
}
