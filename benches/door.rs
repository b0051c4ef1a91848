//! A node's doors, over loopback, with 1 and 64 requests in flight: QUIC put and get, REST get, MCP `tools/call`.
//!
//! The node is a process of its own; the client runs in the bench, so both share the machine's CPUs and a rate counts the work
//! of both. Limit of QUIC: bare quinn, 64 B there and 1 KiB back on a stream of its own (16–25 µs of CPU for both sides together
//! with 64 in flight, up to 200 µs for a lonely one, on the machine the design was measured on); then the mesh's own calls to
//! a handler that does nothing. Limit of HTTP: a bare TCP exchange of exactly the same bytes. A put is bound by the device's
//! sync besides (see `log.rs`). Aim: get at most 10 µs of the server's CPU with 64 in flight.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use qmesh::client::{ConnectOptions, Node};
use qmesh::dag::archive::SealedVertex;
use qmesh::dag::vertex::Vertex;
use qmesh::ids::VertexId;
use qmesh::router::PutOptions;
use qmesh::runtime::{Loop, spawn};
use qmesh_net::identity::{Authority, Names, NodeIdentity, Roles};
use qmesh_net::io::endpoint::{Endpoint, EndpointOptions};
use qmesh_net::rpc::client::{Client, ClientOptions};
use qmesh_net::rpc::server::{Handler, Replies, Request, ServeOptions};
use qmesh_net::tls::{Trust, mesh_client, mesh_server};
use qmesh_net::wire::Lane;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../tests/house/mod.rs"]
mod house;
mod stand;
use stand::{Questions, Stand};

/// Requests in flight.
const IN_FLIGHT: [usize; 2] = [1, 64];
/// Vertices that are read: one for each request in flight.
const VERTICES: usize = 64;
/// Content of one vertex, and the echo's answer, in bytes.
const PAYLOAD_BYTES: usize = 1024;
/// The echo's question, in bytes.
const QUESTION_BYTES: usize = 64;
/// More than any answer here, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The name in the echo's certificate.
const SERVER_NAME: &str = "localhost";

/// So many at once, each so many times one after the other.
#[derive(Clone, Copy)]
struct Wave {
    in_flight: usize,
    rounds: u64,
}

#[derive(Clone, Copy)]
enum Ask {
    Put(Wave),
    Get(Wave),
}

fn doors(criterion: &mut Criterion) {
    let node = house::Node::start();
    let vertices: Vec<SealedVertex> = (0..VERTICES as u64).map(|at| vertex(u64::MAX - at)).collect();
    let ids: Vec<VertexId> = vertices.iter().map(SealedVertex::id).collect();
    quic(criterion, node.quic(), vertices);

    let http = node.http();
    let get = |id: &VertexId| format!("GET /api/v1/dag/vertices/{id} HTTP/1.1\r\nHost: {http}\r\n\r\n").into_bytes();
    over_tcp(criterion, "door/REST get", http, ids.iter().map(get).collect(), b"\"payload");
    over_tcp(
        criterion,
        "door/MCP tools-call",
        http,
        ids.iter().map(|id| tools_call(http, id)).collect(),
        b"\"result\":",
    );
}

fn quic(criterion: &mut Criterion, address: SocketAddr, vertices: Vec<SealedVertex>) {
    let mut group = group(criterion, "door/QUIC");
    let (told, addresses) = std::sync::mpsc::channel();
    let echo = Stand::<()>::start(Loop::Plain, move |end| async move { echo(told, end).await });
    let (quinn_address, mesh_address) = addresses.recv().expect("the echo listens");
    let stand = Stand::start(Loop::Plain, move |waves| async move { ask_quinn(quinn_address, waves).await });
    bench(&mut group, "limit: bare quinn, a stream each", |wave| stand.time(wave));
    let stand = Stand::start(Loop::Plain, move |waves| async move { ask_mesh(mesh_address, waves).await });
    bench(&mut group, "limit: a mesh call to an empty handler", |wave| stand.time(wave));
    drop((stand, echo));
    let stand = Stand::start(Loop::Plain, move |asks| async move { ask_node(address, vertices, asks).await });
    bench(&mut group, "get", |wave| stand.time(Ask::Get(wave)));
    bench(&mut group, "put", |wave| stand.time(Ask::Put(wave)));
    group.finish();
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, time: impl Fn(Wave) -> Duration) {
    for in_flight in IN_FLIGHT {
        group.throughput(Throughput::Elements(in_flight as u64));
        group.bench_function(BenchmarkId::new(name, in_flight), |bencher| {
            bencher.iter_custom(|rounds| time(Wave { in_flight, rounds }));
        });
    }
}

fn vertex(number: u64) -> SealedVertex {
    let mut payload = vec![0xa5; PAYLOAD_BYTES];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    let vertex = Vertex {
        namespace: "default".to_owned(),
        kind: "bench".to_owned(),
        author: None,
        timestamp_ms: 1_700_000_000_000,
        parents: Vec::new(),
        labels: [].into(),
        payload,
    };
    SealedVertex::seal(&vertex, None).expect("within limits")
}

async fn ask_node(address: SocketAddr, vertices: Vec<SealedVertex>, mut asks: Questions<Ask>) {
    let node = Node::connect(&address.to_string(), &ConnectOptions::default()).await.expect("the node answers");
    put(&node, &vertices).await;
    let mut next = 0;
    while let Some(ask) = asks.next().await {
        match ask {
            Ask::Get(Wave { in_flight, rounds }) => {
                let began = Instant::now();
                let get = async |id| {
                    for _ in 0..rounds {
                        assert!(node.get(id).await.expect("an answer").is_some(), "it was put");
                    }
                };
                join_all(vertices[..in_flight].iter().map(|vertex| get(vertex.id()))).await;
                asks.tell(began.elapsed());
            }
            Ask::Put(Wave { in_flight, rounds }) => {
                // Sealing is the caller's work; here the door is measured.
                let count = in_flight as u64 * rounds;
                let fresh: Vec<SealedVertex> = (next..next + count).map(vertex).collect();
                next += count;
                let began = Instant::now();
                let put_all = async |own: &[SealedVertex]| {
                    for vertex in own {
                        put(&node, std::slice::from_ref(vertex)).await;
                    }
                };
                join_all(fresh.chunks(rounds as usize).map(put_all)).await;
                asks.tell(began.elapsed());
            }
        }
    }
    node.farewell().await;
}

async fn put(node: &Node, vertices: &[SealedVertex]) {
    let receipts = node.put(vertices, PutOptions::default()).await.expect("an answer");
    assert!(receipts.iter().all(Result::is_ok), "durable: {receipts:?}");
}

/// Bare quinn and the mesh's endpoint, each with nothing behind it.
async fn echo(told: std::sync::mpsc::Sender<(SocketAddr, SocketAddr)>, mut end: Questions<()>) {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::open_or_create(folder.path(), SystemTime::now()).expect("an authority");
    let names = Names {
        dns: vec![SERVER_NAME.to_owned()],
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        identity: NodeIdentity::new("qmesh.local", "bench", "echo", 1, Roles::ALL).expect("named"),
    };
    let leaf = authority.node_leaf(&names, SystemTime::now()).expect("a certificate");
    let tls = mesh_server(&leaf, None).expect("a configuration");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bare = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(tls.clone()), any).expect("a socket");
    let mesh = Endpoint::bind(any, tls, EndpointOptions::default()).expect("a socket");
    told.send((bare.local_addr().expect("bound"), mesh.address())).expect("the bench waits");
    let answer = Bytes::from(vec![0xa5; PAYLOAD_BYTES]);
    let handler = Rc::new(Empty(answer.clone()));
    let (_draining, drain) = tokio::sync::watch::channel(false);
    spawn(async move { mesh.serve(handler, ServeOptions::default(), drain).await });
    spawn(async move {
        while let Some(incoming) = bare.accept().await {
            let connection = incoming.await.expect("a handshake");
            let answer = answer.clone();
            spawn(async move {
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let answer = answer.clone();
                    spawn(async move {
                        receive.read_to_end(QUESTION_BYTES).await.expect("a question");
                        send.write_all(&answer).await.expect("the asker waits");
                        send.finish().expect("finished once");
                    });
                }
            });
        }
    });
    // Serves until the bench is over.
    while end.next().await.is_some() {}
}

/// Answers every request at once with the same bytes.
struct Empty(Bytes);

impl Handler for Empty {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        for request in batch {
            replies.answer(request.id, 0, self.0.clone());
        }
    }
}

async fn ask_quinn(address: SocketAddr, mut waves: Questions<Wave>) {
    let tls = mesh_client(&Trust::LoopbackOnly, None).expect("a configuration");
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let config = quinn::ClientConfig::new(tls);
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).expect("an address");
    let connection = connecting.await.expect("a handshake");
    while let Some(Wave { in_flight, rounds }) = waves.next().await {
        let call = async || {
            for _ in 0..rounds {
                let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
                send.write_all(&[7; QUESTION_BYTES]).await.expect("sent");
                send.finish().expect("finished once");
                let answer = receive.read_to_end(PAYLOAD_BYTES).await.expect("an answer");
                assert_eq!(answer.len(), PAYLOAD_BYTES);
            }
        };
        let began = Instant::now();
        join_all((0..in_flight).map(|_| call())).await;
        waves.tell(began.elapsed());
    }
}

async fn ask_mesh(address: SocketAddr, mut waves: Questions<Wave>) {
    let options = ClientOptions::default();
    let client = Client::connect(address, SERVER_NAME, &Trust::LoopbackOnly, options).await.expect("a handshake");
    while let Some(Wave { in_flight, rounds }) = waves.next().await {
        let call = async || {
            for _ in 0..rounds {
                let question = Bytes::from_static(&[7; QUESTION_BYTES]);
                let answer = client.call(Lane::PointRead, 1, question).await.expect("an answer");
                assert_eq!(answer.len(), PAYLOAD_BYTES);
            }
        };
        let began = Instant::now();
        join_all((0..in_flight).map(|_| call())).await;
        waves.tell(began.elapsed());
    }
}

fn over_tcp(criterion: &mut Criterion, name: &str, address: SocketAddr, requests: Vec<Vec<u8>>, wanted: &'static [u8]) {
    let mut group = group(criterion, name);
    let (told, heard) = std::sync::mpsc::channel();
    let sizes = requests.clone();
    // One question, to know an answer's bytes.
    drop(Stand::<()>::start(Loop::Plain, move |_| async move {
        let mut connection = Connection::open(address).await;
        connection.call(&sizes[0], wanted).await;
        told.send(connection.buffer).expect("the bench waits");
    }));
    let answer = heard.recv().expect("the door answers");
    let (told, heard) = std::sync::mpsc::channel();
    let question_bytes = requests[0].len();
    assert!(requests.iter().all(|request| request.len() == question_bytes), "ids are of one length");
    let echo =
        Stand::<()>::start(Loop::Plain, move |end| async move { tcp_echo(question_bytes, answer, told, end).await });
    let echo_address = heard.recv().expect("the echo listens");
    let ask = |address: SocketAddr| {
        let requests = requests.clone();
        Stand::start(Loop::Plain, move |waves| async move { ask_http(address, requests, wanted, waves).await })
    };
    let stand = ask(echo_address);
    bench(&mut group, "limit: the same bytes over bare TCP", |wave| stand.time(wave));
    drop((stand, echo));
    let stand = ask(address);
    bench(&mut group, "node", |wave| stand.time(wave));
    group.finish();
}

fn tools_call(host: SocketAddr, id: &VertexId) -> Vec<u8> {
    let body = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": "dag_get", "arguments": {"ids": [id.to_string()]},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "door", "version": "1"},
            },
        },
    })
    .to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n\
         Mcp-Method: tools/call\r\nMcp-Name: dag_get\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

async fn tcp_echo(
    question_bytes: usize,
    answer: Vec<u8>,
    told: std::sync::mpsc::Sender<SocketAddr>,
    mut end: Questions<()>,
) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    told.send(listener.local_addr().expect("bound")).expect("the bench waits");
    let answer: Rc<[u8]> = answer.into();
    spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            stream.set_nodelay(true).expect("a TCP socket");
            spawn(async move {
                let mut question = vec![0; question_bytes];
                while stream.read_exact(&mut question).await.is_ok() {
                    stream.write_all(&answer).await.expect("the asker waits");
                }
            });
        }
    });
    // Serves until the bench is over.
    while end.next().await.is_some() {}
}

async fn ask_http(address: SocketAddr, requests: Vec<Vec<u8>>, wanted: &'static [u8], mut waves: Questions<Wave>) {
    let mut connections = Vec::new();
    for _ in 0..requests.len() {
        connections.push(Connection::open(address).await);
    }
    while let Some(Wave { in_flight, rounds }) = waves.next().await {
        let call = async |(connection, request): (&mut Connection, &Vec<u8>)| {
            for _ in 0..rounds {
                connection.call(request, wanted).await;
            }
        };
        let began = Instant::now();
        join_all(connections.iter_mut().zip(&requests).take(in_flight).map(call)).await;
        waves.tell(began.elapsed());
    }
}

/// A kept-alive connection, with as little client as will do.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the door is open");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, buffer: Vec::with_capacity(ANSWER_BYTES_MAX) }
    }

    /// Asks and reads the whole answer, which must be a success and have `wanted` in it.
    async fn call(&mut self, request: &[u8], wanted: &[u8]) {
        self.stream.write_all(request).await.expect("sent");
        self.buffer.clear();
        let whole = loop {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("read");
            assert!(read != 0 && self.buffer.len() < ANSWER_BYTES_MAX, "the door closed, or tells too much");
            if let Some(whole) = whole_bytes(&self.buffer) {
                break whole;
            }
        };
        while self.buffer.len() < whole {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("read");
            assert!(read != 0, "the door closed in the middle of an answer");
        }
        let found = self.buffer.starts_with(b"HTTP/1.1 200") && find(&self.buffer, wanted).is_some();
        assert!(found, "{}", String::from_utf8_lossy(&self.buffer));
    }
}

/// Bytes of the answer with its head; `None` when the head is not yet whole.
fn whole_bytes(answer: &[u8]) -> Option<usize> {
    let head = find(answer, b"\r\n\r\n")?;
    let text = std::str::from_utf8(&answer[..head]).expect("a head is text");
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let length: usize = length.and_then(|length| length.trim().parse().ok()).expect("an answer with a length");
    Some(head + 4 + length)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

criterion_group!(benches, doors);
criterion_main!(benches);
