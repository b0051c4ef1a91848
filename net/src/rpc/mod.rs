//! Calls over long-lived streams: many requests in flight on one stream, answers in any order.
//!
//! Promises: requests are read in gulps and handed over in batches; answers that are ready together leave in one
//! write; both sides bound what is in flight and what is buffered, and a slow peer slows only itself.
//! Does not: know what an operation means, retry, or reconnect.

mod answer;
pub mod client;
mod outgoing;
pub mod server;
