//! The MCP door: the Model Context Protocol over Streamable HTTP, without sessions: revision 2026-07-28, and for older clients
//! those that begin with `initialize`.
//!
//! Any request may land on any core of any node: nothing here outlives its request, except a stream of notifications, which
//! lives as long as its listener. Promises: a body is read once and in place, an answer is written once; headers that mirror the
//! body are compared with it before anything is done; what a server behind the gateway is to answer is passed on as it came.
//! Does not: run tasks, log to clients, or ask clients anything.

mod admission;
mod catalogue;
mod completion;
mod fault;
mod forward;
mod headers;
mod legacy;
mod lists;
mod message;
mod page;
mod prompts;
mod reply;
mod resources;
mod seal;
mod session;
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
pub(in crate::gateway) use catalogue::has_tool;
pub(in crate::gateway) use fault::Fault;
use fault::Refused;
pub(in crate::gateway) use headers::MIRRORED;
use legacy::Era;
use message::{Incoming, Request};
use reply::Fields;
pub use seal::Seal;
pub(in crate::gateway) use session::{Session as ClientSession, of_session};

/// Answers one HTTP request to the MCP endpoint, whatever its method.
pub async fn handle(context: &Context, parts: &Parts, body: Bytes) -> Response {
    if parts.method != Method::POST {
        return beside(context, parts).await;
    }
    if let Err(status) = media(&parts.headers) {
        return reply::empty(status, None);
    }
    let request = match message::parse(&body) {
        Ok(Incoming::Request(request)) => request,
        // This revision has no notification that a client sends over HTTP; one that comes asks for nothing.
        Ok(Incoming::Notification) => return reply::empty(StatusCode::ACCEPTED, None),
        Err(refused) => {
            let answered = session::answer(context, parts, &body).await;
            return answered.unwrap_or_else(|| reply::refused(&refused));
        }
    };
    if let Err(refused) = admission::admit(context, parts, &request).await {
        return refused;
    }
    let outcome = match legacy::era(&parts.headers, &request) {
        Ok(era) => answer(context, parts, &request, &body, era).await.map_err(|fault| match era {
            Era::Modern => fault,
            Era::Legacy(_) => legacy::softened(fault),
        }),
        Err(fault) => Err(fault),
    };
    outcome.unwrap_or_else(|fault| reply::refused(&Refused { id: Some(request.id.to_owned()), fault }))
}

/// Answers what clients of earlier revisions ask beside requests: to be told what servers say by themselves, and to be forgotten.
async fn beside(context: &Context, parts: &Parts) -> Response {
    let not_allowed = || reply::empty(StatusCode::METHOD_NOT_ALLOWED, Some((ALLOW, "POST")));
    let answered = match session::Session::of(context, parts) {
        Ok(Some(session)) if parts.method == Method::GET => session::listen(context, session),
        Ok(Some(session)) if parts.method == Method::DELETE => Ok(session::end(context, &session).await),
        Ok(_) => return not_allowed(),
        Err(fault) => Err(fault),
    };
    answered.unwrap_or_else(|fault| reply::refused(&Refused { id: None, fault }))
}

async fn answer(
    context: &Context,
    head: &Parts,
    request: &Request<'_>,
    body: &Bytes,
    era: Era,
) -> Result<Response, Fault> {
    let Request { id, method, params } = request;
    match (era, method.as_str()) {
        (Era::Modern, _) => headers::check(&head.headers, request)?,
        (Era::Legacy(version), "initialize") => {
            return Ok(session::initialize(context, head, id, version, params).await);
        }
        (Era::Legacy(_), "ping") => return Ok(reply::json(200, reply::nothing(id))),
        (Era::Legacy(_), "server/discover" | "subscriptions/listen") => return Err(Fault::method_not_found(method)),
        (Era::Legacy(_), _) => {}
    }
    let session = if era == Era::Modern { None } else { session::Session::of(context, head)? };
    if let Some(kept) = forward::find(context, request) {
        return forward::forward(context, head, request, body, era, session, kept).await;
    }
    if era != Era::Modern
        && let Some(done) = session::wish(context, session.as_ref(), request, body).await?
    {
        return Ok(done);
    }
    let tool = params.name.as_deref().filter(|_| method.as_str() == "tools/call");
    if let Some(fault) = tool.and_then(|tool| context.upstreams.missing(tool)) {
        return Err(fault);
    }
    let cursor = params.cursor.as_deref();
    let fields = match method.as_str() {
        "tools/call" => tools::call(context, id, params).await?,
        "resources/read" => resources::read(context, id, params).await?,
        "server/discover" => catalogue::answer(id, catalogue::discover()),
        "tools/list" => lists::page(context, &lists::TOOLS, id, cursor)?,
        "resources/list" => resources::list(context, id, cursor).await?,
        "resources/templates/list" => lists::page(context, &lists::TEMPLATES, id, cursor)?,
        "prompts/list" => lists::page(context, &lists::PROMPTS, id, cursor)?,
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
