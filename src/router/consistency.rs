//! How new an answer must be, and how new it is.
//!
//! Promises: what is not said is linearizable. Does not: measure anything.

use std::fmt;
use std::str::FromStr;

use crate::error::Refusal;
use crate::ids::Token;

/// How new an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As of a moment between the question and the answer.
    #[default]
    Linearizable,
    /// Whatever the replica that is asked knows, if it is surely not older than so many milliseconds; otherwise linearizable.
    Bounded {
        /// The bound.
        staleness_ms_max: u32,
    },
    /// Whatever the replica that is asked knows.
    Any,
}

/// Who answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnsweredBy {
    /// The shard's primary.
    #[default]
    Primary,
    /// Another replica, without asking it.
    Replica,
}

/// How new an answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Who answered.
    pub answered: AnsweredBy,
    /// What was acknowledged longer ago than this is in the answer, in milliseconds. `None`: the replica has not heard yet.
    pub staleness_ms: Option<u64>,
    /// The entry up to which the answer knows everything; of one shard only, and not known of another node's answer.
    pub applied: Option<Token>,
}

impl Freshness {
    /// Of an answer that was as new as it could be.
    pub const NOW: Self = Self { answered: AnsweredBy::Primary, staleness_ms: Some(0), applied: None };

    /// Of an answer that is put together from this and another.
    pub fn and(self, other: Self) -> Self {
        let answered = if self.answered == AnsweredBy::Primary { other.answered } else { self.answered };
        let staleness_ms = self.staleness_ms.zip(other.staleness_ms).map(|(one, other)| one.max(other));
        Self { answered, staleness_ms, applied: None }
    }

    /// Whether such an answer is new enough.
    pub fn suffices(&self, consistency: Consistency) -> bool {
        match consistency {
            Consistency::Linearizable => false,
            Consistency::Bounded { staleness_ms_max } => {
                self.staleness_ms.is_some_and(|staleness_ms| staleness_ms <= u64::from(staleness_ms_max))
            }
            Consistency::Any => true,
        }
    }
}

impl AnsweredBy {
    /// Its word in headers and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

impl FromStr for Consistency {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let bound = |text: &str| text.strip_suffix("ms").unwrap_or(text).parse().ok();
        match text {
            "linearizable" | "" => Some(Self::Linearizable),
            "any" => Some(Self::Any),
            _ => {
                text.strip_prefix("bounded:").and_then(bound).map(|staleness_ms_max| Self::Bounded { staleness_ms_max })
            }
        }
        .ok_or_else(|| {
            Refusal::bad_request(format!("consistency {text:?} is none of linearizable, bounded:MILLISECONDS, any"))
        })
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => f.write_str("linearizable"),
            Self::Bounded { staleness_ms_max } => write!(f, "bounded:{staleness_ms_max}"),
            Self::Any => f.write_str("any"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s1_2_6_a_consistency_is_one_of_three_words() {
        let check = |text: &str, expected: Option<Consistency>| {
            assert_eq!(text.parse::<Consistency>().ok(), expected, "{text:?}");
            if let Some(consistency) = expected {
                assert_eq!(consistency.to_string().parse::<Consistency>().unwrap(), consistency);
            }
        };
        check("linearizable", Some(Consistency::Linearizable));
        check("", Some(Consistency::Linearizable));
        check("any", Some(Consistency::Any));
        check("bounded:500", Some(Consistency::Bounded { staleness_ms_max: 500 }));
        check("bounded:500ms", Some(Consistency::Bounded { staleness_ms_max: 500 }));
        for wrong in ["bounded", "bounded:", "bounded:-1", "bounded:1s", "bounded:4294967296", "Any", "stale"] {
            check(wrong, None);
        }
    }

    #[test]
    fn s1_2_6_an_answer_is_as_old_as_its_oldest_part() {
        let replica = |staleness_ms| Freshness { answered: AnsweredBy::Replica, staleness_ms, applied: None };
        assert_eq!(Freshness::NOW.and(replica(Some(7))), replica(Some(7)));
        assert_eq!(replica(Some(9)).and(replica(Some(7))), replica(Some(9)));
        assert_eq!(replica(None).and(Freshness::NOW), replica(None));
        let bounded = |staleness_ms_max| Consistency::Bounded { staleness_ms_max };
        assert!(replica(Some(7)).suffices(bounded(7)) && !replica(Some(8)).suffices(bounded(7)));
        assert!(replica(None).suffices(Consistency::Any) && !replica(None).suffices(bounded(u32::MAX)));
        assert!(!Freshness::NOW.suffices(Consistency::Linearizable));
    }
}
