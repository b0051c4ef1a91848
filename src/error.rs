//! Whose fault it is and what to do next.
//!
//! Promises: every refusal that leaves the node carries one stable reason; the same code stands in the log, in the
//! problem+json, in the JSON-RPC `data`, on a QUIC stream and in the exit code of the command.

use std::fmt;

/// Why a request was refused. The code of each is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request is not of the form it should have.
    BadRequest,
    /// A named limit is exceeded; the detail says which and how large it is.
    LimitExceeded,
    /// There is no such vertex, ref or route.
    NotFound,
    /// Parents of a put are not here.
    MissingParents,
    /// The ref is not where the caller expected it.
    Conflict,
    /// The id does not match the content, or a signature does not verify.
    Unverified,
    /// The caller may not do this.
    Denied,
    /// A bounded queue is full. Come back after `retry_after_ms`.
    Overloaded,
    /// The disk is full: reads go on, writes are refused until there is room.
    DiskFull,
    /// The deadline passed.
    Timeout,
    /// The node is draining or unreachable.
    Unavailable,
    /// Stored bytes do not match their checksum or hash.
    Corrupt,
    /// A cursor from another time of this node.
    CursorExpired,
    /// A defect of ours.
    Internal,
    /// The shard's primary changed under a request that does not repeat safely: it may or may not have been carried out.
    OutcomeUnknown,
    /// The node does not know who asks, and wants to.
    Unauthenticated,
    /// The caller asks more often than it may. Come back after `retry_after_ms`.
    RateLimited,
}

impl Reason {
    /// Every reason, in the order of its wire number.
    pub const ALL: [Self; 17] = [
        Self::BadRequest,
        Self::LimitExceeded,
        Self::NotFound,
        Self::MissingParents,
        Self::Conflict,
        Self::Unverified,
        Self::Denied,
        Self::Overloaded,
        Self::DiskFull,
        Self::Timeout,
        Self::Unavailable,
        Self::Corrupt,
        Self::CursorExpired,
        Self::Internal,
        Self::OutcomeUnknown,
        Self::Unauthenticated,
        Self::RateLimited,
    ];

    /// The stable name: snake case, in every log line and answer.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::LimitExceeded => "limit_exceeded",
            Self::NotFound => "not_found",
            Self::MissingParents => "missing_parents",
            Self::Conflict => "conflict",
            Self::Unverified => "unverified",
            Self::Denied => "denied",
            Self::Overloaded => "overloaded",
            Self::DiskFull => "disk_full",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::CursorExpired => "cursor_expired",
            Self::Internal => "internal",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Unauthenticated => "unauthenticated",
            Self::RateLimited => "rate_limited",
        }
    }

    /// The number on the wire: the place in [`Reason::ALL`], plus one, so that 0 means "no refusal".
    pub fn wire(self) -> u8 {
        Self::ALL.iter().position(|&reason| reason == self).map_or(u8::MAX, |at| at as u8 + 1)
    }

    /// The reason with that number on the wire.
    pub fn from_wire(raw: u8) -> Option<Self> {
        Self::ALL.get(usize::from(raw.checked_sub(1)?)).copied()
    }

    /// The HTTP status of a refusal (RFC 9110).
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Timeout => 408,
            Self::Conflict => 409,
            Self::CursorExpired => 410,
            Self::LimitExceeded => 413,
            Self::MissingParents | Self::Unverified => 422,
            Self::RateLimited => 429,
            Self::Overloaded | Self::Unavailable | Self::OutcomeUnknown => 503,
            Self::DiskFull => 507,
            Self::Corrupt | Self::Internal => 500,
        }
    }

    /// The exit code of a command: 0 ok, 1 failed check, 2 usage, 3 unreachable, 4 conflict, 5 not found, 6 denied,
    /// 7 limit, 8 timeout.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::BadRequest => 2,
            Self::Unavailable | Self::OutcomeUnknown => 3,
            Self::Conflict => 4,
            Self::NotFound | Self::MissingParents => 5,
            Self::Denied | Self::Unauthenticated => 6,
            Self::LimitExceeded | Self::Overloaded | Self::DiskFull | Self::RateLimited => 7,
            Self::Timeout => 8,
            Self::Unverified | Self::Corrupt | Self::CursorExpired | Self::Internal => 1,
        }
    }

    /// Whether the same request may succeed later without change.
    pub fn retryable(self) -> bool {
        matches!(self, Self::Overloaded | Self::Unavailable | Self::Timeout | Self::DiskFull | Self::RateLimited)
    }
}

/// A refused request: one reason, and a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The stable reason.
    pub reason: Reason,
    /// One sentence for a person, with the limit or the fix in it.
    pub detail: String,
    /// When to come back, in milliseconds; 0 where coming back does not help.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal with no time to come back.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let retry_after_ms = if reason.retryable() { crate::limits::RETRY_AFTER_MS } else { 0 };
        Self { reason, detail: detail.into(), retry_after_ms }
    }

    /// A request that is not of the form it should have.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, detail)
    }

    /// A named limit is exceeded.
    pub fn limit(what: &str, value: usize, value_max: usize, unit: &str) -> Self {
        Self::new(Reason::LimitExceeded, format!("{what}: {value} {unit}, at most {value_max} {unit}"))
    }

    /// A bounded queue is full.
    pub fn overloaded(queue: &str) -> Self {
        Self::new(Reason::Overloaded, format!("{queue} is full; try again later"))
    }
}

/// Exit code of the process after a failed sync or write of the log (P3).
pub const EXIT_DISK_FAILED: i32 = 74;
/// Exit code of the process after a promise of ours was broken.
pub const EXIT_BUG: i32 = 70;

/// Ends the process at once, every core with it: after a failed sync nobody knows what is on the disk, and recovery is the
/// repair.
pub fn fatal(exit_code: i32, reason: &dyn fmt::Display) -> ! {
    eprintln!("qmesh: fatal: {reason}");
    tracing::error!(exit_code, %reason, "fatal");
    std::process::exit(exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_1_15_reasons_survive_the_wire() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_wire(reason.wire()), Some(reason), "{}", reason.code());
        }
        assert_eq!(Reason::from_wire(0), None);
        assert_eq!(Reason::from_wire(200), None);
    }
}
