//! Refs: named pointers into the DAG, moved by compare-and-set; the only thing here that can conflict.
//!
//! Promises: a ref moves only from where its mover expected it; its version counts its moves and never goes back, not
//! even when the ref is deleted; the same records applied in the same order give the same table everywhere.
//! Does not: check that a target exists, nor keep more than the last [`REFLOG_ENTRIES_MAX`] moves of a ref (the
//! segments do).

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use crate::dag::ref_record::RefRecord;
use crate::error::{Reason, Refusal};
use crate::ids::{LogIndex, Slot, VertexId};
use crate::limits::{
    AUTHOR_BYTES_MAX, REF_NAME_BYTES_MAX, REF_REASON_BYTES_MAX, REFLOG_ENTRIES_MAX, REFS_PER_SHARD_MAX,
};

/// The name of a ref: 1 to [`REF_NAME_BYTES_MAX`] bytes of UTF-8 by the rules of `git check-ref-format
/// --allow-onelevel`, so that names travel between git and here in both directions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(Box<str>);

/// Where a mover believes a ref to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anywhere or nowhere.
    Any,
    /// Nowhere: never made, or deleted.
    Absent,
    /// Exactly there.
    At(VertexId),
}

/// A move that someone wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefMove {
    /// The ref.
    pub name: RefName,
    /// Where it must be for the move to happen.
    pub expect: Expect,
    /// Where it goes; `None` deletes it.
    pub to: Option<VertexId>,
    /// Who moves it, at most [`AUTHOR_BYTES_MAX`] bytes; may be empty.
    pub actor: String,
    /// Why, for the log, at most [`REF_REASON_BYTES_MAX`] bytes; may be empty.
    pub reason: String,
    /// When, by the clock of the node that took the request, in milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: u64,
}

/// Where a ref is, and after how many moves. What a shard keeps of a move that is proposed and not yet committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Where it points; `None` when it was never made or is deleted.
    pub at: Option<VertexId>,
    /// Moves so far.
    pub version: u64,
}

/// One ref.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefState {
    /// Where it is.
    pub position: Position,
    /// Its last moves, oldest first.
    log: VecDeque<LogEntry>,
}

/// One move that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The entry of the shard's log that holds it.
    pub index: LogIndex,
    /// The number of this move, the first is 1.
    pub version: u64,
    /// Where the ref was.
    pub from: Option<VertexId>,
    /// Where it went; `None`: deleted.
    pub to: Option<VertexId>,
    /// Who moved it.
    pub actor: Box<str>,
    /// Why.
    pub reason: Box<str>,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: u64,
}

/// The refs of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefTable {
    refs: BTreeMap<RefName, RefState>,
}

/// Why a move or a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefError {
    /// The ref is not where the mover expected it.
    #[error("{}", conflict(name, *found))]
    Conflict {
        /// The ref.
        name: RefName,
        /// Where it is.
        found: Option<VertexId>,
    },
    /// Not a name.
    #[error("{0:?} is not a name of a ref: {1}")]
    Name(String, &'static str),
    /// A named limit is exceeded.
    #[error("{what}: {value} {unit}, at most {value_max} {unit}")]
    Limit {
        /// What.
        what: &'static str,
        /// What it has.
        value: usize,
        /// What it may have.
        value_max: usize,
        /// Of both numbers.
        unit: &'static str,
    },
}

impl RefName {
    /// The key of the ref: BLAKE3-256 of its name. It decides the slot, as an id does for a vertex.
    pub fn key(&self) -> [u8; 32] {
        *blake3::hash(self.0.as_bytes()).as_bytes()
    }

    /// The slot of the ref among `slot_count` (a power of two).
    pub fn slot(&self, slot_count: u16) -> Slot {
        VertexId(self.key()).slot(slot_count)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RefName {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let (value, value_max) = (text.len(), REF_NAME_BYTES_MAX);
        if value > value_max {
            return Err(RefError::Limit { what: "ref name", value, value_max, unit: "bytes" });
        }
        match broken_rule(text) {
            Some(rule) => Err(RefError::Name(text.to_owned(), rule)),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for RefName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl RefMove {
    /// Decides the move of a ref that is at `position`, which a shard that has moves in flight knows better than its
    /// table.
    ///
    /// # Errors
    /// [`RefError::Conflict`] when the ref is elsewhere or there is nothing to delete, [`RefError::Limit`].
    pub fn decide(&self, position: Position) -> Result<RefRecord, RefError> {
        check_text(&self.actor, &self.reason)?;
        let as_expected = match self.expect {
            Expect::Any => true,
            Expect::Absent => position.at.is_none(),
            Expect::At(id) => position.at == Some(id),
        };
        if !as_expected || (position.at.is_none() && self.to.is_none()) {
            return Err(RefError::Conflict { name: self.name.clone(), found: position.at });
        }
        Ok(RefRecord {
            name: self.name.clone(),
            version: position.version + 1,
            from: position.at,
            to: self.to,
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            timestamp_ms: self.timestamp_ms,
        })
    }
}

impl RefState {
    /// The last moves, newest first.
    pub fn log(&self) -> impl ExactSizeIterator<Item = &LogEntry> {
        self.log.iter().rev()
    }
}

impl RefTable {
    /// Decides a move against the table alone: for a shard with no move of this ref in flight.
    ///
    /// # Errors
    /// As [`RefMove::decide`]; [`RefError::Limit`] when the shard has as many refs as it may.
    pub fn decide(&self, wanted: &RefMove) -> Result<RefRecord, RefError> {
        let state = self.refs.get(&wanted.name);
        if state.is_none() {
            self.check_room(0)?;
        }
        wanted.decide(state.map(|state| state.position).unwrap_or_default())
    }

    /// Checks that one more ref may be made while `in_flight` others are being made.
    ///
    /// # Errors
    /// [`RefError::Limit`].
    pub fn check_room(&self, in_flight: usize) -> Result<(), RefError> {
        // Deleted refs count: their versions are kept.
        let value = self.refs.len() + in_flight + 1;
        limit("refs of the shard", value, REFS_PER_SHARD_MAX, "refs")
    }

    /// Whether a committed move follows what the table has. One that does not was decided by a primary that had been replaced, and
    /// nothing came of it.
    pub fn follows(&self, record: &RefRecord) -> bool {
        let Position { at, version } = self.position(&record.name);
        record.version == version + 1 && record.from == at
    }

    /// Applies a committed move. False when the table already has it, as when a log is replayed over a checkpoint.
    pub fn apply(&mut self, index: LogIndex, record: RefRecord) -> bool {
        let RefRecord { name, version, from, to, actor, reason, timestamp_ms } = record;
        let state = self.refs.entry(name).or_default();
        if version <= state.position.version {
            return false;
        }
        // A gap in versions is no error: older moves may have gone with reclaimed segments.
        if let Some(last) = state.log.back() {
            assert!(last.index <= index, "a ref's log went back: {:?} -> {index:?}", last.index);
        }
        if state.log.len() == REFLOG_ENTRIES_MAX {
            state.log.pop_front();
        }
        let (actor, reason) = (actor.into(), reason.into());
        state.log.push_back(LogEntry { index, version, from, to, actor, reason, timestamp_ms });
        state.position = Position { at: to, version };
        true
    }

    /// Where a ref points; `None` when it does not exist or is deleted.
    pub fn get(&self, name: &RefName) -> Option<VertexId> {
        self.refs.get(name)?.position.at
    }

    /// All that is known of a ref, deleted ones included.
    pub fn state(&self, name: &RefName) -> Option<&RefState> {
        self.refs.get(name)
    }

    /// Where a ref is and after how many moves; the default position for one that never was.
    pub fn position(&self, name: &RefName) -> Position {
        self.refs.get(name).map(|state| state.position).unwrap_or_default()
    }

    /// The living refs whose names begin with `prefix`, in order of their bytes, behind `after`, at most `limit`.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a RefName>,
        limit: usize,
    ) -> impl Iterator<Item = (&'a RefName, VertexId, &'a RefState)> {
        let start = match after {
            Some(after) if prefix <= after.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        self.refs
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .filter_map(|(name, state)| Some((name, state.position.at?, state)))
            .take(limit)
    }

    /// The last moves of a ref, newest first, at most `limit`; of a deleted ref too.
    pub fn log(&self, name: &RefName, limit: usize) -> impl Iterator<Item = &LogEntry> {
        self.refs.get(name).into_iter().flat_map(RefState::log).take(limit)
    }

    /// Refs that were ever made, deleted ones included.
    pub fn len(&self) -> usize {
        self.refs.len()
    }

    /// Whether no ref was ever made.
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty()
    }
}

impl From<RefError> for Refusal {
    fn from(error: RefError) -> Self {
        let reason = match &error {
            RefError::Conflict { .. } => Reason::Conflict,
            RefError::Name(..) => Reason::BadRequest,
            RefError::Limit { .. } => Reason::LimitExceeded,
        };
        Self::new(reason, error.to_string())
    }
}

/// Checks what a move says about itself.
pub(crate) fn check_text(actor: &str, reason: &str) -> Result<(), RefError> {
    limit("actor of the move", actor.len(), AUTHOR_BYTES_MAX, "bytes")?;
    limit("reason of the move", reason.len(), REF_REASON_BYTES_MAX, "bytes")
}

fn limit(what: &'static str, value: usize, value_max: usize, unit: &'static str) -> Result<(), RefError> {
    if value <= value_max { Ok(()) } else { Err(RefError::Limit { what, value, value_max, unit }) }
}

/// The first rule of git's check-ref-format that `text` breaks.
fn broken_rule(text: &str) -> Option<&'static str> {
    let forbidden = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
    let rules = [
        (text.is_empty(), "it is empty"),
        (text == "@", "it is a single @"),
        (text.contains(forbidden), "control characters, space and ~^:?*[\\ are not allowed"),
        (text.contains(".."), "two dots in a row are not allowed"),
        (text.contains("@{"), "@{ is not allowed"),
        (text.ends_with('.'), "it ends with a dot"),
        (text.split('/').any(str::is_empty), "a segment between slashes is empty"),
        (text.split('/').any(|segment| segment.starts_with('.')), "a segment begins with a dot"),
        (text.split('/').any(|segment| segment.ends_with(".lock")), "a segment ends with .lock"),
    ];
    rules.into_iter().find(|(broken, _)| *broken).map(|(_, rule)| rule)
}

fn conflict(name: &RefName, found: Option<VertexId>) -> String {
    match found {
        Some(id) => format!("ref {name} is at {id}"),
        None => format!("ref {name} does not exist"),
    }
}
