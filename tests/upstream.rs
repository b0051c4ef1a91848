//! MCP servers behind a real node: of either era, over HTTP and as processes, and what each that fails costs the others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

mod house;
#[path = "upstream/pools.rs"]
mod pools;
#[path = "upstream/scripted.rs"]
mod scripted;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use house::{Node, QMESH};
use scripted::{Does, Server, echo, echoed};
use serde_json::{Value, json};

/// How long a test waits for what must come.
const WAIT: Duration = Duration::from_secs(20);

/// A node with these declarations of servers behind it.
struct Gateway {
    node: Node,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn start(declared: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in declared {
            declare(folder.path(), name, text);
        }
        let node = Node::start_with(&["--upstreams", folder.path().to_str().unwrap()]);
        Self { node, folder }
    }

    /// What the node knows of a server.
    fn known(&self, name: &str) -> Value {
        let report: Value = serde_json::from_str(&self.node.ok(&["upstream", "ls", "-o", "json"])).unwrap();
        let rows = report["upstreams"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
    }

    fn wait(&self, name: &str, state: &str) -> Value {
        let begun = Instant::now();
        loop {
            let known = self.known(name);
            if known["state"] == state {
                return known;
            }
            assert!(begun.elapsed() < WAIT, "{name} does not become {state}: {known}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn modern(&self, method: &str, params: Value) -> Answer {
        let (headers, body) = modern(method, params);
        post(&self.node, &headers, &body)
    }

    fn call(&self, tool: &str, text: &str) -> Answer {
        self.modern("tools/call", json!({ "name": tool, "arguments": { "text": text } }))
    }

    /// A call as a client of an earlier revision makes it.
    fn legacy_call(&self, tool: &str, text: &str) -> Answer {
        let params = json!({ "name": tool, "arguments": { "text": text } });
        let body = json!({ "jsonrpc": "2.0", "id": "old", "method": "tools/call", "params": params }).to_string();
        post(&self.node, &[("mcp-protocol-version".to_owned(), "2025-06-18".to_owned())], &body)
    }
}

fn declare(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(format!("{name}.toml")), text).unwrap();
}

struct Answer {
    head: String,
    /// The messages in it: one, or those of a stream.
    messages: Vec<Value>,
}

impl Answer {
    fn last(&self) -> &Value {
        self.messages.last().expect("an answer")
    }

    fn text(&self) -> &str {
        let last = self.last();
        last["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {last}"))
    }

    /// The reason of an error.
    fn reason(&self) -> &str {
        let last = self.last();
        last["error"]["data"]["reason"].as_str().unwrap_or_else(|| panic!("no reason: {last}"))
    }
}

fn modern(method: &str, mut params: Value) -> (Vec<(String, String)>, String) {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let mut headers = vec![
        ("mcp-protocol-version".to_owned(), "2026-07-28".to_owned()),
        ("mcp-method".to_owned(), method.to_owned()),
    ];
    if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
        headers.push(("mcp-name".to_owned(), name.to_owned()));
    }
    (headers, json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string())
}

fn open(node: &Node, headers: &[(String, String)], body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(node.http()).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut text = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         connection: close\r\ncontent-length: {}\r\n",
        node.http(),
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).unwrap();
    BufReader::new(stream)
}

fn head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "the door closed: {head}");
    }
    head.to_lowercase()
}

fn post(node: &Node, headers: &[(String, String)], body: &str) -> Answer {
    let mut stream = open(node, headers, body);
    let head = head(&mut stream);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    let messages = if head.contains("text/event-stream") {
        rest.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    } else {
        vec![serde_json::from_str(&rest).unwrap_or_else(|error| panic!("{error}: {head}{rest}"))]
    };
    Answer { head, messages }
}

fn url(server: &Server) -> String {
    format!("url = \"{}\"\n", server.url())
}

#[test]
fn s3_1_1_clients_of_either_era_reach_servers_of_either_era() {
    let new = Server::modern(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let old = Server::legacy(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let dual = Node::start();
    let dual_url = format!("url = \"http://{}/mcp\"", dual.http());
    let process = format!("command = [{QMESH:?}, \"mcp\", \"serve\", \"--stdio\", \"--node\", \"{}\"]", dual.quic());
    let gateway = Gateway::start(&[
        ("new", &url(&new)),
        ("old", &url(&old)),
        ("dual", &dual_url),
        ("aged", &format!("{dual_url}\nera = \"legacy\"")),
        ("process", &process),
        ("aged-process", &format!("{process}\nera = \"legacy\"")),
    ]);
    for (name, revision) in [
        ("new", "2026-07-28"),
        ("old", "2025-06-18"),
        ("dual", "2026-07-28"),
        ("aged", "2025-11-25"),
        ("process", "2026-07-28"),
        ("aged-process", "2025-11-25"),
    ] {
        assert_eq!(gateway.wait(name, "up")["revision"], revision, "{name}");
    }
    for name in ["new", "old"] {
        for (era, answer) in [
            ("modern", gateway.call(&format!("{name}__echo"), "hello")),
            ("legacy", gateway.legacy_call(&format!("{name}__echo"), "hello")),
        ] {
            assert_eq!(answer.text(), "hello", "a {era} client, the server {name}");
            assert_eq!(answer.last()["result"]["resultType"], "complete");
        }
    }
    for name in ["dual", "aged", "process", "aged-process"] {
        let tool = format!("{name}__node_status");
        let params = json!({ "name": tool, "arguments": {} });
        let body = json!({ "jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": params }).to_string();
        let answers = [gateway.modern("tools/call", params), post(&gateway.node, &[], &body)];
        for answer in answers {
            assert!(answer.text().contains("shard_count"), "{tool}");
        }
    }
    // The server of this era saw what this era wants, whoever asked; the other never saw it.
    for seen in new.seen("tools/call") {
        assert_eq!(seen.header("mcp-name"), Some("echo"), "{seen:?}");
        assert!(seen.body.contains("io.modelcontextprotocol/clientCapabilities"), "{seen:?}");
        assert!(seen.header("mcp-session-id").is_none());
    }
    assert!(old.seen("tools/call").iter().all(|seen| !seen.body.contains("io.modelcontextprotocol/")));
}

#[test]
fn s3_1_1_what_passes_through_keeps_its_bytes() {
    let server = Server::modern(|message| {
        echo(message).unwrap_or(Does::Raw(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
             {\"result\":{\"resultType\":\"complete\",\"odd\":[1.10,12345678901234567890123],\"content\":[]},\"id\":7, \"jsonrpc\":\"2.0\"}",
        ))
    });
    let gateway = Gateway::start(&[("raw", &url(&server))]);
    gateway.wait("raw", "up");
    let (headers, body) = modern("tools/call", json!({ "name": "raw__echo", "arguments": {} }));
    let body = body
        .replace("\"arguments\":{}", "\"arguments\":{\"n\":1.10,\"big\":12345678901234567890123, \"s\":\"\\u0061\"}");
    let mut stream = open(&gateway.node, &headers, &body);
    head(&mut stream);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"odd\":[1.10,12345678901234567890123]"), "{rest}");
    let seen = server.seen("tools/call");
    assert!(seen[0].body.contains("{\"n\":1.10,\"big\":12345678901234567890123, \"s\":\"\\u0061\"}"), "{seen:?}");
    assert_eq!(seen[0].body.replace("\"echo\"", "\"raw__echo\""), body, "only the name differs");
}

#[test]
fn s3_1_1_progress_comes_before_the_answer_and_one_document_stays_one() {
    let server = Server::modern(|message| {
        echo(message).unwrap_or_else(|| {
            let answer = json!({ "jsonrpc": "2.0", "id": "$id", "result": { "resultType": "complete", "content": [{ "type": "text", "text": "done" }] } });
            let token = &message["params"]["_meta"]["progressToken"];
            let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": 1 } });
            if token.is_null() { Does::Events(vec![answer]) } else { Does::Events(vec![progress, answer]) }
        })
    });
    let gateway = Gateway::start(&[("p", &url(&server))]);
    gateway.wait("p", "up");
    let answer = gateway.call("p__echo", "");
    assert!(answer.head.contains("application/json"), "an answer alone needs no stream: {}", answer.head);
    assert_eq!(answer.text(), "done");
    let params = json!({ "name": "p__echo", "arguments": {}, "_meta": { "progressToken": "mine" } });
    let answer = gateway.modern("tools/call", params);
    assert!(answer.head.contains("text/event-stream"), "{}", answer.head);
    assert_eq!(answer.messages[0]["params"]["progressToken"], "mine");
    assert_eq!((answer.messages.len(), answer.text()), (2, "done"));
}

#[test]
fn s3_1_1_a_forgotten_session_is_made_anew_and_the_call_is_answered() {
    let old = Server::legacy(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let gateway = Gateway::start(&[("old", &url(&old))]);
    gateway.wait("old", "up");
    assert_eq!(gateway.call("old__echo", "first").text(), "first");
    let before = old.sessions();
    old.forget_sessions();
    assert_eq!(gateway.call("old__echo", "second").text(), "second");
    assert!(before < old.sessions());
}

#[test]
fn s4_1_9_each_way_of_failing_is_told_and_costs_the_others_nothing() {
    let good = Server::modern(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let slow = Server::modern(|message| echo(message).unwrap_or(Does::Nothing(Duration::from_secs(30))));
    let garbage = Server::modern(|message| {
        echo(message).unwrap_or(Does::Raw(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>",
        ))
    });
    let broken = Server::modern(|message| {
        echo(message).unwrap_or(Does::Raw("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
    });
    let busy = Server::modern(|message| {
        echo(message).unwrap_or(Does::Raw(
            "HTTP/1.1 429 Busy\r\nretry-after: 3\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        ))
    });
    let cut = Server::modern(|message| echo(message).unwrap_or(Does::Close));
    let gateway = Gateway::start(&[
        ("good", &url(&good)),
        ("slow", &format!("{}timeout_ms = 300", url(&slow))),
        ("garbage", &url(&garbage)),
        ("broken", &url(&broken)),
        ("busy", &url(&busy)),
        ("cut", &url(&cut)),
        ("nobody", "url = \"http://127.0.0.1:1/mcp\""),
        ("drained", &format!("{}drained = true", url(&good))),
        ("absent", "command = [\"/no/such/program\"]"),
    ]);
    for name in ["good", "slow", "garbage", "broken", "busy", "cut"] {
        gateway.wait(name, "up");
    }
    gateway.wait("nobody", "down");
    gateway.wait("absent", "down");
    for (tool, reason) in [
        ("slow__echo", "timeout"),
        ("garbage__echo", "unavailable"),
        ("broken__echo", "unavailable"),
        ("busy__echo", "overloaded"),
        ("cut__echo", "unavailable"),
        ("nobody__echo", "unavailable"),
        ("absent__echo", "unavailable"),
        ("drained__echo", "unavailable"),
    ] {
        let answer = gateway.call(tool, "");
        assert_eq!(answer.reason(), reason, "{tool}: {}", answer.last());
        assert_eq!(answer.last()["error"]["data"]["upstream"], tool.split("__").next().unwrap());
        assert_eq!(gateway.call("good__echo", "still").text(), "still");
    }
    assert_eq!(gateway.call("busy__echo", "").last()["error"]["data"]["retryAfterMs"], 3000);
    // Ten failures open its breaker on every core: from then on the server is not asked.
    let asked = || broken.seen("tools/call").len();
    for _ in 0..60 {
        gateway.call("broken__echo", "");
    }
    assert_eq!(asked(), 10);
    assert_eq!(gateway.call("good__echo", "still").text(), "still");
    let tools = gateway.modern("tools/list", json!({}));
    let names: Vec<&str> =
        tools.last()["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"good__echo") && names.contains(&"broken__echo") && !names.contains(&"nobody__echo"));
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn s3_1_1_a_server_that_goes_keeps_its_row_and_comes_back_by_itself() {
    let server = Server::modern(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let gateway = Gateway::start(&[("s", &format!("{}refresh_s = 1", url(&server)))]);
    gateway.wait("s", "up");
    server.set_down(true);
    let down = gateway.wait("s", "down");
    assert_eq!(down["tools"], 1, "it keeps what it offered: {down}");
    assert_eq!(gateway.call("s__echo", "").reason(), "unavailable");
    server.set_down(false);
    gateway.wait("s", "up");
    assert_eq!(gateway.call("s__echo", "back").text(), "back");
}

#[test]
fn s3_1_1_declarations_are_followed_while_the_node_runs() {
    let server = Server::modern(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let gateway = Gateway::start(&[]);
    let (headers, body) = modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut listener = open(&gateway.node, &headers, &body);
    head(&mut listener);
    let mut event = || loop {
        let mut line = String::new();
        assert_ne!(listener.read_line(&mut line).unwrap(), 0);
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str::<Value>(data).unwrap();
        }
    };
    assert_eq!(event()["params"]["notifications"], json!({ "toolsListChanged": true }));
    let folder = gateway.folder.path().to_str().unwrap();
    gateway.node.ok(&["upstream", "add", "late", "--url", &server.url(), "--upstreams", folder]);
    let changed = event();
    assert_eq!(changed["method"], "notifications/tools/list_changed");
    assert_eq!(changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
    gateway.wait("late", "up");
    assert_eq!(gateway.call("late__echo", "hi").text(), "hi");
    let found = gateway.modern("tools/call", json!({ "name": "tools_search", "arguments": { "query": "echo" } }));
    assert_eq!(found.last()["result"]["structuredContent"]["tools"][0]["name"], "late__echo");
    let tested = gateway.node.ok(&["upstream", "test", "late", "--upstreams", folder]);
    assert!(tested.contains("2026-07-28") && tested.contains("1 tools"), "{tested}");
    let again = gateway.node.run(&["upstream", "add", "late", "--url", &server.url(), "--upstreams", folder]);
    assert_eq!(again.status.code(), Some(4), "it is there already");
    declare(gateway.folder.path(), "wrong", "urll = 1");
    gateway.node.ok(&["upstream", "rm", "late", "--upstreams", folder]);
    assert_eq!(event()["method"], "notifications/tools/list_changed");
    let answer = gateway.call("late__echo", "hi");
    assert_eq!(answer.last()["error"]["code"], -32602, "{}", answer.last());
    let report: Value = serde_json::from_str(&gateway.node.ok(&["upstream", "ls", "-o", "json"])).unwrap();
    assert!(report["refused"][0]["detail"].as_str().unwrap().contains("urll"), "{report}");
}

#[test]
fn s3_1_1_a_client_that_goes_away_cancels_its_call() {
    let server = Server::modern(|message| echo(message).unwrap_or(Does::Nothing(Duration::from_secs(30))));
    let gateway = Gateway::start(&[("s", &url(&server))]);
    gateway.wait("s", "up");
    let (headers, body) = modern("tools/call", json!({ "name": "s__echo", "arguments": {} }));
    let stream = open(&gateway.node, &headers, &body);
    let begun = Instant::now();
    let opened = |count: u64| gateway_open(&gateway) == count;
    while !opened(1) {
        assert!(begun.elapsed() < WAIT);
    }
    drop(stream);
    let begun = Instant::now();
    while !opened(0) {
        // A client that closes while nothing is sent is noticed when the next comment cannot be: 20 s, the limit of other waits.
        assert!(begun.elapsed() < 2 * WAIT, "the call is still open");
    }
}

/// Calls that are open at the server `s`.
fn gateway_open(gateway: &Gateway) -> u64 {
    gateway.known("s")["open"].as_u64().unwrap_or_default()
}

#[test]
fn s3_1_1_a_process_serves_many_clients_and_is_started_again_when_it_ends() {
    let dual = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let script = format!("echo $$ > {}; exec {QMESH} mcp serve --stdio --node {}", pid_file.display(), dual.quic());
    let gateway = Gateway::start(&[("p", &format!("command = [\"/bin/sh\", \"-c\", {script:?}]"))]);
    gateway.wait("p", "up");
    // Clients choose the same id and the same progress token.
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let call = |at: usize| {
            let params = json!({ "kind": "note", "payload": format!("payload {at}") });
            let params = json!({ "name": "p__dag_put", "arguments": params, "_meta": { "progressToken": 1 } });
            gateway.modern("tools/call", params).last().clone()
        };
        let calls: Vec<_> = (0..16).map(|at| scope.spawn(move || call(at))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let ids: std::collections::BTreeSet<String> =
        answers.iter().map(|answer| answer["result"]["structuredContent"]["id"].to_string()).collect();
    assert_eq!(ids.len(), 16, "each has its own answer: {answers:?}");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert!(std::process::Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    let begun = Instant::now();
    loop {
        let answer = gateway.modern("tools/call", json!({ "name": "p__node_status", "arguments": {} }));
        if answer.last()["result"].is_object() {
            break;
        }
        assert_eq!(answer.reason(), "unavailable");
        assert!(begun.elapsed() < WAIT, "it does not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn s3_1_1_a_session_is_carried_by_its_client_and_a_server_s_question_finds_its_answer_on_any_gateway() {
    let ask = json!({ "jsonrpc": "2.0", "id": "question-1", "method": "sampling/createMessage", "params": {} });
    let old = Server::legacy(move |message| echo(message).unwrap_or_else(|| Does::Ask(ask.clone())));
    let one = Gateway::start(&[("old", &url(&old))]);
    // Another gateway that has the same secret, as those of one cluster have.
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("tls")).unwrap();
    for file in ["ca.pem", "ca.key"] {
        std::fs::copy(one.node.data().join("tls").join(file), data.join("tls").join(file)).unwrap();
    }
    let upstreams = one.folder.path().to_str().unwrap();
    let other = Node::start_in(&data, &["--upstreams", upstreams]).unwrap();
    one.wait("old", "up");
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": { "protocolVersion": "2025-11-25", "capabilities": { "sampling": {} }, "clientInfo": { "name": "t", "version": "1" } },
    });
    let mut stream = open(&one.node, &[], &initialize.to_string());
    let mut line = String::new();
    let session = loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        if let Some(session) = line.to_lowercase().starts_with("mcp-session-id: ").then(|| line[16..].trim().to_owned())
        {
            break session;
        }
    };
    let headers =
        [("mcp-session-id".to_owned(), session), ("mcp-protocol-version".to_owned(), "2025-11-25".to_owned())];
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "old__echo", "arguments": {} } });
    let mut stream = open(&one.node, &headers, &call.to_string());
    head(&mut stream);
    let mut event = || loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the stream ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str::<Value>(data).unwrap();
        }
    };
    let question = event();
    assert_eq!(question["method"], "sampling/createMessage");
    assert_ne!(question["id"], "question-1", "the server's own id leads nowhere");
    let said = json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "text": "from the client" } }).to_string();
    let mut taken = open(&other, &headers, &said);
    let taken_head = head(&mut taken);
    assert!(taken_head.starts_with("http/1.1 202"), "{taken_head}");
    assert_eq!(event()["result"]["content"][0]["text"], "from the client");
    for (wrong, status) in [("AQ", "404"), ("nonsense!", "404")] {
        let headers = [("mcp-session-id".to_owned(), wrong.to_owned())];
        let mut refused = open(&one.node, &headers, &call.to_string());
        let head = head(&mut refused);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{wrong}: {head}");
    }
}

#[test]
fn s3_2_10_news_of_a_server_s_resources_reach_who_listens_here() {
    let server = Server::modern(|message| match message["method"].as_str().unwrap_or_default() {
        "server/discover" => Does::Result(json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "public",
            "capabilities": { "resources": { "subscribe": true } },
        })),
        "resources/list" => Does::Result(json!({
            "resultType": "complete", "ttlMs": 0, "cacheScope": "public", "resources": [{ "uri": "x://a", "name": "a" }],
        })),
        "resources/templates/list" => Does::Result(json!({
            "resultType": "complete", "ttlMs": 0, "cacheScope": "public", "resourceTemplates": [],
        })),
        "resources/read" => Does::Result(json!({
            "resultType": "complete", "ttlMs": 0, "cacheScope": "public",
            "contents": [{ "uri": "x://a", "text": "content" }],
        })),
        "subscriptions/listen" => {
            let meta = json!({ "io.modelcontextprotocol/subscriptionId": "$id" });
            let told = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "method": method, "params": params });
            Does::Events(vec![
                told("notifications/subscriptions/acknowledged", json!({ "_meta": meta, "notifications": {} })),
                told("notifications/resources/updated", json!({ "_meta": meta, "uri": "x://a" })),
            ])
        }
        _ => Does::Close,
    });
    let gateway = Gateway::start(&[("r", &url(&server))]);
    gateway.wait("r", "up");
    let read = gateway.modern("resources/read", json!({ "uri": "x://a" }));
    assert_eq!(read.last()["result"]["contents"][0]["text"], "content");
    let listed = gateway.modern("resources/list", json!({}));
    let uris: Vec<&Value> =
        listed.last()["result"]["resources"].as_array().unwrap().iter().map(|row| &row["uri"]).collect();
    assert_eq!(uris, ["dag://state", "x://a"]);
    let wanted = json!({ "notifications": { "resourceSubscriptions": ["x://a", "x://unknown"] } });
    let (headers, body) = modern("subscriptions/listen", wanted);
    let mut listener = open(&gateway.node, &headers, &body);
    head(&mut listener);
    let mut event = || loop {
        let mut line = String::new();
        assert_ne!(listener.read_line(&mut line).unwrap(), 0);
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str::<Value>(data).unwrap();
        }
    };
    assert_eq!(event()["params"]["notifications"], json!({ "resourceSubscriptions": ["x://a"] }));
    let news = event();
    assert_eq!((&news["method"], &news["params"]["uri"]), (&json!("notifications/resources/updated"), &json!("x://a")));
    assert_eq!(news["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
}
