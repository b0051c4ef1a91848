//! REST over a real node: every route, the forms of its answers, and clients that behave badly.
//!
//! Promises: each scene has a node of its own, on free ports. Does not: measure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

#[path = "rest/attacks.rs"]
mod attacks;
#[path = "rest/bounds.rs"]
mod bounds;
#[path = "rest/clients.rs"]
mod clients;
#[path = "rest/coding.rs"]
mod coding;
mod house;
#[path = "rest/http.rs"]
mod http;
#[path = "rest/http3.rs"]
mod http3;
#[path = "rest/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use house::Node;
use http::{DAG, call, connect, diamond, get, ids, post, put, sorted};
use qmesh::dag::archive::SealedVertex;
use qmesh::dag::signature::{Algorithm, SigningKey};
use qmesh::dag::vertex::Vertex;
use qmesh::ids::VertexId;
use serde_json::{Value, json};

#[test]
fn s3_2_10_a_vertex_is_put_once_and_read_in_every_form() {
    let node = Node::start();
    let vertex = json!({ "kind": "note", "timestamp_ms": 7, "payload": "hello", "labels": { "a": "b" } });
    let first = post(&node, &format!("{DAG}/vertices"), &vertex);
    assert_eq!(first.status, 201, "{}", first.text());
    let receipt = first.json();
    let id: VertexId = receipt["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        (&receipt["existed"], &receipt["durable"], &receipt["generation"]),
        (&json!(false), &json!(true), &json!(1))
    );
    assert_eq!(receipt["slot"], u64::from(id.0[0] & 15));
    let etag = format!("\"{}\"", id.hex());
    assert_eq!(first.header("etag"), Some(etag.as_str()));
    let place = first.header("location").unwrap().to_owned();
    let again = post(&node, &format!("{DAG}/vertices"), &vertex);
    assert_eq!((again.status, &again.json()["existed"]), (200, &json!(true)));

    for name in [id.to_string(), id.hex()] {
        let found = get(&node, &format!("{DAG}/vertices/{name}"));
        assert_eq!(found.status, 200);
        assert_eq!(found.header("etag"), Some(etag.as_str()));
        assert_eq!(found.header("cache-control"), Some("public, max-age=31536000, immutable"));
        assert_eq!(found.json()["payload"], "hello");
        assert_eq!(found.json()["id"], id.to_string());
    }
    let cbor = call(&node, "GET", &place, &[("Accept", "application/vnd.ipld.dag-cbor")], b"");
    assert_eq!(blake3::hash(&cbor.body).as_bytes(), &id.0, "the canonical form does not hash to the id");
    let record = call(&node, "GET", &place, &[("Accept", "application/vnd.qmesh.rkyv")], b"");
    let parsed = qmesh_storage::Record::parse(&Bytes::from(record.body.clone())).unwrap();
    assert_eq!(SealedVertex::verify(parsed).unwrap().id(), id);
    assert_ne!(cbor.header("etag"), record.header("etag"), "different bytes have one strong tag");
    call(&node, "GET", &place, &[("Accept", "text/html")], b"").is_problem(406, "bad_request");

    let unchanged = call(&node, "GET", &place, &[("If-None-Match", &etag)], b"");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.header("etag"), Some(etag.as_str()));
    let head = call(&node, "HEAD", &place, &[], b"");
    let whole = get(&node, &place);
    assert_eq!((head.status, head.header("content-length")), (200, whole.header("content-length")));

    // A record can be put as it is, and an altered one cannot.
    let second = Node::start();
    let rkyv = [("Content-Type", "application/vnd.qmesh.rkyv")];
    let there = call(&second, "POST", &format!("{DAG}/vertices"), &rkyv, &record.body);
    assert_eq!((there.status, &there.json()["id"]), (201, &json!(id.to_string())));
    let mut altered = record.body.clone();
    *altered.last_mut().unwrap() ^= 1;
    altered[60] ^= 1;
    let refused = call(&second, "POST", &format!("{DAG}/vertices"), &rkyv, &altered);
    assert!((400..500).contains(&refused.status), "{}", refused.text());
}

#[test]
fn s3_2_10_a_content_is_read_in_ranges() {
    let node = Node::start();
    let content: String = ('a'..='z').collect();
    let id = put(&node, &json!({ "kind": "note", "payload": content }));
    let path = format!("{DAG}/vertices/{id}/payload");
    let whole = get(&node, &path);
    assert_eq!((whole.status, whole.text()), (200, content.clone()));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
    let check = |range: &str, status: u16, body: &str, content_range: Option<&str>| {
        let answer = call(&node, "GET", &path, &[("Range", range)], b"");
        assert_eq!((answer.status, answer.header("content-range")), (status, content_range), "{range}");
        if status != 416 {
            assert_eq!(answer.text(), body, "{range}");
        }
    };
    check("bytes=0-4", 206, "abcde", Some("bytes 0-4/26"));
    check("bytes=-3", 206, "xyz", Some("bytes 23-25/26"));
    check("bytes=25-", 206, "z", Some("bytes 25-25/26"));
    check("bytes=0-999", 206, &content, Some("bytes 0-25/26"));
    check("bytes=26-", 416, "", Some("bytes */26"));
    check("bytes=0-1,3-4", 200, &content, None);
    check("nonsense", 200, &content, None);
    let head = call(&node, "HEAD", &path, &[], b"");
    assert_eq!(head.header("content-length"), Some("26"));
    let nothing = put(&node, &json!({ "kind": "note", "timestamp_ms": 1 }));
    let empty = get(&node, &format!("{DAG}/vertices/{nothing}/payload"));
    assert_eq!((empty.status, empty.body.len()), (200, 0));
}

#[test]
fn s3_2_10_the_graph_is_asked() {
    let node = Node::start();
    let [root, left, right, merge] = diamond(&node);
    let ask = |path: &str| {
        let answer = get(&node, &format!("{DAG}/{path}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    };
    assert_eq!(ids(&ask(&format!("vertices/{merge}/parents"))), [left.clone(), right.clone()]);
    assert_eq!(sorted(ids(&ask(&format!("vertices/{root}/children")))), sorted(vec![left.clone(), right.clone()]));
    let all = sorted(vec![root.clone(), left.clone(), right.clone(), merge.clone()]);
    assert_eq!(sorted(ids(&ask(&format!("vertices/{merge}/ancestors")))), all);
    assert_eq!(sorted(ids(&ask(&format!("vertices/{root}/descendants")))), all);
    assert_eq!(ids(&ask(&format!("vertices/{merge}/ancestors?since_ms=4"))), [merge.as_str()]);
    assert_eq!(ids(&ask(&format!("vertices/{merge}/ancestors?label=name:left"))), [left.as_str()]);
    assert_eq!(sorted(ids(&ask(&format!("vertices/{merge}/ancestors?until_gen=1")))), [root.as_str()]);
    assert_eq!(ids(&ask(&format!("vertices/{merge}/ancestors?depth=0"))), [merge.as_str()]);
    assert_eq!(ids(&ask(&format!("lca?ids={left},{right}"))), [root.as_str()]);
    assert_eq!(ids(&ask(&format!("lca?ids={left}&ids={right}"))), [root.as_str()]);
    assert_eq!(ask(&format!("is-ancestor?a={root}&b={merge}")), json!({ "is_ancestor": true }));
    assert_eq!(ask(&format!("is-ancestor?a={merge}&b={root}")), json!({ "is_ancestor": false }));
    assert_eq!(sorted(ids(&ask(&format!("range?from={left}&to={merge}")))), sorted(vec![right.clone(), merge.clone()]));
    let order = ids(&ask(&format!("topo?roots={merge}")));
    assert_eq!((&order[0], &order[3], order.len()), (&root, &merge, 4));
    assert_eq!(ids(&ask("tips")), [merge.as_str()]);
    let path = ask(&format!("path?from={merge}&to={root}"));
    assert_eq!(path["path"].as_array().unwrap().len(), 3);
    assert_eq!(ask(&format!("path?from={left}&to={right}")), json!({ "path": null }));
    let diff = ask(&format!("diff?from={left}&to={right}"));
    for (part, expected) in [("only_from", &left), ("only_to", &right), ("bases", &root)] {
        assert_eq!(diff[part].as_array().unwrap().len(), 1, "{part}: {diff}");
        assert_eq!(diff[part][0]["id"], **expected, "{part}");
    }
    let status = ask(&format!("vertices/{merge}/status"));
    assert_eq!(
        (&status["durable"], &status["staged"], &status["generation"], &status["tip"]),
        (&json!(true), &json!(false), &json!(3), &json!(true))
    );

    // Pages follow each other without gap or repetition.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = ask(&format!("vertices/{merge}/ancestors?limit=1&cursor={cursor}"));
        paged.extend(ids(&page));
        match page["cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(sorted(paged), all);

    let lines =
        call(&node, "GET", &format!("{DAG}/vertices/{merge}/ancestors"), &[("Accept", "application/x-ndjson")], b"");
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(lines.lines().len(), 4);
    let walk =
        post(&node, &format!("{DAG}/walk"), &json!({ "roots": [root], "direction": "descendants", "kind": "note" }));
    assert_eq!((walk.header("content-type"), walk.lines().len()), (Some("application/x-ndjson"), 4));
    let walk = post(&node, &format!("{DAG}/walk"), &json!({ "roots": [merge], "exclude": [left], "limit": 1 }));
    let lines = walk.lines();
    assert_eq!(lines.len(), 2, "{}", walk.text());
    assert!(lines[1]["cursor"].is_string(), "a walk that has more ends with its cursor");
}

#[test]
fn s3_2_10_wrong_questions_are_refused_with_what_would_do() {
    let node = Node::start();
    let [root, ..] = diamond(&node);
    let absent = VertexId([9; 32]);
    let check = |path: &str, status: u16, reason: &str, part: &str| {
        let problem = get(&node, &format!("{DAG}/{path}")).is_problem(status, reason);
        assert!(problem["detail"].as_str().unwrap().contains(part), "{path}: {problem}");
    };
    check(&format!("vertices/{absent}"), 404, "not_found", &absent.to_string());
    check("vertices/nonsense", 400, "bad_request", "git:HASH");
    check("vertices/git:12", 400, "bad_request", "full commit hash");
    check("vertices/ref:none", 404, "not_found", "no such ref");
    check("vertices/%ff", 400, "bad_request", "percent-encoded");
    check(&format!("vertices/{root}/ancestors?colour=red"), 400, "bad_request", "\"colour\"");
    check(&format!("vertices/{root}/ancestors?limit=0"), 400, "bad_request", "limit");
    check(&format!("vertices/{root}/ancestors?limit=10001"), 413, "limit_exceeded", "at most 10000");
    check(&format!("vertices/{root}/ancestors?order=sideways"), 400, "bad_request", "sideways");
    check(&format!("vertices/{root}/ancestors?cursor=x"), 400, "bad_request", "cursor");
    check(&format!("vertices/{root}/ancestors?token=99.1"), 400, "bad_request", "token");
    check("lca", 400, "bad_request", "\"ids\" is missing");
    check(&format!("is-ancestor?a={root}"), 400, "bad_request", "\"b\" is missing");
    check(&format!("range?from={root}&to={absent}"), 404, "not_found", "");
    check("refs/..", 400, "bad_request", "");
    let posted = |path: &str, body: &str, status: u16, reason: &str, part: &str| {
        let json = [("Content-Type", "application/json")];
        let problem = call(&node, "POST", &format!("{DAG}/{path}"), &json, body.as_bytes()).is_problem(status, reason);
        assert!(problem["detail"].as_str().unwrap().contains(part), "{path}: {problem}");
    };
    posted("vertices", "{", 400, "bad_request", "EOF");
    posted("vertices", "", 400, "bad_request", "EOF");
    posted("vertices", "[1]", 400, "bad_request", "vertex");
    posted("vertices", r#"{"kind":"x","colour":1}"#, 400, "bad_request", "colour");
    posted(
        "vertices",
        &json!({ "kind": "x", "parents": [absent.to_string()] }).to_string(),
        422,
        "missing_parents",
        &absent.to_string(),
    );
    posted("walk", r#"{"roots":[]}"#, 400, "bad_request", "");
    posted("vertices:get", r#"{"ids":"x"}"#, 400, "bad_request", "");
    let deep = "[".repeat(100_000);
    posted("vertices", &deep, 400, "bad_request", "");
    let xml = [("Content-Type", "text/xml")];
    call(&node, "POST", &format!("{DAG}/vertices"), &xml, b"<x/>").is_problem(415, "bad_request");
}

#[test]
fn s1_1_9_a_signed_vertex_is_verified_at_the_door() {
    let node = Node::start();
    let vertex = Vertex {
        namespace: "default".to_owned(),
        kind: "note".to_owned(),
        author: None,
        timestamp_ms: 1,
        parents: Vec::new(),
        labels: Default::default(),
        payload: b"signed".to_vec(),
    };
    for algorithm in Algorithm::ALL {
        let signature = SigningKey::generate(algorithm).unwrap().sign(&vertex.id()).unwrap();
        let base64 = |bytes: &[u8]| {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(bytes)
        };
        let mut described = json!({
            "kind": "note", "timestamp_ms": 1, "payload": "signed",
            "signature": {
                "algorithm": algorithm.name(),
                "public_key": base64(&signature.public_key),
                "signature": base64(&signature.bytes),
            },
        });
        assert_eq!(put(&node, &described), vertex.id().to_string());
        described["timestamp_ms"] = 2.into();
        post(&node, &format!("{DAG}/vertices"), &described).is_problem(422, "unverified");
    }
}

#[test]
fn s3_2_10_refs_move_by_compare_and_set() {
    let node = Node::start();
    let [root, left, right, _] = diamond(&node);
    let path = format!("{DAG}/refs/git/heads/main");
    let set = |headers: &[(&str, &str)], body: Value| call(&node, "PUT", &path, headers, body.to_string().as_bytes());
    get(&node, &path).is_problem(404, "not_found");
    let made = set(&[("If-None-Match", "*")], json!({ "to": root, "actor": "ada", "reason": "first" }));
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!((&made.json()["at"], &made.json()["version"]), (&json!(root), &json!(1)));
    let tag = made.header("etag").unwrap().to_owned();
    set(&[("If-None-Match", "*")], json!({ "to": left })).is_problem(412, "conflict");
    let moved = set(&[("If-Match", &tag)], json!({ "to": left }));
    assert_eq!(moved.status, 200, "{}", moved.text());
    set(&[("If-Match", &tag)], json!({ "to": right })).is_problem(412, "conflict");
    set(&[], json!({ "to": right, "expect": root })).is_problem(409, "conflict");
    set(&[], json!({ "to": right, "expect": "absent" })).is_problem(409, "conflict");
    assert_eq!(set(&[], json!({ "to": right, "expect": left })).status, 200);
    assert_eq!(set(&[("If-Match", "*")], json!({ "to": left })).status, 200);
    set(&[], json!({ "to": VertexId([1; 32]).to_string() })).is_problem(404, "not_found");
    set(&[("If-Match", "\"7\"")], json!({ "to": left })).is_problem(400, "bad_request");

    let found = get(&node, &path);
    assert_eq!((found.status, &found.json()["at"]), (200, &json!(left)));
    let tag = found.header("etag").unwrap();
    assert_eq!(call(&node, "GET", &path, &[("If-None-Match", tag)], b"").status, 304);
    assert_eq!(found.header("cache-control"), Some("no-cache"));
    // Names of refs stand for ids, and what they say is not immutable.
    let named = get(&node, &format!("{DAG}/vertices/ref%3Agit%2Fheads%2Fmain"));
    assert_eq!((named.status, &named.json()["id"]), (200, &json!(left)));
    assert_eq!(named.header("cache-control"), Some("no-cache"));

    let log = get(&node, &format!("{path}/log?limit=2")).json();
    let moves = log["moves"].as_array().unwrap();
    assert_eq!((moves.len(), &moves[0]["to"], &moves[0]["version"]), (2, &json!(left), &json!(4)));
    for name in ["a", "b", "b/c"] {
        let made = call(&node, "PUT", &format!("{DAG}/refs/{name}"), &[], json!({ "to": root }).to_string().as_bytes());
        assert_eq!(made.status, 201, "{name}: {}", made.text());
    }
    let list = get(&node, &format!("{DAG}/refs?prefix=b&limit=1")).json();
    assert_eq!((&list["refs"][0]["name"], &list["cursor"]), (&json!("b"), &json!("b")));
    let rest = get(&node, &format!("{DAG}/refs?prefix=b&cursor=b")).json();
    assert_eq!((&rest["refs"][0]["name"], &rest["cursor"]), (&json!("b/c"), &json!(null)));

    assert_eq!(call(&node, "DELETE", &path, &[("If-Match", "\"00\"")], b"").status, 400);
    assert_eq!(call(&node, "DELETE", &path, &[], b"").status, 204);
    get(&node, &path).is_problem(404, "not_found");
    call(&node, "DELETE", &path, &[], b"").is_problem(404, "not_found");
    assert_eq!(get(&node, &format!("{path}/log")).status, 200, "the log outlives the ref");
}

#[test]
fn s3_2_11_a_batch_answers_every_line_and_a_wrong_one_costs_itself() {
    let node = Node::start();
    let root = json!({ "kind": "note", "timestamp_ms": 1, "payload": "root" });
    let root_id = Vertex {
        namespace: "default".to_owned(),
        kind: "note".to_owned(),
        author: None,
        timestamp_ms: 1,
        parents: Vec::new(),
        labels: Default::default(),
        payload: b"root".to_vec(),
    }
    .id();
    let child = json!({ "kind": "note", "timestamp_ms": 2, "parents": [root_id.to_string()] });
    let orphan = json!({ "kind": "note", "timestamp_ms": 3, "parents": [VertexId([5; 32]).to_string()] });
    let body = format!("{root}\n{child}\n{{\"kind\":\n\n{orphan}\n{root}");
    let answer = call(&node, "POST", &format!("{DAG}/vertices:batch"), &[], body.as_bytes());
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
    let lines = answer.lines();
    let found: Vec<(u64, Option<&str>)> =
        lines.iter().map(|line| (line["line"].as_u64().unwrap(), line["error"]["reason"].as_str())).collect();
    assert_eq!(found, [(1, None), (2, None), (3, Some("bad_request")), (5, Some("missing_parents")), (6, None)]);
    assert_eq!(lines[0]["id"], root_id.to_string());
    let allowed = call(
        &node,
        "POST",
        &format!("{DAG}/vertices:batch?allow_missing_parents=true"),
        &[],
        orphan.to_string().as_bytes(),
    );
    let orphan_id = allowed.lines()[0]["id"].as_str().unwrap().to_owned();
    let status = get(&node, &format!("{DAG}/vertices/{orphan_id}/status")).json();
    assert_eq!((&status["durable"], &status["staged"]), (&json!(true), &json!(true)));

    let ids = json!({ "ids": [root_id.to_string(), VertexId([6; 32]).to_string(), root_id.hex()] });
    let has = post(&node, &format!("{DAG}/vertices:has"), &ids);
    assert_eq!(has.json(), json!({ "has": [true, false, true] }));
    let many = post(&node, &format!("{DAG}/vertices:get"), &ids).json();
    let many = many["vertices"].as_array().unwrap().clone();
    assert_eq!((many.len(), &many[0]["payload"], &many[1]), (3, &json!("root"), &json!(null)));
    let lines = [("Accept", "application/x-ndjson")];
    let many = call(&node, "POST", &format!("{DAG}/vertices:get"), &lines, ids.to_string().as_bytes()).lines();
    assert_eq!((many.len(), &many[1]["error"]["reason"]), (3, &json!("not_found")));
}

#[test]
fn s3_2_11_ten_thousand_lines_come_back_in_their_order() {
    const LINES: usize = 10_000;
    let node = Node::start();
    let body: String = (0..LINES).map(|at| format!("{{\"kind\":\"note\",\"timestamp_ms\":{at}}}\n")).collect();
    let answer = call(&node, "POST", &format!("{DAG}/vertices:batch"), &[], body.as_bytes());
    let lines = answer.lines();
    assert_eq!(lines.len(), LINES);
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["line"], at as u64 + 1);
        assert_eq!(line["existed"], false, "{line}");
    }
    let tips = call(&node, "GET", &format!("{DAG}/tips"), &[("Accept", "application/x-ndjson")], b"").lines();
    assert_eq!(tips.len(), LINES, "what was answered is in the graph");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn s3_2_5_the_node_tells_of_itself() {
    let node = Node::start();
    diamond(&node);
    assert_eq!(get(&node, "/livez").text(), "alive\n");
    assert_eq!(get(&node, "/readyz").text(), "ready\n");
    assert_eq!(get(&node, "/healthz").json(), json!({ "healthy": true }));
    assert!(3 <= get(&node, "/healthz?verbose").json()["checks"].as_array().unwrap().len());
    let version = get(&node, "/version").json();
    assert_eq!(version["name"], "qmesh");
    assert_eq!(version["quic"], node.quic().to_string());
    assert_eq!(version["http"], node.http().to_string());
    let status = get(&node, "/api/v1/cluster/status").json();
    assert_eq!(status["dag"]["vertices"], 4);
    let metrics = get(&node, "/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text();
    assert!(text.lines().any(|line| line == "qmesh_dag_vertices 4"), "{text}");
    assert!(text.contains("http_route=\"/api/v1/dag/vertices\",http_response_status_code=\"201\"} 4"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    let openapi = get(&node, "/openapi.json").json();
    assert_eq!(openapi["openapi"], "3.1.0");
    for path in openapi["paths"].as_object().unwrap().keys() {
        let path = path.replace("{id}", "x").replace("{name}", "x");
        let answer = call(&node, "PATCH", &path, &[], b"");
        assert_eq!(answer.status, 405, "{path} is described and not routed");
    }
}

#[test]
fn s3_2_10_watchers_are_told_and_go_on_where_they_were() {
    let node = Node::start();
    let watch = |more: &str| {
        let mut stream = connect(&node);
        let request = format!("GET {DAG}/watch HTTP/1.1\r\nHost: {}\r\n{more}\r\n", node.http());
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let read_until = |stream: &mut TcpStream, part: &str| {
        let (mut received, mut piece) = (String::new(), [0; 4096]);
        while !received.contains(part) {
            let count = stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "{part:?} never came: {received}");
            received.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        received
    };
    let mut first = watch("");
    let head = read_until(&mut first, ": watching");
    assert!(head.contains("text/event-stream"));
    let [root, left, ..] = diamond(&node);
    let received = read_until(&mut first, &format!("\"id\":\"{left}\""));
    assert!(received.contains("event: vertex"), "{received}");
    let id = received.split(&root).next().unwrap().rsplit("id: ").next().unwrap().lines().next().unwrap().to_owned();
    let path = format!("{DAG}/refs/main");
    assert_eq!(call(&node, "PUT", &path, &[], json!({ "to": root }).to_string().as_bytes()).status, 201);
    let received = read_until(&mut first, "event: ref");
    drop(received);
    // Behind the event of the root, the next is that of the left side.
    let mut second = watch(&format!("Last-Event-ID: {id}\r\n"));
    let received = read_until(&mut second, "event: vertex");
    assert!(!received.contains(&format!("\"id\":\"{root}\"")), "{received}");
    let stale = get(&node, &format!("{DAG}/watch?cursor=0000000000000001.0"));
    stale.is_problem(410, "cursor_expired");
    // A drain ends the stream and the process.
    node.signal("-TERM");
    let received = read_until(&mut first, "the node drains");
    drop(received);
    assert_eq!(node.wait(), Some(0));
}
