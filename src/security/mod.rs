//! Who may do what between nodes, and how a stranger becomes one.
//!
//! Promises: an operation between nodes is permitted by the roles in the caller's certificate and by nothing else; a
//! token is a secret of 128 bits of which the issuer keeps only a hash.
//! Does not: check certificates (`qmesh-net` has, before anything here is asked), keep tokens, or know operations.

pub mod join;
pub mod permission;
pub mod token;
pub mod wire;
