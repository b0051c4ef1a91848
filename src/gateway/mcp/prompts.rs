//! Prompts: a question to a model, with what it needs to answer already gathered.
//!
//! Promises: everything a prompt speaks of is embedded in it as the resource a client could read itself.
//! Does not: answer. The model does.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::fault::Fault;
use super::message::Params;
use super::reply::Fields;
use super::resources::{self, JSON};
use super::tools::page;
use super::uri::{self, Part};
use crate::gateway::quic::wire::QueryRequest;
use crate::gateway::{Context, json as forms};

/// Vertices of a history that a prompt shows.
const HISTORY_MAX: u32 = 200;

/// Answers `prompts/get`.
///
/// # Errors
/// Invalid params: no such prompt, an argument that is missing or unknown, an id that is not here.
pub(super) async fn get(context: &Context, id: &str, params: &Params<'_>) -> Result<Fields, Fault> {
    let name = params.name.as_deref().unwrap_or_default();
    let (description, messages) = match name {
        "investigate_vertex" => {
            let [vertex] = arguments(name, params.arguments, ["id"])?;
            ("A vertex and what is around it", investigate(context, &vertex).await?)
        }
        "explain_history" => {
            let [from, to] = arguments(name, params.arguments, ["from", "to"])?;
            ("What is in one history and not in another", explain(context, &from, &to).await?)
        }
        _ => return Err(Fault::invalid_params(format!("no prompt {name:?}; see prompts/list"))),
    };
    let messages = Value::from(messages).to_string();
    let mut fields = Fields::open(id, messages.len());
    fields.text("description", description);
    fields.raw("messages", messages.as_bytes());
    Ok(fields)
}

async fn investigate(context: &Context, vertex: &str) -> Result<Vec<Value>, Fault> {
    let question = format!(
        "Investigate the vertex {vertex} of a content-addressed DAG. Its content, parents, children and status follow. Say what \
         it is, what it builds on, what builds on it, and whether anything about it is unusual. If trust matters, call \
         dag_verify with its id before you conclude."
    );
    let mut messages = vec![said(&question)];
    for part in [Part::Whole, Part::Parents, Part::Children, Part::Status] {
        let uri = uri::vertex(vertex, part);
        messages.push(embedded(resources::load(context, &uri).await?.shown(&uri)));
    }
    Ok(messages)
}

async fn explain(context: &Context, from: &str, to: &str) -> Result<Vec<Value>, Fault> {
    let question = format!(
        "Explain what happened between {from} and {to} in a content-addressed DAG: the vertices that {to} has in its history and \
         {from} has not follow, at most {HISTORY_MAX}, with the content of {to}. Group them, name the turning points, and say what \
         you would read next (dag_get reads content, dag_relate goes on behind the cursor)."
    );
    let request = QueryRequest {
        verb: "range".to_owned(),
        ids: vec![to.to_owned()],
        exclude: vec![from.to_owned()],
        limit: Some(HISTORY_MAX),
        ..QueryRequest::default()
    };
    let history = page(context, &request).await?;
    let walk = format!("dag://walk?root={}", uri::encoded(to));
    let head = uri::vertex(to, Part::Whole);
    Ok(vec![
        said(&question),
        embedded(json!({ "uri": walk, "mimeType": JSON, "text": forms::to_value(&history).to_string() })),
        embedded(resources::load(context, &head).await?.shown(&head)),
    ])
}

fn said(text: &str) -> Value {
    json!({ "role": "user", "content": { "type": "text", "text": text } })
}

fn embedded(resource: Value) -> Value {
    json!({ "role": "user", "content": { "type": "resource", "resource": resource } })
}

/// The values of a prompt's arguments, all of which it needs.
fn arguments<const N: usize>(prompt: &str, raw: Option<&RawValue>, names: [&str; N]) -> Result<[String; N], Fault> {
    let text = raw.map_or("{}", RawValue::get);
    let mut given: BTreeMap<String, String> = serde_json::from_str(text)
        .map_err(|error| Fault::invalid_params(format!("the arguments of {prompt} are an object of texts: {error}")))?;
    let mut values = [const { String::new() }; N];
    for (value, name) in values.iter_mut().zip(names) {
        let missing = || Fault::invalid_params(format!("the prompt {prompt} needs the argument {name:?}"));
        *value = given.remove(name).ok_or_else(missing)?;
    }
    match given.keys().next() {
        Some(other) => Err(Fault::invalid_params(format!("the prompt {prompt} has no argument {other:?}"))),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

    use super::*;

    #[test]
    fn s3_2_10_a_prompt_takes_exactly_its_arguments() {
        let read = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            arguments("p", Some(&raw), ["from", "to"])
        };
        assert_eq!(read(r#"{"to":"b","from":"a"}"#), Ok(["a".to_owned(), "b".to_owned()]));
        for wrong in ["{}", r#"{"from":"a"}"#, r#"{"from":"a","to":1}"#, r#"{"from":"a","to":"b","x":"y"}"#, "[]", "3"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(arguments("p", None, ["id"]).is_err());
    }
}
