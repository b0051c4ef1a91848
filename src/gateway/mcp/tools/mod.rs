//! The tools: what a model can do here.
//!
//! Promises: arguments are read strictly, and what is wrong with them is said in a sentence that the caller can act on; a refusal
//! is a result with its stable reason, not a protocol error, because a model may mend it and try again.
//! Does not: stream. A long answer comes in pages.

mod graph;
mod node;
mod refs;
mod search;
mod vertices;

pub(super) use graph::page;
pub(super) use node::Status;
pub(super) use refs::row as ref_row;

use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;

use super::fault::Fault;
use super::message::Params;
use super::reply::Fields;
use crate::error::Refusal;
use crate::gateway::{Context, json as forms};

/// Answers `tools/call`.
///
/// # Errors
/// Invalid params: no such tool.
pub(super) async fn call(context: &Context, id: &str, params: &Params<'_>) -> Result<Fields, Fault> {
    let name = params.name.as_deref().unwrap_or_default();
    let outcome = match name {
        "dag_get" => vertices::get(context, params.arguments).await,
        "dag_order" => graph::order(context, params.arguments).await,
        "dag_put" => vertices::put(context, params.arguments).await,
        "dag_put_batch" => vertices::put_batch(context, params.arguments).await,
        "dag_relate" => graph::relate(context, params.arguments).await,
        "dag_tips" => graph::tips(context, params.arguments).await,
        "dag_verify" => vertices::verify(context, params.arguments).await,
        "dag_walk" => graph::walk(context, params.arguments).await,
        "node_status" => node::status(context, params.arguments).await,
        "ref_get" => refs::get(context, params.arguments).await,
        "ref_set" => refs::set(context, params.arguments).await,
        "tools_search" => search::search(context, params.arguments),
        _ => return Err(Fault::invalid_params(format!("no tool {name:?}; see tools/list"))),
    };
    let (json, is_error) = match outcome {
        Ok(json) => (json, false),
        Err(refusal) => (refusal_json(&refusal).to_string().into_bytes(), true),
    };
    // Twice: as structure and as text, in which every quotation mark has become two bytes.
    let mut fields = Fields::open(id, json.len() * 2 + json.len() / 4);
    fields.outcome(&json, is_error);
    Ok(fields)
}

/// What a tool returns: the JSON of its structured content.
type Outcome = Result<Vec<u8>, Refusal>;

/// The arguments of a tool.
///
/// # Errors
/// BadRequest, with what is wrong and where.
fn arguments<T: DeserializeOwned>(raw: Option<&RawValue>) -> Result<T, Refusal> {
    let text = raw.map_or("{}", RawValue::get);
    // A derived form would take an array of its members too.
    if !text.starts_with('{') {
        return Err(Refusal::bad_request("arguments must be an object"));
    }
    forms::from_bytes("arguments", text.as_bytes())
}

/// A refusal as structured content.
fn refusal_json(refusal: &Refusal) -> serde_json::Value {
    let mut shown = json!({ "reason": refusal.reason.code(), "detail": refusal.detail });
    if refusal.retry_after_ms != 0 {
        shown["retryAfterMs"] = refusal.retry_after_ms.into();
    }
    shown
}

/// One of our forms as the JSON of a result.
fn written(value: &impl serde::Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(RESULT_BYTES_TYPICAL);
    forms::into_bytes(value, &mut out);
    out
}

/// Room for the JSON of a result that is not long, in bytes.
const RESULT_BYTES_TYPICAL: usize = 1024;
