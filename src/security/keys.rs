//! An issuer's public keys, read from its JWKS document.
//!
//! Promises: a key is used only for the one algorithm of its kind, and only if the issuer does not say that it is for something
//! else; what is not understood is left out, so that a new kind of key does not hide the others.
//! Does not: fetch the document.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::Value;

use crate::limits::{ISSUER_DOCUMENT_BYTES_MAX, ISSUER_KEYS_MAX};

/// The least modulus of an RSA key, in bits.
const RSA_BITS_MIN: usize = 2048;

/// How a token may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// The algorithm of that name in a token's head.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            // RFC 9864 names the curve too.
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            "ES256" => Some(Self::Es256),
            "RS256" => Some(Self::Rs256),
            _ => None,
        }
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::EdDsa => Self::EdDSA,
            Algorithm::Es256 => Self::ES256,
            Algorithm::Rs256 => Self::RS256,
        }
    }
}

/// The keys of one issuer.
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Of the document they were read from.
    digest: blake3::Hash,
}

#[derive(Clone)]
struct Key {
    name: Option<Box<str>>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// A document that is not a set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not of that form.
    #[error("this is not a JWKS document")]
    Malformed,
    /// More than an issuer has.
    #[error("a JWKS document of more than {ISSUER_DOCUMENT_BYTES_MAX} bytes or {ISSUER_KEYS_MAX} keys")]
    TooLarge,
    /// None that can be used.
    #[error("the JWKS document has no key for EdDSA, ES256 or RS256")]
    Empty,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Row {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl KeySet {
    /// Reads a JWKS document.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        if ISSUER_DOCUMENT_BYTES_MAX < document.len() {
            return Err(KeySetError::TooLarge);
        }
        let rows: Document = serde_json::from_slice(document).map_err(|_| KeySetError::Malformed)?;
        if ISSUER_KEYS_MAX < rows.keys.len() {
            return Err(KeySetError::TooLarge);
        }
        let rows = rows.keys.into_iter().filter_map(|row| serde_json::from_value::<Row>(row).ok());
        let keys: Vec<Key> = rows.filter_map(Row::key).collect();
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        Ok(Self { keys, digest: blake3::hash(document) })
    }

    /// The key of that name for that algorithm. A token without a name is for the only key of its kind, if there is one.
    pub fn find(&self, name: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| key.algorithm == algorithm)
            .filter(|key| name.is_none() || key.name.as_deref() == name);
        let key = fitting.next()?;
        let only = name.is_some() || fitting.next().is_none();
        only.then_some(&key.key)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }
}

/// Equal when they were read from the same bytes.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for KeySet {}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.name, key.algorithm))).finish()
    }
}

impl Row {
    fn key(self) -> Option<Key> {
        let (algorithm, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, DecodingKey::from_ed_components(self.x.as_deref()?)),
            ("EC", Some("P-256")) => {
                (Algorithm::Es256, DecodingKey::from_ec_components(self.x.as_deref()?, self.y.as_deref()?))
            }
            ("RSA", _) => {
                let modulus = self.n.as_deref()?;
                let bytes = URL_SAFE_NO_PAD.decode(modulus).ok()?;
                let bytes = bytes.iter().skip_while(|byte| **byte == 0).count();
                if bytes * 8 < RSA_BITS_MIN {
                    return None;
                }
                (Algorithm::Rs256, DecodingKey::from_rsa_components(modulus, self.e.as_deref()?))
            }
            _ => return None,
        };
        let named = self.alg.as_deref().is_none_or(|name| Algorithm::named(name) == Some(algorithm));
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let verifies = self.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        let usable = named && signs && verifies;
        usable.then_some(())?;
        Some(Key { name: self.kid.map(Into::into), algorithm, key: key.ok()? })
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
pub(in crate::security) mod tests;
