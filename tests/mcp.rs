//! The MCP door of a real node: what a client of revision 2026-07-28 meets, over a socket.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

mod house;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use house::Node;
use serde_json::{Value, json};

/// How long a test waits for what must come.
const WAIT: Duration = Duration::from_secs(20);

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

/// One connection that stays open: the door must not need a new one for each request.
struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    fn new(node: &Node) -> Self {
        let stream = TcpStream::connect(node.http()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), host: node.http().to_string() }
    }

    /// Sends a body with these headers and reads the answer's head.
    fn send(&mut self, method: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut text = format!("{method} /mcp HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", self.host, body.len());
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.stream.read_line(&mut head).unwrap(), 0, "the door closed: {head}");
        }
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
    }

    fn raw(&mut self, method: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let (status, head) = self.send(method, headers, body);
        let length = |line: &str| {
            line.to_lowercase().strip_prefix("content-length: ").map(|length| length.parse::<usize>().unwrap())
        };
        let mut bytes = vec![0; head.lines().find_map(length).unwrap_or(0)];
        self.stream.read_exact(&mut bytes).unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status, head, body }
    }

    /// A request as a client of this revision sends it.
    fn request(&mut self, method: &str, params: Value) -> Answer {
        let (headers, body) = message(method, params);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.raw("POST", &headers, &body)
    }

    fn result(&mut self, method: &str, params: Value) -> Value {
        let answer = self.request(method, params.clone());
        assert_eq!(answer.status, 200, "{method} {params}: {}", answer.body);
        let result = &answer.body["result"];
        assert_eq!(result["resultType"], "complete", "{method} {params}: {}", answer.body);
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "qmesh", "{method}");
        result.clone()
    }

    /// The error of a request that is refused, and its HTTP status.
    fn error(&mut self, method: &str, params: Value) -> (u16, i64) {
        let answer = self.request(method, params.clone());
        (
            answer.status,
            answer.body["error"]["code"].as_i64().unwrap_or_else(|| panic!("{method} {params}: {}", answer.body)),
        )
    }

    /// A tool's structured content.
    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.result("tools/call", json!({ "name": tool, "arguments": arguments }));
        assert_eq!(result["isError"], false, "{tool} {arguments}: {result}");
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"], "{tool}");
        text
    }

    /// The reason and the sentence of a tool's refusal.
    fn refused(&mut self, tool: &str, arguments: Value) -> (String, String) {
        let result = self.result("tools/call", json!({ "name": tool, "arguments": arguments }));
        assert_eq!(result["isError"], true, "{tool} {arguments}: {result}");
        let content = &result["structuredContent"];
        (content["reason"].as_str().unwrap().to_owned(), content["detail"].as_str().unwrap().to_owned())
    }

    fn put(&mut self, vertex: Value) -> String {
        self.call("dag_put", vertex)["id"].as_str().unwrap().to_owned()
    }

    /// The next message of a stream of events.
    fn event(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "the stream ended");
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

/// The headers and the body of a request.
fn message(method: &str, mut params: Value) -> (Vec<(&'static str, String)>, String) {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let mut headers = vec![
        ("Content-Type", "application/json".to_owned()),
        ("Accept", "application/json, text/event-stream".to_owned()),
        ("MCP-Protocol-Version", "2026-07-28".to_owned()),
        ("Mcp-Method", method.to_owned()),
    ];
    if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
        headers.push(("Mcp-Name", name.to_owned()));
    }
    for (tool, argument, header) in [
        ("dag_tips", "namespace", "Mcp-Param-Namespace"),
        ("ref_get", "name", "Mcp-Param-Ref"),
        ("ref_set", "name", "Mcp-Param-Ref"),
    ] {
        if let Some(value) = params["arguments"][argument].as_str().filter(|_| params["name"] == tool) {
            headers.push((header, value.to_owned()));
        }
    }
    (headers, json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string())
}

#[test]
fn s0_1_what_is_no_request_of_this_revision_is_refused_with_its_status() {
    let node = Node::start();
    let mut client = Client::new(&node);
    let json = [("Content-Type", "application/json")];
    for (method, allowed) in [("GET", "allow: post"), ("DELETE", "allow: post"), ("PUT", "allow: ")] {
        let answer = client.raw(method, &json, "");
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.to_lowercase().contains(&format!("\r\n{allowed}")), "{}", answer.head);
    }
    let answer = client.raw("POST", &json, "{");
    assert_eq!((answer.status, &answer.body["error"]["code"]), (400, &json!(-32700)));
    let answer = client.raw("POST", &json, r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#);
    assert_eq!((answer.status, answer.body), (202, Value::Null));
    assert_eq!(client.raw("POST", &[("Content-Type", "text/plain")], "{}").status, 415);
    let old = json!({ "jsonrpc": "2.0", "id": 9, "method": "initialize", "params": { "protocolVersion": "2025-11-25", "capabilities": {} } });
    let answer = client.raw("POST", &json, &old.to_string());
    assert_eq!((answer.status, &answer.body["result"]["protocolVersion"]), (200, &json!("2025-11-25")));
    let unknown = [("Content-Type", "application/json"), ("MCP-Protocol-Version", "1999-01-01")];
    let answer = client.raw("POST", &unknown, r#"{"jsonrpc":"2.0","id":9,"method":"tools/list"}"#);
    assert_eq!((answer.status, &answer.body["error"]["code"]), (400, &json!(-32022)));
    assert_eq!(answer.body["error"]["data"], json!({ "supported": ["2026-07-28"], "requested": "1999-01-01" }));
    for method in ["ping", "logging/setLevel", "resources/subscribe", "initialize", "tasks/get", "nothing"] {
        assert_eq!(client.error(method, json!({})), (404, -32601), "{method}");
    }
    let (mut headers, body) = message("tools/list", json!({}));
    headers.retain(|(name, _)| *name != "Mcp-Method");
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = client.raw("POST", &headers, &body);
    assert_eq!((answer.status, &answer.body["error"]["code"], &answer.body["id"]), (400, &json!(-32020), &json!(1)));
    assert_eq!(client.error("tools/call", json!({ "name": "rm" })), (200, -32602));
    assert_eq!(client.error("tools/list", json!({ "cursor": "x" })), (200, -32602));
    let found = client.result("server/discover", json!({}));
    assert_eq!(found["supportedVersions"], json!(["2026-07-28"]));
    assert!(found["ttlMs"].is_u64() && found["cacheScope"] == "public", "{found}");
}

#[test]
fn s3_2_10_tools_put_walk_relate_and_move() {
    let node = Node::start();
    let mut client = Client::new(&node);
    let root = client.put(json!({ "kind": "note", "payload": "root", "timestamp_ms": 5 }));
    let batch = client.call(
        "dag_put_batch",
        json!({ "vertices": [
            { "kind": "note", "parents": [root], "payload": "a" },
            { "kind": "note", "parents": ["#0"], "labels": { "x": "y" } },
            { "kind": "note", "parents": ["#7"] },
            { "kind": "note", "colour": "red" },
        ] }),
    );
    assert_eq!((&batch["stored"], &batch["refused"]), (&json!(2), &json!(2)), "{batch}");
    let tip = batch["results"][1]["id"].as_str().unwrap().to_owned();
    assert!(batch["results"][3]["error"]["detail"].as_str().unwrap().contains("unknown field `colour`"), "{batch}");
    let token = &batch["results"][1]["token"];
    client.call("ref_set", json!({ "name": "heads/main", "new": tip, "expected": "absent", "actor": "test" }));
    // One vertex under its four names.
    let hex = client.call("dag_get", json!({ "ids": [tip] }))["vertices"][0]["hex"].as_str().unwrap().to_owned();
    for name in [&tip, &hex, &hex.to_uppercase(), "ref:heads/main"] {
        assert_eq!(client.call("dag_get", json!({ "ids": [name] }))["vertices"][0]["id"], *tip, "{name}");
    }
    let walk = client.call("dag_walk", json!({ "roots": ["ref:heads/main"], "token": token, "limit": 2 }));
    assert_eq!(walk["vertices"].as_array().unwrap().len(), 2);
    let rest = client.call("dag_walk", json!({ "roots": ["ref:heads/main"], "limit": 2, "cursor": walk["cursor"] }));
    assert!(!rest["vertices"].as_array().unwrap().is_empty() && rest.get("cursor").is_none(), "{rest}");
    let related = client.call("dag_relate", json!({ "op": "is_ancestor", "a": root, "b": tip }));
    assert_eq!(related, json!({ "is_ancestor": true }));
    let filtered = client.call("dag_walk", json!({ "roots": [tip], "labels": { "x": "y" } }));
    assert_eq!(filtered["vertices"].as_array().unwrap().len(), 1, "{filtered}");
    let state = client.call("ref_get", json!({ "name": "heads/main", "log": true }));
    assert_eq!((&state["ref"]["version"], &state["log"][0]["actor"]), (&json!(1), &json!("test")));
    // A deleted ref keeps its version and its log.
    let deleted = client.call("ref_set", json!({ "name": "heads/main", "new": null, "expected": tip }));
    assert_eq!((&deleted["ref"]["at"], &deleted["ref"]["version"]), (&Value::Null, &json!(2)));
    assert_eq!(client.refused("ref_get", json!({ "name": "heads/main" })).0, "not_found");
    assert_eq!(
        client.call("ref_get", json!({ "name": "heads/main", "log": true }))["log"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn s3_2_10_wrong_arguments_are_answered_in_sentences_that_say_what_to_do() {
    let node = Node::start();
    let mut client = Client::new(&node);
    let root = client.put(json!({ "kind": "note" }));
    let missing = "0".repeat(64);
    for (tool, arguments, reason, part) in [
        ("dag_get", json!({}), "bad_request", "missing field `ids`"),
        ("dag_get", json!([["x"]]), "bad_request", "must be an object"),
        ("dag_get", json!({ "ids": [] }), "limit_exceeded", "at most 256"),
        ("dag_get", json!({ "ids": ["x"] }), "bad_request", "git:HASH"),
        ("dag_put", json!({ "kind": "note", "color": 1 }), "bad_request", "unknown field `color`"),
        ("dag_put", json!({ "kind": "note", "parents": [missing] }), "missing_parents", "put it first"),
        ("dag_walk", json!({ "roots": [missing] }), "not_found", "not here"),
        ("dag_walk", json!({ "roots": [root], "limit": 0 }), "limit_exceeded", "at most 10000"),
        ("dag_walk", json!({ "roots": [root], "cursor": "x" }), "bad_request", "cursor"),
        ("dag_walk", json!({ "roots": [root], "direction": "up" }), "bad_request", "ancestors"),
        ("dag_relate", json!({ "op": "lca", "a": root, "b": root, "cursor": "x" }), "bad_request", "leave cursor out"),
        ("dag_verify", json!({ "id": missing }), "not_found", "not here"),
        ("ref_set", json!({ "name": "a", "expected": "absent" }), "bad_request", "missing field `new`"),
        ("ref_set", json!({ "name": "a", "new": missing }), "not_found", "put the vertex first"),
        ("ref_set", json!({ "name": "a..b", "new": root }), "bad_request", "a..b"),
        ("ref_get", json!({ "name": "a", "prefix": "a" }), "bad_request", "not both"),
        ("node_status", json!({ "view": "all" }), "bad_request", "shards"),
    ] {
        let (found, detail) = client.refused(tool, arguments.clone());
        assert_eq!(found, reason, "{tool} {arguments}: {detail}");
        assert!(detail.contains(part), "{tool} {arguments}: {detail}");
    }
}

#[test]
fn s3_2_10_resources_say_how_long_they_hold_and_their_list_has_pages() {
    let node = Node::start();
    let mut client = Client::new(&node);
    let root = client.put(json!({ "kind": "note", "namespace": "a/b", "payload_base64": "AP8=" }));
    let mut read = |uri: &str| client.result("resources/read", json!({ "uri": uri }));
    let payload = read(&format!("dag://vertex/{root}/payload"));
    assert_eq!((&payload["contents"][0]["blob"], &payload["ttlMs"]), (&json!("AP8="), &json!(31_536_000_000_u64)));
    let children = read(&format!("dag://vertex/{root}/children"));
    assert_eq!(children["ttlMs"], 1000);
    let tips = read("dag://tips/a%2Fb");
    assert_eq!(tips["ttlMs"], 250);
    assert!(tips["contents"][0]["text"].as_str().unwrap().contains(&root), "{tips}");
    for uri in ["dag://nothing", "dag://ref/nowhere", "file:///etc/passwd", &format!("dag://vertex/{}", "1".repeat(64))]
    {
        let answer = client.request("resources/read", json!({ "uri": uri }));
        assert_eq!(
            (&answer.body["error"]["code"], &answer.body["error"]["data"]["uri"]),
            (&json!(-32602), &json!(uri))
        );
    }
    const REFS: usize = 130;
    for number in 0..REFS {
        client.call("ref_set", json!({ "name": format!("heads/{number:03}"), "new": root }));
    }
    let (mut uris, mut cursor) = (Vec::new(), None);
    loop {
        let params = cursor.map_or(json!({}), |cursor| json!({ "cursor": cursor }));
        let page = client.result("resources/list", params);
        uris.extend(page["resources"].as_array().unwrap().iter().map(|row| row["uri"].as_str().unwrap().to_owned()));
        cursor = page.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (0..REFS).map(|number| format!("dag://ref/heads/{number:03}")).collect();
    assert_eq!((uris[0].as_str(), &uris[1..]), ("dag://state", &expected[..]));
    assert_eq!(client.error("resources/list", json!({ "cursor": "x" })), (200, -32602));
}

#[test]
fn s3_2_10_a_listener_is_told_of_changes_and_of_the_end() {
    let node = Node::start();
    let (mut client, mut listener) = (Client::new(&node), Client::new(&node));
    let root = client.put(json!({ "kind": "note", "namespace": "a" }));
    let wanted = ["dag://ref/heads/main", "dag://tips/a", "dag://vertex/x/payload", "http://elsewhere"];
    let params = json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": wanted } });
    let (headers, body) = message("subscriptions/listen", params);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, head) = listener.send("POST", &headers, &body);
    assert_eq!(status, 200);
    assert!(
        head.to_lowercase().contains("text/event-stream") && head.to_lowercase().contains("x-accel-buffering: no"),
        "{head}"
    );
    let first = listener.event();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(
        first["params"]["notifications"],
        json!({ "resourceSubscriptions": wanted[..2], "toolsListChanged": true }),
        "only what is honoured"
    );
    let mut told = |uri: &str| {
        let event = listener.event();
        assert_eq!(
            (&event["method"], &event["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(uri))
        );
        assert_eq!(event["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{event}");
    };
    client.call("ref_set", json!({ "name": "heads/main", "new": root }));
    told("dag://ref/heads/main");
    // What happens elsewhere is not told.
    client.put(json!({ "kind": "note", "namespace": "b" }));
    client.put(json!({ "kind": "note", "namespace": "a", "parents": [root] }));
    told("dag://tips/a");
    node.signal("-TERM");
    let last = listener.event();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(1), &json!("complete")), "{last}");
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn s3_2_10_prompts_gather_and_completions_find() {
    let node = Node::start();
    let mut client = Client::new(&node);
    let root = client.put(json!({ "kind": "note", "payload": "first" }));
    let tip = client.put(json!({ "kind": "note", "payload": "second", "parents": [root] }));
    client.call("ref_set", json!({ "name": "heads/main", "new": tip }));
    let prompt = client.result(
        "prompts/get",
        json!({ "name": "explain_history", "arguments": { "from": root, "to": "ref:heads/main" } }),
    );
    let shown = prompt["messages"].to_string();
    assert!(shown.contains("second") && shown.contains(&tip), "{shown}");
    assert_eq!(
        client.error("prompts/get", json!({ "name": "explain_history", "arguments": { "from": root } })),
        (200, -32602)
    );
    assert_eq!(client.error("prompts/get", json!({ "name": "nothing" })), (200, -32602));
    let mut values = |reference: Value, name: &str, value: &str| {
        let params = json!({ "ref": reference, "argument": { "name": name, "value": value } });
        client.result("completion/complete", params)["completion"]["values"].clone()
    };
    let template = |uri: &str| json!({ "type": "ref/resource", "uri": uri });
    assert_eq!(values(template("dag://ref/{+name}"), "name", "heads/"), json!(["heads/main"]));
    assert_eq!(values(template("dag://tips/{namespace}"), "namespace", "def"), json!(["default"]));
    assert_eq!(values(template("dag://walk{?root,direction,depth,limit}"), "direction", "a"), json!(["ancestors"]));
    let prompt = json!({ "type": "ref/prompt", "name": "investigate_vertex" });
    assert_eq!(values(prompt.clone(), "id", &tip[..30]), json!([tip]));
    assert_eq!(values(prompt.clone(), "id", "ref:heads"), json!(["ref:heads/main"]));
    let unknown = json!({ "ref": prompt, "argument": { "name": "colour", "value": "" } });
    assert_eq!(client.error("completion/complete", unknown), (200, -32602));
}

#[test]
fn s0_1_an_immutable_answer_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start_in(&data, &[]).unwrap();
    let mut client = Client::new(&node);
    let id = client.put(json!({ "kind": "note", "payload": "stays" }));
    let before = client.call("dag_get", json!({ "ids": [id] }));
    drop(client);
    assert_eq!(node.stop(), Some(0));
    let node = Node::start_in(&data, &[]).unwrap();
    assert_eq!(Client::new(&node).call("dag_get", json!({ "ids": [id] })), before);
}
