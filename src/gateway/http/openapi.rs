//! The door's description as OpenAPI 3.1, made from the table of routes.
//!
//! Promises: what the table says is what is described: each row once, each parameter, each form. Does not: answer requests.

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{ANSWERED, APPLIED, STALENESS_MS};
use super::negotiate::{DAG_CBOR, EVENTS, JSON, NDJSON, RKYV};
use super::problem::PROBLEM_JSON;
use super::route::{Action, Kind, ROUTES, Route};
use super::schema;

/// The description as JSON text, made once.
pub(super) fn text(version: &str) -> Bytes {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    TEXT.get_or_init(|| Bytes::from(document(version).to_string())).clone()
}

/// The description.
pub(super) fn document(version: &str) -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "qmesh",
            "version": version,
            "summary": "A node of a content-addressed DAG",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schema::all(),
            "responses": {
                "Problem": {
                    "description": "A refusal (RFC 9457): `reason` is stable, `detail` says what to do.",
                    "headers": {
                        "Retry-After": { "description": "When to come back, in seconds.", "schema": { "type": "integer" } }
                    },
                    "content": { PROBLEM_JSON: { "schema": reference("Problem") } },
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters = Vec::new();
    for name in ["id", "name"] {
        if route.path.contains(&format!("{{{name}}}")) {
            let about = match name {
                "id" => "A CIDv1, 64 hexadecimal digits, git:HASH or ref:NAME, percent-encoded.",
                _ => "The name of the ref. Its slashes may stand as they are.",
            };
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "description": about, "schema": { "type": "string" },
            }));
        }
    }
    for parameter in route.parameters.iter().copied().flatten() {
        let one = match parameter.kind {
            Kind::Text => json!({ "type": "string" }),
            Kind::Number => json!({ "type": "integer", "minimum": 0 }),
            Kind::Switch => json!({ "type": "boolean" }),
        };
        let schema = if parameter.repeats { json!({ "type": "array", "items": one }) } else { one };
        parameters.push(json!({
            "name": parameter.name, "in": "query", "description": parameter.about, "schema": schema,
        }));
    }
    for (name, about) in headers(route.action) {
        parameters.push(json!({ "name": name, "in": "header", "description": about, "schema": { "type": "string" } }));
    }
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.about,
        "tags": [if route.path.starts_with("/api/v1/dag") { "dag" } else { "node" }],
        "parameters": parameters,
        "responses": responses(route),
    });
    if !route.request.is_empty() {
        operation["requestBody"] = json!({ "required": true, "content": request_content(route.request) });
    }
    operation
}

/// The headers that a route reads beyond HTTP's common ones.
fn headers(action: Action) -> &'static [(&'static str, &'static str)] {
    match action {
        Action::VertexGet => &[("If-None-Match", "The tag the caller has: 304 when it is the same.")],
        Action::VertexPayload => &[
            ("If-None-Match", "The tag the caller has: 304 when it is the same."),
            ("Range", "One range of bytes: 206, or 416 behind the end."),
            ("If-Range", "The tag under which the range is wanted."),
        ],
        Action::RefGet => &[("If-None-Match", "The tag the caller has: 304 when the ref has not moved.")],
        Action::RefSet | Action::RefDelete => &[
            ("If-Match", "The tag of where the ref must be: 412 when it is elsewhere."),
            ("If-None-Match", "`*`: the ref must be new."),
        ],
        Action::Watch => &[("Last-Event-ID", "Go on behind this event.")],
        _ => &[],
    }
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.filter(|word| !matches!(*word, "api" | "v1" | "id" | "name")).collect();
    let detail = match (route.path.ends_with("{id}"), route.path.ends_with("{name}")) {
        (false, false) => "",
        _ => "_one",
    };
    format!("{}_{}{detail}", route.method.to_ascii_lowercase(), words.join("_"))
}

fn responses(route: &Route) -> Value {
    let mut responses = json!({
        "200": { "description": "The answer.", "content": answer_content(route.answer) },
        "default": { "$ref": "#/components/responses/Problem" },
    });
    if route.parameters.iter().any(|known| known.iter().any(|parameter| parameter.name == "consistency")) {
        responses["200"]["headers"] = json!({
            ANSWERED.as_str(): { "description": "Who answered: primary, or replica.", "schema": { "type": "string" } },
            STALENESS_MS.as_str(): {
                "description": "How old the answer, or its 404, may be, in milliseconds; unknown from a replica that has not heard of its primary.",
                "schema": { "type": "string" },
            },
            APPLIED.as_str(): { "description": "The token up to which a replica's answer knows everything.", "schema": { "type": "string" } },
        });
    }
    let mut also = |status: &str, about: &str| responses[status] = json!({ "description": about });
    match route.action {
        Action::VertexPut => {
            responses["201"] = json!({ "description": "The vertex is new.", "content": answer_content(route.answer) });
        }
        Action::RefSet => {
            responses["201"] = json!({ "description": "The ref is new.", "content": answer_content(route.answer) });
        }
        Action::RefDelete => {
            also("204", "The ref is gone; its log stays.");
            if let Some(map) = responses.as_object_mut() {
                map.remove("200");
            }
        }
        Action::VertexPayload => {
            also("206", "The part that was asked for.");
            also("304", "The caller has it.");
        }
        Action::VertexGet | Action::RefGet => also("304", "The caller has it."),
        _ => {}
    }
    responses
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn request_content(form: &str) -> Value {
    match form {
        "VertexIn" => json!({ JSON: { "schema": reference(form) }, RKYV: { "schema": binary() } }),
        "VertexIn*" => json!({ NDJSON: { "schema": reference("VertexIn") }, RKYV: { "schema": binary() } }),
        form => json!({ JSON: { "schema": reference(form) } }),
    }
}

fn answer_content(form: &str) -> Value {
    match form {
        "Vertex" => json!({
            JSON: { "schema": reference(form) }, DAG_CBOR: { "schema": binary() }, RKYV: { "schema": binary() },
        }),
        "Page" => json!({ JSON: { "schema": reference(form) }, NDJSON: { "schema": reference("PageLine") } }),
        "Diff" => json!({ JSON: { "schema": reference(form) }, NDJSON: { "schema": reference("DiffLine") } }),
        "Vertices" => json!({ JSON: { "schema": reference(form) }, NDJSON: { "schema": reference("VertexLine") } }),
        "BatchLine*" => json!({ NDJSON: { "schema": reference("BatchLine") } }),
        "Bytes" => json!({ "application/octet-stream": { "schema": binary() } }),
        "Events" => json!({ EVENTS: { "schema": { "type": "string" } } }),
        "Text" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        "OpenMetrics" => json!({ "application/openmetrics-text": { "schema": { "type": "string" } } }),
        "Mcp" => {
            json!({ JSON: { "schema": { "type": "object" } }, "text/event-stream": { "schema": { "type": "string" } } })
        }
        "OpenApi" => json!({ JSON: { "schema": { "type": "object" } } }),
        "Nothing" => json!({}),
        form => json!({ JSON: { "schema": reference(form) } }),
    }
}

fn binary() -> Value {
    json!({ "type": "string", "format": "binary" })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::super::route::find;
    use super::*;

    #[test]
    fn s3_2_5_every_route_is_described_and_everything_described_is_routed() {
        let document = document("1.2.3");
        let paths = document["paths"].as_object().unwrap();
        for route in ROUTES {
            let operation = &paths[route.path][route.method.to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.about, "{} {}", route.method, route.path);
        }
        let mut identifiers = Vec::new();
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().unwrap() {
                let method = method.to_ascii_uppercase().parse().unwrap();
                let path = path.replace("{id}", "x").replace("{name}", "x");
                assert!(find(&method, &path).is_ok(), "{method} {path} is described and not routed");
                identifiers.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(identifiers.len(), ROUTES.len());
        identifiers.sort();
        identifiers.dedup();
        assert_eq!(identifiers.len(), ROUTES.len(), "two operations have one name");
    }

    #[test]
    fn s3_2_5_every_form_that_is_named_is_described() {
        let document = document("1.2.3");
        let known = document["components"]["schemas"].as_object().unwrap();
        let mut named = Vec::new();
        references(&document, &mut named);
        for name in &named {
            let name = name.strip_prefix("#/components/").unwrap();
            let (room, name) = name.split_once('/').unwrap();
            assert!(document["components"][room].get(name).is_some(), "{name} is named and not described");
        }
        for name in known.keys() {
            assert!(named.iter().any(|used| used.ends_with(&format!("/{name}"))), "{name} is described and never used");
        }
    }

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if key == "$ref" {
                        found.push(value.as_str().unwrap().to_owned());
                    }
                    references(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
}
