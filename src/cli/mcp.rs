//! `qmesh mcp serve --stdio`: a node's MCP door for programs that start their servers themselves.
//!
//! Promises: what comes on standard input goes to the node's door as it came, what the door answers comes out a line a message;
//! requests do not wait for each other; a cancelled request is cancelled at the node. Does not: answer anything itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::failure::{Failure, Outcome};
use super::session::{self, Global, Session};
use crate::gateway::upstream::Door;

/// Requests that are answered at one time.
const REQUESTS_MAX: usize = 256;
/// Lines read ahead.
const LINES_MAX: usize = 16;
/// Bytes of one line.
const LINE_BYTES_MAX: usize = 4 << 20;

/// `qmesh mcp …`
#[derive(Debug, Args)]
pub struct McpArguments {
    #[command(subcommand)]
    command: McpCommand,
}

#[derive(Debug, Subcommand)]
enum McpCommand {
    /// Serve a node's MCP door over standard input and output, until the input ends.
    #[command(
        after_help = "Example: qmesh mcp serve --stdio --node 127.0.0.1:7420\n\nIn a client's configuration:\n  \
                      {\"mcpServers\": {\"qmesh\": {\"command\": \"qmesh\", \"args\": [\"mcp\", \"serve\", \"--stdio\"]}}}"
    )]
    Serve {
        /// Over standard input and output, one JSON-RPC message a line.
        #[arg(long, required = true)]
        stdio: bool,
        /// A file with the access token to show, for a node that wants one.
        #[arg(long, value_name = "FILE")]
        access_token_file: Option<PathBuf>,
    },
}

/// Runs `qmesh mcp …`.
pub fn run(arguments: McpArguments, global: Global) -> ExitCode {
    let McpCommand::Serve { stdio: _, access_token_file } = arguments.command;
    session::run(global, async |session| serve(session, access_token_file.as_deref()).await)
}

async fn serve(session: &Session, access_token_file: Option<&Path>) -> Outcome {
    let token =
        access_token_file.map(|file| std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error)));
    let token = token.transpose()?;
    let figures = session.node().await?.stats().await?;
    let address =
        figures["http"].as_str().ok_or_else(|| Failure::internal("the node does not tell its HTTP address"))?;
    let scheme = if figures["https"] == true { "https" } else { "http" };
    // A door on every address answers this machine under its own.
    let address = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
    let url = format!("{scheme}://{address}/mcp");
    let token = token.as_deref().map(str::trim);
    let door = Rc::new(Door::new(&url, session.global.ca.as_deref(), token).map_err(Failure::usage)?);
    let (tell, mut lines) = mpsc::channel::<Bytes>(LINES_MAX);
    // Standard input blocks; its thread ends with the process.
    std::thread::spawn(move || read(&tell));
    let open: Open = Rc::default();
    while let Some(line) = lines.recv().await {
        let message: Value = match serde_json::from_slice(&line) {
            Ok(message) => message,
            Err(error) => {
                let error = serde_json::json!({ "code": -32700, "message": format!("the line is not JSON: {error}") });
                say(&serde_json::json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string().into_bytes());
                continue;
            }
        };
        if message["method"] == "notifications/cancelled" {
            // Dropping a request's other half cancels it.
            open.borrow_mut().remove(&message["params"]["requestId"].to_string());
            continue;
        }
        let Some(id) = message.get("id").map(Value::to_string) else { continue };
        if REQUESTS_MAX <= open.borrow().len() {
            let error =
                serde_json::json!({ "code": -31001, "message": format!("all {REQUESTS_MAX} places are taken") });
            say(&serde_json::json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }).to_string().into_bytes());
            continue;
        }
        let (keep, cancelled) = oneshot::channel::<()>();
        open.borrow_mut().insert(id.clone(), keep);
        let (door, open) = (door.clone(), open.clone());
        crate::runtime::spawn(async move {
            let mut told = |message: Bytes| say(&message);
            tokio::select! {
                answered = door.pass(&line, &mut told) => if let Err(error) = answered {
                    let error = serde_json::json!({ "code": -31001, "message": error });
                    say(&serde_json::json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }).to_string().into_bytes());
                },
                _ = cancelled => {}
            }
            open.borrow_mut().remove(&id);
        });
    }
    // What was asked before the input ended is answered, within the time of one request.
    let answered = async {
        while !open.borrow().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(session.global.timeout.0, answered).await;
    Ok(ExitCode::SUCCESS)
}

/// Requests that are being answered, by their ids as JSON.
type Open = Rc<RefCell<HashMap<String, oneshot::Sender<()>>>>;

fn read(tell: &mpsc::Sender<Bytes>) {
    use std::io::{BufRead, Read};
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) || LINE_BYTES_MAX < line.len() {
            return;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if tell.blocking_send(Bytes::from(line)).is_err() {
            return;
        }
    }
}

/// Writes a message as one line. Whoever closed the pipe wants no more.
fn say(message: &[u8]) {
    let mut line: Vec<u8> =
        message.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }).collect();
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}
