//! The log of a qmesh node: bytes that survive.
//!
//! Records, segments, group commit, recovery, scrub and the disk backends. Knows nothing of the network, of DAGs, or of the
//! root package.
//!
//! Promises: what was reported as committed is found again after any crash, or its loss is reported and never cut silently.
//! Does not: replicate, name a runtime outside `io`, or know what a record means.

mod book;
mod buffer;
mod driver;
mod entry;
mod gather;
pub mod index;
pub mod inspect;
pub mod io;
mod log;
mod open;
mod pace;
pub mod record;
mod scan;
mod scrub;
mod signal;
pub mod wire;

pub use buffer::{AlignedBuffer, BLOCK_BYTES};
pub use driver::{Driver, Failed};
pub use entry::{Entry, Payload};
pub use index::Index;
pub use log::{
    AppendError, CloseError, Committed, EntryPlace, Location, Log, LogOptions, LogStats, Observer, ReadError, Replayed,
    ReplayedEntry,
};
pub use open::{Cut, OpenError, Opened, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, ShardTail};
pub use pace::Pace;
pub use record::{RECORD_BYTES_MAX, Record, RecordError};
pub use scrub::{Damage, ScrubReport};
