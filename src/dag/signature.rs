//! Signatures over vertex ids: Ed25519, or ML-DSA-65 (FIPS 204) for those who must outlast quantum computers.
//!
//! What is signed is [`DOMAIN`] followed by the 32 bytes of the id, so that a signature made here means nothing
//! anywhere else. ML-DSA is used pure, with an empty context string.
//!
//! Promises: a signature that passed [`SignatureView::verify`] was made over this id by the holder of this key.
//! Does not: say whose key it is, nor keep keys.

use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
};

use crate::dag::vertex::VertexError;
use crate::ids::{ID_BYTES, VertexId};
use crate::limits::{PUBLIC_KEY_BYTES_MAX, SIGNATURE_BYTES_MAX};

/// What stands before the id in the signed message.
pub const DOMAIN: &[u8; 16] = b"qmesh vertex v1\0";
/// Secret seed of a key, in bytes; the same for both algorithms.
pub const SEED_BYTES: usize = 32;

/// How a vertex is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 8032: keys of 32 bytes, signatures of 64 bytes.
    Ed25519,
    /// FIPS 204: keys of 1952 bytes, signatures of 3309 bytes.
    MlDsa65,
}

/// A signature that stands beside a vertex, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// How it was made.
    pub algorithm: Algorithm,
    /// The raw public key, of the algorithm's length.
    pub public_key: Vec<u8>,
    /// The raw signature, of the algorithm's length.
    pub bytes: Vec<u8>,
}

/// A signature read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureView<'a> {
    /// How it was made.
    pub algorithm: Algorithm,
    /// The raw public key.
    pub public_key: &'a [u8],
    /// The raw signature.
    pub bytes: &'a [u8],
}

/// A secret key. It never shows itself in a log.
pub struct SigningKey(Secret);

enum Secret {
    Ed25519(Ed25519KeyPair),
    MlDsa65(PqdsaKeyPair),
}

/// Why a key cannot be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no private key of a known algorithm.
    #[error("not a PKCS#8 private key or 32-byte seed of ed25519 or ml-dsa-65")]
    Form,
    /// The cryptographic library refused, for want of randomness or memory.
    #[error("the cryptographic library failed")]
    Library,
}

const _: () = assert!(Algorithm::MlDsa65.public_key_bytes() <= PUBLIC_KEY_BYTES_MAX);
const _: () = assert!(Algorithm::MlDsa65.signature_bytes() <= SIGNATURE_BYTES_MAX);

impl Algorithm {
    /// Every algorithm, in the order of its wire number.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::MlDsa65];

    /// The name in JSON, on the command line and in the test vectors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::MlDsa65 => "ml-dsa-65",
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The number in the archive; 0 means "not signed".
    pub fn wire(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::MlDsa65 => 2,
        }
    }

    /// The algorithm with that number.
    pub fn from_wire(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.wire() == raw)
    }

    /// Length of a raw public key, in bytes.
    pub const fn public_key_bytes(self) -> usize {
        match self {
            Self::Ed25519 => 32,
            Self::MlDsa65 => 1952,
        }
    }

    /// Length of a signature, in bytes.
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::Ed25519 => 64,
            Self::MlDsa65 => 3309,
        }
    }
}

impl Signature {
    /// The same signature, borrowed.
    pub fn view(&self) -> SignatureView<'_> {
        SignatureView { algorithm: self.algorithm, public_key: &self.public_key, bytes: &self.bytes }
    }
}

impl SignatureView<'_> {
    /// Verifies that the key made this signature over `id`.
    ///
    /// # Errors
    /// [`VertexError::SignatureLength`] for lengths the algorithm does not have, [`VertexError::Signature`] otherwise.
    pub fn verify(&self, id: &VertexId) -> Result<(), VertexError> {
        // The library would also read a public key in an X.509 wrapping: one key must have one spelling.
        let (bytes, bytes_wanted) = (self.public_key.len(), self.algorithm.public_key_bytes());
        if bytes != bytes_wanted {
            return Err(VertexError::SignatureLength { what: "public key", bytes, bytes_wanted });
        }
        let (bytes, bytes_wanted) = (self.bytes.len(), self.algorithm.signature_bytes());
        if bytes != bytes_wanted {
            return Err(VertexError::SignatureLength { what: "signature", bytes, bytes_wanted });
        }
        let message = message(id);
        match self.algorithm {
            Algorithm::Ed25519 => UnparsedPublicKey::new(&ED25519, self.public_key).verify(&message, self.bytes),
            Algorithm::MlDsa65 => UnparsedPublicKey::new(&ML_DSA_65, self.public_key).verify(&message, self.bytes),
        }
        .map_err(|_| VertexError::Signature)
    }

    /// An owned copy.
    pub fn to_signature(&self) -> Signature {
        Signature { algorithm: self.algorithm, public_key: self.public_key.to_vec(), bytes: self.bytes.to_vec() }
    }
}

impl SigningKey {
    /// A new key from the library's randomness.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        Ok(Self(match algorithm {
            Algorithm::Ed25519 => Secret::Ed25519(Ed25519KeyPair::generate().map_err(|_| KeyError::Library)?),
            Algorithm::MlDsa65 => {
                Secret::MlDsa65(PqdsaKeyPair::generate(&ML_DSA_65_SIGNING).map_err(|_| KeyError::Library)?)
            }
        }))
    }

    /// The key that grows from `seed`.
    ///
    /// # Errors
    /// [`KeyError::Form`] when the library refuses the seed.
    pub fn from_seed(algorithm: Algorithm, seed: &[u8; SEED_BYTES]) -> Result<Self, KeyError> {
        Ok(Self(match algorithm {
            Algorithm::Ed25519 => {
                Secret::Ed25519(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Form)?)
            }
            Algorithm::MlDsa65 => {
                Secret::MlDsa65(PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed).map_err(|_| KeyError::Form)?)
            }
        }))
    }

    /// The key in a PKCS#8 document (DER); the document says which algorithm.
    ///
    /// # Errors
    /// [`KeyError::Form`].
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, KeyError> {
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document) {
            return Ok(Self(Secret::Ed25519(key)));
        }
        let key = PqdsaKeyPair::from_pkcs8(&ML_DSA_65_SIGNING, document).map_err(|_| KeyError::Form)?;
        Ok(Self(Secret::MlDsa65(key)))
    }

    /// The key as a PKCS#8 document (DER). It is secret: the caller keeps it so.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, KeyError> {
        let document = match &self.0 {
            Secret::Ed25519(key) => key.to_pkcs8v1(),
            Secret::MlDsa65(key) => key.to_pkcs8v1(),
        };
        Ok(document.map_err(|_| KeyError::Library)?.as_ref().to_vec())
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Secret::Ed25519(_) => Algorithm::Ed25519,
            Secret::MlDsa65(_) => Algorithm::MlDsa65,
        }
    }

    /// The raw public key.
    pub fn public_key(&self) -> &[u8] {
        match &self.0 {
            Secret::Ed25519(key) => key.public_key().as_ref(),
            Secret::MlDsa65(key) => key.public_key().as_ref(),
        }
    }

    /// Signs `id`. Ed25519 gives the same bytes each time, ML-DSA-65 does not.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn sign(&self, id: &VertexId) -> Result<Signature, KeyError> {
        let message = message(id);
        let bytes = match &self.0 {
            Secret::Ed25519(key) => key.try_sign(&message).map_err(|_| KeyError::Library)?.as_ref().to_vec(),
            Secret::MlDsa65(key) => {
                let mut bytes = vec![0; Algorithm::MlDsa65.signature_bytes()];
                let length = key.sign(&message, &mut bytes).map_err(|_| KeyError::Library)?;
                bytes.truncate(length);
                bytes
            }
        };
        Ok(Signature { algorithm: self.algorithm(), public_key: self.public_key().to_vec(), bytes })
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.algorithm().name())
    }
}

fn message(id: &VertexId) -> [u8; DOMAIN.len() + ID_BYTES] {
    let mut message = [0; DOMAIN.len() + ID_BYTES];
    message[..DOMAIN.len()].copy_from_slice(DOMAIN);
    message[DOMAIN.len()..].copy_from_slice(&id.0);
    message
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s1_1_8_signature_covers_the_id_the_key_and_nothing_else() {
        for algorithm in Algorithm::ALL {
            let key = SigningKey::from_seed(algorithm, &[7; SEED_BYTES]).unwrap();
            let id = VertexId([1; ID_BYTES]);
            let good = key.sign(&id).unwrap();
            assert_eq!(good.view().verify(&id), Ok(()), "{}", algorithm.name());
            assert_eq!(good.view().verify(&VertexId([2; ID_BYTES])), Err(VertexError::Signature));

            let mut bent = good.clone();
            bent.bytes[10] ^= 1;
            assert_eq!(bent.view().verify(&id), Err(VertexError::Signature));
            let other = SigningKey::generate(algorithm).unwrap();
            let stolen = Signature { public_key: other.public_key().to_vec(), ..good.clone() };
            assert_eq!(stolen.view().verify(&id), Err(VertexError::Signature));

            let mut short = good.clone();
            short.bytes.pop();
            let bytes_wanted = algorithm.signature_bytes();
            let expected = VertexError::SignatureLength { what: "signature", bytes: bytes_wanted - 1, bytes_wanted };
            assert_eq!(short.view().verify(&id), Err(expected));
            let mut long = good;
            long.public_key.push(0);
            let bytes_wanted = algorithm.public_key_bytes();
            let expected = VertexError::SignatureLength { what: "public key", bytes: bytes_wanted + 1, bytes_wanted };
            assert_eq!(long.view().verify(&id), Err(expected));
        }
    }

    #[test]
    fn s1_1_8_signing_keys_survive_pkcs8_and_stay_secret() {
        for algorithm in Algorithm::ALL {
            let key = SigningKey::generate(algorithm).unwrap();
            let again = SigningKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
            assert_eq!((again.algorithm(), again.public_key()), (algorithm, key.public_key()));
            assert_eq!(format!("{key:?}"), format!("SigningKey({})", algorithm.name()));
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::from_wire(algorithm.wire()), Some(algorithm));
        }
        assert_eq!(SigningKey::from_pkcs8(b"no key").unwrap_err(), KeyError::Form);
        assert_eq!(Algorithm::from_wire(0), None);
    }
}
