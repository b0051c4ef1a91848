//! What the DAG is: its vertices, its refs, and the rules both obey.
//!
//! Promises: everything here is pure: the same input gives the same answer, on every machine.
//! Does not: await, read a clock, open a socket or a file, take a lock.

pub mod archive;
pub mod canonical;
pub mod query;
pub mod ref_record;
pub mod refs;
pub mod shape;
pub mod signature;
pub mod skeleton;
pub mod vertex;
pub mod walk;

// The envelope of a record, for those above who may not know the log.
pub use qmesh_storage::{RECORD_BYTES_MAX, Record, record};
