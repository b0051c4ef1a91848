//! Content codings, both ways: who gets them, who does not, and bodies that unfold to more than they should.

use async_compression::tokio::write::{
    BrotliDecoder, BrotliEncoder, GzipDecoder, GzipEncoder, ZstdDecoder, ZstdEncoder,
};
use futures_util::FutureExt;
use qmesh::limits::HTTP_BODY_BYTES_MAX;
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::house::Node;
use crate::http::{Answer, DAG, call, get, put};

const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

fn through<W: AsyncWrite + Unpin>(mut writer: W, bytes: &[u8]) -> W {
    writer.write_all(bytes).now_or_never().unwrap().unwrap();
    writer.shutdown().now_or_never().unwrap().unwrap();
    writer
}

fn unfold(coding: &str, bytes: &[u8]) -> Vec<u8> {
    match coding {
        "zstd" => through(ZstdDecoder::new(Vec::new()), bytes).into_inner(),
        "br" => through(BrotliDecoder::new(Vec::new()), bytes).into_inner(),
        "gzip" => through(GzipDecoder::new(Vec::new()), bytes).into_inner(),
        other => panic!("{other}"),
    }
}

fn fold(coding: &str, bytes: &[u8]) -> Vec<u8> {
    match coding {
        "zstd" => through(ZstdEncoder::new(Vec::new()), bytes).into_inner(),
        "br" => through(BrotliEncoder::new(Vec::new()), bytes).into_inner(),
        "gzip" => through(GzipEncoder::new(Vec::new()), bytes).into_inner(),
        other => panic!("{other}"),
    }
}

fn asked(node: &Node, path: &str, headers: &[(&str, &str)]) -> Answer {
    call(node, "GET", path, headers, b"")
}

/// Bytes in which nothing repeats.
fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(32) as u32).flat_map(|at| *blake3::hash(&at.to_le_bytes()).as_bytes()).take(bytes).collect()
}

#[test]
fn s3_1_11_answers_are_coded_as_the_caller_likes_and_unfold_to_the_plain_ones() {
    let node = Node::start();
    let text = put(&node, &json!({ "kind": "note", "payload": "all work and no play ".repeat(20_000) }));
    let path = format!("{DAG}/vertices/{text}");
    for path in ["/openapi.json", &path, &format!("{path}/payload")] {
        let plain = get(&node, path);
        assert_eq!(plain.header("content-encoding"), None);
        assert!(plain.header("vary").is_some_and(|vary| vary.contains("Accept")), "{path}");
        for coding in CODINGS {
            let coded = asked(&node, path, &[("Accept-Encoding", coding)]);
            assert_eq!((coded.status, coded.header("content-encoding")), (200, Some(coding)), "{path}");
            assert!(coded.head.iter().any(|(name, value)| name == "vary" && value == "Accept-Encoding"));
            assert!(coded.body.len() < plain.body.len() / 2, "{coding} {path}: {}", coded.body.len());
            assert!(unfold(coding, &coded.body) == plain.body, "{coding} {path}");
        }
    }
    // The coded form has a tag of its own kind, by which it is asked for again.
    let strong = get(&node, &path).header("etag").unwrap().to_owned();
    let coded = asked(&node, &path, &[("Accept-Encoding", "gzip")]);
    let weak = coded.header("etag").unwrap();
    assert_eq!(weak, format!("W/{strong}"));
    let again = asked(&node, &path, &[("Accept-Encoding", "gzip"), ("If-None-Match", weak)]);
    assert_eq!((again.status, again.header("etag")), (304, Some(weak)));
    let again = asked(&node, &path, &[("If-None-Match", &strong)]);
    assert_eq!((again.status, again.header("etag")), (304, Some(&strong[..])));
    // A range is of the plain form, and a weak tag does not vouch for it.
    let payload = format!("{path}/payload");
    let part = asked(&node, &payload, &[("Accept-Encoding", "gzip"), ("Range", "bytes=4-7")]);
    assert_eq!((part.status, part.header("content-encoding"), &part.body[..]), (206, None, &b"work"[..]));
    let whole = asked(&node, &payload, &[("Range", "bytes=4-7"), ("If-Range", weak)]);
    assert_eq!(whole.status, 200);
    let head = call(&node, "HEAD", &path, &[("Accept-Encoding", "gzip")], b"");
    assert_eq!((head.status, head.header("content-encoding")), (200, None));
    // MCP, too.
    let list = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let headers = [("Content-Type", "application/json"), ("Accept-Encoding", "br")];
    let listed = call(&node, "POST", "/mcp", &headers, list);
    assert_eq!((listed.status, listed.header("content-encoding")), (200, Some("br")), "{}", listed.text());
    assert!(String::from_utf8(unfold("br", &listed.body)).unwrap().contains("dag_put"));
    let scrape = get(&node, "/metrics").text();
    assert!(scrape.contains("http_server_coded_answers_total{coding=\"br\"} 4"), "{scrape}");
}

#[test]
fn s3_1_11_what_is_small_secret_or_dense_is_sent_as_it_is() {
    let node = Node::start();
    let any = ("Accept-Encoding", "zstd, br, gzip");
    let is_plain = |path: &str, headers: &[(&str, &str)]| {
        let answer = asked(&node, path, headers);
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{path} {headers:?}");
        answer
    };
    is_plain("/version", &[any]);
    is_plain("/openapi.json", &[("Accept-Encoding", "deflate")]);
    // Content that does not shrink: small enough to try, and too large for that.
    for bytes in [20 << 10, 600 << 10] {
        let vertex = json!({ "kind": "note", "payload_base64": base64(&noise(bytes)) });
        let id = put(&node, &vertex);
        let answer = is_plain(&format!("{DAG}/vertices/{id}/payload"), &[any]);
        assert_eq!(answer.body.len(), bytes);
    }
    // A ref is moved by the tag that was read: it stays strong however long the ref's log entry is.
    let id = put(&node, &json!({ "kind": "note", "payload": "x" }));
    let body = json!({ "to": id, "reason": "because ".repeat(128) }).to_string();
    let set =
        call(&node, "PUT", &format!("{DAG}/refs/main"), &[any, ("Content-Type", "application/json")], body.as_bytes());
    assert_eq!(set.status, 201, "{}", set.text());
    let read = is_plain(&format!("{DAG}/refs/main"), &[any]);
    assert!(read.header("etag").is_some_and(|tag| tag.starts_with('"')));
    // To a caller with a token, only what is large.
    let token = ("Authorization", "Bearer x");
    let id = put(&node, &json!({ "kind": "note", "payload": "a".repeat(8 << 10) }));
    let path = format!("{DAG}/vertices/{id}");
    assert_eq!(asked(&node, &path, &[any]).header("content-encoding"), Some("zstd"));
    is_plain(&path, &[any, token]);
    let id = put(&node, &json!({ "kind": "note", "payload": "a".repeat(32 << 10) }));
    let large = asked(&node, &format!("{DAG}/vertices/{id}"), &[any, token]);
    assert_eq!(large.header("content-encoding"), Some("zstd"));
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn s3_1_11_a_coded_stream_is_flushed_line_by_line() {
    use std::io::{Read, Write};
    let node = Node::start();
    let mut stream = crate::http::connect(&node);
    let head = format!(
        "POST {DAG}/vertices:batch HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        node.http()
    );
    let line = "{\"kind\":\"note\",\"timestamp_ms\":1}\n";
    stream.write_all(format!("{head}{:x}\r\n{line}\r\n", line.len()).as_bytes()).unwrap();
    // The request is not over, and the first result can be read.
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).unwrap();
        assert_ne!(count, 0);
        received.extend_from_slice(&piece[..count]);
        let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        assert!(String::from_utf8_lossy(&received[..end]).contains("content-encoding: gzip"));
        let mut decoder = GzipDecoder::new(Vec::new());
        let content = crate::http::unchunk(&received[end + 4..]);
        decoder.write_all(&content).now_or_never().unwrap().unwrap();
        decoder.flush().now_or_never().unwrap().unwrap();
        if String::from_utf8_lossy(decoder.get_ref()).contains("\"line\":1") {
            break;
        }
    }
}

#[test]
fn s3_1_11_coded_requests_are_read_and_bombs_are_refused() {
    let node = Node::start();
    let path = format!("{DAG}/vertices");
    let vertex = json!({ "kind": "note", "timestamp_ms": 1, "payload": "words and words ".repeat(1000) }).to_string();
    let send = |coding: &str, path: &str, body: &[u8]| call(&node, "POST", path, &[("Content-Encoding", coding)], body);
    for (at, coding) in CODINGS.into_iter().enumerate() {
        let answer = send(coding, &path, &fold(coding, vertex.as_bytes()));
        assert_eq!(answer.status, if at == 0 { 201 } else { 200 }, "{coding}: {}", answer.text());
        let lines: String = (0..2000).map(|at| format!("{{\"kind\":\"note\",\"timestamp_ms\":{at}}}\n")).collect();
        let answer = send(coding, &format!("{path}:batch"), &fold(coding, lines.as_bytes()));
        assert_eq!(answer.lines().len(), 2000, "{coding}");

        // Broken off, and something else altogether.
        let coded = fold(coding, vertex.as_bytes());
        send(coding, &path, &coded[..coded.len() - 5]).is_problem(400, "bad_request");
        send(coding, &path, vertex.as_bytes()).is_problem(400, "bad_request");

        // A bomb: it unfolds to more than its ratio allows. As the body of one request, and as a stream without a bound.
        let bomb = fold(coding, &vec![b' '; 64 << 20]);
        let refused = send(coding, &path, &bomb).is_problem(413, "limit_exceeded");
        assert!(refused["detail"].as_str().unwrap().contains("100 times"), "{coding}: {refused}");
        let before = resident(&node);
        let answer = send(coding, &format!("{path}:batch"), &bomb);
        assert_eq!(answer.lines().last().unwrap()["error"]["reason"], "limit_exceeded", "{coding}");
        assert!(resident(&node) < before + (32 << 20), "{coding}: a bomb of 64 MiB went off");
        // Within the ratio, and larger than a body may be.
        let large: Vec<u8> =
            noise(HTTP_BODY_BYTES_MAX / 4).iter().flat_map(|byte| format!("{byte:08x}").into_bytes()).collect();
        let refused = send(coding, &path, &fold(coding, &large)).is_problem(413, "limit_exceeded");
        assert!(refused["detail"].as_str().unwrap().contains("body of a request"), "{coding}: {refused}");
    }
    // A Brotli stream that asks for a window of a gigabyte.
    send("br", &path, &[0x11, 0x1e, 0, 0, 0, 0]).is_problem(400, "bad_request");
    for coding in ["deflate", "gzip, gzip", "rot13"] {
        let refused = send(coding, &path, vertex.as_bytes());
        refused.is_problem(415, "bad_request");
        assert_eq!(refused.header("accept-encoding"), Some("zstd, br, gzip"));
    }
}

fn resident(node: &Node) -> u64 {
    get(node, "/api/v1/cluster/status").json()["resident_bytes"].as_u64().unwrap()
}
