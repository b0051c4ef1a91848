//! Tools about refs: read, list, move.
//!
//! Promises: a read is linearizable unless an older one is asked for, and says how old it may be; a move happens only from where its mover expected the ref.
//! Does not: move several refs at once.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{Outcome, arguments, written};
use crate::dag::refs::{Expect, Position, RefMove, RefName};
use crate::error::{Reason, Refusal};
use crate::gateway::json::ref_log_row;
use crate::gateway::mcp::page;
use crate::gateway::quic::wire::{FreshnessRow, RefLogRow, RefRow};
use crate::gateway::{Context, now_ms};
use crate::ids::Token;
use crate::limits::{PAGE_DEFAULT, PAGE_MAX, REFLOG_ENTRIES_MAX};
use crate::router::consistency::Consistency;

/// `ref_get`
pub(super) async fn get(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        name: Option<String>,
        prefix: Option<String>,
        #[serde(default)]
        log: bool,
        limit: Option<usize>,
        cursor: Option<String>,
        #[serde(default)]
        consistency: String,
    }
    #[derive(Serialize)]
    struct One {
        #[serde(rename = "ref")]
        row: RefRow,
        #[serde(skip_serializing_if = "Option::is_none")]
        log: Option<Vec<RefLogRow>>,
        freshness: FreshnessRow,
    }
    #[derive(Serialize)]
    struct Many {
        refs: Vec<RefRow>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
        freshness: FreshnessRow,
    }
    let Arguments { name, prefix, log, limit, cursor, consistency } = arguments(raw)?;
    let consistency: Consistency = consistency.parse()?;
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || PAGE_MAX < limit {
        return Err(Refusal::limit("limit (at least 1)", limit, PAGE_MAX, "refs"));
    }
    let Some(name) = name else {
        if log {
            return Err(Refusal::bad_request("log needs the name of one ref"));
        }
        let after = match cursor {
            Some(cursor) => Some(page::after(&cursor).map_err(|fault| Refusal::bad_request(fault.message))?),
            None => None,
        };
        let prefix = prefix.unwrap_or_default();
        let (mut rows, freshness) = context.router.ref_list_with(&prefix, after, limit + 1, consistency).await?;
        let more = limit < rows.len();
        rows.truncate(limit);
        let cursor = rows.last().filter(|_| more).map(|(name, _)| page::cursor_after(name));
        let refs = rows.iter().map(|(name, position)| row(name, *position)).collect();
        return Ok(written(&Many { refs, cursor, freshness: freshness.into() }));
    };
    if prefix.is_some() || cursor.is_some() {
        return Err(Refusal::bad_request("give name, or prefix and cursor, not both"));
    }
    let name: RefName = name.parse()?;
    let entries = match log {
        true => context.router.ref_log(name.clone(), limit.min(REFLOG_ENTRIES_MAX), consistency).await?.0,
        false => None,
    };
    let entries = entries.map(|entries| entries.iter().map(ref_log_row).collect::<Vec<_>>());
    let (position, freshness) = context.router.ref_get_with(name.clone(), consistency).await?;
    let position = position.unwrap_or_default();
    // A ref that was deleted still has its log.
    if position.at.is_none() && entries.is_none() {
        return Err(Refusal::new(
            Reason::NotFound,
            format!("no ref {name}; ref_get with a prefix lists what there is"),
        ));
    }
    Ok(written(&One { row: row(&name, position), log: entries, freshness: freshness.into() }))
}

/// `ref_set`
pub(super) async fn set(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        name: String,
        // Absent is refused, null deletes: a forgotten argument must not delete a ref.
        #[serde(deserialize_with = "nullable")]
        new: Option<String>,
        expected: Option<String>,
        #[serde(default)]
        actor: String,
        #[serde(default)]
        reason: String,
    }
    #[derive(Serialize)]
    struct Answer {
        #[serde(rename = "ref")]
        row: RefRow,
        token: String,
    }
    let Arguments { name, new, expected, actor, reason } = arguments(raw)?;
    let name: RefName = name.parse()?;
    let to = match new {
        Some(text) => Some(context.router.resolve(&text).await?),
        None => None,
    };
    let expect = match expected.as_deref() {
        None => Expect::Any,
        Some("absent") => Expect::Absent,
        Some(text) => Expect::At(context.router.resolve(text).await?),
    };
    let change = RefMove { name: name.clone(), expect, to, actor, reason, timestamp_ms: now_ms() };
    let receipt = context.router.ref_set(change).await?;
    let token = Token { shard: receipt.shard, index: receipt.index }.to_string();
    Ok(written(&Answer { row: row(&name, receipt.position), token }))
}

/// A ref as it is shown.
pub(in crate::gateway::mcp) fn row(name: &RefName, position: Position) -> RefRow {
    RefRow { name: name.to_string(), at: position.at.map(|id| id.to_string()), version: position.version }
}

fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}
