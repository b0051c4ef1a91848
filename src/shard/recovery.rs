//! What a core's logs hold, brought back: records into replicas, entries into the groups that will go on from them.
//!
//! Promises: with several voters only what is known to be committed is applied at open; the rest waits for the group.
//! Does not: serve.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use qmesh_storage::{Committed, Observer, OpenError, Record, Replayed, ReplayedEntry};

use super::host::{Host, Recovered, log_directory};
use super::raft::{Group, Machine, Pending, Store};
use crate::dag::archive::{RECORD_KIND_VERTEX, SealedVertex};
use crate::dag::shape::Shape;
use crate::ids::{LogIndex, ShardId, Token, VertexId};

impl Host {
    /// The stores of this core's groups, on what their logs hold.
    pub(super) async fn open_stores(&self) -> Result<(), OpenError> {
        let Some(consensus) = &self.parts.consensus else { return Ok(()) };
        let mut shards: Vec<ShardId> = self.replicas.borrow().keys().copied().collect();
        shards.sort_unstable();
        shards.extend(consensus.steward.is_some().then_some(ShardId::CONTROL));
        for shard in shards {
            let track = self.tracks.borrow_mut().remove(&shard).unwrap_or_default();
            let log = self.log(shard).ok_or_else(|| OpenError::Options(format!("shard {} has no log", shard.0)))?;
            let vote =
                log_directory(&self.parts.directory, self.log_number(shard)).join(format!("vote-{:05}", shard.0));
            let store = Store::open(shard, log, self.parts.disk.clone(), vote, track).await;
            self.stores.borrow_mut().insert(shard, store.map_err(OpenError::Options)?);
        }
        Ok(())
    }

    /// Starts this core's groups; from here on they elect, take entries and apply. `is_first` makes each a group of this node alone
    /// when it has no entries yet.
    ///
    /// # Errors
    /// A sentence.
    pub async fn start_groups(self: &Rc<Self>, is_first: bool) -> Result<(), String> {
        let Some(consensus) = &self.parts.consensus else { return Ok(()) };
        let mut stores: Vec<(ShardId, Rc<Store>)> =
            self.stores.borrow().iter().map(|(shard, store)| (*shard, store.clone())).collect();
        // In the same order at every start, so that a simulation is the same every time.
        stores.sort_unstable_by_key(|(shard, _)| *shard);
        for (shard, store) in stores {
            let machine: Rc<dyn Machine> = match &consensus.steward {
                Some(steward) if shard == ShardId::CONTROL => steward.clone(),
                _ => self.clone(),
            };
            let group = Group::start(consensus.node, store, machine, consensus.peers.clone(), consensus.timers).await?;
            if is_first {
                group.initialize().await?;
            }
            self.groups.borrow_mut().insert(shard, group);
        }
        Ok(())
    }

    fn entry(&self, entry: &ReplayedEntry, recovered: &mut dyn FnMut(Recovered<'_>)) {
        if self.parts.consensus.is_none() {
            return;
        }
        let ReplayedEntry { shard, term, index, committed, place } = *entry;
        let known = {
            let mut tracks = self.tracks.borrow_mut();
            tracks.entry(ShardId(shard)).or_default().replay_entry(term, index, committed, place)
        };
        for (index, records) in known {
            for Pending { location, kind, key, hint } in &records {
                self.recovered(
                    &Replayed { shard, term, index, location: *location, kind: *kind, key, hint },
                    recovered,
                );
            }
        }
    }

    fn replay(&self, item: &Replayed<'_>, recovered: &mut dyn FnMut(Recovered<'_>)) {
        if self.parts.consensus.is_none() {
            self.recovered(item, recovered);
            return;
        }
        let Replayed { shard, index, location, kind, key, hint, .. } = *item;
        let mut tracks = self.tracks.borrow_mut();
        let track = tracks.entry(ShardId(shard)).or_default();
        track.replay_record(index, Pending { location, kind, key: *key, hint: hint.into() });
    }

    /// A record that was found at open and is committed.
    fn recovered(&self, item: &Replayed<'_>, recovered: &mut dyn FnMut(Recovered<'_>)) {
        let shard = ShardId(item.shard);
        if shard == ShardId::CONTROL {
            let steward = self.parts.consensus.as_ref().and_then(|consensus| consensus.steward.as_ref());
            if let Some(steward) = steward {
                steward.replay(LogIndex(item.index), item.kind, item.hint);
            }
            return;
        }
        let token = Token { shard, index: LogIndex(item.index) };
        let mut replicas = self.replicas.borrow_mut();
        let replayed = replicas
            .get_mut(&shard)
            .is_some_and(|replica| replica.replay(token.index, item.location, item.kind, item.key, item.hint));
        if !replayed {
            tracing::error!(
                shard = item.shard,
                index = item.index,
                kind = item.kind,
                "a recovered record is not readable"
            );
        }
        let shape = (item.kind == RECORD_KIND_VERTEX).then_some(item.hint);
        recovered((token, VertexId(*item.key), shape));
    }
}

/// Who takes what recovery finds.
pub(super) type TakeRecovered = Box<dyn FnMut(Recovered<'_>)>;

pub(super) struct LogObserver {
    pub(super) host: Weak<Host>,
    pub(super) recovered: RefCell<TakeRecovered>,
}

impl Observer for LogObserver {
    fn describe(&self, record: &Record) -> Vec<u8> {
        if record.kind() == RECORD_KIND_VERTEX {
            Shape::of(&SealedVertex::trusted(record.clone())).encode()
        } else {
            record.bytes().to_vec()
        }
    }

    fn entry(&self, entry: ReplayedEntry) {
        if let Some(host) = self.host.upgrade() {
            host.entry(&entry, &mut *self.recovered.borrow_mut());
        }
    }

    fn replay(&self, item: Replayed<'_>) {
        if let Some(host) = self.host.upgrade() {
            host.replay(&item, &mut *self.recovered.borrow_mut());
        }
    }

    fn committed(&self, entry: Committed<'_>) {
        if let Some(host) = self.host.upgrade() {
            host.committed(&entry);
        }
    }
}
