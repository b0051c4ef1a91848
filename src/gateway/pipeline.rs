//! The way of every HTTP request, in this order and nowhere else:
//!
//! 1. authentication: who asks ([`authenticate`]);
//! 2. the caller's rate ([`limit`]), as soon as there is somebody to count for, so that refusals count too;
//! 3. authorisation: whether its scopes reach this far ([`authorise`]);
//! 4. request validation: route, parameters, deadline; of MCP, the body and the headers that mirror it;
//! 5. response caching: absent for now, every answer is made anew;
//! 6. routing: the handler of the row, or the tool;
//! 7. metrics around all of it: the door counts each answer (`http::server`), the gate each decision.
//!
//! An MCP request says in its headers what its body says; it is authorised by them before its body is read, and by
//! the body ([`admit_call`]) before anything is done, so a header that lies opens nothing.
//! Promises: what is refused is refused before its body is read; a stream is cut when its token ends. Does not: apply to probes and to the metadata that tells strangers
//! where tokens come from; or guard the QUIC door, which is on loopback.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;

use super::Context;
use super::auth::{Shown, shown};
use super::decisions::Verdict;
use super::gate::{Gate, Identity};
use super::http::{Problem, Response};
use super::rate::{Decision, Key, VERIFICATION};
use crate::config::gateway::ScopeNames;
use crate::error::{Reason, Refusal};
use crate::security::bearer::{BearerError, Principal};

/// A time beyond that of any token, in seconds since 1970.
const FAR_S: u64 = 1 << 40;

/// What a request wants, as far as permission goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Probes and metadata: for everyone, always.
    Free,
    /// For everyone whose rate permits it.
    Open,
    /// Reading the DAG.
    Read,
    /// Writing to it.
    Write,
    /// Calling a tool of another server.
    Call,
    /// The node's figures.
    Admin,
}

impl Class {
    /// The scope that it needs.
    pub fn scope(self, names: &ScopeNames) -> Option<&str> {
        match self {
            Self::Free | Self::Open => None,
            Self::Read => Some(&names.read),
            Self::Write => Some(&names.write),
            Self::Call => Some(&names.call),
            Self::Admin => Some(&names.admin),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Anonymous,
    /// Whom a token names.
    Principal(Arc<Principal>),
}

impl Caller {
    /// How long its token still lasts.
    pub(in crate::gateway) fn remaining(&self) -> Option<Duration> {
        let Self::Principal(principal) = self else { return None };
        let ends = UNIX_EPOCH + Duration::from_secs(principal.expires_s.min(FAR_S));
        Some(ends.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Whose rate it counts for.
    pub fn key(&self, peer: IpAddr) -> Key {
        match self {
            Self::Anonymous => Key::address(peer),
            Self::Principal(principal) => Key::principal(principal.key),
        }
    }
}

/// What the head of a request was let in as; goes on with it.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who asks.
    pub caller: Caller,
    /// Why a token that was shown does not count. Only [`Class::Open`] comes this far with one.
    pub doubt: Option<String>,
    /// What its rate said.
    pub rate: Decision,
    class: u16,
    key: Key,
}

/// A request as the pipeline sees it.
pub struct Ask {
    /// Where it comes from.
    pub peer: IpAddr,
    /// What it wants.
    pub class: Class,
    /// The tool that it calls, by its headers.
    pub tool: Option<String>,
    /// Whether it speaks MCP, whose clients read a refused rate from JSON-RPC.
    pub mcp: bool,
}

/// Leads one request through all stages. `validate` and `route` are the fourth and the sixth.
pub async fn run<V>(
    context: &Context,
    mut head: Parts,
    ask: Ask,
    validate: impl FnOnce(&Parts) -> Result<V, Problem>,
    route: impl AsyncFnOnce(Parts, V) -> Result<Response, Problem>,
) -> Response {
    let (mut told, mut ends) = (None, None);
    let outcome = async {
        if let Some(gate) = context.gate.as_deref().filter(|_| ask.class != Class::Free) {
            let (caller, doubt) = authenticate(gate, &head, &ask).await?;
            let admitted = limit(gate, &ask, caller, doubt).await;
            ends = admitted.caller.remaining();
            told = Some(admitted.rate).filter(|_| !ask.mcp);
            if !admitted.rate.passes() && !ask.mcp {
                return Err(too_often(&admitted.rate).into());
            }
            authorise(gate, &admitted.caller, ask.class)?;
            head.extensions.insert(admitted);
        }
        let valid = validate(&head)?;
        route(head, valid).await
    };
    let mut response = outcome.await.unwrap_or_else(Problem::into_response);
    if let Some(rate) = told {
        tell(response.headers_mut(), &rate);
    }
    match ends {
        Some(time) => response.map(|body| body.ending_in(time)),
        None => response,
    }
}

/// Who asks. A token that does not count is refused, also where none is needed: its owner means to be known.
async fn authenticate(gate: &Gate, head: &Parts, ask: &Ask) -> Result<(Caller, Option<String>), Problem> {
    let Some(identity) = &gate.identity else { return Ok((Caller::Anonymous, None)) };
    let required = gate.gateway.auth.as_ref().is_some_and(|auth| auth.required);
    let scope = gate.gateway.auth.as_ref().and_then(|auth| ask.class.scope(&auth.scopes)).unwrap_or_default();
    let (verdict, problem) = match identify(gate, identity, head, ask.peer).await {
        Ok(Some(principal)) => {
            gate.decisions.auth(Verdict::Token);
            return Ok((Caller::Principal(principal), None));
        }
        Ok(None) if !required || ask.class == Class::Open => {
            gate.decisions.auth(Verdict::Anonymous);
            return Ok((Caller::Anonymous, None));
        }
        Ok(None) => {
            let detail = "this node wants an access token: send it as Authorization: Bearer";
            (Verdict::Missing, identity.challenge.unauthenticated(scope, detail, false))
        }
        Err(Doubt::Rate(refusal)) => return Err(refusal.into()),
        Err(Doubt::Shown(detail)) => (Verdict::MalformedRequest, identity.challenge.malformed(scope, detail)),
        Err(Doubt::Token(error @ BearerError::KeysUnknown { .. })) => {
            (Verdict::Bearer(error), Refusal::new(Reason::Unavailable, error.to_string()).into())
        }
        Err(Doubt::Token(error)) => {
            (Verdict::Bearer(error), identity.challenge.unauthenticated(scope, &error.to_string(), true))
        }
    };
    gate.decisions.auth(verdict);
    if ask.class == Class::Open {
        return Ok((Caller::Anonymous, Some(problem.refusal.detail)));
    }
    // Who knocks with bad tokens uses up the rate of where it knocks from.
    let rate = gate.limits.charge(Key::address(ask.peer)).await;
    gate.decisions.rate(rate.passes());
    Err(if rate.passes() { problem } else { too_often(&rate).into() })
}

enum Doubt {
    Shown(&'static str),
    Token(BearerError),
    Rate(Refusal),
}

async fn identify(
    gate: &Gate,
    identity: &Identity,
    head: &Parts,
    peer: IpAddr,
) -> Result<Option<Arc<Principal>>, Doubt> {
    let token = match shown(&head.headers, head.uri.query()) {
        Shown::Nothing => return Ok(None),
        Shown::Wrong(detail) => return Err(Doubt::Shown(detail)),
        Shown::Token(token) => token,
    };
    if let Some(principal) = identity.authentication.remembered(token) {
        return Ok(Some(principal));
    }
    let rate = gate.limits.charge(Key::address(peer).of_class(VERIFICATION)).await;
    if !rate.passes() {
        gate.decisions.rate(false);
        return Err(Doubt::Rate(too_often(&rate)));
    }
    identity.authentication.verify(token).await.map(Some).map_err(Doubt::Token)
}

/// Counts a request for its caller.
async fn limit(gate: &Gate, ask: &Ask, caller: Caller, doubt: Option<String>) -> Admitted {
    let key = caller.key(ask.peer);
    let class = gate.limits.class_of_tool(ask.tool.as_deref());
    let rate = gate.limits.charge(key.of_class(class)).await;
    gate.decisions.rate(rate.passes());
    Admitted { caller, doubt, rate, class, key }
}

/// Whether a caller's scopes reach this far. An anonymous one came here because none are needed.
fn authorise(gate: &Gate, caller: &Caller, class: Class) -> Result<(), Problem> {
    let (Caller::Principal(principal), Some(identity), Some(auth)) = (caller, &gate.identity, &gate.gateway.auth)
    else {
        return Ok(());
    };
    let Some(needed) = class.scope(&auth.scopes) else { return Ok(()) };
    if holds(principal, needed) {
        return Ok(());
    }
    gate.decisions.auth(Verdict::Scope);
    // What is asked for beside what is there already: a new token replaces the old one.
    let names = [&auth.scopes.read, &auth.scopes.write, &auth.scopes.call, &auth.scopes.admin];
    let wanted: Vec<&str> =
        names.into_iter().map(String::as_str).filter(|name| *name == needed || holds(principal, name)).collect();
    Err(identity.challenge.insufficient(&wanted.join(" ")))
}

/// Whether a principal has a scope.
pub fn holds(principal: &Principal, scope: &str) -> bool {
    principal.scopes.iter().any(|held| **held == *scope)
}

/// Why a call was refused once its body was read.
pub enum CallRefused {
    /// It comes too often.
    Rate(Refusal),
    /// Its caller may not.
    Scope(Problem),
}

/// The same for what an MCP body says, when it was read.
///
/// # Errors
/// [`CallRefused`].
pub async fn admit_call(context: &Context, head: &Parts, class: Class, tool: Option<&str>) -> Result<(), CallRefused> {
    let Some(gate) = context.gate.as_deref() else { return Ok(()) };
    let Some(admitted) = head.extensions.get::<Admitted>() else {
        // Nobody comes here by another way; who does was asked nothing and may nothing.
        let refusal = Refusal::new(Reason::Internal, "a call that did not come through the pipeline");
        return Err(CallRefused::Scope(refusal.into()));
    };
    let counted = gate.limits.class_of_tool(tool);
    let mut rate = admitted.rate;
    // The headers named a tool that is counted elsewhere.
    if rate.passes() && counted != admitted.class {
        rate = gate.limits.charge(admitted.key.of_class(counted)).await;
        gate.decisions.rate(rate.passes());
    }
    if !rate.passes() {
        return Err(CallRefused::Rate(too_often(&rate)));
    }
    authorise(gate, &admitted.caller, class).map_err(CallRefused::Scope)
}

fn too_often(rate: &Decision) -> Refusal {
    let Decision { rate, retry_after_ms, .. } = rate;
    let detail = format!(
        "this caller may ask {} times a second and {} at once; come back in {retry_after_ms} ms",
        rate.per_second, rate.burst
    );
    Refusal { reason: Reason::RateLimited, detail, retry_after_ms: *retry_after_ms }
}

/// The fields of draft-ietf-httpapi-ratelimit-headers: what is left of the burst, and when it is whole again.
fn tell(headers: &mut HeaderMap, decision: &Decision) {
    const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
    const LEFT: HeaderName = HeaderName::from_static("ratelimit");
    let Decision { rate, remaining, .. } = decision;
    let whole_s = |requests: u32| requests.div_ceil(rate.per_second);
    let policy = format!("\"default\";q={};w={}", rate.burst, whole_s(rate.burst));
    let left = format!("\"default\";r={remaining};t={}", whole_s(rate.burst.saturating_sub(*remaining)));
    for (name, value) in [(POLICY, policy), (LEFT, left)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}
