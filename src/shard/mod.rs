//! The rooms: replicas of shards on the core that owns them.
//!
//! Promises: an acknowledged write is durable (P1); a batch of records is proposed, committed and applied, with one voter the
//! commit is the local sync; nothing here waits for another core.
//! Does not: know doors, or other cores' shards.

mod host;
pub mod raft;
mod reads;
mod recovery;
mod replica;
mod replicated;
mod serve;
mod wire;

pub use host::{ConsensusParts, Host, HostParts, LocalAnswer, Recovered, Steward, log_directory};
pub use serve::{GroupChange, request_head};
