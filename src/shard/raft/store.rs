//! openraft's storage on this core's log: entries go into the commit round that all groups of the core share.
//!
//! Promises: openraft hears that entries are flushed when the round that holds them is synced; a vote is on stable storage before
//! it is answered; an entry is applied only when it is synced here too, because the index names its place; a full disk holds its
//! group up until there is room, and ends nothing.
//! Does not: cut the log short, or make snapshots.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, LogId, RaftSnapshotBuilder};
use qmesh_storage::io::Disk;
use qmesh_storage::{AppendError, Committed, Entry, Log};
use tokio::sync::Notify;

use super::track::{Membership, Track};
use super::{APPEND_BYTES_MAX, Machine, Types, wire};
use crate::ids::ShardId;

/// A log without room is asked again after so long.
const ROOM_RETRY: Duration = Duration::from_millis(5);

/// What one group keeps: its entries in the core's log, and its vote in a file beside it.
pub(in crate::shard) struct Store {
    shard: ShardId,
    log: Log,
    disk: Rc<dyn Disk>,
    vote_path: PathBuf,
    vote: RefCell<Option<VoteOf<Types>>>,
    track: RefCell<Track>,
    flushes: RefCell<VecDeque<Flush>>,
    landed: Notify,
}

/// Entries that were appended together and who is told when they are synced.
struct Flush {
    entries_left: usize,
    told: IOFlushed<Types>,
}

impl Store {
    /// The store of a group whose entries were replayed into `track`.
    ///
    /// # Errors
    /// The vote file is not readable: a replica that does not know its vote must not vote.
    pub(in crate::shard) async fn open(
        shard: ShardId,
        log: Log,
        disk: Rc<dyn Disk>,
        vote_path: PathBuf,
        mut track: Track,
    ) -> Result<Rc<Self>, String> {
        let vote = match disk.load(&vote_path).await {
            Ok(file) => Some(wire::parse_vote_file(shard, &file).map_err(|error| {
                format!("{}: {error}; restore it, or start this node empty under a new id", vote_path.display())
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{}: {error}", vote_path.display())),
        };
        // The entry that makes a group is of term 0 and comes before the first vote; every other comes behind the vote of its term.
        if vote.is_none() && track.term(track.last_index()).is_some_and(|term| 0 < term) {
            return Err(format!(
                "{} is missing beside a log with entries; restore it, or start this node empty under a new id",
                vote_path.display()
            ));
        }
        track.opened();
        Ok(Rc::new(Self {
            shard,
            log,
            disk,
            vote_path,
            vote: RefCell::new(vote),
            track: RefCell::new(track),
            flushes: RefCell::default(),
            landed: Notify::new(),
        }))
    }

    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn track(&self) -> Ref<'_, Track> {
        self.track.borrow()
    }

    pub(super) fn has_room(&self, bytes: usize) -> Result<(), AppendError> {
        self.log.has_room(bytes)
    }

    /// An entry of this group is synced.
    pub(in crate::shard) fn landed(&self, entry: &Committed<'_>) {
        self.track.borrow_mut().landed(entry.term, entry.index, entry.place, entry.locations);
        let mut flushes = self.flushes.borrow_mut();
        if let Some(flush) = flushes.front_mut() {
            flush.entries_left -= 1;
        }
        while let Some(flush) = flushes.pop_front_if(|flush| flush.entries_left == 0) {
            flush.told.io_completed(Ok(()));
        }
        drop(flushes);
        self.landed.notify_waiters();
    }

    async fn append_entry(&self, entry: &Entry) -> io::Result<()> {
        loop {
            match self.log.append_entry(entry) {
                Ok(()) => return Ok(()),
                // Waiting here holds up this group alone: a primary on a full disk falls silent and another is elected.
                Err(AppendError::Busy { .. } | AppendError::DiskFull) => tokio::time::sleep(ROOM_RETRY).await,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Reads the entries of `first..=last`, at least one and at most about `bytes_max` bytes.
    async fn entries(&self, first: u64, last: u64, bytes_max: usize) -> io::Result<Vec<wire::RaftEntry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in first..=last {
            let (recent, place) = {
                let track = self.track.borrow();
                (track.recent(index).cloned(), track.place(index))
            };
            let entry = match (recent, place) {
                (Some(entry), _) => entry,
                (None, Some(place)) => self.log.read_entry(place).await.map_err(io::Error::other)?,
                (None, None) => break,
            };
            if entry.head().index != index || entry.head().shard != self.shard.0 {
                return Err(io::Error::other(format!("entry {index} of shard {} is not where it was", self.shard.0)));
            }
            bytes += entry.wire_bytes();
            if bytes_max < bytes && !entries.is_empty() {
                break;
            }
            entries.push(wire::ordered(&entry).map_err(io::Error::other)?);
        }
        Ok(entries)
    }
}

/// openraft's handle on a store.
#[derive(Clone)]
pub(super) struct Handle(pub(super) Rc<Store>);

fn log_id(term: u64, index: u64) -> LogIdOf<Types> {
    LogId::new(wire::committed_leader(term), index - 1)
}

impl RaftLogReader<Types> for Handle {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<wire::RaftEntry>> {
        let first = match range.start_bound() {
            Bound::Included(&first) => first + 1,
            Bound::Excluded(&before) => before + 2,
            Bound::Unbounded => 1,
        };
        let last = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        let last = last.min(self.0.track().last_index());
        self.0.entries(first, last, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(*self.0.vote.borrow())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<wire::RaftEntry>> {
        self.0.entries(start + 1, end, APPEND_BYTES_MAX).await
    }
}

impl RaftLogStorage<Types> for Handle {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let track = self.0.track();
        let last = track.last_index();
        let last_log_id = track.term(last).map(|term| log_id(term, last));
        Ok(LogState { last_purged_log_id: None, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        let file = wire::vote_file(self.0.shard, vote);
        loop {
            match self.0.disk.replace(&self.0.vote_path, file.clone()).await {
                Ok(()) => break,
                // As with entries: the group waits, and its vote is not given.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => tokio::time::sleep(ROOM_RETRY).await,
                Err(error) => return Err(error),
            }
        }
        *self.0.vote.borrow_mut() = Some(*vote);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<Types>>> {
        let track = self.0.track();
        let committed = track.committed();
        Ok(track.term(committed).map(|term| log_id(term, committed)))
    }

    async fn append<I>(&mut self, entries: I, told: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = wire::RaftEntry>,
    {
        let entries: Vec<Entry> = entries.into_iter().map(|entry| wire::sealed(self.0.shard, &entry)).collect();
        if entries.is_empty() {
            told.io_completed(Ok(()));
            return Ok(());
        }
        self.0.flushes.borrow_mut().push_back(Flush { entries_left: entries.len(), told });
        for entry in entries {
            self.0.append_entry(&entry).await?;
            self.0.track.borrow_mut().push(entry);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        // The entry that is appended next says on the disk what it replaces. Until then a restart finds the old tail again, which is
        // as if the primary's request had not come.
        self.0.track.borrow_mut().truncate(last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn purge(&mut self, _upto: LogIdOf<Types>) -> io::Result<()> {
        // The log is the store: what consensus no longer needs is still where the vertices live.
        Ok(())
    }
}

/// Applies committed entries to the machine.
#[derive(Clone)]
pub(super) struct Applier {
    pub(super) store: Rc<Store>,
    pub(super) machine: Rc<dyn Machine>,
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        let track = self.store.track();
        let applied = track.applied_index();
        let applied = track.term(applied).map(|term| log_id(term, applied));
        let membership = match track.membership() {
            None => StoredMembershipOf::<Types>::default(),
            Some(members) => {
                let raft = members.to_raft().map_err(io::Error::other)?;
                StoredMembershipOf::<Types>::new(Some(log_id(members.term, members.index)), raft)
            }
        };
        Ok((applied, membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let LogId { leader_id, index } = entry.log_id();
            let (term, index) = (*leader_id, index + 1);
            let locations = loop {
                let landed = self.store.landed.notified();
                if let Some(locations) = self.store.track.borrow_mut().take_locations(index) {
                    break locations;
                }
                landed.await;
            };
            let applied = match &entry.payload {
                EntryPayload::Blank => super::Applied::Nothing,
                EntryPayload::Normal(_) => {
                    let sealed = wire::sealed(self.store.shard, &entry);
                    self.machine.apply(self.store.shard, &sealed, &locations)
                }
                EntryPayload::Membership(members) => {
                    let configs = members.get_joint_config().clone();
                    let nodes = members.nodes().map(|(node, ())| *node).collect();
                    self.store.track.borrow_mut().set_membership(Membership { term, index, configs, nodes });
                    super::Applied::Nothing
                }
            };
            self.store.track.borrow_mut().apply(term, index);
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<Types>, (): ()) -> io::Result<()> {
        Err(no_snapshot())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        Ok(None)
    }
}

impl RaftSnapshotBuilder<Types> for Applier {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        Err(no_snapshot())
    }
}

fn no_snapshot() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the log is the store; there are no snapshots")
}
