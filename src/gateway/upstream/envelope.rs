//! JSON-RPC messages on their way through, as bytes: what must be replaced is, the rest stays as it came.
//!
//! Promises: a value that is not replaced keeps its digits, its order and its unknown members; what is read of a stranger's
//! message is borrowed from it. Does not: know methods.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The outline of a message.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An answer: a result or an error.
    Answer,
    /// A request, which wants an answer.
    Request,
    /// A notification.
    Notification,
}

impl<'a> Message<'a> {
    /// Reads a message's outline.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let message: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("not a JSON-RPC message: {error}"))?;
        if message.method.is_none() && message.result.is_none() && message.error.is_none() {
            return Err("not a JSON-RPC message: no method, no result, no error".to_owned());
        }
        Ok(message)
    }

    pub(crate) fn kind(&self) -> Kind {
        match (&self.method, self.id) {
            (None, _) => Kind::Answer,
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
        }
    }
}

/// Replaces slices of `body`, which must be slices of it, in any order.
pub(crate) fn splice(body: &[u8], replacements: &mut [(&str, &str)]) -> Bytes {
    let start = body.as_ptr() as usize;
    replacements.sort_by_key(|(slice, _)| slice.as_ptr() as usize);
    let grown: usize = replacements.iter().map(|(_, with)| with.len()).sum();
    let mut out = Vec::with_capacity(body.len() + grown);
    let mut done = 0;
    for (slice, with) in replacements.iter() {
        let at = (slice.as_ptr() as usize).wrapping_sub(start);
        // Not a slice of the body, or one that overlaps the one before: a defect of the caller's.
        assert!(done <= at && at + slice.len() <= body.len(), "a replacement outside of the message");
        out.extend_from_slice(&body[done..at]);
        out.extend_from_slice(with.as_bytes());
        done = at + slice.len();
    }
    out.extend_from_slice(&body[done..]);
    Bytes::from(out)
}

/// The same answer to another request id.
///
/// # Errors
/// Why the message is none.
pub(crate) fn with_id(message: &Bytes, id: &str) -> Result<Bytes, String> {
    let read = Message::read(message)?;
    match read.id {
        Some(found) if found.get() == id => Ok(message.clone()),
        Some(found) => Ok(splice(message, &mut [(found.get(), id)])),
        None => Err("an answer without an id".to_owned()),
    }
}

/// An answer of a revision before 2026-07-28 as one of that revision: its result says that it is complete.
///
/// # Errors
/// Why the message is none.
pub(crate) fn completed(message: &Bytes) -> Result<Bytes, String> {
    const COMPLETE: &str = "\"resultType\":\"complete\"";
    let Some(result) = Message::read(message)?.result else { return Ok(message.clone()) };
    let members: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_str(result.get()).map_err(|error| format!("a result must be an object: {error}"))?;
    if members.contains_key("resultType") {
        return Ok(message.clone());
    }
    let comma = if members.is_empty() { "" } else { "," };
    let brace = &result.get()[..1];
    Ok(splice(message, &mut [(brace, &format!("{{{COMPLETE}{comma}"))]))
}

/// A request of revision 2026-07-28 as one of a revision with sessions: without what such a request does not say of itself, which
/// a server of both eras would take for the other one.
///
/// # Errors
/// Why the message is none.
pub(crate) fn aged(message: &Bytes) -> Result<Bytes, String> {
    type Members = BTreeMap<String, Box<RawValue>>;
    const MODERN_ONLY: [&str; 4] = ["protocolVersion", "clientCapabilities", "clientInfo", "logLevel"];
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let params = Message::read(message)?.params;
    let told = |error: serde_json::Error| format!("params: {error}");
    let meta = params.map(|params| serde_json::from_str::<Params<'_>>(params.get()).map_err(told)).transpose()?;
    let Some(meta) = meta.and_then(|params| params.meta) else { return Ok(message.clone()) };
    let mut members: Members = serde_json::from_str(meta.get()).map_err(told)?;
    members.retain(|name, _| {
        name.strip_prefix("io.modelcontextprotocol/").is_none_or(|name| !MODERN_ONLY.contains(&name))
    });
    let kept = serde_json::to_string(&members).map_err(told)?;
    Ok(splice(message, &mut [(meta.get(), &kept)]))
}

/// The bytes of a request of ours.
pub(crate) fn request(id: u64, method: &str, params: &serde_json::Value) -> Bytes {
    Bytes::from(serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    #[test]
    fn s3_1_1_what_is_not_replaced_keeps_its_digits_order_and_members() {
        let answer = Bytes::from_static(
            br#"{"result":{"z":12345678901234567890123,"a":1.10,"odd":[null]},"id":7,"jsonrpc":"2.0"}"#,
        );
        let shown = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(
            shown(with_id(&answer, "\"x\"").unwrap()),
            r#"{"result":{"z":12345678901234567890123,"a":1.10,"odd":[null]},"id":"x","jsonrpc":"2.0"}"#
        );
        assert_eq!(
            shown(completed(&answer).unwrap()),
            r#"{"result":{"resultType":"complete","z":12345678901234567890123,"a":1.10,"odd":[null]},"id":7,"jsonrpc":"2.0"}"#
        );
        let empty = Bytes::from_static(br#"{"id":1,"result":{ }}"#);
        assert_eq!(shown(completed(&empty).unwrap()), r#"{"id":1,"result":{"resultType":"complete" }}"#);
        let error = Bytes::from_static(br#"{"id":1,"error":{"code":1}}"#);
        assert_eq!(completed(&error).unwrap(), error);
    }

    #[test]
    fn s3_1_1_a_request_for_an_older_server_says_nothing_of_this_revision() {
        let body = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":1.0,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}},"a":1.10}}"#,
        );
        let expected = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":1.0},"a":1.10}}"#;
        assert_eq!(aged(&body).unwrap(), expected);
        assert_eq!(aged(&Bytes::from_static(expected.as_bytes())).unwrap(), expected);
        assert!(aged(&Bytes::from_static(br#"{"id":1,"method":"m","params":{"_meta":[]}}"#)).is_err());
    }

    #[test]
    fn s3_1_1_what_is_no_message_is_refused() {
        for wrong in ["", "[]", "{}", "null", "{\"id\":1}", "{\"result\":", "\u{0}"] {
            assert!(Message::read(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(completed(&Bytes::from_static(br#"{"id":1,"result":[]}"#)).is_err());
        assert!(with_id(&Bytes::from_static(br#"{"result":{}}"#), "1").is_err());
    }
}
