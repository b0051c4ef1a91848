//! Tokens and the servers behind the gateway: who may call them, and what they see of who called.

use super::scripted::{Server, echo, echoed};
use super::*;

/// A node with one server behind it, which is known once this returns.
fn before(issuer: &Issuer, server: &Server) -> (Node, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("files.toml"), format!("url = {:?}\n", server.url())).unwrap();
    let upstreams = folder.path().to_str().unwrap().to_owned();
    let (node, file) = node_with(&auth(issuer), &["--upstreams", &upstreams]);
    let admin = issuer.token("admin");
    let begun = Instant::now();
    loop {
        let known = ask(&node, "GET", "/api/v1/upstreams", &admin, &Value::Null).json();
        if known["upstreams"][0]["state"] == "up" {
            break;
        }
        assert!(begun.elapsed() < WAIT, "{known}");
    }
    drop(file);
    (node, folder)
}

#[test]
fn s3_1_12_a_foreign_server_is_called_by_who_may_and_never_sees_a_token() {
    let server = Server::modern(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let issuer = Issuer::start();
    let (node, _folder) = before(&issuer, &server);
    let call = |token: &str| call_tool(&node, token, "files__echo", "files__echo", &json!({ "text": "hi" }));
    let refused = call(&issuer.token("dag:read dag:write"));
    assert_eq!(refused.status, 403);
    assert!(refused.header("www-authenticate").unwrap().contains("scope=\"dag:read dag:write mcp:call\""));
    assert!(server.seen("tools/call").is_empty(), "a refused call went out");
    let token = issuer.token("mcp:call");
    let answer = call(&token);
    assert_eq!(answer.json()["result"]["content"][0]["text"], "hi", "{}", answer.text());
    let seen = server.seen("tools/call");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    assert!(!seen[0].head.contains(&token.to_lowercase()) && !seen[0].body.contains(&token), "{:?}", seen[0]);
    assert_eq!(ask(&node, "GET", "/api/v1/upstreams", &token, &Value::Null).status, 403);
}

#[test]
fn s3_1_12_a_session_is_nothing_to_another_principal() {
    let server = Server::legacy(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let issuer = Issuer::start();
    let (node, _folder) = before(&issuer, &server);
    let post = |token: &str, session: Option<&str>, message: &Value| {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
            ("MCP-Protocol-Version", "2025-06-18"),
        ];
        headers.extend(session.map(|session| ("Mcp-Session-Id", session)));
        call(&node, "POST", "/mcp", &headers, message.to_string().as_bytes())
    };
    let (alice, bob) = (issuer.token("dag:read mcp:call"), issuer.token_with("sub", json!("bob")));
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "old", "version": "1" },
    }});
    let opened = post(&alice, None, &initialize);
    let session = opened.header("mcp-session-id").unwrap();
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    assert!(post(&alice, Some(session), &list).json()["result"]["tools"].is_array());
    let stolen = post(&bob, Some(session), &list);
    assert_eq!(stolen.status, 404, "{}", stolen.text());
    // An earlier revision has no header that names the tool: the body decides.
    let call_it = |name: &str| json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": name, "arguments": { "text": "hi" } } });
    assert_eq!(post(&alice, Some(session), &call_it("files__echo")).status, 200);
    assert_eq!(post(&alice, Some(session), &call_it("dag_put")).status, 403);
}
