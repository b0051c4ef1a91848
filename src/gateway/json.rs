//! The JSON forms of the doors: a vertex, a ref, an answer about the graph.
//!
//! Promises: JSON exists only here; a vertex that is read from JSON and written again has the same fields; an unknown field is
//! refused by name. Content is text where it is text, base64 where it is not.
//! Does not: speak HTTP or JSON-RPC.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::quic::wire::{RefLogRow, RefRow, Summary};
use crate::dag::archive::SealedVertex;
use crate::dag::ref_record::RefRecord;
use crate::dag::refs::{LogEntry, Position, RefName};
use crate::dag::signature::{Algorithm, Signature, SignatureView};
use crate::dag::skeleton::{Number, View};
use crate::dag::vertex::{NAMESPACE_DEFAULT, Vertex};
use crate::error::Refusal;
use crate::ids::{VertexId, hex};
use crate::limits::PARENTS_MAX;
use crate::router::Router;

/// A vertex as a caller writes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VertexIn {
    /// Its family; absent is `default`.
    pub namespace: Option<String>,
    /// What it is.
    pub kind: String,
    /// Who made it.
    pub author: Option<String>,
    /// When it was made, in milliseconds since 1970; absent is now.
    pub timestamp_ms: Option<u64>,
    /// What it follows: ids, `git:HASH` or `ref:NAME`.
    #[serde(default)]
    pub parents: Vec<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its content, as text.
    pub payload: Option<String>,
    /// Its content, as base64 of any bytes.
    pub payload_base64: Option<String>,
    /// A signature over its id.
    pub signature: Option<SignatureIn>,
}

/// A signature as a caller writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureIn {
    /// `ed25519` or `ml-dsa-65`.
    pub algorithm: String,
    /// Base64.
    pub public_key: String,
    /// Base64.
    pub signature: String,
}

/// A vertex as it is shown.
pub struct VertexJson<'a>(pub &'a SealedVertex);

impl Serialize for VertexJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let vertex = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &IdText(vertex.id()))?;
        map.serialize_entry("hex", &vertex.id().hex())?;
        map.serialize_entry("namespace", vertex.namespace())?;
        map.serialize_entry("kind", vertex.kind())?;
        if let Some(author) = vertex.author() {
            map.serialize_entry("author", author)?;
        }
        map.serialize_entry("timestamp_ms", &vertex.timestamp_ms())?;
        map.serialize_entry("parents", &Ids(vertex))?;
        map.serialize_entry("labels", &Labels(vertex))?;
        match text_of(vertex.payload()) {
            Some(text) => map.serialize_entry("payload", text)?,
            None => map.serialize_entry("payload_base64", &BASE64.encode(vertex.payload()))?,
        }
        if let Some(signature) = vertex.signature() {
            map.serialize_entry("signature", &SignatureJson(signature))?;
        }
        map.end()
    }
}

struct IdText(VertexId);

impl Serialize for IdText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Ids<'a>(&'a SealedVertex);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.parents().map(IdText))
    }
}

struct Labels<'a>(&'a SealedVertex);

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.labels())
    }
}

struct SignatureJson<'a>(SignatureView<'a>);

impl Serialize for SignatureJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("algorithm", self.0.algorithm.name())?;
        map.serialize_entry("public_key", &BASE64.encode(self.0.public_key))?;
        map.serialize_entry("signature", &BASE64.encode(self.0.bytes))?;
        map.end()
    }
}

/// The content as text, when it is text: UTF-8 without control characters other than tab, line feed and carriage return.
pub fn text_of(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    let control = |character: char| character.is_control() && !matches!(character, '\t' | '\n' | '\r');
    (!text.contains(control)).then_some(text)
}

/// A vertex as JSON text, without a detour over values.
pub fn vertex_to_bytes(vertex: &SealedVertex) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + vertex.payload().len() * 3 / 2);
    vertex_into(vertex, &mut out);
    out
}

/// Appends a vertex as JSON text.
pub fn vertex_into(vertex: &SealedVertex, out: &mut Vec<u8>) {
    into_bytes(&VertexJson(vertex), out);
}

/// Appends any of our forms as JSON text.
pub fn into_bytes(value: &impl Serialize, out: &mut Vec<u8>) {
    // Our forms have text keys and finite numbers, and a Vec takes every byte.
    assert!(serde_json::to_writer(out, value).is_ok(), "a form of ours is not JSON");
}

/// A vertex as a JSON value.
pub fn vertex_to_json(vertex: &SealedVertex) -> serde_json::Value {
    to_value(&VertexJson(vertex))
}

/// Any of our forms as a JSON value.
pub fn to_value(value: &impl Serialize) -> serde_json::Value {
    let value = serde_json::to_value(value);
    assert!(value.is_ok(), "a form of ours is not JSON");
    value.unwrap_or_default()
}

/// The vertex that a caller described: parents resolved, limits and signature checked.
///
/// # Errors
/// BadRequest, LimitExceeded, Unverified; NotFound when a parent is named by a ref or git hash that is not here.
pub async fn vertex_from_json(router: &Router, vertex: VertexIn, now_ms: u64) -> Result<SealedVertex, Refusal> {
    if PARENTS_MAX < vertex.parents.len() {
        return Err(Refusal::limit("parents", vertex.parents.len(), PARENTS_MAX, "parents"));
    }
    let mut parents = Vec::with_capacity(vertex.parents.len());
    for parent in &vertex.parents {
        parents.push(router.resolve(parent).await?);
    }
    seal(vertex, parents, now_ms)
}

/// The vertex that a caller described, with its parents named by id: limits and signature checked.
///
/// # Errors
/// BadRequest, LimitExceeded, Unverified.
pub fn seal(vertex: VertexIn, parents: Vec<VertexId>, now_ms: u64) -> Result<SealedVertex, Refusal> {
    let payload = match (vertex.payload, vertex.payload_base64) {
        (Some(_), Some(_)) => {
            return Err(Refusal::bad_request("payload and payload_base64: give one of them"));
        }
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => unbase64("payload_base64", &text)?,
        (None, None) => Vec::new(),
    };
    let signature = vertex.signature.map(signature_from_json).transpose()?;
    let vertex = Vertex {
        namespace: vertex.namespace.unwrap_or_else(|| NAMESPACE_DEFAULT.to_owned()),
        kind: vertex.kind,
        author: vertex.author,
        timestamp_ms: vertex.timestamp_ms.unwrap_or(now_ms),
        parents,
        labels: vertex.labels,
        payload,
    };
    Ok(SealedVertex::seal(&vertex, signature)?)
}

fn signature_from_json(signature: SignatureIn) -> Result<Signature, Refusal> {
    let algorithm = Algorithm::from_name(&signature.algorithm).ok_or_else(|| {
        let known: Vec<&str> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
        let known = known.join(", ");
        Refusal::bad_request(format!("signature.algorithm {:?}; known are {known}", signature.algorithm))
    })?;
    Ok(Signature {
        algorithm,
        public_key: unbase64("signature.public_key", &signature.public_key)?,
        bytes: unbase64("signature.signature", &signature.signature)?,
    })
}

fn unbase64(what: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    BASE64.decode(text).map_err(|error| Refusal::bad_request(format!("{what} is not base64: {error}")))
}

/// What a view of the skeleton knows of a vertex.
pub fn summary(view: &View<'_>, number: Number) -> Summary {
    Summary {
        id: view.id(number).0,
        generation: view.generation(number),
        timestamp_ms: view.timestamp_ms(number),
        kind: view.kind(number).unwrap_or_default().to_owned(),
        namespace: view.namespace(number).unwrap_or_default().to_owned(),
        git: view.git(number).map(|hash| hex(&hash)),
    }
}

/// Where a ref points; `None` is one that was deleted.
pub fn ref_at(position: &Position) -> Option<VertexId> {
    position.at
}

/// A ref as every door shows it; `None` is one that never was.
pub fn ref_row(name: &RefName, position: Option<&Position>) -> RefRow {
    let position = position.copied().unwrap_or_default();
    RefRow { name: name.to_string(), at: position.at.map(|id| id.to_string()), version: position.version }
}

/// A move of a ref as every door shows it.
pub fn ref_log_row(entry: &LogEntry) -> RefLogRow {
    RefLogRow {
        version: entry.version,
        from: entry.from.map(|id| id.to_string()),
        to: entry.to.map(|id| id.to_string()),
        actor: entry.actor.to_string(),
        reason: entry.reason.to_string(),
        timestamp_ms: entry.timestamp_ms,
    }
}

/// A committed move of a ref as a watcher is told.
pub fn ref_event(record: &RefRecord) -> serde_json::Value {
    serde_json::json!({
        "name": record.name.to_string(),
        "version": record.version,
        "from": record.from.map(|id| id.to_string()),
        "to": record.to.map(|id| id.to_string()),
        "actor": record.actor,
        "reason": record.reason,
        "timestamp_ms": record.timestamp_ms,
    })
}

/// The JSON text of one of our forms, read strictly.
///
/// # Errors
/// BadRequest, with the place.
pub fn from_bytes<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::bad_request(format!("{what}: {error}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;
    use crate::dag::signature::SigningKey;
    use crate::error::Reason;

    fn read(text: &str) -> Result<SealedVertex, Refusal> {
        let vertex: VertexIn = from_bytes("vertex", text.as_bytes())?;
        let parents = vertex.parents.iter().map(|parent| parent.parse().unwrap()).collect();
        seal(vertex, parents, 7)
    }

    #[test]
    fn s3_2_10_a_vertex_survives_json() {
        let parent = VertexId([7; 32]);
        let vertex = Vertex {
            namespace: "letters".to_owned(),
            kind: "note".to_owned(),
            author: Some("Ada \"L\" 🦀".to_owned()),
            timestamp_ms: u64::MAX,
            parents: vec![parent],
            labels: [("k\n".to_owned(), "v".to_owned()), (String::from("b"), String::new())].into(),
            payload: b"line\nand tab\t".to_vec(),
        };
        let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
        for (payload, field) in [(vertex.payload.clone(), "payload"), (vec![0, 255, 10], "payload_base64")] {
            let vertex = Vertex { payload, ..vertex.clone() };
            let signature = key.sign(&vertex.id()).unwrap();
            let sealed = SealedVertex::seal(&vertex, Some(signature)).unwrap();
            let mut shown = vertex_to_json(&sealed);
            assert_eq!(shown["id"], vertex.id().to_string());
            assert_eq!(shown["hex"], vertex.id().hex());
            assert!(shown.get(field).is_some(), "{shown}");
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&vertex_to_bytes(&sealed)).unwrap(), shown);
            shown.as_object_mut().unwrap().retain(|name, _| name != "id" && name != "hex");
            assert_eq!(read(&shown.to_string()).unwrap(), sealed);
        }
    }

    #[test]
    fn s3_2_10_what_is_absent_has_its_default() {
        let vertex = read(r#"{"kind":"note"}"#).unwrap().to_vertex();
        assert_eq!((vertex.namespace.as_str(), vertex.timestamp_ms), (NAMESPACE_DEFAULT, 7));
        assert!(vertex.payload.is_empty() && vertex.parents.is_empty() && vertex.author.is_none());
    }

    #[test]
    fn s3_2_10_wrong_json_is_refused_with_what_is_wrong() {
        let check = |text: &str, reason: Reason, part: &str| {
            let refusal = read(text).unwrap_err();
            assert_eq!(refusal.reason, reason, "{text}: {}", refusal.detail);
            assert!(refusal.detail.contains(part), "{text}: {}", refusal.detail);
        };
        check("{", Reason::BadRequest, "vertex: EOF");
        check("{}", Reason::BadRequest, "missing field `kind`");
        check(r#"{"kind":"a","colour":1}"#, Reason::BadRequest, "unknown field `colour`");
        check(r#"{"kind":"a","payload":"x","payload_base64":"eA=="}"#, Reason::BadRequest, "one of them");
        check(r#"{"kind":"a","payload_base64":"%"}"#, Reason::BadRequest, "payload_base64 is not base64");
        check(r#"{"kind":"A"}"#, Reason::BadRequest, "character 'A'");
        check(r#"{"kind":"a","timestamp_ms":-1}"#, Reason::BadRequest, "invalid value");
        let signature = r#"{"kind":"a","signature":{"algorithm":"rsa","public_key":"","signature":""}}"#;
        check(signature, Reason::BadRequest, "known are ed25519, ml-dsa-65");
        let long = format!(r#"{{"kind":"{}"}}"#, "a".repeat(65));
        check(&long, Reason::LimitExceeded, "at most 64 bytes");
    }
}
