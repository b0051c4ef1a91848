//! REST over real sockets: every route with strange paths, parameters, headers and bodies; framings of every kind; and bytes that
//! are no HTTP at all.
//!
//! A request that is HTTP gets one whole answer that does not blame the node (no 5xx), and every refusal is a problem with its
//! reason. The node stays well, whatever was sent.

use futures_util::FutureExt as _;
use qmesh::gateway::http::route::{Kind, ROUTES, Route};
use qmesh::limits::HTTP_HEAD_BYTES_MAX;
use serde_json::{Value, json};

use super::corpus::vertices;
use super::drive::{Random, fuzz};
use super::http::{Answer, Connection, request};
use super::json_tree::change;
use super::mutate::mutate;
use super::records::changed;
use super::stand::Stand;

/// Cases between two looks at the node's health.
const CASES_PER_LOOK: u32 = 64;
const RKYV: &str = "application/vnd.qmesh.rkyv";

/// What requests are made of.
struct Material {
    host: String,
    /// Texts that name vertices: some that are here, some that are not.
    names: Vec<String>,
    records: Vec<Vec<u8>>,
    cursor: String,
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Material {
    /// Fills the node and remembers what names work.
    fn new(stand: &Stand) -> Self {
        let host = stand.node.http().to_string();
        let mut material = Self { host, names: Vec::new(), records: Vec::new(), cursor: String::new() };
        let mut connection = Connection::open(stand.node.http());
        let mut parents: Vec<String> = Vec::new();
        for number in 0..40 {
            let vertex = json!({
                "kind": "note", "timestamp_ms": number, "parents": parents, "payload": "x".repeat(number * 40),
                "labels": { "n": number.to_string() },
            });
            let made = material.call(&mut connection, "POST", "/api/v1/dag/vertices", &vertex);
            let id = made["id"].as_str().expect("an id").to_owned();
            if number % 3 == 0 {
                parents = vec![id.clone()];
            }
            material.names.push(id);
        }
        let to = material.names[20].clone();
        material.call(&mut connection, "PUT", "/api/v1/dag/refs/heads/main", &json!({ "to": to }));
        let page = material.call(&mut connection, "GET", "/api/v1/dag/tips?limit=1", &Value::Null);
        material.cursor = page["cursor"].as_str().unwrap_or_default().to_owned();
        let others = ["ref:heads/main", "ref:none", "git:12", "", "x", "..", "%00", "ref:", "git:", "\u{f6}"];
        material.names.extend(others.map(str::to_owned));
        material.names.push("0".repeat(64));
        material.records = vertices().iter().map(|vertex| vertex.record().bytes().to_vec()).collect();
        material
    }

    fn call(&self, connection: &mut Connection, method: &str, target: &str, body: &Value) -> Value {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let headers =
            vec![("Host".to_owned(), self.host.clone()), ("Content-Length".to_owned(), body.len().to_string())];
        connection.send(&request(method, target, &headers, &body));
        let answer = connection.answer(method).expect("an answer");
        assert!(answer.status < 300, "{method} {target}: {}", String::from_utf8_lossy(&answer.body));
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    fn request(&self, random: &mut Random) -> Request {
        let route = random.pick(ROUTES);
        let method = if random.one_in(12) {
            (*random.pick(&["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])).to_owned()
        } else {
            route.method.to_owned()
        };
        let mut target = self.path(random, route.path);
        for number in 0..random.length(8) {
            target.push(if number == 0 { '?' } else { '&' });
            target.push_str(&self.parameter(random, route));
        }
        let (content_type, body) = self.body(random, route.request);
        let mut headers = vec![("Host".to_owned(), self.host.clone())];
        if let Some(content_type) = content_type {
            headers.push(("Content-Type".to_owned(), content_type));
        }
        for _ in 0..random.length(4) {
            headers.push(self.header(random));
        }
        Request { method, target, headers, body }
    }

    fn path(&self, random: &mut Random, path: &str) -> String {
        let mut argument = random.pick(&self.names).clone();
        if path.contains("{name}") && random.one_in(2) {
            argument =
                (*random.pick(&["heads/main", "a/b", "log", "a/log", "x".repeat(600).as_str(), ".lock"])).to_owned();
        }
        if random.one_in(8) {
            let mut bytes = argument.into_bytes();
            mutate(random, &mut bytes, &[], &[b"/", b"..", b"%2F", b"%"]);
            argument = String::from_utf8_lossy(&bytes).into_owned();
        }
        let argument = encoded(&argument, if random.one_in(4) { "" } else { "/:%" });
        path.replace("{id}", &argument).replace("{name}", &argument)
    }

    fn parameter(&self, random: &mut Random, route: &Route) -> String {
        let known: Vec<_> = route.parameters.iter().copied().flatten().collect();
        if known.is_empty() || random.one_in(10) {
            return (*random.pick(&["x=1", "limit", "=", "%zz=1", "limit=1", "a=%ff"])).to_owned();
        }
        let parameter = *random.pick(&known);
        let value = match parameter.kind {
            Kind::Number => (*random.pick(&[
                "0",
                "1",
                "2",
                "100",
                "10000",
                "10001",
                "4294967295",
                "4294967296",
                "18446744073709551615",
                "-1",
                "x",
                "",
            ]))
            .to_owned(),
            Kind::Switch => (*random.pick(&["true", "false", "1", "0", "", "maybe"])).to_owned(),
            Kind::Text => match random.below(8) {
                0 => self.cursor.clone(),
                1 => "0.1".to_owned(),
                2 => "n:3".to_owned(),
                3 => (*random.pick(&["bfs", "topo", "time", "default", "note"])).to_owned(),
                4 => vec![random.pick(&self.names).as_str(); random.below(300)].join(","),
                5 => "99.18446744073709551615".to_owned(),
                _ => random.pick(&self.names).clone(),
            },
        };
        format!("{}={}", parameter.name, encoded(&value, ",:/"))
    }

    fn header(&self, random: &mut Random) -> (String, String) {
        let etag = format!("\"{}\"", "0".repeat(64));
        let choices: [(&str, &[&str]); 14] = [
            (
                "Accept",
                &[
                    "*/*",
                    "application/json",
                    "application/x-ndjson",
                    RKYV,
                    "application/vnd.ipld.dag-cbor",
                    "text/html",
                    ";;q=,",
                    "*/*;q=nan",
                    "a/b;q=1e99",
                ],
            ),
            (
                "Range",
                &[
                    "bytes=0-",
                    "bytes=5-4",
                    "bytes=-1",
                    "bytes=0-18446744073709551615",
                    "bytes=99999999999999999999-",
                    "bytes=,",
                    "items=1-2",
                ],
            ),
            ("If-Range", &["\"x\"", "W/\"x\"", "Sat, 01 Jan 2000 00:00:00 GMT"]),
            ("If-Match", &["*", "\"x\"", "", ",,,", etag.as_str()]),
            ("If-None-Match", &["*", "\"x\"", "W/\"x\", \"y\"", etag.as_str()]),
            ("Request-Timeout-Ms", &["0", "1", "60000", "18446744073709551616", "-1", "x", ""]),
            ("Last-Event-ID", &["0000000000000000.0", "x", "ffffffffffffffff.4294967296"]),
            ("Origin", &["http://localhost", "https://evil.example", "null", ""]),
            ("Host", &["localhost", "evil.example", "", "[::1]:1", "a@localhost"]),
            ("Expect", &["100-continue", "x"]),
            ("Content-Type", &["application/json", RKYV, "text/xml", "\"", "application/x-ndjson;charset=x"]),
            ("Accept-Encoding", &["gzip, br", "identity;q=0"]),
            ("Connection", &["close", "keep-alive", "upgrade", "x"]),
            ("Upgrade", &["h2c", "websocket"]),
        ];
        let (name, values) = *random.pick(&choices);
        (name.to_owned(), (*random.pick(values)).to_owned())
    }

    /// A body of the form that the route takes, changed half of the time, and its content type.
    fn body(&self, random: &mut Random, form: &str) -> (Option<String>, Vec<u8>) {
        let name = |random: &mut Random| random.pick(&self.names).clone();
        let names: Vec<String> = (0..random.below(5)).map(|_| name(random)).collect();
        let fresh = random.next() >> 1;
        let vertex = json!({
            "kind": "note", "namespace": "fuzz", "timestamp_ms": fresh, "parents": [self.names[random.below(40)]],
            "payload": "p", "labels": { "a": "b" }, "author": "ada",
        });
        let mut documents = match form {
            "VertexIn" if random.one_in(3) => return (Some(RKYV.to_owned()), changed(random, &self.records)),
            "VertexIn*" if random.one_in(3) => {
                let mut body: Vec<u8> = (0..random.below(6)).flat_map(|_| random.pick(&self.records).clone()).collect();
                if random.one_in(2) {
                    mutate(random, &mut body, &self.records, &[]);
                }
                return (Some(RKYV.to_owned()), body);
            }
            "VertexIn" => vec![vertex],
            "VertexIn*" => vec![vertex; 1 << random.below(8)],
            "Ids" => vec![json!({ "ids": names })],
            "Walk" => vec![json!({
                "roots": names, "exclude": [], "direction": "ancestors", "order": "topo", "depth": 3, "limit": 10,
                "cursor": "", "namespace": "", "kind": "", "labels": {}, "since_ms": 0, "until_gen": 9, "token": "0.1",
            })],
            "RefSet" => vec![json!({ "to": name(random), "expect": "absent", "actor": "ada", "reason": "why" })],
            "Mcp" => vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} })],
            _ => return (None, if random.one_in(20) { random.bytes(100) } else { Vec::new() }),
        };
        if random.one_in(2) {
            let at = random.below(documents.len());
            change(random, &mut documents[at]);
        }
        let mut body: Vec<u8> = documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n").into_bytes();
        if random.one_in(3) {
            mutate(random, &mut body, &self.records, &[b"\\u0000", b"{", b"]", b"\n", b"1e999", b"\"kind\":"]);
        }
        (random.one_in(2).then(|| "application/json".to_owned()), body)
    }
}

/// A request target's text: what may not stand there as it is becomes its percent form.
fn encoded(text: &str, kept: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Chunks of any lengths, and what may stand behind a length.
fn chunked(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(1 + random.length(rest.len() - 1));
        let extension = if random.one_in(10) { ";a=b" } else { "" };
        out.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = behind;
    }
    out.extend_from_slice(if random.one_in(10) { b"0\r\nTrailer: x\r\n\r\n" } else { b"0\r\n\r\n" });
    out
}

/// What an answer says, whatever it is coded in.
fn unfolded(answer: &Answer) -> Vec<u8> {
    use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
    use tokio::io::AsyncReadExt as _;

    let (coded, mut plain) = (&answer.body[..], Vec::new());
    if coded.is_empty() {
        return plain;
    }
    let read = match answer.header("content-encoding") {
        "" => return coded.to_vec(),
        "br" => BrotliDecoder::new(coded).read_to_end(&mut plain).now_or_never(),
        "gzip" => GzipDecoder::new(coded).read_to_end(&mut plain).now_or_never(),
        "zstd" => ZstdDecoder::new(coded).read_to_end(&mut plain).now_or_never(),
        other => panic!("nobody asked for {other}"),
    };
    assert!(read.is_some_and(|read| read.is_ok()), "the body is not what its coding says: {:?}", answer.headers);
    plain
}

fn judge(sent: &Request, answer: &Answer) {
    let content = unfolded(answer);
    let told = || {
        let body = String::from_utf8_lossy(&content[..content.len().min(2000)]).into_owned();
        let sent_body = String::from_utf8_lossy(&sent.body[..sent.body.len().min(2000)]).into_owned();
        let Request { method, target, headers, .. } = sent;
        format!("{method} {target}\n{headers:?}\n{sent_body}\n-> {} {:?}\n{body}", answer.status, answer.headers)
    };
    assert!((200..500).contains(&answer.status), "the node blames itself: {}", told());
    let form = answer.header("content-type");
    if form.contains("json") && !form.contains("ndjson") && !content.is_empty() {
        let document: Value = serde_json::from_slice(&content).unwrap_or_else(|error| panic!("{error}: {}", told()));
        if form == "application/problem+json" {
            let status = document["status"].as_u64();
            assert_eq!(status, Some(u64::from(answer.status)), "{}", told());
            assert!(document["reason"].is_string() && document["detail"] != "", "{}", told());
        }
    }
    if form.contains("ndjson") {
        for line in content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", told()));
            let status = line["error"]["status"].as_u64().unwrap_or_default();
            assert!(status < 500, "a line blames the node: {}", told());
        }
    }
    if answer.status == 431 {
        // The parser of heads speaks before the door does, and has no words for it.
        let head: usize = sent.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let head = head + sent.method.len() + sent.target.len();
        assert!(HTTP_HEAD_BYTES_MAX < head + 1024, "a head of {head} bytes is too large: {}", told());
        return;
    }
    if (400..500).contains(&answer.status) && sent.method != "HEAD" && !sent.target.starts_with("/mcp") {
        assert_eq!(form, "application/problem+json", "a refusal without its reason: {}", told());
    }
}

#[test]
fn s3_2_5_fuzz_rest_requests() {
    let mut stand = Stand::new();
    let material = Material::new(&stand);
    let address = stand.node.http();
    let mut connection = None;
    let mut cases = 0u32;
    fuzz("REST requests", |random| {
        let mut sent = material.request(random);
        let body = if random.one_in(4) {
            sent.headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
            chunked(random, &sent.body)
        } else {
            sent.headers.push(("Content-Length".to_owned(), sent.body.len().to_string()));
            sent.body.clone()
        };
        let bytes = request(&sent.method, &sent.target, &sent.headers, &body);
        let mut open = connection.take().unwrap_or_else(|| Connection::open(address));
        // In one piece, or cut where the door must wait for more.
        let cut = random.below(bytes.len());
        open.send(&bytes[..cut]);
        open.send(&bytes[cut..]);
        let answer = open
            .answer(&sent.method)
            .unwrap_or_else(|| panic!("closed without an answer: {} {} {:?}", sent.method, sent.target, sent.headers));
        judge(&sent, &answer);
        if answer.open {
            connection = Some(open);
        }
        cases += 1;
        if cases.is_multiple_of(CASES_PER_LOOK) {
            stand.is_well();
        }
    });
    drop(connection);
    stand.end();
}

/// The first bytes of HTTP/2: what both sides say before a request.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// An HTTP/2 request for /livez in HPACK's static table, and a body behind it.
fn http2_request() -> Vec<u8> {
    let authority = b"localhost";
    let mut block = vec![0x83, 0x86, 0x04, 6];
    block.extend_from_slice(b"/livez");
    block.extend_from_slice(&[0x01, authority.len() as u8]);
    block.extend_from_slice(authority);
    let mut bytes = HTTP2_PREFACE.to_vec();
    bytes.extend_from_slice(&[0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    bytes.extend_from_slice(&[0, 0, 4, 0, 1, 0, 0, 0, 1, b'{', b'}', b'\n', b' ']);
    bytes.extend_from_slice(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    bytes.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]);
    bytes.extend_from_slice(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8]);
    bytes
}

#[test]
fn s3_2_5_fuzz_bytes_on_the_http_door() {
    let mut stand = Stand::new();
    let material = Material::new(&stand);
    let address = stand.node.http();
    let words: [&[u8]; 16] = [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 18446744073709551615\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"ffffffffffffffff\r\n",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"http://localhost/livez",
        b"Connection: close\r\n",
        b"Host: localhost\r\n",
        b"\0",
        b"\x16\x03\x01",
        HTTP2_PREFACE,
    ];
    let http2 = http2_request();
    let mut cases = 0u32;
    fuzz("bytes on the HTTP door", |random| {
        let mut bytes = Vec::new();
        if random.one_in(3) {
            bytes.clone_from(&http2);
        } else {
            // One after the other without waiting for answers.
            for _ in 0..=random.below(3) {
                let mut sent = material.request(random);
                sent.headers.push(("Content-Length".to_owned(), sent.body.len().to_string()));
                bytes.extend(request(&sent.method, &sent.target, &sent.headers, &sent.body));
            }
        }
        mutate(random, &mut bytes, std::slice::from_ref(&http2), &words);
        let mut connection = Connection::open(address);
        connection.send(&bytes);
        if random.one_in(2) {
            connection.end();
            let told = connection.drain(1 << 16);
            let told = String::from_utf8_lossy(&told);
            let blame = told.lines().find(|line| line.starts_with("HTTP/1.1 5"));
            assert_eq!(blame, None, "the node blames itself: {}\n{told}", String::from_utf8_lossy(&bytes));
        }
        // Or gone without a word, in the middle of whatever it was.
        drop(connection);
        cases += 1;
        if cases.is_multiple_of(CASES_PER_LOOK) {
            stand.is_well();
        }
    });
    stand.end();
}
