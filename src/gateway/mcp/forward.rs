//! Requests that servers behind the gateway answer: which they are, and in which form they go.
//!
//! Promises: what a client of this revision sent goes as it came, but for the name; what a client of an earlier one sent gains what
//! this revision wants every request to say of itself. Does not: speak to servers (see `upstream`).

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::header::ACCEPT;
use hyper::http::request::Parts;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::catalogue;
use super::fault::Fault;
use super::headers::Framed;
use super::legacy::Era;
use super::message::{Request, Text};
use super::session::Session;
use crate::gateway::Context;
use crate::gateway::http::Response;
use crate::gateway::pipeline::{Admitted, Caller};
use crate::gateway::upstream::{Asked, Kept, MODERN, Subject, carry, splice};

/// The server behind the gateway that a request is for, if it is for one.
pub(super) fn find(context: &Context, request: &Request<'_>) -> Option<Kept> {
    let params = &request.params;
    let upstreams = &context.upstreams;
    let own = |listing: &[catalogue::Listing], key: &str, name: &str| {
        listing.iter().flat_map(|listing| listing.rows()).any(|row| row[key] == name)
    };
    match request.method.as_str() {
        "tools/call" => {
            let name = params.name.as_deref()?;
            if catalogue::has_tool(name) { None } else { upstreams.find(Subject::Tool(name)) }
        }
        "prompts/get" => {
            let name = params.name.as_deref()?;
            if own(catalogue::prompts(), "name", name) { None } else { upstreams.find(Subject::Prompt(name)) }
        }
        "resources/read" => {
            let uri = params.uri.as_deref()?;
            if uri.starts_with("dag://") { None } else { upstreams.find(Subject::Resource(uri)) }
        }
        "completion/complete" => {
            let reference = &params.reference.as_ref()?.0;
            match (reference.name.as_deref(), reference.uri.as_deref()) {
                (Some(name), _) if !own(catalogue::prompts(), "name", name) => upstreams.find(Subject::Prompt(name)),
                (None, Some(uri)) if !uri.starts_with("dag://") => upstreams.find(Subject::Template(uri)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Carries a request to the server that [`find`] found, and its answer back.
///
/// # Errors
/// Why nothing useful came back.
pub(super) async fn forward(
    context: &Context,
    head: &Parts,
    request: &Request<'_>,
    body: &Bytes,
    era: Era,
    session: Option<Session>,
    kept: Kept,
) -> Result<Response, Fault> {
    let own = kept.own_name();
    let key = kept.key().and_then(|argument| key(head, request, argument));
    let body = match (era, named(request)) {
        (Era::Modern, None) => body.clone(),
        (Era::Modern, Some(name)) if name.as_str() == own => body.clone(),
        (Era::Modern, Some(name)) => match name.borrowed() {
            Some(slice) => splice(body, &mut [(slice, unquoted(own).as_str())]),
            None => rebuilt(body, own, false)?,
        },
        (Era::Legacy(_), _) => rebuilt(body, own, true)?,
    };
    let mirrors = matches!(era, Era::Modern) && !Framed::is(head);
    let client = mirrors.then_some(&head.headers);
    let mirrored = kept.mirrored(client, request.params.arguments);
    let streams = head.headers.get_all(ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("text/event-stream") || value.contains("*/*")
        })
    });
    let asked =
        Asked { method: request.method.as_str().to_owned(), id: request.id.to_owned(), body, streams, session, key };
    carry(&context.upstreams, kept, asked, mirrored).await
}

/// What leads to the same endpoint each time: the value of an argument, or who asks.
fn key(head: &Parts, request: &Request<'_>, argument: Option<&str>) -> Option<u64> {
    let short = |bytes: &[u8]| {
        let digest = blake3::hash(bytes);
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap_or_default())
    };
    if let Some(argument) = argument {
        let arguments: serde_json::Value = serde_json::from_str(request.params.arguments?.get()).ok()?;
        return Some(short(arguments.get(argument)?.to_string().as_bytes()));
    }
    match &head.extensions.get::<Admitted>()?.caller {
        Caller::Principal(principal) => Some(short(&principal.key.to_le_bytes())),
        Caller::Anonymous => None,
    }
}

/// The name in a request that a server may know by another one.
fn named<'r, 'a>(request: &'r Request<'a>) -> Option<&'r Text<'a>> {
    match request.method.as_str() {
        "tools/call" | "prompts/get" => request.params.name.as_ref(),
        "completion/complete" => request.params.reference.as_ref().and_then(|reference| reference.0.name.as_ref()),
        _ => None,
    }
}

/// A text as it stands between the quotation marks of JSON.
fn unquoted(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The body with another name, and with what the modern era wants a request to say of itself where `modernise` says so. Values that
/// are not touched keep their bytes.
fn rebuilt(body: &Bytes, own: &str, modernise: bool) -> Result<Bytes, Fault> {
    type Members<'a> = BTreeMap<String, std::borrow::Cow<'a, RawValue>>;
    fn members(text: &str) -> Result<Members<'_>, serde_json::Error> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
        Ok(members.into_iter().map(|(name, value)| (name, std::borrow::Cow::Borrowed(value))).collect())
    }
    let wrong = |error: serde_json::Error| Fault::invalid_params(format!("params: {error}"));
    let text = std::str::from_utf8(body).map_err(|_| Fault::invalid_params("the body is not UTF-8"))?;
    let mut whole = members(text).map_err(wrong)?;
    let params = whole.get("params").cloned();
    let mut params =
        params.as_ref().map_or_else(|| Ok(Members::new()), |params| members(params.get())).map_err(wrong)?;
    let renamed = |value: &str| to_raw_value(value).map(std::borrow::Cow::Owned);
    if params.contains_key("name") {
        params.insert("name".to_owned(), renamed(own).map_err(wrong)?);
    }
    let reference = params.get("ref").cloned();
    if let Some(reference) = &reference {
        let mut reference = members(reference.get()).map_err(wrong)?;
        if reference.contains_key("name") {
            reference.insert("name".to_owned(), renamed(own).map_err(wrong)?);
        }
        params.insert("ref".to_owned(), std::borrow::Cow::Owned(to_raw_value(&reference).map_err(wrong)?));
    }
    if modernise {
        let meta = params.get("_meta").cloned();
        let mut meta = meta.as_ref().map_or_else(|| Ok(Members::new()), |meta| members(meta.get())).map_err(wrong)?;
        for (name, value) in [
            ("io.modelcontextprotocol/protocolVersion", json!(MODERN)),
            ("io.modelcontextprotocol/clientCapabilities", json!({})),
        ] {
            meta.insert(name.to_owned(), std::borrow::Cow::Owned(to_raw_value(&value).map_err(wrong)?));
        }
        params.insert("_meta".to_owned(), std::borrow::Cow::Owned(to_raw_value(&meta).map_err(wrong)?));
    }
    whole.insert("params".to_owned(), std::borrow::Cow::Owned(to_raw_value(&params).map_err(wrong)?));
    serde_json::to_vec(&whole).map(Bytes::from).map_err(wrong)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    #[test]
    fn s3_1_1_a_legacy_request_gains_what_the_modern_era_wants_and_keeps_its_digits() {
        let body = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1.10,"method":"tools/call","params":{"name":"a__b","arguments":{"n":1.10},"_meta":{"progressToken":7}}}"#,
        );
        let rebuilt = String::from_utf8(rebuilt(&body, "b", true).unwrap().to_vec()).unwrap();
        assert_eq!(
            rebuilt,
            r#"{"id":1.10,"jsonrpc":"2.0","method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":7},"arguments":{"n":1.10},"name":"b"}}"#
        );
    }

    #[test]
    fn s3_1_1_a_name_goes_between_quotation_marks() {
        assert_eq!(unquoted("a\"b\\ü"), "a\\\"b\\\\ü");
    }
}
