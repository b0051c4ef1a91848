//! The bytes of consensus: requests and answers between replicas, the vote file, and the record that names a group's members.
//!
//! Everything is little-endian, version first. An index on the wire is that of our log: the first entry is 1, 0 is "none".
//!
//! ```text
//! every request   0 u16 version (1), 2 u16 shard
//! append          4 u32 entries, 8 vote (24), 32 previous entry (16), 48 committed entry (16), 64 entries (storage's form)
//!   answer        0 u16 version, 2 u8 outcome (0 all, 1 up to, 2 conflict, 3 higher vote), 3 reserved (5),
//!                 8 vote (24), 32 entry (16)
//! vote, pre-vote  4 u8 flags (bit 0: the office is being handed over), 5 reserved (3), 8 vote (24), 32 last entry (16)
//!   answer        0 u16 version, 2 u8 granted, 3 reserved (5), 8 vote (24), 32 last entry (16)
//! hand-over       4 reserved (4), 8 vote (24), 32 last entry (16), 48 u64 to
//!   answer        0 u16 version, 2 u8 outcome (0 taken, 1 another vote, 2 not synced), 3 reserved (5)
//! vote            u64 term, u64 node, u8 committed, 7 of a stamp; reserved everywhere but in append and its answer
//! stamp           u40 moment in milliseconds, u16 life (see `pulse`); zeros are none, which is what an older build writes
//! entry           u64 term, u64 index
//! vote file       0 u16 version, 2 u16 shard, 4 u32 magic "QVOT", 8 vote (24), 32 u32 crc of bytes 0..32
//! members         u16 version, u16 configs, u16 nodes, u16 reserved, then each config as u16 count and u64 each, then u64 nodes
//! ```
//!
//! Promises: any bytes are read without a panic. Does not: know what an answer leads to.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::entry::RaftEntry as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, LogId, Vote};
use qmesh_storage::{Entry, Payload, Record, RecordError};

use super::pulse::Stamp;
use super::track::Membership;
use super::{LeaderId, Proposal, Types};
use crate::ids::ShardId;

/// Kind of a record that names a group's members.
pub const RECORD_KIND_MEMBERSHIP: u8 = 3;
/// Version of everything here.
const VERSION: u16 = 1;
const VOTE_MAGIC: u32 = u32::from_le_bytes(*b"QVOT");
const VOTE_FILE_BYTES: usize = 36;
const APPEND_HEAD_BYTES: usize = 64;
/// Where the stamp of an append and of its answer stands: behind the vote, in its last bytes.
const STAMP_AT: usize = 25;
const MOMENT_BYTES: usize = 5;
/// Members of one group, voters and learners.
pub const MEMBERS_MAX: usize = 64;

pub(super) type RaftEntry = openraft::alias::EntryOf<Types>;
pub(super) type RaftLogId = openraft::alias::LogIdOf<Types>;
type RaftVote = openraft::alias::VoteOf<Types>;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of consensus of version {VERSION}: {0}")]
pub struct Malformed(&'static str);

/// The shard that a request is for.
///
/// # Errors
/// [`Malformed`].
pub fn shard(body: &[u8]) -> Result<ShardId, Malformed> {
    if get(body, 0, 2)? != u64::from(VERSION) {
        return Err(Malformed("version"));
    }
    Ok(ShardId(get(body, 2, 2)? as u16))
}

pub(super) fn append_request(shard: ShardId, request: &AppendEntriesRequest<Types>, echo: Stamp) -> Bytes {
    let entries: Vec<Entry> = request.entries.iter().map(|entry| sealed(shard, entry)).collect();
    let bytes = entries.iter().map(Entry::wire_bytes).sum::<usize>();
    let mut body = Vec::with_capacity(APPEND_HEAD_BYTES + bytes);
    head(&mut body, shard, &(entries.len() as u32).to_le_bytes());
    put_vote(&mut body, &request.vote);
    put_log_id(&mut body, request.prev_log_id.as_ref());
    put_log_id(&mut body, request.leader_commit.as_ref());
    put_stamp(&mut body, echo);
    entries.iter().for_each(|entry| entry.write(&mut body));
    Bytes::from(body)
}

pub(super) fn parse_append(body: &Bytes) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let shard = shard(body)?;
    let count = get(body, 4, 4)? as usize;
    let vote = vote_at(body, 8)?;
    let (prev_log_id, leader_commit) = (log_id_at(body, 32)?, log_id_at(body, 48)?);
    let mut rest = body.slice(APPEND_HEAD_BYTES.min(body.len())..);
    let mut entries = Vec::new();
    for _ in 0..count {
        let entry = Entry::parse(&mut rest).map_err(|_| Malformed("entry"))?;
        if entry.head().shard != shard.0 || entry.head().index == 0 {
            return Err(Malformed("entry of another shard"));
        }
        entries.push(ordered(&entry)?);
    }
    if !rest.is_empty() {
        return Err(Malformed("entries"));
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(super) fn append_answer(answer: &AppendEntriesResponse<Types>, stamp: Stamp) -> Bytes {
    let (outcome, vote, entry) = match answer {
        AppendEntriesResponse::Success => (0, None, None),
        AppendEntriesResponse::PartialSuccess(entry) => (1, None, entry.as_ref()),
        AppendEntriesResponse::Conflict => (2, None, None),
        AppendEntriesResponse::HigherVote(vote) => (3, Some(vote), None),
    };
    let mut body = answer_body(outcome, vote, entry);
    put_stamp(&mut body, stamp);
    body.into()
}

/// The stamp of an append or of its answer.
pub(super) fn stamp(body: &[u8]) -> Result<Stamp, Malformed> {
    let life = get(body, STAMP_AT + MOMENT_BYTES, 2)? as u16;
    Ok(Stamp { life, moment_ms: get(body, STAMP_AT, MOMENT_BYTES)? })
}

pub(super) fn parse_append_answer(body: &[u8]) -> Result<AppendEntriesResponse<Types>, Malformed> {
    version(body)?;
    match get(body, 2, 1)? {
        0 => Ok(AppendEntriesResponse::Success),
        1 => Ok(AppendEntriesResponse::PartialSuccess(log_id_at(body, 32)?)),
        2 => Ok(AppendEntriesResponse::Conflict),
        3 => Ok(AppendEntriesResponse::HigherVote(vote_at(body, 8)?)),
        _ => Err(Malformed("outcome")),
    }
}

pub(super) fn vote_request(shard: ShardId, request: &VoteRequest<Types>) -> Bytes {
    let mut body = Vec::with_capacity(48);
    head(&mut body, shard, &[u8::from(request.leadership_transfer), 0, 0, 0]);
    put_vote(&mut body, &request.vote);
    put_log_id(&mut body, request.last_log_id.as_ref());
    Bytes::from(body)
}

pub(super) fn parse_vote(body: &[u8]) -> Result<VoteRequest<Types>, Malformed> {
    let mut request = VoteRequest::new(vote_at(body, 8)?, log_id_at(body, 32)?);
    request.leadership_transfer = get(body, 4, 1)? & 1 == 1;
    Ok(request)
}

pub(super) fn vote_answer(answer: &VoteResponse<Types>) -> Bytes {
    answer_body(u8::from(answer.vote_granted), Some(&answer.vote), answer.last_log_id.as_ref()).into()
}

pub(super) fn parse_vote_answer(body: &[u8]) -> Result<VoteResponse<Types>, Malformed> {
    version(body)?;
    Ok(VoteResponse::new(vote_at(body, 8)?, log_id_at(body, 32)?, get(body, 2, 1)? == 1))
}

pub(super) fn transfer_request(shard: ShardId, request: &TransferLeaderRequest<Types>) -> Bytes {
    let mut body = Vec::with_capacity(56);
    head(&mut body, shard, &[0; 4]);
    put_vote(&mut body, request.from_leader());
    put_log_id(&mut body, request.last_log_id());
    body.extend_from_slice(&request.to_node_id().to_le_bytes());
    Bytes::from(body)
}

pub(super) fn parse_transfer(body: &[u8]) -> Result<TransferLeaderRequest<Types>, Malformed> {
    Ok(TransferLeaderRequest::new(vote_at(body, 8)?, get(body, 48, 8)?, log_id_at(body, 32)?))
}

/// The answer to a hand-over: taken, or the number of what is in its way.
pub(super) fn transfer_answer(outcome: u8) -> Bytes {
    answer_body(outcome, None, None).into()
}

pub(super) fn parse_transfer_answer(body: &[u8]) -> Result<u8, Malformed> {
    version(body)?;
    Ok(get(body, 2, 1)? as u8)
}

/// The content of a vote file.
pub(super) fn vote_file(shard: ShardId, vote: &RaftVote) -> Vec<u8> {
    let mut file = Vec::with_capacity(VOTE_FILE_BYTES);
    head(&mut file, shard, &VOTE_MAGIC.to_le_bytes());
    put_vote(&mut file, vote);
    let crc = qmesh_storage::wire::crc(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}

/// The vote in a vote file.
pub(super) fn parse_vote_file(shard: ShardId, file: &[u8]) -> Result<RaftVote, Malformed> {
    if file.len() != VOTE_FILE_BYTES || get(file, 4, 4)? != u64::from(VOTE_MAGIC) {
        return Err(Malformed("vote file"));
    }
    if u64::from(qmesh_storage::wire::crc(&file[..32])) != get(file, 32, 4)? || self::shard(file)? != shard {
        return Err(Malformed("vote file's checksum or shard"));
    }
    vote_at(file, 8)
}

/// An entry of openraft in the form of our log.
pub(super) fn sealed(shard: ShardId, entry: &RaftEntry) -> Entry {
    let RaftLogId { leader_id, index } = entry.log_id();
    let (term, index) = (*leader_id, index + 1);
    match &entry.payload {
        EntryPayload::Blank => Entry::seal(shard.0, term, index, 0, &Payload::of(&[])),
        EntryPayload::Normal(proposal) => Entry::seal(shard.0, term, index, proposal.committed, &proposal.payload),
        EntryPayload::Membership(members) => {
            let configs: Vec<BTreeSet<u64>> = members.get_joint_config().clone();
            let nodes = members.nodes().map(|(node, ())| *node).collect();
            let record = membership_record(&Membership { term, index, configs, nodes });
            Entry::seal(shard.0, term, index, 0, &Payload::of(&[record]))
        }
    }
}

/// An entry of our log in openraft's form.
pub(super) fn ordered(entry: &Entry) -> Result<RaftEntry, Malformed> {
    let head = entry.head();
    let log_id = LogId::new(committed_leader(head.term), head.index - 1);
    if head.record_count == 0 {
        return Ok(RaftEntry::new_blank(log_id));
    }
    let first = entry.records().next().filter(|record| record.kind() == RECORD_KIND_MEMBERSHIP);
    match first {
        None => {
            let proposal = Proposal { committed: head.committed, payload: entry.unordered() };
            Ok(RaftEntry::new_normal(log_id, proposal))
        }
        Some(record) => {
            let members = membership(&record).ok_or(Malformed("members"))?;
            Ok(RaftEntry::new_membership(log_id, members.to_raft()?))
        }
    }
}

/// The leader of a term, as a committed entry names it.
pub(super) fn committed_leader(term: u64) -> openraft::alias::CommittedLeaderIdOf<Types> {
    LeaderId { term, voted_for: 0 }.to_committed()
}

impl Membership {
    /// openraft's form.
    pub(super) fn to_raft(&self) -> Result<openraft::Membership<u64, ()>, Malformed> {
        let nodes: std::collections::BTreeMap<u64, ()> = self.nodes.iter().map(|&node| (node, ())).collect();
        openraft::Membership::new(self.configs.clone(), nodes).map_err(|_| Malformed("members"))
    }
}

fn membership_record(members: &Membership) -> Record {
    let mut body = Vec::new();
    for count in [usize::from(VERSION), members.configs.len(), members.nodes.len(), 0] {
        body.extend_from_slice(&(count as u16).to_le_bytes());
    }
    for config in &members.configs {
        body.extend_from_slice(&(config.len() as u16).to_le_bytes());
        config.iter().for_each(|node| body.extend_from_slice(&node.to_le_bytes()));
    }
    members.nodes.iter().for_each(|node| body.extend_from_slice(&node.to_le_bytes()));
    let built = Record::build::<RecordError>(RECORD_KIND_MEMBERSHIP, &[0; 32], body.len(), |mut buffer| {
        buffer.extend_from_slice(&body);
        Ok(buffer)
    });
    match built {
        Ok(record) => record,
        Err(error) => panic!("at most {MEMBERS_MAX} members fit into a record, yet: {error}"),
    }
}

/// Whether a record names a group's members as this build reads them.
pub fn is_membership(record: &Record) -> bool {
    membership(record).is_some()
}

/// The members that a record names; `None` when it is not of that form.
pub(super) fn membership(record: &Record) -> Option<Membership> {
    let body = record.body();
    let mut at = 0;
    let mut next = |width: usize| {
        let value = get(body, at, width).ok();
        at += width;
        value
    };
    if next(2)? != u64::from(VERSION) {
        return None;
    }
    let (config_count, node_count, reserved) = (next(2)?, next(2)?, next(2)?);
    if reserved != 0 || 3 < config_count || MEMBERS_MAX < node_count as usize {
        return None;
    }
    let mut configs = Vec::new();
    for _ in 0..config_count {
        let count = next(2)?;
        configs.push((0..count).map(|_| next(8)).collect::<Option<BTreeSet<u64>>>()?);
    }
    let nodes = (0..node_count).map(|_| next(8)).collect::<Option<BTreeSet<u64>>>()?;
    Some(Membership { term: 0, index: 0, configs, nodes })
}

fn head(body: &mut Vec<u8>, shard: ShardId, four: &[u8; 4]) {
    body.extend_from_slice(&VERSION.to_le_bytes());
    body.extend_from_slice(&shard.0.to_le_bytes());
    body.extend_from_slice(four);
}

fn answer_body(outcome: u8, vote: Option<&RaftVote>, entry: Option<&RaftLogId>) -> Vec<u8> {
    let mut body = Vec::with_capacity(48);
    body.extend_from_slice(&VERSION.to_le_bytes());
    body.extend_from_slice(&[outcome, 0, 0, 0, 0, 0]);
    match vote {
        Some(vote) => put_vote(&mut body, vote),
        None => body.extend_from_slice(&[0; 24]),
    }
    put_log_id(&mut body, entry);
    body
}

fn put_stamp(body: &mut [u8], stamp: Stamp) {
    body[STAMP_AT..STAMP_AT + MOMENT_BYTES].copy_from_slice(&stamp.moment_ms.to_le_bytes()[..MOMENT_BYTES]);
    body[STAMP_AT + MOMENT_BYTES..][..2].copy_from_slice(&stamp.life.to_le_bytes());
}

fn put_vote(body: &mut Vec<u8>, vote: &RaftVote) {
    body.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    body.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    body.extend_from_slice(&[u8::from(vote.committed), 0, 0, 0, 0, 0, 0, 0]);
}

fn put_log_id(body: &mut Vec<u8>, id: Option<&RaftLogId>) {
    let (term, index) = id.map_or((0, 0), |id| (*id.leader_id, id.index + 1));
    body.extend_from_slice(&term.to_le_bytes());
    body.extend_from_slice(&index.to_le_bytes());
}

fn version(body: &[u8]) -> Result<(), Malformed> {
    if get(body, 0, 2)? == u64::from(VERSION) { Ok(()) } else { Err(Malformed("version")) }
}

fn vote_at(body: &[u8], at: usize) -> Result<RaftVote, Malformed> {
    let leader_id = LeaderId { term: get(body, at, 8)?, voted_for: get(body, at + 8, 8)? };
    Ok(Vote { leader_id, committed: get(body, at + 16, 1)? == 1 })
}

fn log_id_at(body: &[u8], at: usize) -> Result<Option<RaftLogId>, Malformed> {
    let (term, index) = (get(body, at, 8)?, get(body, at + 8, 8)?);
    Ok(index.checked_sub(1).map(|index| LogId::new(committed_leader(term), index)))
}

fn get(body: &[u8], at: usize, width: usize) -> Result<u64, Malformed> {
    let bytes = body.get(at..at + width).ok_or(Malformed("cut short"))?;
    Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}
