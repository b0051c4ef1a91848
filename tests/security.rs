//! Nodes with roles and strangers with tokens, on real loopback sockets.
//!
//! Promises: an operation is permitted by the roles in a certificate; a token lets in who was given it, and nobody else;
//! each refusal says why. Does not: run a cluster. The issuer here keeps its tokens in a list.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use qmesh::error::{Reason, Refusal};
use qmesh::security::join::{JoinError, join};
use qmesh::security::permission::{OperationClass, authorise};
use qmesh::security::token::{JoinToken, TokenRecord};
use qmesh::security::wire::{JoinAnswer, JoinRequest};
use qmesh_net::identity::{Authority, LEAF_LIFE, Names, NodeIdentity, Role, Roles};
use qmesh_net::io::endpoint::{ConnectError, EndpointOptions};
use qmesh_net::io::mesh::MeshEndpoint;
use qmesh_net::peer::{Credentials, Distrust, Expect, JoinOptions, Joining};
use qmesh_net::rpc::client::{CallError, Client, ClientOptions};
use qmesh_net::rpc::server::{Handler, Replies, Request, ServeOptions};
use qmesh_net::wire::{Lane, OPERATION_JOIN};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tokio::sync::watch;

/// Time after which a scene has failed.
const SCENE_LIMIT: Duration = Duration::from_secs(60);

/// Operations by class: the operation's number less one is the place in [`OperationClass::ALL`].
struct ByClass;

impl Handler for ByClass {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        for request in batch {
            let class = OperationClass::ALL[usize::from(request.operation) - 1];
            match authorise(class, replies) {
                Ok(()) => replies.answer(request.id, 0, request.body),
                Err(refusal) => refuse(replies, request.id, &refusal),
            }
        }
    }
}

fn refuse(replies: &Replies, id: u64, refusal: &Refusal) {
    replies.answer(id, refusal.reason.wire(), Bytes::from(refusal.detail.clone()));
}

/// Takes joiners in: what the control plane will do, with a list for its state.
struct Issuer {
    authority: Rc<Authority>,
    tokens: Vec<TokenRecord>,
    becomes: Names,
}

impl Issuer {
    fn answer(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let denied = |detail: &str| Refusal::new(Reason::Denied, detail);
        let asked = JoinRequest::parse(body)?;
        let record = self.tokens.iter().find(|record| record.id == asked.token);
        let record = record.ok_or_else(|| denied("no such token; create one on a control node"))?;
        if !record.matches(asked.secret) {
            return Err(denied("the token's secret is wrong"));
        }
        let issued = self
            .authority
            .sign_request(&asked.request, &self.becomes, LEAF_LIFE, SystemTime::now())
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        JoinAnswer { chain: issued.chain, about: [b"welcome, ", &asked.about[..]].concat() }.encode()
    }
}

impl Handler for Issuer {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        for request in batch {
            match self.answer(&request.body) {
                Ok(body) => replies.answer(request.id, 0, body.into()),
                Err(refusal) => refuse(replies, request.id, &refusal),
            }
        }
    }
}

struct Cluster {
    _folder: tempfile::TempDir,
    authority: Rc<Authority>,
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), SystemTime::now()).unwrap();
        Self { _folder: folder, authority: Rc::new(authority) }
    }

    fn names(id: u64, roles: Roles) -> Names {
        let identity = NodeIdentity::new("qmesh.test", "eu", &format!("n{id}"), id, roles).unwrap();
        Names { dns: Vec::new(), addresses: Vec::new(), identity }
    }

    fn credentials(&self, id: u64, roles: Roles) -> Arc<Credentials> {
        let leaf = self.authority.issue_leaf(&Self::names(id, roles), LEAF_LIFE, SystemTime::now()).unwrap();
        Credentials::new(&leaf, &[self.authority.certificate().clone()]).unwrap()
    }

    /// A control node that takes these tokens; a joiner becomes worker 9.
    fn start(&self, tokens: &[&JoinToken]) -> SocketAddr {
        let issuer = Issuer {
            authority: self.authority.clone(),
            tokens: tokens.iter().map(|token| token.record()).collect(),
            becomes: Self::names(9, Roles::of(&[Role::Worker])),
        };
        let own = self.credentials(1, Roles::of(&[Role::Control]));
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let endpoint = MeshEndpoint::bind(address, own, EndpointOptions::for_peers()).unwrap();
        let address = endpoint.address();
        tokio::task::spawn_local(async move {
            let (_drain, draining) = watch::channel(false);
            let joining = Joining { handler: Rc::new(issuer), options: JoinOptions::default() };
            endpoint.serve(Rc::new(ByClass), Some(joining), ServeOptions::default(), draining).await;
        });
        address
    }
}

fn run(scene: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async {
        tokio::time::timeout(SCENE_LIMIT, scene()).await.expect("the scene hangs");
    };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

async fn member(credentials: &Arc<Credentials>, address: SocketAddr) -> Client {
    Client::connect_peer(credentials, address, Expect::Node(1), ClientOptions::default()).await.unwrap()
}

#[test]
fn s6_1_4_a_worker_cannot_act_as_a_controller() {
    run(async || {
        let cluster = Cluster::new();
        let address = cluster.start(&[]);
        for role in Role::ALL {
            let client = member(&cluster.credentials(2, Roles::of(&[role])), address).await;
            for (place, class) in OperationClass::ALL.into_iter().enumerate() {
                let answer = client.call(Lane::Control, place as u16 + 1, "order").await;
                if class.needs().is_none_or(|needed| needed.contains(role)) {
                    assert_eq!(answer, Ok(Bytes::from_static(b"order")), "{role} asks {class}");
                    continue;
                }
                let Err(CallError::Refused { status, body }) = answer else {
                    panic!("{role} asks {class}: {answer:?}")
                };
                assert_eq!(Reason::from_wire(status), Some(Reason::Denied));
                let words = String::from_utf8_lossy(&body);
                let expected = format!("spiffe://qmesh.test/region/eu/node/n2 has the roles {role} and {class} needs");
                assert!(words.starts_with(&expected), "{words}");
            }
        }
    });
}

#[test]
fn s6_1_4_a_stranger_with_a_token_becomes_what_the_cluster_says() {
    run(async || {
        let cluster = Cluster::new();
        let token = JoinToken::generate(cluster.authority.fingerprint()).unwrap();
        let address = cluster.start(&[&token]);
        // As an operator carries it.
        let carried: JoinToken = token.reveal().parse().unwrap();
        let joined = join(address, &carried, b"I am new".to_vec(), ClientOptions::default()).await.unwrap();
        assert_eq!(joined.about, b"welcome, I am new");
        assert_eq!(joined.leaf.identity().unwrap().identity, Cluster::names(9, Roles::of(&[Role::Worker])).identity);
        let credentials = Credentials::new(&joined.leaf, &[joined.authority]).unwrap();
        let client = member(&credentials, address).await;
        let forwarding = client.call(Lane::Put, 4, "data").await;
        assert_eq!(forwarding, Ok(Bytes::from_static(b"data")));
        let control = client.call(Lane::Control, 2, "order").await;
        assert!(matches!(control, Err(CallError::Refused { .. })), "{control:?}");
    });
}

#[test]
fn s6_1_4_a_token_of_another_cluster_or_secret_lets_nobody_in() {
    run(async || {
        let (cluster, other) = (Cluster::new(), Cluster::new());
        let token = JoinToken::generate(cluster.authority.fingerprint()).unwrap();
        let address = cluster.start(&[&token]);
        let attempt = async |token: &JoinToken| {
            join(address, token, Vec::new(), ClientOptions::default()).await.map(drop).unwrap_err()
        };
        let foreign = JoinToken::generate(other.authority.fingerprint()).unwrap();
        let refused = attempt(&foreign).await;
        let JoinError::Connect(ConnectError::Distrusted { distrust, .. }) = &refused else { panic!("{refused}") };
        assert_eq!(*distrust, Distrust::OtherFingerprint { expected: foreign.authority });
        let unknown = JoinToken::generate(cluster.authority.fingerprint()).unwrap();
        let refused = attempt(&unknown).await;
        assert!(refused.to_string().contains("no such token"), "{refused}");
        let guessed = JoinToken { secret: unknown.secret, ..token };
        let refused = attempt(&guessed).await;
        assert!(matches!(&refused, JoinError::Refused(refusal) if refusal.reason == Reason::Denied), "{refused}");
        assert!(refused.to_string().contains("secret is wrong"), "{refused}");
    });
}

#[test]
fn s6_1_4_a_greedy_signing_request_is_refused_over_the_wire() {
    run(async || {
        let cluster = Cluster::new();
        let token = JoinToken::generate(cluster.authority.fingerprint()).unwrap();
        let address = cluster.start(&[&token]);
        let key = KeyPair::generate().unwrap();
        let mut wishes = CertificateParams::default();
        wishes.distinguished_name = DistinguishedName::new();
        let uri = "spiffe://qmesh.test/region/eu/node/n1";
        wishes.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let request = wishes.serialize_request(&key).unwrap().der().to_vec();
        let asked = JoinRequest { token: token.id, secret: token.secret, request, about: Vec::new() };
        let pinned = Client::connect_pinned(address, token.authority, ClientOptions::default()).await.unwrap();
        for (body, expected) in [
            (asked.encode().unwrap(), "wishes for extensions"),
            (b"not a request to join".to_vec(), "shorter than its head"),
        ] {
            let answer = pinned.client.call(Lane::Control, OPERATION_JOIN, body).await;
            let Err(CallError::Refused { status, body }) = answer else { panic!("{answer:?}") };
            assert_eq!(Reason::from_wire(status), Some(Reason::BadRequest));
            assert!(String::from_utf8_lossy(&body).contains(expected), "{body:?}");
        }
    });
}
