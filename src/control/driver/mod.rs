//! The hands of the control plane: what its decisions need of the world, on the core that has its group.
//!
//! Promises: nothing is decided here. Does not: travel; other nodes are asked through [`crate::router::Peers`].

pub mod plane;
pub mod reconcile;
