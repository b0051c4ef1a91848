//! A refusal as an HTTP answer: RFC 9457 problem details.
//!
//! Promises: the reason is the one of every other door; what can be tried again says when.
//! Does not: log. What is refused is counted where requests are.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};

use super::answer::freshness_headers;
use super::{Body, Response};
use crate::error::{Reason, Refusal};
use crate::router::consistency::Freshness;

/// Media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// A refusal with its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// The reason and its sentence.
    pub refusal: Refusal,
    /// A header that belongs to the status: `Allow`, `Content-Range`.
    pub header: Option<(HeaderName, HeaderValue)>,
    /// How new "not here" is.
    pub freshness: Option<Box<Freshness>>,
}

impl Problem {
    /// A refusal under a status that says more than its reason does.
    pub fn with_status(status: StatusCode, reason: Reason, detail: impl Into<String>) -> Self {
        Self { status, refusal: Refusal::new(reason, detail), header: None, freshness: None }
    }

    /// The same, with a header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The same, of an answer that says how new it is.
    pub fn with_freshness(mut self, freshness: Freshness) -> Self {
        self.freshness = Some(Box::new(freshness));
        self
    }

    /// The problem's document.
    pub fn document(&self) -> serde_json::Value {
        document(self.status, &self.refusal)
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::whole(self.document().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if 0 < self.refusal.retry_after_ms {
            // The header counts whole seconds; the document has the milliseconds.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.refusal.retry_after_ms.div_ceil(1000)));
        }
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        headers.extend(self.freshness.into_iter().flat_map(|freshness| freshness_headers(*freshness)));
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, refusal, header: None, freshness: None }
    }
}

/// The document of a refusal outside an HTTP status of its own: a line of a stream.
pub(super) fn document_of(refusal: &Refusal) -> serde_json::Value {
    document(Problem::from(refusal.clone()).status, refusal)
}

/// The last line of a stream that could not be completed.
pub(super) fn last_line(refusal: &Refusal) -> Bytes {
    Bytes::from(format!("{}\n", serde_json::json!({ "error": document_of(refusal) })))
}

fn document(status: StatusCode, refusal: &Refusal) -> serde_json::Value {
    let mut document = serde_json::json!({
        "type": format!("/problems/{}", refusal.reason.code()),
        "title": title(refusal.reason),
        "status": status.as_u16(),
        "detail": refusal.detail,
        "reason": refusal.reason.code(),
    });
    if 0 < refusal.retry_after_ms {
        document["retryAfterMs"] = refusal.retry_after_ms.into();
    }
    document
}

/// The summary of a reason: the same for every occurrence, as RFC 9457 wants it.
pub(super) fn title(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest => "The request is not of the form it should have",
        Reason::LimitExceeded => "A limit is exceeded",
        Reason::NotFound => "There is nothing of that name",
        Reason::MissingParents => "Parents are not here",
        Reason::Conflict => "The ref is not where it was expected",
        Reason::Unverified => "The content does not prove itself",
        Reason::Denied => "This caller may not do this",
        Reason::Overloaded => "The node has more work than it takes",
        Reason::DiskFull => "The disk is full",
        Reason::Timeout => "The deadline passed",
        Reason::Unavailable => "The node is not available",
        Reason::Corrupt => "Stored bytes are damaged",
        Reason::OutcomeUnknown => "The request may or may not have been carried out",
        Reason::CursorExpired => "The cursor is of another time of this node",
        Reason::Internal => "A defect of the node",
        Reason::Unauthenticated => "The node does not know who asks",
        Reason::RateLimited => "This caller asks too often",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_2_5_a_problem_carries_reason_status_and_when_to_return() {
        let problem = Problem::from(Refusal::overloaded("a queue"));
        assert_eq!(
            problem.document(),
            serde_json::json!({
                "type": "/problems/overloaded",
                "title": "The node has more work than it takes",
                "status": 503,
                "detail": "a queue is full; try again later",
                "reason": "overloaded",
                "retryAfterMs": crate::limits::RETRY_AFTER_MS,
            })
        );
        let response = problem.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn s3_2_5_every_reason_has_a_title_and_a_status_of_an_error() {
        for reason in Reason::ALL {
            let problem = Problem::from(Refusal::new(reason, "x"));
            assert!(problem.status.is_client_error() || problem.status.is_server_error(), "{}", reason.code());
            assert!(!title(reason).is_empty());
        }
    }
}
