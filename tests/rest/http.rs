//! A small HTTP/1.1 client that does exactly what it is told, for scenes with clients that behave badly.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::house::Node;

/// Longest wait for anything that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const DAG: &str = "/api/v1/dag";

/// An answer, whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks that this is a problem with that status and reason.
    pub(crate) fn is_problem(&self, status: u16, reason: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["reason"], reason, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("/problems/{reason}"));
        problem
    }
}

pub(crate) fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.http()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn call(node: &Node, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = connect(node);
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", node.http());
    if !body.is_empty() || matches!(method, "POST" | "PUT") {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let mut request = (request + "\r\n").into_bytes();
    request.extend_from_slice(body);
    // A door that refuses the body may close before it has read all.
    let _ = stream.write_all(&request);
    read_answer(&mut stream, method == "HEAD")
}

pub(crate) fn get(node: &Node, path: &str) -> Answer {
    call(node, "GET", path, &[], b"")
}

pub(crate) fn post(node: &Node, path: &str, body: &Value) -> Answer {
    call(node, "POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

pub(crate) fn read_answer(stream: &mut TcpStream, no_body: bool) -> Answer {
    let mut bytes = Vec::new();
    let mut piece = [0; 65536];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let count = stream.read(&mut piece).expect("an answer");
        assert_ne!(count, 0, "closed before the head of an answer: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..count]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let head: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, head, body: bytes.split_off(end + 4) };
    if no_body || status == 304 || status == 204 {
        return answer;
    }
    let length = answer.header("content-length").map(|length| length.parse::<usize>().unwrap());
    let chunked = answer.header("transfer-encoding") == Some("chunked");
    loop {
        let complete = match length {
            Some(length) => length <= answer.body.len(),
            None => chunked && answer.body.ends_with(b"0\r\n\r\n"),
        };
        if complete {
            break;
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.body.extend_from_slice(&piece[..count]),
        }
    }
    if chunked {
        answer.body = unchunk(&answer.body);
    }
    answer
}

/// The content of chunks, as far as they came.
pub(crate) fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let chunk = &bytes[end + 2..];
        content.extend_from_slice(&chunk[..length.min(chunk.len())]);
        if length == 0 || chunk.len() < length + 2 {
            break;
        }
        bytes = &chunk[length + 2..];
    }
    content
}

/// Puts a vertex and returns its id.
pub(crate) fn put(node: &Node, vertex: &Value) -> String {
    let answer = post(node, &format!("{DAG}/vertices"), vertex);
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// root ← left, root ← right, (left, right) ← merge; each with its name as content.
pub(crate) fn diamond(node: &Node) -> [String; 4] {
    let vertex = |name: &str, time: u64, parents: &[&String]| {
        put(
            node,
            &json!({ "kind": "note", "timestamp_ms": time, "parents": parents, "payload": name, "labels": { "name": name } }),
        )
    };
    let root = vertex("root", 1, &[]);
    let left = vertex("left", 2, &[&root]);
    let right = vertex("right", 3, &[&root]);
    let merge = vertex("merge", 4, &[&left, &right]);
    [root, left, right, merge]
}

pub(crate) fn ids(page: &Value) -> Vec<String> {
    page["vertices"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}
