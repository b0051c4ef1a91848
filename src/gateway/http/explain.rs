//! The pipeline run dry: what each stage would say of a request.
//!
//! Promises: nothing is done, and nothing counted but this question itself; whoever asks is told about its own token only, also
//! when that does not count. Does not: read a body.

use hyper::Method;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::Serialize;

use super::answer;
use super::parameters::{Parameters, decode};
use super::route::{Action, Call, ROUTES, class, find};
use super::{Problem, Response};
use crate::error::Refusal;
use crate::gateway::gate::Gate;
use crate::gateway::mcp;
use crate::gateway::pipeline::{Admitted, Caller, Class, holds};

/// What one stage would say.
#[derive(Serialize)]
struct Step {
    stage: &'static str,
    verdict: Verdict,
    detail: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Pass,
    Refuse,
    /// There is no such stage here.
    Skip,
}

#[derive(Serialize)]
struct Explanation<'a> {
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    /// Whether every stage would let it pass.
    passes: bool,
    stages: Vec<Step>,
}

/// What is asked about.
struct Subject<'a> {
    query: Option<&'a str>,
    tool: Option<&'a str>,
}

pub(super) fn explain(call: &Call) -> Result<Response, Problem> {
    let tool = call.parameters.get("tool").filter(|tool| !tool.is_empty());
    let place = match tool {
        Some(_) => "/mcp".to_owned(),
        None => call.parameters.required("path")?.to_owned(),
    };
    let method = match tool {
        Some(_) => "POST".to_owned(),
        None => call.parameters.get("method").unwrap_or("GET").to_ascii_uppercase(),
    };
    let (path, query) = place.split_once('?').map_or((place.as_str(), None), |(path, query)| (path, Some(query)));
    let subject = Subject { query, tool };
    let parsed: Method = method.parse().map_err(|_| Refusal::bad_request("query parameter \"method\": no method"))?;
    let found = find(&parsed, path);
    let wanted = match (&found, tool) {
        (_, Some(tool)) => mcp::class("tools/call", Some(tool)),
        (Ok((row, _)), None) => class(ROUTES[*row].action),
        (Err(_), None) => Class::Open,
    };
    let (gate, admitted) = (call.context.gate.as_deref(), call.parts.extensions.get::<Admitted>());
    let mut stages = match gate.zip(admitted).filter(|_| wanted != Class::Free) {
        Some((gate, admitted)) => who_may(gate, admitted, wanted, &subject),
        None => {
            let detail = match wanted {
                Class::Free => "a probe, or metadata for strangers: for everyone, always",
                _ => "this node has no gateway file: whoever reaches it on loopback may do everything",
            };
            ["authentication", "rate", "authorisation"].map(|stage| step(stage, Verdict::Skip, detail)).into()
        }
    };
    stages.push(validation(&found, &subject));
    stages.push(step("response_caching", Verdict::Skip, "absent: every answer is made anew"));
    stages.push(match (&found, tool) {
        (_, Some(tool)) if wanted == Class::Call => step(
            "routing",
            Verdict::Pass,
            format!("{tool}: not a tool of this node; one of another server, if there is one"),
        ),
        (_, Some(tool)) => step("routing", Verdict::Pass, format!("{tool}: a tool of this node")),
        (Ok((row, _)), None) => {
            let route = &ROUTES[*row];
            step("routing", Verdict::Pass, format!("{} {}: {}", route.method, route.path, route.about))
        }
        (Err(problem), None) => step("routing", Verdict::Refuse, problem.refusal.detail.clone()),
    });
    stages.push(step("metrics", Verdict::Pass, "counted by route and status, never by caller"));
    let passes = stages.iter().all(|step| step.verdict != Verdict::Refuse);
    let explanation = Explanation { method: &method, path, tool, passes, stages };
    let mut response = answer::json(StatusCode::OK, &explanation);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The stages that look at the caller.
fn who_may(gate: &Gate, admitted: &Admitted, wanted: Class, subject: &Subject<'_>) -> Vec<Step> {
    let auth = gate.gateway.auth.as_ref();
    let required = auth.is_some_and(|auth| auth.required);
    let authentication = match (&admitted.doubt, &admitted.caller) {
        (Some(doubt), _) => step("authentication", Verdict::Refuse, doubt.clone()),
        (None, Caller::Principal(principal)) => {
            let client = principal.client.as_deref().map_or(String::new(), |client| format!(", through {client}"));
            let detail = format!(
                "{} of {}{client}, until {} s since 1970, with the scopes {}",
                principal.subject,
                principal.issuer,
                principal.expires_s,
                principal.scopes.join(" ")
            );
            step("authentication", Verdict::Pass, detail)
        }
        (None, Caller::Anonymous) if required && wanted != Class::Open => {
            step("authentication", Verdict::Refuse, "no token, and [auth] required = true")
        }
        (None, Caller::Anonymous) => step("authentication", Verdict::Pass, "anonymous"),
    };
    let counted = gate.limits.class_of_tool(subject.tool);
    let rate = gate.limits.rate(counted);
    let left = match counted {
        0 => format!("; {} left after this question", admitted.rate.remaining),
        _ => "; a count of its own for this tool".to_owned(),
    };
    let detail = format!("{} a second, {} at once, for each caller{left}", rate.per_second, rate.burst);
    let needed = auth.and_then(|auth| wanted.scope(&auth.scopes));
    let authorisation = match (&admitted.caller, needed) {
        (_, None) => step("authorisation", Verdict::Pass, "no scope is needed"),
        (Caller::Principal(principal), Some(scope)) if holds(principal, scope) => {
            step("authorisation", Verdict::Pass, format!("the scope {scope} is held"))
        }
        (Caller::Anonymous, Some(_)) if !required && admitted.doubt.is_none() => {
            step("authorisation", Verdict::Pass, "anonymous callers may do everything while [auth] required = false")
        }
        (_, Some(scope)) => step("authorisation", Verdict::Refuse, format!("the scope {scope} is needed")),
    };
    vec![authentication, step("rate", Verdict::Pass, detail), authorisation]
}

fn validation(found: &Result<(usize, &str), Problem>, subject: &Subject<'_>) -> Step {
    const STAGE: &str = "request_validation";
    let (row, argument) = match found {
        Ok(found) => found,
        Err(problem) => return step(STAGE, Verdict::Refuse, problem.refusal.detail.clone()),
    };
    if ROUTES[*row].action == Action::Mcp {
        let detail = "the body is one JSON-RPC message, and the headers that mirror it say the same; then the tool's own arguments";
        return step(STAGE, Verdict::Pass, detail);
    }
    let parameters = decode(argument).and_then(|_| Parameters::parse(subject.query, ROUTES[*row].parameters));
    match parameters {
        Ok(_) => step(STAGE, Verdict::Pass, "path and query parameters are of the route's forms"),
        Err(refusal) => step(STAGE, Verdict::Refuse, refusal.detail),
    }
}

fn step(stage: &'static str, verdict: Verdict, detail: impl Into<String>) -> Step {
    Step { stage, verdict, detail: detail.into() }
}
