//! Connections between nodes: both sides show a certificate of the cluster's authority.
//!
//! Promises: nobody calls a node's operations without a certificate that the cluster's authority signed, that is valid
//! now and not revoked; keys, trust and revocations are replaced while connections are open, and no call fails by it; a
//! stranger with a token may do one thing, which is to join; each refusal says why, on both sides.
//! Does not: say which role may do what, keep tokens, find peers, or close a connection because its certificate has
//! expired meanwhile; to end one early, revoke its certificate.

mod admission;
mod client;
mod credentials;
mod distrust;
mod joining;
mod verify;

pub(crate) use admission::{Caller, TurnedAway, admit};
pub use client::Pinned;
pub(crate) use client::close_when_revoked;
pub use credentials::{Credentials, CredentialsError, REVOKED_SERIALS_MAX};
pub use distrust::{Distrust, Rejection};
pub(crate) use joining::{JoinGate, MemberGate};
pub use joining::{JoinOptions, Joining};
pub use verify::Expect;
pub(crate) use verify::mesh_endpoint;

/// The name that goes with a connection between nodes in TLS. It is the same for all: a node is known by the SPIFFE
/// identity in its certificate, wherever it is reached, so that an address may change without a new certificate.
pub(crate) const SERVER_NAME: &str = "mesh.qmesh.internal";
