//! Vertices over REST: put one, read one or many, ask for them.
//!
//! Promises: a vertex named by its id is answered as immutable, with its hash as its tag; a content is sent from where it
//! lies, without a copy; many vertices are streamed, so that an answer never has to fit into memory.
//! Does not: verify what it reads. The shard did.

use crate::dag::Record;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::Deserialize;

use super::answer::{self, CACHE_IMMUTABLE, CACHE_REVALIDATE, Lines, etag};
use super::body::{Body, Gone, read_whole};
use super::negotiate::{DAG_CBOR, JSON, NDJSON, Part, RKYV, choose, lists, part};
use super::parameters::consistency;
use super::problem::document_of;
use super::route::Call;
use super::{Problem, Response};
use crate::dag::archive::{Scratch, SealedVertex};
use crate::error::{Reason, Refusal};
use crate::gateway::json::{self, VertexIn};
use crate::gateway::now_ms;
use crate::ids::{Token, VertexId};
use crate::limits::GET_BATCH_MAX;
use crate::router::message::PutReceipt;
use crate::router::{PutOptions, Router};

/// Vertices that are read at once for an answer of many.
const READ_TOGETHER: usize = 32;

/// What is asked of a put, beside its vertices.
pub(super) fn put_options(call: &Call) -> Result<PutOptions, Refusal> {
    Ok(PutOptions { allow_missing_parents: call.parameters.switch("allow_missing_parents")?.unwrap_or(false) })
}

pub(super) async fn put(call: Call) -> Result<Response, Problem> {
    let options = put_options(&call)?;
    let archived = is_archive(&call)?;
    let router = call.context.router;
    let body = read_whole(call.body).await?;
    let vertex = if archived { verify_one(&body)? } else { from_json(&router, &body).await? };
    let id = vertex.id();
    let outcome = router.put_all(vec![vertex.clone()], options).await.pop();
    let receipt = outcome.ok_or_else(|| Refusal::new(Reason::Internal, "the put was not answered"))??;
    let status = if receipt.existed { StatusCode::OK } else { StatusCode::CREATED };
    let response = answer::json(status, &receipt_json(&router, &vertex, receipt));
    let response = answer::with(response, header::LOCATION, &format!("/api/v1/dag/vertices/{id}"));
    Ok(answer::with(response, header::ETAG, &etag(&id)))
}

/// Whether the body is a record; otherwise it is JSON.
pub(super) fn is_archive(call: &Call) -> Result<bool, Problem> {
    let Some(kind) = call.parts.headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(RKYV) {
        return Ok(true);
    }
    // What command-line tools send when nobody tells them otherwise is read as JSON too.
    let json = [JSON, NDJSON, "application/x-www-form-urlencoded", "text/plain", "application/octet-stream", ""];
    if json.iter().any(|known| kind.eq_ignore_ascii_case(known)) || kind.ends_with("+json") {
        return Ok(false);
    }
    let detail = format!("content type {kind:?}; this route takes {JSON} or {RKYV}");
    Err(Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::BadRequest, detail))
}

/// The one vertex whose record `body` is, verified.
pub(super) fn verify_one(body: &Bytes) -> Result<SealedVertex, Refusal> {
    let records = Record::parse_all(body, 1).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let record = records.into_iter().next().ok_or_else(|| Refusal::bad_request("the body has no record"))?;
    Ok(SealedVertex::verify_with(record, &mut Scratch::default())?)
}

/// The vertex that `text` describes.
pub(super) async fn from_json(router: &Router, text: &[u8]) -> Result<SealedVertex, Refusal> {
    let vertex: VertexIn = json::from_bytes("vertex", text)?;
    json::vertex_from_json(router, vertex, now_ms()).await
}

/// What a put that is durable answers.
pub(super) fn receipt_json(router: &Router, vertex: &SealedVertex, receipt: PutReceipt) -> serde_json::Value {
    let id = vertex.id();
    let mut answer = serde_json::json!({
        "id": id.to_string(),
        "existed": receipt.existed,
        "durable": true,
        "slot": router.table().slot(&id.0).0,
        "shard": receipt.shard.0,
        "token": Token { shard: receipt.shard, index: receipt.index }.to_string(),
    });
    // The skeleton may not have come so far; what it will say follows from the parents.
    let view = router.skeleton().view();
    let parents: Option<Vec<u32>> =
        vertex.parents().map(|parent| view.number(&parent).map(|number| view.generation(number))).collect();
    if let Some(parents) = parents {
        answer["generation"] = (1 + parents.into_iter().max().unwrap_or(0)).into();
    }
    answer
}

/// The vertex that a path names, and whether the path names it by its id.
async fn named(call: &Call) -> Result<(SealedVertex, bool), Problem> {
    let text = &call.argument;
    let (id, by_id) = match text.parse::<VertexId>() {
        Ok(id) => (id, true),
        Err(_) => (call.context.router.resolve(text).await?, false),
    };
    // A vertex that is here is what its hash says, however old the replica is; only "not here" has an age.
    match call.context.router.get_with(id, consistency(&call.parameters)?).await? {
        (Some(vertex), _) => Ok((vertex, by_id)),
        (None, freshness) => Err(Problem::from(not_here(text)).with_freshness(freshness)),
    }
}

fn not_here(text: &str) -> Refusal {
    Refusal::new(Reason::NotFound, format!("vertex {text} is not here"))
}

/// The headers that every form of a vertex has.
fn immutable(mut response: Response, id: &VertexId, by_id: bool, etag: &str) -> Response {
    let cache = if by_id { CACHE_IMMUTABLE } else { CACHE_REVALIDATE };
    response.headers_mut().insert(header::CACHE_CONTROL, cache);
    if !by_id {
        let place = format!("/api/v1/dag/vertices/{id}");
        response = answer::with(response, header::CONTENT_LOCATION, &place);
    }
    answer::with(response, header::ETAG, etag)
}

pub(super) async fn get(call: Call) -> Result<Response, Problem> {
    const FORMS: [&str; 3] = [JSON, DAG_CBOR, RKYV];
    let form = choose(&call.parts.headers, &FORMS).ok_or_else(|| not_acceptable(&FORMS))?;
    let (vertex, by_id) = named(&call).await?;
    let id = vertex.id();
    // Strong tags differ where the bytes do.
    let etag = match form {
        0 => etag(&id),
        1 => format!("\"{}.dag-cbor\"", id.hex()),
        _ => format!("\"{}.rkyv\"", id.hex()),
    };
    let response = if lists(&call.parts.headers, header::IF_NONE_MATCH, &etag) {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        let bytes = match form {
            0 => Bytes::from(json::vertex_to_bytes(&vertex)),
            1 => {
                let mut canonical = Vec::new();
                vertex.canonical_into(&mut canonical);
                Bytes::from(canonical)
            }
            _ => vertex.record().bytes().clone(),
        };
        answer::bytes(StatusCode::OK, FORMS[form], bytes)
    };
    let mut response = immutable(response, &id, by_id, &etag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

pub(super) fn not_acceptable(forms: &[&str]) -> Problem {
    let detail = format!("this route answers {}", forms.join(", "));
    Problem::with_status(StatusCode::NOT_ACCEPTABLE, Reason::BadRequest, detail)
}

pub(super) async fn payload(call: Call) -> Result<Response, Problem> {
    let (vertex, by_id) = named(&call).await?;
    let id = vertex.id();
    let etag = etag(&id);
    let headers = &call.parts.headers;
    if lists(headers, header::IF_NONE_MATCH, &etag) {
        return Ok(immutable(answer::empty(StatusCode::NOT_MODIFIED), &id, by_id, &etag));
    }
    let content = vertex.payload();
    let (length, mut response) = (content.len(), Response::new(Body::empty()));
    let (first, end) = match part(headers, length, &etag) {
        Part::Whole => (0, length),
        Part::Bytes { first, last } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            response = answer::with(response, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
            (first, last + 1)
        }
        Part::Outside => {
            let detail = format!("the content has {length} bytes");
            let problem = Problem::with_status(StatusCode::RANGE_NOT_SATISFIABLE, Reason::BadRequest, detail);
            let range = HeaderValue::from_str(&format!("bytes */{length}"));
            return Err(match range {
                Ok(range) => problem.with_header(header::CONTENT_RANGE, range),
                Err(_) => problem,
            });
        }
    };
    *response.body_mut() = Body::whole(vertex.record().bytes().slice_ref(&content[first..end]));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A content is a stranger's: a browser must not take it for a page of ours.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(immutable(response, &id, by_id, &etag))
}

pub(super) async fn status(call: Call) -> Result<Response, Problem> {
    let router = &call.context.router;
    let id = router.resolve(&call.argument).await?;
    let durable = router.has(&[id]).await?.first().copied().unwrap_or(false);
    if !durable {
        return Err(not_here(&call.argument).into());
    }
    router.progress().caught_up(None).await;
    let view = router.skeleton().view();
    let number = view.number(&id);
    let shard = router.table().shard(&id.0);
    let mut answer = serde_json::json!({
        "id": id.to_string(),
        "hex": id.hex(),
        "durable": true,
        "slot": router.table().slot(&id.0).0,
        "shard": shard.0,
        "staged": number.is_none(),
    });
    if let Some(number) = number {
        answer["generation"] = view.generation(number).into();
        answer["tip"] = view.is_tip(number).into();
        answer["git"] = view.git(number).map(|hash| crate::ids::hex(&hash)).into();
    }
    Ok(answer::json(StatusCode::OK, &answer))
}

/// The body of a request about many vertices.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdsIn {
    ids: Vec<String>,
}

async fn many(call: Call) -> Result<(Router, Vec<String>, Vec<VertexId>), Problem> {
    let router = call.context.router;
    let body = read_whole(call.body).await?;
    let IdsIn { ids: texts } = json::from_bytes("ids", &body)?;
    if GET_BATCH_MAX < texts.len() {
        return Err(Refusal::limit("ids", texts.len(), GET_BATCH_MAX, "ids").into());
    }
    let mut ids = Vec::with_capacity(texts.len());
    for text in &texts {
        ids.push(router.resolve(text).await?);
    }
    Ok((router, texts, ids))
}

pub(super) async fn has(call: Call) -> Result<Response, Problem> {
    let (router, _, ids) = many(call).await?;
    let found = router.has(&ids).await?;
    Ok(answer::json(StatusCode::OK, &serde_json::json!({ "has": found })))
}

pub(super) async fn get_many(call: Call) -> Result<Response, Problem> {
    const FORMS: [&str; 2] = [JSON, NDJSON];
    let form = choose(&call.parts.headers, &FORMS).ok_or_else(|| not_acceptable(&FORMS))?;
    let (router, texts, ids) = many(call).await?;
    let (lines, mut response) = Lines::new();
    if form == 0 {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    }
    crate::runtime::spawn(async move {
        // A reader that went away is told nothing.
        let (Ok(()) | Err(Gone)) = write_many(lines, &router, &texts, &ids, form == 0).await;
    });
    Ok(response)
}

/// Writes vertices in the order of their ids: as one document, or one a line.
async fn write_many(
    mut lines: Lines,
    router: &Router,
    texts: &[String],
    ids: &[VertexId],
    document: bool,
) -> Result<(), Gone> {
    if document {
        lines.raw().extend_from_slice(b"{\"vertices\":[");
    }
    let mut first = true;
    for (ids, texts) in ids.chunks(READ_TOGETHER).zip(texts.chunks(READ_TOGETHER)) {
        for (found, text) in router.get_many(ids).await.into_iter().zip(texts) {
            if document && !std::mem::take(&mut first) {
                lines.raw().push(b',');
            }
            match found {
                Ok(Some(vertex)) => json::vertex_into(&vertex, lines.raw()),
                Ok(None) if document => lines.raw().extend_from_slice(b"null"),
                Ok(None) => {
                    let line = serde_json::json!({ "id": text, "error": document_of(&not_here(text)) });
                    json::into_bytes(&line, lines.raw());
                }
                Err(refusal) => return lines.fail(&refusal).await,
            }
            if !document {
                lines.raw().push(b'\n');
            }
            lines.breathe().await?;
        }
    }
    if document {
        lines.raw().extend_from_slice(b"]}");
    }
    lines.flush().await
}
