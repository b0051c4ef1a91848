//! A move of a ref as it stands in the log: the body of a record, an rkyv archive.
//!
//! Promises: a record that was read names its own key, is within every limit, and is one that a decision can have made.
//! Does not: know whether the move was allowed; that was decided before it was written.

use qmesh_storage::{Record, RecordError};
use rkyv::rancor::Failure;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::dag::refs::{RefError, RefName, check_text};
use crate::error::{Reason, Refusal};
use crate::ids::{ID_BYTES, VertexId};

/// Kind of a record that holds a move of a ref.
pub const RECORD_KIND_REF: u8 = 2;
/// Version of the body.
pub const REF_RECORD_VERSION: u16 = 1;

/// A decided move of a ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefRecord {
    /// The ref.
    pub name: RefName,
    /// The number of this move, the first is 1.
    pub version: u64,
    /// Where the ref was.
    pub from: Option<VertexId>,
    /// Where it goes; `None` deletes it.
    pub to: Option<VertexId>,
    /// Who moves it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: u64,
}

/// Why a record is not a move of a ref.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefRecordError {
    /// The record holds something else.
    #[error("record of kind {kind}, a ref's move has kind {RECORD_KIND_REF}")]
    RecordKind {
        /// What was found.
        kind: u8,
    },
    /// A version this build does not know.
    #[error("ref record version {0}; this build reads version {REF_RECORD_VERSION}")]
    Version(u16),
    /// The body is not the archive of a move that can have been decided.
    #[error("the body of the record is not an archived move of a ref: {0}")]
    Archive(&'static str),
    /// The key is not the hash of the name.
    #[error("the record's key is not that of the ref {0}")]
    Key(RefName),
    /// A name or a text that no move has.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The record's envelope is refused.
    #[error(transparent)]
    Record(#[from] RecordError),
}

#[derive(Archive, Serialize)]
struct Body<'a> {
    body_version: u16,
    /// Bit 0: `from` is there, bit 1: `to` is there. An id that is not there is zero.
    present: u8,
    reserved_byte: u8,
    reserved_word: u32,
    version: u64,
    timestamp_ms: u64,
    from: [u8; ID_BYTES],
    to: [u8; ID_BYTES],
    #[rkyv(with = InlineAsBox)]
    name: &'a str,
    #[rkyv(with = InlineAsBox)]
    actor: &'a str,
    #[rkyv(with = InlineAsBox)]
    reason: &'a str,
}

const ROOT_BYTES: usize = size_of::<ArchivedBody<'static>>();
const _: () = assert!(ROOT_BYTES == 112 && align_of::<ArchivedBody<'static>>() == 8);

impl RefRecord {
    /// The record that goes into the log; its key is the ref's.
    pub fn to_record(&self) -> Record {
        let id = |id: Option<VertexId>| id.map_or([0; ID_BYTES], |id| id.0);
        let body = Body {
            body_version: REF_RECORD_VERSION,
            present: u8::from(self.from.is_some()) | u8::from(self.to.is_some()) << 1,
            reserved_byte: 0,
            reserved_word: 0,
            version: self.version,
            timestamp_ms: self.timestamp_ms,
            from: id(self.from),
            to: id(self.to),
            name: self.name.as_str(),
            actor: &self.actor,
            reason: &self.reason,
        };
        let built = Record::build::<RefRecordError>(RECORD_KIND_REF, &self.name.key(), self.body_bytes(), |buffer| {
            rkyv::api::high::to_bytes_in::<_, Failure>(&body, buffer)
                .map_err(|_| RefRecordError::Archive("it could not be written"))
        });
        match built {
            Ok(record) => record,
            Err(error) => panic!("a decided move is within its limits, yet: {error}"),
        }
    }

    /// The move that a record holds, fully checked.
    ///
    /// # Errors
    /// Any [`RefRecordError`].
    pub fn from_record(record: &Record) -> Result<Self, RefRecordError> {
        if record.kind() != RECORD_KIND_REF {
            return Err(RefRecordError::RecordKind { kind: record.kind() });
        }
        let body = rkyv::api::low::access::<ArchivedBody<'static>, Failure>(record.body())
            .map_err(|_| RefRecordError::Archive("its parts do not fit together"))?;
        if body.body_version != REF_RECORD_VERSION {
            return Err(RefRecordError::Version(body.body_version.to_native()));
        }
        if body.reserved_byte != 0 || body.reserved_word != 0 {
            return Err(RefRecordError::Archive("reserved bytes are not zero"));
        }
        let id = |bit: u8, bytes: &[u8; ID_BYTES]| match (body.present & bit != 0, *bytes == [0; ID_BYTES]) {
            (true, _) => Ok(Some(VertexId(*bytes))),
            (false, true) => Ok(None),
            (false, false) => Err(RefRecordError::Archive("an id that is not there is not zero")),
        };
        let decided = Self {
            name: body.name.parse()?,
            version: body.version.to_native(),
            from: id(1, &body.from)?,
            to: id(2, &body.to)?,
            actor: body.actor.to_string(),
            reason: body.reason.to_string(),
            timestamp_ms: body.timestamp_ms.to_native(),
        };
        if !matches!(body.present, 1..=3) || decided.version == 0 {
            return Err(RefRecordError::Archive("no decision makes such a move"));
        }
        check_text(&decided.actor, &decided.reason)?;
        if record.body().len() != decided.body_bytes() {
            return Err(RefRecordError::Archive("it is longer or shorter than its parts"));
        }
        if *record.key() != decided.name.key() {
            return Err(RefRecordError::Key(decided.name));
        }
        Ok(decided)
    }

    fn body_bytes(&self) -> usize {
        let text_bytes = self.name.as_str().len() + self.actor.len() + self.reason.len();
        text_bytes.next_multiple_of(align_of::<ArchivedBody<'static>>()) + ROOT_BYTES
    }
}

impl From<RefRecordError> for Refusal {
    fn from(error: RefRecordError) -> Self {
        match error {
            RefRecordError::Ref(error) => error.into(),
            error => Self::new(Reason::BadRequest, error.to_string()),
        }
    }
}
