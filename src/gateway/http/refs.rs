//! Refs over REST: names that move by compare-and-set.
//!
//! Promises: a ref's tag is where it points, so `If-Match` moves it only from there; `If-None-Match: *` makes it only when it is
//! new. A condition of a header that does not hold is 412, one of the body 409. Does not: move several at once.

use hyper::StatusCode;
use hyper::header;
use serde::Deserialize;

use super::answer::{self, CACHE_REVALIDATE, etag};
use super::body::read_whole;
use super::negotiate::{entries, lists};
use super::parameters::consistency;
use super::route::Call;
use super::{Problem, Response};
use crate::dag::refs::{Expect, RefMove, RefName};
use crate::error::{Reason, Refusal};
use crate::gateway::{json, now_ms};
use crate::ids::{Token, VertexId, unhex};
use crate::limits::{PAGE_DEFAULT, PAGE_MAX, REFLOG_ENTRIES_MAX};
use crate::router::Router;

/// Tries to move a ref from wherever it is, while others move it too (`If-Match: *`).
const MOVE_TRIES_MAX: usize = 3;

fn name(text: &str) -> Result<RefName, Refusal> {
    text.parse().map_err(|error: crate::dag::refs::RefError| Refusal::bad_request(error.to_string()))
}

fn no_such_ref(name: &RefName) -> Refusal {
    Refusal::new(Reason::NotFound, format!("no such ref: {name}"))
}

pub(super) async fn get(call: Call) -> Result<Response, Problem> {
    let name = name(&call.argument)?;
    let consistency = consistency(&call.parameters)?;
    let (state, freshness) = call.context.router.ref_get_with(name.clone(), consistency).await?;
    let row = json::ref_row(&name, state.as_ref());
    let absent = || Problem::from(no_such_ref(&name)).with_freshness(freshness);
    let at = state.and_then(|state| json::ref_at(&state)).ok_or_else(absent)?;
    let etag = etag(&at);
    let response = if lists(&call.parts.headers, header::IF_NONE_MATCH, &etag) {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        answer::json(StatusCode::OK, &row)
    };
    Ok(answer::fresh(tagged(response, &etag), freshness))
}

fn tagged(mut response: Response, etag: &str) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, CACHE_REVALIDATE);
    answer::with(response, header::ETAG, etag)
}

/// The body of a move.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefSetIn {
    /// Where to: an id, `git:HASH` or `ref:NAME`.
    to: String,
    /// Where it is expected: an id, or `absent`.
    expect: Option<String>,
    #[serde(default)]
    actor: String,
    #[serde(default)]
    reason: String,
}

pub(super) async fn set(call: Call) -> Result<Response, Problem> {
    let name = name(&call.argument)?;
    let (router, headers) = (call.context.router, call.parts.headers);
    let body = read_whole(call.body).await?;
    let asked: RefSetIn = json::from_bytes("ref", &body)?;
    let to = router.resolve(&asked.to).await?;
    let from_headers = condition(&headers)?;
    let from_body = match asked.expect.as_deref() {
        None => None,
        Some("absent") => Some(Expect::Absent),
        Some(text) => Some(Expect::At(router.resolve(text).await?)),
    };
    if from_headers.is_some() && from_body.is_some() {
        let detail = "say where the ref is expected in a header or in the body, not in both";
        return Err(Refusal::bad_request(detail).into());
    }
    let by_header = from_headers.is_some();
    let condition = from_headers.unwrap_or(Condition::Is(from_body.unwrap_or(Expect::Any)));
    let change = RefMove {
        name,
        expect: Expect::Any,
        to: Some(to),
        actor: asked.actor,
        reason: asked.reason,
        timestamp_ms: now_ms(),
    };
    let (receipt, made) = apply(&router, change, condition, by_header).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    let mut answer = json::to_value(&receipt.row);
    answer["token"] = receipt.token.to_string().into();
    Ok(tagged(answer::json(status, &answer), &etag(&to)))
}

pub(super) async fn delete(call: Call) -> Result<Response, Problem> {
    let name = name(&call.argument)?;
    let router = call.context.router;
    let condition = condition(&call.parts.headers)?;
    let by_header = condition.is_some();
    let change = RefMove {
        name,
        expect: Expect::Any,
        to: None,
        actor: String::new(),
        reason: String::new(),
        timestamp_ms: now_ms(),
    };
    // What is not there cannot be deleted: without a condition the answer is that it is not there.
    let (receipt, _) = apply(&router, change, condition.unwrap_or(Condition::Exists), by_header).await?;
    let response = answer::empty(StatusCode::NO_CONTENT);
    Ok(answer::with(response, header::HeaderName::from_static("qmesh-token"), &receipt.token.to_string()))
}

/// What must hold before a ref is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// It is where this says.
    Is(Expect),
    /// It is anywhere.
    Exists,
}

/// The condition that the headers make.
fn condition(headers: &hyper::HeaderMap) -> Result<Option<Condition>, Refusal> {
    let matches: Vec<&str> = entries(headers, header::IF_MATCH).collect();
    let none_match: Vec<&str> = entries(headers, header::IF_NONE_MATCH).collect();
    match (&matches[..], &none_match[..]) {
        ([], []) => Ok(None),
        (["*"], []) => Ok(Some(Condition::Exists)),
        ([], ["*"]) => Ok(Some(Condition::Is(Expect::Absent))),
        ([tag], []) => {
            let digits = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let id = digits.and_then(unhex).and_then(|bytes| bytes.try_into().ok()).map(VertexId);
            let wrong = || Refusal::bad_request(format!("If-Match: {tag} is no tag of a ref, which is its id in hex"));
            id.map(|id| Some(Condition::Is(Expect::At(id)))).ok_or_else(wrong)
        }
        _ => Err(Refusal::bad_request("a ref is moved under one tag of If-Match, or If-None-Match: *")),
    }
}

struct Moved {
    row: crate::gateway::quic::wire::RefRow,
    token: Token,
}

/// Moves a ref under a condition. The second says whether it was made anew.
async fn apply(
    router: &Router,
    mut change: RefMove,
    condition: Condition,
    by_header: bool,
) -> Result<(Moved, bool), Problem> {
    for tries in 1.. {
        let before = router.ref_get(change.name.clone()).await?;
        let at = before.as_ref().and_then(json::ref_at);
        change.expect = match (condition, at) {
            (Condition::Is(expect), _) => expect,
            (Condition::Exists, Some(at)) => Expect::At(at),
            (Condition::Exists, None) if by_header => return Err(failed_condition(&no_such_ref(&change.name))),
            (Condition::Exists, None) => return Err(no_such_ref(&change.name).into()),
        };
        match router.ref_set(change.clone()).await {
            Ok(receipt) => {
                let row = json::ref_row(&change.name, Some(&receipt.position));
                let token = Token { shard: receipt.shard, index: receipt.index };
                return Ok((Moved { row, token }, at.is_none()));
            }
            Err(refusal) if refusal.reason == Reason::Conflict => match condition {
                // Another moved it between our look and our move.
                Condition::Exists if tries < MOVE_TRIES_MAX => {}
                _ if by_header => return Err(failed_condition(&refusal)),
                _ => return Err(refusal.into()),
            },
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(Refusal::new(Reason::Conflict, "the ref is moved by others all the time; try again").into())
}

fn failed_condition(refusal: &Refusal) -> Problem {
    Problem::with_status(StatusCode::PRECONDITION_FAILED, Reason::Conflict, refusal.detail.clone())
}

pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let limit = page(call.parameters.number("limit")?)?;
    let after = call.parameters.get("cursor").filter(|cursor| !cursor.is_empty()).map(name).transpose()?;
    let prefix = call.parameters.text("prefix");
    // One more than the page, to know whether there is another.
    let consistency = consistency(&call.parameters)?;
    let (mut rows, freshness) = call.context.router.ref_list_with(&prefix, after, limit + 1, consistency).await?;
    let more = limit < rows.len();
    rows.truncate(limit);
    let cursor = rows.last().filter(|_| more).map(|(name, _)| name.to_string());
    let rows: Vec<_> = rows.iter().map(|(name, state)| json::ref_row(name, Some(state))).collect();
    let response = answer::json(StatusCode::OK, &serde_json::json!({ "refs": rows, "cursor": cursor }));
    Ok(answer::fresh(response, freshness))
}

/// The size of a page.
fn page(asked: Option<usize>) -> Result<usize, Refusal> {
    match asked {
        None => Ok(PAGE_DEFAULT),
        Some(0) => Err(Refusal::bad_request("limit: a page has at least one entry")),
        Some(limit) if limit <= PAGE_MAX => Ok(limit),
        Some(limit) => Err(Refusal::limit("limit", limit, PAGE_MAX, "entries")),
    }
}

pub(super) async fn log(call: Call) -> Result<Response, Problem> {
    let name = name(&call.argument)?;
    let limit = page(call.parameters.number("limit")?)?.min(REFLOG_ENTRIES_MAX);
    let consistency = consistency(&call.parameters)?;
    let (moves, freshness) = call.context.router.ref_log(name.clone(), limit, consistency).await?;
    let moves = moves.ok_or_else(|| Problem::from(no_such_ref(&name)).with_freshness(freshness))?;
    let moves: Vec<_> = moves.iter().map(json::ref_log_row).collect();
    let response = answer::json(StatusCode::OK, &serde_json::json!({ "name": name.to_string(), "moves": moves }));
    Ok(answer::fresh(response, freshness))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s3_2_10_the_headers_make_one_condition_or_none() {
        let id = VertexId([3; 32]);
        let tag = etag(&id);
        let check = |pairs: &[(header::HeaderName, &str)], expected: Result<Option<Condition>, Reason>| {
            let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
            assert_eq!(condition(&headers).map_err(|refusal| refusal.reason), expected, "{pairs:?}");
        };
        check(&[], Ok(None));
        check(&[(header::IF_MATCH, &tag)], Ok(Some(Condition::Is(Expect::At(id)))));
        check(&[(header::IF_MATCH, "*")], Ok(Some(Condition::Exists)));
        check(&[(header::IF_NONE_MATCH, "*")], Ok(Some(Condition::Is(Expect::Absent))));
        check(&[(header::IF_MATCH, "\"17\"")], Err(Reason::BadRequest));
        check(&[(header::IF_MATCH, &id.hex())], Err(Reason::BadRequest));
        check(&[(header::IF_NONE_MATCH, &tag)], Err(Reason::BadRequest));
        check(&[(header::IF_MATCH, &tag), (header::IF_NONE_MATCH, "*")], Err(Reason::BadRequest));
        check(&[(header::IF_MATCH, &tag), (header::IF_MATCH, &tag)], Err(Reason::BadRequest));
    }

    #[test]
    fn s3_2_10_a_page_has_its_bounds() {
        assert_eq!(page(None), Ok(PAGE_DEFAULT));
        assert_eq!(page(Some(PAGE_MAX)), Ok(PAGE_MAX));
        assert_eq!(page(Some(PAGE_MAX + 1)).unwrap_err().reason, Reason::LimitExceeded);
        assert_eq!(page(Some(0)).unwrap_err().reason, Reason::BadRequest);
    }
}
