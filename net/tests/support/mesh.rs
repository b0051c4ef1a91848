//! Nodes of one cluster and strangers, on real loopback sockets in one thread.
//!
//! Promises: every scene has its own authority; what the nodes write into the log is kept for the scene to look at.
//! Does not: mock TLS or QUIC.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use qmesh_net::{
    identity::{Authority, LEAF_LIFE, Leaf, Names, NodeIdentity, PeerIdentity, Role, Roles},
    io::{
        endpoint::{ConnectError, EndpointOptions, TransportOptions, connect},
        mesh::MeshEndpoint,
    },
    peer::{Credentials, Expect, JoinOptions, Joining},
    rpc::{
        client::{Client, ClientOptions},
        server::{Handler, Replies, Request, ServeOptions},
    },
    tls::Trust,
};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::sync::watch;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::{SCENE_LIMIT, Seen, TestHandler};

pub const DAY: Duration = Duration::from_secs(86_400);

pub fn describe(peer: &PeerIdentity) -> String {
    format!("{} {} {}", peer.identity.spiffe_id(), peer.identity.id(), peer.identity.roles())
}

/// An authority in a folder of its own.
pub struct Cluster {
    _folder: tempfile::TempDir,
    pub authority: Authority,
}

impl Cluster {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("creates");
        let authority = Authority::open_or_create(folder.path(), SystemTime::now()).expect("creates");
        Self { _folder: folder, authority }
    }

    pub fn trust(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.certificate().clone()]
    }

    pub fn names(id: u64, roles: &[Role]) -> Names {
        let identity = NodeIdentity::new("qmesh.test", "eu", &format!("n{id}"), id, Roles::of(roles)).expect("named");
        Names { dns: Vec::new(), addresses: Vec::new(), identity }
    }

    pub fn leaf(&self, id: u64, roles: &[Role]) -> Leaf {
        self.leaf_from(id, roles, SystemTime::now())
    }

    pub fn leaf_from(&self, id: u64, roles: &[Role], start: SystemTime) -> Leaf {
        self.authority.issue_leaf(&Self::names(id, roles), LEAF_LIFE, start).expect("signs")
    }

    pub fn credentials(&self, id: u64, roles: &[Role]) -> Arc<Credentials> {
        Credentials::new(&self.leaf(id, roles), &self.trust()).expect("fits")
    }
}

/// A node that serves [`TestHandler`] to members, and an echo to joiners.
pub struct Node {
    pub endpoint: Rc<MeshEndpoint>,
    pub seen: Rc<Seen>,
    pub joins: Rc<Seen>,
    pub drain: watch::Sender<bool>,
}

impl Node {
    pub fn start(credentials: Arc<Credentials>) -> Self {
        Self::start_with(credentials, Some(JoinOptions::default()))
    }

    pub fn start_with(credentials: Arc<Credentials>, joining: Option<JoinOptions>) -> Self {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let endpoint = MeshEndpoint::bind(address, credentials, EndpointOptions::for_peers()).expect("binds");
        let (endpoint, seen, joins) = (Rc::new(endpoint), Rc::new(Seen::default()), Rc::new(Seen::default()));
        let (drain, draining) = watch::channel(false);
        let served = endpoint.clone();
        let handler = Rc::new(TestHandler(seen.clone()));
        let joining = joining.map(|options| Joining { handler: Rc::new(JoinHandler(joins.clone())), options });
        tokio::task::spawn_local(async move {
            served.serve(handler, joining, ServeOptions::default(), draining).await;
        });
        Self { endpoint, seen, joins, drain }
    }

    pub fn address(&self) -> SocketAddr {
        self.endpoint.address()
    }

    pub async fn connect(&self, credentials: &Arc<Credentials>) -> Result<Client, ConnectError> {
        let options = ClientOptions::default();
        Client::connect_peer(credentials, self.address(), Expect::AnyMember, options).await
    }
}

/// Answers with what it was asked.
struct JoinHandler(Rc<Seen>);

impl Handler for JoinHandler {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        for request in batch {
            assert!(replies.identity().is_none(), "a joiner is nobody yet");
            self.0.requests.set(self.0.requests.get() + 1);
            let answer = Bytes::from([b"joined with ", &request.body[..]].concat());
            replies.answer(request.id, 0, answer);
        }
    }
}

/// A connection that may send anything, under any protocol, with or without a certificate. It believes every node.
pub async fn raw(node: &Node, protocol: &[u8], leaf: Option<Leaf>) -> (quinn::Endpoint, quinn::Connection) {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut config = match leaf {
        Some(leaf) => builder.with_client_auth_cert(leaf.chain, leaf.key).expect("fits"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let tls = Arc::new(QuicClientConfig::try_from(config).expect("has a first cipher"));
    let options = TransportOptions::default();
    connect(node.address(), "any", &Trust::LoopbackOnly, tls, &options).await.expect("TLS goes through")
}

#[derive(Debug)]
struct AnyCertificate;

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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Runs a scene, with the lines that nodes log.
pub fn run_mesh(scene: impl AsyncFnOnce(Lines)) {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
    let limited = async {
        tokio::time::timeout(SCENE_LIMIT, scene(lines)).await.expect("the scene hangs");
    };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

/// Warnings and errors that were logged, one line each.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }

    /// Waits for a line with these words, and forgets all lines.
    pub async fn expect(&self, words: &str) {
        let is_there = super::until(|| {
            let lines = self.0.lock().expect("nobody panics with it");
            lines.iter().any(|line| line.starts_with("peer refused peer=127.0.0.1:") && line.contains(words))
        });
        let is_there = tokio::time::timeout(SCENE_LIMIT / 4, is_there).await.is_ok();
        let lines = self.take();
        assert!(is_there, "no line with {words:?} in {lines:?}");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("qmesh")
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Line {
            message: String,
            fields: String,
        }
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                match field.name() {
                    "message" => self.message = format!("{value:?}"),
                    name => drop(write!(self.fields, " {name}={value:?}")),
                }
            }
        }
        let mut line = Line { message: String::new(), fields: String::new() };
        event.record(&mut line);
        self.0.lock().expect("nobody panics with it").push(line.message + &line.fields);
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}
