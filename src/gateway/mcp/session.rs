//! Sessions of clients of earlier revisions: what such a client has at servers behind the gateway, sealed into the session's own id.
//!
//! Promises: no gateway keeps anything of a session, so any request of it may land on any of them, its answers to servers' questions
//! included; a session that is too old, or that no gateway of this cluster made, is told to be over. Does not: keep what a client wants
//! of this node's own resources (a client of 2026-07-28 listens for those).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::fault::{Fault, Refused};
use super::message::{Params, Request};
use super::seal::{Owner, Purpose, Seal};
use super::subscription::Place;
use super::{catalogue, reply};
use crate::gateway::http::{Body, BodySender, Response};
use crate::gateway::pipeline::{Admitted, Caller};
use crate::gateway::upstream::{Held, Message, Question, event, splice};
use crate::gateway::{Context, now_ms};
use crate::runtime;

/// The header with a session's id.
const HEADER: HeaderName = HeaderName::from_static("mcp-session-id");
/// How long a session may be used, in milliseconds: a day. Its client opens another.
const LIFE_MS: u64 = 24 * 3_600_000;
/// Bytes of what a client says it can do that are passed on.
const CAPABILITIES_BYTES_MAX: usize = 4096;
/// What the ids of servers' questions begin with for clients.
const QUESTION: &str = "q.";
/// Messages of servers that wait for one listener.
const MESSAGES_MAX: usize = 16;
/// Time without a message after which a comment keeps a listener's connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a session's id stands for.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    issued_ms: u64,
    held: Vec<Held>,
}

/// A session, opened.
#[derive(Clone)]
pub(in crate::gateway) struct Session {
    /// What its client has at servers.
    pub(in crate::gateway) held: Rc<Vec<Held>>,
    seal: Rc<Seal>,
    owner: Owner,
}

/// Whose session a request's would be: only the principal that opened one can use it.
fn owner(head: &Parts) -> Owner {
    let admitted = head.extensions.get::<Admitted>();
    Owner(admitted.and_then(|admitted| match &admitted.caller {
        Caller::Anonymous => None,
        Caller::Principal(principal) => Some(principal.key),
    }))
}

impl Session {
    /// The session that a request names, if it names one.
    ///
    /// # Errors
    /// It is over, or was never made here.
    pub(super) fn of(context: &Context, head: &Parts) -> Result<Option<Self>, Fault> {
        let Some(named) = head.headers.get(HEADER) else { return Ok(None) };
        let owner = owner(head);
        let sealed = named.to_str().ok().and_then(|text| context.seal.open::<Sealed>(Purpose::Session, owner, text));
        let good = sealed.filter(|sealed| now_ms() < sealed.issued_ms.saturating_add(LIFE_MS));
        let sealed =
            good.ok_or_else(|| Fault::session_over("no gateway of this cluster has such a session for this caller"))?;
        Ok(Some(Self { held: Rc::new(sealed.held), seal: context.seal.clone(), owner }))
    }

    /// The session at one server.
    pub(in crate::gateway) fn at(&self, upstream: &str) -> Option<&Held> {
        self.held.iter().find(|held| held.upstream() == upstream)
    }

    /// A server's question under an id that leads the client's answer back to it.
    pub(in crate::gateway) fn question(&self, question: &Question, message: &Bytes) -> Option<Bytes> {
        let sealed = self.seal.close(Purpose::Question, self.owner, question)?;
        let id = Message::read(message).ok()?.id?;
        Some(splice(message, &mut [(id.get(), &format!("\"{QUESTION}{sealed}\""))]))
    }
}

/// Answers `initialize`: opens a session at each server that has sessions, and seals them into one.
pub(super) async fn initialize(
    context: &Context,
    head: &Parts,
    id: &str,
    version: &str,
    params: &Params<'_>,
) -> Response {
    let capabilities = params.capabilities.filter(|raw| raw.get().len() <= CAPABILITIES_BYTES_MAX);
    let capabilities = capabilities.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_else(|| json!({}));
    let held = context.upstreams.open_sessions(&capabilities).await;
    let mut able = json!({
        "completions": {},
        "prompts": { "listChanged": true },
        "resources": { "listChanged": true },
        "tools": { "listChanged": true },
    });
    if held.iter().any(|held| held.subscribes) {
        able["resources"]["subscribe"] = true.into();
    }
    if held.iter().any(|held| held.logs) {
        able["logging"] = json!({});
    }
    let result = json!({
        "protocolVersion": version,
        "capabilities": able,
        "serverInfo": { "name": "qmesh", "title": "qmesh node", "version": env!("CARGO_PKG_VERSION") },
        "instructions": catalogue::INSTRUCTIONS,
    });
    let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}");
    let mut response = reply::json(200, body.into_bytes());
    let sealed = context.seal.close(Purpose::Session, owner(head), &Sealed { issued_ms: now_ms(), held });
    if let Some(sealed) = sealed.and_then(|sealed| HeaderValue::from_str(&sealed).ok()) {
        response.headers_mut().insert(HEADER, sealed);
    }
    response
}

/// Passes on what a client wants of the servers of its session: log levels, and news of resources. `None` when it is nothing of that.
///
/// # Errors
/// Nobody behind the gateway does that.
pub(super) async fn wish(
    context: &Context,
    session: Option<&Session>,
    request: &Request<'_>,
    body: &Bytes,
) -> Result<Option<Response>, Fault> {
    let method = request.method.as_str();
    let held: Vec<&Held> = session.iter().flat_map(|session| session.held.iter()).collect();
    let asked: Vec<&Held> = match method {
        "logging/setLevel" => held.into_iter().filter(|held| held.logs).collect(),
        "resources/subscribe" | "resources/unsubscribe" => {
            let uri = request.params.uri.as_deref().unwrap_or_default();
            let owner = context.upstreams.owner(uri);
            held.into_iter().filter(|held| held.subscribes && owner.as_deref() == Some(held.upstream())).collect()
        }
        _ => return Ok(None),
    };
    let mut refused = Fault::method_not_found(method);
    let mut done = false;
    for held in asked {
        match context.upstreams.ask_in(held, method, body.clone()).await {
            Ok(answer) if Message::read(&answer).is_ok_and(|answer| answer.result.is_some()) => done = true,
            Ok(_) => refused = Fault::invalid_params(format!("the upstream {} refused {method}", held.upstream())),
            Err(broken) => refused = Fault::upstream_unavailable(held.upstream(), &broken.to_string(), 0),
        }
    }
    if done { Ok(Some(reply::json(200, reply::nothing(request.id)))) } else { Err(refused) }
}

/// Takes a client's answer to a server's question; `None` when the body is none.
pub(super) async fn answer(context: &Context, head: &Parts, body: &Bytes) -> Option<Response> {
    let id = Message::read(body).ok().filter(|message| message.method.is_none())?.id?;
    let id: String = serde_json::from_str(id.get()).ok()?;
    let question: Question = context.seal.open(Purpose::Question, owner(head), id.strip_prefix(QUESTION)?)?;
    Some(match context.upstreams.answer_question(&question, body).await {
        Ok(()) => reply::empty(StatusCode::ACCEPTED, None),
        Err(broken) => {
            let fault = Fault::invalid_params(format!("the answer was not taken: {broken}")).with_status(400);
            reply::refused(&Refused { id: None, fault })
        }
    })
}

/// Ends a session.
pub(super) async fn end(context: &Context, session: &Session) -> Response {
    context.upstreams.end_sessions(&session.held).await;
    reply::empty(StatusCode::OK, None)
}

/// Opens a stream of what servers tell the session by themselves, and of changes of the lists.
///
/// # Errors
/// All places of listeners are taken.
pub(super) fn listen(context: &Context, session: Session) -> Result<Response, Fault> {
    let place = Place::take()?;
    let (sender, body) = Body::stream();
    let context = context.clone();
    runtime::spawn(async move {
        let _place = place;
        // When nobody listens any more, all that was held for them is dropped with this task.
        let _ended = tell(&context, &session, sender).await;
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `None` when the listener has gone.
async fn tell(context: &Context, session: &Session, mut sender: BodySender) -> Option<()> {
    let (pass, mut messages) = mpsc::channel::<Bytes>(MESSAGES_MAX);
    for held in session.held.iter() {
        let (context, session, pass, held) = (context.clone(), session.clone(), pass.clone(), held.clone());
        runtime::spawn(async move {
            let Some(mut told) = context.upstreams.told_in(&held).await else { return };
            loop {
                let message = tokio::select! {
                    message = told.next() => message,
                    () = pass.closed() => return,
                };
                let Ok(Some(message)) = message else { return };
                if let Some(message) = of_session(&session, &held, message)
                    && pass.send(message).await.is_err()
                {
                    return;
                }
            }
        });
    }
    drop(pass);
    let mut published = context.upstreams.published();
    let mut federation = published.borrow_and_update().clone();
    let mut draining = std::pin::pin!(context.drain_asked());
    loop {
        tokio::select! {
            Some(message) = messages.recv() => sender.send(event(&message)).await.ok()?,
            Ok(()) = published.changed() => {
                let next = published.borrow_and_update().clone();
                let differs = next.differs(&federation);
                federation = next;
                for (changed, list) in
                    [(differs.tools, "tools"), (differs.prompts, "prompts"), (differs.resources, "resources")]
                {
                    if changed {
                        let told = json!({ "jsonrpc": "2.0", "method": format!("notifications/{list}/list_changed") });
                        sender.send(event(told.to_string().as_bytes())).await.ok()?;
                    }
                }
            }
            () = sleep(KEEP_ALIVE) => sender.send(Bytes::from_static(b":\n\n")).await.ok()?,
            () = sender.closed() => return None,
            () = &mut draining => return None,
        }
    }
}

/// A message of a server as the session's client is to see it.
pub(in crate::gateway) fn of_session(session: &Session, held: &Held, message: Bytes) -> Option<Bytes> {
    let read = Message::read(&message).ok()?;
    let Some(id) = read.id.filter(|_| read.method.is_some()) else { return Some(message) };
    let question = held.question(id.get());
    session.question(&question, &message)
}
