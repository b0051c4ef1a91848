//! A serving node and its clients on real loopback sockets, in one thread.
//!
//! Promises: every scene has its own authority, port and handler; a scene that hangs fails after [`SCENE_LIMIT`].
//! Does not: mock the transport.

// Each test binary includes this file and uses its own part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod mesh;

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use qmesh_net::{
    identity::{Authority, LEAF_LIFE, Names, NodeIdentity, Roles},
    io::endpoint::{Endpoint, EndpointOptions, TransportOptions, connect},
    rpc::{
        client::{Client, ClientOptions},
        server::{Handler, Replies, Request, ServeOptions},
    },
    tls::{Trust, mesh_client, mesh_server},
    wire::{AnswerHeader, FRAME_HEADER_BYTES, RequestHeader},
};
use tokio::{sync::watch, task::LocalSet};

/// Time after which a scene has failed.
const SCENE_LIMIT: Duration = Duration::from_secs(60);

/// Answers with the body.
pub const ECHO: u16 = 1;
/// Answers with the body, after others had their turn, newest first.
pub const ECHO_LATER: u16 = 2;
/// Answers with as many bytes as the body says (u64).
pub const BYTES: u16 = 3;
/// Sends as many parts of [`PART_BYTES`] as the body says (u64), as room allows.
pub const PARTS: u16 = 4;
/// Refuses with reason 8 and the body.
pub const REFUSE: u16 = 5;
/// Answers when the scene releases it.
pub const HOLD: u16 = 6;
/// Answers with the address of the body modulo 16, as one byte.
pub const ADDRESS: u16 = 7;
/// Answers with the lane, and the deadline in milliseconds (u64).
pub const HEAD: u16 = 8;
/// Answers with who calls: the SPIFFE identity, the number and the roles, or "nobody".
pub const WHO: u16 = 9;

pub const PART_BYTES: usize = 64 << 10;

/// What the handler has seen, and what it holds back.
#[derive(Default)]
pub struct Seen {
    pub requests: Cell<usize>,
    pub batch_requests_max: Cell<usize>,
    pub parts_sent: Cell<usize>,
    pub parts_abandoned: Cell<bool>,
    pub held: RefCell<Vec<(Request, Replies)>>,
}

impl Seen {
    pub fn release(&self) {
        for (request, replies) in self.held.borrow_mut().drain(..) {
            replies.answer(request.id, 0, request.body);
        }
    }
}

pub struct TestHandler(pub Rc<Seen>);

impl Handler for TestHandler {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        let seen = &self.0;
        seen.requests.set(seen.requests.get() + batch.len());
        seen.batch_requests_max.set(seen.batch_requests_max.get().max(batch.len()));
        let mut later = Vec::new();
        for request in batch {
            let Request { id, operation, body } = request;
            match operation {
                ECHO => replies.answer(id, 0, body),
                ECHO_LATER => later.push((id, body)),
                BYTES => replies.answer(id, 0, Bytes::from(vec![9; number(&body) as usize])),
                PARTS => {
                    let (seen, replies) = (seen.clone(), replies.clone());
                    tokio::task::spawn_local(async move {
                        for _ in 0..number(&body) {
                            if !replies.room().await {
                                seen.parts_abandoned.set(true);
                                break;
                            }
                            replies.part(id, Bytes::from_static(&[5; PART_BYTES]));
                            seen.parts_sent.set(seen.parts_sent.get() + 1);
                        }
                        replies.answer(id, 0, Bytes::new());
                    });
                }
                REFUSE => replies.answer(id, 8, body),
                HOLD => seen.held.borrow_mut().push((Request { id, operation, body }, replies.clone())),
                ADDRESS => replies.answer(id, 0, Bytes::from(vec![(body.as_ptr() as usize % 16) as u8])),
                HEAD => {
                    let mut answer = vec![replies.head().lane as u8];
                    let deadline_ms = replies.deadline().map_or(0, |deadline| deadline.as_millis() as u64);
                    answer.extend(deadline_ms.to_le_bytes());
                    replies.answer(id, 0, answer.into());
                }
                WHO => replies.answer(id, 0, replies.identity().map_or("nobody".into(), mesh::describe).into()),
                _ => replies.answer(id, 1, Bytes::new()),
            }
        }
        if !later.is_empty() {
            let replies = replies.clone();
            tokio::task::spawn_local(async move {
                while let Some((id, body)) = later.pop() {
                    tokio::task::yield_now().await;
                    replies.answer(id, 0, body);
                }
            });
        }
    }
}

fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body.try_into().expect("eight bytes"))
}

pub struct Scene {
    folder: tempfile::TempDir,
    pub endpoint: Rc<Endpoint>,
    pub seen: Rc<Seen>,
    pub drain: watch::Sender<bool>,
    /// Turns true when the endpoint has stopped serving.
    pub is_over: Rc<Cell<bool>>,
}

impl Scene {
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address()
    }

    pub fn trust(&self) -> Trust {
        Trust::Authority(self.folder.path().join("ca.pem"))
    }

    pub async fn client(&self) -> Client {
        self.client_with(ClientOptions::default()).await
    }

    pub async fn client_with(&self, options: ClientOptions) -> Client {
        Client::connect(self.address(), "localhost", &self.trust(), options).await.expect("connects")
    }

    /// A client that may send anything.
    pub async fn raw(&self) -> (quinn::Endpoint, quinn::Connection) {
        let tls = mesh_client(&self.trust(), None).expect("configures");
        let options = TransportOptions::default();
        connect(self.address(), "localhost", &self.trust(), tls, &options).await.expect("connects")
    }
}

/// Runs a scene with default options.
pub fn run(scene: impl AsyncFnOnce(Scene)) {
    run_with(EndpointOptions::default(), ServeOptions::default(), scene);
}

pub fn run_with(endpoint: EndpointOptions, serve: ServeOptions, scene: impl AsyncFnOnce(Scene)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
    let limited = async {
        let played = async {
            let folder = tempfile::tempdir().expect("creates");
            let now = SystemTime::now();
            let authority = Authority::open_or_create(folder.path(), now).expect("creates");
            let names = Names {
                dns: vec!["localhost".to_owned()],
                addresses: vec![Ipv4Addr::LOCALHOST.into()],
                identity: NodeIdentity::new("qmesh.local", "r1", "n1", 1, Roles::ALL).expect("named"),
            };
            let leaf = authority.issue_leaf(&names, LEAF_LIFE, now).expect("signs");
            let tls = mesh_server(&leaf, None).expect("configures");
            let endpoint = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), tls, endpoint).expect("binds");
            let (endpoint, seen) = (Rc::new(endpoint), Rc::new(Seen::default()));
            let (drain, draining) = watch::channel(false);
            let is_over = Rc::new(Cell::new(false));
            let handler = Rc::new(TestHandler(seen.clone()));
            let (served, over) = (endpoint.clone(), is_over.clone());
            tokio::task::spawn_local(async move {
                served.serve(handler, serve, draining).await;
                over.set(true);
            });
            scene(Scene { folder, endpoint, seen, drain, is_over }).await;
        };
        tokio::time::timeout(SCENE_LIMIT, played).await.expect("the scene hangs");
    };
    LocalSet::new().block_on(&runtime, limited);
}

/// Lets everything else go on until `condition` holds.
pub async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lets everything else go on until `value` has not changed for a while, and gives it.
pub async fn settled(value: impl Fn() -> usize) -> usize {
    let (mut last, mut calm) = (value(), 0);
    while calm < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = value();
        calm = if now == last { calm + 1 } else { 0 };
        last = now;
    }
    last
}

pub fn request(id: u64, operation: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = RequestHeader { body_bytes: body.len() as u32, operation, id }.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Cuts answers apart: id, status, last, body.
pub fn answers(mut bytes: &[u8]) -> Vec<(u64, u8, bool, Vec<u8>)> {
    let mut answers = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let header = AnswerHeader::parse(header).expect("an answer of ours parses");
        let (body, rest) = rest.split_at(header.body_bytes as usize);
        answers.push((header.id, header.status, header.last, body.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "answers end between frames");
    answers
}
