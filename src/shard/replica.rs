//! One replica of one shard: what is proposed, what is committed, and what that makes of index and refs.
//!
//! Promises: proposals are answered in the order in which they were appended, after they are durable; a vertex that is already
//! here or on its way is not written again; a ref is decided by one move at a time.
//! Does not: touch a disk. The log tells it what is durable.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use qmesh_storage::{Index, Location, Payload, Record};
use tokio::time::Instant;

use super::raft::wire::RECORD_KIND_MEMBERSHIP;
use super::raft::{PROPOSAL_BYTES_MAX, PROPOSALS_IN_FLIGHT_MAX, RecordOutcome};

use crate::dag::archive::{RECORD_KIND_VERTEX, SealedVertex};
use crate::dag::ref_record::{RECORD_KIND_REF, RefRecord};
use crate::dag::refs::{RefMove, RefName, RefTable};
use crate::error::{Reason, Refusal};
use crate::feed::Item;
use crate::ids::{LogIndex, ShardId, Token, VertexId};
use crate::limits::{SHARD_PENDING_BYTES_MAX, SHARD_PENDING_RECORDS_MAX};
use crate::router::message::{PutOutcomes, PutReceipt, RefOutcome, RefReceipt, Reply, ShardStats};

/// The term of a shard with one voter: its primary never changes.
pub(super) const TERM_SOLO: u64 = 1;

/// The outcomes of one put message, filled as its records become durable.
pub(super) struct PutBatch {
    outcomes: RefCell<PutOutcomes>,
    open: std::cell::Cell<usize>,
    reply: RefCell<Option<Reply<PutOutcomes>>>,
    /// Until when a replica may look for the primary of a record's shard; `None`: it must be this one.
    pub(super) patience: Option<Instant>,
}

impl PutBatch {
    /// A batch of `records` records, all still open.
    pub(super) fn new(records: usize, reply: Reply<PutOutcomes>, patience: Option<Instant>) -> Rc<Self> {
        let unanswered = Err(Refusal { reason: Reason::Internal, detail: String::new(), retry_after_ms: 0 });
        Rc::new(Self {
            outcomes: RefCell::new(vec![unanswered; records]),
            open: std::cell::Cell::new(records),
            reply: RefCell::new(Some(reply)),
            patience,
        })
    }

    /// Closes one record of the batch; the last one sends the answer.
    pub(super) fn close(&self, place: usize, outcome: Result<PutReceipt, Refusal>) {
        self.outcomes.borrow_mut()[place] = outcome;
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0
            && let Some(reply) = self.reply.borrow_mut().take()
        {
            // The caller may have gone; the vertices are durable all the same.
            drop(reply.send(self.outcomes.take()));
        }
    }
}

/// Who waits for a vertex that is on its way.
pub(super) enum Waiter {
    /// Another put of the same vertex.
    Put(Rc<PutBatch>, usize),
    /// A question whether it exists.
    Exists(Box<dyn FnOnce()>),
}

/// A move of a ref that waits for the one before it.
pub(super) type WaitingMove = (RefMove, Reply<RefOutcome>);

/// A decided move, its record, and who waits for it.
pub(super) type DecidedMove = (RefRecord, Record, Reply<RefOutcome>);

/// What was proposed and is not yet committed, in the order of the log.
pub(super) enum Proposal {
    Vertex { vertex: SealedVertex, batch: Rc<PutBatch>, place: usize },
    Ref { record: Arc<RefRecord>, bytes: usize, reply: Reply<RefOutcome> },
}

/// With several voters: what gathers for the next proposals of this shard.
#[derive(Default)]
struct Gathering {
    waiting: VecDeque<(Record, Proposal)>,
    /// Records proposed and not yet settled.
    open: usize,
    /// Proposals in flight.
    in_flight: usize,
    /// Someone will come for the next one.
    is_due: bool,
}

/// One replica of one shard.
pub(super) struct Replica {
    shard: ShardId,
    core: u16,
    index: Index,
    refs: RefTable,
    proposals: VecDeque<Proposal>,
    gathering: Gathering,
    pending_bytes: usize,
    /// Vertices on their way, with those who wait for them.
    on_the_way: HashMap<VertexId, Vec<Waiter>>,
    /// Refs with a move on its way, with the moves that wait for it.
    moving: HashMap<RefName, VecDeque<WaitingMove>>,
    committed: LogIndex,
    puts: u64,
    /// Reads answered; the host counts them here.
    pub(super) gets: u64,
}

/// What became of a proposed vertex.
pub(super) enum Proposed {
    /// It must be appended to the log; [`Replica::appended`] or [`Replica::refused`] must follow.
    Append,
    /// It is here or on its way; the batch is answered without writing.
    Known,
}

impl Replica {
    /// An empty replica of `shard` on `core`.
    pub(super) fn new(shard: ShardId, core: u16) -> Self {
        Self {
            shard,
            core,
            index: Index::default(),
            refs: RefTable::default(),
            proposals: VecDeque::new(),
            gathering: Gathering::default(),
            pending_bytes: 0,
            on_the_way: HashMap::new(),
            moving: HashMap::new(),
            committed: LogIndex(0),
            puts: 0,
            gets: 0,
        }
    }

    /// Whether one more record of `bytes` may be proposed.
    ///
    /// # Errors
    /// Overloaded.
    pub(super) fn admits(&self, bytes: usize) -> Result<(), Refusal> {
        if SHARD_PENDING_RECORDS_MAX <= self.pending_records() || SHARD_PENDING_BYTES_MAX < self.pending_bytes + bytes {
            return Err(Refusal::overloaded("the shard's queue of writes that are not yet durable"));
        }
        Ok(())
    }

    /// Proposes a vertex. `known` says whether the caller knows it to be durable here.
    pub(super) fn propose(
        &mut self,
        vertex: &SealedVertex,
        batch: &Rc<PutBatch>,
        place: usize,
        known: bool,
    ) -> Proposed {
        if known {
            batch.close(place, Ok(PutReceipt { shard: self.shard, index: self.committed, existed: true }));
            return Proposed::Known;
        }
        if let Some(waiters) = self.on_the_way.get_mut(&vertex.id()) {
            waiters.push(Waiter::Put(batch.clone(), place));
            return Proposed::Known;
        }
        Proposed::Append
    }

    /// The vertex was appended to the log.
    pub(super) fn appended(&mut self, vertex: SealedVertex, batch: Rc<PutBatch>, place: usize) {
        self.pending_bytes += vertex.record().bytes().len();
        self.on_the_way.insert(vertex.id(), Vec::new());
        self.proposals.push_back(Proposal::Vertex { vertex, batch, place });
    }

    /// Decides a move of a ref against the committed state. `Some` must be appended to the log; [`Replica::ref_appended`] or an
    /// answer to `reply` must follow. `None`: it was answered, or waits for the move before it.
    pub(super) fn decide_ref(&mut self, change: RefMove, reply: Reply<RefOutcome>) -> Option<DecidedMove> {
        if let Some(queue) = self.moving.get_mut(&change.name) {
            if SHARD_PENDING_RECORDS_MAX <= queue.len() {
                drop(reply.send(Err(Refusal::overloaded("the queue of moves of this ref"))));
            } else {
                queue.push_back((change, reply));
            }
            return None;
        }
        let is_new = self.refs.state(&change.name).is_none();
        let decided = self.refs.decide(&change).and_then(|record| {
            // Refs on their way may all be new ones.
            if is_new { self.refs.check_room(self.moving.len()).map(|()| record) } else { Ok(record) }
        });
        match decided {
            Ok(record) => {
                let sealed = record.to_record();
                Some((record, sealed, reply))
            }
            Err(error) => {
                drop(reply.send(Err(error.into())));
                None
            }
        }
    }

    /// The move was appended to the log.
    pub(super) fn ref_appended(&mut self, record: RefRecord, bytes: usize, reply: Reply<RefOutcome>) {
        self.pending_bytes += bytes;
        self.moving.insert(record.name.clone(), VecDeque::new());
        self.proposals.push_back(Proposal::Ref { record: Arc::new(record), bytes, reply });
    }

    /// The entry at `index` is durable with one record at each of `locations`. Returns the moves of refs that waited for it.
    pub(super) fn commit(
        &mut self,
        index: LogIndex,
        locations: &[Location],
        publish: &mut dyn FnMut(Item),
        announce: impl FnOnce(Token),
    ) -> Vec<WaitingMove> {
        assert!(self.committed < index, "commit index went back: {:?} -> {index:?}", self.committed);
        assert!(locations.len() <= self.proposals.len(), "committed what was never proposed");
        self.committed = index;
        let token = Token { shard: self.shard, index };
        announce(token);
        let mut next_moves = Vec::new();
        let receipt = PutReceipt { shard: self.shard, index, existed: false };
        let applied: Vec<Proposal> = self.proposals.drain(..locations.len()).collect();
        // Published before anyone is answered: who asks the graph after its answer must find its vertex on the way there.
        for (proposal, &location) in applied.iter().zip(locations) {
            match proposal {
                Proposal::Vertex { vertex, .. } => {
                    self.index.insert(&vertex.id().0, location);
                    publish(Item::Vertex(token, vertex.clone()));
                }
                Proposal::Ref { record, .. } => publish(Item::Ref(record.clone())),
            }
        }
        publish(Item::Entry(token));
        for proposal in applied {
            match proposal {
                Proposal::Vertex { vertex, batch, place } => {
                    self.puts += 1;
                    self.pending_bytes -= vertex.record().bytes().len();
                    batch.close(place, Ok(receipt));
                    self.tell_waiters(&vertex.id(), &Ok(receipt));
                }
                Proposal::Ref { record, bytes, reply } => {
                    self.pending_bytes -= bytes;
                    self.refs.apply(index, RefRecord::clone(&record));
                    let position = self.refs.position(&record.name);
                    drop(reply.send(Ok(RefReceipt { position, shard: self.shard, index })));
                    next_moves.extend(self.moving.remove(&record.name).into_iter().flatten());
                }
            }
        }
        next_moves
    }

    fn pending_records(&self) -> usize {
        self.proposals.len() + self.gathering.waiting.len() + self.gathering.open
    }

    /// Takes a vertex into the next proposal.
    pub(super) fn gather_vertex(&mut self, vertex: SealedVertex, batch: Rc<PutBatch>, place: usize) {
        let record = vertex.record().clone();
        self.pending_bytes += record.bytes().len();
        self.on_the_way.entry(vertex.id()).or_default();
        self.gathering.waiting.push_back((record, Proposal::Vertex { vertex, batch, place }));
    }

    /// Takes a decided move into the next proposal.
    pub(super) fn gather_ref(&mut self, record: RefRecord, sealed: Record, reply: Reply<RefOutcome>) {
        let bytes = sealed.bytes().len();
        self.pending_bytes += bytes;
        self.moving.insert(record.name.clone(), VecDeque::new());
        self.gathering.waiting.push_back((sealed, Proposal::Ref { record: Arc::new(record), bytes, reply }));
    }

    /// Whether someone must be sent for what gathered; true once until [`Replica::next_proposal`] was asked.
    pub(super) fn falls_due(&mut self) -> bool {
        !std::mem::replace(&mut self.gathering.is_due, true)
    }

    /// The records of the next proposal, when there are any and not too many proposals are in flight.
    pub(super) fn next_proposal(&mut self) -> Option<(Payload, Vec<Proposal>)> {
        let Gathering { waiting, open, in_flight, is_due } = &mut self.gathering;
        *is_due = false;
        if *in_flight == PROPOSALS_IN_FLIGHT_MAX || waiting.is_empty() {
            return None;
        }
        let (mut records, mut proposals, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((record, proposal)) =
            waiting.pop_front_if(|(record, _)| bytes == 0 || bytes + record.bytes().len() <= PROPOSAL_BYTES_MAX)
        {
            bytes += record.bytes().len();
            records.push(record);
            proposals.push(proposal);
        }
        *open += proposals.len();
        *in_flight += 1;
        Some((Payload::of(&records), proposals))
    }

    /// Applies the committed entry at `index`, on whichever replica.
    pub(super) fn apply(
        &mut self,
        index: LogIndex,
        records: impl Iterator<Item = Record>,
        locations: &[Location],
        publish: &mut dyn FnMut(Item),
        announce: impl FnOnce(Token),
    ) -> Vec<RecordOutcome> {
        assert!(self.committed < index, "commit index went back: {:?} -> {index:?}", self.committed);
        self.committed = index;
        let token = Token { shard: self.shard, index };
        announce(token);
        let mut outcomes = Vec::with_capacity(locations.len());
        for (record, &location) in records.zip(locations) {
            if record.kind() == RECORD_KIND_VERTEX {
                let vertex = SealedVertex::trusted(record);
                // A tag may be another vertex's: then this one is told as if it had been there, and nothing else follows from it.
                let existed = self.index.candidates(&vertex.id().0).next().is_some();
                self.index.insert(&vertex.id().0, location);
                self.puts += 1;
                publish(Item::Vertex(token, vertex));
                outcomes.push(RecordOutcome::Vertex { existed });
                continue;
            }
            match RefRecord::from_record(&record) {
                Ok(record) => {
                    let name = record.name.clone();
                    let moved = self.refs.follows(&record);
                    if moved {
                        publish(Item::Ref(Arc::new(record.clone())));
                        self.refs.apply(index, record);
                    }
                    outcomes.push(RecordOutcome::Ref { position: self.refs.position(&name), moved });
                }
                Err(error) => {
                    tracing::error!(shard = self.shard.0, index = index.0, %error, "a committed record is not readable");
                    outcomes.push(RecordOutcome::Vertex { existed: false });
                }
            }
        }
        publish(Item::Entry(token));
        outcomes
    }

    /// Answers those whose proposal was committed at `index`. Returns the moves of refs that waited for one of them.
    pub(super) fn settle(
        &mut self,
        index: LogIndex,
        proposals: Vec<Proposal>,
        outcomes: &[RecordOutcome],
    ) -> Vec<WaitingMove> {
        self.gathering.in_flight -= 1;
        self.gathering.open -= proposals.len();
        let mut next_moves = Vec::new();
        for (proposal, outcome) in proposals.into_iter().zip(outcomes) {
            match (proposal, outcome) {
                (Proposal::Vertex { vertex, batch, place }, RecordOutcome::Vertex { existed }) => {
                    self.pending_bytes -= vertex.record().bytes().len();
                    let receipt = PutReceipt { shard: self.shard, index, existed: *existed };
                    batch.close(place, Ok(receipt));
                    self.tell_waiters(&vertex.id(), &Ok(receipt));
                }
                (Proposal::Ref { record, bytes, reply }, RecordOutcome::Ref { position, moved }) => {
                    self.pending_bytes -= bytes;
                    let outcome = if *moved {
                        Ok(RefReceipt { position: *position, shard: self.shard, index })
                    } else {
                        // It was decided in an office that had ended, against a place that was no longer the ref's. Nothing came of it
                        // and nothing will, so whoever asked may have it decided again; a conflict it need not be.
                        let detail = "the shard's primary changed; nothing was moved, try again";
                        Err(Refusal::new(Reason::Unavailable, detail))
                    };
                    drop(reply.send(outcome));
                    next_moves.extend(self.moving.remove(&record.name).into_iter().flatten());
                }
                (Proposal::Vertex { .. }, _) | (Proposal::Ref { .. }, _) => {
                    panic!("the outcome of a record is of its kind")
                }
            }
        }
        next_moves
    }

    /// Takes back proposals that this replica could not bring to an end. Vertices may be proposed elsewhere, a put repeats safely;
    /// moves of refs are answered here, because nobody knows whether they happened.
    pub(super) fn dissolve(&mut self, proposals: Vec<Proposal>) -> Vec<(SealedVertex, Rc<PutBatch>, usize)> {
        self.gathering.in_flight -= 1;
        self.gathering.open -= proposals.len();
        self.take_back(proposals)
    }

    /// The same for what has only gathered.
    pub(super) fn dissolve_waiting(&mut self) -> Vec<(SealedVertex, Rc<PutBatch>, usize)> {
        let waiting = std::mem::take(&mut self.gathering.waiting);
        self.take_back(waiting.into_iter().map(|(_, proposal)| proposal).collect())
    }

    fn take_back(&mut self, proposals: Vec<Proposal>) -> Vec<(SealedVertex, Rc<PutBatch>, usize)> {
        let mut vertices = Vec::new();
        for proposal in proposals {
            match proposal {
                Proposal::Vertex { vertex, batch, place } => {
                    self.pending_bytes -= vertex.record().bytes().len();
                    for waiter in self.on_the_way.remove(&vertex.id()).into_iter().flatten() {
                        // Who only asks whether it exists is answered "not here" when the waiter is dropped.
                        if let Waiter::Put(batch, place) = waiter {
                            vertices.push((vertex.clone(), batch, place));
                        }
                    }
                    vertices.push((vertex, batch, place));
                }
                Proposal::Ref { record, bytes, reply } => {
                    self.pending_bytes -= bytes;
                    let unknown = || {
                        let detail = format!(
                            "the primary of {} changed while it was moved: it may or may not have been; read it before you try again",
                            record.name
                        );
                        Refusal::new(Reason::OutcomeUnknown, detail)
                    };
                    drop(reply.send(Err(unknown())));
                    for (_, reply) in self.moving.remove(&record.name).into_iter().flatten() {
                        let detail = "the shard's primary changed; nothing was moved, try again";
                        drop(reply.send(Err(Refusal::new(Reason::Unavailable, detail))));
                    }
                }
            }
        }
        vertices
    }

    fn tell_waiters(&mut self, id: &VertexId, outcome: &Result<PutReceipt, Refusal>) {
        for waiter in self.on_the_way.remove(id).into_iter().flatten() {
            match waiter {
                Waiter::Put(batch, place) => {
                    let outcome = outcome.clone().map(|receipt| PutReceipt { existed: true, ..receipt });
                    batch.close(place, outcome);
                }
                Waiter::Exists(answer) => answer(),
            }
        }
    }

    /// Takes one recovered record. Returns false when the bytes of a ref move are not readable.
    pub(super) fn replay(
        &mut self,
        index: LogIndex,
        location: Location,
        kind: u8,
        key: &[u8; 32],
        hint: &[u8],
    ) -> bool {
        self.committed = index;
        match kind {
            RECORD_KIND_VERTEX => self.index.insert(key, location),
            RECORD_KIND_REF => {
                // The hint of a ref move is the whole record: it is small, and the table needs all of it.
                let parsed = Record::parse(&Bytes::copy_from_slice(hint));
                let Some(Ok(record)) = parsed.ok().map(|record| RefRecord::from_record(&record)) else { return false };
                if self.refs.follows(&record) {
                    self.refs.apply(index, record);
                }
            }
            RECORD_KIND_MEMBERSHIP => {}
            _ => return false,
        }
        true
    }

    /// Where a vertex may be. Each place must be confirmed against the record's key.
    pub(super) fn candidates(&self, id: &VertexId) -> Vec<Location> {
        self.index.candidates(&id.0).collect()
    }

    /// Registers who waits for a vertex on its way; gives the waiter back when it is not on its way.
    pub(super) fn wait_for(&mut self, id: &VertexId, waiter: Waiter) -> Option<Waiter> {
        match self.on_the_way.get_mut(id) {
            Some(waiters) => {
                waiters.push(waiter);
                None
            }
            None => Some(waiter),
        }
    }

    /// The refs.
    pub(super) fn refs(&self) -> &RefTable {
        &self.refs
    }

    /// The figures of this replica.
    pub(super) fn stats(&self) -> ShardStats {
        ShardStats {
            shard: self.shard.0,
            core: self.core,
            records: self.index.len() as u64,
            index_bytes: self.index.bytes() as u64,
            committed: self.committed.0,
            refs: self.refs.len() as u64,
            pending: self.pending_records() as u64,
            puts: self.puts,
            gets: self.gets,
        }
    }
}
