//! What an operator may say about a machine and about its gateway, parsed once.
//!
//! Promises: a value that leaves this room was read from a known key and lies in that key's range.
//! Does not: act on the host. It reads what the host offers and says what is missing; only
//! [`probe::raise_soft_limits`] changes anything, and only for this process.

pub mod check;
pub mod gateway;
pub mod host;
pub mod knob;
mod nearest;
pub mod pool;
pub mod probe;
pub mod resolve;
pub mod tuning;
pub mod upstream;

pub use check::{Row, Verdict, check};
pub use gateway::{Gateway, GatewayError};
pub use host::Host;
pub use knob::{Backend, Cores, Fallback, Logs, Share};
pub use resolve::{Resolved, Unmet, resolve};
pub use tuning::{KEYS, Key, Profile, SHIPPED, Shipped, TuningError};
