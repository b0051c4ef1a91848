//! What a hostile or broken node answers to the client library: frames and bodies, changed and cut at every place.
//!
//! Every call ends, with an answer or an error. A vertex that is handed out is the one that was asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use qmesh::client::{ConnectOptions, Node};
use qmesh::dag::archive::SealedVertex;
use qmesh::gateway::quic::wire::{
    FreshnessRow, OP_GET, OP_HAS, OP_PUT, OP_QUERY, OP_REF, OP_RESOLVE, OP_STATS, PUT_ROW_BYTES, QueryFrame,
    QueryRequest, RefAnswer, RefLogRow, RefRequest, RefRow, Summary, WatchFrame, put_rows, refusal_of,
};
use qmesh::ids::VertexId;
use qmesh::router::PutOptions;
use qmesh_net::identity::{Authority, Names, NodeIdentity, Roles};
use qmesh_net::tls::mesh_server;
use qmesh_net::wire::{AnswerHeader, FRAME_HEADER_BYTES, RequestHeader, STREAM_HEAD_BYTES};
use quinn::{Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime};

use super::corpus::vertices;
use super::drive::{Random, fuzz};
use super::mutate::mutate;

/// Time that the client gives one call.
const CALL_TIMEOUT: Duration = Duration::from_millis(300);
/// Longest time until a call has ended, one way or the other.
const PATIENCE: Duration = Duration::from_secs(60);

macro_rules! archived {
    ($value:expr) => {
        rkyv::to_bytes::<rkyv::rancor::Error>($value).unwrap().to_vec()
    };
}

fn ref_row() -> RefRow {
    RefRow { name: "heads/main".to_owned(), at: Some(VertexId([7; 32]).to_string()), version: 3 }
}

fn ref_log_row() -> RefLogRow {
    RefLogRow { version: 3, from: None, to: None, actor: "a".to_owned(), reason: "b".to_owned(), timestamp_ms: 5 }
}

fn ref_list(count: usize) -> RefAnswer {
    RefAnswer::List { rows: vec![ref_row(); count], freshness: FreshnessRow::default() }
}

fn ref_log(count: usize) -> RefAnswer {
    RefAnswer::Log { rows: vec![ref_log_row(); count], freshness: FreshnessRow::default() }
}

fn query_frames() -> Vec<QueryFrame> {
    let summary = Summary {
        id: [7; 32],
        generation: 1,
        timestamp_ms: 5,
        kind: "note".to_owned(),
        namespace: "default".to_owned(),
        git: Some("01".repeat(20)),
    };
    vec![
        QueryFrame::Ids(vec![7; 96]),
        QueryFrame::Git("01\n".to_owned()),
        QueryFrame::Summaries(vec![summary; 3]),
        QueryFrame::Bool(true),
        QueryFrame::NoPath,
        QueryFrame::Part(1),
        QueryFrame::End { cursor: "x".to_owned() },
    ]
}

/// A good answer to an operation: its bodies, the last of which ends it.
fn good(random: &mut Random, operation: u16, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    match operation {
        OP_PUT => vec![vec![0; PUT_ROW_BYTES]],
        OP_GET => vec![random.pick(records).clone()],
        OP_HAS => vec![vec![0xff]],
        OP_QUERY => (0..=random.below(3)).map(|_| archived!(random.pick(&query_frames()))).collect(),
        OP_REF => {
            let one =
                RefAnswer::One { row: ref_row(), token: "0.1".to_owned(), freshness: Some(FreshnessRow::default()) };
            let answers = [one, ref_list(3), ref_log(3)];
            vec![archived!(random.pick(&answers))]
        }
        OP_STATS => vec![b"{\"a\":[1,2,3]}".to_vec()],
        OP_RESOLVE => vec![vec![7; 32]],
        _ => vec![Vec::new()],
    }
}

/// The bytes of an answer, right or wrong.
fn answer(random: &mut Random, request: RequestHeader, records: &[Vec<u8>]) -> Vec<u8> {
    let bodies = good(random, request.operation, records);
    let mut bytes = Vec::new();
    for (nth, mut body) in bodies.iter().cloned().enumerate() {
        if random.one_in(3) {
            mutate(random, &mut body, records, &[]);
        }
        let last = nth + 1 == bodies.len();
        let status = if last && random.one_in(4) { random.next() as u8 } else { 0 };
        let id = if random.one_in(20) { random.next() } else { request.id };
        bytes.extend_from_slice(&AnswerHeader { body_bytes: body.len() as u32, status, last, id }.encode());
        bytes.extend_from_slice(&body);
    }
    if random.one_in(4) {
        mutate(random, &mut bytes, records, &[]);
    }
    bytes
}

/// Answers each request of a stream, then ends it one way or another.
async fn misbehave(
    mut send: SendStream,
    mut receive: RecvStream,
    random: Arc<Mutex<Random>>,
    records: Arc<Vec<Vec<u8>>>,
) {
    if receive.read_exact(&mut [0; STREAM_HEAD_BYTES]).await.is_err() {
        return;
    }
    let mut header = [0; FRAME_HEADER_BYTES];
    while receive.read_exact(&mut header).await.is_ok() {
        let Ok(request) = RequestHeader::parse(&header) else { return };
        let mut body = vec![0; request.body_bytes as usize];
        if receive.read_exact(&mut body).await.is_err() {
            return;
        }
        let (bytes, end) = {
            let mut random = random.lock().unwrap();
            (answer(&mut random, request, &records), random.below(6))
        };
        if send.write_all(&bytes).await.is_err() {
            return;
        }
        match end {
            0 => drop(send.reset(5u32.into())),
            1 | 2 => drop(send.finish()),
            _ => continue,
        }
        return;
    }
    let _ = send.finish();
}

/// A node that answers what the numbers say.
fn hostile(random: Arc<Mutex<Random>>, records: Arc<Vec<Vec<u8>>>) -> SocketAddr {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let names = Names {
        dns: vec!["localhost".to_owned()],
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        identity: NodeIdentity::new("qmesh.local", "r1", "n1", 1, Roles::ALL).unwrap(),
    };
    let leaf = Authority::open_or_create(folder.path(), now).unwrap().node_leaf(&names, now).unwrap();
    let config = ServerConfig::with_crypto(mesh_server(&leaf, None).unwrap());
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime)).unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (random, records) = (random.clone(), records.clone());
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((send, receive)) = connection.accept_bi().await {
                    tokio::spawn(misbehave(send, receive, random.clone(), records.clone()));
                }
            });
        }
    });
    address
}

async fn ask(node: &Node, choice: usize, asked: &SealedVertex) {
    match choice {
        0 => {
            if let Ok(Some(found)) = node.get(asked.id()).await {
                assert_eq!(found.id(), asked.id(), "another vertex than was asked for");
                assert_eq!(found.to_vertex().id(), found.id(), "a vertex that does not prove itself");
            }
        }
        1 => drop(node.has(&[asked.id()]).await),
        2 => drop(node.put(std::slice::from_ref(asked), PutOptions::default()).await),
        3 => drop(node.resolve("ref:heads/main").await),
        4 => drop(node.stats().await),
        5 => drop(
            node.refs(&RefRequest::List {
                prefix: String::new(),
                after: String::new(),
                limit: 9,
                consistency: String::new(),
            })
            .await,
        ),
        _ => {
            let request = QueryRequest { verb: "tips".to_owned(), ..QueryRequest::default() };
            if let Ok(mut answer) = node.query(&request).await {
                while let Ok(Some(_)) = answer.next().await {}
            }
        }
    }
}

#[test]
fn s6_1_12_fuzz_answers_of_a_hostile_node() {
    let vertices = vertices();
    let records = Arc::new(vertices.iter().map(|vertex| vertex.record().bytes().to_vec()).collect::<Vec<_>>());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let shared = Arc::new(Mutex::new(Random::new(0)));
    let address = runtime.block_on(async { hostile(shared.clone(), records.clone()) });
    let options = ConnectOptions { authority: None, timeout: CALL_TIMEOUT };
    let connect = || runtime.block_on(Node::connect(&format!("quic://{address}"), &options));
    let mut node = connect().unwrap();
    fuzz("answers of a hostile node", |random| {
        *shared.lock().unwrap() = Random::new(random.next());
        let (choice, asked) = (random.below(7), random.pick(&vertices));
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&node, choice, asked)).await });
        assert!(ended.is_ok(), "a call of kind {choice} never ended");
        if random.one_in(50) {
            node = connect().unwrap();
        }
    });
}

#[test]
fn s6_1_12_fuzz_bodies_of_answers() {
    let mut corpus: Vec<Vec<u8>> = query_frames().iter().map(|frame| archived!(frame)).collect();
    corpus.push(archived!(&RefAnswer::One {
        row: ref_row(),
        token: "0.1".to_owned(),
        freshness: Some(FreshnessRow::default())
    }));
    corpus.push(archived!(&ref_log(2)));
    corpus.push(archived!(&WatchFrame::Ref { row: ref_row(), change: ref_log_row() }));
    corpus.push(archived!(&WatchFrame::Missed(7)));
    corpus.push([vec![0; 2 * PUT_ROW_BYTES], b"why".to_vec()].concat());
    macro_rules! reads_back {
        ($type:ty, $bytes:expr) => {
            if let Ok(value) = rkyv::from_bytes::<$type, rkyv::rancor::Error>($bytes) {
                let again = archived!(&value);
                let again = rkyv::from_bytes::<$type, rkyv::rancor::Error>(&again);
                assert_eq!(again.ok(), Some(value));
            }
        };
    }
    fuzz("bodies of answers", |random| {
        let mut bytes = random.pick(&corpus).clone();
        mutate(random, &mut bytes, &corpus, &[]);
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(&bytes);
        match random.below(6) {
            0 => reads_back!(QueryFrame, &aligned),
            1 => reads_back!(RefAnswer, &aligned),
            2 => reads_back!(WatchFrame, &aligned),
            3 => reads_back!(QueryRequest, &aligned),
            4 => reads_back!(RefRequest, &aligned),
            _ => {
                drop(put_rows(&bytes, random.below(5)));
                drop(refusal_of(random.next() as u8, &bytes));
            }
        }
    });
}
