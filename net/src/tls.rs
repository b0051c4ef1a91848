//! TLS configurations: version 1.3 only, hybrid post-quantum key exchange first.
//!
//! Promises: no configuration made here speaks TLS 1.2 or a key exchange without forward secrecy; a certificate is
//! left unchecked only under [`Trust::LoopbackOnly`], which [`Trust::permits`] confines to loopback addresses.
//! Does not: make certificates (`identity`) or open sockets (`io`).

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
};

use crate::{
    identity::{IdentityError, Leaf, parse_certificate},
    wire::ALPN,
};

/// Protocols of the HTTPS door, the better first.
const HTTPS_ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Whom a client believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Certificates signed by the authority in this PEM file.
    Authority(PathBuf),
    /// Certificates signed by an authority that this host trusts, or by the one in this PEM file.
    Host(Option<PathBuf>),
    /// Anyone, but only on the same machine: who can answer on a loopback port already runs here.
    LoopbackOnly,
}

impl Trust {
    /// Whether a client with this trust may speak to `address`.
    pub fn permits(&self, address: IpAddr) -> bool {
        match self {
            Self::Authority(_) | Self::Host(_) => true,
            Self::LoopbackOnly => address.to_canonical().is_loopback(),
        }
    }
}

/// TLS of the mesh's server side. With `client_authority` a client must show a certificate of that authority.
pub fn mesh_server(leaf: &Leaf, client_authority: Option<&Path>) -> Result<Arc<QuicServerConfig>, TlsError> {
    let mut config = server(leaf, client_authority)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // QUIC's early data can be replayed; nothing here says yet which operations may be.
    config.max_early_data_size = 0;
    Ok(Arc::new(QuicServerConfig::try_from(config).map_err(|_| TlsError::NoInitialCipher)?))
}

/// TLS of the HTTPS door: HTTP/2, then HTTP/1.1.
pub fn https_server(leaf: &Leaf) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = server(leaf, None)?;
    config.alpn_protocols = HTTPS_ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

/// TLS of the HTTPS door's other half, which speaks HTTP/3.
pub fn http3_server(leaf: &Leaf) -> Result<Arc<QuicServerConfig>, TlsError> {
    let mut config = server(leaf, None)?;
    config.alpn_protocols = vec![b"h3".to_vec()];
    // A request in early data could be replayed.
    config.max_early_data_size = 0;
    Ok(Arc::new(QuicServerConfig::try_from(config).map_err(|_| TlsError::NoInitialCipher)?))
}

/// TLS of a client of HTTP/3.
pub fn http3_client(trust: &Trust) -> Result<Arc<QuicClientConfig>, TlsError> {
    let mut config = client(trust, None)?;
    config.alpn_protocols = vec![b"h3".to_vec()];
    Ok(Arc::new(QuicClientConfig::try_from(config).map_err(|_| TlsError::NoInitialCipher)?))
}

/// TLS of the mesh's client side; `identity` is shown to servers that ask for one.
pub fn mesh_client(trust: &Trust, identity: Option<&Leaf>) -> Result<Arc<QuicClientConfig>, TlsError> {
    let mut config = client(trust, identity)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(QuicClientConfig::try_from(config).map_err(|_| TlsError::NoInitialCipher)?))
}

/// TLS of a client of the HTTPS door that speaks HTTP/1.1.
pub fn https_client(trust: &Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client(trust, None)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority's certificate cannot be read.
    #[error(transparent)]
    Authority(#[from] IdentityError),
    /// The certificates or keys do not fit together.
    #[error("certificate or key refused: {0}")]
    Refused(#[from] rustls::Error),
    /// The authority cannot vouch for clients.
    #[error("client authority refused: {0}")]
    ClientAuthority(#[from] rustls::server::VerifierBuilderError),
    /// Nobody could be believed.
    #[error("this host has no trusted authorities (ca-certificates), and none was named")]
    NoAuthorities,
    /// The provider lacks the cipher that QUIC's first packets use.
    #[error("the cryptographic provider lacks AES-128-GCM, which QUIC's first packets need")]
    NoInitialCipher,
}

/// The aws-lc provider with X25519MLKEM768 before X25519, and AES-128-GCM before its slower siblings.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

fn server(leaf: &Leaf, client_authority: Option<&Path>) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    Ok(builder.with_single_cert(leaf.chain.clone(), leaf.key.clone_key())?)
}

fn client(trust: &Trust, identity: Option<&Leaf>) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match trust {
        Trust::Authority(path) => builder.with_root_certificates(roots(path)?),
        Trust::Host(also) => builder.with_root_certificates(host_roots(also.as_deref())?),
        Trust::LoopbackOnly => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate { algorithms }))
        }
    };
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(leaf) => builder.with_client_auth_cert(leaf.chain.clone(), leaf.key.clone_key())?,
    })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let pem = fs::read_to_string(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    roots.add(parse_certificate(path, &pem)?)?;
    Ok(roots)
}

/// The host's own authorities, and one more. Some hosts have certificates that no library reads; those are left out.
fn host_roots(also: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = also.map_or_else(|| Ok(RootCertStore::empty()), self::roots)?;
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

/// Accepts any certificate, but checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use std::time::SystemTime;

    use rustls::{ClientConnection, NamedGroup, ProtocolVersion, ServerConnection, crypto::SupportedKxGroup};

    use super::*;
    use crate::identity::{Authority, LEAF_LIFE, Names, NodeIdentity, Roles};

    struct Scene {
        _folder: tempfile::TempDir,
        authority: Authority,
        leaf: Leaf,
    }

    fn scene() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = Authority::open_or_create(folder.path(), now).unwrap();
        let names = Names {
            dns: vec!["localhost".to_owned()],
            addresses: vec![[127, 0, 0, 1].into()],
            identity: NodeIdentity::new("qmesh.local", "r1", "n1", 1, Roles::ALL).unwrap(),
        };
        let leaf = authority.issue_leaf(&names, LEAF_LIFE, now).unwrap();
        Scene { _folder: folder, authority, leaf }
    }

    /// Lets the two sides shake hands in memory.
    fn shake(client: ClientConfig, server: Arc<ServerConfig>, name: &str) -> Result<ClientConnection, rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(server)?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(client)
    }

    fn with_groups(mut config: ClientConfig, groups: Vec<&'static dyn SupportedKxGroup>) -> ClientConfig {
        let mut provider = config.crypto_provider().as_ref().clone();
        provider.kx_groups = groups;
        let trusting = config.clone();
        config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate {
                algorithms: trusting.crypto_provider().signature_verification_algorithms,
            }))
            .with_no_client_auth();
        config
    }

    #[test]
    fn s6_1_3_the_hybrid_group_is_negotiated_first_under_tls_1_3() {
        let scene = scene();
        let server = https_server(&scene.leaf).unwrap();
        let trust = Trust::Authority(scene.authority.certificate_path());
        let mut config = client(&trust, None).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connection = shake(config, server.clone(), "localhost").unwrap();
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(connection.alpn_protocol(), Some(b"h2".as_slice()));
        // A peer without the hybrid group still gets forward secrecy.
        let old = with_groups(client(&trust, None).unwrap(), vec![aws_lc_rs::kx_group::X25519]);
        let connection = shake(old, server, "localhost").unwrap();
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
    }

    #[test]
    fn s6_1_1_a_client_of_another_authority_or_name_refuses_the_server() {
        let scene = scene();
        let server = https_server(&scene.leaf).unwrap();
        let trust = Trust::Authority(scene.authority.certificate_path());
        for name in ["localhost", "127.0.0.1"] {
            shake(client(&trust, None).unwrap(), server.clone(), name).unwrap();
        }
        let error = shake(client(&trust, None).unwrap(), server.clone(), "other.example").unwrap_err();
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
        let stranger = self::scene();
        let distrust = Trust::Authority(stranger.authority.certificate_path());
        let error = shake(client(&distrust, None).unwrap(), server, "localhost").unwrap_err();
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    }

    #[test]
    fn s6_1_1_a_client_authority_demands_a_certificate_of_its_own() {
        let scene = scene();
        let stranger = self::scene();
        let server = Arc::new(server(&scene.leaf, Some(&scene.authority.certificate_path())).unwrap());
        let trust = Trust::Authority(scene.authority.certificate_path());
        shake(client(&trust, Some(&scene.leaf)).unwrap(), server.clone(), "localhost").unwrap();
        let error = shake(client(&trust, None).unwrap(), server.clone(), "localhost").unwrap_err();
        assert_eq!(error, rustls::Error::NoCertificatesPresented);
        let error = shake(client(&trust, Some(&stranger.leaf)).unwrap(), server, "localhost").unwrap_err();
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    }

    #[test]
    fn s6_1_1_unchecked_certificates_are_for_loopback_only() {
        fn check(address: &str, permitted: bool) {
            assert_eq!(Trust::LoopbackOnly.permits(address.parse().unwrap()), permitted, "{address}");
        }
        check("127.0.0.1", true);
        check("127.9.9.9", true);
        check("::1", true);
        check("::ffff:127.0.0.1", true);
        check("0.0.0.0", false);
        check("10.0.0.1", false);
        check("::", false);
        check("2001:db8::1", false);
        check("::ffff:10.0.0.1", false);
        assert!(Trust::Authority(PathBuf::new()).permits([10, 0, 0, 1].into()));
    }
}
