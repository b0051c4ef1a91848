//! What a node shows to others and whom it believes, replaceable while it serves.
//!
//! Promises: one replacement is seen by every later handshake of every endpoint and client that shares the value, and by
//! none half; an unfit replacement leaves what was; open connections go on, except those whose certificate is revoked.
//! Does not: read files, decide when to renew, or learn of revocations by itself.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use rustls::{
    RootCertStore,
    pki_types::CertificateDer,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio::sync::watch;

use crate::{
    identity::{CertificateError, Leaf, PeerIdentity, Serial, renew_due},
    tls::provider,
};

/// Serial numbers that may be revoked at a time. One can be forgotten when its certificate has expired.
pub const REVOKED_SERIALS_MAX: usize = 1 << 16;
/// Authorities that may be trusted at a time: two while one is being replaced, and room for mistakes.
const AUTHORITIES_MAX: usize = 8;

/// A node's leaf, its trust and its revocations.
#[derive(Debug)]
pub struct Credentials {
    // A watch is a swappable cell that also wakes those who must look again.
    cell: watch::Sender<Arc<Snapshot>>,
}

/// What holds at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) own: Arc<PeerIdentity>,
    pub(crate) roots: Arc<RootCertStore>,
    /// Checks the chains of those who connect, against the same roots.
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
    pub(crate) revoked: Arc<HashSet<Serial>>,
}

impl Credentials {
    /// Shows `leaf` and believes who has a certificate of one of these authorities.
    pub fn new(leaf: &Leaf, authorities: &[CertificateDer<'static>]) -> Result<Arc<Self>, CredentialsError> {
        let (roots, clients) = trust(authorities)?;
        let (key, own) = shown(leaf)?;
        let snapshot = Snapshot { key, own, roots, clients, revoked: Arc::default() };
        let (cell, _) = watch::channel(Arc::new(snapshot));
        Ok(Arc::new(Self { cell }))
    }

    /// Who the node is, as its present certificate says.
    pub fn own(&self) -> Arc<PeerIdentity> {
        self.snapshot().own.clone()
    }

    /// Whether it is time for a new leaf: two thirds of the life of the present one are over.
    pub fn renew_due(&self, now: SystemTime) -> bool {
        let own = self.own();
        renew_due(own.not_before, own.not_after, now)
    }

    /// Shows another leaf of the same node from the next handshake on.
    pub fn replace_leaf(&self, leaf: &Leaf) -> Result<(), CredentialsError> {
        let (key, own) = shown(leaf)?;
        let (was, is) = (self.own(), &own.identity);
        // Roles may change; who the node is may not, or others would not know whom they are connected to.
        if (was.identity.spiffe_id(), was.identity.id()) != (is.spiffe_id(), is.id()) {
            let name = |peer: &PeerIdentity| format!("{} ({})", peer.identity.spiffe_id(), peer.identity.id());
            return Err(CredentialsError::OtherNode { found: name(&own), expected: name(&was) });
        }
        self.change(|snapshot| {
            snapshot.key = key;
            snapshot.own = own;
        });
        Ok(())
    }

    /// Believes these authorities, and no other, from the next handshake on. To replace an authority without a gap:
    /// trust both everywhere, issue leaves by the new one everywhere, then trust the new one alone.
    pub fn replace_trust(&self, authorities: &[CertificateDer<'static>]) -> Result<(), CredentialsError> {
        let (roots, clients) = trust(authorities)?;
        self.change(|snapshot| {
            snapshot.roots = roots;
            snapshot.clients = clients;
        });
        Ok(())
    }

    /// Refuses the certificates with these numbers, and no others, from now on, and closes connections that were made
    /// with them.
    pub fn replace_revoked(&self, serials: HashSet<Serial>) -> Result<(), CredentialsError> {
        if REVOKED_SERIALS_MAX < serials.len() {
            return Err(CredentialsError::TooManyRevoked { count: serials.len() });
        }
        self.change(|snapshot| snapshot.revoked = Arc::new(serials));
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.cell.borrow().clone()
    }

    /// Completes when `serial` is revoked; never when it is not.
    pub(crate) async fn revoked(&self, serial: Serial) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.cell.subscribe().wait_for(|snapshot| snapshot.revoked.contains(&serial)).await;
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.cell.send_modify(|current| {
            let mut next = Snapshot::clone(current);
            change(&mut next);
            *current = Arc::new(next);
        });
    }
}

fn shown(leaf: &Leaf) -> Result<(Arc<CertifiedKey>, Arc<PeerIdentity>), CredentialsError> {
    Ok((leaf.certified_key().map_err(CredentialsError::Key)?, Arc::new(leaf.identity()?)))
}

type Trust = (Arc<RootCertStore>, Arc<dyn ClientCertVerifier>);

fn trust(authorities: &[CertificateDer<'static>]) -> Result<Trust, CredentialsError> {
    if authorities.is_empty() || AUTHORITIES_MAX < authorities.len() {
        return Err(CredentialsError::Authorities { count: authorities.len() });
    }
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(CredentialsError::Authority)?;
    }
    let roots = Arc::new(roots);
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
    Ok((roots, clients.map_err(|_| CredentialsError::Authorities { count: 0 })?))
}

/// Why credentials cannot be used. What was in use before still is.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The key and the certificate do not fit together.
    #[error("the leaf's key cannot be used: {0}")]
    Key(#[source] rustls::Error),
    /// The certificate names no node.
    #[error(transparent)]
    Leaf(#[from] CertificateError),
    /// The leaf is another node's.
    #[error("the leaf is for {found}, this node is {expected}; restart the node to make it another")]
    OtherNode {
        /// Whose the leaf is.
        found: String,
        /// Who this node is.
        expected: String,
    },
    /// An authority's certificate cannot be read.
    #[error("the authority's certificate cannot be used: {0}")]
    Authority(#[source] rustls::Error),
    /// None or too many.
    #[error("{count} authorities to trust; there must be 1 to {AUTHORITIES_MAX}")]
    Authorities {
        /// How many were given.
        count: usize,
    },
    /// Too many to keep.
    #[error("{count} revoked serial numbers, the limit is {REVOKED_SERIALS_MAX}; forget those that have expired")]
    TooManyRevoked {
        /// How many were given.
        count: usize,
    },
}
