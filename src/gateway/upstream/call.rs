//! A client's request on its way to a server and back.
//!
//! Promises: a call that cannot be carried fails at once with the reason; the answer comes as one JSON document when nothing comes
//! before it, and as a stream of events otherwise, or when it takes longer than [`PATIENCE`]; a client that goes away cancels
//! its call; what failed at one endpoint before a part of its answer came goes to another, if it may be carried out twice and the
//! budget allows. Does not: repeat anything else.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::{sleep, timeout};

use super::envelope::{Kind, Message, completed};
use super::federation::{Federation, Place};
use super::http::cannot_ask;
use super::link::{Broken, Exchange, Link, Messages, Reply, Spoken};
use super::pool::{Outcome, now};
use super::window::Breaker;
use super::{Caller, Held, Upstreams};
use crate::config::pool::Balance;
use crate::gateway::http::{Body, BodySender, Response};
use crate::gateway::mcp::{ClientSession, Fault, of_session};
use crate::runtime;

/// How long the first message of an answer may take before the client gets a stream that is kept open.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time without a message after which a comment keeps a stream open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// When to come back to a server that is busy and does not say.
const BUSY_RETRY_MS: u64 = 500;
/// When to come back to one that does not answer yet.
const SILENT_RETRY_MS: u64 = 1000;

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) enum Subject<'a> {
    /// A tool, by its public name.
    Tool(&'a str),
    /// A prompt, by its public name.
    Prompt(&'a str),
    /// A resource, by its URI.
    Resource(&'a str),
    /// A template, by itself.
    Template(&'a str),
}

/// A request that a server behind the gateway is to answer.
pub(in crate::gateway) struct Asked {
    /// Its method.
    pub(in crate::gateway) method: String,
    /// The request's id, as JSON.
    pub(in crate::gateway) id: String,
    /// Its body in the form of the modern era, with the name that the server knows.
    pub(in crate::gateway) body: Bytes,
    /// Whether the client takes a stream.
    pub(in crate::gateway) streams: bool,
    /// The session of a client that has one.
    pub(in crate::gateway) session: Option<ClientSession>,
    /// What leads to the same endpoint each time, where the upstream is declared so.
    pub(in crate::gateway) key: Option<u64>,
}

/// Where a request goes: what was found for its subject, kept until it is sent.
pub(in crate::gateway) struct Kept {
    federation: Arc<Federation>,
    place: Place,
}

impl Upstreams {
    /// Who answers for a subject; `None` when nobody behind the gateway does.
    pub(in crate::gateway) fn find(&self, subject: Subject<'_>) -> Option<Kept> {
        let federation = self.current();
        let place = match subject {
            Subject::Tool(name) => federation.tool(name)?.clone(),
            Subject::Prompt(name) => federation.prompt(name)?.clone(),
            Subject::Resource(uri) => {
                Place { entry: federation.resource(uri)?, own: uri.to_owned(), mirrors: Vec::new(), repeats: true }
            }
            Subject::Template(template) => Place {
                entry: federation.template(template)?,
                own: template.to_owned(),
                mirrors: Vec::new(),
                repeats: true,
            },
        };
        Some(Kept { federation, place })
    }
}

impl Upstreams {
    /// Why nobody behind the gateway has this tool now, where one that does not answer may have it.
    pub(in crate::gateway) fn missing(&self, tool: &str) -> Option<Fault> {
        let federation = self.current();
        let mut silent = federation.entries.iter().filter(|entry| entry.known.read_ms == 0);
        let entry =
            silent.find(|entry| !entry.upstream.prefix.is_empty() && tool.starts_with(&entry.upstream.prefix))?;
        let why = entry.known.error.as_deref().unwrap_or("it has not answered yet");
        Some(Fault::upstream_unavailable(&entry.upstream.name, why, SILENT_RETRY_MS))
    }
}

impl Kept {
    /// The server's name.
    pub(in crate::gateway) fn upstream_name(&self) -> &str {
        &self.federation.entries[self.place.entry].upstream.name
    }

    /// The name that the server knows.
    pub(in crate::gateway) fn own_name(&self) -> &str {
        &self.place.own
    }

    /// What endpoints are chosen by, if it is a key: nothing, an argument, or the caller.
    pub(in crate::gateway) fn key(&self) -> Option<Option<&str>> {
        let pooling = &self.federation.entries[self.place.entry].upstream.pooling;
        (pooling.balance == Balance::Hash).then_some(pooling.hash_argument.as_deref())
    }

    /// Headers that mirror arguments: those that the client sent, or, from a client of an era without them, those that the tool's
    /// schema asks for.
    pub(in crate::gateway) fn mirrored(
        &self,
        client: Option<&HeaderMap>,
        arguments: Option<&serde_json::value::RawValue>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        if let Some(headers) = client {
            let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("mcp-param-"));
            return ours.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        if self.place.mirrors.is_empty() {
            return Vec::new();
        }
        let arguments = arguments.and_then(|raw| serde_json::from_str::<serde_json::Value>(raw.get()).ok());
        let mut found = Vec::new();
        for (path, header) in &self.place.mirrors {
            let value = path.iter().try_fold(arguments.as_ref(), |value, name| Some(value?.get(name)));
            let text = match value.flatten() {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => value.to_string(),
                _ => continue,
            };
            found.push((header.clone(), super::http::mirrored(&text)));
        }
        found
    }
}

/// Carries a request to its server and the answer back.
///
/// # Errors
/// Why the call was not carried: nothing reached the server, or nothing useful came back.
pub(in crate::gateway) async fn carry(
    upstreams: &Rc<Upstreams>,
    kept: Kept,
    asked: Asked,
    mirrored: Vec<(HeaderName, HeaderValue)>,
) -> Result<Response, Fault> {
    let entry = &kept.federation.entries[kept.place.entry];
    let upstream = entry.upstream.clone();
    let name = upstream.name.clone();
    let refuse = |detail: String, retry_ms: u64| Fault::upstream_unavailable(&name, &detail, retry_ms);
    if upstream.drained {
        return Err(refuse("it is drained: its declaration says drained = true".to_owned(), 0));
    }
    let Some(spoken) = entry.known.spoken else {
        let why = entry.known.error.as_deref().unwrap_or("it has not answered yet");
        return Err(refuse(why.to_owned(), SILENT_RETRY_MS));
    };
    let caller = upstreams.caller(entry).map_err(|error| refuse(error, 0))?;
    let Some(room) = Room::of(&caller) else {
        let detail = format!("all {} calls that may be open there are taken", upstream.concurrency_max);
        return Err(Fault::upstream_busy(&name, &detail, BUSY_RETRY_MS));
    };
    let limit = upstream.timeout_of(&kept.place.own);
    // A session of the client's own, if it has one there: the server may know the client by it, and ask it things.
    let own = asked.session.and_then(|session| session.at(&name).cloned().map(|held| (session, held)));
    let session = own.as_ref().map(|(_, held)| Rc::new(held.session()));
    let is_tool = asked.method == "tools/call";
    let breakers = entry.breakers.tool(if is_tool { &kept.place.own } else { "" }).unwrap_or_default();
    let holder = own.as_ref().map(|(_, held)| caller.pool.named(held.endpoint()));
    let first = match holder {
        None => caller.pool.choose(0, asked.key, &breakers, &mut caller.turns.borrow_mut(), now()),
        Some(None) => {
            return Err(Fault::session_over(&format!(
                "the upstream {name}: the endpoint that had the session is gone"
            )));
        }
        Some(Some(at)) => {
            let rule = &caller.pool.rule.breaker;
            let may = breakers.get(at).is_none_or(|breaker| breaker.enter(rule, now()));
            let wait = || breakers.get(at).map_or(0, |breaker| breaker.wait(rule, now()));
            if may { Ok((at, "its session")) } else { Err(wait()) }
        }
    };
    let (at, why) = first.map_err(|wait_ms| {
        let why = entry.known.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        refuse(format!("it failed often and is left alone for a while{why}"), wait_ms)
    })?;
    tracing::debug!(upstream = name, endpoint = caller.pool.endpoints[at].shown, why, "a call goes to an endpoint");
    let exchange = Exchange { method: asked.method, name: Some(kept.place.own), body: asked.body, mirrored, session };
    let asks = own.filter(|_| asked.streams);
    let repeats = kept.place.repeats && exchange.session.is_none();
    let key = asked.key;
    let call =
        Call { caller, _room: room, breakers, at, repeats, key, name: name.clone(), spoken, id: asked.id, limit, asks };
    let mut sending: Sending = Box::pin(call.send(exchange));
    if !asked.streams {
        return match sending.await {
            (_open, Ok(Reply::Whole(status, message))) => Ok(json(status, message)),
            (open, Ok(Reply::Stream(messages))) => match open.answer(messages).await {
                Ok(message) => Ok(json(200, message)),
                Err(broken) => Err(fault(&name, &broken)),
            },
            (_open, Err(broken)) => Err(fault(&name, &broken)),
        };
    }
    match timeout(PATIENCE, &mut sending).await {
        Ok((_open, Ok(Reply::Whole(status, message)))) => Ok(json(status, message)),
        Ok((_open, Err(broken))) => Err(fault(&name, &broken)),
        Ok((open, Ok(Reply::Stream(mut messages)))) => {
            // Many servers answer everything with a stream: one that has only the answer is one document for the client.
            let first = match open.next(&mut messages).await {
                Ok(Some(first)) => first,
                Ok(None) => return Err(fault(&name, &ended())),
                Err(broken) => return Err(fault(&name, &broken)),
            };
            if Message::read(&first).is_ok_and(|message| message.kind() == Kind::Answer) {
                return Ok(json(200, first));
            }
            let (mut sender, response) = stream();
            runtime::spawn(async move {
                if sender.send(event(&first)).await.is_ok() {
                    relay(sender, Box::pin(std::future::ready((open, Ok(Reply::Stream(messages)))))).await;
                }
            });
            Ok(response)
        }
        Err(_) => {
            let (sender, response) = stream();
            runtime::spawn(relay(sender, sending));
            Ok(response)
        }
    }
}

type Sending = Pin<Box<dyn Future<Output = (Open, Result<Reply, Broken>)>>>;

/// A call before it is sent.
struct Call {
    caller: Rc<Caller>,
    /// Held until nobody waits for the call any more.
    _room: Room,
    breakers: Arc<Vec<Breaker>>,
    /// The endpoint that it goes to first.
    at: usize,
    /// Whether it may be carried out twice.
    repeats: bool,
    key: Option<u64>,
    name: String,
    spoken: Spoken,
    id: String,
    limit: Duration,
    /// The client's session, where the server may ask the client.
    asks: Option<(ClientSession, Held)>,
}

/// A place among the calls that the node may have open at an upstream. It is given back when it is dropped.
struct Room(Rc<Caller>);

impl Room {
    fn of(caller: &Rc<Caller>) -> Option<Self> {
        caller.pool.enter().then(|| Self(caller.clone()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.pool.leave();
    }
}

/// A call that is open at an endpoint of its server.
struct Open {
    call: Call,
    begun: Instant,
    visit: Visit,
}

/// What is open at an endpoint, until it is dropped.
struct Visit {
    caller: Rc<Caller>,
    at: usize,
    begun: Instant,
}

impl Visit {
    fn begin(caller: &Rc<Caller>, at: usize, is_retry: bool) -> Self {
        caller.pool.begin(at, is_retry, now());
        Self { caller: caller.clone(), at, begun: Instant::now() }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.caller.pool.release(self.at);
    }
}

impl Call {
    /// Sends it, and to another endpoint what failed there before any part of an answer came.
    async fn send(self, exchange: Exchange) -> (Open, Result<Reply, Broken>) {
        let caller = self.caller.clone();
        let pool = &caller.pool;
        let mut open = Open { visit: Visit::begin(&caller, self.at, false), begun: Instant::now(), call: self };
        let (mut tried, mut attempts) = (0_u64, 0);
        loop {
            let at = open.visit.at;
            tried |= 1 << at;
            let call = &open.call;
            let left = call.limit.saturating_sub(open.begun.elapsed());
            let sent = timeout(left, first_of(&caller.links[at], call.spoken, &exchange)).await;
            let reply = sent.unwrap_or(Err(Broken::Timeout(call.limit)));
            if reply.is_ok() {
                pool.answered(at, open.visit.begun.elapsed(), now());
            }
            if !matches!(reply, Ok(Reply::Stream(_))) {
                open.ended(reply.as_ref().err());
            }
            let Err(broken) = &reply else { return (open, reply) };
            let elsewhere = broken.is_failure() || matches!(broken, Broken::Busy(_));
            let timely = open.begun.elapsed() < call.limit;
            if !call.repeats || !elsewhere || !timely || pool.rule.retries.attempts_max <= attempts {
                return (open, reply);
            }
            // What is known to be out, or was tried, is not asked again; the budget is taken only for what goes.
            let next = pool.choose(tried, call.key, &call.breakers, &mut caller.turns.borrow_mut(), now());
            let Ok((next, why)) = next else { return (open, reply) };
            if !pool.may_retry(now()) {
                tracing::info!(upstream = call.name, %broken, "a call that failed is not repeated: the budget is spent");
                return (open, reply);
            }
            attempts += 1;
            let shown = |at: usize| &pool.endpoints[at].shown;
            tracing::info!(upstream = call.name, from = shown(at), to = shown(next), why, %broken, "a call is repeated");
            open.visit = Visit::begin(&caller, next, true);
        }
    }
}

/// What comes first, with the certainty that something comes.
async fn first_of(link: &Link, spoken: Spoken, exchange: &Exchange) -> Result<Reply, Broken> {
    let mut messages = match link.send(spoken, exchange).await? {
        Reply::Stream(messages) => messages,
        whole @ Reply::Whole(..) => return Ok(whole),
    };
    let first = messages.next().await?.ok_or_else(ended)?;
    messages.unread(first);
    Ok(Reply::Stream(messages))
}

impl Open {
    /// The call is over: well, or not.
    fn ended(&self, broken: Option<&Broken>) {
        let (pool, at, now) = (&self.call.caller.pool, self.visit.at, now());
        let breaker = self.call.breakers.get(at);
        match broken {
            Some(broken) if broken.is_failure() => {
                pool.ended(at, Outcome::Failed, now);
                if let Some(breaker) = breaker {
                    breaker.failed(&pool.rule.breaker, now);
                }
                let endpoint = &pool.endpoints[at].shown;
                tracing::debug!(upstream = self.call.name, endpoint, %broken, "a call to an upstream failed");
            }
            // Busy, or not for us: it answers.
            broken => {
                pool.ended(at, if broken.is_some() { Outcome::Neither } else { Outcome::Well }, now);
                if let Some(breaker) = breaker {
                    breaker.succeeded(now);
                }
            }
        }
    }

    /// The next message for the client.
    async fn next(&self, messages: &mut Messages) -> Result<Option<Bytes>, Broken> {
        let next = self.next_within(messages).await;
        match &next {
            Err(broken) => self.ended(Some(broken)),
            Ok(None) => self.ended(Some(&ended())),
            Ok(Some(_)) => {}
        }
        next
    }

    async fn next_within(&self, messages: &mut Messages) -> Result<Option<Bytes>, Broken> {
        loop {
            let left = self.call.limit.saturating_sub(self.begun.elapsed());
            let next = timeout(left, messages.next()).await.map_err(|_| Broken::Timeout(self.call.limit))??;
            let Some(message) = next else { return Ok(None) };
            let read = Message::read(&message).map_err(Broken::Garbage)?;
            match read.kind() {
                Kind::Answer => {
                    self.ended(None);
                    return Ok(Some(match self.call.spoken {
                        Spoken::Modern => message,
                        Spoken::Legacy(_) => completed(&message).map_err(Broken::Garbage)?,
                    }));
                }
                Kind::Notification => return Ok(Some(message)),
                Kind::Request => {
                    if let Some((session, held)) = &self.call.asks
                        && let Some(question) = of_session(session, held, message.clone())
                    {
                        return Ok(Some(question));
                    }
                    // Only a server with sessions asks its client; nobody here can answer for one.
                    if let (Link::Http(link), Some(refused)) =
                        (&self.call.caller.links[self.visit.at], cannot_ask(&message))
                    {
                        link.answer_in_session(self.call.spoken, refused).await?;
                    }
                }
            }
        }
    }

    async fn answer(&self, mut messages: Messages) -> Result<Bytes, Broken> {
        while let Some(message) = self.next(&mut messages).await? {
            if Message::read(&message).is_ok_and(|message| message.kind() == Kind::Answer) {
                return Ok(message);
            }
        }
        Err(ended())
    }
}

/// Hands an answer on as events, for as long as its client listens.
async fn relay(mut sender: BodySender, mut sending: Sending) {
    let (open, reply) = loop {
        tokio::select! {
            sent = &mut sending => break sent,
            () = sleep(KEEP_ALIVE) => if sender.send(Bytes::from_static(b":\n\n")).await.is_err() { return },
            // What is dropped with this task is cancelled at the server.
            () = sender.closed() => return,
        }
    };
    let failed = |broken: &Broken| Bytes::from(fault(&open.call.name, broken).to_json(Some(&open.call.id)));
    let mut messages = match reply {
        Ok(Reply::Stream(messages)) => messages,
        Ok(Reply::Whole(_, message)) => {
            let _ = sender.send(event(&message)).await;
            return;
        }
        Err(broken) => {
            let _ = sender.send(event(&failed(&broken))).await;
            return;
        }
    };
    loop {
        let next = tokio::select! {
            next = open.next(&mut messages) => next,
            () = sleep(KEEP_ALIVE) => {
                if sender.send(Bytes::from_static(b":\n\n")).await.is_err() { return }
                continue;
            }
            () = sender.closed() => return,
        };
        let (message, last) = match next {
            Ok(Some(message)) => {
                let last = Message::read(&message).is_ok_and(|message| message.kind() == Kind::Answer);
                (message, last)
            }
            Ok(None) => (failed(&ended()), true),
            Err(broken) => (failed(&broken), true),
        };
        if sender.send(event(&message)).await.is_err() || last {
            return;
        }
    }
}

fn ended() -> Broken {
    Broken::Unreachable("its stream ended without an answer".to_owned())
}

/// What a client is told of a call that came to nothing.
fn fault(name: &str, broken: &Broken) -> Fault {
    match broken {
        Broken::Busy(after) => {
            let retry_ms = after.map_or(BUSY_RETRY_MS, |after| after.as_millis() as u64);
            Fault::upstream_busy(name, &broken.to_string(), retry_ms)
        }
        Broken::SessionLost => Fault::session_over(&format!("the upstream {name}: {broken}")),
        Broken::Timeout(_) => Fault::upstream_timeout(name, &broken.to_string()),
        _ => Fault::upstream_unavailable(name, &broken.to_string(), 0),
    }
}

fn json(status: u16, message: Bytes) -> Response {
    let mut response = Response::new(Body::whole(message));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn stream() -> (BodySender, Response) {
    let (sender, body) = Body::stream();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    (sender, response)
}

/// A message as an event of a stream.
pub(in crate::gateway) fn event(message: &[u8]) -> Bytes {
    const BEGIN: &[u8] = b"event: message\ndata: ";
    let mut out = Vec::with_capacity(BEGIN.len() + message.len() + 2);
    out.extend_from_slice(BEGIN);
    // JSON has line ends only as white space; in an event they would end the line.
    out.extend(message.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
    out.extend_from_slice(b"\n\n");
    Bytes::from(out)
}
