//! What an MCP request needs of its caller, and the pipeline's word on it once the body was read.
//!
//! Promises: a tool of this node is a read or a write as its annotations say, which clients see; a tool that this node does not
//! have is another server's. Does not: decide (see `gateway::pipeline`).

use std::collections::HashMap;
use std::sync::LazyLock;

use hyper::header::HeaderMap;
use hyper::http::request::Parts;

use super::catalogue;
use super::fault::{Fault, Refused};
use super::forward;
use super::message::{self, Incoming, Request};
use super::reply;
use crate::gateway::Context;
use crate::gateway::http::{Problem, Response};
use crate::gateway::pipeline::{CallRefused, Class, admit_call};

/// What a request of that method needs; of a call, of that tool.
pub(in crate::gateway) fn class(method: &str, tool: Option<&str>) -> Class {
    static TOOLS: LazyLock<HashMap<&'static str, Class>> = LazyLock::new(|| {
        let rows = catalogue::tools().iter().flat_map(catalogue::Listing::rows);
        let class = |row: &serde_json::Value| match row["annotations"]["readOnlyHint"].as_bool() {
            Some(true) => Class::Read,
            _ => Class::Write,
        };
        rows.filter_map(|row| Some((row["name"].as_str()?, class(row)))).collect()
    });
    match (method, tool) {
        ("tools/call", Some(tool)) => TOOLS.get(tool).copied().unwrap_or(Class::Call),
        // Only sessions at other servers have these.
        ("logging/setLevel" | "resources/subscribe" | "resources/unsubscribe", _) => Class::Call,
        _ => Class::Read,
    }
}

/// What the headers say is called: the tool, if any, and what it needs. The body is asked again.
pub(in crate::gateway) fn by_headers(headers: &HeaderMap) -> (Option<&str>, Class) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // A name in Base64 is read with the body.
    match (text("mcp-method"), text("mcp-name").filter(|name| !name.starts_with("=?"))) {
        (Some("tools/call"), Some(tool)) => (Some(tool), class("tools/call", Some(tool))),
        _ => (None, Class::Read),
    }
}

/// The same of a body that has no headers to mirror it.
pub(in crate::gateway) fn by_body(body: &[u8]) -> (Option<String>, Class) {
    let Ok(Incoming::Request(request)) = message::parse(body) else { return (None, Class::Read) };
    let tool = request.params.name.as_deref().filter(|_| request.method.as_str() == "tools/call");
    (tool.map(str::to_owned), class(&request.method, tool))
}

/// Asks the pipeline about a request that was read.
pub(super) async fn admit(context: &Context, head: &Parts, request: &Request<'_>) -> Result<(), Response> {
    if context.gate.is_none() {
        return Ok(());
    }
    let tool = request.params.name.as_deref().filter(|_| request.method.as_str() == "tools/call");
    // Whatever another server answers is a call of that server, by whichever method.
    let theirs = forward::find(context, request).is_some();
    let wanted = if theirs { Class::Call } else { class(&request.method, tool) };
    let refused = match admit_call(context, head, wanted, tool).await {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    Err(match refused {
        CallRefused::Rate(refusal) => {
            reply::refused(&Refused { id: Some(request.id.to_owned()), fault: Fault::from(refusal) })
        }
        CallRefused::Scope(problem) => Problem::into_response(problem),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_1_9_a_tool_needs_what_its_annotations_say() {
        for (method, tool, wanted) in [
            ("tools/call", Some("dag_get"), Class::Read),
            ("tools/call", Some("dag_put"), Class::Write),
            ("tools/call", Some("ref_set"), Class::Write),
            ("tools/call", Some("other__thing"), Class::Call),
            ("tools/call", None, Class::Read),
            ("tools/list", None, Class::Read),
            ("resources/read", Some("dag_put"), Class::Read),
        ] {
            assert_eq!(class(method, tool), wanted, "{method} {tool:?}");
        }
    }
}
