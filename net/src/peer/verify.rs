//! The checks that TLS makes on both sides of a connection between nodes.
//!
//! Promises: TLS 1.3 only, the hybrid group first; every full handshake looks at the credentials of that moment, and
//! every handshake is full, since a resumed one would skip the checks; a certificate is believed when its chain ends in
//! a trusted authority, its dates hold, it is not revoked and it names a node of the same trust domain.
//! Does not: let in who shows no certificate at all. TLS learns only afterwards which protocol was chosen, so
//! `admission` decides that.

use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::{
    credentials::{Credentials, Snapshot},
    distrust::Distrust,
};
use crate::{
    identity::{Fingerprint, PeerIdentity, Role},
    tls::{TlsError as ConfigError, provider},
    wire::{JOIN_ALPN, PEER_ALPN},
};

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any node of the cluster.
    AnyMember,
    /// The node with this number.
    Node(u64),
    /// Any node with this role.
    Role(Role),
}

impl Expect {
    fn check(self, peer: &PeerIdentity) -> Result<(), Distrust> {
        let identity = &peer.identity;
        match self {
            Self::AnyMember => Ok(()),
            Self::Node(expected) if identity.id() == expected => Ok(()),
            Self::Node(expected) => Err(Distrust::OtherNode { found: identity.id(), expected }),
            Self::Role(wanted) if identity.roles().contains(wanted) => Ok(()),
            Self::Role(wanted) => {
                Err(Distrust::MissingRole { node: identity.node().to_owned(), roles: identity.roles(), wanted })
            }
        }
    }
}

impl Snapshot {
    /// What is to be checked beside the chain.
    pub(crate) fn check_member(&self, certificate: &CertificateDer<'_>) -> Result<PeerIdentity, Distrust> {
        let peer = PeerIdentity::parse(certificate)?;
        let (found, expected) = (peer.identity.domain(), self.own.identity.domain());
        if found != expected {
            return Err(Distrust::OtherDomain { found: found.to_owned(), expected: expected.to_owned() });
        }
        if self.revoked.contains(&peer.serial) {
            return Err(Distrust::Revoked { serial: peer.serial });
        }
        Ok(peer)
    }
}

/// TLS of an endpoint for nodes and for those who want to become one.
pub(crate) fn mesh_endpoint(credentials: &Arc<Credentials>) -> Result<Arc<QuicServerConfig>, ConfigError> {
    let config = endpoint_config(credentials)?;
    Ok(Arc::new(QuicServerConfig::try_from(config).map_err(|_| ConfigError::NoInitialCipher)?))
}

fn endpoint_config(credentials: &Arc<Credentials>) -> Result<ServerConfig, ConfigError> {
    let shown = Shown(credentials.clone());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(MemberVerifier(credentials.clone())))
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![PEER_ALPN.to_vec(), JOIN_ALPN.to_vec()];
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// TLS of a node that connects to another, and where its reason to refuse will stand.
pub(crate) fn member_client(
    credentials: &Arc<Credentials>,
    expect: Expect,
) -> Result<(Arc<QuicClientConfig>, Verdict), ConfigError> {
    let rule = Rule::Member { credentials: credentials.clone(), expect };
    client(rule, Some(Arc::new(Shown(credentials.clone()))), PEER_ALPN)
}

/// TLS of a stranger that knows only the fingerprint of the authority.
pub(crate) fn pinned_client(fingerprint: Fingerprint) -> Result<(Arc<QuicClientConfig>, Verdict), ConfigError> {
    client(Rule::Pinned { fingerprint }, None, JOIN_ALPN)
}

fn client(
    rule: Rule,
    shown: Option<Arc<Shown>>,
    protocol: &[u8],
) -> Result<(Arc<QuicClientConfig>, Verdict), ConfigError> {
    let verdict = Verdict::default();
    let config = client_config(rule, shown, protocol, verdict.clone())?;
    Ok((Arc::new(QuicClientConfig::try_from(config).map_err(|_| ConfigError::NoInitialCipher)?), verdict))
}

fn client_config(
    rule: Rule,
    shown: Option<Arc<Shown>>,
    protocol: &[u8],
    verdict: Verdict,
) -> Result<ClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(EndpointVerifier { rule, verdict }));
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What the check of one connection found: an error of TLS is only a code and words.
pub(crate) type Verdict = Arc<OnceLock<Result<Trusted, Distrust>>>;

/// A server that is believed.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    pub(crate) peer: Arc<PeerIdentity>,
    /// The authority that a fingerprint has named.
    pub(crate) authority: Option<CertificateDer<'static>>,
}

/// Shows the leaf of the moment.
#[derive(Debug)]
struct Shown(Arc<Credentials>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.snapshot().key.clone())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.snapshot().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Checks who connects to an endpoint.
#[derive(Debug)]
struct MemberVerifier(Arc<Credentials>);

impl ClientCertVerifier for MemberVerifier {
    /// Who comes to join has none; `admission` refuses all others without one.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the trust may change between two handshakes, and a node has one certificate to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let snapshot = self.0.snapshot();
        let verified = snapshot.clients.verify_client_cert(end_entity, intermediates, now)?;
        snapshot.check_member(end_entity).map_err(Distrust::into_tls)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.snapshot().clients.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.snapshot().clients.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// By what a client believes an endpoint.
#[derive(Debug)]
enum Rule {
    Member { credentials: Arc<Credentials>, expect: Expect },
    Pinned { fingerprint: Fingerprint },
}

impl Rule {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Trusted, Distrust> {
        match self {
            Self::Member { credentials, expect } => {
                let snapshot = credentials.snapshot();
                check_chain(end_entity, intermediates, &snapshot.roots, now)?;
                let peer = snapshot.check_member(end_entity)?;
                expect.check(&peer)?;
                Ok(Trusted { peer: Arc::new(peer), authority: None })
            }
            Self::Pinned { fingerprint } => {
                // An endpoint sends its authority behind its leaf.
                let authority = intermediates.iter().find(|authority| Fingerprint::of(authority) == *fingerprint);
                let other = || Distrust::OtherFingerprint { expected: *fingerprint };
                let authority = authority.ok_or_else(other)?.clone().into_owned();
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone()).map_err(|error| Distrust::of_chain(&error))?;
                check_chain(end_entity, intermediates, &roots, now).map_err(|distrust| match distrust {
                    // The authority's certificate stands beside a leaf that it did not sign.
                    Distrust::UnknownAuthority => other(),
                    distrust => distrust,
                })?;
                let peer = PeerIdentity::parse(end_entity)?;
                // The secret of a token is told to this node, so it must be one that may take members in.
                Expect::Role(Role::Control).check(&peer)?;
                Ok(Trusted { peer: Arc::new(peer), authority: Some(authority) })
            }
        }
    }
}

fn check_chain(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Distrust> {
    let algorithms = provider().signature_verification_algorithms;
    ParsedCertificate::try_from(end_entity)
        .and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms.all)
        })
        .map_err(|error| Distrust::of_chain(&error))
}

/// Checks the endpoint that a client has reached. Its name is not looked at: the certificate says which node it is.
#[derive(Debug)]
struct EndpointVerifier {
    rule: Rule,
    verdict: Verdict,
}

impl ServerCertVerifier for EndpointVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verdict = self.rule.check(end_entity, intermediates, now);
        let told = verdict.as_ref().map(|_| ServerCertVerified::assertion()).map_err(|error| error.clone().into_tls());
        // A configuration is used for one connection.
        let _ = self.verdict.set(verdict);
        told
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use std::time::SystemTime;

    use rustls::{ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

    use super::*;
    use crate::identity::{Authority, LEAF_LIFE, Names, NodeIdentity, Roles};

    #[test]
    fn s6_1_3_nodes_speak_tls_1_3_with_the_hybrid_group_and_never_resume() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), SystemTime::now()).unwrap();
        let credentials = |id: u64| {
            let identity = NodeIdentity::new("a", "eu", &format!("n{id}"), id, Roles::ALL).unwrap();
            let names = Names { dns: Vec::new(), addresses: Vec::new(), identity };
            let leaf = authority.issue_leaf(&names, LEAF_LIFE, SystemTime::now()).unwrap();
            Credentials::new(&leaf, &[authority.certificate().clone()]).unwrap()
        };
        let (server, client) = (credentials(1), credentials(2));
        let server = Arc::new(endpoint_config(&server).unwrap());
        let rule = Rule::Member { credentials: client.clone(), expect: Expect::Node(1) };
        let client = client_config(rule, Some(Arc::new(Shown(client))), PEER_ALPN, Verdict::default()).unwrap();
        let client = Arc::new(client);
        for round in 0..2 {
            let name = ServerName::try_from("mesh.qmesh.internal").unwrap();
            let mut client = ClientConnection::new(client.clone(), name).unwrap();
            let mut server = ServerConnection::new(server.clone()).unwrap();
            while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
                let mut wire = Vec::new();
                client.write_tls(&mut wire).unwrap();
                server.read_tls(&mut wire.as_slice()).unwrap();
                server.process_new_packets().unwrap();
                let mut wire = Vec::new();
                server.write_tls(&mut wire).unwrap();
                client.read_tls(&mut wire.as_slice()).unwrap();
                client.process_new_packets().unwrap();
            }
            assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
            assert_eq!(server.alpn_protocol(), Some(PEER_ALPN));
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full), "round {round}");
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
}
