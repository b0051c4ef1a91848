//! Completions: what an argument that someone is typing may become.
//!
//! Promises: at most [`VALUES_MAX`] values, and a bounded search for them; newest vertices first, names in order.
//! Does not: search all of a large DAG. Beyond [`VERTICES_SEARCHED_MAX`] it says that there may be more.

use serde_json::json;

use super::catalogue::{self, Listing};
use super::fault::Fault;
use super::message::Params;
use super::reply::Fields;
use crate::dag::skeleton::Number;
use crate::gateway::Context;
use crate::ids::hex;

/// Values of one completion (the revision's limit).
const VALUES_MAX: usize = 100;
/// Vertices looked at for one completion, newest first.
const VERTICES_SEARCHED_MAX: u32 = 20_000;

/// Values found, and whether there may be more.
#[derive(Debug, Default)]
struct Found {
    values: Vec<String>,
    more: bool,
}

/// Answers `completion/complete`.
///
/// # Errors
/// Invalid params: no such prompt, template, or argument of it.
pub(super) async fn complete(context: &Context, id: &str, params: &Params<'_>) -> Result<Fields, Fault> {
    let (Some(reference), Some(argument)) = (&params.reference, &params.argument) else {
        return Err(Fault::invalid_params("params must have \"ref\" and \"argument\""));
    };
    let (reference, argument) = (&reference.0, &argument.0);
    let known = match (reference.kind.as_str(), reference.name.as_deref(), reference.uri.as_deref()) {
        ("ref/prompt", Some(name), _) => prompt_argument(name, &argument.name),
        ("ref/resource", _, Some(uri)) => template_argument(uri, &argument.name),
        (kind, ..) => Err(format!("a ref of type {kind:?}; there are ref/prompt with name and ref/resource with uri")),
    };
    known.map_err(Fault::invalid_params)?;
    let value = argument.value.as_str();
    let found = match argument.name.as_str() {
        "name" => refs(context, "", value).await?,
        "namespace" => namespaces(context, value),
        "direction" => Found {
            values: ["ancestors", "descendants"]
                .map(str::to_owned)
                .into_iter()
                .filter(|word| word.starts_with(value))
                .collect(),
            more: false,
        },
        "depth" | "limit" => Found::default(),
        _ => match value.strip_prefix("ref:") {
            Some(name) => refs(context, "ref:", name).await?,
            None => vertices(context, value),
        },
    };
    let completion = json!({ "values": found.values, "hasMore": found.more }).to_string();
    let mut fields = Fields::open(id, completion.len());
    fields.raw("completion", completion.as_bytes());
    Ok(fields)
}

fn prompt_argument(name: &str, argument: &str) -> Result<(), String> {
    let prompt = row(catalogue::prompts(), "name", name).ok_or_else(|| format!("no prompt {name:?}"))?;
    let arguments = prompt["arguments"].as_array().map_or(&[][..], Vec::as_slice);
    match arguments.iter().any(|known| known["name"] == argument) {
        true => Ok(()),
        false => Err(format!("the prompt {name} has no argument {argument:?}")),
    }
}

fn template_argument(uri: &str, argument: &str) -> Result<(), String> {
    row(catalogue::templates(), "uriTemplate", uri).ok_or_else(|| format!("no template {uri:?}"))?;
    let variables =
        uri.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(variables, _)| variables);
    match variables.trim_start_matches(['+', '?']).split(',').any(|variable| variable == argument) {
        true => Ok(()),
        false => Err(format!("the template {uri} has no variable {argument:?}")),
    }
}

fn row(listing: &'static [Listing], key: &str, value: &str) -> Option<&'static serde_json::Value> {
    listing.iter().flat_map(Listing::rows).find(|row| row[key] == value)
}

async fn refs(context: &Context, before: &str, prefix: &str) -> Result<Found, Fault> {
    let rows = context.router.ref_list(prefix, None, VALUES_MAX + 1).await?;
    let values = rows.iter().take(VALUES_MAX).map(|(name, _)| format!("{before}{name}")).collect();
    Ok(Found { values, more: VALUES_MAX < rows.len() })
}

/// Namespaces of the newest vertices.
fn namespaces(context: &Context, prefix: &str) -> Found {
    let view = context.router.skeleton().view();
    let mut names = std::collections::BTreeSet::new();
    for number in newest(view.len()) {
        if let Some(name) = view.namespace(number).filter(|name| name.starts_with(prefix)) {
            names.insert(name);
        }
        if names.len() == VALUES_MAX {
            break;
        }
    }
    Found { values: names.into_iter().map(str::to_owned).collect(), more: VERTICES_SEARCHED_MAX < view.len() }
}

/// Ids of the newest vertices, in the form in which the prefix is written.
fn vertices(context: &Context, prefix: &str) -> Found {
    let view = context.router.skeleton().view();
    let mut found = Found { more: VERTICES_SEARCHED_MAX < view.len(), ..Found::default() };
    let hexadecimal =
        !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let push = |text: String, found: &mut Found| {
        if text.starts_with(prefix) {
            found.values.push(text);
        }
    };
    for number in newest(view.len()) {
        if prefix.starts_with("git:") {
            if let Some(hash) = view.git(number) {
                push(format!("git:{}", hex(&hash)), &mut found);
            }
        } else {
            let id = view.id(number);
            push(id.to_string(), &mut found);
            if hexadecimal {
                push(id.hex(), &mut found);
            }
        }
        if VALUES_MAX <= found.values.len() {
            found.values.truncate(VALUES_MAX);
            found.more = true;
            break;
        }
    }
    found
}

fn newest(length: u32) -> impl Iterator<Item = Number> {
    (length.saturating_sub(VERTICES_SEARCHED_MAX)..length).rev().map(Number)
}
