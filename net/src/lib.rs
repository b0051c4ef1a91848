//! The mesh of a qmesh node: authenticated bytes between nodes and clients, over QUIC.
//!
//! Promises: TLS 1.3 on every connection; between nodes both sides show who they are; what strangers send is bounded before it is kept and parsed before it is
//! believed; many small messages leave in one write.
//! Does not: know what an operation means, where data lives, or which runtime drives a core (only `io` names one).

mod assembly;
pub mod identity;
pub mod io;
pub mod peer;
pub mod rpc;
pub mod tls;
pub mod wire;
