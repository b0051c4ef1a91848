//! What the control plane remembers of certificates: whose they are, until when, and which are revoked.
//!
//! Promises: a revoked serial stays known for longer than its certificate could be believed.
//! Does not: hold a certificate or a key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::CERTIFICATE_KEPT_MS;
use crate::ids::{NodeId, hex};

/// The serial number of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Serial(pub [u8; 16]);

/// A certificate that was issued. Its serial is the key it is found under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Whose it is.
    pub owner: NodeId,
    /// When it ends, in milliseconds since 1970-01-01 UTC.
    pub expires_ms: u64,
    /// When it was revoked, in milliseconds since 1970-01-01 UTC.
    pub revoked_ms: Option<u64>,
}

impl CertificateRecord {
    /// Whether it can be believed at `now_ms`.
    pub fn is_good(&self, now_ms: u64) -> bool {
        now_ms < self.expires_ms && self.revoked_ms.is_none()
    }

    /// Whether nobody could believe it any more.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms.saturating_add(CERTIFICATE_KEPT_MS) <= now_ms
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}
