//! From the words of a request to a question: the same for REST, MCP and QUIC.
//!
//! Promises: every text that names a vertex may be an id, `git:HASH` or `ref:NAME`; what is wrong is named with what would do.
//! Does not: answer.

use super::quic::wire::QueryRequest;
use crate::dag::query::{Cursor, Direction, Filter, Order, Query, Verb};
use crate::error::Refusal;
use crate::ids::{Token, VertexId};
use crate::limits::{LABELS_MAX, ROOTS_MAX};
use crate::router::Router;

/// Every verb of a question about the graph.
pub const VERBS: [&str; 11] =
    ["parents", "children", "ancestors", "descendants", "range", "topo", "lca", "is-ancestor", "path", "diff", "tips"];

/// Whether the answer to a verb is a list that comes in pages.
pub fn has_pages(verb: &str) -> bool {
    matches!(verb, "parents" | "children" | "ancestors" | "descendants" | "range" | "topo" | "tips")
}

/// The token of a request, when it has one.
///
/// # Errors
/// BadRequest.
pub fn token(request: &QueryRequest) -> Result<Option<Token>, Refusal> {
    match &request.token[..] {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(Refusal::bad_request),
    }
}

/// The question of a request.
///
/// # Errors
/// BadRequest, LimitExceeded, NotFound.
pub async fn parse(router: &Router, request: &QueryRequest) -> Result<Query, Refusal> {
    let ids = resolve(router, &request.ids).await?;
    let verb = match &request.verb[..] {
        "parents" => Verb::Parents(one(request, &ids)?),
        "children" => Verb::Children(one(request, &ids)?),
        "ancestors" | "descendants" => {
            let direction = if request.verb == "ancestors" { Direction::Ancestors } else { Direction::Descendants };
            Verb::Walk { roots: some(request, ids)?, direction, order: order(request)?, depth: request.depth }
        }
        "range" => Verb::Range { include: some(request, ids)?, exclude: resolve(router, &request.exclude).await? },
        "topo" => Verb::Topo(some(request, ids)?),
        "lca" => Verb::BestCommon(some(request, ids)?),
        "is-ancestor" => two(request, &ids).map(|(a, b)| Verb::IsAncestor(a, b))?,
        "path" => two(request, &ids).map(|(from, to)| Verb::Path(from, to))?,
        "diff" => two(request, &ids).map(|(a, b)| Verb::Diff(a, b))?,
        "tips" => Verb::Tips,
        other => {
            return Err(Refusal::bad_request(format!("no question {other:?}; one of {}", VERBS.join(", "))));
        }
    };
    if LABELS_MAX < request.labels.len() {
        return Err(Refusal::limit("labels of a filter", request.labels.len(), LABELS_MAX, "labels"));
    }
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let cursor = text(&request.cursor).map(|text| text.parse::<Cursor>()).transpose()?;
    Ok(Query {
        verb,
        filter: Filter {
            namespace: text(&request.namespace),
            kind: text(&request.kind),
            labels: request.labels.clone(),
            since_ms: request.since_ms,
            until_ms: request.until_ms,
            since_generation: request.since_generation,
            until_generation: request.until_generation,
        },
        limit: request.limit.map(|limit| limit as usize),
        cursor,
    })
}

async fn resolve(router: &Router, texts: &[String]) -> Result<Vec<VertexId>, Refusal> {
    if ROOTS_MAX < texts.len() {
        return Err(Refusal::limit("vertices of one question", texts.len(), ROOTS_MAX, "vertices"));
    }
    let mut ids = Vec::with_capacity(texts.len());
    for text in texts {
        ids.push(router.resolve(text).await?);
    }
    Ok(ids)
}

fn order(request: &QueryRequest) -> Result<Order, Refusal> {
    match &request.order[..] {
        "bfs" | "" => Ok(Order::Bfs),
        "topo" => Ok(Order::Topo),
        "time" => Ok(Order::Time),
        other => Err(Refusal::bad_request(format!("no order {other:?}; one of bfs, topo, time"))),
    }
}

fn one(request: &QueryRequest, ids: &[VertexId]) -> Result<VertexId, Refusal> {
    match ids {
        [id] => Ok(*id),
        _ => Err(Refusal::bad_request(format!("{} is about one vertex, not {}", request.verb, ids.len()))),
    }
}

fn two(request: &QueryRequest, ids: &[VertexId]) -> Result<(VertexId, VertexId), Refusal> {
    match ids {
        [a, b] => Ok((*a, *b)),
        _ => Err(Refusal::bad_request(format!("{} is about two vertices, not {}", request.verb, ids.len()))),
    }
}

fn some(request: &QueryRequest, ids: Vec<VertexId>) -> Result<Vec<VertexId>, Refusal> {
    if ids.is_empty() {
        return Err(Refusal::bad_request(format!("{} is about at least one vertex", request.verb)));
    }
    Ok(ids)
}
