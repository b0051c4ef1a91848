//! The MCP door: revision 2026-07-28 of the Model Context Protocol over Streamable HTTP, without sessions.
//!
//! Any request may land on any core of any node: nothing here outlives its request, except a stream of notifications, which
//! lives as long as its listener. Promises: a body is read once and in place, an answer is written once; headers that mirror the
//! body are compared with it before anything is done; lists are made when the process starts. Does not: speak the revisions that
//! begin with `initialize` (they are told which revision to speak), run tasks, log to clients, or ask clients anything.

mod admission;
mod catalogue;
mod completion;
mod fault;
mod headers;
mod message;
mod page;
mod prompts;
mod reply;
mod resources;
mod subscription;
mod tools;
mod uri;

use bytes::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::Context;
use super::http::Response;
pub(in crate::gateway) use admission::{by_headers, class};
use fault::{Fault, Refused};
use message::{Incoming, Request};
use reply::Fields;

/// Answers one HTTP request to the MCP endpoint, whatever its method.
pub async fn handle(context: &Context, parts: &Parts, body: Bytes) -> Response {
    if parts.method != Method::POST {
        return reply::empty(StatusCode::METHOD_NOT_ALLOWED, Some((ALLOW, "POST")));
    }
    if let Err(status) = media(&parts.headers) {
        return reply::empty(status, None);
    }
    let request = match message::parse(&body) {
        Ok(Incoming::Request(request)) => request,
        // This revision has no notification that a client sends over HTTP; one that comes asks for nothing.
        Ok(Incoming::Notification) => return reply::empty(StatusCode::ACCEPTED, None),
        Err(refused) => return reply::refused(&refused),
    };
    if let Err(refused) = admission::admit(context, parts, &request).await {
        return refused;
    }
    match answer(context, &parts.headers, &request).await {
        Ok(response) => response,
        Err(fault) => reply::refused(&Refused { id: Some(request.id.to_owned()), fault }),
    }
}

async fn answer(context: &Context, headers: &HeaderMap, request: &Request<'_>) -> Result<Response, Fault> {
    let Request { id, method, params } = request;
    let modern = params.meta.as_ref().is_some_and(|meta| meta.0.protocol_version.is_some());
    if method.as_str() == "initialize" && !modern {
        // Clients of earlier revisions open with this, and read from the error what to speak instead.
        return Err(Fault::unsupported_version(params.protocol_version.as_deref().unwrap_or_default()));
    }
    headers::check(headers, request)?;
    let cursor = params.cursor.as_deref();
    let fields = match method.as_str() {
        "tools/call" => tools::call(context, id, params).await?,
        "resources/read" => resources::read(context, id, params).await?,
        "server/discover" => catalogue::answer(id, catalogue::discover()),
        "tools/list" => catalogue::page(id, catalogue::tools(), cursor)?,
        "resources/list" => resources::list(context, id, cursor).await?,
        "resources/templates/list" => catalogue::page(id, catalogue::templates(), cursor)?,
        "prompts/list" => catalogue::page(id, catalogue::prompts(), cursor)?,
        "prompts/get" => prompts::get(context, id, params).await?,
        "completion/complete" => completion::complete(context, id, params).await?,
        "subscriptions/listen" => return subscription::listen(context, id, params),
        _ => return Err(Fault::method_not_found(method)),
    };
    Ok(reply::json(200, Fields::close(fields)))
}

/// Whether the body is what it must be, and the client takes one of the two forms an answer may have.
fn media(headers: &HeaderMap) -> Result<(), StatusCode> {
    let essence = |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // A page of a stranger's site can post text/plain to a local node without asking it first, but not this.
    let json =
        |value: &hyper::header::HeaderValue| value.to_str().is_ok_and(|value| essence(value) == "application/json");
    if !headers.get(CONTENT_TYPE).is_some_and(json) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let ours =
        |range: &str| matches!(&essence(range)[..], "application/json" | "application/*" | "text/event-stream" | "*/*");
    if accepted.peek().is_some() && !accepted.flat_map(|value| value.split(',')).any(ours) {
        return Err(StatusCode::NOT_ACCEPTABLE);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
