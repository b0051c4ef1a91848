//! MCP over a socket: each message goes the way of a POST.
//!
//! Promises: a message is authenticated, counted, permitted and answered by the pipeline, as if it had come by itself; a client
//! that goes away, or says `notifications/cancelled`, ends what is being done for it, as the end of a POST does; a client of an
//! earlier revision has its session, and what servers tell it by themselves, without naming it. Does not: know frames.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, Request, Uri};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::negotiate::{EVENTS, JSON};
use super::socket::{Close, Talk, pass_on};
use super::{Problem, Response};
use crate::error::{Reason, Refusal};
use crate::gateway::pipeline::{self, Ask};
use crate::gateway::{Context, mcp};
use crate::limits::WEBSOCKET_REQUESTS_MAX;
use crate::runtime::spawn;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// JSON-RPC's code for what is no request that can be taken.
const INVALID_REQUEST: i32 = -32600;

/// Who speaks on a socket, and what it brought when it came.
pub(super) struct Caller {
    context: Context,
    peer: IpAddr,
    /// What each of its messages has for a head.
    headers: RefCell<HeaderMap>,
}

impl Caller {
    pub(super) fn new(context: Context, peer: IpAddr, upgrade: &HeaderMap) -> Self {
        let mut headers = HeaderMap::new();
        for name in [HOST, ORIGIN, AUTHORIZATION, VERSION] {
            headers.extend(upgrade.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        Self { context, peer, headers: RefCell::new(headers) }
    }

    /// What the door says of a request with this method and body.
    async fn ask(&self, method: Method, body: Bytes) -> Response {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        parts.uri = Uri::from_static("/mcp");
        parts.headers = self.headers.borrow().clone();
        parts.extensions.insert(mcp::Framed);
        let (tool, class) = mcp::by_body(&body);
        let ask = Ask { peer: self.peer, class, tool, mcp: true };
        let route = async |parts: Parts, ()| {
            let deadline = self.context.facts.request_timeout;
            timeout(deadline, mcp::handle(&self.context, &parts, body)).await.map_err(|_| {
                let detail = format!("no answer within {} ms", deadline.as_millis());
                Problem::from(Refusal::new(Reason::Timeout, detail))
            })
        };
        pipeline::run(&self.context, parts, ask, |_| Ok(()), route).await
    }

    /// Keeps what an answer to `initialize` says; whether there is a session to listen to.
    fn keep(&self, response: &Response, body: &[u8]) -> bool {
        let Some(session) = response.headers().get(SESSION) else { return false };
        let mut headers = self.headers.borrow_mut();
        headers.insert(SESSION, session.clone());
        let version = serde_json::from_slice::<serde_json::Value>(body).ok();
        let version =
            version.and_then(|answer| HeaderValue::from_str(answer["result"]["protocolVersion"].as_str()?).ok());
        if let Some(version) = version {
            headers.insert(VERSION, version);
        }
        true
    }
}

/// As much of a message as a socket must know.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Cancelled<'a> {
    #[serde(borrow, rename = "requestId")]
    request: Option<&'a RawValue>,
}

/// What is open of a socket: the end of each, by the request's id as it came.
type Open = Rc<RefCell<HashMap<String, oneshot::Sender<()>>>>;

/// The conversation of one socket.
pub(super) struct Conversation {
    caller: Rc<Caller>,
    told: mpsc::Sender<Bytes>,
    open: Open,
    /// Messages without an id that came.
    unnamed: u64,
}

impl Conversation {
    pub(super) fn new(caller: Caller, told: mpsc::Sender<Bytes>) -> Self {
        Self { caller: Rc::new(caller), told, open: Open::default(), unnamed: 0 }
    }

    /// Says at once that a request is not taken.
    fn refuse(&self, id: Option<&str>, code: i32, refusal: &Refusal) -> Result<(), Close> {
        let text = error(id, code, &refusal.detail, refusal.reason.code(), refusal.retry_after_ms);
        self.told.try_send(text).map_err(|_| (CloseCode::Policy, "too many messages that nobody reads"))
    }
}

impl Talk for Conversation {
    fn said(&mut self, text: Bytes) -> Result<(), Close> {
        // What is no message is refused by the door in its own words.
        let outline = serde_json::from_slice::<Outline<'_>>(&text).ok();
        let id = outline.as_ref().and_then(|outline| outline.id).map(RawValue::get).filter(|id| *id != "null");
        let method = outline.as_ref().and_then(|outline| outline.method.as_deref());
        if id.is_none() && method == Some("notifications/cancelled") {
            let params = outline.as_ref().and_then(|outline| outline.params);
            let cancelled = params.and_then(|params| serde_json::from_str::<Cancelled<'_>>(params.get()).ok());
            if let Some(request) = cancelled.and_then(|cancelled| cancelled.request) {
                self.open.borrow_mut().remove(request.get());
            }
            return Ok(());
        }
        let request = id.filter(|_| method.is_some());
        if WEBSOCKET_REQUESTS_MAX <= self.open.borrow().len() {
            let refusal = Refusal::overloaded("this socket's table of open requests");
            return self.refuse(request, INVALID_REQUEST, &refusal);
        }
        let key = match request {
            Some(id) => id.to_owned(),
            None => {
                self.unnamed += 1;
                // No JSON begins so.
                format!("#{}", self.unnamed)
            }
        };
        if self.open.borrow().contains_key(&key) {
            let refusal = Refusal::bad_request(format!("a request with the id {key} is open; use another"));
            return self.refuse(None, INVALID_REQUEST, &refusal);
        }
        let (caller, told, open) = (self.caller.clone(), self.told.clone(), self.open.clone());
        let request = request.map(str::to_owned);
        run(key, self.open.clone(), async move {
            if let Some(listen) = answer(&caller, request.as_deref(), text, &told).await {
                run("#listen".to_owned(), open, async move { pass_on(listen.into_body(), &told).await });
            }
        });
        Ok(())
    }

    fn is_busy(&self) -> bool {
        !self.open.borrow().is_empty()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // Whoever works for the socket learns that it has gone.
        self.open.borrow_mut().clear();
        let caller = self.caller.clone();
        if caller.headers.borrow().contains_key(SESSION) {
            // Nobody else knows the session.
            spawn(async move { drop(caller.ask(Method::DELETE, Bytes::new()).await) });
        }
    }
}

/// Works until it is done or nobody wants it any more.
fn run(key: String, open: Open, work: impl Future<Output = ()> + 'static) {
    let (keep, mut ended) = oneshot::channel::<()>();
    open.borrow_mut().insert(key.clone(), keep);
    spawn(async move {
        tokio::select! {
            () = work => { open.borrow_mut().remove(&key); }
            _ = &mut ended => {}
        }
    });
}

/// Tells a message's answer; what is to be listened to from now on.
async fn answer(caller: &Caller, request: Option<&str>, text: Bytes, told: &mpsc::Sender<Bytes>) -> Option<Response> {
    let response = caller.ask(Method::POST, text).await;
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with(EVENTS) {
        pass_on(response.into_body(), told).await;
        return None;
    }
    let is_message = kind.starts_with(JSON);
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    if body.is_empty() {
        return None;
    }
    let head = Response::from_parts(parts, super::Body::empty());
    let session = is_message && caller.keep(&head, &body);
    let text = if is_message { body } else { of_problem(request, &body) };
    told.send(text).await.ok()?;
    if session { Some(caller.ask(Method::GET, Bytes::new()).await) } else { None }
}

/// A problem of the pipeline as the message that it is on a socket.
fn of_problem(request: Option<&str>, document: &[u8]) -> Bytes {
    let problem: serde_json::Value = serde_json::from_slice(document).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("the request was refused");
    let retry_after_ms = problem["retryAfterMs"].as_u64().and_then(|ms| u32::try_from(ms).ok()).unwrap_or_default();
    error(request, INVALID_REQUEST, detail, problem["reason"].as_str().unwrap_or_default(), retry_after_ms)
}

fn error(id: Option<&str>, code: i32, detail: &str, reason: &str, retry_after_ms: u32) -> Bytes {
    let mut error = json!({ "code": code, "message": detail, "data": { "reason": reason } });
    if 0 < retry_after_ms {
        error["data"]["retryAfterMs"] = retry_after_ms.into();
    }
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{error}}}", id.unwrap_or("null")).into()
}
