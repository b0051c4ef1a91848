//! Clients of the revisions that begin with `initialize`, on the same endpoint.
//!
//! Promises: nothing is kept of such a client, so any of its requests may land on any core of any node. Does not: take batches.

use hyper::header::HeaderMap;

use super::fault::Fault;
use super::message::Request;
use crate::gateway::upstream::{LEGACY, MODERN};

/// Which kind of client a request is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// 2026-07-28: every request says all of itself.
    Modern,
    /// A revision that begins with `initialize`.
    Legacy(&'static str),
}

/// The revision of a client that names none (2025-03-26 had no header for it).
const UNNAMED: &str = LEGACY[LEGACY.len() - 1];

/// Tells a request's era.
///
/// # Errors
/// Unsupported version.
pub(super) fn era(headers: &HeaderMap, request: &Request<'_>) -> Result<Era, Fault> {
    let named = request.params.meta.as_ref().is_some_and(|meta| meta.0.protocol_version.is_some());
    if named {
        return Ok(Era::Modern);
    }
    if request.method.as_str() == "initialize" {
        let wanted = request.params.protocol_version.as_deref().unwrap_or_default();
        // A revision that is not known is answered with the newest one that begins so: the client decides whether to go on.
        return Ok(Era::Legacy(LEGACY.into_iter().find(|known| *known == wanted).unwrap_or(LEGACY[0])));
    }
    let Some(version) = headers.get("mcp-protocol-version") else { return Ok(Era::Legacy(UNNAMED)) };
    let version = version.to_str().unwrap_or_default();
    if version == MODERN {
        return Ok(Era::Modern);
    }
    let known = LEGACY.into_iter().find(|known| *known == version);
    known.map(Era::Legacy).ok_or_else(|| Fault::unsupported_version(version))
}

/// A fault as such a client expects it: a status of its own only for what is no message.
pub(super) fn softened(fault: Fault) -> Fault {
    // 404 would tell it that its session is over.
    if fault.is_method_not_found() { fault.with_status(200) } else { fault }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;
    use crate::gateway::mcp::message::{Incoming, parse};

    #[test]
    fn s3_1_1_a_request_s_era_is_told_by_what_it_says_of_itself() {
        let check = |header: Option<&'static str>, body: &str, expected: Result<Era, i32>| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert("mcp-protocol-version", header.parse().unwrap());
            }
            let Incoming::Request(request) = parse(body.as_bytes()).unwrap() else { panic!("a request") };
            assert_eq!(era(&headers, &request).map_err(|fault| fault.code), expected, "{header:?} {body}");
        };
        let modern = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let initialize = |version: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}"}}}}"#)
        };
        check(None, modern, Ok(Era::Modern));
        check(Some("2025-11-25"), modern, Ok(Era::Modern));
        check(Some("2026-07-28"), bare, Ok(Era::Modern));
        check(Some("2025-06-18"), bare, Ok(Era::Legacy("2025-06-18")));
        check(None, bare, Ok(Era::Legacy("2025-03-26")));
        check(Some("1999-01-01"), bare, Err(-32022));
        check(None, &initialize("2025-06-18"), Ok(Era::Legacy("2025-06-18")));
        check(None, &initialize("2030-01-01"), Ok(Era::Legacy("2025-11-25")));
    }
}
