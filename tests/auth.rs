//! The gateway's pipeline on a real node: who is let in, how far, and how often.
//!
//! Promises: each scene has a node of two cores and an issuer of its own, on free ports. Does not: measure how fast.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

#[path = "auth/foreign.rs"]
mod foreign;
mod house;
#[allow(dead_code, reason = "these scenes use a part of what the client can do")]
#[path = "rest/http.rs"]
mod http;
#[path = "auth/issuer.rs"]
mod issuer;
#[path = "auth/names.rs"]
mod names;
#[path = "auth/rates.rs"]
mod rates;
#[allow(dead_code, reason = "these scenes use a part of what such servers can do")]
#[path = "upstream/scripted.rs"]
mod scripted;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use house::Node;
use http::{Answer, call, get};
use issuer::{Issuer, RESOURCE, now_s, sign};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a scene waits for what must come.
const WAIT: Duration = Duration::from_secs(20);
const TIPS: &str = "/api/v1/dag/tips";
const METADATA: &str = "https://dag.example.org/.well-known/oauth-protected-resource/mcp";

/// A node with a gateway's file.
fn node_with(text: &str, more: &[&str]) -> (Node, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    let mut arguments = vec!["--gateway", path.to_str().unwrap()];
    arguments.extend(more);
    (Node::start_with(&arguments), folder)
}

/// The `[auth]` of a file that takes this issuer's tokens.
fn auth(issuer: &Issuer) -> String {
    format!("[auth]\nresource = {RESOURCE:?}\nissuers = [{:?}]\njwks_refetch_s = 1\nclock_skew_s = 0\n", issuer.name())
}

fn guarded(issuer: &Issuer) -> (Node, TempDir) {
    node_with(&auth(issuer), &[])
}

fn ask(node: &Node, method: &str, path: &str, token: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(node, method, path, &headers, body.as_bytes())
}

fn read(node: &Node, token: &str) -> Answer {
    ask(node, "GET", TIPS, token, &Value::Null)
}

/// A call of a tool, whose headers may name another.
fn call_tool(node: &Node, token: &str, named: &str, tool: &str, arguments: &Value) -> Answer {
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    }});
    let bearer = format!("Bearer {token}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", named),
    ];
    call(node, "POST", "/mcp", &headers, body.to_string().as_bytes())
}

#[test]
fn s6_1_9_a_stranger_is_told_where_tokens_come_from() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    let refused = get(&node, TIPS);
    refused.is_problem(401, "unauthenticated");
    let challenge = format!("Bearer resource_metadata=\"{METADATA}\", scope=\"dag:read\"");
    assert_eq!(refused.header("www-authenticate"), Some(challenge.as_str()));
    let mcp = call(&node, "POST", "/mcp", &[("Content-Type", "application/json")], b"{}");
    assert_eq!((mcp.status, mcp.header("www-authenticate")), (401, Some(challenge.as_str())));
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let metadata = get(&node, path).json();
        assert_eq!(metadata["resource"], RESOURCE);
        assert_eq!(metadata["authorization_servers"], json!([issuer.name()]));
        assert_eq!(metadata["scopes_supported"], json!(["dag:read", "dag:write", "mcp:call", "admin"]));
        assert_eq!(metadata["bearer_methods_supported"], json!(["header"]));
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(&node, path).status, 200, "{path}");
    }
    for path in ["/metrics", "/healthz", "/version", "/openapi.json", "/api/v1/cluster/status"] {
        assert_eq!(get(&node, path).status, 401, "{path}");
    }
    // A node that takes no tokens has no metadata, and lets everyone in.
    let open = Node::start();
    assert_eq!(get(&open, "/.well-known/oauth-protected-resource").status, 404);
    assert_eq!(get(&open, TIPS).status, 200);
}

#[test]
fn s3_1_12_tokens_that_do_not_count_are_refused_each_for_its_reason() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    assert_eq!(read(&node, &issuer.token("dag:read")).status, 200);
    let claims = issuer.claims("dag:read");
    let unsigned = sign(&json!({ "alg": "none", "kid": "a" }), &claims);
    let mut altered = issuer.token("dag:read");
    altered.replace_range(altered.len() - 4.., "AAAA");
    let now = now_s();
    for (token, reason) in [
        (issuer.token_with("aud", json!("https://other.example/mcp")), "audience"),
        (issuer.token_with("aud", json!(["https://dag.example.org", "x"])), "audience"),
        (issuer.token_with("exp", json!(now - 1)), "expired"),
        (issuer.token_with("nbf", json!(now + 60)), "not valid yet"),
        (issuer.token_with("iss", json!("https://evil.example")), "issuer"),
        (issuer.token_with("cnf", json!({ "jkt": "x" })), "bound"),
        (sign(&json!({ "alg": "EdDSA", "kid": "b" }), &claims), "no such key"),
        (sign(&json!({ "alg": "HS256", "kid": "a" }), &claims), "not signed with"),
        (sign(&json!({ "alg": "ES256", "kid": "a" }), &claims), "no such key"),
        (unsigned[..=unsigned.rfind('.').unwrap()].to_owned(), "not signed with"),
        (altered, "signature"),
        ("x.y.z".to_owned(), "not an access token"),
    ] {
        let refused = read(&node, &token);
        let problem = refused.is_problem(401, "unauthenticated");
        assert!(problem["detail"].as_str().unwrap().contains(reason), "{reason}: {problem}");
        let challenge = refused.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer error=\"invalid_token\", error_description=\""), "{challenge}");
        assert!(challenge.contains(METADATA), "{challenge}");
    }
}

#[test]
fn s6_1_9_a_token_counts_in_its_header_only() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    let token = issuer.token("dag:read");
    let in_query = get(&node, &format!("{TIPS}?access_token={token}"));
    in_query.is_problem(400, "bad_request");
    assert!(in_query.header("www-authenticate").unwrap().contains("error=\"invalid_request\""));
    let both = ask(&node, "GET", &format!("{TIPS}?access_token={token}"), &token, &Value::Null);
    both.is_problem(400, "bad_request");
    call(&node, "GET", TIPS, &[("Authorization", "Basic eDp5")], b"").is_problem(400, "bad_request");
}

#[test]
fn s6_1_9_a_step_up_names_every_scope_at_once() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    let reader = issuer.token("dag:read");
    let vertex = json!({ "kind": "note", "payload": "x" });
    let refused = ask(&node, "POST", "/api/v1/dag/vertices", &reader, &vertex);
    refused.is_problem(403, "denied");
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
    assert!(challenge.contains("scope=\"dag:read dag:write\""), "what it has and what it needs: {challenge}");
    assert!(challenge.contains(METADATA), "{challenge}");
    let refused = ask(&node, "PUT", "/api/v1/dag/refs/heads/main", &reader, &json!({ "to": "x" }));
    assert_eq!(refused.status, 403);
    assert_eq!(ask(&node, "GET", "/metrics", &reader, &Value::Null).status, 403);
    let writer = issuer.token("dag:write");
    assert_eq!(ask(&node, "POST", "/api/v1/dag/vertices", &writer, &vertex).status, 201);
    assert_eq!(read(&node, &writer).status, 403, "a scope is what it says, and no more");
    let admin = issuer.token("admin");
    let metrics = ask(&node, "GET", "/metrics", &admin, &Value::Null).text();
    for line in [
        "qmesh_auth_decisions_total{decision=\"refused\",reason=\"scope\"} 4",
        "qmesh_auth_decisions_total{decision=\"allowed\",reason=\"token\"} 6",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn s6_1_9_tools_are_permitted_by_their_annotations_and_headers_cannot_lie() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    let (reader, writer) = (issuer.token("dag:read"), issuer.token("dag:read dag:write"));
    let put = json!({ "kind": "note", "payload": "x" });
    assert_eq!(call_tool(&node, &reader, "dag_tips", "dag_tips", &json!({})).status, 200);
    let refused = call_tool(&node, &reader, "dag_put", "dag_put", &put);
    assert_eq!(refused.status, 403);
    assert!(refused.header("www-authenticate").unwrap().contains("scope=\"dag:read dag:write\""));
    let put_done = call_tool(&node, &writer, "dag_put", "dag_put", &put);
    assert_eq!(
        (put_done.status, &put_done.json()["result"]["isError"]),
        (200, &Value::Bool(false)),
        "{}",
        put_done.text()
    );
    // The header is what a reader may call, the body is not.
    assert_eq!(call_tool(&node, &reader, "dag_tips", "dag_put", &put).status, 403);
    // A tool of another server has a scope of its own.
    let foreign = call_tool(&node, &writer, "other__echo", "other__echo", &json!({}));
    assert!(foreign.header("www-authenticate").unwrap().contains("mcp:call"), "{}", foreign.text());
}

#[test]
fn s6_1_10_a_new_key_is_fetched_when_a_token_names_it() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    assert_eq!(read(&node, &issuer.token("dag:read")).status, 200);
    issuer.has_keys(&["b"]);
    let rotated = sign(&json!({ "alg": "EdDSA", "kid": "b" }), &issuer.claims("dag:read"));
    let begun = Instant::now();
    while read(&node, &rotated).status != 200 {
        assert!(begun.elapsed() < WAIT, "the new key is never fetched");
    }
    // What was verified with the old key is verified again, and the key is gone.
    let begun = Instant::now();
    while read(&node, &issuer.token("dag:read")).status != 401 {
        assert!(begun.elapsed() < WAIT, "a core goes on with the key that is gone");
    }
    let fetches = issuer.fetches();
    let begun = Instant::now();
    let made_up = sign(&json!({ "alg": "EdDSA", "kid": "c" }), &issuer.claims("dag:read"));
    let mut asked = 0;
    while begun.elapsed() < Duration::from_millis(1500) {
        // Who goes on with it has used up the rate of its address.
        assert!(matches!(read(&node, &made_up).status, 401 | 429));
        asked += 1;
    }
    let more = issuer.fetches() - fetches;
    assert!(more <= 2, "{asked} made-up keys made {more} fetches in 1.5 s");
}

#[test]
fn s6_1_10_an_outage_of_the_issuer_does_not_lock_out_who_was_let_in() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    assert_eq!(read(&node, &issuer.token("dag:read")).status, 200);
    issuer.answers(false);
    let unknown = sign(&json!({ "alg": "EdDSA", "kid": "b" }), &issuer.claims("dag:read"));
    let begun = Instant::now();
    // An unknown key makes the node ask again, in vain, and what it knows stays.
    let mut number = 0;
    while issuer.refused() < 2 {
        assert!(begun.elapsed() < WAIT, "the issuer is not asked again");
        assert!(matches!(read(&node, &unknown).status, 401 | 429));
        number += 1;
        assert_eq!(read(&node, &issuer.token_with("jti", json!(number))).status, 200, "{number}");
    }
}

#[test]
fn s6_1_10_while_an_issuer_was_never_heard_its_tokens_wait() {
    let issuer = Issuer::start();
    issuer.answers(false);
    let (node, _folder) = guarded(&issuer);
    let refused = read(&node, &issuer.token("dag:read"));
    refused.is_problem(503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(get(&node, "/livez").status, 200);
    issuer.answers(true);
    let begun = Instant::now();
    while read(&node, &issuer.token("dag:read")).status != 200 {
        assert!(begun.elapsed() < WAIT, "the issuer is never asked again");
    }
}

#[test]
fn s6_1_10_many_first_requests_are_one_fetch() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    std::thread::scope(|scope| {
        for client in 0..32 {
            let (node, issuer) = (&node, &issuer);
            scope.spawn(move || {
                assert_eq!(read(node, &issuer.token_with("sub", json!(client.to_string()))).status, 200)
            });
        }
    });
    assert_eq!(issuer.fetches(), 1);
}

#[test]
fn s6_1_10_a_remembered_token_ends_when_it_says() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    let ends = now_s() + 2;
    let token = issuer.token_with("exp", json!(ends));
    let mut passed = 0;
    loop {
        let (before, status) = (now_s(), read(&node, &token).status);
        match status {
            200 => assert!(before < ends, "taken at {before}, ends at {ends}"),
            status => {
                assert_eq!(status, 401, "after {passed} that passed");
                assert!(ends <= now_s(), "refused too early");
                break;
            }
        }
        passed += 1;
        // A loop without a pause comes near the rate of one caller.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(0 < passed);
}

#[test]
fn s6_1_10_a_stream_ends_with_its_token() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    let ends = now_s() + 2;
    let mut stream = http::connect(&node);
    let head = format!("GET /api/v1/dag/watch HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer ", node.http());
    let request = head + &issuer.token_with("exp", json!(ends)) + "\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // It breaks off: a stream that ended well would look complete.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(house::parse_http(&answer).0, 200, "{}", String::from_utf8_lossy(&answer));
    assert!(!answer.ends_with(b"0\r\n\r\n"));
    assert!((ends..ends + 5).contains(&now_s()), "ended at {}, the token at {ends}", now_s());
}

#[test]
fn s6_1_9_where_tokens_are_not_required_they_still_count() {
    let issuer = Issuer::start();
    let (node, _folder) = node_with(&format!("{}required = false\n", auth(&issuer)), &[]);
    let vertex = json!({ "kind": "note", "payload": "x" });
    assert_eq!(get(&node, TIPS).status, 200);
    assert_eq!(http::post(&node, "/api/v1/dag/vertices", &vertex).status, 201);
    assert_eq!(ask(&node, "POST", "/api/v1/dag/vertices", &issuer.token("dag:read"), &vertex).status, 403);
    assert_eq!(read(&node, &issuer.token_with("aud", json!("x"))).status, 401);
}

#[test]
fn s3_2_8_commands_check_the_file_and_explain_a_request() {
    let issuer = Issuer::start();
    let (node, folder) = guarded(&issuer);
    let file = folder.path().join("gateway.toml");
    let checked = node.ok(&["gateway", "check", file.to_str().unwrap(), "-o", "json"]);
    let rows: Value = serde_json::from_str(&checked).unwrap();
    assert_eq!(rows[0]["means"], format!("of {}; every request needs one", issuer.name()));
    std::fs::write(&file, auth(&issuer) + "ca = \"/nowhere.pem\"\n").unwrap();
    let refused = node.run(&["gateway", "check", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    let token = folder.path().join("token");
    std::fs::write(&token, issuer.token("dag:read") + "\n").unwrap();
    let http = format!("http://{}", node.http());
    let explain = |arguments: &[&str]| {
        let all = [&["route", "explain", "--node", &http, "--access-token-file", token.to_str().unwrap()], arguments];
        node.run(&all.concat())
    };
    let passes = explain(&["--path", "/api/v1/dag/tips"]);
    assert_eq!(passes.status.code(), Some(0), "{}", String::from_utf8_lossy(&passes.stderr));
    assert!(String::from_utf8_lossy(&passes.stdout).contains("the scope dag:read is held"));
    let refused = explain(&["--tool", "dag_put", "-o", "json"]);
    assert_eq!(refused.status.code(), Some(1));
    let explained: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(explained["passes"], false);
}

#[test]
fn s3_2_8_the_pipeline_is_explained_stage_by_stage() {
    let issuer = Issuer::start();
    let (node, _folder) = guarded(&issuer);
    let explain = |query: &str, token: Option<&str>| {
        let path = format!("/api/v1/route/explain?{query}");
        let answer = match token {
            Some(token) => ask(&node, "GET", &path, token, &Value::Null),
            None => get(&node, &path),
        };
        assert_eq!(answer.status, 200, "{}", answer.text());
        let explained = answer.json();
        let verdicts: Vec<String> = explained["stages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| format!("{}={}", step["stage"].as_str().unwrap(), step["verdict"].as_str().unwrap()))
            .collect();
        (explained["passes"].as_bool().unwrap(), verdicts.join(" "), explained)
    };
    let reader = issuer.token("dag:read");
    let all = |authentication, authorisation, validation, routing| {
        format!(
            "authentication={authentication} rate=pass authorisation={authorisation} request_validation={validation} \
             response_caching=skip routing={routing} metrics=pass"
        )
    };
    let (passes, verdicts, _) = explain("path=/api/v1/dag/tips", Some(&reader));
    assert_eq!((passes, verdicts), (true, all("pass", "pass", "pass", "pass")));
    let (passes, verdicts, _) = explain("path=/api/v1/dag/tips", None);
    assert_eq!((passes, verdicts), (false, all("refuse", "refuse", "pass", "pass")));
    let (_, verdicts, explained) = explain("method=post&path=/api/v1/dag/vertices", Some(&reader));
    assert_eq!(verdicts, all("pass", "refuse", "pass", "pass"));
    assert_eq!(explained["stages"][2]["detail"], "the scope dag:write is needed");
    let (_, verdicts, _) = explain("path=/api/v1/dag/tips?limit=1%26colour=red", Some(&reader));
    assert_eq!(verdicts, all("pass", "pass", "refuse", "pass"));
    let (_, verdicts, _) = explain("path=/elsewhere", Some(&reader));
    assert_eq!(verdicts, all("pass", "pass", "refuse", "refuse"));
    let (_, verdicts, _) = explain("tool=dag_put", Some(&reader));
    assert_eq!(verdicts, all("pass", "refuse", "pass", "pass"));
    let expired = issuer.token_with("exp", json!(now_s() - 1));
    let (passes, _, explained) = explain("path=/api/v1/dag/tips", Some(&expired));
    assert_eq!((passes, &explained["stages"][0]["detail"]), (false, &json!("the token has expired")));
}
