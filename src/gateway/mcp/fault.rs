//! What goes wrong between a client and the MCP door, as JSON-RPC codes and HTTP statuses.
//!
//! Promises: the codes are those of JSON-RPC and of revision 2026-07-28, used only with their meaning there; what a request did
//! wrong on the way in is an HTTP status of its own, what went wrong while it was answered is a JSON-RPC error in a 200.
//! Does not: cover refusals of tools. They are results a model can read and mend (see `tools`).

use serde_json::{Value, json};

use crate::error::{Reason, Refusal};

/// The revisions this door speaks, newest first.
pub(super) const PROTOCOL_VERSIONS: [&str; 1] = ["2026-07-28"];

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;
const HEADER_MISMATCH: i32 = -32020;
const UNSUPPORTED_PROTOCOL_VERSION: i32 = -32022;
/// Ours, outside the range that JSON-RPC reserves: the request may succeed later without change; `data` says when.
const TRY_AGAIN: i32 = -31001;

/// An error to answer with.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::gateway) struct Fault {
    pub(super) status: u16,
    pub(super) code: i32,
    pub(super) message: String,
    pub(super) data: Option<Value>,
}

/// An error, and the id of the request it answers where that is known, as JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) id: Option<String>,
    pub(super) fault: Fault,
}

impl Fault {
    fn new(status: u16, code: i32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), data: None }
    }

    /// The body is not JSON.
    pub(super) fn parse_error(message: impl Into<String>) -> Self {
        Self::new(400, PARSE_ERROR, message)
    }

    /// The body is not one request or one notification.
    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(400, INVALID_REQUEST, message)
    }

    /// No such method in this revision, or not here.
    pub(super) fn method_not_found(method: &str) -> Self {
        Self::new(404, METHOD_NOT_FOUND, format!("no method {method:?} here"))
    }

    /// The method's params are not what it takes, or name what is not here.
    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(200, INVALID_PARAMS, message)
    }

    /// A header is missing, malformed, or says something else than the body.
    pub(super) fn header_mismatch(message: impl Into<String>) -> Self {
        Self::new(400, HEADER_MISMATCH, message)
    }

    /// A revision this door does not speak.
    pub(super) fn unsupported_version(requested: &str) -> Self {
        let message =
            format!("protocol version {requested:?} is not supported here, {} is", PROTOCOL_VERSIONS.join(", "));
        let data = json!({ "supported": PROTOCOL_VERSIONS, "requested": requested });
        Self::new(400, UNSUPPORTED_PROTOCOL_VERSION, message).with_data(data)
    }

    /// No resource of this URI.
    pub(super) fn no_resource(uri: &str, detail: &str) -> Self {
        Self::invalid_params(format!("no resource {uri}: {detail}")).with_data(json!({ "uri": uri }))
    }

    /// All places are taken; come back.
    pub(super) fn try_again(message: &str, retry_after_ms: u32) -> Self {
        Self::new(200, TRY_AGAIN, message)
            .with_data(json!({ "reason": Reason::Overloaded.code(), "retryAfterMs": retry_after_ms }))
    }

    /// A server behind the gateway cannot be reached, is drained, or answered nothing useful.
    pub(in crate::gateway) fn upstream_unavailable(name: &str, detail: &str, retry_after_ms: u64) -> Self {
        Self::upstream(name, Reason::Unavailable, detail, retry_after_ms)
    }

    /// A server behind the gateway has all the calls that it takes.
    pub(in crate::gateway) fn upstream_busy(name: &str, detail: &str, retry_after_ms: u64) -> Self {
        Self::upstream(name, Reason::Overloaded, detail, retry_after_ms)
    }

    /// A server behind the gateway did not answer in time. What was asked may have been done.
    pub(in crate::gateway) fn upstream_timeout(name: &str, detail: &str) -> Self {
        Self::upstream(name, Reason::Timeout, detail, 0)
    }

    /// A client's session is over: it opens another.
    pub(in crate::gateway) fn session_over(detail: &str) -> Self {
        let data = json!({ "reason": Reason::NotFound.code() });
        Self::new(404, TRY_AGAIN, format!("the session is over: {detail}; begin anew with initialize")).with_data(data)
    }

    /// Whether it says that there is no such method.
    pub(super) fn is_method_not_found(&self) -> bool {
        self.code == METHOD_NOT_FOUND
    }

    fn upstream(name: &str, reason: Reason, detail: &str, retry_after_ms: u64) -> Self {
        let mut data = json!({ "reason": reason.code(), "upstream": name });
        if retry_after_ms != 0 {
            data["retryAfterMs"] = retry_after_ms.into();
        }
        Self::new(200, TRY_AGAIN, format!("the upstream {name}: {detail}")).with_data(data)
    }

    pub(super) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The error response, with the id when it is known.
    pub(in crate::gateway) fn to_json(&self, id: Option<&str>) -> Vec<u8> {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        let id = id.map_or(String::new(), |id| format!("\"id\":{id},"));
        format!("{{\"jsonrpc\":\"2.0\",{id}\"error\":{error}}}").into_bytes()
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.reason {
            Reason::Internal | Reason::Corrupt => INTERNAL_ERROR,
            reason if reason.retryable() => TRY_AGAIN,
            _ => INVALID_PARAMS,
        };
        let data = json!({ "reason": refusal.reason.code(), "retryAfterMs": refusal.retry_after_ms });
        Self::new(200, code, refusal.detail).with_data(data)
    }
}
