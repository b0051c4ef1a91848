//! The HTTP door: HTTP/1.1 and HTTP/2, in the clear or over TLS, on the core's own loop.
//!
//! Promises: every request is answered once, within its deadline, with a form that [`route`] describes; a client that is slow,
//! huge, malformed or half-closed costs a bounded amount of memory and time. A whole body is sent without a copy; a stream is
//! bounded by its queue, and a reader that stops is cut.
//! Does not: know what a question means. It parses, asks the router, and writes what came back.

mod answer;
mod arriving;
mod batch;
mod body;
mod coding;
mod conversation;
mod cors;
mod explain;
mod facts;
mod graph;
mod http3;
mod inflate;
pub mod metrics;
mod negotiate;
mod openapi;
mod pace;
mod parameters;
mod problem;
mod quic_gate;
mod refs;
pub mod route;
mod schema;
mod server;
mod socket;
mod vertices;
mod watch;

pub use body::{Body, BodySender};
pub(in crate::gateway) use http3::options as http3_options;
pub use problem::Problem;
pub use server::serve;

/// What every handler returns before it becomes bytes.
pub type Response = hyper::Response<Body>;
