//! The table of routes, and the way from a request to its row.
//!
//! Promises: what the table lists works, and what works is listed: requests are routed, counted, documented (`openapi`) and
//! their parameters checked by these rows alone. An unknown path is 404, an unknown method on a known path 405 with `Allow`.
//! Does not: answer. Each row names its handler's action, and [`dispatch`] calls it.

use std::net::IpAddr;
use std::sync::OnceLock;

use hyper::Request;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tokio::time::{Duration, timeout};

use super::arriving::Arriving;
use super::body::{Reader, read_whole};
use super::parameters::{Parameters, decode};
use super::socket::Use;
use super::{Body, Problem, Response, batch, explain, facts, graph, inflate, refs, socket, vertices, watch};
use crate::error::{Reason, Refusal};
use crate::gateway::pipeline::{self, Ask, Class};
use crate::gateway::{Context, mcp};

/// A row: one method of one path.
pub struct Route {
    /// The method. HEAD is answered wherever GET is.
    pub method: &'static str,
    /// The path; `{…}` stands for one segment, or for the whole name of a ref.
    pub path: &'static str,
    /// Who answers.
    pub action: Action,
    /// One sentence for a person.
    pub about: &'static str,
    /// The query parameters it takes.
    pub parameters: &'static [&'static [Parameter]],
    /// The form of its request's body; empty is none.
    pub request: &'static str,
    /// The form of its answer's body.
    pub answer: &'static str,
}

/// A query parameter.
#[derive(Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Whether it may be given several times.
    pub repeats: bool,
    /// One sentence for a person.
    pub about: &'static str,
}

/// What a parameter's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
}

/// Who answers a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put one vertex.
    VertexPut,
    /// Put a stream of vertices.
    VertexBatch,
    /// Read many vertices.
    VertexGetMany,
    /// Ask for many vertices whether they are here.
    VertexHas,
    /// Read a vertex.
    VertexGet,
    /// Read a vertex's content.
    VertexPayload,
    /// Where and how a vertex is kept.
    VertexStatus,
    /// A question about the graph, by the verb of `QueryRequest`; the ids come from the path.
    Around(&'static str),
    /// A question about the graph whose ids are these parameters.
    Ask(&'static str, &'static [&'static str]),
    /// A walk described in the body.
    Walk,
    /// List refs.
    RefList,
    /// Read a ref.
    RefGet,
    /// Move a ref.
    RefSet,
    /// Delete a ref.
    RefDelete,
    /// The moves of a ref.
    RefLog,
    /// Follow what is new.
    Watch,
    /// Hand the request to the MCP door.
    Mcp,
    /// What the pipeline would say of a request.
    Explain,
    /// Where tokens for this node come from.
    ResourceMetadata,
    /// Whether the process lives.
    Live,
    /// Whether it takes requests.
    Ready,
    /// How it is.
    Health,
    /// Which build, and where its doors are.
    Version,
    /// The node's figures, as JSON.
    Stats,
    /// The MCP servers behind the gateway.
    Upstreams,
    /// How every endpoint of them is.
    HealthMatrix,
    /// Their breakers that are not closed.
    Breakers,
    /// Close breakers.
    BreakersReset,
    /// The node's figures, for a scraper.
    Metrics,
    /// This table, as OpenAPI.
    OpenApi,
}

const fn text(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Text, repeats: false, about }
}

const fn number(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Number, repeats: false, about }
}

const NONE: &[&[Parameter]] = &[];
const PUT: &[Parameter] = &[Parameter {
    name: "allow_missing_parents",
    kind: Kind::Switch,
    repeats: false,
    about: "Accept vertices whose parents are not here; they join the graph when their parents have come.",
}];
const PAGE: &[Parameter] = &[
    number("limit", "Vertices of this answer, at most; a stream without it sends all."),
    text("cursor", "Where the page before ended."),
];
const NEW_ENOUGH: &[Parameter] = &[text("token", "Not older than this token, as a write returned it.")];
const FILTER: &[Parameter] = &[
    text("namespace", "Only this namespace."),
    text("kind", "Only this kind."),
    Parameter { name: "label", kind: Kind::Text, repeats: true, about: "Only vertices with this label, as KEY:VALUE." },
    number("since_ms", "Only vertices of this time or later, in milliseconds since 1970."),
    number("until_ms", "Only vertices of this time or earlier, in milliseconds since 1970."),
    number("since_gen", "Only vertices of this generation or later."),
    number("until_gen", "Only vertices of this generation or earlier."),
];
const REACH: &[Parameter] = &[
    number("depth", "Edges from the start, at most."),
    text("order", "bfs, topo or time; absent is the question's own order."),
];
const BETWEEN: &[Parameter] = &[
    text("from", "The vertex on one side: an id, git:HASH or ref:NAME."),
    text("to", "The vertex on the other side."),
];
const IDS: &[Parameter] = &[Parameter {
    name: "ids",
    kind: Kind::Text,
    repeats: true,
    about: "Vertices, separated by commas: ids, git:HASH or ref:NAME.",
}];
const ROOTS: &[Parameter] =
    &[Parameter { name: "roots", kind: Kind::Text, repeats: true, about: "Where it starts, separated by commas." }];
const PAIR: &[Parameter] =
    &[text("a", "The vertex that may be the ancestor."), text("b", "The vertex that may be the descendant.")];
const NAMESPACE: &[Parameter] = &[text("namespace", "Only this namespace.")];
const REFS: &[Parameter] = &[
    text("prefix", "Names start with this."),
    number("limit", "Refs of this answer, at most."),
    text("cursor", "Names come after this one."),
];
const LOG: &[Parameter] = &[number("limit", "Moves of this answer, at most.")];
const WATCH: &[Parameter] = &[
    text("namespace", "Only this namespace."),
    text("kind", "Only this kind."),
    Parameter {
        name: "refs",
        kind: Kind::Switch,
        repeats: false,
        about: "Tell of moves of refs too; true when absent.",
    },
    text("cursor", "Go on behind this event's id; absent is from now on."),
];
const EXPLAINED: &[Parameter] = &[
    text("method", "The method of the request; GET when absent."),
    text("path", "Its path, with its query."),
    text("tool", "Instead of both: the MCP tool that is called."),
];
const VERBOSE: &[Parameter] =
    &[Parameter { name: "verbose", kind: Kind::Switch, repeats: false, about: "List every check." }];

const CONSISTENCY: &[Parameter] = &[Parameter {
    name: "consistency",
    kind: Kind::Text,
    repeats: false,
    about: "How new the answer must be: linearizable (when absent), bounded:MILLISECONDS or any. The last two are answered by the replica that is asked.",
}];
const WALK_PARAMETERS: &[&[Parameter]] = &[PAGE, REACH, FILTER, NEW_ENOUGH];

const fn row(
    method: &'static str,
    path: &'static str,
    action: Action,
    parameters: &'static [&'static [Parameter]],
    forms: (&'static str, &'static str),
    about: &'static str,
) -> Route {
    Route { method, path, action, about, parameters, request: forms.0, answer: forms.1 }
}

/// Where the names of refs begin. They have slashes, so the rest of the path is the name.
const REFS_PATH: &str = "/api/v1/dag/refs/";
const REF_PATH: &str = "/api/v1/dag/refs/{name}";
/// What the path of a ref's log ends with. A ref whose own name ends so is written with `%2F`.
const LOG_SUFFIX: &str = "/log";
const REF_LOG_PATH: &str = "/api/v1/dag/refs/{name}/log";

/// Every route of the door.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    row("POST", "/api/v1/dag/vertices", Action::VertexPut, &[PUT], ("VertexIn", "PutAnswer"), "Put one vertex: 201, or 200 when it was there."),
    row("POST", "/api/v1/dag/vertices:batch", Action::VertexBatch, &[PUT], ("VertexIn*", "BatchLine*"), "Put a stream of vertices; a result comes back for each line, while later lines are still sent."),
    row("POST", "/api/v1/dag/vertices:get", Action::VertexGetMany, NONE, ("Ids", "Vertices"), "Read many vertices."),
    row("POST", "/api/v1/dag/vertices:has", Action::VertexHas, NONE, ("Ids", "Has"), "Whether vertices are here and durable."),
    row("GET", "/api/v1/dag/vertices/{id}", Action::VertexGet, &[CONSISTENCY], ("", "Vertex"), "Read a vertex: JSON, its canonical DAG-CBOR, or its record."),
    row("GET", "/api/v1/dag/vertices/{id}/payload", Action::VertexPayload, &[CONSISTENCY], ("", "Bytes"), "Read a vertex's content, or a range of it."),
    row("GET", "/api/v1/dag/vertices/{id}/status", Action::VertexStatus, NONE, ("", "Status"), "Where and how a vertex is kept."),
    row("GET", "/api/v1/dag/vertices/{id}/parents", Action::Around("parents"), &[PAGE, FILTER, NEW_ENOUGH], ("", "Page"), "The parents of a vertex, in its order."),
    row("GET", "/api/v1/dag/vertices/{id}/children", Action::Around("children"), &[PAGE, FILTER, NEW_ENOUGH], ("", "Page"), "The children of a vertex."),
    row("GET", "/api/v1/dag/vertices/{id}/ancestors", Action::Around("ancestors"), WALK_PARAMETERS, ("", "Page"), "The vertex and all that it follows."),
    row("GET", "/api/v1/dag/vertices/{id}/descendants", Action::Around("descendants"), WALK_PARAMETERS, ("", "Page"), "The vertex and all that follow it."),
    row("POST", "/api/v1/dag/walk", Action::Walk, NONE, ("Walk", "Page"), "Walk from several roots; streamed as lines unless JSON is asked for."),
    row("GET", "/api/v1/dag/path", Action::Ask("path", &["from", "to"]), &[BETWEEN, NEW_ENOUGH], ("", "Path"), "A shortest chain between two vertices, if one follows the other."),
    row("GET", "/api/v1/dag/lca", Action::Ask("lca", &["ids"]), &[IDS, NEW_ENOUGH], ("", "Page"), "The best common ancestors of two or more vertices."),
    row("GET", "/api/v1/dag/is-ancestor", Action::Ask("is-ancestor", &["a", "b"]), &[PAIR, NEW_ENOUGH], ("", "IsAncestor"), "Whether a is b or an ancestor of it."),
    row("GET", "/api/v1/dag/diff", Action::Ask("diff", &["from", "to"]), &[BETWEEN, NEW_ENOUGH], ("", "Diff"), "What each of two vertices follows that the other does not, and where they part."),
    row("GET", "/api/v1/dag/range", Action::Ask("range", &["from", "to"]), &[BETWEEN, PAGE, FILTER, NEW_ENOUGH], ("", "Page"), "What `to` follows and `from` does not: from..to."),
    row("GET", "/api/v1/dag/topo", Action::Ask("topo", &["roots"]), &[ROOTS, PAGE, FILTER, NEW_ENOUGH], ("", "Page"), "The roots and all that they follow, parents first."),
    row("GET", "/api/v1/dag/tips", Action::Ask("tips", &[]), &[NAMESPACE, PAGE, NEW_ENOUGH], ("", "Page"), "Vertices that nothing follows yet."),
    row("GET", "/api/v1/dag/refs", Action::RefList, &[REFS, CONSISTENCY], ("", "Refs"), "List refs by prefix, in the order of their names."),
    row("GET", REF_PATH, Action::RefGet, &[CONSISTENCY], ("", "Ref"), "Read a ref."),
    row("PUT", REF_PATH, Action::RefSet, NONE, ("RefSet", "Ref"), "Move a ref, or make it: `If-Match` with its tag, `If-None-Match: *` when it must be new."),
    row("DELETE", REF_PATH, Action::RefDelete, NONE, ("", "Nothing"), "Delete a ref; its log stays."),
    row("GET", REF_LOG_PATH, Action::RefLog, &[LOG, CONSISTENCY], ("", "RefLog"), "The latest moves of a ref, newest first."),
    row("GET", "/api/v1/dag/watch", Action::Watch, &[WATCH], ("", "Events"), "Follow new vertices and moves of refs, as server-sent events; over a WebSocket (`Upgrade: websocket`) each as a text."),
    row("GET", "/api/v1/cluster/status", Action::Stats, NONE, ("", "Stats"), "The node's figures: cores, shards, logs, the graph."),
    row("GET", "/api/v1/upstreams", Action::Upstreams, NONE, ("", "Upstreams"), "The MCP servers behind the gateway: how they are and what they offer."),
    row("GET", "/api/v1/health/matrix", Action::HealthMatrix, NONE, ("", "HealthMatrix"), "How every endpoint of every MCP server behind the gateway is, as this node sees it."),
    row("GET", "/api/v1/breakers", Action::Breakers, NONE, ("", "Breakers"), "Circuit breakers that are not closed, or have failures that count."),
    row("POST", "/api/v1/breakers/reset", Action::BreakersReset, NONE, ("BreakerReset", "BreakersReset"), "Close the breakers of an upstream, or of one of its tools."),
    row("POST", "/mcp", Action::Mcp, NONE, ("Mcp", "Mcp"), "The Model Context Protocol, revision 2026-07-28 and older ones."),
    row("GET", "/mcp", Action::Mcp, NONE, ("", "Events"), "What servers tell a session of an earlier revision by themselves; with `Upgrade: websocket` and the subprotocol `mcp`, all of MCP."),
    row("DELETE", "/mcp", Action::Mcp, NONE, ("", "Nothing"), "End a session of an earlier revision."),
    row("GET", "/api/v1/route/explain", Action::Explain, &[EXPLAINED], ("", "Explanation"), "What each stage of the pipeline would say of a request of yours, without doing it."),
    row("GET", "/.well-known/oauth-protected-resource", Action::ResourceMetadata, NONE, ("", "ResourceMetadata"), "Which issuers' tokens this node takes (RFC 9728)."),
    row("GET", "/.well-known/oauth-protected-resource/mcp", Action::ResourceMetadata, NONE, ("", "ResourceMetadata"), "The same, where clients of the MCP endpoint look."),
    row("GET", "/livez", Action::Live, NONE, ("", "Text"), "Whether the process lives."),
    row("GET", "/readyz", Action::Ready, NONE, ("", "Text"), "Whether it takes requests: 503 while it drains."),
    row("GET", "/healthz", Action::Health, &[VERBOSE], ("", "Health"), "How the node is."),
    row("GET", "/version", Action::Version, NONE, ("", "Version"), "Which build this is, and where its doors are."),
    row("GET", "/metrics", Action::Metrics, NONE, ("", "OpenMetrics"), "The node's figures, for a scraper."),
    row("GET", "/openapi.json", Action::OpenApi, NONE, ("", "OpenApi"), "This description."),
];

/// The path of requests whose row was not found, in metrics.
pub(super) const UNMATCHED: usize = ROUTES.len();

/// What a handler is given.
pub(super) struct Call {
    pub(super) context: Context,
    pub(super) peer: IpAddr,
    pub(super) parts: Parts,
    pub(super) body: Reader,
    pub(super) parameters: Parameters,
    /// What stands for the `{…}` of the path, decoded; empty where there is none.
    pub(super) argument: String,
}

/// Answers a request from `peer` whose host was checked. The second is its row in [`ROUTES`], or [`UNMATCHED`].
pub(super) async fn dispatch(context: Context, peer: IpAddr, request: Request<Arriving>) -> (Response, usize) {
    let (parts, body) = request.into_parts();
    let (body, rest) = Reader::new(body);
    let head = parts.method == Method::HEAD;
    let found = find(&parts.method, parts.uri.path()).map(|(row, argument)| (row, decode(argument)));
    let row = found.as_ref().map_or(UNMATCHED, |(row, _)| *row);
    let action = ROUTES.get(row).map(|route| route.action);
    let mcp = action == Some(Action::Mcp);
    let (tool, class) = match action {
        Some(Action::Mcp) if context.gate.is_some() => mcp::by_headers(&parts.headers),
        action => (None, action.map_or(Class::Open, class)),
    };
    let ask = Ask { peer, class, tool: tool.map(str::to_owned), mcp };
    let validate = |parts: &Parts| {
        let (row, argument) = found?;
        let parameters = Parameters::parse(parts.uri.query(), ROUTES[row].parameters)?;
        let body = body.unfolding(inflate::of_request(&parts.headers)?)?;
        Ok((body, parameters, argument?, deadline(&context, parts)?))
    };
    type Valid = (Reader, Parameters, String, Duration);
    let answer = async |parts: Parts, (body, parameters, argument, deadline): Valid| {
        let call = Call { context: context.clone(), peer, parts, body, parameters, argument };
        match timeout(deadline, act(ROUTES[row].action, call)).await {
            Ok(answered) => answered,
            Err(_) => {
                let detail = format!("no answer within {} ms", deadline.as_millis());
                Err(Refusal::new(Reason::Timeout, detail).into())
            }
        }
    };
    let response = pipeline::run(&context, parts, ask, validate, answer).await;
    rest.discard();
    (if head { without_body(response) } else { response }, row)
}

/// What a row needs of its caller.
pub(super) fn class(action: Action) -> Class {
    match action {
        Action::Live | Action::Ready | Action::ResourceMetadata => Class::Free,
        Action::Explain => Class::Open,
        Action::VertexPut | Action::VertexBatch | Action::RefSet | Action::RefDelete => Class::Write,
        Action::Stats
        | Action::Metrics
        | Action::Upstreams
        | Action::HealthMatrix
        | Action::Breakers
        | Action::BreakersReset => Class::Admin,
        // The tool says more.
        Action::Mcp => Class::Read,
        Action::VertexGetMany
        | Action::VertexHas
        | Action::VertexGet
        | Action::VertexPayload
        | Action::VertexStatus
        | Action::Around(_)
        | Action::Ask(..)
        | Action::Walk
        | Action::RefList
        | Action::RefGet
        | Action::RefLog
        | Action::Watch
        | Action::Health
        | Action::Version
        | Action::OpenApi => Class::Read,
    }
}

async fn act(action: Action, mut call: Call) -> Result<Response, Problem> {
    match action {
        Action::VertexPut => vertices::put(call).await,
        Action::VertexBatch => batch::put(call),
        Action::VertexGetMany => vertices::get_many(call).await,
        Action::VertexHas => vertices::has(call).await,
        Action::VertexGet => vertices::get(call).await,
        Action::VertexPayload => vertices::payload(call).await,
        Action::VertexStatus => vertices::status(call).await,
        Action::Around(verb) => graph::around(call, verb).await,
        Action::Ask(verb, ids) => graph::ask(call, verb, ids).await,
        Action::Walk => graph::walk(call).await,
        Action::RefList => refs::list(call).await,
        Action::RefGet => refs::get(call).await,
        Action::RefSet => refs::set(call).await,
        Action::RefDelete => refs::delete(call).await,
        Action::RefLog => refs::log(call).await,
        Action::Watch => match socket::asked(&mut call.parts, Use::Watch)? {
            Some(asked) => watch::on_socket(call, asked),
            None => watch::watch(&call),
        },
        Action::Mcp => {
            if call.parts.method == Method::GET
                && let Some(asked) = socket::asked(&mut call.parts, Use::Mcp)?
            {
                return Ok(asked.mcp(call.context, call.peer, &call.parts));
            }
            let body = read_whole(call.body).await?;
            Ok(mcp::handle(&call.context, &call.parts, body).await)
        }
        Action::Explain => explain::explain(&call),
        Action::ResourceMetadata => facts::resource(&call),
        Action::Live => Ok(facts::live()),
        Action::Ready => facts::ready(&call),
        Action::Health => facts::health(&call).await,
        Action::Version => Ok(facts::version(&call)),
        Action::Upstreams => Ok(super::answer::json(StatusCode::OK, &call.context.upstreams.report())),
        Action::HealthMatrix => {
            let matrix = call.context.upstreams.health_matrix(&call.context.facts.node);
            Ok(super::answer::json(StatusCode::OK, &matrix))
        }
        Action::Breakers => Ok(super::answer::json(StatusCode::OK, &call.context.upstreams.breakers())),
        Action::BreakersReset => {
            let body = read_whole(call.body).await?;
            let wanted = serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(error.to_string()))?;
            Ok(super::answer::json(StatusCode::OK, &call.context.upstreams.reset_breakers(&wanted)?))
        }
        Action::Stats => facts::stats(&call).await,
        Action::Metrics => facts::metrics(&call).await,
        Action::OpenApi => Ok(facts::openapi(&call)),
    }
}

/// The time a request has: what the node gives, or less when the caller says so.
fn deadline(context: &Context, parts: &Parts) -> Result<Duration, Refusal> {
    let given = context.facts.request_timeout;
    let Some(asked) = parts.headers.get("request-timeout-ms") else { return Ok(given) };
    let asked = asked.to_str().ok().and_then(|text| text.trim().parse().ok());
    let asked = asked.ok_or_else(|| Refusal::bad_request("Request-Timeout-Ms: not a number of milliseconds"))?;
    Ok(Duration::from_millis(asked).min(given))
}

/// The answer to HEAD: everything that GET would have said, but the body.
fn without_body(mut response: Response) -> Response {
    if let Some(length) = response.body().length()
        && response.status() != StatusCode::NOT_MODIFIED
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = Body::empty();
    response
}

/// The row of a request and what stands for the `{…}` of its path, still encoded.
pub(super) fn find<'p>(method: &Method, path: &'p str) -> Result<(usize, &'p str), Problem> {
    let not_found = || Refusal::new(Reason::NotFound, format!("no route {path}; GET /openapi.json lists them"));
    let (place, argument) = locate(path).ok_or_else(not_found)?;
    let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
    let rows = &table().places[place];
    if let Some(&row) = rows.iter().find(|&&row| ROUTES[row].method == wanted) {
        return Ok((row, argument));
    }
    let mut allowed: Vec<&str> = rows.iter().map(|&row| ROUTES[row].method).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    let detail = format!("{path} takes {allowed}");
    let problem = Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, Reason::BadRequest, detail);
    // The table's own words are a valid header.
    let value = HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static("GET"));
    Err(problem.with_header(header::ALLOW, value))
}

struct Table {
    paths: matchit::Router<usize>,
    /// The rows of each path.
    places: Vec<Vec<usize>>,
    ref_place: usize,
    ref_log_place: usize,
}

fn locate(path: &str) -> Option<(usize, &str)> {
    let table = table();
    if let Some(name) = path.strip_prefix(REFS_PATH).filter(|name| !name.is_empty()) {
        return Some(match name.strip_suffix(LOG_SUFFIX).filter(|name| !name.is_empty()) {
            Some(name) => (table.ref_log_place, name),
            None => (table.ref_place, name),
        });
    }
    let found = table.paths.at(path).ok()?;
    let argument = found.params.iter().next().map_or("", |(_, value)| value);
    Some((*found.value, argument))
}

/// The table in the form that finds fastest; the same for every core, and never changed.
fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut names: Vec<&str> = Vec::new();
        let mut places: Vec<Vec<usize>> = Vec::new();
        for (row, route) in ROUTES.iter().enumerate() {
            match names.iter().position(|name| *name == route.path) {
                Some(place) => places[place].push(row),
                None => {
                    names.push(route.path);
                    places.push(vec![row]);
                }
            }
        }
        let place_of = |path: &str| names.iter().position(|name| *name == path).unwrap_or_default();
        let mut paths = matchit::Router::new();
        for (place, name) in names.iter().enumerate().filter(|(_, name)| !name.starts_with(REFS_PATH)) {
            let inserted = paths.insert(*name, place);
            assert!(inserted.is_ok(), "two routes stand for the same path: {name}");
        }
        let (ref_place, ref_log_place) = (place_of(REF_PATH), place_of(REF_LOG_PATH));
        Table { paths, places, ref_place, ref_log_place }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s3_2_5_every_row_is_reached_by_its_own_path() {
        for (row, route) in ROUTES.iter().enumerate() {
            let path = route.path.replace("{id}", "bafy%3A1").replace("{name}", "git/heads/main");
            let method: Method = route.method.parse().unwrap();
            let (found, argument) = find(&method, &path).unwrap();
            assert_eq!(found, row, "{} {path}", route.method);
            let expected = match () {
                () if route.path.contains("{id}") => "bafy%3A1",
                () if route.path.contains("{name}") => "git/heads/main",
                () => "",
            };
            assert_eq!(argument, expected, "{path}");
        }
    }

    #[test]
    fn s3_2_5_unknown_paths_are_404_and_unknown_methods_405_with_what_is_allowed() {
        for path in
            ["/", "", "/api/v1/dag", "/api/v1/dag/refs/", "/api/v1/dag/vertices/", "/livez/", "*", "/%2e%2e/livez"]
        {
            let problem = find(&Method::GET, path).unwrap_err();
            assert_eq!(problem.status, StatusCode::NOT_FOUND, "{path}");
        }
        let check = |method: Method, path: &str, allowed: &str| {
            let problem = find(&method, path).unwrap_err();
            assert_eq!(problem.status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(problem.header.unwrap().1, allowed);
        };
        check(Method::DELETE, "/livez", "GET, HEAD");
        check(Method::GET, "/api/v1/dag/vertices", "POST");
        check(Method::POST, "/api/v1/dag/refs/main", "GET, PUT, DELETE, HEAD");
        assert!(find(&Method::HEAD, "/livez").is_ok());
    }

    #[test]
    fn s3_2_10_a_ref_named_log_is_reached_when_its_slash_is_encoded() {
        assert_eq!(find(&Method::GET, "/api/v1/dag/refs/a/log").unwrap().1, "a");
        let (row, argument) = find(&Method::GET, "/api/v1/dag/refs/a%2Flog").unwrap();
        assert_eq!((ROUTES[row].action, argument), (Action::RefGet, "a%2Flog"));
        assert_eq!(find(&Method::GET, "/api/v1/dag/refs/log").unwrap().1, "log");
    }
}
