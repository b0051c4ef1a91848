//! WebSockets of a real node: frames with strange heads, cut and joined messages, requests and their cancellations in a heap.
//!
//! What comes back is frames that an honest client takes, each text a message; what ends is ended by a close or by the socket's end.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use tokio_tungstenite::tungstenite::{Error, WebSocket};

use super::drive::{Random, fuzz};
use super::json_tree::change;
use super::mutate::mutate;
use super::stand::Stand;

const CASES_PER_LOOK: u32 = 64;
const FRAMES_MAX: usize = 6;
/// Longest wait for a text where none may be due.
const QUIET: Duration = Duration::from_millis(5);

/// A masked frame of a client; its head may lie.
fn frame(random: &mut Random, content: &[u8]) -> Vec<u8> {
    let first = if random.one_in(4) { random.below(256) as u8 } else { 0x81 };
    let length = if random.one_in(12) { random.below(1 << 24) } else { content.len() };
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = [7, 0, 255, 1];
    bytes.extend_from_slice(&mask);
    bytes.extend(content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn seeds() -> Vec<Value> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
    });
    let listen = json!({ "notifications": { "resourceSubscriptions": ["dag://state"] }, "_meta": meta });
    let call = json!({ "name": "dag_tips", "arguments": {}, "_meta": meta });
    let begin = json!({ "protocolVersion": "2025-06-18", "capabilities": {} });
    vec![
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call }),
        json!({ "jsonrpc": "2.0", "id": "a", "method": "tools/list" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "subscriptions/listen", "params": listen }),
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 2 } }),
        json!({ "jsonrpc": "2.0", "id": 3, "method": "initialize", "params": begin }),
        json!({ "jsonrpc": "2.0", "id": "q.x", "result": {} }),
    ]
}

#[test]
fn s3_1_9_fuzz_the_frames_of_a_socket() {
    let mut stand = Stand::new();
    let address = stand.node.http();
    let (seeds, mut cases) = (seeds(), 0u32);
    fuzz("the frames of a socket", |random| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let path = if random.one_in(6) { "/api/v1/dag/watch" } else { "/mcp" };
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mcp\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut sent = head.into_bytes();
        for _ in 0..1 + random.below(FRAMES_MAX) {
            let mut message = random.pick(&seeds).clone();
            if random.one_in(3) {
                change(random, &mut message);
            }
            let mut frame = frame(random, message.to_string().as_bytes());
            if random.one_in(6) {
                mutate(random, &mut frame, &[], &[&[0x81, 0x80], &[0x01, 0xff], &[0x88, 0x82], &[0; 4]]);
            }
            sent.append(&mut frame);
        }
        let _ = stream.write_all(&sent);
        super::http::skip_head(&mut stream);
        stream.set_read_timeout(Some(QUIET)).unwrap();
        let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => {
                    let text: Value = serde_json::from_str(&text).expect("JSON");
                    assert!(text["jsonrpc"] == "2.0" || text["event"].is_string(), "{text}");
                    assert_ne!(text["error"]["code"], -32603, "{text}");
                }
                Ok(Message::Binary(_)) => panic!("a binary message"),
                Ok(_) => {}
                Err(Error::Protocol(error)) if error.to_string().contains("without closing") => break,
                Err(Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed) => break,
                Err(error) => panic!("the node sent what is no frame: {error}"),
            }
        }
        cases += 1;
        if cases.is_multiple_of(CASES_PER_LOOK) {
            stand.is_well();
        }
    });
    stand.end();
}
