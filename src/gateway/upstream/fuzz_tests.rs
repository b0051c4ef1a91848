//! What servers behind the gateway may send: streams of events, messages, lists. Whatever it is, it is a message or refused.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::envelope::{Message, aged, completed, with_id};
use super::federation::{Entry, Federation, Known, Listed, Lists, fits};
use super::http::{cannot_ask, initialized_version};
use super::sse::Events;
use crate::config::upstream::Upstream;
use crate::fuzz::drive::fuzz;
use crate::fuzz::mutate::mutate;

const WORDS: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"null",
    b"1e999",
    b"\\ud800",
    b"\xff",
    b"\"id\":",
    b"\"result\":{}",
    b"\"method\":\"x\"",
    b"\"resultType\":",
    b"\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":1}",
    b"data: ",
    b"\r\n\r\n",
];

#[test]
fn s6_1_12_fuzz_messages_of_servers() {
    let seeds = [
        json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": [], "n": 1.5 } }),
        json!({ "jsonrpc": "2.0", "id": "x", "error": { "code": -1, "message": "m" } }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "ping", "params": { "_meta": { "progressToken": 7 } } }),
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": 7 } }),
        json!({ "jsonrpc": "2.0", "id": 0, "result": { "protocolVersion": "2025-11-25", "capabilities": {} } }),
    ]
    .map(|seed| seed.to_string().into_bytes());
    let (mut refused, mut passed) = (0, 0);
    fuzz("messages of servers", |random| {
        let mut body = random.pick(&seeds).clone();
        mutate(random, &mut body, &seeds, &WORDS);
        let body = Bytes::from(body);
        if Message::read(&body).is_err() {
            refused += 1;
        } else {
            passed += 1;
        }
        // What comes out is a message, with the id or the member that was wanted. Values that pass through may be such that only
        // their bytes can be kept: 1e999, half of a surrogate pair.
        if let Ok(answer) = with_id(&body, "\"mine\"") {
            assert_eq!(Message::read(&answer).unwrap().id.unwrap().get(), "\"mine\"");
        }
        if let Ok(answer) = completed(&body) {
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
            assert!(answer["result"].is_null() || answer["result"]["resultType"] != Value::Null, "{answer}");
        }
        if let Ok(request) = aged(&body) {
            let request: Value = serde_json::from_slice(&request).unwrap_or_default();
            assert!(request["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_null(), "{request}");
        }
        if let Some(answer) = cannot_ask(&body) {
            assert!(Message::read(&answer).unwrap().method.is_none());
        }
        let _ = initialized_version(&body);
    });
    assert!(0 < refused && 0 < passed || refused + passed < 100, "{refused} refused, {passed} passed");
}

#[test]
fn s6_1_12_fuzz_event_streams_of_servers() {
    let seeds = [
        b"event: message\ndata: {\"a\":1}\n\n".to_vec(),
        b": hi\r\nid: 7\r\ndata: x\r\ndata: y\r\n\r\n".to_vec(),
        b"data\n\ndata:\n\nretry: 5\rdata: z\r\r".to_vec(),
    ];
    fuzz("event streams of servers", |random| {
        let mut bytes = random.pick(&seeds).clone();
        mutate(random, &mut bytes, &seeds, &WORDS);
        let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut events = Events::default();
            let mut found = Vec::new();
            for piece in pieces {
                events.push(piece).unwrap();
                while let Some(message) = events.pop() {
                    found.push(message);
                }
            }
            found
        };
        let whole = read(&mut std::iter::once(&bytes[..]));
        let size = 1 + random.below(7);
        assert_eq!(read(&mut bytes.chunks(size)), whole, "in pieces of {size}");
    });
}

#[test]
fn s6_1_12_fuzz_rows_of_servers() {
    let seeds = [
        json!({ "name": "t", "inputSchema": { "properties": { "a": { "x-mcp-header": "A" } } } }),
        json!({ "uriTemplate": "x://{a}/b{?c}", "name": "x" }),
    ]
    .map(|seed| seed.to_string().into_bytes());
    fuzz("rows of servers", |random| {
        let mut row = random.pick(&seeds).clone();
        mutate(random, &mut row, &seeds, &WORDS);
        let text = String::from_utf8_lossy(&row).into_owned();
        let listed = Listed { key: text.chars().take(40).collect(), json: text.clone() };
        let lists = Lists {
            tools: vec![listed.clone(); 2],
            prompts: vec![listed.clone()],
            resources: vec![listed.clone()],
            templates: vec![listed],
        };
        let upstream = Upstream::parse("s", "url = \"http://h/mcp\"").unwrap();
        let known = Known { lists: Arc::new(lists), ..Known::default() };
        let entry = Entry::of(upstream, 0, None, known);
        let federation = Federation::of(vec![entry], Vec::new(), |_| false);
        for row in &federation.tools {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(&row.json).unwrap();
            assert_eq!(serde_json::from_str::<String>(members["name"].get()).unwrap(), row.key);
        }
        let uri: String = text.chars().rev().take(60).collect();
        let template: String = text.chars().take(60).collect();
        let _ = fits(&template, &uri);
    });
}
