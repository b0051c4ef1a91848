//! Consensus: the facade in front of openraft. What a shard, and the control plane, see of it.
//!
//! Promises: what is applied was synced by a majority of the group's voters and by this replica; every replica applies the same
//! entries in the same order; a restarted replica never resumes an office that it held before, it is elected again.
//! Does not: know what an entry means ([`Machine`] does), or how bytes reach another node ([`crate::router::Peers`] does).
//!
//! openraft counts log entries from 0, the log of this house from 1; the difference is made up in [`wire`] and [`store`] alone.

mod network;
mod office;
mod pulse;
mod serve;
mod store;
mod track;
pub mod wire;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config, EntryPayload, Instant as _, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use qmesh_storage::{Entry, Location, Payload};

use crate::error::{Reason, Refusal};
use crate::ids::{LogIndex, NodeId, ShardId};
use crate::router::Peers;
pub(super) use store::Store;
pub(super) use track::{Pending, Track};

/// Bytes of records in one proposal: a batch is closed when the next record would exceed them. A single larger record goes alone.
pub const PROPOSAL_BYTES_MAX: usize = 1 << 20;
/// Proposals of one shard that wait for their commit; what comes then gathers for the next one.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 8;
/// Bytes of entries in one append request; at least one entry is sent, whatever its size.
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// Append requests to one replica that wait for their answers.
pub const APPENDS_IN_FLIGHT_MAX: usize = 8;
/// Time for a group to end before its log is closed under it.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Entries of one append request.
const APPEND_ENTRIES_MAX: u64 = 256;

// An append request of one proposal of the largest size, or of one largest record, fits into a frame of the mesh.
const _: () = assert!(qmesh_storage::RECORD_BYTES_MAX + (1 << 12) <= qmesh_net::wire::FRAME_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX <= qmesh_storage::RECORD_BYTES_MAX);

/// The times of an election, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// A primary tells its followers that it lives.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing for a random time between these two stands for election.
    pub election_ms_min: u64,
    /// See above.
    pub election_ms_max: u64,
    /// A restarted primary resumes its office without an election. Never outside the simulation, which shows why: a primary whose own
    /// sync was still under way when the others committed comes back without those entries, and puts others in their places.
    pub restores_office: bool,
}

impl Default for Timers {
    fn default() -> Self {
        Self { heartbeat_ms: 50, election_ms_min: 200, election_ms_max: 400, restores_office: false }
    }
}

/// What is proposed: records, and how far the shard was committed when they were.
#[derive(Clone)]
pub struct Proposal {
    /// Entries up to this index were committed.
    committed: u64,
    payload: Payload,
}

/// What an entry did when it was applied.
#[derive(Clone, Debug, Default)]
pub enum Applied {
    /// Nothing that anyone waits for.
    #[default]
    Nothing,
    /// One outcome a record.
    Records(Vec<RecordOutcome>),
    /// What a machine of another kind answers.
    Opaque(Bytes),
}

/// What a record did when it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// A vertex is here now; whether it was before.
    Vertex {
        /// It was here already.
        existed: bool,
    },
    /// A move of a ref happened, or came too late because its primary had been replaced.
    Ref {
        /// Where the ref is now.
        position: crate::dag::refs::Position,
        /// Whether this record moved it there.
        moved: bool,
    },
}

/// What committed entries make of a replica.
pub trait Machine {
    /// Applies a committed entry with one record at each of `locations`.
    fn apply(&self, shard: ShardId, entry: &Entry, locations: &[Location]) -> Applied;
}

/// openraft's types, as they are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;

impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = Applied;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::Vote<LeaderId>;
    type Payload = EntryPayload<Proposal, u64, ()>;
    type Entry = openraft::alias::DefaultEntryOf<Self>;
    type AsyncRuntime = crate::runtime::ConsensusRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: 'static;
    type ErrorSource = openraft::AnyError;
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// This replica was not the primary: nothing was proposed, or its outcome is unknown.
    NotPrimary,
    /// The group has ended.
    Ended,
}

/// One replica of one group.
pub struct Group {
    shard: ShardId,
    node: NodeId,
    raft: Raft<Types, store::Applier>,
    store: Rc<Store>,
    office: Rc<office::Office>,
    /// Reads that asked a majority since start.
    read_rounds: Cell<u64>,
    /// A replica that answered within this time lives.
    lately: Duration,
}

/// What a group looks like from this replica.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GroupView {
    /// The shard.
    pub shard: u16,
    /// This node.
    pub node: u64,
    /// primary, follower, candidate or learner.
    pub role: String,
    /// The term.
    pub term: u64,
    /// The primary, as far as this replica knows.
    pub primary: Option<u64>,
    /// Voters.
    pub voters: BTreeSet<u64>,
    /// Learners.
    pub learners: BTreeSet<u64>,
    /// The entry that made them so; `None` before the first.
    pub membership_at: Option<u64>,
    /// Whether the voters are just being changed.
    pub is_joint: bool,
    /// At the primary: replicas that answered lately.
    pub live: BTreeSet<u64>,
    /// Last entry of its log.
    pub last: u64,
    /// Last entry that is synced here.
    pub durable: u64,
    /// Last entry that is known to be committed.
    pub committed: u64,
    /// Last entry that was applied.
    pub applied: u64,
    /// At the primary: the last entry of each replica, as far as it answered.
    pub matched: BTreeMap<u64, u64>,
}

impl Group {
    /// Starts the replica on what its log holds.
    ///
    /// # Errors
    /// A sentence; the vote file is not readable, or the timers contradict each other.
    pub(in crate::shard) async fn start(
        node: NodeId,
        store: Rc<Store>,
        machine: Rc<dyn Machine>,
        peers: Rc<dyn Peers>,
        timers: Timers,
    ) -> Result<Rc<Self>, String> {
        let shard = store.shard();
        let config = Config {
            cluster_name: format!("shard-{}", shard.0),
            heartbeat_interval: timers.heartbeat_ms,
            election_timeout_min: timers.election_ms_min,
            election_timeout_max: timers.election_ms_max,
            max_payload_entries: APPEND_ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::Never,
            // With flushes that are reported later, a restarted leader that resumed its office could reuse the place of an entry
            // that the others have already committed.
            enable_leader_restore: Some(timers.restores_office),
            enable_pre_vote: Some(true),
            broadcast_submitted_on_append: Some(true),
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| format!("timers: {error}"))?);
        let lately = Duration::from_millis(4 * timers.election_ms_max);
        let office = Rc::new(office::Office::new());
        let network = network::Network { shard, peers, office: office.clone() };
        let applier = store::Applier { store: store.clone(), machine };
        let raft = Raft::new(node.0, config, network, store::Handle(store.clone()), applier).await;
        let raft = raft.map_err(|error| format!("shard {}: {error}", shard.0))?;
        office.runs(raft.metrics());
        Ok(Rc::new(Self { shard, node, raft, store, office, read_rounds: Cell::new(0), lately }))
    }

    /// Makes a new group with this node as its only voter; one that has entries already is left as it is.
    ///
    /// # Errors
    /// A sentence.
    pub async fn initialize(&self) -> Result<(), String> {
        if self.raft.is_initialized().await.map_err(|error| error.to_string())? {
            return Ok(());
        }
        self.raft.initialize(BTreeSet::from([self.node.0])).await.map_err(|error| error.to_string())
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The primary, as far as this replica knows.
    pub fn primary(&self) -> Option<NodeId> {
        self.raft.metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Whether this replica holds the office and has applied everything that was committed before it took it.
    pub fn is_ready_primary(&self) -> bool {
        let term = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return false;
            }
            metrics.current_term
        };
        self.store.track().applied_term() == term
    }

    /// The last entry that this replica has applied, and for how long it may have missed what was committed since, in milliseconds.
    /// `None`: it has not heard yet.
    pub fn staleness_ms(&self) -> (LogIndex, Option<u64>) {
        let applied = self.store.track().applied_index();
        let staleness_ms = if self.is_ready_primary() {
            self.office.majority_age_ms(self.store.track().applied_term()).map(|(age_ms, _)| age_ms)
        } else {
            self.office.pulse.borrow_mut().staleness_ms(self.office.now_ms(), applied)
        };
        (LogIndex(applied), staleness_ms)
    }

    /// Proposes records and waits until they are applied here. The index is that of their entry.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, payload: Payload) -> Result<(LogIndex, Applied), ProposeError> {
        let committed = self.store.track().committed();
        let written = self.raft.client_write(Proposal { committed, payload }).await;
        match written {
            Ok(response) => Ok((LogIndex(response.log_id.index + 1), response.data)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::NotPrimary),
            Err(error) => {
                tracing::warn!(shard = self.shard.0, %error, "a proposal has no outcome");
                Err(ProposeError::Ended)
            }
        }
    }

    /// Waits until this replica has applied everything that was committed anywhere when this was called: asks a majority whether it
    /// still is the primary (Raft §6.4, read index).
    ///
    /// # Errors
    /// Unavailable, when it is not, or cannot reach a majority.
    pub async fn confirm(&self) -> Result<(), Refusal> {
        self.read_rounds.set(self.read_rounds.get() + 1);
        self.raft
            .ensure_linearizable(ReadPolicy::ReadIndex)
            .await
            .map(drop)
            .map_err(|error| Refusal::new(Reason::Unavailable, format!("shard {}: {error}", self.shard.0)))
    }

    /// Adds a replica that takes entries and does not vote. Returns when the change is committed, not when it has caught up.
    ///
    /// # Errors
    /// A sentence: not the primary, or a change is under way.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), String> {
        self.raft.add_learner(node.0, (), false).await.map(drop).map_err(|error| error.to_string())
    }

    /// Makes exactly these nodes the voters; voters that leave stay as learners when `keep`.
    ///
    /// # Errors
    /// A sentence: not the primary, a change is under way, or a new voter is no learner yet.
    pub async fn set_voters(&self, voters: BTreeSet<u64>, keep: bool) -> Result<(), String> {
        self.raft.change_membership(voters, keep).await.map(drop).map_err(|error| error.to_string())
    }

    /// Removes learners.
    ///
    /// # Errors
    /// A sentence.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), String> {
        let change = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        self.raft.change_membership(change, false).await.map(drop).map_err(|error| error.to_string())
    }

    /// Hands the office to another voter, which must be caught up to take it.
    ///
    /// # Errors
    /// A sentence.
    pub async fn transfer(&self, to: NodeId) -> Result<(), String> {
        self.raft.trigger().transfer_leader(to.0).await.map_err(|error| error.to_string())
    }

    /// What the group looks like from here.
    pub fn view(&self) -> GroupView {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let matched = metrics.replication.iter().flatten();
        let lately = self.lately;
        let live = metrics
            .heartbeat
            .iter()
            .flatten()
            .filter(|(_, heard)| heard.as_ref().is_some_and(|heard| heard.elapsed() <= lately));
        let live = live.map(|(node, _)| *node);
        let role = match metrics.state {
            ServerState::Leader => "primary",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "ended",
        };
        let track = self.store.track();
        GroupView {
            shard: self.shard.0,
            node: self.node.0,
            role: role.to_owned(),
            term: metrics.current_term,
            primary: metrics.current_leader,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            membership_at: metrics.membership_config.log_id().as_ref().map(|id| id.index + 1),
            is_joint: 1 < membership.get_joint_config().len(),
            live: live.collect(),
            last: track.last_index(),
            durable: track.durable_index(),
            committed: metrics.local_committed.as_ref().map_or(0, |id| id.index + 1),
            applied: track.applied_index(),
            matched: matched.map(|(node, id)| (*node, id.as_ref().map_or(0, |id| id.index + 1))).collect(),
        }
    }

    /// Ends the replica: no more is proposed, appended or applied. One that waits for room on its disk does not hear of it; the close
    /// of the log ends it.
    pub async fn end(&self) {
        match tokio::time::timeout(END_LIMIT, self.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::warn!(shard = self.shard.0, "the group's task had ended already"),
            Err(_) => tracing::warn!(shard = self.shard.0, "the group does not end by itself"),
        }
    }
}

impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, committed {}", self.payload, self.committed)
    }
}

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}
