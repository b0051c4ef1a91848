//! How old what a replica has applied may be, told without trusting two clocks to agree.
//!
//! A replica stamps each answer to its primary by its own clock. The primary sends the last stamp back with its next request, less
//! the age of the last moment at which a majority acknowledged its office. What the primary had committed then is in the request,
//! so a replica that has applied as much was current at that moment of its own clock, however long the request travelled, and
//! whoever else has been elected since.
//!
//! Promises: an age that is told is never too small. Pure: the time comes in.
//! Does not: ask anybody. A replica that hears nothing only grows older.

use std::collections::{BTreeMap, VecDeque};

/// Moments that wait for the entries that were committed then.
const CLAIMS_MAX: usize = 64;
/// Milliseconds of one life that a stamp has room for: 34 years.
const MOMENT_MAX: u64 = (1 << 40) - 1;

/// A moment of a replica's life, by that replica's clock. Life 0 is no stamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// A number of this life of the replica, so that a stamp of another is not taken for one of this.
    pub(super) life: u16,
    /// Milliseconds since it began.
    pub(super) moment_ms: u64,
}

/// See the file.
pub(super) struct Pulse {
    life: u16,
    /// At a primary: the last stamp of each replica.
    stamps: BTreeMap<u64, Stamp>,
    /// At the others: commits that were heard of, growing, each with the moment at which there was no later one.
    claims: VecDeque<(u64, u64)>,
    current_at_ms: Option<u64>,
}

impl Pulse {
    /// A replica that has heard nothing. `chance` differs from life to life.
    pub(super) fn new(chance: u64) -> Self {
        let life = (chance as u16).max(1);
        Self { life, stamps: BTreeMap::new(), claims: VecDeque::new(), current_at_ms: None }
    }

    /// What an answer to the primary is stamped with.
    pub(super) fn stamp(&self, now_ms: u64) -> Stamp {
        Stamp { life: self.life, moment_ms: now_ms.min(MOMENT_MAX) }
    }

    /// The primary hears a stamp of `node`. Answers may overtake each other.
    pub(super) fn heard(&mut self, node: u64, stamp: Stamp) {
        if stamp.life == 0 {
            return;
        }
        let known = self.stamps.entry(node).or_insert(stamp);
        if known.life != stamp.life || known.moment_ms < stamp.moment_ms {
            *known = stamp;
        }
    }

    /// What the primary sends to `node`: when it was current, by its own clock, once it has applied what the request says is
    /// committed. `majority_age_ms`: how long ago a majority acknowledged the office, if nothing was committed since that the
    /// request does not know.
    pub(super) fn echo(&self, node: u64, majority_age_ms: Option<u64>) -> Stamp {
        let (Some(stamp), Some(age_ms)) = (self.stamps.get(&node), majority_age_ms) else { return Stamp::default() };
        // A millisecond more: both are rounded down.
        match stamp.moment_ms.checked_sub(age_ms + 1) {
            Some(moment_ms) => Stamp { moment_ms, ..*stamp },
            None => Stamp::default(),
        }
    }

    /// A replica hears its own stamp back, with what was committed.
    pub(super) fn claimed(&mut self, now_ms: u64, echo: Stamp, committed: u64) {
        if echo.life != self.life || now_ms < echo.moment_ms {
            return;
        }
        let is_full = self.claims.len() == CLAIMS_MAX;
        match self.claims.back_mut() {
            Some((last, moment_ms)) if *last == committed => *moment_ms = (*moment_ms).max(echo.moment_ms),
            Some((last, _)) if committed < *last => {}
            // The older ones are those that come true first.
            _ if is_full => {}
            _ => self.claims.push_back((committed, echo.moment_ms)),
        }
    }

    /// For how long this replica, which has applied up to `applied`, may have missed something. `None`: it cannot tell.
    pub(super) fn staleness_ms(&mut self, now_ms: u64, applied: u64) -> Option<u64> {
        // The last one stays, so that a later moment of the same commit is taken into it.
        while let Some(&(committed, moment_ms)) = self.claims.front()
            && committed <= applied
        {
            self.current_at_ms = self.current_at_ms.max(Some(moment_ms));
            if self.claims.len() == 1 {
                break;
            }
            self.claims.pop_front();
        }
        self.current_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: u64 = 2;

    fn scene() -> (Pulse, Pulse) {
        (Pulse::new(7), Pulse::new(9))
    }

    #[test]
    fn s1_2_6_a_replica_is_as_old_as_the_stamp_that_came_back_and_the_age_of_the_majority() {
        let (mut primary, mut replica) = scene();
        assert_eq!(replica.staleness_ms(1000, 5), None);
        primary.heard(NODE, replica.stamp(1000));
        // However long the request travels.
        replica.claimed(1900, primary.echo(NODE, Some(30)), 5);
        assert_eq!(replica.staleness_ms(1900, 4), None, "what was committed is not applied");
        assert_eq!(replica.staleness_ms(1900, 5), Some(1900 - (1000 - 31) + 1));
        assert_eq!(replica.staleness_ms(9000, 5), Some(9000 - (1000 - 31) + 1));
        // The same commit, heard of again, is current again.
        primary.heard(NODE, replica.stamp(9000));
        replica.claimed(9001, primary.echo(NODE, Some(0)), 5);
        assert_eq!(replica.staleness_ms(9001, 5), Some(3));
        // A primary that no majority acknowledges says nothing.
        primary.heard(NODE, replica.stamp(9100));
        replica.claimed(9101, primary.echo(NODE, None), 5);
        assert_eq!(replica.staleness_ms(9101, 5), Some(103));
    }

    #[test]
    fn s1_2_6_a_commit_counts_when_it_is_applied_and_not_before() {
        let (_, mut replica) = scene();
        for index in 1..=2 * CLAIMS_MAX as u64 {
            replica.claimed(10 * index, replica.stamp(10 * index), index);
        }
        assert_eq!(replica.staleness_ms(2000, 0), None);
        assert_eq!(replica.staleness_ms(2000, 3), Some(2000 - 30 + 1));
        assert_eq!(replica.staleness_ms(2000, 2), Some(2000 - 30 + 1), "it does not grow older by asking");
        assert_eq!(replica.staleness_ms(2000, 1000), Some(2000 - 10 * CLAIMS_MAX as u64 + 1));
        // An older request that was overtaken takes nothing back.
        replica.claimed(2001, replica.stamp(2001), 1);
        assert_eq!(replica.staleness_ms(2001, 1000), Some(2001 - 10 * CLAIMS_MAX as u64 + 1));
    }

    #[test]
    fn s1_2_6_a_stamp_of_another_life_or_of_the_future_is_nothing() {
        let (mut primary, mut replica) = scene();
        primary.heard(NODE, Pulse::new(8).stamp(500));
        replica.claimed(600, primary.echo(NODE, Some(0)), 1);
        primary.heard(NODE, replica.stamp(700));
        replica.claimed(600, primary.echo(NODE, Some(0)), 1);
        assert_eq!(replica.staleness_ms(600, 1), None);
        // A life that is new replaces the one before, whose moments were greater.
        primary.heard(NODE, Pulse::new(8).stamp(20));
        assert_eq!(primary.echo(NODE, Some(0)), Stamp { life: 8, moment_ms: 19 });
        primary.heard(NODE, Stamp::default());
        assert_eq!(primary.echo(NODE, Some(30)), Stamp::default());
        assert_eq!(Pulse::new(0).stamp(0).life, 1);
    }
}
