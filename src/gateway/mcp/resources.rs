//! Resources: what a client can read by a URI.
//!
//! Promises: what is named by its hash says that it never changes; what moves says how long an answer holds; the list is sorted
//! by URI kind and name, and goes on behind its cursor however the refs change meanwhile.
//! Does not: list vertices. There are too many: they are reached through templates, tips and refs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;

use super::fault::Fault;
use super::lists;
use super::message::Params;
use super::page;
use super::reply::{Cache, Fields};
use super::tools::{Status, page as walk_page, ref_row};
use super::uri::{self, Named, Part};
use crate::dag::archive::SealedVertex;
use crate::dag::refs::RefName;
use crate::error::{Reason, Refusal};
use crate::gateway::quic::wire::QueryRequest;
use crate::gateway::{Context, json as forms};
use crate::ids::VertexId;

/// Resources of one page of the list.
const LIST_PAGE: usize = 100;
/// Vertices that one resource shows; more are reached with `dag_walk`.
const SHOWN_MAX: u32 = 1000;
/// Type of everything but payloads.
pub(super) const JSON: &str = "application/json";

/// A resource as it is read.
pub(super) struct Resource {
    pub(super) mime: &'static str,
    pub(super) content: Content,
    pub(super) cache: Cache,
}

/// Text as it is, or bytes.
pub(super) enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

/// Answers `resources/read`.
///
/// # Errors
/// Invalid params: no such resource. As the router's reads.
pub(super) async fn read(context: &Context, id: &str, params: &Params<'_>) -> Result<Fields, Fault> {
    let uri = params.uri.as_deref().unwrap_or_default();
    let resource = load(context, uri).await?;
    let contents = json!([resource.shown(uri)]).to_string();
    let mut fields = Fields::open(id, contents.len());
    fields.raw("contents", contents.as_bytes());
    fields.cache(resource.cache);
    Ok(fields)
}

impl Resource {
    /// The resource as an element of `contents`, or inside a prompt.
    pub(super) fn shown(&self, uri: &str) -> serde_json::Value {
        match &self.content {
            Content::Text(text) => json!({ "uri": uri, "mimeType": self.mime, "text": text }),
            Content::Bytes(bytes) => json!({ "uri": uri, "mimeType": self.mime, "blob": STANDARD.encode(bytes) }),
        }
    }
}

/// Reads what a URI names.
///
/// # Errors
/// Invalid params: no such resource. As the router's reads.
pub(super) async fn load(context: &Context, uri: &str) -> Result<Resource, Fault> {
    let named = Named::parse(uri).map_err(|detail| Fault::no_resource(uri, &detail))?;
    load_named(context, named).await.map_err(|refusal| match refusal.reason {
        Reason::NotFound | Reason::BadRequest | Reason::LimitExceeded => Fault::no_resource(uri, &refusal.detail),
        _ => refusal.into(),
    })
}

async fn load_named(context: &Context, named: Named) -> Result<Resource, Refusal> {
    match named {
        Named::State => Ok(text(&Status::now(context), Cache::MOVING)),
        Named::Tips { namespace } => {
            // A namespace that nobody used has no tips, which is an answer.
            let request = QueryRequest { verb: "tips".to_owned(), namespace, ..shown_request() };
            Ok(text(&walk_page(context, &request).await?, Cache::MOVING))
        }
        Named::Ref { name } => {
            let name: RefName = name.parse()?;
            let position = context.router.ref_get(name.clone()).await?.filter(|position| position.at.is_some());
            let position = position.ok_or_else(|| Refusal::new(Reason::NotFound, format!("no ref {name}")))?;
            Ok(text(&ref_row(&name, position), Cache::MOVING))
        }
        Named::Walk { root, direction, depth, limit } => {
            // What an id's ancestors are is in its hash; what a ref names moves, and descendants come.
            let fixed = direction == "ancestors" && root.parse::<VertexId>().is_ok();
            let cache = if fixed { Cache::IMMUTABLE } else { Cache::GROWING };
            let limit = Some(limit.unwrap_or(SHOWN_MAX).min(SHOWN_MAX));
            let request = QueryRequest { verb: direction, ids: vec![root], depth, limit, ..QueryRequest::default() };
            Ok(text(&walk_page(context, &request).await?, cache))
        }
        Named::Vertex { id, part } => vertex(context, &id, part).await,
    }
}

async fn vertex(context: &Context, id_text: &str, part: Part) -> Result<Resource, Refusal> {
    let id = context.router.resolve(id_text).await?;
    // A name that moves gives what it names now.
    let cache = if id_text.starts_with("ref:") { Cache::MOVING } else { Cache::IMMUTABLE };
    let edges = |verb: &str| QueryRequest { verb: verb.to_owned(), ids: vec![id.to_string()], ..shown_request() };
    match part {
        Part::Whole => {
            let vertex = present(context, id, id_text).await?;
            Ok(Resource { mime: JSON, content: written(forms::vertex_to_bytes(&vertex)), cache })
        }
        Part::Payload => {
            let vertex = present(context, id, id_text).await?;
            let payload = vertex.payload();
            Ok(match forms::text_of(payload) {
                Some(text) => Resource { mime: "text/plain", content: Content::Text(text.to_owned()), cache },
                None => Resource { mime: "application/octet-stream", content: Content::Bytes(payload.to_vec()), cache },
            })
        }
        Part::Parents => Ok(text(&walk_page(context, &edges("parents")).await?, cache)),
        Part::Children => Ok(text(&walk_page(context, &edges("children")).await?, Cache::GROWING)),
        Part::Status => {
            let durable = context.router.has(&[id]).await?.first() == Some(&true);
            if !durable {
                return Err(Refusal::new(Reason::NotFound, format!("{id_text} is not here")));
            }
            Ok(text(&VertexStatus::of(context, id), Cache::GROWING))
        }
    }
}

async fn present(context: &Context, id: VertexId, id_text: &str) -> Result<SealedVertex, Refusal> {
    let vertex = context.router.get(id).await?;
    vertex.ok_or_else(|| Refusal::new(Reason::NotFound, format!("{id_text} is not here")))
}

/// Where a vertex is, and how it stands among others.
#[derive(Serialize)]
struct VertexStatus {
    id: String,
    durable: bool,
    slot: u16,
    shard: u16,
    /// False while the vertex waits for a parent.
    in_graph: bool,
    generation: Option<u32>,
    children: Option<usize>,
    tip: Option<bool>,
}

impl VertexStatus {
    fn of(context: &Context, id: VertexId) -> Self {
        let (table, view) = (context.router.table(), context.router.skeleton().view());
        let number = view.number(&id);
        Self {
            id: id.to_string(),
            durable: true,
            slot: id.slot(table.slot_count()).0,
            shard: table.shard(&id.0).0,
            in_graph: number.is_some(),
            generation: number.map(|number| view.generation(number)),
            children: number.map(|number| view.children(number).count()),
            tip: number.map(|number| view.is_tip(number)),
        }
    }
}

fn shown_request() -> QueryRequest {
    QueryRequest { limit: Some(SHOWN_MAX), ..QueryRequest::default() }
}

fn text(value: &impl Serialize, cache: Cache) -> Resource {
    let mut bytes = Vec::new();
    forms::into_bytes(value, &mut bytes);
    Resource { mime: JSON, content: written(bytes), cache }
}

fn written(json: Vec<u8>) -> Content {
    // JSON that we wrote is UTF-8.
    Content::Text(String::from_utf8(json).unwrap_or_default())
}

/// Answers `resources/list`: the state, then refs by name, then what servers behind the gateway list, by URI.
///
/// # Errors
/// Invalid params: a cursor that is not ours. As the router's reads.
pub(super) async fn list(context: &Context, id: &str, cursor: Option<&str>) -> Result<Fields, Fault> {
    let federation = context.upstreams.current();
    let theirs = cursor.and_then(|cursor| lists::after(cursor).ok());
    let mut rows: Vec<String> = Vec::new();
    let mut next = None;
    if theirs.is_none() {
        let after = cursor.map(page::after).transpose()?;
        if after.is_none() {
            let state =
                json!({ "uri": "dag://state", "name": "state", "title": "State of the node", "mimeType": JSON });
            rows.push(state.to_string());
        }
        let mut refs = context.router.ref_list("", after, LIST_PAGE + 1).await?;
        let more = LIST_PAGE < refs.len();
        refs.truncate(LIST_PAGE);
        rows.extend(refs.iter().map(|(name, _)| {
            json!({ "uri": uri::reference(name.as_str()), "name": name.as_str(), "mimeType": JSON }).to_string()
        }));
        next = refs.last().filter(|_| more).map(|(name, _)| page::cursor_after(name));
    }
    if next.is_none() {
        let (found, cursor) = lists::behind(&federation.resources, theirs.as_deref());
        rows.extend(found.iter().map(|row| row.json.clone()));
        next = cursor;
    }
    let rows = format!("[{}]", rows.join(","));
    let mut fields = Fields::open(id, rows.len());
    fields.raw("resources", rows.as_bytes());
    if let Some(next) = next {
        fields.text("nextCursor", &next);
    }
    fields.cache(Cache::GROWING);
    Ok(fields)
}
