//! MCP servers that do as a test says: of either era, slow, wrong, gone. One thread a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What a server does with a request.
pub(crate) enum Does {
    /// Answers with a result.
    Result(Value),
    /// Answers with these messages as events; `$id` stands for the request's id.
    Events(Vec<Value>),
    /// Asks the client something, and answers with what it said.
    Ask(Value),
    /// Answers with these bytes, whatever they are, and closes.
    Raw(&'static str),
    /// Answers nothing for that long.
    Nothing(Duration),
    /// Closes the connection.
    Close,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its head, in lower case.
    pub(crate) head: String,
    /// Its body.
    pub(crate) body: String,
}

impl Seen {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

type Script = dyn Fn(&Value) -> Does + Send + Sync;

/// A running server. It takes no more connections when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    script: Box<Script>,
    legacy: bool,
    sessions: AtomicUsize,
    forgets: AtomicBool,
    down: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    answers: Mutex<Vec<Value>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Server {
    /// A server of the modern era.
    pub(crate) fn modern(script: impl Fn(&Value) -> Does + Send + Sync + 'static) -> Self {
        Self::start(false, Box::new(script))
    }

    /// A server with sessions, which refuses what is in none and whatever says that it is of another era.
    pub(crate) fn legacy(script: impl Fn(&Value) -> Does + Send + Sync + 'static) -> Self {
        Self::start(true, Box::new(script))
    }

    fn start(legacy: bool, script: Box<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            script,
            legacy,
            sessions: AtomicUsize::new(0),
            forgets: AtomicBool::new(false),
            down: AtomicBool::new(false),
            seen: Mutex::default(),
            answers: Mutex::default(),
            open: Mutex::default(),
        });
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let inner = shared.clone();
                if inner.down.load(Ordering::SeqCst) {
                    continue;
                }
                inner.open.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || inner.connection(stream));
            }
        });
        Self { address, inner }
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Sessions that it has opened.
    pub(crate) fn sessions(&self) -> usize {
        self.inner.sessions.load(Ordering::SeqCst)
    }

    /// Forgets every session it has.
    pub(crate) fn forget_sessions(&self) {
        self.inner.forgets.store(true, Ordering::SeqCst);
    }

    /// Cuts every connection and takes none, or takes them again.
    pub(crate) fn set_down(&self, down: bool) {
        self.inner.down.store(down, Ordering::SeqCst);
        if down {
            for stream in self.inner.open.lock().unwrap().drain(..) {
                // One that is closed already is as good.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }

    /// Requests of a method, in the order in which they came.
    pub(crate) fn seen(&self, method: &str) -> Vec<Seen> {
        let wanted = format!("\"method\":\"{method}\"");
        self.inner.seen.lock().unwrap().iter().filter(|seen| seen.body.contains(&wanted)).cloned().collect()
    }
}

impl Inner {
    fn connection(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        self.serve(&mut reader);
        // Another handle of it is kept, so that dropping this one would not end it.
        let _ = reader.get_ref().shutdown(std::net::Shutdown::Both);
    }

    fn serve(&self, reader: &mut BufReader<TcpStream>) {
        while let Some(seen) = next(reader) {
            self.seen.lock().unwrap().push(seen.clone());
            let Ok(message) = serde_json::from_str::<Value>(&seen.body) else { return };
            let out = reader.get_mut();
            if message.get("id").is_none() {
                write(out, "202 Accepted", "", "");
                continue;
            }
            if message.get("method").is_none() {
                self.answers.lock().unwrap().push(message);
                write(out, "202 Accepted", "", "");
                continue;
            }
            if self.legacy && !self.in_session(out, &seen, &message) {
                continue;
            }
            if !self.answer(out, &message) {
                return;
            }
        }
    }

    /// Whether a request is one of a session; what is not is answered here.
    fn in_session(&self, out: &mut TcpStream, seen: &Seen, message: &Value) -> bool {
        let id = &message["id"];
        if seen.body.contains("io.modelcontextprotocol/") || message["method"] == "server/discover" {
            let error = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32600, "message": "no session" } });
            write(out, "400 Bad Request", "content-type: application/json\r\n", &error.to_string());
            return false;
        }
        if message["method"] == "initialize" {
            let number = self.sessions.fetch_add(1, Ordering::SeqCst) + 1;
            self.forgets.store(false, Ordering::SeqCst);
            let result = json!({
                "protocolVersion": "2025-06-18", "capabilities": { "tools": {} },
                "serverInfo": { "name": "scripted", "version": "1" },
            });
            let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
            let head = format!("content-type: application/json\r\nmcp-session-id: s{number}\r\n");
            write(out, "200 OK", &head, &body);
            return false;
        }
        let known = format!("s{}", self.sessions.load(Ordering::SeqCst));
        if seen.header("mcp-session-id") != Some(&known) || self.forgets.load(Ordering::SeqCst) {
            write(out, "404 Not Found", "", "");
            return false;
        }
        true
    }

    /// Whether the connection goes on.
    fn answer(&self, out: &mut TcpStream, message: &Value) -> bool {
        let id = &message["id"];
        match (self.script)(message) {
            Does::Result(result) => {
                let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
                write(out, "200 OK", "content-type: application/json\r\n", &body);
                true
            }
            Does::Events(messages) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                let _ = out.write_all(head.as_bytes());
                for message in messages {
                    let message = message.to_string().replace("\"$id\"", &id.to_string());
                    let _ = out.write_all(format!("event: message\ndata: {message}\n\n").as_bytes());
                }
                false
            }
            Does::Ask(question) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                let _ = out.write_all(format!("{head}data: {question}\n\n").as_bytes());
                let begun = std::time::Instant::now();
                let said = loop {
                    let answers = self.answers.lock().unwrap().clone();
                    if let Some(said) = answers.into_iter().find(|answer| answer["id"] == question["id"]) {
                        break said["result"]["text"].clone();
                    }
                    if Duration::from_secs(10) < begun.elapsed() {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                };
                let result = json!({ "content": [{ "type": "text", "text": said }] });
                let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
                let _ = out.write_all(format!("data: {answer}\n\n").as_bytes());
                false
            }
            Does::Raw(bytes) => {
                let _ = out.write_all(bytes.as_bytes());
                false
            }
            Does::Nothing(time) => {
                std::thread::sleep(time);
                false
            }
            Does::Close => false,
        }
    }
}

fn write(out: &mut TcpStream, status: &str, head: &str, body: &str) {
    let text = format!("HTTP/1.1 {status}\r\n{head}content-length: {}\r\n\r\n{body}", body.len());
    // A client that went away is its own business.
    let _ = out.write_all(text.as_bytes());
}

fn next(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { head, body: String::from_utf8(body).ok()? })
}

/// What a server with one tool `echo` answers of itself; `None` for what the test answers.
pub(crate) fn echo(message: &Value) -> Option<Does> {
    let schema = json!({ "type": "object", "properties": { "text": { "type": "string" } } });
    Some(match message["method"].as_str()? {
        "server/discover" => Does::Result(json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
            "ttlMs": 0, "cacheScope": "public",
        })),
        "tools/list" => Does::Result(json!({
            "tools": [{ "name": "echo", "description": "Says it again", "inputSchema": schema }],
            "ttlMs": 0, "cacheScope": "public", "resultType": "complete",
        })),
        _ => return None,
    })
}

/// The answer of `echo`.
pub(crate) fn echoed(message: &Value) -> Does {
    let text = &message["params"]["arguments"]["text"];
    Does::Result(json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }] }))
}
