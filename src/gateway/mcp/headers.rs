//! The headers that mirror a request's body, compared with it.
//!
//! Promises: a request passes only when every header that someone on the way may have trusted says what the body says, so
//! routing by header and execution by body never differ.
//! Does not: answer anything. It returns the fault to answer with.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use serde_json::value::RawValue;

use super::fault::{Fault, PROTOCOL_VERSIONS};
use super::message::{Object, Request, Text};

const VERSION: &str = "mcp-protocol-version";
const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";

/// Arguments of tools that are mirrored into headers: tool, argument, header in lower case. `x-mcp-header` in the tool's
/// schema says the same.
pub(in crate::gateway) const MIRRORED: [(&str, &str, &str); 3] = [
    ("dag_tips", "namespace", "mcp-param-namespace"),
    ("ref_get", "name", "mcp-param-ref"),
    ("ref_set", "name", "mcp-param-ref"),
];

/// On a head: its message came as a frame, without headers that could mirror it.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Framed;

impl Framed {
    /// Whether that is so.
    pub(super) fn is(head: &Parts) -> bool {
        head.extensions.get::<Self>().is_some()
    }
}

/// Checks what a request says of itself, twice.
///
/// # Errors
/// Header mismatch, unsupported version, invalid params when `_meta` lacks what every request has; all with status 400.
pub(super) fn check(headers: &HeaderMap, request: &Request<'_>) -> Result<(), Fault> {
    let version = required(headers, VERSION, "MCP-Protocol-Version")?;
    let params = &request.params;
    said(version, request)?;
    same("Mcp-Method", required(headers, METHOD, "Mcp-Method")?, &request.method)?;
    let (member, value) = match request.method.as_str() {
        "tools/call" | "prompts/get" => ("name", params.name.as_deref()),
        "resources/read" => ("uri", params.uri.as_deref()),
        _ => return Ok(()),
    };
    let Some(value) = value else {
        return Err(Fault::invalid_params(format!("params must have \"{member}\"")).with_status(400));
    };
    same("Mcp-Name", &decoded("Mcp-Name", required(headers, NAME, "Mcp-Name")?)?, value)?;
    if request.method.as_str() == "tools/call" { mirrored(headers, value, params.arguments) } else { Ok(()) }
}

/// Checks what a request without headers says of itself.
///
/// # Errors
/// Unsupported version, invalid params when `_meta` lacks what every request has; with status 400.
pub(super) fn check_framed(request: &Request<'_>) -> Result<(), Fault> {
    let named = request.params.meta.as_ref().and_then(|meta| meta.0.protocol_version.as_deref());
    said(named.unwrap_or_default(), request)
}

fn said(version: &str, request: &Request<'_>) -> Result<(), Fault> {
    let meta = request.params.meta.as_ref().map(|meta| &meta.0);
    let Some(body_version) = meta.and_then(|meta| meta.protocol_version.as_deref()) else {
        // A client of an earlier revision sends the header alone: what it can use is the list of revisions.
        supported(version)?;
        let message = "params._meta must have \"io.modelcontextprotocol/protocolVersion\"";
        return Err(Fault::invalid_params(message).with_status(400));
    };
    same("MCP-Protocol-Version", version, body_version)?;
    supported(version)?;
    let capabilities = meta.and_then(|meta| meta.client_capabilities);
    if !capabilities.is_some_and(|capabilities| capabilities.get().starts_with('{')) {
        let message = "params._meta must have \"io.modelcontextprotocol/clientCapabilities\", an object";
        return Err(Fault::invalid_params(message).with_status(400));
    }
    Ok(())
}

fn supported(version: &str) -> Result<(), Fault> {
    if PROTOCOL_VERSIONS.contains(&version) { Ok(()) } else { Err(Fault::unsupported_version(version)) }
}

fn mirrored(headers: &HeaderMap, tool: &str, arguments: Option<&RawValue>) -> Result<(), Fault> {
    for (_, argument, header) in MIRRORED.into_iter().filter(|(name, ..)| *name == tool) {
        // What is no object, or has a member twice, is refused by the tool in words that help more.
        let arguments: Option<Object<Arguments<'_>>> = arguments.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let value = arguments.and_then(|Object(arguments)| match argument {
            "namespace" => arguments.namespace,
            _ => arguments.name,
        });
        match (single(headers, header, header)?, value) {
            (None, None) => {}
            (Some(found), Some(raw)) => {
                let text = serde_json::from_str::<Text<'_>>(raw.get());
                // Numbers and booleans are mirrored as they stand in the body.
                same(header, &decoded(header, found)?, text.as_deref().unwrap_or(raw.get()))?;
            }
            (None, Some(_)) => {
                let message = format!("the header {header} is missing; it mirrors the argument {argument:?}");
                return Err(Fault::header_mismatch(message));
            }
            (Some(_), None) => {
                let message = format!("the header {header} is there, but there is no argument {argument:?}");
                return Err(Fault::header_mismatch(message));
            }
        }
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    namespace: Option<&'a RawValue>,
}

fn same(header: &str, found: &str, body: &str) -> Result<(), Fault> {
    if found == body {
        return Ok(());
    }
    Err(Fault::header_mismatch(format!("the header {header} is {found:?}, the body says {body:?}")))
}

fn required<'h>(headers: &'h HeaderMap, header: &str, shown: &str) -> Result<&'h str, Fault> {
    single(headers, header, shown)?.ok_or_else(|| Fault::header_mismatch(format!("the header {shown} is missing")))
}

/// The one value of a header, in the characters that the revision allows.
fn single<'h>(headers: &'h HeaderMap, header: &str, shown: &str) -> Result<Option<&'h str>, Fault> {
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Fault::header_mismatch(format!("the header {shown} is there twice")));
    }
    let visible = |value: &'h HeaderValue| value.to_str().ok();
    let value = visible(value).ok_or_else(|| {
        Fault::header_mismatch(format!(
            "the header {shown} has characters that are not ASCII; encode it as =?base64?…?="
        ))
    })?;
    Ok(Some(value))
}

/// The text that a header's value stands for.
fn decoded<'h>(shown: &str, value: &'h str) -> Result<Cow<'h, str>, Fault> {
    let Some(encoded) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Ok(Cow::Borrowed(value));
    };
    let bytes = STANDARD.decode(encoded).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.map(Cow::Owned).ok_or_else(|| {
        Fault::header_mismatch(format!("the header {shown} is not base64 of UTF-8 between =?base64? and ?="))
    })
}
