//! The MCP door of a real node: every method and tool with strange arguments, headers that do not mirror the body, broken JSON.
//!
//! What comes back is JSON-RPC with the request's id where it had one, never an internal error, never a 5xx.

use serde_json::{Value, json};

use super::drive::fuzz;
use super::http::{Connection, request};
use super::json_tree::change;
use super::mutate::mutate;
use super::stand::Stand;

const CASES_PER_LOOK: u32 = 64;
const INTERNAL_ERROR: i64 = -32603;
const REVISION: &str = "2026-07-28";

fn seeds(id: &str, other: &str) -> Vec<(&'static str, Value)> {
    let tool = |name: &str, arguments: Value| ("tools/call", json!({ "name": name, "arguments": arguments }));
    let read = |uri: String| ("resources/read", json!({ "uri": uri }));
    let complete = |reference: Value, name: &str| {
        ("completion/complete", json!({ "ref": reference, "argument": { "name": name, "value": "heads" } }))
    };
    let vertex = json!({
        "kind": "note", "namespace": "fuzz", "author": "ada", "timestamp_ms": 1, "parents": [id], "labels": { "a": "b" },
        "payload": "text",
    });
    vec![
        tool("dag_get", json!({ "ids": [id, other], "include": "header" })),
        tool("dag_order", json!({ "roots": [id], "limit": 3, "cursor": "", "token": "0.1" })),
        tool("dag_put", vertex.clone()),
        tool(
            "dag_put_batch",
            json!({ "vertices": [vertex, { "kind": "note", "parents": ["#0"] }], "allow_missing_parents": true }),
        ),
        tool("dag_relate", json!({ "op": "diff", "a": id, "b": other, "limit": 5 })),
        tool("dag_tips", json!({ "namespace": "default", "limit": 5 })),
        tool("dag_verify", json!({ "id": id, "to": other })),
        tool(
            "dag_walk",
            json!({ "roots": [id], "direction": "descendants", "depth": 3, "order": "time", "kind": "note", "labels": { "a": "b" } }),
        ),
        tool("node_status", json!({ "view": "shards" })),
        tool("ref_get", json!({ "name": "heads/main", "log": true, "limit": 5 })),
        tool("ref_set", json!({ "name": "heads/fuzz", "new": id, "expected": "absent", "actor": "a", "reason": "b" })),
        read("dag://state".to_owned()),
        read(format!("dag://vertex/{id}/payload")),
        read(format!("dag://walk?root={id}&direction=ancestors&depth=2&limit=5")),
        read("dag://ref/heads/main".to_owned()),
        ("server/discover", json!({})),
        ("tools/list", json!({ "cursor": "x" })),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("prompts/list", json!({})),
        ("prompts/get", json!({ "name": "explain_history", "arguments": { "from": id, "to": other } })),
        complete(json!({ "type": "ref/resource", "uri": "dag://ref/{+name}" }), "name"),
        complete(json!({ "type": "ref/prompt", "name": "investigate_vertex" }), "id"),
        (
            "subscriptions/listen",
            json!({ "notifications": { "resourceSubscriptions": ["dag://state", "dag://ref/heads/main"] } }),
        ),
        ("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {} })),
    ]
}

/// The headers that mirror this body, as a well-behaved client sets them.
fn mirror(method: &str, params: &Value) -> Vec<(String, String)> {
    let mut headers = vec![
        ("Content-Type".to_owned(), "application/json".to_owned()),
        ("MCP-Protocol-Version".to_owned(), REVISION.to_owned()),
        ("Mcp-Method".to_owned(), method.to_owned()),
    ];
    let text = |value: &Value| {
        value.as_str().filter(|text| text.bytes().all(|byte| (b' '..0x7f).contains(&byte))).map(str::to_owned)
    };
    if let Some(name) = text(&params["name"]).or_else(|| text(&params["uri"])) {
        headers.push(("Mcp-Name".to_owned(), name));
    }
    let mirrored = [
        ("dag_tips", "namespace", "Mcp-Param-Namespace"),
        ("ref_get", "name", "Mcp-Param-Ref"),
        ("ref_set", "name", "Mcp-Param-Ref"),
    ];
    for (tool, argument, header) in mirrored {
        if let Some(value) = text(&params["arguments"][argument]).filter(|_| params["name"] == tool) {
            headers.push((header.to_owned(), value));
        }
    }
    headers
}

#[test]
fn s0_1_fuzz_the_mcp_door() {
    let mut stand = Stand::new();
    let address = stand.node.http();
    let put = |payload: &str| stand.node.ok_with_input(&["dag", "put", "--kind", "note", "-"], payload.as_bytes());
    let (id, other) = (put("one"), put("two"));
    stand.node.ok(&["ref", "set", "heads/main", &id]);
    let seeds = seeds(&id, &other);
    let host = ("Host".to_owned(), address.to_string());
    let mut connection = None;
    let mut cases = 0u32;
    fuzz("the MCP door", |random| {
        let (method, params) = random.pick(&seeds);
        let mut params = params.clone();
        if random.one_in(2) {
            change(random, &mut params);
        }
        if params.is_object() && !random.one_in(16) {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        let mut headers = mirror(method, &params);
        headers.push(host.clone());
        if random.one_in(8) {
            let at = random.below(headers.len());
            match random.below(4) {
                0 => drop(headers.remove(at)),
                1 => headers.push(headers[at].clone()),
                2 => headers[at].1.push('x'),
                _ => {
                    headers[at].1 = (*random.pick(&["", "=?base64?ZGFnX2dldA==?=", "=?base64?/w==?=", "\t"])).to_owned()
                }
            }
        }
        let mut message = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        if random.one_in(4) {
            change(random, &mut message);
        }
        let mut body = message.to_string().into_bytes();
        if random.one_in(4) {
            mutate(random, &mut body, &[], &[b"\\u", b"{", b"}", b"\"id\":1,", b"null", b"\xff", b"1e999", b"[["]);
        }
        headers.push(("Content-Length".to_owned(), body.len().to_string()));
        let mut open = connection.take().unwrap_or_else(|| Connection::open(address));
        open.send(&request("POST", "/mcp", &headers, &body));
        let answer = open.answer("POST").expect("an answer");
        let told = || {
            let [sent, answered] = [&body, &answer.body].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            format!("{headers:?}\n{sent}\n-> {}\n{answered}", answer.status)
        };
        assert!((200..500).contains(&answer.status), "the node blames itself: {}", told());
        if answer.header("content-type") == "application/json" {
            judge(&body, &answer.body, &told);
        }
        if answer.open {
            connection = Some(open);
        }
        cases += 1;
        if cases.is_multiple_of(CASES_PER_LOOK) {
            stand.is_well();
        }
    });
    drop(connection);
    stand.end();
}

fn judge(sent: &[u8], answered: &[u8], told: &dyn Fn() -> String) {
    let document: Value = serde_json::from_slice(answered).unwrap_or_else(|error| panic!("{error}: {}", told()));
    assert_eq!(document["jsonrpc"], "2.0", "{}", told());
    assert!(document["result"].is_object() != document["error"].is_object(), "{}", told());
    if let Some(code) = document["error"]["code"].as_i64() {
        assert_ne!(code, INTERNAL_ERROR, "{}", told());
    }
    assert_ne!(document["result"]["structuredContent"]["reason"], "internal", "{}", told());
    // A body that is one JSON object with a usable id is answered under that id, whatever else is wrong with it.
    let sent: Option<Value> = serde_json::from_slice(sent).ok();
    let id = sent.as_ref().and_then(|sent| sent.get("id")).filter(|id| id.is_string() || id.is_number());
    if let (Some(answered), Some(sent)) = (document.get("id"), id) {
        assert_eq!(answered, sent, "{}", told());
    }
}
