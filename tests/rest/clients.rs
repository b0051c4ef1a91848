//! Clients that are slow, huge, malformed, half-closed or in a hurry, and a node that drains under them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use qmesh::limits::{HTTP_BODY_BYTES_MAX, HTTP_BODY_IDLE_TIMEOUT_MS, HTTP_HEAD_TIMEOUT_MS, NDJSON_LINE_BYTES_MAX};
use serde_json::json;

use crate::house::{self, Node};
use crate::http::{DAG, PATIENCE, call, connect, diamond, get, ids, read_answer};

#[test]
fn s3_2_11_results_come_while_lines_are_still_sent() {
    let node = Node::start();
    let mut stream = connect(&node);
    let head =
        format!("POST {DAG}/vertices:batch HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", node.http());
    let line = |at: u32| {
        let line = format!("{{\"kind\":\"note\",\"timestamp_ms\":{at}}}\n");
        format!("{:x}\r\n{line}\r\n", line.len())
    };
    stream.write_all((head + &line(1)).as_bytes()).unwrap();
    let mut received = String::new();
    let mut piece = [0; 4096];
    for at in 1..=3 {
        while !received.contains(&format!("\"line\":{at}")) {
            let count = stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "{received}");
            received.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
        stream.write_all(line(at + 1).as_bytes()).unwrap();
    }
    // A client that breaks off in the middle has what was answered.
    drop(stream);
    let tips = get(&node, &format!("{DAG}/tips")).json();
    assert!(3 <= ids(&tips).len());
}

#[test]
fn s3_2_11_a_line_without_end_is_refused_where_it_stands() {
    let node = Node::start();
    let mut body = b"{\"kind\":\"note\"}\n".to_vec();
    body.resize(body.len() + NDJSON_LINE_BYTES_MAX + 1, b'x');
    let answer = call(&node, "POST", &format!("{DAG}/vertices:batch"), &[], &body);
    let lines = answer.lines();
    assert_eq!(lines.len(), 2, "{}", answer.text());
    assert_eq!((&lines[0]["line"], &lines[1]["error"]["reason"]), (&json!(1), &json!("limit_exceeded")));
}

#[test]
fn s3_2_5_huge_and_malformed_requests_are_answered() {
    let node = Node::start();
    let huge = vec![b' '; HTTP_BODY_BYTES_MAX + 1];
    call(&node, "POST", &format!("{DAG}/vertices"), &[], &huge).is_problem(413, "limit_exceeded");
    // The same without saying so first.
    let mut stream = connect(&node);
    let head = format!("POST {DAG}/vertices HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", node.http());
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..=HTTP_BODY_BYTES_MAX >> 20 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    read_answer(&mut stream, false).is_problem(413, "limit_exceeded");

    let raw = |request: String| {
        let mut stream = connect(&node);
        stream.write_all(request.as_bytes()).unwrap();
        read_answer(&mut stream, false).status
    };
    let host = node.http();
    let header = "x".repeat(200 << 10);
    assert!(matches!(raw(format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nX: {header}\r\n\r\n")), 400 | 431));
    assert_eq!(raw("GARBAGE\r\n\r\n".to_owned()), 400);
    assert_eq!(
        raw(format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")),
        400
    );
    assert_eq!(raw("GET /livez HTTP/1.1\r\n\r\n".to_owned()), 400, "no host");
    assert_eq!(raw("GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned()), 403);
    assert_eq!(raw(format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nOrigin: https://evil.example\r\n\r\n")), 403);
    call(&node, "GET", "/nowhere", &[], b"").is_problem(404, "not_found");
    let wrong = call(&node, "DELETE", &format!("{DAG}/vertices"), &[], b"");
    wrong.is_problem(405, "bad_request");
    assert_eq!(wrong.header("allow"), Some("POST"));
    assert_eq!(get(&node, "/livez").status, 200, "the door still works");
}

#[test]
fn s3_2_5_a_half_closed_client_gets_its_answer() {
    let node = Node::start();
    let mut stream = connect(&node);
    let body = json!({ "kind": "note", "payload": "half" }).to_string();
    let request = format!(
        "POST {DAG}/vertices HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        node.http(),
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_answer(&mut stream, false).status, 201);
    // One that closes in the middle of its body costs nothing.
    let mut stream = connect(&node);
    stream.write_all(&request.as_bytes()[..request.len() - 5]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(get(&node, "/livez").status, 200);
}

#[test]
fn s3_2_5_slow_clients_are_cut() {
    let node = Node::start();
    let late = Duration::from_millis(HTTP_HEAD_TIMEOUT_MS);
    let begun = Instant::now();
    let closed = |mut stream: TcpStream| {
        let mut rest = Vec::new();
        // Closed or reset: both end it.
        let _ = stream.read_to_end(&mut rest);
        (begun.elapsed(), rest)
    };
    let silent = connect(&node);
    let mut partial = connect(&node);
    partial.write_all(b"GET /livez HTTP/1.1\r\nHost: ").unwrap();
    // Sends a byte now and then, as a slow loris does.
    let mut dripping = connect(&node);
    let drip = std::thread::spawn(move || {
        for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".iter().cycle() {
            if dripping.write_all(&[*byte]).is_err() || Duration::from_secs(25) < begun.elapsed() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        begun.elapsed()
    });
    let mut stopped = connect(&node);
    let head = format!("POST {DAG}/vertices HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\n{{", node.http());
    stopped.write_all(head.as_bytes()).unwrap();
    let mut idle = connect(&node);
    let live = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", node.http());
    idle.write_all(live.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut idle, false).status, 200);

    let (stopped_after, answer) = closed(stopped);
    let (code, body) = house::parse_http(&answer);
    assert_eq!(code, 408, "{body}");
    assert!(Duration::from_millis(HTTP_BODY_IDLE_TIMEOUT_MS) <= stopped_after);
    for stream in [silent, partial] {
        let (after, rest) = closed(stream);
        assert!(late <= after && after < late * 2, "cut after {after:?}");
        assert!(rest.is_empty());
    }
    assert!(drip.join().unwrap() < late * 2, "a slow loris was not cut");
    // A connection that is merely idle is kept.
    idle.write_all(live.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut idle, false).status, 200);
}

#[test]
fn s3_2_5_a_body_that_nobody_wanted_does_not_cost_the_connection() {
    let node = Node::start();
    let mut stream = connect(&node);
    let body = vec![b'x'; 300 << 10];
    let evil = "evil.example".to_owned();
    // None of these reads its body: unknown path, unknown method, unknown parameter, a form that is not taken, a foreign host.
    for (method, path, host, status) in [
        ("GET", "/nowhere".to_owned(), node.http().to_string(), 404),
        ("DELETE", format!("{DAG}/vertices"), node.http().to_string(), 405),
        ("POST", format!("{DAG}/vertices?colour=red"), node.http().to_string(), 400),
        ("GET", "/livez".to_owned(), node.http().to_string(), 200),
        ("GET", "/livez".to_owned(), evil, 403),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // The answer is there before the body is.
        assert_eq!(read_answer(&mut stream, false).status, status, "{method} {path}");
        stream.write_all(&body).unwrap();
    }
    let live = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", node.http());
    stream.write_all(live.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, false).status, 200, "the connection still serves");
}

#[test]
fn s3_2_5_the_deadline_of_a_request_can_be_lowered() {
    let node = Node::start();
    let answer = call(&node, "GET", "/livez", &[("Request-Timeout-Ms", "soon")], b"");
    answer.is_problem(400, "bad_request");
    let mut stream = connect(&node);
    let begun = Instant::now();
    let head = format!(
        "POST {DAG}/vertices HTTP/1.1\r\nHost: {}\r\nRequest-Timeout-Ms: 200\r\nContent-Length: 100\r\n\r\n{{",
        node.http()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let problem = read_answer(&mut stream, false).is_problem(408, "timeout");
    assert!(problem["retryAfterMs"].is_number());
    assert!(begun.elapsed() < Duration::from_millis(HTTP_BODY_IDLE_TIMEOUT_MS));
}

#[test]
fn s3_2_5_http2_with_prior_knowledge_serves_many_requests_at_once() {
    let node = Node::start();
    let [root, ..] = diamond(&node);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(node.http()).await.unwrap();
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        let connection = tokio::spawn(connection);
        let calls = (0..200).map(|at| {
            let mut sender = sender.clone();
            let method = if at % 3 == 0 { "HEAD" } else { "GET" };
            let request = hyper::Request::builder()
                .method(method)
                .uri(format!("http://{}{DAG}/vertices/{root}", node.http()))
                .body(Full::new(Bytes::new()))
                .unwrap();
            async move {
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body.len(), if method == "HEAD" { 0 } else { length });
            }
        });
        futures_util::future::join_all(calls).await;
        drop(sender);
        drop(connection);
    });
}

#[test]
fn s3_2_5_a_draining_node_finishes_what_it_took() {
    let node = Node::start();
    let mut stream = connect(&node);
    let head =
        format!("POST {DAG}/vertices:batch HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", node.http());
    let line = "{\"kind\":\"note\",\"timestamp_ms\":1}\n";
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    stream.write_all((head + &chunk).as_bytes()).unwrap();
    let mut first = [0; 1024];
    let count = stream.read(&mut first).unwrap();
    node.signal("-TERM");
    // New connections are refused while the old one goes on.
    let begun = Instant::now();
    while TcpStream::connect(node.http()).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the door never closed");
        std::thread::sleep(Duration::from_millis(10));
    }
    let line = line.replace(":1}", ":2}");
    stream.write_all(format!("{:x}\r\n{line}\r\n0\r\n\r\n", line.len()).as_bytes()).unwrap();
    let mut received = String::from_utf8_lossy(&first[..count]).into_owned();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    received.push_str(&String::from_utf8_lossy(&rest));
    assert!(received.contains("\"line\":2"), "{received}");
    assert_eq!(node.wait(), Some(0));
}
