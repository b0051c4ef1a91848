//! WebSocket on a real node: MCP of both eras and the watch of the DAG, who is let in, and clients that behave badly.
//!
//! Promises: each scene has a node of its own, on free ports; the frames are made by a client that is not the node's code.
//! Does not: measure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

mod house;
#[allow(dead_code, reason = "these scenes use a part of what the client can do")]
#[path = "rest/http.rs"]
mod http;
#[allow(dead_code, reason = "these scenes use a part of what the issuer can do")]
#[path = "auth/issuer.rs"]
mod issuer;

use std::io::{Read, Write};
use std::net::TcpStream;

use house::Node;
use http::{DAG, call, connect, get, put, read_answer};
use issuer::{Issuer, RESOURCE, now_s};
use qmesh::limits::{HTTP_BODY_BYTES_MAX, WEBSOCKET_REQUESTS_MAX};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use tokio_tungstenite::tungstenite::{Error, WebSocket};

/// A client's key and what RFC 6455 says is its answer (section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const WATCH: &str = "/api/v1/dag/watch";

type Socket = WebSocket<TcpStream>;

fn upgrade(node: &Node, path: &str, more: &str) -> (http::Answer, TcpStream) {
    let mut stream = connect(node);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n{more}\r\n", node.http());
    stream.write_all(request.as_bytes()).unwrap();
    (read_answer(&mut stream, true), stream)
}

fn headers(protocol: &str, more: &str) -> String {
    let protocol = if protocol.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {protocol}\r\n") };
    format!(
        "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{protocol}{more}"
    )
}

fn open(node: &Node, path: &str, protocol: &str, more: &str) -> Socket {
    let (answer, stream) = upgrade(node, path, &headers(protocol, more));
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.header("sec-websocket-protocol").unwrap_or_default(), if path == WATCH { "" } else { "mcp" });
    WebSocket::from_raw_socket(stream, Role::Client, None)
}

fn mcp(node: &Node) -> Socket {
    open(node, "/mcp", "x, mcp", "")
}

fn say(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).unwrap();
}

/// The next text.
fn hear(socket: &mut Socket) -> Value {
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Close(close) => panic!("closed: {close:?}"),
            _ => {}
        }
    }
}

/// The code and the reason of the close, after whatever else comes.
fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(close))) => return (close.code.into(), close.reason.to_string()),
            Ok(_) => {}
            Err(error) => panic!("no close: {error}"),
        }
    }
}

fn modern(id: u32, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn tool(id: u32, name: &str, arguments: Value) -> Value {
    modern(id, "tools/call", json!({ "name": name, "arguments": arguments }))
}

#[test]
fn s3_1_9_a_socket_answers_as_a_post_does_in_both_eras() {
    let node = Node::start();
    let mut socket = mcp(&node);
    say(&mut socket, &modern(1, "tools/list", json!({})));
    let listed = hear(&mut socket);
    let posted = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let posted = call(&node, "POST", "/mcp", &[("Content-Type", "application/json")], posted.as_bytes()).json();
    assert_eq!(listed["result"]["tools"], posted["result"]["tools"]);
    // Arguments that a POST would have to mirror in its headers.
    say(&mut socket, &tool(2, "dag_put", json!({ "kind": "note", "payload": "over a socket" })));
    let id = hear(&mut socket)["result"]["structuredContent"]["id"].as_str().unwrap().to_owned();
    say(&mut socket, &tool(3, "ref_set", json!({ "name": "main", "new": id, "expected": "absent" })));
    assert_eq!(hear(&mut socket)["result"]["isError"], false);
    say(&mut socket, &modern(4, "resources/read", json!({ "uri": format!("dag://vertex/{id}") })));
    let read = hear(&mut socket);
    assert_eq!((&read["id"], read["result"]["contents"][0].is_object()), (&json!(4), true), "{read}");
    // What is wrong is refused in the words of the door, with its id.
    say(&mut socket, &modern(5, "no/such", json!({})));
    let refused = hear(&mut socket);
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(5), &json!(-32601)));
    socket.send(Message::text("{")).unwrap();
    assert_eq!(hear(&mut socket)["error"]["code"], -32700);
    say(&mut socket, &json!([{ "jsonrpc": "2.0", "id": 6, "method": "ping" }]));
    assert_eq!(hear(&mut socket)["error"]["code"], -32600);
    let old = json!({ "io.modelcontextprotocol/protocolVersion": "1999-01-01", "io.modelcontextprotocol/clientCapabilities": {} });
    say(&mut socket, &json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": { "_meta": old } }));
    assert_eq!(hear(&mut socket)["error"]["code"], -32022);

    let mut older = mcp(&node);
    let params =
        json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "0" } });
    say(&mut older, &json!({ "jsonrpc": "2.0", "id": "a", "method": "initialize", "params": params }));
    let begun = hear(&mut older);
    assert_eq!((&begun["id"], &begun["result"]["protocolVersion"]), (&json!("a"), &json!("2025-06-18")));
    say(&mut older, &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    say(&mut older, &json!({ "jsonrpc": "2.0", "id": "b", "method": "ping" }));
    assert_eq!(hear(&mut older), json!({ "jsonrpc": "2.0", "id": "b", "result": {} }));
    let call = json!({ "name": "dag_get", "arguments": { "ids": [id] } });
    say(&mut older, &json!({ "jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": call }));
    assert_eq!(hear(&mut older)["result"]["isError"], false);
    // Pings are answered, and a close is.
    older.send(Message::Ping("x".into())).unwrap();
    assert_eq!(older.read().unwrap(), Message::Pong("x".into()));
    older.close(None).unwrap();
    assert!(matches!(older.read(), Ok(Message::Close(_))));
    assert!(matches!(older.read(), Err(Error::ConnectionClosed)));
}

#[test]
fn s3_1_9_a_subscription_lives_on_a_socket_until_it_is_cancelled_or_the_node_drains() {
    let node = Node::start();
    let mut socket = mcp(&node);
    let listen = |id| {
        modern(id, "subscriptions/listen", json!({ "notifications": { "resourceSubscriptions": ["dag://state"] } }))
    };
    say(&mut socket, &listen(1));
    assert_eq!(hear(&mut socket)["method"], "notifications/subscriptions/acknowledged");
    put(&node, &json!({ "kind": "note", "payload": "news" }));
    let news = hear(&mut socket);
    assert_eq!(
        (&news["method"], &news["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!("dag://state"))
    );
    // The id is in use as long as it lasts, and free again when it is cancelled.
    say(&mut socket, &listen(1));
    assert_eq!(hear(&mut socket)["error"]["code"], -32600);
    say(&mut socket, &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }));
    put(&node, &json!({ "kind": "note", "payload": "more news" }));
    say(&mut socket, &tool(1, "node_status", json!({})));
    assert_eq!(hear(&mut socket)["id"], 1, "the subscription was not cancelled");
    // More requests than a socket may have open.
    for id in 0..=WEBSOCKET_REQUESTS_MAX as u32 {
        say(&mut socket, &listen(100 + id));
    }
    let refused = loop {
        let heard = hear(&mut socket);
        if heard.get("error").is_some() {
            break heard;
        }
    };
    assert_eq!(refused["error"]["data"]["reason"], "overloaded", "{refused}");
    assert_eq!(refused["id"], 100 + WEBSOCKET_REQUESTS_MAX as u32);
    node.signal("-TERM");
    let mut ended = 0;
    let close = loop {
        match socket.read().unwrap() {
            Message::Text(text) if text.contains("\"complete\"") => ended += 1,
            Message::Close(close) => break close.unwrap(),
            _ => {}
        }
    };
    assert_eq!((u16::from(close.code), ended), (1001, WEBSOCKET_REQUESTS_MAX), "{}", close.reason);
    drop(socket);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn s3_2_10_the_watch_of_the_dag_over_a_socket() {
    let node = Node::start();
    let mut socket = open(&node, WATCH, "", "");
    let id = put(&node, &json!({ "kind": "note", "payload": "seen" }));
    let event = hear(&mut socket);
    assert_eq!((&event["event"], &event["data"]["id"]), (&json!("vertex"), &json!(id)));
    let cursor = event["id"].as_str().unwrap().to_owned();
    let second = put(&node, &json!({ "kind": "note", "payload": "missed" }));
    assert_eq!(hear(&mut socket)["data"]["id"], second);
    // Whoever comes back with the id of an event goes on behind it.
    let (answer, stream) = upgrade(&node, &format!("{WATCH}?cursor={cursor}"), &headers("", ""));
    assert_eq!(answer.status, 101);
    let mut again = WebSocket::from_raw_socket(stream, Role::Client, None);
    assert_eq!(hear(&mut again)["data"]["id"], second);
    socket.send(Message::text("hello")).unwrap();
    assert_eq!(closed(&mut socket).0, 1008);
    node.signal("-TERM");
    assert_eq!(closed(&mut again).0, 1001);
}

#[test]
fn s3_1_9_an_upgrade_that_is_asked_for_wrongly_is_refused_before_it_is_one() {
    let node = Node::start();
    let check = |path: &str, more: &str, status: u16| {
        let (answer, _) = upgrade(&node, path, more);
        assert_eq!(answer.status, status, "{path} {more}");
        answer
    };
    let good = headers("mcp", "");
    check("/mcp", &headers("", ""), 400);
    check("/mcp", &headers("soap", ""), 400);
    check("/mcp", &good.replace("keep-alive, Upgrade", "keep-alive"), 400);
    check("/mcp", &good.replace(KEY, "short"), 400);
    check("/mcp", &good.replace(KEY, "!!!!!!!!!!!!!!!!!!!!!!!!"), 400);
    let version = check("/mcp", &good.replace("Version: 13", "Version: 8"), 426);
    assert_eq!(version.header("sec-websocket-version"), Some("13"));
    check("/mcp", &headers("mcp", "Origin: https://evil.example\r\n"), 403);
    check(&format!("{WATCH}?cursor=nonsense"), &headers("", ""), 400);
    // Elsewhere an upgrade is not understood, and ignored.
    check("/version", &good, 200);
    check("/mcp", &headers("mcp", "Origin: http://localhost:3000\r\n"), 101);
    let scrape = get(&node, "/metrics").text();
    assert!(scrape.contains("http_response_status_code=\"101\"} 1"), "{scrape}");
}

#[test]
fn s3_1_12_a_socket_has_the_rights_of_its_token_and_no_more_time() {
    let issuer = Issuer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let text = format!(
        "[auth]\nresource = {RESOURCE:?}\nissuers = [{:?}]\njwks_refetch_s = 1\nclock_skew_s = 0\n",
        issuer.name()
    );
    std::fs::write(&path, text).unwrap();
    let node = Node::start_with(&["--gateway", path.to_str().unwrap()]);
    for path in ["/mcp", WATCH] {
        let (refused, _) = upgrade(&node, path, &headers("mcp", ""));
        assert_eq!(refused.status, 401);
        assert!(refused.header("www-authenticate").is_some());
    }
    let bearer = |token: String| format!("Authorization: Bearer {token}\r\n");
    let mut socket = open(&node, "/mcp", "mcp", &bearer(issuer.token("dag:read")));
    say(&mut socket, &tool(1, "node_status", json!({})));
    assert_eq!(hear(&mut socket)["result"]["isError"], false);
    say(&mut socket, &tool(2, "dag_put", json!({ "kind": "note" })));
    let refused = hear(&mut socket);
    assert_eq!((&refused["id"], &refused["error"]["data"]["reason"]), (&json!(2), &json!("denied")), "{refused}");
    let short = issuer.token_with("exp", json!(now_s() + 3));
    let mut socket = open(&node, "/mcp", "mcp", &bearer(short.clone()));
    let mut watch = open(&node, WATCH, "", &bearer(short));
    let (code, reason) = closed(&mut socket);
    assert_eq!(code, 1008);
    assert!(reason.contains("token"), "{reason}");
    assert_eq!(closed(&mut watch).0, 1008);
}

#[test]
fn s3_1_9_whoever_breaks_the_rules_of_frames_is_told_which() {
    let node = Node::start();
    let check = |bytes: &[u8], expected: u16| {
        let mut socket = mcp(&node);
        socket.get_mut().write_all(bytes).unwrap();
        assert_eq!(closed(&mut socket).0, expected, "{bytes:x?}");
    };
    // Masked with zeros.
    check(&[0x82, 0x81, 0, 0, 0, 0, b'x'], 1003);
    check(&[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], 1007);
    check(&[0x81, 0x01, b'x'], 1002);
    check(&[0xf1, 0x80, 0, 0, 0, 0], 1002);
    check(&[0x80, 0x80, 0, 0, 0, 0], 1002);
    let length = (HTTP_BODY_BYTES_MAX as u64 + 1).to_be_bytes();
    check(&[&[0x81, 0xff][..], &length, &[0; 4]].concat(), 1009);
    // The same in pieces that are small enough each.
    let mut socket = mcp(&node);
    let mut piece = vec![0x01, 0xff];
    piece.extend_from_slice(&(1u64 << 20).to_be_bytes());
    piece.extend_from_slice(&[0; 4]);
    piece.resize(piece.len() + (1 << 20), b' ');
    for _ in 0..5 {
        if socket.get_mut().write_all(&piece).is_err() {
            break;
        }
        piece[0] = 0x00;
    }
    assert_eq!(closed(&mut socket).0, 1009);
    // Part of a frame, and then nothing: it costs nobody anything.
    let mut half = mcp(&node);
    half.get_mut().write_all(&[0x81, 0xfe, 0x10]).unwrap();
    // Gone in the middle of an answer.
    let mut gone = mcp(&node);
    say(&mut gone, &modern(1, "tools/list", json!({})));
    drop(gone);
    let mut socket = mcp(&node);
    say(&mut socket, &modern(1, "tools/list", json!({})));
    assert!(hear(&mut socket)["result"]["tools"].is_array());
    assert_eq!(get(&node, &format!("{DAG}/tips")).status, 200);
    let mut rest = [0; 1];
    half.get_mut().set_nonblocking(true).unwrap();
    assert!(half.get_mut().read(&mut rest).is_err(), "the half frame was answered");
}
