//! Asking an authority for a certificate without giving it the key.
//!
//! Promises: the key never leaves [`SigningRequest`]; of a request only the public key is taken, after the proof that
//! the asker holds the private one; a request that wishes for names, uses or a part of an authority is refused.
//! Does not: decide whether the asker may have a certificate, or which names stand in it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::Oid,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::{FromDer as _, X509CertificationRequest},
};

use super::{
    authority::IdentityError,
    certificate::PeerIdentity,
    leaf::{Leaf, private_key},
};

/// Length of a signing request, in bytes: ten times what one with a P-256 key takes.
pub const REQUEST_BYTES_MAX: usize = 4 << 10;
/// An uncompressed point of P-256, in bytes.
const POINT_BYTES: usize = 65;

/// A new key, and the request (PKCS #10) to certify it.
#[derive(Debug)]
pub struct SigningRequest {
    key: KeyPair,
    der: Vec<u8>,
}

impl SigningRequest {
    /// Makes a key and a request that says nothing but the key.
    pub fn new() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        let der = parameters.serialize_request(&key)?.der().to_vec();
        Ok(Self { key, der })
    }

    /// The request, for [`Authority::sign_request`](super::Authority::sign_request).
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Puts the key beside the chain that the authority has signed for it.
    pub fn into_leaf(self, chain: Vec<CertificateDer<'static>>) -> Result<Leaf, RequestError> {
        let first = chain.first().ok_or(RequestError::NoCertificate)?;
        let unreadable = |error: &dyn std::fmt::Display| RequestError::Unreadable { detail: error.to_string() };
        let peer = PeerIdentity::parse(first).map_err(|error| unreadable(&error))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|error| unreadable(&error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != self.key.public_key_raw() {
            return Err(RequestError::OtherKey);
        }
        let key = private_key(&self.key);
        Ok(Leaf { chain, key, starts: peer.not_before, expires: peer.not_after, is_new: true })
    }
}

/// The public key of a request, whose private half the asker has proven to hold.
#[derive(Debug)]
pub(super) struct RequestedKey([u8; POINT_BYTES]);

impl RequestedKey {
    /// Takes the key out of a request.
    pub(super) fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if REQUEST_BYTES_MAX < der.len() {
            return Err(RequestError::TooLarge { bytes: der.len() });
        }
        let unreadable = |detail: String| RequestError::Unreadable { detail };
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes behind its end".to_owned()));
        }
        let wishes = &request.certification_request_info;
        // Ignoring wishes would sign the same certificate; but who wishes for a name that it does not get has been
        // misled or means harm, and both should hear of it.
        if wishes.subject.iter_attributes().next().is_some() {
            return Err(RequestError::WishesNames);
        }
        if !wishes.attributes().is_empty() {
            return Err(RequestError::WishesExtensions);
        }
        let algorithm = &wishes.subject_pki.algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|parameters| Oid::try_from(parameters.clone()).ok());
        if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return Err(RequestError::KeyKind);
        }
        let point = wishes.subject_pki.subject_public_key.data.as_ref();
        let point = <[u8; POINT_BYTES]>::try_from(point).map_err(|_| RequestError::KeyKind)?;
        // Also checks that the point is on the curve.
        request.verify_signature().map_err(|_| RequestError::Unproven)?;
        Ok(Self(point))
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Why a signing request or its answer is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Longer than any request needs to be.
    #[error("signing request of {bytes} bytes, the limit is {REQUEST_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not a signing request, or not a certificate.
    #[error("the signing request or its answer cannot be read: {detail}")]
    Unreadable {
        /// What the parser says.
        detail: String,
    },
    /// Names are given by the authority, not by the asker.
    #[error("the signing request wishes for a subject; send one with an empty subject, the authority gives the names")]
    WishesNames,
    /// So are uses, further names, and whether it is an authority.
    #[error("the signing request wishes for extensions or other attributes; send one that carries nothing but its key")]
    WishesExtensions,
    /// Only one kind of key is signed.
    #[error(
        "the key of the signing request is not an ECDSA key on P-256 (prime256v1), uncompressed; make one of those"
    )]
    KeyKind,
    /// The request is not signed by its own key.
    #[error("the signature of the signing request is not by its key with SHA-256")]
    Unproven,
    /// An empty chain came back.
    #[error("the authority sent no certificate")]
    NoCertificate,
    /// The certificate that came back is for another key.
    #[error("the authority's certificate is not for the key of the request")]
    OtherKey,
    /// Signing failed, or the names fit no certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
