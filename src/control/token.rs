//! Join tokens: one-time permissions to become a member.
//!
//! Promises: the state holds a secret's hash only; a token is used by one node, which may ask for the answer again.
//! Does not: make secrets.

use serde::{Deserialize, Serialize};

use crate::control::{Name, Roles, TOKEN_ANSWER_MS};
use crate::ids::NodeId;

/// The public half of a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 16]);

/// A join token that is not forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
    /// What its user will be.
    pub roles: Roles,
    /// Where its user will stand.
    pub region: Name,
    /// Until when it can be redeemed, in milliseconds since 1970-01-01 UTC.
    pub expires_ms: u64,
    /// Who used it.
    pub used: Option<TokenUse>,
}

/// The one use of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The id given for it.
    pub node: NodeId,
    /// Digest of the certificate request it was used with: who shows the same again is the same.
    pub csr_digest: [u8; 32],
    /// When, in milliseconds since 1970-01-01 UTC.
    pub used_ms: u64,
}

impl JoinToken {
    /// Whether it is forgotten: whom it failed was told why for a while, whom it served could ask again.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        match &self.used {
            None => self.expires_ms.saturating_add(TOKEN_ANSWER_MS) <= now_ms,
            Some(used) => used.used_ms.saturating_add(TOKEN_ANSWER_MS) <= now_ms,
        }
    }
}
