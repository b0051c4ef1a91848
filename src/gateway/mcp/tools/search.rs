//! The tool that finds tools.
//!
//! Promises: it asks nobody; what it finds is what the lists have. Does not: call what it finds.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Outcome, arguments, written};
use crate::gateway::Context;
use crate::gateway::mcp::catalogue::{self, Listing};
use crate::gateway::upstream::{self, Row};

/// Tools that are shown when the caller does not say.
const LIMIT_DEFAULT: usize = 10;
/// Bytes of what is searched for.
const QUERY_BYTES_MAX: usize = 256;

/// `tools_search`
pub(super) fn search(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        query: String,
        #[serde(default = "limit_default")]
        limit: usize,
    }
    fn limit_default() -> usize {
        LIMIT_DEFAULT
    }
    let Arguments { query, limit } = arguments(raw)?;
    if QUERY_BYTES_MAX < query.len() {
        return Err(crate::error::Refusal::limit("query", query.len(), QUERY_BYTES_MAX, "bytes"));
    }
    let own = catalogue::tools().iter().flat_map(Listing::rows);
    let own: Vec<Row> = own
        .map(|tool| Row { key: tool["name"].as_str().unwrap_or_default().to_owned(), json: tool.to_string() })
        .collect();
    let federation = context.upstreams.current();
    let found = upstream::search(own.iter().chain(&federation.tools), &query, limit.max(1));
    // Rows came as JSON.
    let shown: Vec<&RawValue> = found.iter().filter_map(|row| serde_json::from_str(&row.json).ok()).collect();
    Ok(written(&json!({ "tools": shown, "of": own.len() + federation.tools.len() })))
}
