//! The log of a qmesh node: bytes that survive.
//!
//! Records, segments, group commit, recovery, scrub and the disk backends. Knows nothing of the network, of DAGs, or of the
//! root package.

pub mod record;

pub use record::{RECORD_BYTES_MAX, Record, RecordError};
