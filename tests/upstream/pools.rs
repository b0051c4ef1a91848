//! Servers with several endpoints: which takes a call, which is left out, and what goes to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A server whose one tool may be called twice, and answers with `name`.
fn replica(name: &'static str, broken: &Arc<AtomicBool>) -> Server {
    let broken = broken.clone();
    Server::modern(move |message| match message["method"].as_str() {
        Some("tools/list") => Does::Result(json!({
            "tools": [
                { "name": "who", "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true } },
                { "name": "do", "inputSchema": { "type": "object" } },
            ],
            "ttlMs": 0, "cacheScope": "public", "resultType": "complete",
        })),
        Some("tools/call") if broken.load(Ordering::SeqCst) => {
            Does::Raw("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        _ => echo(message).unwrap_or_else(|| {
            Does::Result(json!({ "resultType": "complete", "content": [{ "type": "text", "text": name }] }))
        }),
    })
}

fn well() -> Arc<AtomicBool> {
    Arc::default()
}

fn urls(servers: &[&Server]) -> String {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    format!("urls = {urls:?}\n")
}

fn states(gateway: &Gateway, name: &str) -> Vec<String> {
    let known = gateway.known(name);
    let rows = known["endpoints"].as_array().unwrap();
    rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

fn wait_states(gateway: &Gateway, name: &str, wanted: &[&str]) {
    let begun = Instant::now();
    while states(gateway, name) != wanted {
        assert!(begun.elapsed() < WAIT, "{name} does not become {wanted:?}: {}", gateway.known(name)["endpoints"]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn calls(server: &Server) -> usize {
    server.seen("tools/call").len()
}

#[test]
fn s4_1_2_calls_go_to_each_endpoint_in_turn_and_the_node_counts_them_together() {
    let (one, two) = (replica("one", &well()), replica("two", &well()));
    let gateway = Gateway::start(&[("r", &urls(&[&one, &two]))]);
    gateway.wait("r", "up");
    for _ in 0..40 {
        gateway.call("r__who", "");
    }
    assert!((18..=22).contains(&calls(&one)), "{} and {}", calls(&one), calls(&two));
    let known = gateway.known("r");
    assert_eq!((&known["calls"], &known["failures"], &known["open"]), (&json!(40), &json!(0), &json!(0)), "{known}");
    assert_eq!(known["balance"], "round_robin");
}

#[test]
fn s4_1_4_an_argument_leads_to_the_same_endpoint_from_every_core() {
    let (one, two) = (replica("one", &well()), replica("two", &well()));
    let text = format!("{}balance = \"hash\"\nhash_argument = \"text\"", urls(&[&one, &two]));
    let gateway = Gateway::start(&[("r", &text)]);
    gateway.wait("r", "up");
    let mut seen = std::collections::BTreeSet::new();
    for key in 0..12 {
        let key = key.to_string();
        let first = gateway.call("r__who", &key).text().to_owned();
        for _ in 0..6 {
            assert_eq!(gateway.call("r__who", &key).text(), first, "the key {key}");
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "keys are spread");
}

#[test]
fn s3_1_4_what_may_be_carried_out_twice_goes_to_another_endpoint_and_nothing_else_does() {
    let bad = well();
    let (one, two) = (replica("one", &bad), replica("two", &well()));
    let rules = "[health]\nerror_percent = 0\n[breaker]\nfailures = 0\n[retries]\nbudget_percent = 100";
    let gateway = Gateway::start(&[("r", &format!("{}{rules}", urls(&[&one, &two])))]);
    gateway.wait("r", "up");
    bad.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(gateway.call("r__who", "").text(), "two", "a reading is repeated");
    }
    assert!(0 < calls(&one));
    assert_eq!(gateway.known("r")["retries"], calls(&one));
    let before = calls(&one) + calls(&two);
    let failed = (0..20).filter(|_| gateway.call("r__do", "").last()["error"].is_object()).count();
    assert!((8..=12).contains(&failed), "what may do something is not: {failed}");
    assert_eq!(calls(&one) + calls(&two), before + 20, "each was sent once");
}

#[test]
fn s3_1_4_a_spent_budget_lets_failures_through() {
    let bad = well();
    bad.store(true, Ordering::SeqCst);
    let (one, two) = (replica("one", &bad), replica("two", &bad));
    let rules = "[health]\nerror_percent = 0\n[breaker]\nfailures = 0\n[retries]\nmin_per_second = 0";
    let gateway = Gateway::start(&[("r", &format!("{}{rules}", urls(&[&one, &two])))]);
    gateway.wait("r", "up");
    for _ in 0..40 {
        assert_eq!(gateway.call("r__who", "").reason(), "unavailable");
    }
    let sent = calls(&one) + calls(&two);
    assert!((42..=48).contains(&sent), "40 calls and a fifth of them again: {sent}");
    assert!(0 < gateway.known("r")["retries_refused"].as_u64().unwrap());
}

#[test]
fn s4_1_6_checks_take_a_dead_endpoint_out_and_bring_it_back() {
    let (one, two) = (replica("one", &well()), replica("two", &well()));
    let rules = "[health]\ninterval_ms = 50\ntimeout_ms = 500\nslow_start_ms = 0\n[retries]\nattempts_max = 0";
    let gateway = Gateway::start(&[("r", &format!("{}{rules}", urls(&[&one, &two])))]);
    gateway.wait("r", "up");
    one.set_down(true);
    wait_states(&gateway, "r", &["unhealthy", "healthy"]);
    for _ in 0..10 {
        assert_eq!(gateway.call("r__do", "").text(), "two", "nobody is sent to the dead one");
    }
    one.set_down(false);
    wait_states(&gateway, "r", &["healthy", "healthy"]);
    let texts: Vec<String> = (0..10).map(|_| gateway.call("r__do", "").text().to_owned()).collect();
    assert!(texts.iter().any(|text| text == "one"), "{texts:?}");
}

#[test]
fn s4_1_7_an_endpoint_that_fails_often_is_ejected_and_comes_back_while_one_that_is_busy_stays() {
    let bad = well();
    let (one, two) = (replica("one", &bad), replica("two", &well()));
    let rules = "[health]\nejection_ms = 1500\nslow_start_ms = 0\nerror_calls_min = 10\n[breaker]\nfailures = 0";
    let gateway = Gateway::start(&[("r", &format!("{}{rules}", urls(&[&one, &two])))]);
    gateway.wait("r", "up");
    bad.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    while states(&gateway, "r") != ["ejected", "healthy"] {
        gateway.call("r__do", "");
        assert!(begun.elapsed() < WAIT);
    }
    let before = calls(&one);
    assert_eq!(gateway.call("r__do", "").text(), "two");
    assert_eq!(calls(&one), before);
    bad.store(false, Ordering::SeqCst);
    wait_states(&gateway, "r", &["healthy", "healthy"]);
    assert_eq!(gateway.known("r")["endpoints"][0]["ejections"], 1);
    let busy = Server::modern(|message| {
        echo(message).unwrap_or(Does::Raw("HTTP/1.1 429 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
    });
    declare(gateway.folder.path(), "busy", &urls(&[&busy, &two]));
    gateway.wait("busy", "up");
    for _ in 0..60 {
        gateway.call("busy__echo", "");
    }
    assert_eq!(states(&gateway, "busy"), ["healthy", "healthy"], "429 never counts");
}

#[test]
fn s4_1_9_the_bound_of_open_calls_is_the_node_s() {
    let slow = Server::modern(|message| echo(message).unwrap_or(Does::Nothing(Duration::from_secs(20))));
    let gateway = Gateway::start(&[("s", &format!("{}concurrency_max = 3", url(&slow)))]);
    gateway.wait("s", "up");
    let (headers, body) = modern("tools/call", json!({ "name": "s__echo", "arguments": {} }));
    let held: Vec<_> = (0..3).map(|_| open(&gateway.node, &headers, &body)).collect();
    let begun = Instant::now();
    while gateway.known("s")["open"] != 3 {
        assert!(begun.elapsed() < WAIT);
    }
    for _ in 0..6 {
        let answer = gateway.call("s__echo", "");
        assert_eq!(answer.reason(), "overloaded", "{}", answer.last());
    }
    drop(held);
    let begun = Instant::now();
    while gateway.known("s")["open"] != 0 {
        assert!(begun.elapsed() < WAIT, "places are given back");
    }
}

#[test]
fn s3_1_1_a_session_stays_with_the_endpoint_that_has_it() {
    let old = || Server::legacy(|message| echo(message).unwrap_or_else(|| echoed(message)));
    let (one, two) = (old(), old());
    let gateway = Gateway::start(&[("old", &urls(&[&one, &two]))]);
    gateway.wait("old", "up");
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": { "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } },
    });
    let before = (one.sessions(), two.sessions());
    let answer = post(&gateway.node, &[], &initialize.to_string());
    let session = answer.head.lines().find(|line| line.starts_with("mcp-session-id: "));
    // The head is in lower case; the sealed session is not.
    assert!(session.is_some(), "{}", answer.head);
    let session = session_of(&gateway, &initialize.to_string());
    let opened = (one.sessions() - before.0, two.sessions() - before.1);
    assert_eq!(opened.0 + opened.1, 2, "one at one endpoint for each client: {opened:?}");
    let headers =
        [("mcp-session-id".to_owned(), session), ("mcp-protocol-version".to_owned(), "2025-11-25".to_owned())];
    let params = json!({ "name": "old__echo", "arguments": { "text": "x" } });
    let body = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params }).to_string();
    for _ in 0..8 {
        assert_eq!(post(&gateway.node, &headers, &body).text(), "x");
    }
    let counts = (calls(&one), calls(&two));
    assert!(counts == (8, 0) || counts == (0, 8), "{counts:?}");
}

fn session_of(gateway: &Gateway, body: &str) -> String {
    let mut stream = super::open(&gateway.node, &[], body);
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0);
        if line.to_lowercase().starts_with("mcp-session-id: ") {
            return line[16..].trim().to_owned();
        }
    }
}

#[test]
fn s4_1_9_dead_slow_and_flapping_servers_leave_the_others_alone() {
    let good = replica("good", &well());
    let slow = Server::modern(|message| echo(message).unwrap_or(Does::Nothing(Duration::from_secs(10))));
    let flapping = replica("flapping", &well());
    let rules = "refresh_s = 1\n[health]\ninterval_ms = 50\n";
    let gateway = Gateway::start(&[
        ("good", &url(&good)),
        ("dead", "url = \"http://127.0.0.1:1/mcp\""),
        ("slow", &url(&slow)),
        ("flapping", &format!("{}{rules}", url(&flapping))),
    ]);
    for name in ["good", "slow", "flapping"] {
        gateway.wait(name, "up");
    }
    let (headers, body) = modern("tools/call", json!({ "name": "slow__echo", "arguments": {} }));
    let held: Vec<_> = (0..20).map(|_| open(&gateway.node, &headers, &body)).collect();
    for round in 0..12 {
        flapping.set_down(round % 2 == 0);
        let other = gateway.call("flapping__who", "");
        assert!(other.last()["result"].is_object() || other.reason() == "unavailable", "{}", other.last());
        assert_eq!(gateway.call("dead__who", "").reason(), "unavailable");
        assert_eq!(gateway.call("good__who", "").text(), "good");
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(gateway.known("slow")["open"], 20, "all this was while the slow one had calls open");
    assert_eq!(gateway.known("good")["failures"], 0);
    drop(held);
    flapping.set_down(false);
    let begun = Instant::now();
    while gateway.call("flapping__who", "").last()["result"].is_null() {
        assert!(begun.elapsed() < WAIT, "it comes back by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn s3_1_8_an_answer_of_more_than_16_mib_is_refused_and_one_below_passes() {
    let server = Server::modern(|message| {
        echo(message).unwrap_or_else(|| {
            let size: usize = message["params"]["arguments"]["text"].as_str().unwrap().parse().unwrap();
            Does::Result(json!({ "resultType": "complete", "content": [{ "type": "text", "text": "x".repeat(size) }] }))
        })
    });
    let gateway = Gateway::start(&[("s", &url(&server))]);
    gateway.wait("s", "up");
    assert_eq!(gateway.call("s__echo", &(15 << 20).to_string()).text().len(), 15 << 20);
    let answer = gateway.call("s__echo", &(16 << 20).to_string());
    assert_eq!(answer.reason(), "unavailable");
    let told = answer.last()["error"].to_string();
    assert!(told.contains("more than 16777216 bytes"), "{told}");
}

#[test]
fn s3_1_1_a_drained_server_takes_calls_again_when_it_is_undone() {
    let server = replica("one", &well());
    let gateway = Gateway::start(&[("s", &url(&server))]);
    gateway.wait("s", "up");
    let folder = gateway.folder.path().to_str().unwrap();
    gateway.node.ok(&["upstream", "drain", "s", "--upstreams", folder]);
    gateway.wait("s", "drained");
    assert_eq!(gateway.call("s__who", "").reason(), "unavailable");
    gateway.node.ok(&["upstream", "drain", "s", "--undo", "--upstreams", folder]);
    gateway.wait("s", "up");
    assert_eq!(gateway.call("s__who", "").text(), "one");
}

#[test]
fn s4_1_9_what_is_out_is_explained_and_a_breaker_is_closed_by_hand() {
    let bad = well();
    let (one, two) = (replica("one", &bad), replica("two", &well()));
    let text = format!("{}[health]\nerror_percent = 0", urls(&[&one, &two]));
    let gateway = Gateway::start(&[("r", &text), ("other", &url(&two))]);
    gateway.wait("r", "up");
    gateway.wait("other", "up");
    bad.store(true, Ordering::SeqCst);
    for _ in 0..40 {
        gateway.call("r__do", "");
    }
    assert_eq!(calls(&one), 10, "the breaker of this tool at this endpoint is open for every core");
    let read = |path: &str| -> Value {
        let mut stream = TcpStream::connect(gateway.node.http()).unwrap();
        let host = gateway.node.http();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or(Value::String(answer))
    };
    let breakers = read("/api/v1/breakers");
    let rows = breakers["breakers"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{breakers}");
    assert_eq!(
        (&rows[0]["upstream"], &rows[0]["tool"], &rows[0]["state"]),
        (&json!("r"), &json!("do"), &json!("open"))
    );
    assert_eq!(rows[0]["endpoint"], one.url());
    let matrix = read("/api/v1/health/matrix");
    assert_eq!(matrix["endpoints"].as_array().unwrap().len(), 3, "{matrix}");
    let shown = gateway.node.ok(&["health", "matrix"]);
    assert!(shown.contains(&one.url()) && shown.contains("healthy"), "{shown}");
    let listed: Value = serde_json::from_str(&gateway.node.ok(&["breaker", "ls", "-o", "json"])).unwrap();
    assert_eq!(listed["breakers"][0]["tool"], "do");
    let metrics = read("/metrics");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("qmesh_upstream_failures_total{upstream=\"r\"} 10"), "{metrics}");
    assert!(metrics.contains("qmesh_upstream_endpoints_well{upstream=\"other\"} 1"), "{metrics}");
    bad.store(false, Ordering::SeqCst);
    assert_eq!(gateway.node.run(&["breaker", "reset", "nobody"]).status.code(), Some(5));
    gateway.node.ok(&["breaker", "reset", "r", "--tool", "do"]);
    assert_eq!(read("/api/v1/breakers")["breakers"], json!([]));
    for _ in 0..4 {
        gateway.call("r__do", "");
    }
    assert!(10 < calls(&one), "it takes calls again");
}
