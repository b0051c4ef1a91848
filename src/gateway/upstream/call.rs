//! A client's request on its way to a server and back.
//!
//! Promises: a call that cannot be carried fails at once with the reason; the answer comes as one JSON document when nothing comes
//! before it, and as a stream of events otherwise, or when it takes longer than [`PATIENCE`]; a client that goes away cancels
//! its call. Does not: repeat a call that may have been carried out.

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
use super::{Caller, Held, Upstreams};
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
                Place { entry: federation.resource(uri)?, own: uri.to_owned(), mirrors: Vec::new() }
            }
            Subject::Template(template) => {
                Place { entry: federation.template(template)?, own: template.to_owned(), mirrors: Vec::new() }
            }
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
    if upstream.concurrency_max <= caller.open.get() {
        let detail = format!("all {} calls that one core may have open there are taken", upstream.concurrency_max);
        return Err(Fault::upstream_busy(&name, &detail, BUSY_RETRY_MS));
    }
    if let Err(wait) = caller.breaker.borrow_mut().enter(Instant::now()) {
        let why = entry.known.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(refuse(format!("it failed often and is left alone for a while{why}"), wait.as_millis() as u64));
    }
    let limit = upstream.timeout_of(&kept.place.own);
    // A session of the client's own, if it has one there: the server may know the client by it, and ask it things.
    let own = asked.session.and_then(|session| session.at(&name).cloned().map(|held| (session, held)));
    let session = own.as_ref().map(|(_, held)| Rc::new(held.session()));
    let exchange = Exchange { method: asked.method, name: Some(kept.place.own), body: asked.body, mirrored, session };
    let asks = own.filter(|_| asked.streams);
    let call = Call { caller, name: name.clone(), spoken, id: asked.id, limit, asks };
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
    name: String,
    spoken: Spoken,
    id: String,
    limit: Duration,
    /// The client's session, where the server may ask the client.
    asks: Option<(ClientSession, Held)>,
}

/// A call that is open at its server. Its place is given back when it is dropped.
struct Open {
    call: Call,
    begun: Instant,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.call.caller.open.set(self.call.caller.open.get() - 1);
    }
}

impl Call {
    async fn send(self, exchange: Exchange) -> (Open, Result<Reply, Broken>) {
        let caller = self.caller.clone();
        caller.open.set(caller.open.get() + 1);
        caller.calls.set(caller.calls.get() + 1);
        let open = Open { call: self, begun: Instant::now() };
        let limit = open.call.limit;
        let sent = timeout(limit, caller.link.send(open.call.spoken, &exchange)).await;
        let reply = sent.unwrap_or(Err(Broken::Timeout(limit)));
        if !matches!(reply, Ok(Reply::Stream(_))) {
            open.ended(reply.as_ref().err());
        }
        (open, reply)
    }
}

impl Open {
    /// The call is over: well, or not.
    fn ended(&self, broken: Option<&Broken>) {
        let caller = &self.call.caller;
        match broken {
            Some(broken) if broken.is_failure() => {
                caller.failures.set(caller.failures.get() + 1);
                caller.breaker.borrow_mut().failed(Instant::now());
                tracing::debug!(upstream = self.call.name, %broken, "a call to an upstream failed");
            }
            // Busy, or not for us: it answers.
            _ => caller.breaker.borrow_mut().succeeded(),
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
                    if let (Link::Http(link), Some(refused)) = (&self.call.caller.link, cannot_ask(&message)) {
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
