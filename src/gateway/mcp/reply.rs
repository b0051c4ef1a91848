//! Results as bytes: one buffer an answer, written once.
//!
//! Promises: every result says that it is complete and which server gave it; what was serialised is copied, never parsed again.
//! Does not: know methods.

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::fault::Refused;
use crate::gateway::http::{Body, Response};

/// Bytes of an answer beside what is in it: envelope, `_meta`, cache hints.
const ENVELOPE_BYTES: usize = 256;
/// What every result carries of the server.
const SERVER: &str = concat!(
    r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"qmesh","title":"qmesh node","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}}"#
);

/// Who may keep an answer, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    /// For how long it holds, in milliseconds.
    pub(super) ttl_ms: u64,
}

impl Cache {
    /// What is named by its hash never changes: a year, the most that HTTP caches take.
    pub(super) const IMMUTABLE: Self = Self { ttl_ms: 31_536_000_000 };
    /// What changes only with another build.
    pub(super) const BUILD: Self = Self { ttl_ms: 300_000 };
    /// What others may add to.
    pub(super) const GROWING: Self = Self { ttl_ms: 1000 };
    /// What moves.
    pub(super) const MOVING: Self = Self { ttl_ms: 250 };
}

/// The members of a result, in JSON, to be written.
pub(super) struct Fields(Vec<u8>);

impl Fields {
    /// A result with room for `bytes` bytes of content, in answer to `id`.
    pub(super) fn open(id: &str, bytes: usize) -> Self {
        let mut out = Vec::with_capacity(ENVELOPE_BYTES + id.len() + bytes);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(b",\"result\":{\"resultType\":\"complete\",");
        out.extend_from_slice(SERVER.as_bytes());
        Self(out)
    }

    /// A member whose value is JSON already.
    pub(super) fn raw(&mut self, name: &str, json: &[u8]) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(json);
    }

    /// A member whose value is text.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.raw(name, b"");
        self.escape(value);
    }

    /// The hints of [`Cache`]. Nothing here is told to one caller and not to another, so all of it is public.
    pub(super) fn cache(&mut self, cache: Cache) {
        self.raw("ttlMs", cache.ttl_ms.to_string().as_bytes());
        self.raw("cacheScope", b"\"public\"");
    }

    /// A tool's outcome: the JSON as structured content, and the same as text for models that read only that.
    pub(super) fn outcome(&mut self, json: &[u8], is_error: bool) {
        self.raw("structuredContent", json);
        self.raw("content", b"[{\"type\":\"text\",\"text\":");
        // What serde_json wrote is UTF-8.
        self.escape(&String::from_utf8_lossy(json));
        self.0.extend_from_slice(b"}]");
        self.raw("isError", if is_error { b"true" } else { b"false" });
    }

    fn escape(&mut self, text: &str) {
        // Writing into a Vec and serialising text have no errors.
        drop(serde_json::to_writer(&mut self.0, text));
    }

    /// The whole message.
    pub(super) fn close(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"}}");
        self.0
    }
}

/// An HTTP answer with JSON.
pub(super) fn json(status: u16, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a request that asks for nothing.
pub(super) fn nothing(id: &str) -> Vec<u8> {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}").into_bytes()
}

/// An error, as the answer to its request.
pub(super) fn refused(refused: &Refused) -> Response {
    json(refused.fault.status, refused.fault.to_json(refused.id.as_deref()))
}

/// An HTTP answer without a body.
pub(super) fn empty(status: StatusCode, header: Option<(HeaderName, &'static str)>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
