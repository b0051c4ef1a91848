//! Why one side does not believe the other, in words that say what to do.
//!
//! Promises: each reason is a variant with its facts; what the other side said is cut to a reason by codes, never by
//! matching on its words.
//! Does not: decide. `verify` and `admission` do.

use std::time::Duration;

use quinn::{ConnectionError, VarInt};
use rustls::{AlertDescription, CertificateError as TlsCertificateError, Error as TlsError, OtherError};

use crate::{
    identity::{CertificateError, Fingerprint, Role, Roles, Serial},
    wire::CloseCode,
};

/// Why this side refuses the certificate of the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Signed by nobody that is trusted here.
    #[error(
        "its certificate is of no authority that is trusted here; it has to join this cluster, or its authority be trusted"
    )]
    UnknownAuthority,
    /// Over.
    #[error("its certificate expired {} s ago; it has to renew it", ago.as_secs())]
    Expired {
        /// For how long.
        ago: Duration,
    },
    /// Not begun.
    #[error("its certificate is valid only in {} s; compare the clocks of both nodes", until.as_secs())]
    NotYetValid {
        /// In how long.
        until: Duration,
    },
    /// Called back.
    #[error("its certificate {serial} is revoked; it has to join again with a new token")]
    Revoked {
        /// The certificate's number.
        serial: Serial,
    },
    /// Of another cluster.
    #[error("it is of trust domain {found}, this node is of {expected}; connect nodes of one cluster")]
    OtherDomain {
        /// Its domain.
        found: String,
        /// Ours.
        expected: String,
    },
    /// The certificate names no node.
    #[error(transparent)]
    NotANode(#[from] CertificateError),
    /// Another node than the one that was looked for.
    #[error("it is node {found} and not node {expected}; look up the address of node {expected} again")]
    OtherNode {
        /// Its number.
        found: u64,
        /// The number that was looked for.
        expected: u64,
    },
    /// Without the role that was looked for.
    #[error("it is {node} with the roles {roles} and not {wanted}; use the address of a {wanted} node")]
    MissingRole {
        /// Its name.
        node: String,
        /// Its roles.
        roles: Roles,
        /// The role that was looked for.
        wanted: Role,
    },
    /// Of another authority than the token's.
    #[error(
        "it is not of the authority with fingerprint {expected}, for which the token is; use the token of this cluster, or the address of the token's"
    )]
    OtherFingerprint {
        /// The fingerprint that was looked for.
        expected: Fingerprint,
    },
    /// Refused by TLS for another reason.
    #[error("its certificate cannot be used: {detail}")]
    Unusable {
        /// What TLS says.
        detail: String,
    },
}

impl Distrust {
    /// What TLS found when it checked a chain.
    pub(crate) fn of_chain(error: &TlsError) -> Self {
        let TlsError::InvalidCertificate(error) = error else {
            return Self::Unusable { detail: error.to_string() };
        };
        match error {
            TlsCertificateError::UnknownIssuer => Self::UnknownAuthority,
            TlsCertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { ago: Duration::from_secs(time.as_secs().saturating_sub(not_after.as_secs())) }
            }
            TlsCertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { until: Duration::from_secs(not_before.as_secs().saturating_sub(time.as_secs())) }
            }
            error => Self::Unusable { detail: error.to_string() },
        }
    }

    /// As TLS tells it to the other side: the alert that fits, and these words.
    pub(crate) fn into_tls(self) -> TlsError {
        match self {
            Self::UnknownAuthority | Self::OtherFingerprint { .. } => TlsCertificateError::UnknownIssuer,
            Self::Expired { .. } => TlsCertificateError::Expired,
            Self::NotYetValid { .. } => TlsCertificateError::NotValidYet,
            Self::Revoked { .. } => TlsCertificateError::Revoked,
            other => TlsCertificateError::Other(OtherError(std::sync::Arc::new(other))),
        }
        .into()
    }
}

/// Why the other side refused this one, as it said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It does not know the authority of our certificate.
    #[error("it does not trust the authority of this node's certificate; join its cluster with a token")]
    UnknownAuthority,
    /// Our certificate is over or has not begun.
    #[error(
        "this node's certificate has expired or is not yet valid there; renew it, and compare the clocks of both nodes"
    )]
    OutOfValidity,
    /// Our certificate was called back.
    #[error("this node's certificate is revoked; join again with a new token")]
    Revoked,
    /// We have none.
    #[error("it wants a certificate and this side showed none; join the cluster first")]
    CertificateMissing,
    /// It does not speak our protocol.
    #[error(
        "it does not speak the protocol of the mesh; check that the address is a mesh address and not a door for clients"
    )]
    OtherProtocol,
    /// It takes nobody in.
    #[error("it lets nobody join; use the address of a control node")]
    JoinsNobody,
    /// It takes nobody more in just now.
    #[error("too many nodes are joining there just now; try again in a few seconds")]
    JoinersFull,
    /// More was asked of a joining connection than it may.
    #[error("the connection was only for joining, or has used up its attempts; connect again")]
    JoinOnly,
    /// It is going away.
    #[error("it is draining; use another node's address, or try again later")]
    Draining,
    /// It does not like our certificate for a reason in its words.
    #[error("it refused this node's certificate")]
    Certificate,
}

impl Rejection {
    /// The reason in a connection's end; `None` when the other side did not refuse.
    pub fn of(error: &ConnectionError) -> Option<Self> {
        match error {
            ConnectionError::ConnectionClosed(close) => {
                /// Where QUIC puts the alerts of TLS (RFC 9001, 4.8).
                const ALERTS_START: u64 = 0x100;
                let alert = u64::from(close.error_code).checked_sub(ALERTS_START)?;
                Some(match AlertDescription::from(u8::try_from(alert).ok()?) {
                    AlertDescription::UnknownCA => Self::UnknownAuthority,
                    AlertDescription::CertificateExpired => Self::OutOfValidity,
                    AlertDescription::CertificateRevoked => Self::Revoked,
                    AlertDescription::CertificateRequired => Self::CertificateMissing,
                    AlertDescription::NoApplicationProtocol => Self::OtherProtocol,
                    AlertDescription::BadCertificate
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::DecryptError => Self::Certificate,
                    _ => return None,
                })
            }
            ConnectionError::ApplicationClosed(close) => {
                let is = |code: CloseCode| close.error_code == VarInt::from_u32(code as u32);
                [
                    (CloseCode::Draining, Self::Draining),
                    (CloseCode::Revoked, Self::Revoked),
                    (CloseCode::CertificateMissing, Self::CertificateMissing),
                    (CloseCode::CertificateRefused, Self::Certificate),
                    (CloseCode::JoinsNobody, Self::JoinsNobody),
                    (CloseCode::JoinersFull, Self::JoinersFull),
                    (CloseCode::JoinOnly, Self::JoinOnly),
                ]
                .into_iter()
                .find_map(|(code, rejection)| is(code).then_some(rejection))
            }
            _ => None,
        }
    }
}
