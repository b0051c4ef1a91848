//! MCP calls over HTTP/1.1 keep-alive, with as little client as will do.
//!
//! Promises: every answer is read whole and must be a result, not an error. Does not: speak TLS or older revisions.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Load, Payloads, connect, measured, put_one};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;

/// Bytes of one answer that are read before the call counts as failed.
const ANSWER_BYTES_MAX: usize = 8 << 20;

pub(super) async fn run(
    session: &Session,
    load: &Load,
    url: Option<String>,
    call: Option<(String, String)>,
    access_token_file: Option<&Path>,
) -> Outcome {
    let token =
        access_token_file.map(|file| std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error)));
    let token = token.transpose()?;
    let foreign = url.is_some();
    let url = match url {
        Some(url) => url,
        None => {
            let figures = session.node().await?.stats().await?;
            let http = figures["http"].as_str().ok_or_else(|| Failure::internal("the node tells no HTTP address"))?;
            format!("http://{http}/mcp")
        }
    };
    let target = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
    let (host, path) = target.ok_or_else(|| Failure::usage(format!("{url}: http://HOST:PORT/PATH is needed")))?;
    let (tool, arguments) = match call {
        Some(call) => call,
        None => {
            let nodes = connect(session, load).await?;
            let vertex = Payloads::new(load.size).vertex(0).map_err(Failure::internal)?;
            put_one(&nodes[0], &vertex).await.map_err(Failure::internal)?;
            ("dag_get".to_owned(), format!(r#"{{"ids":["{}"]}}"#, vertex.id()))
        }
    };
    let arguments: serde_json::Value =
        serde_json::from_str(&arguments).map_err(|error| Failure::usage(format!("--arguments: {error}")))?;
    let request = Rc::new(request(host, path, &tool, &arguments, token.as_deref().map(str::trim)));
    let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let host = host.to_owned();
    let operation = move |_| {
        let (request, idle, host) = (request.clone(), idle.clone(), host.clone());
        async move {
            let taken = idle.borrow_mut().pop();
            let mut connection = match taken {
                Some(connection) => connection,
                None => Connection::open(&host).await?,
            };
            connection.call(&request).await?;
            idle.borrow_mut().push(connection);
            Ok(())
        }
    };
    if foreign {
        // The figures of our own node would say nothing about another server.
        let outcome = super::load::run("mcp", load.plan(), operation, async || {}).await;
        return super::print(session.output(), &outcome);
    }
    measured(session, "mcp", load, operation).await
}

fn request(host: &str, path: &str, tool: &str, arguments: &serde_json::Value, token: Option<&str>) -> Vec<u8> {
    let body = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": tool, "arguments": arguments,
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "qmesh-bench", "version": env!("CARGO_PKG_VERSION")},
            },
        },
    })
    .to_string();
    let token = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n{token}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(host: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(host).await.map_err(|error| format!("{host}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10) })
    }

    async fn call(&mut self, request: &[u8]) -> Result<(), String> {
        self.stream.write_all(request).await.map_err(|error| error.to_string())?;
        self.buffer.clear();
        let (head, length) = loop {
            self.read().await?;
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end]).map_err(|_| "a head that is not text")?;
                if !head.starts_with("HTTP/1.1 200") {
                    let line = head.lines().next().unwrap_or_default();
                    return Err(format!("{line}: {}", String::from_utf8_lossy(&self.buffer[end..])));
                }
                break (end + 4, content_length(head).ok_or("an answer without a length")?);
            }
        };
        while self.buffer.len() < head + length {
            self.read().await?;
        }
        let body = &self.buffer[head..];
        let is_result = body.windows(9).any(|window| window == br#""result":"#);
        let failed = body.windows(14).any(|window| window == br#""isError":true"#);
        if is_result && !failed { Ok(()) } else { Err(String::from_utf8_lossy(body).into_owned()) }
    }

    async fn read(&mut self) -> Result<(), String> {
        if ANSWER_BYTES_MAX < self.buffer.len() {
            return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn content_length(head: &str) -> Option<usize> {
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    })?;
    value.trim().parse().ok()
}
