//! The QUIC door of a real node: stream heads, frames and bodies, changed at every level and cut at every place.
//!
//! What was sent is read by the same layouts that describe it, which says what must come back: an answer for each request, or the
//! end of the stream with the code for what was wrong. No answer blames the node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use qmesh::error::Reason;
use qmesh::gateway::quic::wire::{
    OP_GET, OP_HAS, OP_PUT, OP_QUERY, OP_REF, OP_RESOLVE, OP_STATS, OP_WATCH, QueryRequest, RefRequest, WatchRequest,
    put_request,
};
use qmesh::ids::VertexId;
use qmesh_net::io::endpoint::{TransportOptions, connect};
use qmesh_net::tls::{Trust, mesh_client};
use qmesh_net::wire::{
    AnswerHeader, CloseCode, FRAME_HEADER_BYTES, Lane, RequestHeader, STREAM_HEAD_BYTES, StreamHead,
};
use quinn::{Connection, ReadError, VarInt};

use super::corpus::vertices;
use super::drive::{Random, fuzz};
use super::mutate::mutate;
use super::records::changed;
use super::stand::Stand;

const CASES_PER_LOOK: u32 = 32;
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Material {
    records: Vec<Vec<u8>>,
    /// Bodies of operations other than put.
    bodies: Vec<(u16, Vec<u8>)>,
    ids: Vec<VertexId>,
}

macro_rules! archived {
    ($value:expr) => {
        rkyv::to_bytes::<rkyv::rancor::Error>($value).unwrap().to_vec()
    };
}

impl Material {
    fn new(ids: Vec<VertexId>) -> Self {
        let records = vertices().iter().map(|vertex| vertex.record().bytes().to_vec()).collect();
        let mut bodies = vec![
            (OP_GET, ids.iter().flat_map(|id| id.0).collect()),
            (OP_HAS, [[0; 32], ids[0].0].concat()),
            (OP_STATS, Vec::new()),
            (OP_RESOLVE, b"ref:heads/main".to_vec()),
            (OP_RESOLVE, ids[0].to_string().into_bytes()),
            (OP_WATCH, archived!(&WatchRequest { refs: true, ..WatchRequest::default() })),
        ];
        for verb in qmesh::gateway::query::VERBS {
            let ids: Vec<String> = match verb {
                "tips" => Vec::new(),
                "lca" | "is-ancestor" | "path" | "diff" => ids[..2].iter().map(VertexId::to_string).collect(),
                _ => vec![ids[0].to_string()],
            };
            for projection in 0..3 {
                let request = QueryRequest {
                    verb: verb.to_owned(),
                    ids: ids.clone(),
                    limit: Some(10),
                    labels: vec![("a".to_owned(), "b".to_owned()); usize::from(projection)],
                    projection,
                    ..QueryRequest::default()
                };
                bodies.push((OP_QUERY, archived!(&request)));
            }
        }
        let name = || "heads/fuzz".to_owned();
        let set = |to: Option<String>, expect, expect_at: &VertexId| RefRequest::Set {
            name: name(),
            to,
            expect,
            expect_at: expect_at.to_string(),
            actor: "ada".to_owned(),
            reason: "why".to_owned(),
        };
        for request in [
            RefRequest::Get { name: name(), consistency: "any".to_owned() },
            set(Some(ids[0].to_string()), 0, &ids[0]),
            set(None, 2, &ids[1]),
            RefRequest::List {
                prefix: "heads/".to_owned(),
                after: String::new(),
                limit: 10,
                consistency: String::new(),
            },
            RefRequest::Log { name: name(), limit: u32::MAX, consistency: "bounded:5".to_owned() },
        ] {
            bodies.push((OP_REF, archived!(&request)));
        }
        Self { records, bodies, ids }
    }

    fn request(&self, random: &mut Random, id: u64) -> Vec<u8> {
        let (operation, mut body) = if random.one_in(3) {
            let records: Vec<Bytes> =
                (0..random.below(4)).map(|_| Bytes::from(changed(random, &self.records))).collect();
            (OP_PUT, put_request(u32::from(random.one_in(2)), &records).to_vec())
        } else {
            random.pick(&self.bodies).clone()
        };
        if random.one_in(3) {
            let others = [self.ids[1].0.to_vec(), self.records[1].clone()];
            mutate(random, &mut body, &others, &[b"ref:", b"git:", b"\xff\xff\xff\x7f"]);
        }
        let operation = if random.one_in(30) { random.next() as u16 } else { operation };
        [&RequestHeader { body_bytes: body.len() as u32, operation, id }.encode()[..], &body].concat()
    }

    /// The bytes of one stream.
    fn stream(&self, random: &mut Random) -> Vec<u8> {
        let head = StreamHead {
            deadline_ms: if random.one_in(4) { random.below(1000) as u32 } else { 0 },
            hop_limit: random.next() as u8,
            epoch: random.next(),
            ..StreamHead::rpc(*random.pick(&Lane::ALL))
        };
        let mut bytes = head.encode().to_vec();
        for id in 0..random.length(20) {
            let id = if random.one_in(10) { random.next() } else { id as u64 };
            bytes.extend(self.request(random, id));
        }
        match random.below(8) {
            0 => mutate(random, &mut bytes, &self.records, &[]),
            1 => {
                let at = random.below(STREAM_HEAD_BYTES);
                bytes[at] = random.next() as u8;
            }
            2 => bytes.truncate(random.below(bytes.len()) + 1),
            _ => {}
        }
        bytes
    }
}

/// What the layouts say of the bytes of a stream that was finished.
struct Expected {
    /// Answers due by id; requests that never end are not among them.
    answers: BTreeMap<u64, usize>,
    watches: usize,
    refused: Option<CloseCode>,
}

fn expected(bytes: &[u8]) -> Expected {
    let mut expected = Expected { answers: BTreeMap::new(), watches: 0, refused: None };
    let Some((head, mut rest)) = bytes.split_first_chunk::<STREAM_HEAD_BYTES>() else {
        return Expected { refused: Some(CloseCode::BadHead), ..expected };
    };
    if StreamHead::parse(head).is_err() {
        return Expected { refused: Some(CloseCode::BadHead), ..expected };
    }
    while !rest.is_empty() {
        let header = rest.split_first_chunk::<FRAME_HEADER_BYTES>().and_then(|(header, behind)| {
            let header = RequestHeader::parse(header).ok()?;
            Some((header, behind.split_at_checked(header.body_bytes as usize)?.1))
        });
        let Some((header, behind)) = header else {
            expected.refused = Some(CloseCode::BadFrame);
            return expected;
        };
        // One that is malformed is refused like any other request.
        if header.operation == OP_WATCH {
            expected.watches += 1;
        } else {
            *expected.answers.entry(header.id).or_default() += 1;
        }
        rest = behind;
    }
    expected
}

async fn play(connection: &Connection, random: &mut Random, bytes: &[u8]) {
    let expected = expected(bytes);
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream opens");
    let sending = async {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + random.length(rest.len() - 1));
            if send.write_all(piece).await.is_err() {
                return;
            }
            // The piece leaves by itself one time in two.
            if random.one_in(2) {
                tokio::task::yield_now().await;
            }
            rest = behind;
        }
        let _ = send.finish();
    };
    let mut open = expected.answers.clone();
    let mut received = Vec::new();
    let reading = async {
        loop {
            if expected.refused.is_none() && 0 < expected.watches && open.values().all(|&count| count == 0) {
                return None;
            }
            match receive.read_chunk(1 << 20, true).await {
                Ok(Some(chunk)) => received.extend_from_slice(&chunk.bytes),
                Ok(None) => return Some(Ok(())),
                Err(error) => return Some(Err(error)),
            }
            while let Some((header, behind)) = received.split_first_chunk::<FRAME_HEADER_BYTES>() {
                let header = AnswerHeader::parse(header).expect("an answer's header");
                let Some((body, behind)) = behind.split_at_checked(header.body_bytes as usize) else { break };
                judge(&header, body);
                if header.last
                    && let Some(count) = open.get_mut(&header.id)
                {
                    *count = count.saturating_sub(1);
                }
                received = behind.to_vec();
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, async { tokio::join!(sending, reading).1 }).await;
    let ended = ended.unwrap_or_else(|_| panic!("no answer in time; still open: {open:?}"));
    let reset = |code: CloseCode| Some(Err(ReadError::Reset(VarInt::from_u32(code as u32))));
    match expected.refused {
        Some(code) => assert_eq!(ended, reset(code), "{} bytes", bytes.len()),
        None if 0 < expected.watches => drop(receive.stop(VarInt::from_u32(CloseCode::Cancelled as u32))),
        None => {
            assert_eq!(ended, Some(Ok(())), "a stream of whole requests ends well");
            assert!(open.values().all(|&count| count == 0), "requests without an answer: {open:?}");
        }
    }
}

fn judge(header: &AnswerHeader, body: &[u8]) {
    if header.status == 0 {
        return;
    }
    let reason = Reason::from_wire(header.status).unwrap_or_else(|| panic!("no reason has number {}", header.status));
    let sentence = String::from_utf8_lossy(body.get(4..).unwrap_or_default());
    assert!(!matches!(reason, Reason::Internal | Reason::Corrupt), "the node blames itself: {sentence}");
}

async fn connected(address: SocketAddr) -> (quinn::Endpoint, Connection) {
    let tls = mesh_client(&Trust::LoopbackOnly, None).unwrap();
    connect(address, "localhost", &Trust::LoopbackOnly, tls, &TransportOptions::default()).await.unwrap()
}

#[test]
fn s6_1_12_fuzz_streams_on_the_quic_door() {
    let mut stand = Stand::new();
    let put = |payload: &str| stand.node.ok_with_input(&["dag", "put", "--kind", "note", "-"], payload.as_bytes());
    let ids = ["one", "two"].map(|payload| put(payload).parse().unwrap()).to_vec();
    let material = Material::new(ids);
    stand.node.ok(&["ref", "set", "heads/main", &material.ids[0].to_string()]);
    let address = stand.node.quic();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut connection = None;
    let mut cases = 0u32;
    fuzz("streams on the QUIC door", |random| {
        let (endpoint, open) = connection.take().unwrap_or_else(|| runtime.block_on(connected(address)));
        let bytes = material.stream(random);
        runtime.block_on(play(&open, random, &bytes));
        cases += 1;
        // A connection ends without a word now and then.
        if !random.one_in(50) {
            connection = Some((endpoint, open));
        }
        if cases.is_multiple_of(CASES_PER_LOOK) {
            stand.is_well();
        }
    });
    drop(connection);
    drop(runtime);
    stand.end();
}
