//! Who a node is: its names and roles, the authority that vouches for them, and the certificates in which they stand.
//!
//! Promises: what a certificate says is parsed into types before anybody believes it, and hostile bytes are an error,
//! never a panic; a private key never leaves the node that made it.
//! Does not: keep time (the caller passes `now`), build TLS configurations (`tls`, `peer`), or decide what a role may do.

mod authority;
mod certificate;
mod leaf;
mod name;
mod request;
mod roles;

pub(crate) use authority::parse_certificate;
pub use authority::{AUTHORITY_CERTIFICATE_FILE, AUTHORITY_LIFE, Authority, IdentityError, Issued, LEAF_LIFE, Names};
pub use certificate::{CertificateError, Fingerprint, PeerIdentity, Serial, SerialError, renew_due};
pub use leaf::Leaf;
pub use name::{NAME_BYTES_MAX, NameError, NodeIdentity};
pub use request::{REQUEST_BYTES_MAX, RequestError, SigningRequest};
pub use roles::{Role, Roles, RolesError};
