//! Who may do what between nodes, how a stranger becomes one, and whom an access token names.
//!
//! Promises: an operation between nodes is permitted by the roles in the caller's certificate and by nothing else; a
//! join token is a secret of 128 bits of which the issuer keeps only a hash; an access token counts when one of its issuer's keys
//! signed it for this node and this time.
//! Does not: check certificates (`qmesh-net` has, before anything here is asked), keep tokens, fetch keys, or know operations.

pub mod bearer;
pub mod join;
pub mod keyring;
pub mod keys;
pub mod permission;
pub mod token;
pub mod wire;
