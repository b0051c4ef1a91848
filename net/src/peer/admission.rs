//! Who a connection that passed TLS is let in as: the one place where the protocol meets the certificate.
//!
//! Promises: a member is who showed a certificate on the members' protocol; who chose to join is a joiner, whatever it
//! showed; everybody else is turned away with a reason.
//! Does not: verify a chain. A certificate that is here passed TLS.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::{credentials::Snapshot, distrust::Distrust};
use crate::{
    identity::PeerIdentity,
    wire::{CloseCode, JOIN_ALPN, PEER_ALPN},
};

/// Who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A node of the cluster.
    Member(Arc<PeerIdentity>),
    /// Somebody who may join and do nothing else.
    Joiner,
}

/// Decides on a connection by its protocol and the chain that was shown.
pub(crate) fn admit(
    protocol: Option<&[u8]>,
    chain: Option<&[CertificateDer<'_>]>,
    snapshot: &Snapshot,
) -> Result<Caller, TurnedAway> {
    match protocol {
        Some(PEER_ALPN) => {
            let leaf = chain.and_then(<[_]>::first).ok_or(TurnedAway::CertificateMissing)?;
            // Once more, because a serial number may have been revoked since TLS looked.
            Ok(Caller::Member(Arc::new(snapshot.check_member(leaf).map_err(TurnedAway::Distrusted)?)))
        }
        Some(JOIN_ALPN) => Ok(Caller::Joiner),
        _ => Err(TurnedAway::ProtocolMissing),
    }
}

/// Why a connection is closed before anything of it is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TurnedAway {
    #[error("no client certificate; a node needs one of this cluster's authority, and gets it by joining")]
    CertificateMissing,
    #[error("no protocol of the mesh was chosen; offer qmesh-peer/1 or qmesh-join/1")]
    ProtocolMissing,
    #[error(transparent)]
    Distrusted(Distrust),
    #[error("nobody can join here; use the address of a control node")]
    JoinsNobody,
    #[error("{joiners_max} nodes are joining already; try again")]
    JoinersFull { joiners_max: usize },
}

impl TurnedAway {
    pub(crate) fn code(&self) -> CloseCode {
        match self {
            Self::CertificateMissing => CloseCode::CertificateMissing,
            Self::ProtocolMissing => CloseCode::BadHead,
            Self::Distrusted(Distrust::Revoked { .. }) => CloseCode::Revoked,
            Self::Distrusted(_) => CloseCode::CertificateRefused,
            Self::JoinsNobody => CloseCode::JoinsNobody,
            Self::JoinersFull { .. } => CloseCode::JoinersFull,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use std::{collections::HashSet, time::SystemTime};

    use super::*;
    use crate::{
        identity::{Authority, LEAF_LIFE, Names, NodeIdentity, Roles},
        peer::Credentials,
    };

    #[test]
    fn s6_1_4_only_a_certificate_on_the_members_protocol_makes_a_member() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), SystemTime::now()).unwrap();
        let issue = |domain: &str, id: u64| {
            let identity = NodeIdentity::new(domain, "eu", &format!("n{id}"), id, Roles::ALL).unwrap();
            let names = Names { dns: Vec::new(), addresses: Vec::new(), identity };
            authority.issue_leaf(&names, LEAF_LIFE, SystemTime::now()).unwrap()
        };
        let (own, peer, stranger) = (issue("a", 1), issue("a", 2), issue("b", 3));
        let credentials = Credentials::new(&own, &[authority.certificate().clone()]).unwrap();
        let check = |protocol: Option<&[u8]>, chain: Option<&[CertificateDer<'static>]>| {
            admit(protocol, chain, &credentials.snapshot())
        };
        let member = Caller::Member(Arc::new(peer.identity().unwrap()));
        assert_eq!(check(Some(PEER_ALPN), Some(&peer.chain)), Ok(member));
        assert_eq!(check(Some(PEER_ALPN), None), Err(TurnedAway::CertificateMissing));
        assert_eq!(check(Some(PEER_ALPN), Some(&[])), Err(TurnedAway::CertificateMissing));
        assert_eq!(check(Some(JOIN_ALPN), None), Ok(Caller::Joiner));
        assert_eq!(check(Some(JOIN_ALPN), Some(&peer.chain)), Ok(Caller::Joiner), "a member that joins may only join");
        assert_eq!(check(Some(b"qmesh/1"), Some(&peer.chain)), Err(TurnedAway::ProtocolMissing));
        assert_eq!(check(None, Some(&peer.chain)), Err(TurnedAway::ProtocolMissing));
        let refused = check(Some(PEER_ALPN), Some(&stranger.chain)).unwrap_err();
        assert_eq!(refused.code(), CloseCode::CertificateRefused, "{refused}");
        let serial = peer.identity().unwrap().serial;
        credentials.replace_revoked(HashSet::from([serial])).unwrap();
        let refused = check(Some(PEER_ALPN), Some(&peer.chain)).unwrap_err();
        assert_eq!(refused, TurnedAway::Distrusted(Distrust::Revoked { serial }));
        assert_eq!(refused.code(), CloseCode::Revoked);
    }
}
