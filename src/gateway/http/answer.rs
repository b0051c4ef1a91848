//! Answers as they are made everywhere: JSON documents, streams of lines, tags.
//!
//! Promises: a stream of lines is flushed in pieces of bounded size; a stream that fails ends with a line that says why.
//! Does not: decide what is answered.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Serialize;

use super::body::{BodySender, Gone};
use super::negotiate::{JSON, NDJSON};
use super::problem::last_line;
use super::{Body, Response};
use crate::error::Refusal;
use crate::gateway::json;
use crate::ids::VertexId;
use crate::router::consistency::Freshness;

/// Bytes of lines that are gathered before they are sent.
const PIECE_BYTES: usize = 32 << 10;

/// What is immutable may be kept for ever, which is a year.
pub(super) const CACHE_IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// What moves must be asked for again.
pub(super) const CACHE_REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// Who answered a read: `primary` or `replica`.
pub(super) const ANSWERED: HeaderName = HeaderName::from_static("qmesh-answered");
/// How old the answer may be, in milliseconds; `unknown` from a replica that has not heard of its primary yet.
pub(super) const STALENESS_MS: HeaderName = HeaderName::from_static("qmesh-staleness-ms");
/// The token up to which a replica's answer knows everything.
pub(super) const APPLIED: HeaderName = HeaderName::from_static("qmesh-applied");

/// A JSON document.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut text = Vec::with_capacity(256);
    json::into_bytes(value, &mut text);
    bytes(status, JSON, text)
}

/// Bytes of a media type.
pub(super) fn bytes(status: StatusCode, media_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::whole(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A status without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Adds a header whose value is our own text.
pub(super) fn with(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Adds who answered and how old the answer may be.
pub(super) fn fresh(mut response: Response, freshness: Freshness) -> Response {
    response.headers_mut().extend(freshness_headers(freshness));
    response
}

/// The headers that say how new an answer is.
pub(super) fn freshness_headers(freshness: Freshness) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let staleness = freshness.staleness_ms.map_or_else(|| "unknown".to_owned(), |ms| ms.to_string());
    let applied = freshness.applied.map(|token| token.to_string());
    let texts =
        [(ANSWERED, Some(freshness.answered.word().to_owned())), (STALENESS_MS, Some(staleness)), (APPLIED, applied)];
    texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::from_str(&text?).ok()?)))
}

/// The entity tag of a vertex, or of a ref that points to it.
pub(super) fn etag(id: &VertexId) -> String {
    format!("\"{}\"", id.hex())
}

/// A stream of JSON lines: what is written goes to the caller while the rest is computed.
pub(super) struct Lines {
    sender: BodySender,
    gathered: Vec<u8>,
}

impl Lines {
    /// A stream and the answer that carries it.
    pub(super) fn new() -> (Self, Response) {
        let (sender, body) = Body::stream();
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        (Self { sender, gathered: Vec::new() }, response)
    }

    /// Appends a line.
    pub(super) fn line(&mut self, value: &impl Serialize) {
        json::into_bytes(value, &mut self.gathered);
        self.gathered.push(b'\n');
    }

    /// Where a caller writes what is not a line of its own.
    pub(super) fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Sends what was gathered when it is worth a piece.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn breathe(&mut self) -> Result<(), Gone> {
        if self.gathered.len() < PIECE_BYTES { Ok(()) } else { self.flush().await }
    }

    /// Sends what was gathered.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        let gathered = std::mem::take(&mut self.gathered);
        self.sender.send(Bytes::from(gathered)).await
    }

    /// Ends the stream with the reason as its last line. The stream itself ends well, so that the line arrives.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn fail(mut self, refusal: &Refusal) -> Result<(), Gone> {
        self.gathered.extend_from_slice(&last_line(refusal));
        self.flush().await
    }
}
