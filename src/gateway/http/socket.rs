//! WebSocket on the HTTP door (RFC 6455): MCP under the subprotocol `mcp`, and the watch of the DAG.
//!
//! A text frame is one JSON-RPC message and goes the way of a POST to the same path: the same pipeline with the same token, the
//! same answers, event streams cut into their messages. `notifications/cancelled` ends what a POST's client ends by going away.
//! Promises: a socket has a bounded number of open requests, of bytes of a message, of messages that wait to be read, of quiet
//! time, and no more time than its token; whoever goes beyond is told so in the close. Does not: compress messages, nor take
//! upgrades over HTTP/2 and 3.

use std::cell::Cell;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::body::STREAM_STALL_MS;
use super::conversation::{Caller, Conversation};
use super::{Body, Problem, Response};
use crate::error::{Reason, Refusal};
use crate::gateway::pipeline::Admitted;
use crate::gateway::upstream::Events;
use crate::gateway::{Context, DRAIN_TIMEOUT};
use crate::limits::{
    HTTP_BODY_BYTES_MAX, WEBSOCKET_IDLE_MS, WEBSOCKET_PING_MS, WEBSOCKET_WAITING_MAX, WEBSOCKETS_PER_CORE_MAX,
};
use crate::runtime::spawn;

/// The subprotocol of MCP.
const MCP: &str = "mcp";
/// What a server adds to a client's key before it hashes it (RFC 6455, 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a client's key in Base64.
const KEY_BYTES: usize = 24;
/// Time for the client's half of a close, in milliseconds.
const CLOSE_MS: u64 = 2_000;
/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 32 << 10;
const PING: Duration = Duration::from_millis(WEBSOCKET_PING_MS);
const IDLE: Duration = Duration::from_millis(WEBSOCKET_IDLE_MS);
const STALL: Duration = Duration::from_millis(STREAM_STALL_MS);
/// Time between two looks whether what was open is finished, while the node drains.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
const DRAINED: Close = (CloseCode::Away, "the node drains; connect again, here or elsewhere");
const NOTHING_MORE: Close = (CloseCode::Normal, "there is nothing more to tell");
/// The two silences of a peer: one that answers no ping is gone well before one that only has nothing to say.
const _: () = assert!(2 * WEBSOCKET_PING_MS < WEBSOCKET_IDLE_MS);

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Mcp,
    Watch,
}

/// An upgrade that was asked for and may be granted.
pub(super) struct Asked {
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    upgrade: OnUpgrade,
    place: Place,
}

/// The upgrade that a request asks for; `None` when it asks for none.
///
/// # Errors
/// 400, 426 when it is asked for wrongly; Overloaded when the core has all the sockets that it takes.
pub(super) fn asked(parts: &mut Parts, purpose: Use) -> Result<Option<Asked>, Problem> {
    let headers = &parts.headers;
    if !lists(headers, &UPGRADE, "websocket") {
        return Ok(None);
    }
    let wrong = |detail: &str| Problem::from(Refusal::bad_request(format!("WebSocket: {detail}")));
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return Err(wrong("the upgrade goes over HTTP/1.1"));
    };
    if !lists(headers, &CONNECTION, "upgrade") {
        return Err(wrong("Connection: Upgrade is missing"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let detail = "WebSocket: Sec-WebSocket-Version must be 13";
        let problem = Problem::with_status(StatusCode::UPGRADE_REQUIRED, Reason::BadRequest, detail);
        return Err(problem.with_header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).filter(|key| key.len() == KEY_BYTES);
    let key = key.filter(|key| BASE64.decode(key).is_ok());
    let key = key.ok_or_else(|| wrong("Sec-WebSocket-Key must be 16 bytes in Base64"))?;
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, KEY_SUFFIX.as_bytes()].concat());
    let accept = HeaderValue::from_str(&BASE64.encode(hash)).map_err(|_| wrong("no accept"))?;
    let offered = lists(headers, &SEC_WEBSOCKET_PROTOCOL, MCP);
    if purpose == Use::Mcp && !offered {
        return Err(wrong("offer the subprotocol: Sec-WebSocket-Protocol: mcp"));
    }
    let protocol = (purpose == Use::Mcp).then_some(HeaderValue::from_static(MCP));
    Ok(Some(Asked { accept, protocol, upgrade, place: Place::take()? }))
}

/// Whether a header that is a list has this word, in whatever case.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(word))
}

impl Asked {
    /// Grants it to whoever speaks MCP.
    pub(super) fn mcp(self, context: Context, peer: IpAddr, parts: &Parts) -> Response {
        let ends = ends(parts);
        let caller = Caller::new(context.clone(), peer, &parts.headers);
        self.grant(async move |socket, place| {
            let (told, texts) = mpsc::channel(WEBSOCKET_WAITING_MAX);
            Speaker::new(socket, ends, place).await.run(&context, Conversation::new(caller, told), texts).await;
        })
    }

    /// Grants it to whoever is to be told what `body`, a stream of events, tells.
    pub(super) fn tell(self, context: Context, parts: &Parts, body: Body) -> Response {
        let ends = ends(parts);
        self.grant(async move |socket, place| {
            let (told, texts) = mpsc::channel(WEBSOCKET_WAITING_MAX);
            // It ends with the stream, or when the socket has gone and nobody takes what it tells.
            spawn(async move { pass_on(body, &told).await });
            Speaker::new(socket, ends, place).await.run(&context, Listener, texts).await;
        })
    }

    fn grant(self, serve: impl AsyncFnOnce(TokioIo<Upgraded>, Place) + 'static) -> Response {
        let Self { accept, protocol, upgrade, place } = self;
        spawn(async move {
            match upgrade.await {
                Ok(socket) => serve(TokioIo::new(socket), place).await,
                Err(error) => tracing::debug!(%error, "no upgrade to WebSocket"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// When the token of whoever asks for the upgrade is over.
fn ends(parts: &Parts) -> Option<Instant> {
    let remaining = parts.extensions.get::<Admitted>()?.caller.remaining()?;
    Some(Instant::now() + remaining)
}

/// The right to one of a core's sockets.
pub(super) struct Place;

thread_local! {
    static SOCKETS: Cell<usize> = const { Cell::new(0) };
}

impl Place {
    fn take() -> Result<Self, Refusal> {
        let taken = SOCKETS.get();
        if WEBSOCKETS_PER_CORE_MAX <= taken {
            return Err(Refusal::overloaded("the core's table of WebSockets"));
        }
        SOCKETS.set(taken + 1);
        Ok(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        SOCKETS.set(SOCKETS.get() - 1);
    }
}

/// Why a socket ends: the code and the sentence of its close.
pub(super) type Close = (CloseCode, &'static str);

/// What is said on a socket.
pub(super) trait Talk {
    /// A text came.
    ///
    /// # Errors
    /// Why the socket is to be closed.
    fn said(&mut self, text: Bytes) -> Result<(), Close>;

    /// Whether something is being done for the client, which then needs to say nothing.
    fn is_busy(&self) -> bool;
}

/// One socket and its clocks.
struct Speaker {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    ends: Option<Instant>,
    /// When something last came, a pong included.
    heard: Instant,
    /// When a ping was last sent.
    pinged: Instant,
    /// When a text last came or went.
    spoke: Instant,
    _place: Place,
}

impl Speaker {
    async fn new(socket: TokioIo<Upgraded>, ends: Option<Instant>, place: Place) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(HTTP_BODY_BYTES_MAX))
            .max_frame_size(Some(HTTP_BODY_BYTES_MAX))
            .write_buffer_size(WRITE_BYTES)
            // Each text is flushed before the next is written.
            .max_write_buffer_size(usize::MAX);
        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await;
        let now = Instant::now();
        Self { socket, ends, heard: now, pinged: now, spoke: now, _place: place }
    }

    /// Hears and says until one side ends it.
    async fn run(mut self, context: &Context, mut talk: impl Talk, mut texts: mpsc::Receiver<Bytes>) {
        let close = self.converse(context, &mut talk, &mut texts).await;
        drop(talk);
        if let Some((code, reason)) = close {
            self.close(code, reason).await;
        }
    }

    /// Why the socket is to be closed; `None` when it is.
    async fn converse(
        &mut self,
        context: &Context,
        talk: &mut impl Talk,
        texts: &mut mpsc::Receiver<Bytes>,
    ) -> Option<Close> {
        let mut draining = pin!(context.drain_asked());
        let mut drained_by: Option<Instant> = None;
        loop {
            if let Some(by) = drained_by
                && (by <= Instant::now() || !talk.is_busy() && texts.is_empty())
            {
                return Some(DRAINED);
            }
            let drain_look = drained_by.map(|_| Instant::now() + DRAIN_LOOK);
            let (ping_at, gone_at) = (self.heard.max(self.pinged) + PING, self.heard + 2 * PING);
            let idle_at = (!talk.is_busy()).then_some(self.spoke + IDLE);
            let look_at = [Some(ping_at), Some(gone_at), idle_at, self.ends, drain_look].into_iter().flatten().min();
            tokio::select! {
                came = self.socket.next() => {
                    let text = match self.came(came?) {
                        Ok(text) => text,
                        Err(close) => return close,
                    };
                    if let Some(text) = text
                        && let Err(close) = talk.said(text)
                    {
                        return Some(close);
                    }
                }
                text = texts.recv() => {
                    // The stream may have seen the drain before this did.
                    let over = if *context.draining.borrow() { DRAINED } else { NOTHING_MORE };
                    let Some(text) = text else { return Some(over) };
                    if let Some(close) = self.say(text).await? {
                        return Some(close);
                    }
                }
                () = sleep_until(look_at.unwrap_or(ping_at)) => {
                    let now = Instant::now();
                    if self.ends.is_some_and(|ends| ends <= now) {
                        return Some((CloseCode::Policy, "the access token is over; connect with a new one"));
                    }
                    if gone_at <= now {
                        tracing::debug!("a WebSocket's peer answers no ping");
                        return None;
                    }
                    if idle_at.is_some_and(|idle| idle <= now) {
                        return Some((CloseCode::Normal, "nothing was said for too long; connect again when there is"));
                    }
                    if ping_at <= now {
                        self.pinged = now;
                        let ping = Message::Ping(Bytes::new());
                        timeout(STALL, self.socket.send(ping)).await.ok()?.ok()?;
                    }
                }
                // What is open is finished, if it can be in time.
                () = &mut draining, if drained_by.is_none() => drained_by = Some(Instant::now() + DRAIN_TIMEOUT / 2),
            }
        }
    }

    /// The text in what came; otherwise why the socket is to be closed, `None` when it is.
    fn came(&mut self, came: Result<Message, Error>) -> Result<Option<Bytes>, Option<Close>> {
        self.heard = Instant::now();
        match came {
            Ok(Message::Text(text)) => {
                self.spoke = self.heard;
                Ok(Some(text.into()))
            }
            Ok(Message::Binary(_)) => Err(Some((CloseCode::Unsupported, "messages are text"))),
            // Pings are answered, and a close too, when the socket is read on.
            Ok(_) => Ok(None),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                Err(Some((CloseCode::Size, "a message has at most 4 MiB")))
            }
            Err(Error::Utf8(_)) => Err(Some((CloseCode::Invalid, "a text is not UTF-8"))),
            Err(Error::Protocol(_)) => Err(Some((CloseCode::Protocol, "a frame is not of RFC 6455"))),
            Err(_) => Err(None),
        }
    }

    /// Sends a text; why the socket is to be closed when it is not taken. `None`: it is closed.
    async fn say(&mut self, text: Bytes) -> Option<Option<Close>> {
        self.spoke = Instant::now();
        // What is sent is JSON that was written or read here.
        let text = Utf8Bytes::try_from(text).ok()?;
        match timeout(STALL, self.socket.send(Message::Text(text))).await {
            Ok(Ok(())) => Some(None),
            Ok(Err(_)) => None,
            Err(_) => {
                tracing::info!(stall_ms = STREAM_STALL_MS, "cut a WebSocket's reader that takes nothing");
                Some(Some((CloseCode::Policy, "the reader took nothing for 30 s")))
            }
        }
    }

    /// Says why it ends, and hears the other half's end for a bounded while.
    async fn close(mut self, code: CloseCode, reason: &'static str) {
        let end = async {
            self.socket.close(Some(CloseFrame { code, reason: reason.into() })).await.ok()?;
            while let Some(Ok(_)) = self.socket.next().await {}
            Some(())
        };
        drop(timeout(Duration::from_millis(CLOSE_MS), end).await);
    }
}

/// A client that is only told.
struct Listener;

impl Talk for Listener {
    fn said(&mut self, _: Bytes) -> Result<(), Close> {
        Err((CloseCode::Policy, "this socket only tells; it takes no messages"))
    }

    fn is_busy(&self) -> bool {
        true
    }
}

/// Passes the events of a stream on, each as one text.
pub(super) async fn pass_on(body: Body, told: &mpsc::Sender<Bytes>) {
    let (mut body, mut events) = (pin!(body), Events::default());
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(piece) = frame.into_data() else { continue };
        if events.push(&piece).is_err() {
            return;
        }
        while let Some(event) = events.pop() {
            if told.send(event).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_1_9_places_of_sockets_are_bounded_and_given_back() {
        let mut places: Vec<Place> = (0..WEBSOCKETS_PER_CORE_MAX).map_while(|_| Place::take().ok()).collect();
        assert_eq!(places.len(), WEBSOCKETS_PER_CORE_MAX);
        assert!(Place::take().is_err());
        places.pop();
        assert!(Place::take().is_ok());
    }
}
