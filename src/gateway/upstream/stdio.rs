//! Servers that are processes of this node, spoken to over their standard input and output.
//!
//! Promises: one process a server, started again with a growing pause when it ends; calls of several clients share it and never
//! see each other's ids or progress; a call whose client went away is cancelled there; what it says on standard error is logged.
//! Does not: restart a server that merely answers slowly.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::envelope::{Kind, Message, aged, completed, request, splice, with_id};
use super::http::{cannot_ask, initialized_version};
use super::link::{Broken, Exchange, LEGACY, Messages, Reply, Spoken};
use super::sse::MESSAGE_BYTES_MAX;
use crate::config::upstream::Era;
use crate::runtime;

/// Calls that wait for one process.
const CALLS_MAX: usize = 1024;
/// Messages that wait for one client, beside the answer.
const MESSAGES_MAX: usize = 16;
/// Lines that wait to be written to a process.
const LINES_MAX: usize = 1024;
/// Time in which a process must answer its first question.
const FIRST_ANSWER: Duration = Duration::from_secs(20);
/// The pause before it is started again: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a process must have lived for its next pause to be the first again.
const LIVED_WELL: Duration = Duration::from_secs(60);
/// Time to end by itself after its input was closed.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of a line on standard error that are logged.
const LOG_BYTES_MAX: usize = 2048;

/// How a process is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: Option<std::path::PathBuf>,
    pub(crate) era: Era,
}

/// How a process is.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// It has not answered yet.
    Starting,
    /// It answers, and this is what it said of itself.
    Up(Spoken, Arc<Value>),
    /// It does not run.
    Down(String),
}

/// A way to a process, from any core.
#[derive(Clone)]
pub(crate) struct StdioLink {
    calls: mpsc::Sender<Call>,
    phase: watch::Receiver<Phase>,
}

struct Call {
    body: Bytes,
    replies: mpsc::Sender<Result<Bytes, Broken>>,
    last: mpsc::OwnedPermit<Result<Bytes, Broken>>,
}

impl StdioLink {
    /// Starts the process on this core, and keeps it running while there is a way to it.
    pub(crate) fn start(program: Program, lists_changed: mpsc::Sender<()>) -> Self {
        let (calls, waiting) = mpsc::channel(CALLS_MAX);
        let (tell, phase) = watch::channel(Phase::Starting);
        runtime::spawn(supervise(program, waiting, tell, lists_changed));
        Self { calls, phase }
    }

    /// How the process is, now and later.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Sends a request and takes what comes first.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn send(&self, exchange: &Exchange) -> Result<Reply, Broken> {
        let (replies, receiver) = mpsc::channel(MESSAGES_MAX + 1);
        let last = replies.clone().try_reserve_owned().map_err(|_| Broken::Busy(None))?;
        let call = Call { body: exchange.body.clone(), replies, last };
        self.calls.try_send(call).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Broken::Busy(None),
            mpsc::error::TrySendError::Closed(_) => Broken::Unreachable("it is no upstream any more".to_owned()),
        })?;
        let mut messages = Messages::lines(receiver);
        let gone = || Broken::Unreachable("its process ended".to_owned());
        let first = messages.next().await?.ok_or_else(gone)?;
        if Message::read(&first).map_err(Broken::Garbage)?.kind() == Kind::Answer {
            return Ok(Reply::Whole(200, first));
        }
        messages.unread(first);
        Ok(Reply::Stream(messages))
    }
}

async fn supervise(
    program: Program,
    mut calls: mpsc::Receiver<Call>,
    tell: watch::Sender<Phase>,
    lists_changed: mpsc::Sender<()>,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let started = Instant::now();
        tell.send_replace(Phase::Starting);
        let ended = run(&program, &mut calls, &tell, &lists_changed).await;
        let Err(reason) = ended else { return };
        tracing::warn!(
            upstream = program.name,
            reason,
            pause_ms = pause.as_millis() as u64,
            "an upstream's process is down"
        );
        tell.send_replace(Phase::Down(reason.clone()));
        if LIVED_WELL <= started.elapsed() {
            pause = PAUSE_MIN;
        }
        let over = sleep(pause);
        let mut over = std::pin::pin!(over);
        pause = (pause * 2).min(PAUSE_MAX);
        loop {
            tokio::select! {
                () = &mut over => break,
                call = calls.recv() => match call {
                    // Nobody holds a way to it any more.
                    None => return,
                    Some(call) => drop(call.last.send(Err(Broken::Unreachable(reason.clone())))),
                },
            }
        }
    }
}

/// One life of the process. `Ok` when nobody needs it any more.
async fn run(
    program: &Program,
    calls: &mut mpsc::Receiver<Call>,
    tell: &watch::Sender<Phase>,
    lists_changed: &mpsc::Sender<()>,
) -> Result<(), String> {
    let mut command = Command::new(&program.command[0]);
    command.args(&program.command[1..]).envs(program.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Some(directory) = &program.directory {
        command.current_dir(directory);
    }
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.command[0]))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("no pipes to the process".to_owned());
    };
    let (write, writing) = mpsc::channel(LINES_MAX);
    let (read, mut lines) = mpsc::channel(MESSAGES_MAX);
    runtime::spawn(write_lines(stdin, writing));
    runtime::spawn(async move { read_lines(stdout, &read).await });
    runtime::spawn(log_lines(stderr, program.name.clone()));
    let (spoken, about) = timeout(FIRST_ANSWER, greet(program.era, &write, &mut lines))
        .await
        .map_err(|_| format!("it did not answer within {} s", FIRST_ANSWER.as_secs()))??;
    tell.send_replace(Phase::Up(spoken, Arc::new(about)));
    let (cancel, mut cancelled) = mpsc::channel(CALLS_MAX);
    let mut live = Live { spoken, open: HashMap::new(), next: FIRST_CALL, write, cancel, lists_changed };
    let ended = loop {
        tokio::select! {
            call = calls.recv() => match call {
                None => break Ok(()),
                Some(call) => live.call(call),
            },
            Some(number) = cancelled.recv() => live.cancel(number),
            line = lines.recv() => match line {
                Some(line) => live.line(&line),
                None => break Err("it closed its output".to_owned()),
            },
        }
    };
    let Live { open, write, .. } = live;
    // Closing its input asks a server to end.
    drop(write);
    for (_, call) in open {
        drop(call.last.send(Err(Broken::Unreachable("its process ended".to_owned()))));
    }
    match (timeout(GRACE, child.wait()).await, ended) {
        (Ok(Ok(status)), Err(reason)) => Err(format!("{reason} ({status})")),
        (_, ended) => ended,
    }
}

/// Ids of the questions at the start; calls come after them.
const DISCOVER_ID: u64 = 1;
const INITIALIZE_ID: u64 = 2;
const FIRST_CALL: u64 = 3;

/// Finds out what the process speaks.
async fn greet(
    era: Era,
    write: &mpsc::Sender<Bytes>,
    lines: &mut mpsc::Receiver<Bytes>,
) -> Result<(Spoken, Value), String> {
    let gone = || "it ended before it answered".to_owned();
    if era != Era::Legacy {
        let asked = request(DISCOVER_ID, "server/discover", &json!({ "_meta": super::follow::own_meta() }));
        write.send(asked).await.map_err(|_| gone())?;
        let answer = answer_to(DISCOVER_ID, lines).await.ok_or_else(gone)?;
        if let Some(result) = answer.get("result") {
            return Ok((Spoken::Modern, result.clone()));
        }
        if era == Era::Modern {
            return Err(format!("it refused server/discover: {}", answer["error"]));
        }
    }
    let params = json!({
        "protocolVersion": LEGACY[0],
        "capabilities": {},
        "clientInfo": { "name": "qmesh", "version": env!("CARGO_PKG_VERSION") },
    });
    write.send(request(INITIALIZE_ID, "initialize", &params)).await.map_err(|_| gone())?;
    let answer = answer_to(INITIALIZE_ID, lines).await.ok_or_else(gone)?;
    let version = initialized_version(answer.to_string().as_bytes()).map_err(|broken| broken.to_string())?;
    let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
    write.send(Bytes::from(told)).await.map_err(|_| gone())?;
    Ok((Spoken::Legacy(version), answer["result"].clone()))
}

async fn answer_to(id: u64, lines: &mut mpsc::Receiver<Bytes>) -> Option<Value> {
    loop {
        let line = lines.recv().await?;
        if let Ok(message) = serde_json::from_slice::<Value>(&line)
            && message["id"] == id
            && message.get("method").is_none()
        {
            return Some(message);
        }
    }
}

/// A process that answers, and the calls it has.
struct Live<'a> {
    spoken: Spoken,
    open: HashMap<u64, Open>,
    next: u64,
    write: mpsc::Sender<Bytes>,
    cancel: mpsc::Sender<u64>,
    lists_changed: &'a mpsc::Sender<()>,
}

/// A call that the process has, and what its client called things.
struct Open {
    id: String,
    progress_token: Option<String>,
    replies: mpsc::Sender<Result<Bytes, Broken>>,
    last: mpsc::OwnedPermit<Result<Bytes, Broken>>,
}

#[derive(Default, Deserialize)]
struct ParamsOutline<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<MetaOutline<'a>>,
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct MetaOutline<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
}

impl ParamsOutline<'_> {
    fn of<'a>(message: &Message<'a>) -> ParamsOutline<'a> {
        message.params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default()
    }
}

impl Live<'_> {
    fn call(&mut self, call: Call) {
        let Call { body, replies, last } = call;
        let body = match self.spoken {
            Spoken::Modern => Ok(body),
            Spoken::Legacy(_) => aged(&body),
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                drop(last.send(Err(Broken::Unsupported(error))));
                return;
            }
        };
        let (number, own) = (self.next, self.next.to_string());
        let Ok(message) = Message::read(&body) else {
            drop(last.send(Err(Broken::Unsupported("the request is no JSON-RPC message".to_owned()))));
            return;
        };
        let Some(id) = message.id else {
            drop(last.send(Err(Broken::Unsupported("the request has no id".to_owned()))));
            return;
        };
        let token = ParamsOutline::of(&message).meta.and_then(|meta| meta.progress_token);
        // Clients choose their ids and progress tokens by themselves: two may have chosen the same.
        let mut replaced = vec![(id.get(), own.as_str())];
        replaced.extend(token.map(|token| (token.get(), own.as_str())));
        let line = one_line(&splice(&body, &mut replaced));
        let (id, progress_token) = (id.get().to_owned(), token.map(|token| token.get().to_owned()));
        match self.write.try_send(line) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                drop(last.send(Err(Broken::Busy(None))));
                return;
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                drop(last.send(Err(Broken::Unreachable("it closed its input".to_owned()))));
                return;
            }
        }
        self.next += 1;
        let (gone, cancel) = (replies.clone(), self.cancel.clone());
        runtime::spawn(async move {
            gone.closed().await;
            // The process has ended when nobody takes it.
            let _ = cancel.send(number).await;
        });
        self.open.insert(number, Open { id, progress_token, replies, last });
    }

    /// The client of a call has its answer, or went away.
    fn cancel(&mut self, number: u64) {
        if self.open.remove(&number).is_some() {
            let params = json!({ "requestId": number, "reason": "the client went away" });
            let told = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
            // A server that takes nothing is not told; its answer will find nobody.
            drop(self.write.try_send(Bytes::from(told.to_string())));
        }
    }

    fn line(&mut self, line: &Bytes) {
        let message = match Message::read(line) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(error, "a line of an upstream's process is no message");
                return;
            }
        };
        match message.kind() {
            Kind::Answer => {
                let number = message.id.and_then(|id| id.get().parse::<u64>().ok());
                let Some(call) = number.and_then(|number| self.open.remove(&number)) else { return };
                let answer = with_id(line, &call.id);
                let answer = match self.spoken {
                    Spoken::Modern => answer,
                    Spoken::Legacy(_) => answer.and_then(|answer| completed(&answer)),
                };
                drop(call.last.send(answer.map_err(Broken::Garbage)));
            }
            Kind::Request => {
                if let Some(refused) = cannot_ask(line) {
                    drop(self.write.try_send(refused));
                }
            }
            Kind::Notification => self.notification(line, &message),
        }
    }

    fn notification(&mut self, line: &Bytes, message: &Message<'_>) {
        let method = message.method.as_deref().unwrap_or_default();
        if method.ends_with("/list_changed") {
            // One that waits already says the same.
            let _ = self.lists_changed.try_send(());
            return;
        }
        let params = ParamsOutline::of(message);
        let subscription = params.meta.as_ref().and_then(|meta| meta.subscription);
        let named = params.progress_token.or(subscription);
        let number = named.and_then(|token| token.get().parse::<u64>().ok());
        match (number.and_then(|number| self.open.get(&number)), named) {
            (Some(call), Some(named)) => {
                let theirs = if subscription.is_some() { Some(&call.id) } else { call.progress_token.as_ref() };
                let Some(theirs) = theirs else { return };
                let told = splice(line, &mut [(named.get(), theirs.as_str())]);
                // A client that reads too slowly misses progress, not its answer.
                drop(call.replies.try_send(Ok(told)));
            }
            // What belongs to no call can only belong to the one there is.
            (None, None) if self.open.len() == 1 => {
                if let Some(call) = self.open.values().next() {
                    drop(call.replies.try_send(Ok(line.clone())));
                }
            }
            _ => {}
        }
    }
}

/// The message without line ends, which JSON has only as white space.
fn one_line(message: &Bytes) -> Bytes {
    if !message.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return message.clone();
    }
    message.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }).collect::<Vec<u8>>().into()
}

async fn write_lines(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Bytes>) {
    while let Some(line) = lines.recv().await {
        let written = async {
            stdin.write_all(&line).await?;
            stdin.write_all(b"\n").await?;
            stdin.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "an upstream's process takes nothing more");
            return;
        }
    }
}

/// Lines of at most [`MESSAGE_BYTES_MAX`]; the end when one is longer.
async fn read_lines(output: impl AsyncRead + Unpin, lines: &mpsc::Sender<Bytes>) {
    let mut reader = BufReader::with_capacity(64 << 10, output);
    let mut line = Vec::new();
    loop {
        let (used, whole) = match reader.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => match bytes.iter().position(|&byte| byte == b'\n') {
                Some(at) => {
                    line.extend_from_slice(&bytes[..at]);
                    (at + 1, true)
                }
                None => {
                    line.extend_from_slice(bytes);
                    (bytes.len(), false)
                }
            },
            _ => return,
        };
        reader.consume(used);
        if MESSAGE_BYTES_MAX < line.len() {
            tracing::warn!(bytes_max = MESSAGE_BYTES_MAX, "a line of an upstream's process is too long");
            return;
        }
        if whole && lines.send(Bytes::from(std::mem::take(&mut line))).await.is_err() {
            return;
        }
    }
}

async fn log_lines(output: impl AsyncRead + Unpin, upstream: String) {
    let (tell, mut lines) = mpsc::channel::<Bytes>(MESSAGES_MAX);
    let log = async {
        while let Some(line) = lines.recv().await {
            let line = String::from_utf8_lossy(&line[..line.len().min(LOG_BYTES_MAX)]).into_owned();
            tracing::info!(upstream, line, "an upstream's process says");
        }
    };
    let read = async move {
        read_lines(output, &tell).await;
        drop(tell);
    };
    futures_util::join!(read, log);
}
