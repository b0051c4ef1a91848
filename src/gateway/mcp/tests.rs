//! Tables of what the door refuses before it asks the router, and the fuzz target of its messages.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::fault::Fault;
use super::message::{self, Incoming};
use super::reply::{Cache, Fields};
use super::{headers, media};
use crate::fuzz::drive::fuzz;
use crate::fuzz::mutate::mutate;

fn header_map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn meta() -> Value {
    json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} })
}

/// The request's id and the fault of a body that is refused.
fn refusal(body: &str) -> (Option<String>, Fault) {
    let refused = message::parse(body.as_bytes()).unwrap_err();
    (refused.id, refused.fault)
}

#[test]
fn s0_1_a_body_is_one_request_or_one_notification() {
    let body = r#" {"jsonrpc":"2.0","id":"a\"b","method":"tools\/call","params":{"name":"x","arguments":{"n":1.10},"other":[1]}} "#;
    let Incoming::Request(request) = message::parse(body.as_bytes()).unwrap() else { panic!("a request") };
    assert_eq!((request.id, request.method.as_str()), (r#""a\"b""#, "tools/call"));
    assert_eq!(request.params.name.as_deref(), Some("x"));
    assert_eq!(request.params.arguments.unwrap().get(), r#"{"n":1.10}"#, "digits stay as they came");
    for id in ["0", "-1", "18446744073709551616", "1.5"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
        let Incoming::Request(request) = message::parse(body.as_bytes()).unwrap() else { panic!("a request") };
        assert_eq!(request.id, id);
    }
    let body = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert!(matches!(message::parse(body).unwrap(), Incoming::Notification));
}

#[test]
fn s0_1_other_bodies_are_refused_with_json_rpc_s_codes() {
    let check = |body: &str, code: i32, id: Option<&str>| {
        let (found, fault) = refusal(body);
        assert_eq!((fault.code, fault.status, found.as_deref()), (code, 400, id), "{body}: {}", fault.message);
    };
    check("", -32700, None);
    check("{", -32700, None);
    check("{\"jsonrpc\":\"2.0\",}", -32700, None);
    check(r#"{"jsonrpc":"2.0","id":1,"method":"m"} x"#, -32700, None);
    check("[]", -32600, None);
    check(r#"[{"jsonrpc":"2.0","id":1,"method":"m"}]"#, -32600, None);
    check(r#"["2.0",1,"m",{}]"#, -32600, None);
    check("null", -32600, None);
    check("\"text\"", -32600, None);
    check("{}", -32600, None);
    check(r#"{"id":1,"method":"m"}"#, -32600, Some("1"));
    check(r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, -32600, Some("1"));
    check(r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, -32600, None);
    check(r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, -32600, None);
    check(r#"{"jsonrpc":"2.0","id":1e999,"method":"m"}"#, -32600, None);
    check(r#"{"jsonrpc":"2.0","id":"\ud800","method":"m"}"#, -32600, None);
    check(r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, -32600, None);
    check(r#"{"jsonrpc":"2.0","id":1}"#, -32600, Some("1"));
    check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, -32600, Some("1"));
    check(r#"{"jsonrpc":"2.0","id":1,"method":5}"#, -32600, None);
    check(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, -32600, None);
    check(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#, -32602, Some("1"));
    check(r#"{"jsonrpc":"2.0","id":"x","method":"m","params":{"name":5}}"#, -32602, Some("\"x\""));
    check(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":[]}}"#, -32602, Some("1"));
    let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"name":{}}}}}"#, "[".repeat(100_000));
    let (_, fault) = refusal(&deep);
    assert_eq!(fault.code, -32700, "{fault:?}");
}

/// What the headers' check says to a request: its code and status, or `None` when it passes.
fn checked(headers: &[(&str, &str)], method: &str, params: Value) -> Option<(i32, u16)> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let Incoming::Request(request) = message::parse(body.as_bytes()).unwrap() else { panic!("a request") };
    headers::check(&header_map(headers), &request).err().map(|fault| (fault.code, fault.status))
}

const VERSION: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");

#[test]
fn s3_1_1_headers_must_say_what_the_body_says() {
    let list = ("Mcp-Method", "tools/list");
    let call = ("Mcp-Method", "tools/call");
    let mismatch = Some((-32020, 400));
    let named = |name: &str, arguments: Value| json!({ "_meta": meta(), "name": name, "arguments": arguments });
    let check = |expected, headers: &[(&str, &str)], method: &str, params: Value| {
        assert_eq!(checked(headers, method, params.clone()), expected, "{headers:?} {method} {params}");
    };
    check(None, &[VERSION, list], "tools/list", json!({ "_meta": meta() }));
    check(
        None,
        &[("mcp-protocol-version", "2026-07-28"), ("MCP-METHOD", "tools/list")],
        "tools/list",
        json!({ "_meta": meta() }),
    );
    check(mismatch, &[list], "tools/list", json!({ "_meta": meta() }));
    check(mismatch, &[VERSION], "tools/list", json!({ "_meta": meta() }));
    check(mismatch, &[VERSION, ("Mcp-Method", "Tools/List")], "tools/list", json!({ "_meta": meta() }));
    check(mismatch, &[VERSION, list, list], "tools/list", json!({ "_meta": meta() }));
    check(mismatch, &[("MCP-Protocol-Version", "2025-11-25"), list], "tools/list", json!({ "_meta": meta() }));
    check(None, &[VERSION, call, ("Mcp-Name", "dag_get")], "tools/call", named("dag_get", json!({})));
    check(mismatch, &[VERSION, call], "tools/call", named("dag_get", json!({})));
    check(mismatch, &[VERSION, call, ("Mcp-Name", "dag_put")], "tools/call", named("dag_get", json!({})));
    // A name in its base64 form, as one with letters beyond ASCII must come.
    check(None, &[VERSION, call, ("Mcp-Name", "=?base64?ZGFnX2dldA==?=")], "tools/call", named("dag_get", json!({})));
    check(None, &[VERSION, call, ("Mcp-Name", "=?base64?Z3LDtsOfZQ==?=")], "tools/call", named("größe", json!({})));
    for wrong in ["=?base64?%%%?=", "=?base64?ZGFnX2dldA?=", "=?base64?/w==?=", "=?BASE64?ZGFnX2dldA==?="] {
        check(mismatch, &[VERSION, call, ("Mcp-Name", wrong)], "tools/call", named("dag_get", json!({})));
    }
    let read = ("Mcp-Method", "resources/read");
    let uri = json!({ "_meta": meta(), "uri": "dag://state" });
    check(None, &[VERSION, read, ("Mcp-Name", "dag://state")], "resources/read", uri.clone());
    check(mismatch, &[VERSION, read, ("Mcp-Name", "dag://other")], "resources/read", uri);
    check(Some((-32602, 400)), &[VERSION, call, ("Mcp-Name", "x")], "tools/call", json!({ "_meta": meta() }));
}

#[test]
fn s3_1_1_mirrored_arguments_must_say_what_the_body_says() {
    let check = |expected: Option<(i32, u16)>, header: Option<&str>, arguments: Value| {
        let mut headers = vec![VERSION, ("Mcp-Method", "tools/call"), ("Mcp-Name", "ref_get")];
        headers.extend(header.map(|value| ("Mcp-Param-Ref", value)));
        let params = json!({ "_meta": meta(), "name": "ref_get", "arguments": arguments });
        assert_eq!(checked(&headers, "tools/call", params), expected, "{header:?} {arguments}");
    };
    let mismatch = Some((-32020, 400));
    check(None, Some("heads/main"), json!({ "name": "heads/main" }));
    check(mismatch, Some("heads/other"), json!({ "name": "heads/main" }));
    check(mismatch, None, json!({ "name": "heads/main" }));
    check(mismatch, Some("heads/main"), json!({ "prefix": "heads/" }));
    check(None, None, json!({ "name": null }));
    check(None, None, json!({ "prefix": "heads/" }));
    check(None, Some("=?base64?Z3LDtsOfZQ==?="), json!({ "name": "größe" }));
    check(None, Some("5"), json!({ "name": 5 }));
}

#[test]
fn s0_1_what_every_request_says_of_itself_is_required() {
    let list = ("Mcp-Method", "tools/list");
    let check = |expected: (i32, u16), headers: &[(&str, &str)], params: Value| {
        assert_eq!(checked(headers, "tools/list", params.clone()), Some(expected), "{headers:?} {params}");
    };
    check((-32602, 400), &[VERSION, list], json!({}));
    check((-32602, 400), &[VERSION, list], json!({ "_meta": {} }));
    let version = |version: &str| json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": version } });
    check((-32602, 400), &[VERSION, list], version("2026-07-28"));
    let old = ("MCP-Protocol-Version", "2025-11-25");
    check((-32022, 400), &[old, list], json!({}));
    check((-32022, 400), &[old, list], version("2025-11-25"));
    let mut capabilities = meta();
    capabilities["io.modelcontextprotocol/clientCapabilities"] = json!([]);
    check((-32602, 400), &[VERSION, list], json!({ "_meta": capabilities }));
}

#[test]
fn s0_1_an_unsupported_version_is_told_which_are_supported() {
    let fault: Value = serde_json::from_slice(&Fault::unsupported_version("1900-01-01").to_json(Some("7"))).unwrap();
    assert_eq!(fault["id"], 7);
    assert_eq!(fault["error"]["code"], -32022);
    assert_eq!(fault["error"]["data"], json!({ "supported": ["2026-07-28"], "requested": "1900-01-01" }));
    let fault: Value = serde_json::from_slice(&Fault::parse_error("x").to_json(None)).unwrap();
    assert_eq!(fault.get("id"), None, "an id that is not known is left out");
}

#[test]
fn s3_2_10_only_json_is_taken_and_only_clients_that_take_ours_are_served() {
    let check = |expected: Result<(), u16>, pairs: &[(&str, &str)]| {
        assert_eq!(media(&header_map(pairs)).map_err(|status| status.as_u16()), expected, "{pairs:?}");
    };
    let json = ("content-type", "application/json");
    check(Ok(()), &[json]);
    check(
        Ok(()),
        &[("content-type", "Application/JSON; charset=utf-8"), ("accept", "application/json, text/event-stream")],
    );
    check(Ok(()), &[json, ("accept", "*/*")]);
    check(Ok(()), &[json, ("accept", "text/html"), ("accept", "text/event-stream;q=0.5")]);
    check(Err(406), &[json, ("accept", "text/html, image/*")]);
    check(Err(415), &[]);
    check(Err(415), &[("content-type", "text/plain")]);
    check(Err(415), &[("content-type", "application/jsonx")]);
}

#[test]
fn s3_2_10_a_result_carries_what_every_result_has() {
    let mut fields = Fields::open("\"a\"", 0);
    fields.outcome(br#"{"name":"gr\u00f6\u00dfe \"x\""}"#, false);
    fields.cache(Cache::GROWING);
    let result: Value = serde_json::from_slice(&fields.close()).unwrap();
    assert_eq!((&result["jsonrpc"], &result["id"]), (&json!("2.0"), &json!("a")));
    let result = &result["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "qmesh");
    assert_eq!(
        (&result["ttlMs"], &result["cacheScope"], &result["isError"]),
        (&json!(1000), &json!("public"), &json!(false))
    );
    assert_eq!(result["structuredContent"]["name"], "größe \"x\"");
    let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, result["structuredContent"], "the text is the same JSON");
}

#[test]
fn s0_1_fuzz_json_rpc_messages() {
    let seeds = [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "_meta": meta(), "name": "ref_get", "arguments": { "name": "a" } } }),
        json!({ "jsonrpc": "2.0", "id": "x", "method": "resources/read", "params": { "_meta": meta(), "uri": "dag://vertex/x/payload" } }),
        json!({ "jsonrpc": "2.0", "id": -5, "method": "completion/complete", "params": { "_meta": meta(),
            "ref": { "type": "ref/prompt", "name": "p" }, "argument": { "name": "id", "value": "\u{1F980}" } } }),
        json!({ "jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen", "params": { "_meta": meta(),
            "notifications": { "resourceSubscriptions": ["dag://state", "dag://walk?root=x&depth=3"] } } }),
    ]
    .map(|seed| seed.to_string().into_bytes());
    let words: [&[u8]; 16] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"null",
        b"1e999",
        b"\\u",
        b"\\ud800",
        b"\xff",
        b"\"id\":1,",
        b"\"params\":[],",
        b"dag://",
        b"%2F",
        b"?root=",
        b"=?base64?",
    ];
    let headers = header_map(&[VERSION, ("Mcp-Method", "tools/call"), ("Mcp-Name", "ref_get"), ("Mcp-Param-Ref", "a")]);
    let (mut refused, mut passed) = (0, 0);
    fuzz("JSON-RPC messages", |random| {
        let mut body = random.pick(&seeds).clone();
        mutate(random, &mut body, &seeds, &words);
        match message::parse(&body) {
            Err(error) => {
                let shown: Value = serde_json::from_slice(&error.fault.to_json(error.id.as_deref())).unwrap();
                assert!(shown["error"]["message"].is_string(), "{shown}");
                refused += 1;
            }
            Ok(Incoming::Notification) => passed += 1,
            Ok(Incoming::Request(request)) => {
                let id: Value = serde_json::from_str(request.id).unwrap();
                assert!(id.is_string() || id.is_number(), "{id}");
                if let Err(fault) = headers::check(&headers, &request) {
                    assert!(serde_json::from_slice::<Value>(&fault.to_json(Some(request.id))).is_ok());
                }
                if let Some(uri) = request.params.uri.as_deref() {
                    drop(super::uri::Named::parse(uri));
                }
                passed += 1;
            }
        }
    });
    assert!(0 < refused && 0 < passed || refused + passed < 100, "{refused} refused, {passed} passed");
}
