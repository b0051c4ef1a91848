//! One JSON-RPC message of revision 2026-07-28, read in place.
//!
//! Promises: one pass over the body; what is text in it is borrowed where JSON allows it; a message that is not one request or
//! one notification is refused with the code that JSON-RPC has for it, and with the request's id wherever it can be found.
//! Does not: compare the message with its headers (see `headers`), nor read a tool's arguments: they stay raw for the tool.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fault::{Fault, Refused};

/// A message from a client.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack of one request; a box would allocate for each")]
pub(super) enum Incoming<'a> {
    /// Wants an answer.
    Request(Request<'a>),
    /// Wants none.
    Notification,
}

/// A request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// Its id, as the JSON it came as: a string or a number.
    pub(super) id: &'a str,
    /// What it asks for.
    pub(super) method: Text<'a>,
    /// With what.
    pub(super) params: Params<'a>,
}

/// The members that the params of any method of this revision have. What a method does not name is ignored.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    pub(super) meta: Option<Object<Meta<'a>>>,
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) uri: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) cursor: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) notifications: Option<Object<Notifications<'a>>>,
    #[serde(borrow, rename = "ref")]
    pub(super) reference: Option<Object<Reference<'a>>>,
    #[serde(borrow)]
    pub(super) argument: Option<Object<Argument<'a>>>,
    /// Only in the `initialize` of earlier revisions.
    #[serde(borrow)]
    pub(super) capabilities: Option<&'a RawValue>,
    /// Only in the `initialize` of earlier revisions.
    #[serde(borrow, rename = "protocolVersion")]
    pub(super) protocol_version: Option<Text<'a>>,
}

/// What each request says of itself.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    pub(super) protocol_version: Option<Text<'a>>,
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub(super) client_capabilities: Option<&'a RawValue>,
}

/// What a listener wants to be told.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Notifications<'a> {
    #[serde(default, rename = "toolsListChanged")]
    pub(super) tools: Option<bool>,
    #[serde(default, rename = "promptsListChanged")]
    pub(super) prompts: Option<bool>,
    #[serde(default, rename = "resourcesListChanged")]
    pub(super) resource_lists: Option<bool>,
    #[serde(borrow, rename = "resourceSubscriptions")]
    pub(super) resources: Option<Vec<Text<'a>>>,
}

/// What a completion is for: a prompt by name or a template by URI.
#[derive(Debug, Deserialize)]
pub(super) struct Reference<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) uri: Option<Text<'a>>,
}

/// The argument to complete.
#[derive(Debug, Deserialize)]
pub(super) struct Argument<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow)]
    pub(super) value: Text<'a>,
}

/// Reads a body.
///
/// # Errors
/// Parse error, invalid request, or invalid params, each with HTTP status 400.
pub(super) fn parse(body: &[u8]) -> Result<Incoming<'_>, Refused> {
    let envelope: Object<Envelope<'_>> = match serde_json::from_slice(body) {
        Ok(envelope) => envelope,
        Err(error) => return Err(explain(body, &error)),
    };
    let Envelope { jsonrpc, id, method, params } = envelope.0;
    let id = match id {
        Some(id) => Some(request_id(id).ok_or_else(|| invalid("the id of a request is a string or a number"))?),
        None => None,
    };
    let refused = |fault| Refused { id: id.map(str::to_owned), fault };
    if jsonrpc.as_deref() != Some("2.0") {
        return Err(refused(Fault::invalid_request("\"jsonrpc\" must be \"2.0\"")));
    }
    let Some(method) = method else {
        return Err(refused(Fault::invalid_request("the body must be one request or one notification: no \"method\"")));
    };
    Ok(match id {
        Some(id) => {
            Incoming::Request(Request { id, method, params: params.map(|params| params.0).unwrap_or_default() })
        }
        None => Incoming::Notification,
    })
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<Text<'a>>,
    // Without this, `"id": null` would look like a message without an id.
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    params: Option<Object<Params<'a>>>,
}

/// The same without reading the params: what is asked again of a body that the whole form refused.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    jsonrpc: Text<'a>,
    #[serde(borrow)]
    method: Text<'a>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn request_id(raw: &RawValue) -> Option<&str> {
    // Raw JSON is well-formed, but may still be a text or a number that nobody can read back: a lone surrogate, 1e999.
    let text = raw.get();
    let readable = match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<Text<'_>>(text).is_ok(),
        Some(b'-' | b'0'..=b'9') => serde_json::from_str::<serde_json::Number>(text).is_ok(),
        _ => false,
    };
    readable.then_some(text)
}

fn invalid(message: &str) -> Refused {
    Refused { id: None, fault: Fault::invalid_request(message) }
}

/// Why a body was refused, and for which request.
fn explain(body: &[u8], error: &serde_json::Error) -> Refused {
    // A wrong type may stand before the place where the body stops being JSON.
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(body) {
        return Refused { id: None, fault: Fault::parse_error(format!("the body is not JSON: {error}")) };
    }
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return invalid("the body must be one message; this revision has no batches");
    }
    match serde_json::from_slice::<Object<Outline<'_>>>(body) {
        Ok(Object(outline)) if outline.jsonrpc.as_str() == "2.0" && !outline.method.is_empty() => {
            let id = outline.id.and_then(request_id).map(str::to_owned);
            Refused { id, fault: Fault::invalid_params(format!("params: {error}")).with_status(400) }
        }
        _ => invalid(&format!("the body is not a JSON-RPC request or notification: {error}")),
    }
}

/// Text of a message: borrowed unless it had escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it stands in the body, unless it had escapes.
    pub(super) fn borrowed(&self) -> Option<&'a str> {
        match self.0 {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A value that came as a JSON object. A derived form alone would accept an array of its members too.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}
