//! The JSON Schemas of the forms that the table of routes names.
//!
//! Promises: JSON Schema 2020-12, as OpenAPI 3.1 has it; the limits are those of `limits`. Does not: check anything: the types in
//! `gateway::json` do.

use serde_json::{Value, json};

use crate::error::Reason;
use crate::limits::{
    AUTHOR_BYTES_MAX, GET_BATCH_MAX, KIND_BYTES_MAX, LABELS_MAX, NAMESPACE_BYTES_MAX, PAGE_MAX, PARENTS_MAX, ROOTS_MAX,
};

fn of(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn list(name: &str) -> Value {
    json!({ "type": "array", "items": of(name) })
}

fn nullable(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

/// Every schema, by its name.
pub(super) fn all() -> Value {
    let mut schemas = json!({});
    for part in [vertices(), graph(), refs(), node()] {
        if let (Some(schemas), Value::Object(part)) = (schemas.as_object_mut(), part) {
            schemas.extend(part);
        }
    }
    schemas
}

fn vertices() -> Value {
    let signature = json!({ "type": "string", "contentEncoding": "base64" });
    let word = "^[a-z0-9._/-]+$";
    let mut vertex_in = object(
        &["kind"],
        json!({
            "namespace": { "type": "string", "pattern": word, "maxLength": NAMESPACE_BYTES_MAX, "default": "default" },
            "kind": { "type": "string", "pattern": word, "maxLength": KIND_BYTES_MAX },
            "author": { "type": "string", "minLength": 1, "maxLength": AUTHOR_BYTES_MAX },
            "timestamp_ms": { "type": "integer", "minimum": 0, "description": "Milliseconds since 1970; absent is now." },
            "parents": { "type": "array", "maxItems": PARENTS_MAX, "items": { "type": "string" } },
            "labels": { "type": "object", "maxProperties": LABELS_MAX, "additionalProperties": { "type": "string" } },
            "payload": { "type": "string", "description": "The content, when it is text." },
            "payload_base64": { "type": "string", "contentEncoding": "base64", "description": "The content, when it is not." },
            "signature": of("Signature"),
        }),
    );
    vertex_in["additionalProperties"] = false.into();
    let mut vertex = vertex_in.clone();
    vertex["required"] = json!(["id", "hex", "namespace", "kind", "timestamp_ms", "parents", "labels"]);
    vertex["properties"]["id"] = of("Id");
    vertex["properties"]["hex"] = json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" });
    let receipt = json!({
        "id": of("Id"),
        "existed": { "type": "boolean" },
        "durable": { "type": "boolean" },
        "slot": { "type": "integer" },
        "shard": { "type": "integer" },
        "token": { "type": "string", "description": "Not older than this: give it to a later question." },
        "generation": { "type": "integer", "description": "Absent while a parent is missing." },
    });
    // The last line of a stream that could not be read to its end has only the error.
    let mut batch_line = object(&[], receipt.clone());
    batch_line["anyOf"] = json!([{ "required": ["line"] }, { "required": ["error"] }]);
    batch_line["properties"]["line"] = json!({ "type": "integer", "minimum": 1 });
    batch_line["properties"]["error"] = of("Problem");
    json!({
        "Id": { "type": "string", "description": "A CIDv1 of codec dag-cbor with hash blake3-256, in base32." },
        "Signature": object(&["algorithm", "public_key", "signature"], json!({
            "algorithm": { "enum": ["ed25519", "ml-dsa-65"] },
            "public_key": signature,
            "signature": signature,
        })),
        "VertexIn": vertex_in,
        "Vertex": vertex,
        "PutAnswer": object(&["id", "existed", "durable", "slot", "shard", "token"], receipt),
        "BatchLine": batch_line,
        "Ids": object(&["ids"], json!({
            "ids": { "type": "array", "maxItems": GET_BATCH_MAX, "items": { "type": "string" } },
        })),
        "Vertices": object(&["vertices"], json!({
            "vertices": {
                "type": "array",
                "description": "In the order of the ids; null is not here.",
                "items": { "oneOf": [of("Vertex"), { "type": "null" }] },
            },
        })),
        "VertexLine": { "oneOf": [of("Vertex"), object(&["id", "error"], json!({ "id": { "type": "string" }, "error": of("Problem") }))] },
        "Has": object(&["has"], json!({ "has": { "type": "array", "items": { "type": "boolean" } } })),
        "Status": object(&["id", "hex", "durable", "slot", "shard", "staged"], json!({
            "id": of("Id"),
            "hex": { "type": "string" },
            "durable": { "type": "boolean" },
            "slot": { "type": "integer" },
            "shard": { "type": "integer" },
            "staged": { "type": "boolean", "description": "It waits for a parent, and is not in the graph yet." },
            "generation": { "type": "integer" },
            "tip": { "type": "boolean" },
            "git": nullable("string"),
        })),
    })
}

fn graph() -> Value {
    json!({
        "Summary": object(&["id", "generation", "timestamp_ms", "kind", "namespace"], json!({
            "id": of("Id"),
            "generation": { "type": "integer", "description": "1 + the largest generation of its parents." },
            "timestamp_ms": { "type": "integer" },
            "kind": { "type": "string" },
            "namespace": { "type": "string" },
            "git": nullable("string"),
        })),
        "Page": object(&["vertices", "cursor"], json!({ "vertices": list("Summary"), "cursor": nullable("string") })),
        "PageLine": { "oneOf": [
            of("Summary"),
            object(&["cursor"], json!({ "cursor": { "type": "string", "description": "The last line, when there is more." } })),
            object(&["error"], json!({ "error": of("Problem") })),
        ] },
        "Path": object(&["path"], json!({
            "path": { "oneOf": [list("Summary"), { "type": "null", "description": "Neither follows the other." }] },
        })),
        "IsAncestor": object(&["is_ancestor"], json!({ "is_ancestor": { "type": "boolean" } })),
        "Diff": object(&["only_from", "only_to", "bases"], json!({
            "only_from": list("Summary"),
            "only_to": list("Summary"),
            "bases": list("Summary"),
        })),
        "DiffLine": { "oneOf": [
            object(&["part", "vertex"], json!({ "part": { "enum": ["only_from", "only_to", "bases"] }, "vertex": of("Summary") })),
            object(&["error"], json!({ "error": of("Problem") })),
        ] },
        "Walk": object(&["roots"], json!({
            "roots": { "type": "array", "minItems": 1, "maxItems": ROOTS_MAX, "items": { "type": "string" } },
            "exclude": { "type": "array", "maxItems": ROOTS_MAX, "items": { "type": "string" }, "description": "Leave out these and what they follow; ancestors only." },
            "direction": { "enum": ["ancestors", "descendants"], "default": "ancestors" },
            "order": { "enum": ["bfs", "topo", "time"] },
            "depth": { "type": "integer", "minimum": 0 },
            "limit": { "type": "integer", "minimum": 1, "maximum": PAGE_MAX },
            "cursor": { "type": "string" },
            "namespace": { "type": "string" },
            "kind": { "type": "string" },
            "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            "since_ms": { "type": "integer" },
            "until_ms": { "type": "integer" },
            "since_gen": { "type": "integer" },
            "until_gen": { "type": "integer" },
            "token": { "type": "string" },
        })),
    })
}

fn refs() -> Value {
    let row = json!({
        "name": { "type": "string" },
        "at": nullable("string"),
        "version": { "type": "integer", "description": "Moves so far." },
        "token": { "type": "string", "description": "Only in the answer of a move." },
    });
    json!({
        "Ref": object(&["name", "at", "version"], row),
        "Refs": object(&["refs", "cursor"], json!({ "refs": list("Ref"), "cursor": nullable("string") })),
        "RefSet": object(&["to"], json!({
            "to": { "type": "string", "description": "Where to: an id, git:HASH or ref:NAME." },
            "expect": { "type": "string", "description": "Where it is expected: an id, or `absent`; 409 when it is elsewhere." },
            "actor": { "type": "string" },
            "reason": { "type": "string" },
        })),
        "RefLog": object(&["name", "moves"], json!({
            "name": { "type": "string" },
            "moves": { "type": "array", "items": object(&["version", "from", "to", "timestamp_ms"], json!({
                "version": { "type": "integer" },
                "from": nullable("string"),
                "to": nullable("string"),
                "actor": { "type": "string" },
                "reason": { "type": "string" },
                "timestamp_ms": { "type": "integer" },
            })) },
        })),
    })
}

fn node() -> Value {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    json!({
        "Problem": object(&["type", "title", "status", "detail", "reason"], json!({
            "type": { "type": "string", "format": "uri-reference" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "reason": { "enum": reasons },
            "retryAfterMs": { "type": "integer", "description": "When to come back; absent where coming back does not help." },
        })),
        "Mcp": {
            "type": "object",
            "description": "One JSON-RPC 2.0 message of the Model Context Protocol; its own specification describes it.",
        },
        "Explanation": object(&["method", "path", "passes", "stages"], json!({
            "method": { "type": "string" },
            "path": { "type": "string" },
            "tool": { "type": "string" },
            "passes": { "type": "boolean", "description": "Whether every stage would let it pass." },
            "stages": { "type": "array", "items": object(&["stage", "verdict", "detail"], json!({
                "stage": { "type": "string" },
                "verdict": { "enum": ["pass", "refuse", "skip"] },
                "detail": { "type": "string" },
            })) },
        })),
        "ResourceMetadata": object(&["resource", "authorization_servers"], json!({
            "resource": { "type": "string", "format": "uri", "description": "What a token's audience must be." },
            "authorization_servers": { "type": "array", "items": { "type": "string", "format": "uri" } },
            "scopes_supported": { "type": "array", "items": { "type": "string" } },
            "bearer_methods_supported": { "type": "array", "items": { "type": "string" } },
            "resource_name": { "type": "string" },
        })),
        "Health": object(&["healthy"], json!({
            "healthy": { "type": "boolean" },
            "checks": { "type": "array", "items": object(&["name", "ok", "detail"], json!({
                "name": { "type": "string" },
                "ok": { "type": "boolean" },
                "detail": { "type": "string" },
            })) },
        })),
        "Version": object(&["name", "version", "node", "http", "quic", "https"], json!({
            "name": { "type": "string" },
            "version": { "type": "string" },
            "node": { "type": "string" },
            "http": { "type": "string" },
            "quic": { "type": "string" },
            "https": { "type": "boolean" },
            "backend": { "type": "string" },
            "profile": { "type": "string" },
            "started_ms": { "type": "integer" },
        })),
        "Upstreams": object(&["upstreams", "collisions", "refused"], json!({
            "upstreams": { "type": "array", "items": { "type": "object", "required": ["name", "state"], "properties": {
                "name": { "type": "string" },
                "state": { "enum": ["up", "down", "starting", "drained"] },
                "revision": { "type": ["string", "null"] },
                "error": { "type": ["string", "null"] },
                "breaker": { "enum": ["closed", "open", "half_open"] },
                "tools": { "type": "integer" },
                "prompts": { "type": "integer" },
                "resources": { "type": "integer" },
                "lists_read_ms": { "type": "integer" },
                "calls": { "type": "integer" },
                "failures": { "type": "integer" },
                "open": { "type": "integer" },
                "retries": { "type": "integer" },
                "retries_refused": { "type": "integer" },
                "balance": { "enum": ["round_robin", "least_loaded", "hash"] },
                "endpoints": { "type": "array", "items": endpoint() },
                "breakers": { "type": "array", "items": breaker() },
            } } },
            "collisions": { "type": "array", "items": { "type": "string" } },
            "refused": { "type": "array", "items": { "type": "object" } },
        })),
        "HealthMatrix": object(&["observer", "endpoints"], json!({
            "observer": { "type": "string" },
            "endpoints": { "type": "array", "items": endpoint() },
        })),
        "Breakers": object(&["breakers"], json!({ "breakers": { "type": "array", "items": breaker() } })),
        "BreakerReset": object(&["upstream"], json!({
            "upstream": { "type": "string" },
            "tool": { "type": "string" },
        })),
        "BreakersReset": object(&["reset"], json!({ "reset": { "type": "integer" } })),
        "Stats": object(&["version", "node", "dag", "cores"], json!({
            "version": { "type": "string" },
            "node": { "type": "string" },
            "profile": { "type": "string" },
            "backend": { "type": "string" },
            "http": { "type": "string" },
            "https": { "type": "boolean" },
            "quic": { "type": "string" },
            "uptime_s": { "type": "integer" },
            "cpu_us": { "type": "integer" },
            "resident_bytes": { "type": "integer" },
            "dag": { "type": "object" },
            "cores": { "type": "array", "items": { "type": "object" } },
        })),
    })
}

/// An endpoint of an upstream, as it is told.
fn endpoint() -> Value {
    object(
        &["endpoint", "id", "state", "weight_percent"],
        json!({
            "upstream": { "type": "string" },
            "endpoint": { "type": "string" },
            "id": { "type": "string" },
            "state": { "enum": ["healthy", "slow", "slow_start", "ejected", "unhealthy"] },
            "weight_percent": { "type": "integer" },
            "open": { "type": "integer" },
            "calls": { "type": "integer" },
            "failures": { "type": "integer" },
            "latency_ms": { "type": "integer" },
            "window_calls": { "type": "integer" },
            "window_failures": { "type": "integer" },
            "ejections": { "type": "integer" },
            "ejected_ms": { "type": "integer" },
        }),
    )
}

/// A breaker, as it is told.
fn breaker() -> Value {
    object(
        &["tool", "endpoint", "state"],
        json!({
            "upstream": { "type": "string" },
            "tool": { "type": "string" },
            "endpoint": { "type": "string" },
            "state": { "enum": ["closed", "open", "half_open"] },
            "failures": { "type": "integer" },
            "retry_ms": { "type": "integer" },
        }),
    )
}
