//! The bytes of commands, outcomes and states: in the control group's log, in its snapshots, between nodes.
//!
//! ```text
//! u16 version, u8 kind (1 command, 2 outcome, 3 state), u8 reserved, then the value as postcard writes it
//! ```
//!
//! postcard writes fields in the order they are declared, numbers as LEB128, sequences and texts after their length, a
//! variant as its number: nothing describes itself, so no field can be unknown, and a changed layout is another version,
//! which `wire_tests` pins. Not rkyv, which the records use: that is for bytes read in place on the hot path and wants
//! aligned buffers, mirrored types and a check of every nested part; these are small, rare and read once, and each checked
//! word ([`crate::control::Name`], [`crate::control::Roles`]) is parsed as it is read.
//!
//! Promises: equal values have equal bytes; strangers' bytes are bounded before they are read and never panic; a state that
//! was decoded passes [`State::check`].
//! Does not: detect damage on disk; the log's frames do.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::state::Broken;
use crate::control::{Action, Command, Outcome, State};
use crate::error::{Reason, Refusal};

/// Version of commands and outcomes. Commands stand in logs and are read for as long as those are: a new one is put behind the others.
pub const CONTROL_WIRE_VERSION: u16 = 1;
/// Version of states, which are told and never kept. 2: renewals that were asked for.
pub const STATE_WIRE_VERSION: u16 = 2;
/// A command, in bytes.
pub const COMMAND_BYTES_MAX: usize = 4 << 10;
/// An outcome, in bytes.
pub const OUTCOME_BYTES_MAX: usize = 4 << 10;
/// A state, in bytes: full tables take about a quarter of it.
pub const STATE_BYTES_MAX: usize = 1 << 20;

const HEADER_BYTES: usize = 4;
const KIND_COMMAND: u8 = 1;
const KIND_OUTCOME: u8 = 2;
const KIND_STATE: u8 = 3;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than a header.
    #[error("{bytes} bytes are too few for a header")]
    Short {
        /// What there was.
        bytes: usize,
    },
    /// Longer than it may be.
    #[error("{bytes} bytes, at most {bytes_max}")]
    Long {
        /// What there was.
        bytes: usize,
        /// What there may be.
        bytes_max: usize,
    },
    /// Another version.
    #[error(
        "control format version {0}; this build reads commands of version {CONTROL_WIRE_VERSION} and states of {STATE_WIRE_VERSION}"
    )]
    Version(u16),
    /// Another kind of value.
    #[error("the bytes are of kind {found}, wanted is kind {wanted}")]
    Kind {
        /// The kind there was.
        found: u8,
        /// The kind that was asked for.
        wanted: u8,
    },
    /// The value does not read, or something follows it.
    #[error("the bytes do not read as one value of that kind")]
    Value,
    /// A state that no state machine wrote.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// The bytes of a command.
pub fn encode_command(command: &Command) -> Vec<u8> {
    encode(KIND_COMMAND, command)
}

/// The command that bytes hold.
///
/// # Errors
/// Any [`WireError`] but a broken state.
pub fn decode_command(bytes: &[u8]) -> Result<Command, WireError> {
    decode(KIND_COMMAND, COMMAND_BYTES_MAX, bytes)
}

/// The bytes of an outcome.
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    encode(KIND_OUTCOME, outcome)
}

/// The outcome that bytes hold.
///
/// # Errors
/// Any [`WireError`] but a broken state.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, WireError> {
    decode(KIND_OUTCOME, OUTCOME_BYTES_MAX, bytes)
}

/// The bytes of a state.
pub fn encode_state(state: &State) -> Vec<u8> {
    encode(KIND_STATE, state)
}

/// The state that bytes hold, with all that a state promises.
///
/// # Errors
/// Any [`WireError`].
pub fn decode_state(bytes: &[u8]) -> Result<State, WireError> {
    let state: State = decode(KIND_STATE, STATE_BYTES_MAX, bytes)?;
    state.check()?;
    Ok(state)
}

/// BLAKE3 of an action, by which a repeated request is known.
pub(super) fn action_digest(action: &Action) -> [u8; 32] {
    *blake3::hash(&encode(KIND_COMMAND, action)).as_bytes()
}

fn version_of(kind: u8) -> u16 {
    if kind == KIND_STATE { STATE_WIRE_VERSION } else { CONTROL_WIRE_VERSION }
}

fn encode(kind: u8, value: &impl Serialize) -> Vec<u8> {
    let [low, high] = version_of(kind).to_le_bytes();
    match postcard::to_extend(value, vec![low, high, kind, 0]) {
        Ok(bytes) => bytes,
        Err(error) => panic!("a value in memory has a length and a vector grows, yet: {error}"),
    }
}

fn decode<T: DeserializeOwned>(kind: u8, bytes_max: usize, bytes: &[u8]) -> Result<T, WireError> {
    if bytes_max < bytes.len() {
        return Err(WireError::Long { bytes: bytes.len(), bytes_max });
    }
    let Some((&[low, high, found, reserved], value)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(WireError::Short { bytes: bytes.len() });
    };
    let version = u16::from_le_bytes([low, high]);
    if version != version_of(found) {
        return Err(WireError::Version(version));
    }
    if found != kind {
        return Err(WireError::Kind { found, wanted: kind });
    }
    match postcard::take_from_bytes(value) {
        Ok((value, [])) if reserved == 0 => Ok(value),
        _ => Err(WireError::Value),
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        let reason = if matches!(error, WireError::Broken(_)) { Reason::Corrupt } else { Reason::BadRequest };
        Self::new(reason, error.to_string())
    }
}
