//! Tools about edges: walks, relations, order, tips.
//!
//! Promises: an answer is as of everything committed here when it is asked; a page says where the next one begins.
//! Does not: read content. It answers from the shape of the DAG.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Outcome, arguments, written};
use crate::dag::query::{Answer, Query};
use crate::dag::skeleton::Number;
use crate::error::{Reason, Refusal};
use crate::gateway::quic::wire::{QueryRequest, Summary};
use crate::gateway::{Context, json, query};
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};

/// A page of vertices.
#[derive(Serialize)]
pub(in crate::gateway::mcp) struct Page {
    vertices: Vec<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// `dag_walk`
pub(super) async fn walk(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        roots: Vec<String>,
        #[serde(default)]
        direction: Direction,
        depth: Option<u32>,
        #[serde(default)]
        order: String,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        namespace: String,
        #[serde(default)]
        labels: BTreeMap<String, String>,
        since_ms: Option<u64>,
        until_ms: Option<u64>,
        limit: Option<u32>,
        #[serde(default)]
        cursor: String,
        #[serde(default)]
        token: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Direction {
        #[default]
        Ancestors,
        Descendants,
        Parents,
        Children,
    }
    let arguments: Arguments = arguments(raw)?;
    let verb = match arguments.direction {
        Direction::Ancestors => "ancestors",
        Direction::Descendants => "descendants",
        Direction::Parents => "parents",
        Direction::Children => "children",
    };
    let request = QueryRequest {
        verb: verb.to_owned(),
        ids: arguments.roots,
        depth: arguments.depth,
        order: arguments.order,
        kind: arguments.kind,
        namespace: arguments.namespace,
        labels: arguments.labels.into_iter().collect(),
        since_ms: arguments.since_ms,
        until_ms: arguments.until_ms,
        limit: limit(arguments.limit)?,
        cursor: arguments.cursor,
        token: arguments.token,
        ..QueryRequest::default()
    };
    Ok(written(&page(context, &request).await?))
}

/// `dag_order`
pub(super) async fn order(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        roots: Vec<String>,
        limit: Option<u32>,
        #[serde(default)]
        cursor: String,
        #[serde(default)]
        token: String,
    }
    let Arguments { roots, limit: wanted, cursor, token } = arguments(raw)?;
    let limit = limit(wanted)?;
    let request = QueryRequest { verb: "topo".to_owned(), ids: roots, limit, cursor, token, ..QueryRequest::default() };
    Ok(written(&page(context, &request).await?))
}

/// `dag_tips`
pub(super) async fn tips(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        namespace: Option<String>,
        limit: Option<u32>,
        #[serde(default)]
        cursor: String,
        #[serde(default)]
        token: String,
    }
    let Arguments { namespace, limit: wanted, cursor, token } = arguments(raw)?;
    let (namespace, limit) = (namespace.unwrap_or_default(), limit(wanted)?);
    let request = QueryRequest { verb: "tips".to_owned(), namespace, limit, cursor, token, ..QueryRequest::default() };
    Ok(written(&page(context, &request).await?))
}

/// `dag_relate`
pub(super) async fn relate(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        op: Relation,
        a: String,
        b: String,
        limit: Option<u32>,
        #[serde(default)]
        cursor: String,
        #[serde(default)]
        token: String,
    }
    #[derive(Clone, Copy, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Relation {
        Path,
        Lca,
        IsAncestor,
        Diff,
        Range,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Related {
        IsAncestor { is_ancestor: bool },
        Path { found: bool, vertices: Vec<Summary>, truncated: bool },
        Diff { only_a: Vec<Summary>, only_b: Vec<Summary>, vertices: Vec<Summary>, truncated: bool },
    }
    let Arguments { op, a, b, limit: wanted, cursor, token } = arguments(raw)?;
    let limit = limit(wanted)?;
    let shown_max = limit.map_or(PAGE_DEFAULT, |limit| limit as usize);
    let verb = match op {
        Relation::Path => "path",
        Relation::Lca => "lca",
        Relation::IsAncestor => "is-ancestor",
        Relation::Diff => "diff",
        Relation::Range => "range",
    };
    let mut request = QueryRequest { verb: verb.to_owned(), token, ..QueryRequest::default() };
    match op {
        Relation::Range => {
            (request.ids, request.exclude, request.limit, request.cursor) = (vec![b], vec![a], limit, cursor);
        }
        _ if !cursor.is_empty() => {
            return Err(Refusal::bad_request(format!("op {verb} has no pages; leave cursor out")));
        }
        _ => request.ids = vec![a, b],
    }
    let related = match ask(context, &request).await? {
        Answer::Vertices { numbers, cursor } => {
            let cursor = cursor.map(|cursor| cursor.to_string());
            return Ok(written(&Page { vertices: summaries(context, &numbers), cursor }));
        }
        Answer::Bool(is_ancestor) => Related::IsAncestor { is_ancestor },
        Answer::Path(path) => {
            let (found, path) = (path.is_some(), path.unwrap_or_default());
            let shown = &path[..path.len().min(shown_max)];
            Related::Path { found, vertices: summaries(context, shown), truncated: shown.len() < path.len() }
        }
        Answer::Diff { only_a, only_b, bases } => {
            let cut = |numbers: &[Number]| summaries(context, &numbers[..numbers.len().min(shown_max)]);
            let truncated = shown_max < only_a.len().max(only_b.len()).max(bases.len());
            Related::Diff { only_a: cut(&only_a), only_b: cut(&only_b), vertices: cut(&bases), truncated }
        }
    };
    Ok(written(&related))
}

/// A page of the vertices that a question names.
///
/// # Errors
/// As the router's queries.
pub(in crate::gateway::mcp) async fn page(context: &Context, request: &QueryRequest) -> Result<Page, Refusal> {
    match ask(context, request).await? {
        Answer::Vertices { numbers, cursor } => {
            let cursor = cursor.map(|cursor| cursor.to_string());
            Ok(Page { vertices: summaries(context, &numbers), cursor })
        }
        Answer::Bool(_) | Answer::Path(_) | Answer::Diff { .. } => Err(other_form(&request.verb)),
    }
}

/// The answer to a question that is yes or no.
///
/// # Errors
/// As the router's queries.
pub(super) async fn yes_or_no(context: &Context, request: &QueryRequest) -> Result<bool, Refusal> {
    match ask(context, request).await? {
        Answer::Bool(yes) => Ok(yes),
        Answer::Vertices { .. } | Answer::Path(_) | Answer::Diff { .. } => Err(other_form(&request.verb)),
    }
}

/// The ids of a chain, at most [`PAGE_MAX`]; `None` when there is none.
///
/// # Errors
/// As the router's queries.
pub(super) async fn chain(context: &Context, question: Query) -> Result<Option<Vec<String>>, Refusal> {
    match context.router.query(question, None).await? {
        Answer::Path(path) => {
            let view = context.router.skeleton().view();
            let text = |number: Number| view.id(number).to_string();
            Ok(path.map(|path| path.into_iter().take(PAGE_MAX).map(text).collect()))
        }
        Answer::Vertices { .. } | Answer::Bool(_) | Answer::Diff { .. } => Err(other_form("path")),
    }
}

async fn ask(context: &Context, request: &QueryRequest) -> Result<Answer, Refusal> {
    let token = query::token(request)?;
    let question = query::parse(&context.router, request).await?;
    context.router.query(question, token).await
}

fn other_form(verb: &str) -> Refusal {
    Refusal::new(Reason::Internal, format!("{verb} was answered in a form it does not have"))
}

fn summaries(context: &Context, numbers: &[Number]) -> Vec<Summary> {
    let view = context.router.skeleton().view();
    numbers.iter().map(|&number| json::summary(&view, number)).collect()
}

fn limit(wanted: Option<u32>) -> Result<Option<u32>, Refusal> {
    let limit = wanted.unwrap_or(PAGE_DEFAULT as u32);
    if limit == 0 || PAGE_MAX < limit as usize {
        return Err(Refusal::limit("limit (at least 1)", limit as usize, PAGE_MAX, "vertices"));
    }
    Ok(Some(limit))
}
