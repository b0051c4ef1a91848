//! Questions about the graph over REST.
//!
//! Promises: an answer in JSON is a page, an answer in lines is all of it, sent while it is found; what is wrong with the question
//! is said before the first byte. Does not: walk. The skeleton does.

use hyper::StatusCode;
use serde::Deserialize;

use super::answer::{self, Lines};
use super::body::{Gone, read_whole};
use super::negotiate::{JSON, NDJSON, choose};
use super::parameters::Parameters;
use super::route::Call;
use super::vertices::not_acceptable;
use super::{Problem, Response};
use crate::dag::query::{Answer, Machine, Query};
use crate::dag::skeleton::Number;
use crate::dag::walk::Step;
use crate::error::Refusal;
use crate::gateway::json::{self, summary};
use crate::gateway::query;
use crate::gateway::quic::wire::{QueryRequest, Summary};
use crate::ids::Token;
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};
use crate::router::Router;

/// A question about the vertex in the path.
pub(super) async fn around(call: Call, verb: &str) -> Result<Response, Problem> {
    let mut request = request(&call.parameters, verb)?;
    request.ids.push(call.argument.clone());
    let form = form(&call, &[JSON, NDJSON])?;
    answer(call.context.router, request, form).await
}

/// A question whose vertices are these parameters.
pub(super) async fn ask(call: Call, verb: &str, ids: &[&str]) -> Result<Response, Problem> {
    let mut request = request(&call.parameters, verb)?;
    for name in ids {
        call.parameters.required(name)?;
        for text in call.parameters.all(name).flat_map(|list| list.split(',')).filter(|text| !text.is_empty()) {
            // from..to: what `to` follows and `from` does not.
            let place = if verb == "range" && *name == "from" { &mut request.exclude } else { &mut request.ids };
            place.push(text.to_owned());
        }
    }
    let form = form(&call, &[JSON, NDJSON])?;
    answer(call.context.router, request, form).await
}

/// A walk as a body describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WalkIn {
    roots: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    direction: WalkDirection,
    #[serde(default)]
    order: String,
    depth: Option<u32>,
    limit: Option<u32>,
    #[serde(default)]
    cursor: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    since_gen: Option<u32>,
    until_gen: Option<u32>,
    #[serde(default)]
    token: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WalkDirection {
    #[default]
    Ancestors,
    Descendants,
}

pub(super) async fn walk(call: Call) -> Result<Response, Problem> {
    // Lines unless JSON is asked for: a walk may be long.
    let form = match form(&call, &[NDJSON, JSON])? {
        Form::Page => Form::Lines,
        Form::Lines => Form::Page,
    };
    let router = call.context.router;
    let body = read_whole(call.body).await?;
    let walk: WalkIn = json::from_bytes("walk", &body)?;
    let verb = match (walk.direction, walk.exclude.is_empty()) {
        (WalkDirection::Ancestors, true) => "ancestors",
        (WalkDirection::Ancestors, false) => "range",
        (WalkDirection::Descendants, true) => "descendants",
        (WalkDirection::Descendants, false) => {
            return Err(Refusal::bad_request("exclude goes with direction ancestors only").into());
        }
    };
    let request = QueryRequest {
        verb: verb.to_owned(),
        ids: walk.roots,
        exclude: walk.exclude,
        order: walk.order,
        depth: walk.depth,
        limit: walk.limit,
        cursor: walk.cursor,
        namespace: walk.namespace,
        kind: walk.kind,
        labels: walk.labels.into_iter().collect(),
        since_ms: walk.since_ms,
        until_ms: walk.until_ms,
        since_generation: walk.since_gen,
        until_generation: walk.until_gen,
        token: walk.token,
        projection: 0,
    };
    answer(router, request, form).await
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One JSON document with at most a page.
    Page,
    /// A line for each vertex.
    Lines,
}

/// The form among `offers` that the caller likes best; the first stands for a page.
fn form(call: &Call, offers: &[&str]) -> Result<Form, Problem> {
    match choose(&call.parts.headers, offers) {
        Some(0) => Ok(Form::Page),
        Some(_) => Ok(Form::Lines),
        None => Err(not_acceptable(offers)),
    }
}

/// The question that the parameters make, without its vertices.
fn request(parameters: &Parameters, verb: &str) -> Result<QueryRequest, Refusal> {
    let mut labels = Vec::new();
    for label in parameters.all("label") {
        let wrong = || Refusal::bad_request(format!("label {label:?} is not of the form KEY:VALUE"));
        let (key, value) = label.split_once(':').ok_or_else(wrong)?;
        labels.push((key.to_owned(), value.to_owned()));
    }
    Ok(QueryRequest {
        verb: verb.to_owned(),
        order: parameters.text("order"),
        depth: parameters.number("depth")?,
        limit: parameters.number("limit")?,
        cursor: parameters.text("cursor"),
        namespace: parameters.text("namespace"),
        kind: parameters.text("kind"),
        labels,
        since_ms: parameters.number("since_ms")?,
        until_ms: parameters.number("until_ms")?,
        since_generation: parameters.number("since_gen")?,
        until_generation: parameters.number("until_gen")?,
        token: parameters.text("token"),
        ..QueryRequest::default()
    })
}

async fn answer(router: Router, mut request: QueryRequest, form: Form) -> Result<Response, Problem> {
    let pages = query::has_pages(&request.verb);
    if request.limit == Some(0) {
        return Err(Refusal::bad_request("limit: a page has at least one vertex").into());
    }
    if form == Form::Page && pages {
        let limit = request.limit.unwrap_or(PAGE_DEFAULT as u32);
        if PAGE_MAX < limit as usize {
            return Err(Refusal::limit("limit", limit as usize, PAGE_MAX, "vertices").into());
        }
        request.limit = Some(limit);
    }
    let token = query::token(&request)?;
    let asked = query::parse(&router, &request).await?;
    if form == Form::Lines && pages {
        return stream(router, asked, token).await;
    }
    let found = router.query(asked, token).await?;
    let response = match found {
        Answer::Vertices { numbers, cursor } => {
            let vertices = summaries(&router, &numbers);
            let cursor = cursor.map(|cursor| cursor.to_string());
            answer::json(StatusCode::OK, &serde_json::json!({ "vertices": vertices, "cursor": cursor }))
        }
        Answer::Bool(yes) => answer::json(StatusCode::OK, &serde_json::json!({ "is_ancestor": yes })),
        Answer::Path(path) => {
            let path = path.map(|path| summaries(&router, &path));
            answer::json(StatusCode::OK, &serde_json::json!({ "path": path }))
        }
        Answer::Diff { only_a, only_b, bases } => {
            let parts = [("only_from", only_a), ("only_to", only_b), ("bases", bases)];
            let (lines, response) = Lines::new();
            crate::runtime::spawn(async move {
                let (Ok(()) | Err(Gone)) = difference(lines, &router, &parts, form).await;
            });
            if form == Form::Page { answer::with(response, hyper::header::CONTENT_TYPE, JSON) } else { response }
        }
    };
    Ok(response)
}

fn summaries(router: &Router, numbers: &[Number]) -> Vec<Summary> {
    let view = router.skeleton().view();
    numbers.iter().map(|&number| summary(&view, number)).collect()
}

/// Writes the three parts of a difference, which may each be as large as the graph.
async fn difference(mut lines: Lines, router: &Router, parts: &[(&str, Vec<Number>)], form: Form) -> Result<(), Gone> {
    for (nth, (name, numbers)) in parts.iter().enumerate() {
        if form == Form::Page {
            lines.raw().extend_from_slice(format!("{}\"{name}\":[", if nth == 0 { '{' } else { ',' }).as_bytes());
        }
        for (at, number) in numbers.iter().enumerate() {
            let vertex = summary(&router.skeleton().view(), *number);
            match form {
                Form::Lines => lines.line(&serde_json::json!({ "part": name, "vertex": vertex })),
                Form::Page => {
                    if 0 < at {
                        lines.raw().push(b',');
                    }
                    json::into_bytes(&vertex, lines.raw());
                }
            }
            lines.breathe().await?;
        }
        if form == Form::Page {
            lines.raw().push(b']');
        }
    }
    if form == Form::Page {
        lines.raw().push(b'}');
    }
    lines.flush().await
}

/// Answers in lines, while the walk goes on.
async fn stream(router: Router, asked: Query, token: Option<Token>) -> Result<Response, Problem> {
    let machine = router.machine(asked, token).await?;
    let (lines, response) = Lines::new();
    crate::runtime::spawn(async move {
        let (Ok(()) | Err(Gone)) = write_walk(lines, &router, machine).await;
    });
    Ok(response)
}

async fn write_walk(mut lines: Lines, router: &Router, mut machine: Machine) -> Result<(), Gone> {
    let mut slice = Vec::new();
    loop {
        let step = router.step(&mut machine, &mut slice);
        for number in slice.drain(..) {
            lines.line(&summary(&router.skeleton().view(), number));
            lines.breathe().await?;
        }
        if step == Step::Done {
            break;
        }
        // What was found is sent before the next slice is walked, and others are served between the two.
        lines.flush().await?;
        tokio::task::yield_now().await;
    }
    if let Answer::Vertices { cursor: Some(cursor), .. } = router.finish(machine, Vec::new()) {
        lines.line(&serde_json::json!({ "cursor": cursor.to_string() }));
    }
    lines.flush().await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::super::route::{Action, ROUTES};
    use super::*;
    use crate::error::Reason;

    fn parsed(text: &str) -> Result<QueryRequest, Refusal> {
        let route = ROUTES.iter().find(|route| route.action == Action::Around("ancestors")).unwrap();
        request(&Parameters::parse(Some(text), route.parameters)?, "ancestors")
    }

    #[test]
    fn s3_2_10_parameters_become_a_question() {
        let found =
            parsed("limit=5&depth=2&order=bfs&label=a:b&label=c:d%3Ae&since_ms=1&until_gen=9&namespace=n").unwrap();
        let expected = QueryRequest {
            verb: "ancestors".to_owned(),
            order: "bfs".to_owned(),
            depth: Some(2),
            limit: Some(5),
            namespace: "n".to_owned(),
            labels: vec![("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d:e".to_owned())],
            since_ms: Some(1),
            until_generation: Some(9),
            ..QueryRequest::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn s3_2_10_wrong_parameters_of_a_question_are_refused() {
        for text in ["label=a", "depth=x", "since_ms=-1", "limit=99999999999", "colour=red"] {
            assert_eq!(parsed(text).unwrap_err().reason, Reason::BadRequest, "{text}");
        }
    }
}
