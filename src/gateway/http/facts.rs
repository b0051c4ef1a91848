//! What the node says of itself: alive, ready, healthy, which build, how much.
//!
//! Promises: liveness asks nobody; readiness turns false as soon as the node drains. Figures are asked for when they are told.
//! Does not: judge. Thresholds are the watcher's.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::answer;
use super::metrics::{GraphFigures, OPEN_METRICS, render};
use super::negotiate::JSON;
use super::openapi;
use super::route::Call;
use super::{Problem, Response};
use crate::error::{Reason, Refusal};
use crate::gateway::figures;

const TEXT: &str = "text/plain; charset=utf-8";

fn never_kept(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn live() -> Response {
    never_kept(answer::bytes(StatusCode::OK, TEXT, Bytes::from_static(b"alive\n")))
}

pub(super) fn ready(call: &Call) -> Result<Response, Problem> {
    if *call.context.draining.borrow() {
        return Err(Refusal::new(Reason::Unavailable, "the node drains; use another").into());
    }
    Ok(never_kept(answer::bytes(StatusCode::OK, TEXT, Bytes::from_static(b"ready\n"))))
}

pub(super) async fn health(call: &Call) -> Result<Response, Problem> {
    let verbose = call.parameters.switch("verbose")?.unwrap_or(false);
    let router = &call.context.router;
    let draining = *call.context.draining.borrow();
    let stats = router.stats().await;
    let mut checks = vec![("doors", if draining { Err("the node drains".to_owned()) } else { Ok("open".to_owned()) })];
    match &stats {
        Err(refusal) => checks.push(("cores", Err(refusal.detail.clone()))),
        Ok(cores) => {
            checks.push(("cores", Ok(format!("{} answer", cores.len()))));
            let full: Vec<String> = cores
                .iter()
                .flat_map(|core| &core.logs)
                .filter(|log| log.disk_full)
                .map(|log| format!("log {}", log.log))
                .collect();
            let disk = if full.is_empty() {
                Ok("writes are taken".to_owned())
            } else {
                Err(format!("full, writes are refused: {}", full.join(", ")))
            };
            checks.push(("disk", disk));
        }
    }
    let healthy = checks.iter().all(|(_, found)| found.is_ok());
    let mut document = serde_json::json!({ "healthy": healthy });
    if verbose || !healthy {
        let checks = checks.iter().map(|(name, found)| {
            let (ok, detail) = match found {
                Ok(detail) => (true, detail),
                Err(detail) => (false, detail),
            };
            serde_json::json!({ "name": name, "ok": ok, "detail": detail })
        });
        document["checks"] = checks.collect();
    }
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(never_kept(answer::json(status, &document)))
}

pub(super) fn version(call: &Call) -> Response {
    let facts = &call.context.facts;
    let since = facts.started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let document = serde_json::json!({
        "name": "qmesh",
        "version": facts.version,
        "node": facts.node,
        "http": facts.http.to_string(),
        "quic": facts.quic.to_string(),
        "https": facts.https,
        "backend": facts.backend,
        "profile": facts.profile,
        "started_ms": since.as_millis() as u64,
    });
    never_kept(answer::json(StatusCode::OK, &document))
}

pub(super) async fn stats(call: &Call) -> Result<Response, Problem> {
    Ok(never_kept(answer::json(StatusCode::OK, &figures(&call.context).await?)))
}

pub(super) async fn metrics(call: &Call) -> Result<Response, Problem> {
    let context = &call.context;
    let cores = context.router.stats().await?;
    let uptime = context.facts.started.elapsed().unwrap_or_default();
    let router = &context.router;
    let skeleton = router.skeleton();
    let graph = GraphFigures { counts: skeleton.counts(), bytes: skeleton.bytes(), questions: router.questions() };
    let text = render(&context.facts, uptime, &cores, &graph, &context.upstreams.figures());
    Ok(never_kept(answer::bytes(StatusCode::OK, OPEN_METRICS, text)))
}

/// Where tokens for this node come from.
pub(super) fn resource(call: &Call) -> Result<Response, Problem> {
    let identity = call.context.gate.as_ref().and_then(|gate| gate.identity.as_ref());
    let none = || Refusal::new(Reason::NotFound, "this node takes no tokens: its gateway file has no [auth]");
    let mut response = answer::json(StatusCode::OK, identity.ok_or_else(none)?.challenge.metadata());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}

pub(super) fn openapi(call: &Call) -> Response {
    let mut response = answer::bytes(StatusCode::OK, JSON, openapi::text(call.context.facts.version));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

/// Facts of a node that does not run, for tests.
#[cfg(test)]
pub(super) fn tests_facts(node: &str) -> crate::gateway::NodeFacts {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    crate::gateway::NodeFacts {
        version: "0.0.0",
        node: node.to_owned(),
        http: nowhere,
        quic: nowhere,
        https: false,
        backend: "memory".to_owned(),
        profile: "default".to_owned(),
        started: std::time::UNIX_EPOCH,
        request_timeout: std::time::Duration::from_secs(30),
        http_connections_max: 16,
    }
}
