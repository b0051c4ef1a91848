//! A node's certificate chain beside its key, in memory and in one file.
//!
//! Promises: the file is written whole or not at all and readable by its owner only, so that after any crash a node has
//! either its old certificate and key or its new ones; a pair that does not fit is refused when it is read.
//! Does not: decide when to renew (`renew_due`), or check who signed it.

use std::{path::Path, sync::Arc, time::SystemTime};

use pem::Pem;
use rcgen::KeyPair;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{
    authority::{IdentityError, read_optional, unreadable, write_whole},
    certificate::{CertificateError, PeerIdentity},
};
use crate::tls::provider;

/// Certificates that one file may hold: the leaf and its authority, and two for an authority that is being replaced.
const CHAIN_CERTIFICATES_MAX: usize = 4;

/// A certificate chain and its key, ready for TLS.
#[derive(Debug)]
pub struct Leaf {
    /// The leaf, then the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key in PKCS #8.
    pub key: PrivateKeyDer<'static>,
    /// When the leaf starts to be valid.
    pub starts: SystemTime,
    /// When the leaf stops being valid.
    pub expires: SystemTime,
    /// Whether this call signed it, rather than finding it.
    pub is_new: bool,
}

impl Leaf {
    /// What the leaf says of its node.
    pub fn identity(&self) -> Result<PeerIdentity, CertificateError> {
        let none = || CertificateError::Unreadable { detail: "the chain is empty".to_owned() };
        PeerIdentity::parse(self.chain.first().ok_or_else(none)?)
    }

    /// Writes the key and the chain into one file, replacing what was there.
    pub fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let key = Pem::new("PRIVATE KEY", self.key.secret_der());
        let chain = self.chain.iter().map(|certificate| Pem::new("CERTIFICATE", certificate.as_ref()));
        let blocks: Vec<Pem> = std::iter::once(key).chain(chain).collect();
        let line_feeds = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        write_whole(path, &pem::encode_many_config(&blocks, line_feeds))
    }

    /// Reads what [`write`](Self::write) has written; `None` when there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(text) = read_optional(path)? else { return Ok(None) };
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| unreadable(path, &error))?;
        let chain = CertificateDer::pem_slice_iter(text.as_bytes()).take(CHAIN_CERTIFICATES_MAX);
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(path, &error))?;
        let first = chain.first().ok_or_else(|| unreadable(path, &"there is no certificate in it"))?;
        let identity = PeerIdentity::parse(first).map_err(|error| unreadable(path, &error))?;
        let leaf = Self { starts: identity.not_before, expires: identity.not_after, is_new: false, chain, key };
        leaf.certified_key().map_err(|error| unreadable(path, &error))?;
        Ok(Some(leaf))
    }

    /// The chain and the key as TLS uses them, after the check that they fit.
    pub(crate) fn certified_key(&self) -> Result<Arc<CertifiedKey>, rustls::Error> {
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider()).map(Arc::new)
    }
}

pub(super) fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}
