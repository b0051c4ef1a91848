//! What clients of earlier revisions carry for us, so that no gateway has to keep it: sealed, so that nobody else can read or make it.
//!
//! Promises: whoever has the cluster's key opens what another of its gateways sealed; what was changed, sealed for another purpose,
//! or for another principal, does not open. Does not: know what is in it. Pure but for the nonces, which are the system's random bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The form of what is sealed; the first byte of all of it.
const VERSION: u8 = 1;
/// Length of what is opened, in bytes of text.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What is sealed for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A session.
    Session = 1,
    /// The id of a server's question to a client.
    Question = 2,
}

/// Whom something is sealed for: a principal as one number, or nobody in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Owner(pub(in crate::gateway) Option<u128>);

/// What is not in the sealed bytes and must be the same when they are opened.
fn bound(purpose: Purpose, owner: Owner) -> [u8; 19] {
    let mut bytes = [0; 19];
    (bytes[0], bytes[1], bytes[2]) = (VERSION, purpose as u8, u8::from(owner.0.is_some()));
    bytes[3..].copy_from_slice(&owner.0.unwrap_or_default().to_le_bytes());
    bytes
}

/// The key of a cluster's gateways.
pub struct Seal(LessSafeKey);

impl Seal {
    /// From a secret that all gateways of a cluster have.
    pub fn new(secret: &[u8]) -> Self {
        let key = blake3::derive_key("qmesh 2026-11-27 what clients carry for a gateway", secret);
        // A key of the algorithm's own length is always taken.
        let key = UnboundKey::new(&AES_256_GCM, &key).unwrap_or_else(|_| unreachable!("32 bytes are a key"));
        Self(LessSafeKey::new(key))
    }

    /// Seals a value for who is to show it; `None` when the system gives no random bytes.
    pub(super) fn close(&self, purpose: Purpose, owner: Owner, value: &impl Serialize) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = postcard::to_stdvec(value).ok()?;
        let aad = Aad::from(bound(purpose, owner));
        self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        let mut whole = vec![VERSION];
        whole.extend_from_slice(&nonce);
        whole.extend_from_slice(&sealed);
        Some(URL_SAFE_NO_PAD.encode(whole))
    }

    /// Opens what was sealed for that purpose and for who shows it.
    pub(super) fn open<T: DeserializeOwned>(&self, purpose: Purpose, owner: Owner, text: &str) -> Option<T> {
        if TEXT_BYTES_MAX < text.len() {
            return None;
        }
        let whole = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&[VERSION], rest) = whole.split_at_checked(1)? else { return None };
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let value = self.0.open_in_place(nonce, Aad::from(bound(purpose, owner)), &mut sealed).ok()?;
        postcard::from_bytes(value).ok()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    const OWNER: Owner = Owner(Some(7));

    #[test]
    fn s3_1_1_what_was_sealed_opens_with_the_same_key_and_for_the_same_purpose_only() {
        let (seal, other) = (Seal::new(b"secret"), Seal::new(b"another"));
        let value = ("files".to_owned(), 7u64);
        let text = seal.close(Purpose::Session, OWNER, &value).unwrap();
        assert_ne!(Some(text.clone()), seal.close(Purpose::Session, OWNER, &value), "never twice the same");
        assert_eq!(Seal::new(b"secret").open::<(String, u64)>(Purpose::Session, OWNER, &text), Some(value));
        assert_eq!(seal.open::<(String, u64)>(Purpose::Question, OWNER, &text), None);
        assert_eq!(other.open::<(String, u64)>(Purpose::Session, OWNER, &text), None);
        for stranger in [Owner(None), Owner(Some(8))] {
            assert_eq!(seal.open::<(String, u64)>(Purpose::Session, stranger, &text), None);
        }
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(seal.open::<(String, u64)>(Purpose::Session, OWNER, &changed), None, "byte {at}");
        }
        for wrong in ["", "AQ", "!", &"A".repeat(TEXT_BYTES_MAX + 1)] {
            assert_eq!(seal.open::<(String, u64)>(Purpose::Session, OWNER, wrong), None);
        }
    }
}
