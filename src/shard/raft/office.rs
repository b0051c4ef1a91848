//! What a group knows of its primary's office in time: the clock and openraft's figures behind [`super::pulse`].
//!
//! Promises: what a request to a replica claims holds for the commit that the request carries. Does not: decide anything.

use std::cell::{OnceCell, RefCell};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftMetrics;
use openraft::raft::AppendEntriesRequest;
use openraft::{Instant as _, ServerState};
use tokio::time::Instant;

use super::Types;
use super::pulse::{Pulse, Stamp};
use crate::ids::NodeId;

type Figures = WatchReceiverOf<Types, RaftMetrics<Types>>;

/// See the file.
pub(super) struct Office {
    began: Instant,
    pub(super) pulse: RefCell<Pulse>,
    /// openraft's figures, once it runs.
    figures: OnceCell<Figures>,
}

impl Office {
    /// Of a replica that begins to live now.
    pub(super) fn new() -> Self {
        // Not the generator of consensus: the chances of a simulated world are for what may go wrong in it.
        let chance = RandomState::new().build_hasher().finish();
        Self { began: Instant::now(), pulse: RefCell::new(Pulse::new(chance)), figures: OnceCell::new() }
    }

    /// openraft runs.
    pub(super) fn runs(&self, figures: Figures) {
        // It is set once, by who started it.
        let _ = self.figures.set(figures);
    }

    /// Milliseconds since this replica began to live.
    pub(super) fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// At the primary of `term`: how long ago a majority acknowledged the office, and the last entry that is committed.
    pub(super) fn majority_age_ms(&self, term: u64) -> Option<(u64, u64)> {
        let figures = self.figures.get()?.borrow_watched();
        if figures.state != ServerState::Leader || figures.current_term != term {
            return None;
        }
        let committed = figures.cluster_committed.max(figures.local_committed);
        let age_ms = if figures.membership_config.membership().voter_ids().eq([figures.id]) {
            0
        } else {
            figures.last_quorum_acked.as_ref()?.into_inner().elapsed().as_millis() as u64
        };
        Some((age_ms, committed.map_or(0, |id| id.index + 1)))
    }

    /// What goes to `node` with `request`.
    pub(super) fn echo(&self, node: NodeId, request: &AppendEntriesRequest<Types>) -> Stamp {
        let term = request.vote.leader_id.term;
        // A primary that has not committed an entry of its own term does not know yet what was committed before it; and what was
        // committed since the request was made is not in it, though the figures know of it.
        let known = request.leader_commit.filter(|id| *id.leader_id == term).map(|id| id.index + 1);
        let age_ms = known.and_then(|known| {
            let (age_ms, committed) = self.majority_age_ms(term)?;
            (committed <= known).then_some(age_ms)
        });
        self.pulse.borrow().echo(node.0, age_ms)
    }

    /// A request of the primary came, with `echo`.
    pub(super) fn claimed(&self, echo: Stamp, request: &AppendEntriesRequest<Types>) {
        if let Some(committed) = request.leader_commit {
            self.pulse.borrow_mut().claimed(self.now_ms(), echo, committed.index + 1);
        }
    }

    /// What an answer to the primary is stamped with.
    pub(super) fn stamp(&self) -> Stamp {
        self.pulse.borrow().stamp(self.now_ms())
    }
}
