//! What this door offers, as the lists a client reads first.
//!
//! Promises: the lists are sorted, the same for everyone, and made once; what they say of arguments is what the tools take (a
//! test compares them). Does not: list what changes: see `resources`.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::fault::{Fault, PROTOCOL_VERSIONS};
use super::reply::{Cache, Fields};

/// A list or a description as the members of its result, in JSON.
pub(super) struct Listing {
    name: &'static str,
    json: String,
    /// The same as values, for those who look a row up.
    rows: Vec<Value>,
}

impl Listing {
    /// The rows of a list.
    pub(super) fn rows(&self) -> &[Value] {
        &self.rows
    }
}

/// What the server says of itself.
pub(super) fn discover() -> &'static [Listing] {
    static DISCOVER: LazyLock<Vec<Listing>> = LazyLock::new(|| {
        let capabilities = json!({
            "completions": {},
            "prompts": { "listChanged": true },
            "resources": { "listChanged": true, "subscribe": true },
            "tools": { "listChanged": true },
        });
        [
            ("supportedVersions", json!(PROTOCOL_VERSIONS)),
            ("capabilities", capabilities),
            ("instructions", json!(INSTRUCTIONS)),
        ]
        .map(|(name, value)| Listing { name, json: value.to_string(), rows: Vec::new() })
        .into()
    });
    &DISCOVER
}

/// The tools.
pub(super) fn tools() -> &'static [Listing] {
    static TOOLS: LazyLock<[Listing; 1]> = LazyLock::new(|| [compact("tools", include_str!("tools.json"))]);
    &*TOOLS
}

/// Whether the node itself has a tool of this name.
pub(in crate::gateway) fn has_tool(name: &str) -> bool {
    tools().iter().flat_map(Listing::rows).any(|tool| tool["name"] == name)
}

/// The templates of resources.
pub(super) fn templates() -> &'static [Listing] {
    static TEMPLATES: LazyLock<[Listing; 1]> =
        LazyLock::new(|| [compact("resourceTemplates", include_str!("templates.json"))]);
    &*TEMPLATES
}

/// The prompts.
pub(super) fn prompts() -> &'static [Listing] {
    static PROMPTS: LazyLock<[Listing; 1]> = LazyLock::new(|| [compact("prompts", include_str!("prompts.json"))]);
    &*PROMPTS
}

/// A description that has no pages, as the answer to `id`.
pub(super) fn answer(id: &str, listing: &[Listing]) -> Fields {
    let mut fields = Fields::open(id, listing.iter().map(|part| part.json.len() + part.name.len() + 8).sum());
    for part in listing {
        fields.raw(part.name, part.json.as_bytes());
    }
    fields.cache(Cache::BUILD);
    fields
}

/// A list that fits in one page, as the answer to `id`.
///
/// # Errors
/// Invalid params: no answer of ours has a cursor that leads here.
pub(super) fn page(id: &str, listing: &[Listing], cursor: Option<&str>) -> Result<Fields, Fault> {
    match cursor {
        Some(_) => Err(Fault::invalid_params("the cursor is not one that this list gave")),
        None => Ok(answer(id, listing)),
    }
}

/// A list of this build without the white space that people read it by.
fn compact(name: &'static str, text: &str) -> Listing {
    let rows: Result<Vec<Value>, serde_json::Error> = serde_json::from_str(text);
    assert!(rows.is_ok(), "the list of {name} in this build is not JSON: {rows:?}");
    let rows = rows.unwrap_or_default();
    Listing { name, json: Value::from(rows.clone()).to_string(), rows }
}

/// What a model is told once, so that no tool has to repeat it.
pub(super) const INSTRUCTIONS: &str = "A content-addressed DAG: immutable vertices named by the BLAKE3 hash of their content, edges from a \
vertex to its parents, and refs, which are names that move. Wherever a vertex id is asked for, a CID (bafyr…), 64 hexadecimal \
digits, git:COMMIT or ref:NAME is taken. Start with dag_tips or ref_get, look around with dag_walk and dag_relate, read content \
with dag_get. Writes are durable when they are answered; they return a token which, given to a later read, makes sure that the \
read sees them. Long answers come in pages: give the cursor back to go on.";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

    use super::*;
    use crate::gateway::mcp::headers::MIRRORED;

    fn rows(listing: &[Listing]) -> &[Value] {
        listing[0].rows()
    }

    #[test]
    fn s3_2_10_lists_are_sorted_and_have_what_clients_need() {
        for (listing, key) in [(tools(), "name"), (templates(), "uriTemplate"), (prompts(), "name")] {
            let names: Vec<String> = rows(listing).iter().map(|row| row[key].as_str().unwrap().to_owned()).collect();
            assert!(names.is_sorted(), "{names:?}");
            for row in rows(listing) {
                assert!(row["title"].is_string() && row["description"].is_string(), "{row}");
            }
        }
        for tool in rows(tools()) {
            assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
            assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{tool}");
            assert_eq!(tool["outputSchema"]["type"], "object", "{tool}");
            // Clients check refusals against the same schema (the TypeScript SDK does).
            assert!(tool["outputSchema"].get("required").is_none(), "{tool}");
            let forms = tool["outputSchema"]["anyOf"].as_array();
            assert!(forms.is_none_or(|forms| forms.contains(&json!({ "required": ["reason"] }))), "{tool}");
            for hint in ["readOnlyHint", "idempotentHint", "destructiveHint", "openWorldHint"] {
                assert!(tool["annotations"][hint].is_boolean(), "{hint} of {tool}");
            }
        }
    }

    #[test]
    fn s3_2_10_the_list_of_tools_stays_small_in_a_model_s_context() {
        // Four bytes a token is what JSON of this kind costs in the tokenizers of today's models.
        const BYTES_A_TOKEN: usize = 4;
        const TOKENS_MAX: usize = 4000;
        assert!(tools()[0].json.len() < BYTES_A_TOKEN * TOKENS_MAX, "{} bytes", tools()[0].json.len());
    }

    #[test]
    fn s3_1_1_mirrored_arguments_are_those_of_the_schemas() {
        let mut found = Vec::new();
        for tool in rows(tools()) {
            for (argument, schema) in tool["inputSchema"]["properties"].as_object().unwrap() {
                if let Some(header) = schema.get("x-mcp-header") {
                    let header = format!("mcp-param-{}", header.as_str().unwrap().to_lowercase());
                    found.push((tool["name"].as_str().unwrap().to_owned(), argument.clone(), header));
                }
            }
        }
        let wanted = MIRRORED.map(|(tool, argument, header)| (tool.to_owned(), argument.to_owned(), header.to_owned()));
        assert_eq!(found, wanted);
    }
}
