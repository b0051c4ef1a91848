//! Sockets and the runtime: the one place of this crate where the runtime is named.
//!
//! Promises: a change of runtime stays in this folder.
//! Does not: know frames or certificates.

pub mod endpoint;
pub mod mesh;
pub(crate) mod task;
