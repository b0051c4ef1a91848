//! One way to speak to a server, whichever way it is reached: a request goes, messages come.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::envelope::{Kind, Message};
use super::http::{HttpLink, Session};
use super::sse::{Events, MESSAGE_BYTES_MAX};
use super::stdio::StdioLink;

/// The revision that the gateway speaks to servers of the modern era.
pub(crate) const MODERN: &str = "2026-07-28";
/// The revisions with sessions that it speaks, newest first.
pub(crate) const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// A request on its way to a server, in the form of the modern era.
#[derive(Clone)]
pub(crate) struct Exchange {
    /// Its method.
    pub(crate) method: String,
    /// The name or URI that it is about, as the server knows it.
    pub(crate) name: Option<String>,
    /// The whole JSON-RPC request.
    pub(crate) body: Bytes,
    /// Headers that mirror arguments.
    pub(crate) mirrored: Vec<(HeaderName, HeaderValue)>,
    /// The session of the client it is from, where the server has one for it.
    pub(crate) session: Option<Rc<Session>>,
}

/// What a server was found to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// 2026-07-28.
    Modern,
    /// One of [`LEGACY`].
    Legacy(&'static str),
}

impl Spoken {
    /// The revision's date.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Modern => MODERN,
            Self::Legacy(version) => version,
        }
    }
}

/// What came back.
pub(crate) enum Reply {
    /// One message with its HTTP status.
    Whole(u16, Bytes),
    /// Notifications, then the answer.
    Stream(Messages),
}

/// Why nothing useful came back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// No connection, no process, or it ended.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// What came is not MCP.
    #[error("it answered what is not MCP: {0}")]
    Garbage(String),
    /// It wants other credentials than the gateway has.
    #[error("it refuses the gateway's credentials (HTTP {0})")]
    Denied(u16),
    /// It is busy.
    #[error("it is busy")]
    Busy(Option<Duration>),
    /// It failed by itself.
    #[error("it failed (HTTP {0})")]
    Failed(u16),
    /// It forgot the session.
    #[error("it forgot the session")]
    SessionLost,
    /// Nothing came in time.
    #[error("nothing came within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It asks the gateway what only a client of its own era could answer.
    #[error("{0}")]
    Unsupported(String),
}

impl Broken {
    /// Whether it says that the server is not well.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Garbage(_) | Self::Failed(_) | Self::SessionLost | Self::Timeout(_) => true,
            Self::Denied(_) | Self::Busy(_) | Self::Unsupported(_) => false,
        }
    }
}

/// A way to a server.
#[expect(clippy::large_enum_variant, reason = "a core has one for each declared server, for as long as it is declared")]
pub(crate) enum Link {
    /// Streamable HTTP.
    Http(HttpLink),
    /// A process.
    Stdio(StdioLink),
}

impl Link {
    /// Sends a request and takes what comes first.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn send(&self, spoken: Spoken, exchange: &Exchange) -> Result<Reply, Broken> {
        match self {
            Self::Http(link) => link.send(spoken, exchange).await,
            Self::Stdio(link) => link.send(exchange).await,
        }
    }
}

/// Messages of one exchange, as they come.
pub(crate) struct Messages {
    source: Source,
    ready: VecDeque<Bytes>,
}

enum Source {
    Events { body: Incoming, events: Events },
    Lines(mpsc::Receiver<Result<Bytes, Broken>>),
}

impl Messages {
    /// The messages of an event stream.
    pub(crate) fn events(body: Incoming) -> Self {
        Self { source: Source::Events { body, events: Events::default() }, ready: VecDeque::new() }
    }

    /// Messages that another task hands over.
    pub(crate) fn lines(lines: mpsc::Receiver<Result<Bytes, Broken>>) -> Self {
        Self { source: Source::Lines(lines), ready: VecDeque::new() }
    }

    /// Puts a message back, to be the next.
    pub(crate) fn unread(&mut self, message: Bytes) {
        self.ready.push_front(message);
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(message) = self.ready.pop_front() {
            return Ok(Some(message));
        }
        match &mut self.source {
            Source::Lines(lines) => lines.recv().await.transpose(),
            Source::Events { body, events } => loop {
                if let Some(message) = events.pop() {
                    return Ok(Some(message));
                }
                match body.frame().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(Broken::Unreachable(format!("the stream broke off: {error}"))),
                    Some(Ok(frame)) => {
                        if let Ok(bytes) = frame.into_data() {
                            events.push(&bytes).map_err(|_| {
                                Broken::Garbage(format!("a message of more than {MESSAGE_BYTES_MAX} bytes"))
                            })?;
                        }
                    }
                }
            },
        }
    }
}

impl Reply {
    /// The answer, whatever came before it.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn answer(self) -> Result<(u16, Bytes), Broken> {
        match self {
            Self::Whole(status, message) => Ok((status, message)),
            Self::Stream(mut messages) => {
                while let Some(message) = messages.next().await? {
                    if Message::read(&message).map_err(Broken::Garbage)?.kind() == Kind::Answer {
                        return Ok((200, message));
                    }
                }
                Err(Broken::Unreachable("the stream ended without an answer".to_owned()))
            }
        }
    }
}
