//! HTTP/3: the same answers as over TCP, and peers that break its bounds.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use hyper::{Method, Request, StatusCode};
use qmesh::limits::{HTTP_HEAD_BYTES_MAX, HTTP2_STREAMS_MAX};
use qmesh_net::io::endpoint::{TransportOptions, connect};
use qmesh_net::tls::{Trust, http3_client, https_client};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::house::Node;
use crate::http::{DAG, PATIENCE};

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;
type Stream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

struct Client {
    _endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    sender: Sender,
    authority: SocketAddr,
}

async fn dial(node: &Node) -> (quinn::Endpoint, quinn::Connection) {
    let trust = Trust::Authority(node.data().join("tls/ca.pem"));
    let options = TransportOptions { one_way_streams_max: 8, ..TransportOptions::default() };
    connect(node.http(), "localhost", &trust, http3_client(&trust).unwrap(), &options).await.unwrap()
}

async fn client(node: &Node) -> Client {
    let (endpoint, connection) = dial(node).await;
    let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ended = poll_fn(|context| driver.poll_close(context)).await;
    });
    Client { _endpoint: endpoint, connection, sender, authority: node.http() }
}

impl Client {
    async fn open(&mut self, method: Method, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.send_request(request.body(()).unwrap()).await.unwrap()
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (hyper::Response<()>, Vec<u8>) {
        let mut stream = self.open(method, path, headers).await;
        for piece in body.chunks(1000) {
            // A door that refuses the body stops reading it.
            if stream.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
                break;
            }
        }
        let _ = stream.finish().await;
        let response = stream.recv_response().await.unwrap();
        let mut content = Vec::new();
        while let Some(mut piece) = stream.recv_data().await.unwrap() {
            content.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        (response, content)
    }
}

fn scene(arguments: &[&str], scene: impl AsyncFnOnce(Node)) {
    let node = Node::start_with(arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { timeout(2 * PATIENCE, scene(node)).await.expect("never came to an end") });
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)))
}

#[test]
fn s3_2_1_http3_answers_as_the_other_versions_do_and_they_name_it() {
    scene(&["--tls"], async |node| {
        // HTTP/1.1 says where HTTP/3 is.
        let config = https_client(&Trust::Authority(node.data().join("tls/ca.pem"))).unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let connection = rustls::ClientConnection::new(config, name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, crate::http::connect(&node));
        use std::io::{Read, Write};
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut told = Vec::new();
        stream.read_to_end(&mut told).unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains(&format!("alt-svc: h3=\":{}\"; ma=86400", node.http().port())), "{told}");

        let mut client = client(&node).await;
        let (response, body) = client.ask(Method::GET, "/version", &[], b"").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(parsed(&body)["version"].is_string());
        let vertex = json!({ "kind": "note", "payload": "over HTTP/3 ".repeat(3000) }).to_string();
        let (response, body) = client.ask(Method::POST, &format!("{DAG}/vertices"), &[], vertex.as_bytes()).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{}", String::from_utf8_lossy(&body));
        let path = format!("{DAG}/vertices/{}", parsed(&body)["id"].as_str().unwrap());
        let (response, body) = client.ask(Method::GET, &path, &[], b"").await;
        assert_eq!((response.status(), parsed(&body)["payload"].as_str().unwrap().len()), (StatusCode::OK, 36_000));
        let etag = response.headers()["etag"].to_str().unwrap();
        let (unchanged, body) = client.ask(Method::GET, &path, &[("if-none-match", etag)], b"").await;
        assert_eq!((unchanged.status(), body.len()), (StatusCode::NOT_MODIFIED, 0));
        let (coded, body) = client.ask(Method::GET, &path, &[("accept-encoding", "zstd")], b"").await;
        assert_eq!(coded.headers()["content-encoding"], "zstd");
        assert!(body.len() < 1000, "{}", body.len());
        let (head, body) = client.ask(Method::HEAD, &path, &[], b"").await;
        assert_eq!((head.status(), body.len()), (StatusCode::OK, 0));
        let (missing, body) = client.ask(Method::GET, "/nowhere", &[], b"").await;
        assert_eq!((missing.status(), parsed(&body)["reason"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
        let list = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let (listed, body) = client.ask(Method::POST, "/mcp", &[("content-type", "application/json")], list).await;
        assert_eq!(listed.status(), StatusCode::OK);
        assert!(parsed(&body)["result"]["tools"].is_array());
        let large = vec![b' '; (4 << 20) + 1];
        let (refused, _) = client.ask(Method::POST, &format!("{DAG}/vertices"), &[], &large).await;
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        // The same caution about names.
        let (denied, _) = client.ask(Method::GET, "/version", &[("origin", "https://evil.example")], b"").await;
        assert_eq!(denied.status(), StatusCode::FORBIDDEN);
        client.authority = "192.0.2.7:443".parse().unwrap();
        let (denied, _) = client.ask(Method::GET, "/version", &[], b"").await;
        assert_eq!(denied.status(), StatusCode::FORBIDDEN);
        client.authority = node.http();
        // A stream of events, told while it is open; then the client goes away.
        let mut watch = client.open(Method::GET, "/api/v1/dag/watch", &[]).await;
        watch.finish().await.unwrap();
        assert_eq!(watch.recv_response().await.unwrap().status(), StatusCode::OK);
        client.ask(Method::POST, &format!("{DAG}/vertices"), &[], br#"{"kind":"note"}"#).await;
        let mut events = String::new();
        while !events.contains("event: vertex") {
            let mut piece = watch.recv_data().await.unwrap().expect("an event");
            events += std::str::from_utf8(&piece.copy_to_bytes(piece.remaining())).unwrap();
        }
        drop(client);
    });
}

#[test]
fn s6_1_12_http3_has_the_bounds_of_the_other_versions() {
    scene(&["--tls"], async |node| {
        let mut other = client(&node).await;
        // A head that is too long, in one field and in many.
        let mut first = client(&node).await;
        let long = "x".repeat(HTTP_HEAD_BYTES_MAX);
        let mut stream = first.open(Method::GET, "/version", &[("x-long", &long)]).await;
        let _ = stream.finish().await;
        let status = stream.recv_response().await.map(|response| response.status());
        assert!(status.is_err() || status.is_ok_and(|status| status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));

        // A frame that says it is a gigabyte, and is sent: the peer is cut off long before. So for a frame that nobody
        // knows, a head, and on the control stream.
        let endless = |kind: u8| [&[kind][..], &(0xc000_0000_0000_0000_u64 | (1 << 30)).to_be_bytes()].concat();
        let piece = vec![b'x'; 64 << 10];
        for kind in [0x01, 0x21] {
            let (_endpoint, connection) = dial(&node).await;
            let (mut sender, _receiver) = connection.open_bi().await.unwrap();
            sender.write_all(&endless(kind)).await.unwrap();
            let mut sent = 0;
            while sent < 64 << 20 && sender.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            assert!(sent < 4 << 20, "{kind:#x}: {sent} bytes of one frame were taken");
        }
        let (_endpoint, connection) = dial(&node).await;
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(&[0x00, 0x04, 0x00]).await.unwrap();
        control.write_all(&endless(0x21)).await.unwrap();
        let mut sent = 0;
        while sent < 64 << 20 && control.write_all(&piece).await.is_ok() {
            sent += piece.len();
        }
        assert!(sent < 4 << 20, "{sent} bytes of one frame of the control stream were taken");

        // More streams than a connection has.
        let (_endpoint, connection) = dial(&node).await;
        let mut streams = Vec::new();
        for _ in 0..HTTP2_STREAMS_MAX {
            streams.push(connection.open_bi().await.unwrap());
        }
        assert!(timeout(Duration::from_millis(300), connection.open_bi()).await.is_err(), "a stream beyond the bound");
        assert!(connection.open_uni().now_or_never().is_some());
        // Nonsense ends its own connection and no other.
        let (_endpoint, connection) = dial(&node).await;
        let (mut sender, _receiver) = connection.open_bi().await.unwrap();
        sender.write_all(&[0x00, 0x05, b'h', b'e', b'l', b'l', b'o']).await.unwrap();
        connection.closed().await;
        assert_eq!(other.ask(Method::GET, "/livez", &[], b"").await.0.status(), StatusCode::OK);

        // A node that drains says so, and ends.
        node.signal("-TERM");
        other.connection.closed().await;
        assert_eq!(node.wait(), Some(0));
    });
}
