//! Pages of other sites that may read the door's answers: the origins of the gateway's file, and no other.
//!
//! Promises: a page whose origin is listed is told so, by name and never by a star; its browser's question before a request is
//! answered without doing anything. Does not: allow cookies (there are none), nor pages of this machine that are not listed.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use hyper::{Method, StatusCode};

use super::{Body, Response};
use crate::config::gateway::Ingress;

/// Time for which a browser may remember what it was told, in seconds.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("3600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
/// What a page may send beside what it always may.
const SENT: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, content-encoding, accept, if-match, if-none-match, last-event-id, request-timeout-ms, \
     mcp-protocol-version, mcp-method, mcp-name, mcp-session-id, mcp-param-namespace, mcp-param-ref",
);
/// What a page may read beside what it always may.
const READ: HeaderValue = HeaderValue::from_static(
    "etag, location, retry-after, www-authenticate, mcp-session-id, ratelimit, ratelimit-policy, qmesh-answered, \
     qmesh-staleness-ms, qmesh-applied",
);

/// The origin of the page that asks, if it is one of the listed.
pub(super) fn listed(ingress: Option<&Ingress>, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let known = ingress?.origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
    known.then(|| origin.clone())
}

/// Whether a request is a browser's question whether its page may ask.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to that.
pub(super) fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, SENT);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
    response
}

/// Lets the page of `origin` read an answer.
pub(super) fn let_read(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, READ);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
