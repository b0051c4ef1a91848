//! The QUIC door: native requests on mesh streams.
//!
//! Promises: requests that arrived together are verified, routed and answered together; a record's bytes are those of the
//! frame it came in; a walk sends no faster than its reader takes.
//! Does not: frame or pace anything. `qmesh-net` does.

mod graph;
pub mod wire;

use std::rc::Rc;

use crate::dag::Record;
use bytes::{Bytes, BytesMut};
use qmesh_net::rpc::server::{Handler, Replies, Request};

use super::{Context, json, now_ms};
use crate::control::ask::{from_json, to_json};
use crate::dag::archive::{Scratch, SealedVertex};
use crate::dag::refs::{Expect, RefMove, RefName};
use crate::error::{Reason, Refusal};
use crate::ids::{ShardId, Token, VertexId};
use crate::limits::{GET_BATCH_MAX, PAGE_MAX, PUT_BATCH_MAX, REFLOG_ENTRIES_MAX};
use crate::router::PutOptions;
use crate::router::message::PutReceipt;
use crate::router::peers::{OP_CONTROL, OP_GROUP_VIEW};
use wire::{ClusterAsk, ReadAnswer, ReadRequest, RefAnswer, RefRequest, archive, unarchive};

/// Answers native requests on one core.
pub struct Door {
    context: Context,
    scratch: std::cell::RefCell<Scratch>,
}

impl Door {
    /// A door in front of the router of this core.
    pub fn new(context: Context) -> Rc<Self> {
        Rc::new(Self { context, scratch: std::cell::RefCell::default() })
    }
}

impl Handler for Door {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        let mut puts = PutGroup::default();
        let mut gets: Vec<(u64, Vec<VertexId>)> = Vec::new();
        for request in batch {
            match request.operation {
                wire::OP_PUT => {
                    if let Err(refusal) = puts.add(&request, &mut self.scratch.borrow_mut()) {
                        refuse(replies, request.id, &refusal);
                    }
                }
                wire::OP_GET => match wire::ids(&request.body) {
                    Ok(ids) => gets.push((request.id, ids)),
                    Err(refusal) => refuse(replies, request.id, &refusal),
                },
                _ => self.single(request, replies),
            }
        }
        for (options, group) in puts.by_options() {
            let (router, replies) = (self.context.router.clone(), replies.clone());
            crate::runtime::spawn(async move { group.run(&router, options, &replies).await });
        }
        if !gets.is_empty() {
            let (context, replies) = (self.context.clone(), replies.clone());
            crate::runtime::spawn(async move { answer_gets(&context, gets, &replies).await });
        }
    }
}

impl Door {
    /// A request that has nothing to gain from its neighbours.
    fn single(&self, request: Request, replies: &Replies) {
        let (context, replies) = (self.context.clone(), replies.clone());
        crate::runtime::spawn(async move {
            let id = request.id;
            let deadline = replies.deadline().unwrap_or(context.facts.request_timeout);
            let work = async {
                match request.operation {
                    wire::OP_HAS => has(&context, &request.body).await,
                    wire::OP_READ => read(&context, &request.body).await,
                    wire::OP_REF => refs(&context, &request.body).await,
                    wire::OP_STATS => stats(&context).await,
                    wire::OP_UPSTREAMS => upstreams(&context, &request.body),
                    wire::OP_CLUSTER => cluster(&context, &request.body).await,
                    wire::OP_RESOLVE => resolve(&context, &request.body).await,
                    wire::OP_QUERY => graph::query(&context, &request.body, id, &replies).await,
                    wire::OP_WATCH => graph::watch(&context, &request.body, id, &replies).await,
                    other => {
                        Err(Refusal::bad_request(format!("no operation {other}; this node is older than its client")))
                    }
                }
            };
            let outcome = if request.operation == wire::OP_WATCH {
                work.await
            } else {
                tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
                    let waited =
                        format!("no answer within {} ms; ask for less or allow more time", deadline.as_millis());
                    Err(Refusal::new(Reason::Timeout, waited))
                })
            };
            match outcome {
                Ok(body) => replies.answer(id, 0, body),
                Err(refusal) => refuse(&replies, id, &refusal),
            }
        });
    }
}

/// What the servers behind the gateway are like; with a body, breakers of one are closed.
fn upstreams(context: &Context, body: &[u8]) -> Result<Bytes, Refusal> {
    if body.is_empty() {
        return crate::control::ask::to_json(&context.upstreams.report());
    }
    let wanted = serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    crate::control::ask::to_json(&context.upstreams.reset_breakers(&wanted)?)
}

async fn cluster(context: &Context, body: &[u8]) -> Result<Bytes, Refusal> {
    let router = &context.router;
    match from_json("a question about the cluster", body)? {
        ClusterAsk::Control { ask } => {
            router.group(OP_CONTROL, ShardId::CONTROL, crate::control::driver::plane::request(&ask, true)?).await
        }
        ClusterAsk::Health => to_json(&wire::HealthRow::of(&router.members())),
        ClusterAsk::Groups => {
            let mut views = Vec::new();
            for shard in router.table().shards().chain([ShardId::CONTROL]) {
                let body = crate::control::driver::plane::bare_request(shard);
                let view = router.group(OP_GROUP_VIEW, shard, body).await?;
                views.push(from_json::<serde_json::Value>("a group's view", &view)?);
            }
            to_json(&views)
        }
    }
}

fn refuse(replies: &Replies, id: u64, refusal: &Refusal) {
    replies.answer(id, refusal.reason.wire(), wire::refusal(refusal));
}

/// The put requests of one batch.
#[derive(Default)]
struct PutGroup {
    records: Vec<SealedVertex>,
    /// Request, its options, where its records begin and how many they are.
    requests: Vec<PutSpan>,
}

#[derive(Clone, Copy)]
struct PutSpan {
    request: u64,
    options: PutOptions,
    from: usize,
    records: usize,
}

impl PutGroup {
    fn add(&mut self, request: &Request, scratch: &mut Scratch) -> Result<(), Refusal> {
        let head = request.body.first_chunk::<{ wire::PUT_HEAD_BYTES }>();
        let head = head.ok_or_else(|| Refusal::bad_request("a put is shorter than its head of 16 bytes"))?;
        let options = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if options & !wire::PUT_ALLOW_MISSING_PARENTS != 0 || head[4..].iter().any(|&byte| byte != 0) {
            return Err(Refusal::bad_request("a put with unknown options; this node is older than its client"));
        }
        let records = Record::parse_all(&request.body.slice(wire::PUT_HEAD_BYTES..), PUT_BATCH_MAX)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        if records.is_empty() {
            return Err(Refusal::bad_request("a put without a record"));
        }
        let from = self.records.len();
        for record in records {
            match SealedVertex::verify_with(record, scratch) {
                Ok(vertex) => self.records.push(vertex),
                Err(error) => {
                    self.records.truncate(from);
                    return Err(error.into());
                }
            }
        }
        self.requests.push(PutSpan {
            request: request.id,
            options: PutOptions { allow_missing_parents: options & wire::PUT_ALLOW_MISSING_PARENTS != 0 },
            from,
            records: self.records.len() - from,
        });
        Ok(())
    }

    /// The group split by options and by the limit of one put, each part with its own records.
    fn by_options(self) -> Vec<(PutOptions, Self)> {
        let mut parts: Vec<(PutOptions, Self)> = Vec::new();
        let mut records = self.records.into_iter();
        for span in self.requests {
            let fits = |part: &&mut (PutOptions, Self)| {
                part.0 == span.options && part.1.records.len() + span.records <= PUT_BATCH_MAX
            };
            let at = match parts.last_mut().filter(fits) {
                Some(_) => parts.len() - 1,
                None => {
                    parts.push((span.options, Self::default()));
                    parts.len() - 1
                }
            };
            let part = &mut parts[at].1;
            let from = part.records.len();
            part.records.extend(records.by_ref().take(span.records));
            part.requests.push(PutSpan { from, ..span });
        }
        parts
    }

    async fn run(self, router: &crate::router::Router, options: PutOptions, replies: &Replies) {
        let mut outcomes: Vec<Option<Result<PutReceipt, Refusal>>> = vec![None; self.records.len()];
        let mut owner = Vec::with_capacity(self.records.len());
        for (nth, span) in self.requests.iter().enumerate() {
            owner.extend(std::iter::repeat_n(nth, span.records));
        }
        let mut open: Vec<usize> = self.requests.iter().map(|span| span.records).collect();
        let requests = self.requests;
        router
            .put(self.records, options, |at, outcome| {
                outcomes[at] = Some(outcome);
                let nth = owner[at];
                open[nth] -= 1;
                if open[nth] == 0 {
                    let span = requests[nth];
                    let rows = outcomes[span.from..span.from + span.records].iter().flatten();
                    replies.answer(span.request, 0, put_answer(rows));
                }
            })
            .await;
    }
}

fn put_answer<'a>(outcomes: impl Iterator<Item = &'a Result<PutReceipt, Refusal>>) -> Bytes {
    let mut body = BytesMut::new();
    let mut sentence: Option<&str> = None;
    for outcome in outcomes {
        wire::put_row(&mut body, outcome);
        if let Err(refusal) = outcome {
            sentence.get_or_insert(&refusal.detail);
        }
    }
    body.extend_from_slice(sentence.unwrap_or_default().as_bytes());
    body.freeze()
}

async fn answer_gets(context: &Context, gets: Vec<(u64, Vec<VertexId>)>, replies: &Replies) {
    let mut gets = gets.into_iter().peekable();
    while let Some((request, ids)) = gets.next() {
        let mut spans = vec![(request, ids.len())];
        let mut all = ids;
        while let Some((request, ids)) = gets.next_if(|(_, ids)| all.len() + ids.len() <= GET_BATCH_MAX) {
            spans.push((request, ids.len()));
            all.extend(ids);
        }
        let mut answers = context.router.get_many(&all).await.into_iter();
        for (request, count) in spans {
            let found: Result<Vec<Option<SealedVertex>>, Refusal> = answers.by_ref().take(count).collect();
            match found {
                Ok(found) => replies.answer(request, 0, records(found)),
                Err(refusal) => refuse(replies, request, &refusal),
            }
        }
    }
}

/// The found records one behind the other; a single one is passed on as it is.
fn records(found: Vec<Option<SealedVertex>>) -> Bytes {
    if let [only] = &found[..] {
        return only.as_ref().map_or_else(Bytes::new, |vertex| vertex.record().bytes().clone());
    }
    let mut body = BytesMut::new();
    for vertex in found.iter().flatten() {
        body.extend_from_slice(vertex.record().bytes());
    }
    body.freeze()
}

async fn has(context: &Context, body: &[u8]) -> Result<Bytes, Refusal> {
    let found = context.router.has(&wire::ids(body)?).await?;
    let mut bits = vec![0u8; found.len().div_ceil(8)];
    for (at, _) in found.iter().enumerate().filter(|(_, found)| **found) {
        bits[at / 8] |= 1 << (at % 8);
    }
    Ok(bits.into())
}

async fn stats(context: &Context) -> Result<Bytes, Refusal> {
    let value = super::figures(context).await?;
    serde_json::to_vec(&value).map(Bytes::from).map_err(internal)
}

async fn resolve(context: &Context, body: &[u8]) -> Result<Bytes, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::bad_request("the text to resolve is not UTF-8"))?;
    let id = context.router.resolve(text).await?;
    Ok(Bytes::copy_from_slice(&id.0))
}

async fn refs(context: &Context, body: &[u8]) -> Result<Bytes, Refusal> {
    let request = unarchive!(RefRequest, body).map_err(malformed)?;
    let router = &context.router;
    let name_of = |text: &str| text.parse::<RefName>().map_err(|error| Refusal::bad_request(error.to_string()));
    let answer = match request {
        RefRequest::Get { name, consistency } => {
            let parsed = name_of(&name)?;
            let (position, freshness) = router.ref_get_with(parsed.clone(), consistency.parse()?).await?;
            let position = position.ok_or_else(|| Refusal::new(Reason::NotFound, format!("no ref {name}")))?;
            let row = json::ref_row(&parsed, Some(&position));
            RefAnswer::One { row, token: String::new(), freshness: Some(freshness.into()) }
        }
        RefRequest::Set { name, to, expect, expect_at, actor, reason } => {
            let to = match to {
                Some(text) => Some(router.resolve(&text).await?),
                None => None,
            };
            let expect = match expect {
                0 => Expect::Any,
                1 => Expect::Absent,
                2 => Expect::At(router.resolve(&expect_at).await?),
                other => {
                    return Err(Refusal::bad_request(format!("expectation {other} of a ref move is none of 0, 1, 2")));
                }
            };
            let name = name_of(&name)?;
            let change = RefMove { name: name.clone(), expect, to, actor, reason, timestamp_ms: now_ms() };
            let receipt = router.ref_set(change).await?;
            let token = Token { shard: receipt.shard, index: receipt.index };
            let row = json::ref_row(&name, Some(&receipt.position));
            RefAnswer::One { row, token: token.to_string(), freshness: None }
        }
        RefRequest::List { prefix, after, limit, consistency } => {
            let after = if after.is_empty() { None } else { Some(name_of(&after)?) };
            let limit = (limit as usize).min(PAGE_MAX);
            let (list, freshness) = router.ref_list_with(&prefix, after, limit, consistency.parse()?).await?;
            let rows = list.iter().map(|(name, position)| json::ref_row(name, Some(position))).collect();
            RefAnswer::List { rows, freshness: freshness.into() }
        }
        RefRequest::Log { name, limit, consistency } => {
            let limit = (limit as usize).min(REFLOG_ENTRIES_MAX);
            let (log, freshness) = router.ref_log(name_of(&name)?, limit, consistency.parse()?).await?;
            let log = log.ok_or_else(|| Refusal::new(Reason::NotFound, format!("no ref {name}")))?;
            RefAnswer::Log { rows: log.iter().map(json::ref_log_row).collect(), freshness: freshness.into() }
        }
    };
    archive!(&answer).map_err(internal)
}

async fn read(context: &Context, body: &[u8]) -> Result<Bytes, Refusal> {
    let ReadRequest { id, consistency } = unarchive!(ReadRequest, body).map_err(malformed)?;
    let (found, freshness) = context.router.get_with(VertexId(id), consistency.parse()?).await?;
    let record = found.map(|vertex| vertex.record().bytes().to_vec());
    archive!(&ReadAnswer { record, freshness: freshness.into() }).map_err(internal)
}

fn malformed(error: rkyv::rancor::Error) -> Refusal {
    Refusal::bad_request(format!("the request's archive is malformed: {error}"))
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::Internal, format!("the answer could not be archived: {error}"))
}
