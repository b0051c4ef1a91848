//! Tools about single vertices: put, get, verify.
//!
//! Promises: what is put is durable when it is answered; each vertex of a batch has its own outcome, in the order given.
//! Does not: answer about edges (see `graph`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Outcome, arguments, written};
use crate::dag::archive::SealedVertex;
use crate::error::{Reason, Refusal};
use crate::gateway::json::{VertexIn, VertexJson, vertex_from_json};
use crate::gateway::quic::wire::QueryRequest;
use crate::gateway::{Context, now_ms, query};
use crate::ids::{Token, VertexId};
use crate::router::PutOptions;
use crate::router::message::PutReceipt;

/// Ids of one `dag_get`.
const GET_IDS_MAX: usize = 256;
/// Vertices of one `dag_put_batch`.
const BATCH_MAX: usize = 1000;
/// Payload bytes of one `dag_get` answer; what is left out is named in `truncated`.
const GET_PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// `dag_get`
pub(super) async fn get(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        ids: Vec<String>,
        #[serde(default)]
        include: Include,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        vertices: Vec<Shown<'a>>,
        missing: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        truncated: Vec<String>,
    }
    let Arguments { ids, include } = arguments(raw)?;
    if ids.is_empty() || GET_IDS_MAX < ids.len() {
        return Err(Refusal::limit("ids of one dag_get (at least 1)", ids.len(), GET_IDS_MAX, "ids"));
    }
    let mut missing = Vec::new();
    let mut found = Vec::with_capacity(ids.len());
    if let [text] = &ids[..] {
        // The common case needs no scattering over cores.
        match one(context, text).await? {
            Some(vertex) => found.push(vertex),
            None => missing.push(text.clone()),
        }
    } else {
        let mut wanted: Vec<(&String, VertexId)> = Vec::with_capacity(ids.len());
        for text in &ids {
            match context.router.resolve(text).await {
                Ok(id) => wanted.push((text, id)),
                Err(refusal) if refusal.reason == Reason::NotFound => missing.push(text.clone()),
                Err(refusal) => return Err(refusal),
            }
        }
        let keys: Vec<VertexId> = wanted.iter().map(|&(_, id)| id).collect();
        for ((text, _), answer) in wanted.into_iter().zip(context.router.get_many(&keys).await) {
            match answer? {
                Some(vertex) => found.push(vertex),
                None => missing.push(text.clone()),
            }
        }
    }
    let mut truncated = Vec::new();
    let mut payload_bytes = 0;
    let mut vertices = Vec::with_capacity(found.len());
    for vertex in &found {
        if include == Include::Header {
            vertices.push(Shown::Header(Header(vertex)));
            continue;
        }
        payload_bytes += vertex.payload().len();
        // At least one is shown, so that asking again for the rest always gets on.
        if GET_PAYLOAD_BYTES_MAX < payload_bytes && !vertices.is_empty() {
            truncated.push(vertex.id().to_string());
        } else {
            vertices.push(Shown::Whole(VertexJson(vertex)));
        }
    }
    Ok(written(&Answer { vertices, missing, truncated }))
}

/// The vertex that a text names; `None` when it is well named and not here.
async fn one(context: &Context, text: &str) -> Result<Option<SealedVertex>, Refusal> {
    match context.router.resolve(text).await {
        Ok(id) => context.router.get(id).await,
        Err(refusal) if refusal.reason == Reason::NotFound => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Include {
    #[default]
    All,
    Header,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Whole(VertexJson<'a>),
    Header(Header<'a>),
}

/// A vertex without its content.
struct Header<'a>(&'a SealedVertex);

impl Serialize for Header<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let vertex = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &vertex.id().to_string())?;
        map.serialize_entry("namespace", vertex.namespace())?;
        map.serialize_entry("kind", vertex.kind())?;
        if let Some(author) = vertex.author() {
            map.serialize_entry("author", author)?;
        }
        map.serialize_entry("timestamp_ms", &vertex.timestamp_ms())?;
        map.serialize_entry("parents", &vertex.parents().map(|parent| parent.to_string()).collect::<Vec<_>>())?;
        map.serialize_entry("labels", &vertex.labels().collect::<BTreeMap<_, _>>())?;
        map.serialize_entry("payload_bytes", &vertex.payload().len())?;
        map.serialize_entry("signed", &vertex.signature().is_some())?;
        map.end()
    }
}

#[derive(Serialize)]
struct Receipt {
    id: String,
    existed: bool,
    token: String,
}

impl Receipt {
    fn of(id: VertexId, receipt: &PutReceipt) -> Self {
        let token = Token { shard: receipt.shard, index: receipt.index };
        Self { id: id.to_string(), existed: receipt.existed, token: token.to_string() }
    }
}

/// `dag_put`
pub(super) async fn put(context: &Context, raw: Option<&RawValue>) -> Outcome {
    let vertex = vertex_from_json(&context.router, arguments::<VertexIn>(raw)?, now_ms()).await?;
    let id = vertex.id();
    let outcome = context.router.put_all(vec![vertex], PutOptions::default()).await.pop();
    let receipt = outcome.unwrap_or_else(|| Err(Refusal::new(Reason::Internal, "the put was not answered")))?;
    Ok(written(&Receipt::of(id, &receipt)))
}

/// `dag_put_batch`
pub(super) async fn put_batch(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        vertices: Vec<Box<RawValue>>,
        #[serde(default)]
        allow_missing_parents: bool,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Row {
        Stored(Receipt),
        Refused { error: serde_json::Value },
    }
    #[derive(Serialize)]
    struct Answer {
        stored: usize,
        refused: usize,
        results: Vec<Row>,
    }
    let Arguments { vertices, allow_missing_parents } = arguments(raw)?;
    if vertices.is_empty() || BATCH_MAX < vertices.len() {
        return Err(Refusal::limit(
            "vertices of one dag_put_batch (at least 1)",
            vertices.len(),
            BATCH_MAX,
            "vertices",
        ));
    }
    let now = now_ms();
    let mut sealed: Vec<Result<VertexId, Refusal>> = Vec::with_capacity(vertices.len());
    let mut records = Vec::with_capacity(vertices.len());
    for raw in &vertices {
        let vertex = match arguments::<VertexIn>(Some(raw)) {
            Ok(vertex) => named_by_place(vertex, &sealed),
            Err(refusal) => Err(refusal),
        };
        let vertex = match vertex {
            Ok(vertex) => vertex_from_json(&context.router, vertex, now).await,
            Err(refusal) => Err(refusal),
        };
        sealed.push(vertex.map(|vertex| {
            let id = vertex.id();
            records.push(vertex);
            id
        }));
    }
    let outcomes = context.router.put_all(records, PutOptions { allow_missing_parents }).await;
    let mut outcomes = outcomes.into_iter();
    let results: Vec<Row> = sealed
        .into_iter()
        .map(|id| {
            let receipt = id.and_then(|id| {
                let missing = || Err(Refusal::new(Reason::Internal, "the put was not answered"));
                outcomes.next().unwrap_or_else(missing).map(|receipt| Receipt::of(id, &receipt))
            });
            receipt.map_or_else(|refusal| Row::Refused { error: super::refusal_json(&refusal) }, Row::Stored)
        })
        .collect();
    let stored = results.iter().filter(|row| matches!(row, Row::Stored(_))).count();
    Ok(written(&Answer { stored, refused: results.len() - stored, results }))
}

/// Replaces parents named `#N` by the id of vertex N of the batch, which the caller cannot know before it is hashed.
fn named_by_place(mut vertex: VertexIn, earlier: &[Result<VertexId, Refusal>]) -> Result<VertexIn, Refusal> {
    for parent in &mut vertex.parents {
        let Some(place) = parent.strip_prefix('#') else { continue };
        *parent = match place.parse::<usize>().ok().and_then(|place| earlier.get(place)) {
            Some(Ok(id)) => id.to_string(),
            Some(Err(_)) => return Err(Refusal::new(Reason::MissingParents, format!("parent {parent} was refused"))),
            None => {
                let detail = format!("parent {parent}: # takes the number of an earlier vertex of this batch, from 0");
                return Err(Refusal::bad_request(detail));
            }
        };
    }
    Ok(vertex)
}

/// `dag_verify`
pub(super) async fn verify(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        id: String,
        to: Option<String>,
    }
    #[derive(Serialize)]
    struct Answer {
        id: String,
        valid: bool,
        signature: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ancestor: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        chain: Option<Vec<String>>,
    }
    let Arguments { id: text, to } = arguments(raw)?;
    let id = context.router.resolve(&text).await?;
    let absent = || Refusal::new(Reason::NotFound, format!("{text} is not here"));
    let vertex = context.router.get(id).await?.ok_or_else(absent)?;
    let signed = vertex.signature().is_some();
    // The whole of what is checked when a stranger brings a record: form, limits, hash, signature.
    let checked = SealedVertex::verify(vertex.into_record());
    let signature = match (&checked, signed) {
        (_, false) => "none",
        (Err(crate::dag::vertex::VertexError::Signature), true) => "invalid",
        (_, true) => "valid",
    };
    let mut answer = Answer {
        id: id.to_string(),
        valid: checked.is_ok(),
        signature,
        detail: checked.err().map(|error| error.to_string()),
        ancestor: None,
        chain: None,
    };
    if let Some(to) = to {
        let to = context.router.resolve(&to).await?;
        let request = QueryRequest {
            verb: "is-ancestor".to_owned(),
            ids: vec![to.to_string(), id.to_string()],
            ..QueryRequest::default()
        };
        let is_ancestor = super::graph::yes_or_no(context, &request).await?;
        answer.ancestor = Some(is_ancestor);
        if is_ancestor {
            let request =
                QueryRequest { verb: "path".to_owned(), ids: vec![id.to_string(), to.to_string()], ..request };
            let question = query::parse(&context.router, &request).await?;
            answer.chain = super::graph::chain(context, question).await?;
        }
    }
    Ok(written(&answer))
}
