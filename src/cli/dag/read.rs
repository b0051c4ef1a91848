//! `qmesh dag get|has|verify`.
//!
//! Promises: every vertex shown was checked here against its id and signature. Does not: trust the node.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::failure::{EXIT_CHECK_FAILED, Failure, Outcome};
use crate::cli::refs::Newness;
use crate::cli::session::Session;
use crate::cli::text::{counter, time_text};
use crate::client::{ClientError, Node};
use crate::dag::archive::SealedVertex;
use crate::error::Reason;
use crate::gateway::json::{VertexJson, text_of};
use crate::gateway::quic::wire::{QueryFrame, QueryRequest};
use crate::ids::{ID_BYTES, VertexId, hex};
use crate::router::consistency::Consistency;

/// Vertices fetched and checked at a time.
const VERIFY_BATCH: usize = 1024;

/// `qmesh dag get …`
#[derive(Debug, Args)]
pub(super) struct GetArguments {
    /// CID, hex, git:HASH or ref:NAME.
    id: String,
    /// Write the payload's bytes and nothing else.
    #[arg(long)]
    payload: bool,
    #[command(flatten)]
    newness: Newness,
}

/// `qmesh dag has …`
#[derive(Debug, Args)]
pub(super) struct HasArguments {
    /// CID, hex, git:HASH or ref:NAME.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// `qmesh dag verify …`
#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// CID, hex, git:HASH or ref:NAME.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Check everything they follow too.
    #[arg(long)]
    ancestors: bool,
}

/// Runs `qmesh dag get`.
pub(super) async fn get(session: &Session, arguments: GetArguments) -> Outcome {
    let node = session.node().await?;
    let id = node.resolve(&arguments.id).await?;
    let vertex = match arguments.newness.consistency {
        Consistency::Linearizable => node.get(id).await?.ok_or_else(|| absent(&arguments.id))?,
        consistency => {
            let (found, freshness) = node.get_with(id, consistency).await?;
            let age = freshness.staleness_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms} ms"));
            let absent = || format!("{}: no such vertex at this node, whose answer may be old: {age}", arguments.id);
            found.ok_or_else(|| Failure::new(Reason::NotFound, absent()))?
        }
    };
    let mut stdout = io::stdout().lock();
    if arguments.payload {
        stdout.write_all(vertex.payload())?;
        stdout.flush()?;
    } else {
        session.output().value(&mut stdout, &VertexJson(&vertex), |_| described(&vertex))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `qmesh dag has`.
pub(super) async fn has(session: &Session, arguments: HasArguments) -> Outcome {
    #[derive(Serialize)]
    struct Row {
        id: String,
        here: bool,
    }
    let node = session.node().await?;
    let mut ids = Vec::with_capacity(arguments.ids.len());
    for text in &arguments.ids {
        ids.push(match node.resolve(text).await {
            Ok(id) => Some(id),
            Err(error) if error.reason() == Reason::NotFound => None,
            Err(error) => return Err(error.into()),
        });
    }
    let known: Vec<VertexId> = ids.iter().copied().flatten().collect();
    let mut answers = if known.is_empty() { Vec::new() } else { node.has(&known).await? }.into_iter();
    let rows: Vec<Row> = arguments
        .ids
        .into_iter()
        .zip(ids)
        .map(|(text, id)| Row { id: text, here: id.is_some() && answers.next() == Some(true) })
        .collect();
    let word = |here: bool| if here { "yes" } else { "no" };
    session.output().list(&mut io::stdout().lock(), &["id", "here"], &rows, |row| {
        vec![row.id.clone(), word(row.here).to_owned()]
    })?;
    Ok(if rows.iter().all(|row| row.here) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHECK_FAILED) })
}

/// Runs `qmesh dag verify`.
pub(super) async fn verify(session: &Session, arguments: VerifyArguments) -> Outcome {
    #[derive(Serialize)]
    struct Row {
        id: String,
        verified: bool,
        signed_by: Option<String>,
        problem: Option<String>,
    }
    let node = session.node().await?;
    if arguments.ancestors {
        return verify_ancestors(session, node, arguments.ids).await;
    }
    let mut rows = Vec::with_capacity(arguments.ids.len());
    for text in arguments.ids {
        let id = node.resolve(&text).await?;
        let row = match node.get(id).await {
            Ok(Some(vertex)) => {
                let signer = vertex.signature().map(|by| format!("{} {}", by.algorithm.name(), hex(by.public_key)));
                Row { id: id.to_string(), verified: true, signed_by: signer, problem: None }
            }
            Ok(None) => return Err(absent(&text)),
            Err(ClientError::Unverified(problem)) => {
                Row { id: id.to_string(), verified: false, signed_by: None, problem: Some(problem) }
            }
            Err(error) => return Err(error.into()),
        };
        rows.push(row);
    }
    session.output().list(&mut io::stdout().lock(), &["id", "verdict", "signed by"], &rows, |row| {
        let verdict = row.problem.clone().unwrap_or_else(|| "verified".to_owned());
        // An ML-DSA key has thousands of digits; its front is enough to tell keys apart.
        let signer: String = row.signed_by.as_deref().unwrap_or("nobody").chars().take(74).collect();
        vec![row.id.clone(), verdict, signer]
    })?;
    Ok(if rows.iter().all(|row| row.verified) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHECK_FAILED) })
}

async fn verify_ancestors(session: &Session, node: &Node, ids: Vec<String>) -> Outcome {
    #[derive(Serialize)]
    struct Checked {
        verified: u64,
        absent: u64,
    }
    let request = QueryRequest { verb: "ancestors".to_owned(), ids, ..QueryRequest::default() };
    let mut answer = node.query(&request).await?;
    let progress = counter("vertices");
    let mut checked = Checked { verified: 0, absent: 0 };
    while let Some(frame) = answer.next().await? {
        let QueryFrame::Ids(packed) = frame else { continue };
        let (ids, _) = packed.as_chunks::<ID_BYTES>();
        let ids: Vec<VertexId> = ids.iter().map(|&id| VertexId(id)).collect();
        for batch in ids.chunks(VERIFY_BATCH) {
            let found = node.get_many(batch).await?.into_iter().flatten().count();
            checked.verified += found as u64;
            checked.absent += (batch.len() - found) as u64;
            progress.set_position(checked.verified);
        }
    }
    progress.finish_and_clear();
    session.output().value(&mut io::stdout().lock(), &checked, |checked| {
        format!("{} vertices verified, {} could not be read", checked.verified, checked.absent)
    })?;
    Ok(if checked.absent == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHECK_FAILED) })
}

fn absent(text: &str) -> Failure {
    Failure::new(Reason::NotFound, format!("{text}: no such vertex at this node"))
}

/// A vertex for a person.
fn described(vertex: &SealedVertex) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing into a String does not fail.
        let _ = writeln!(text, "{name:<11} {value}");
    };
    line("id", &vertex.id().to_string());
    line("hex", &vertex.id().hex());
    line("namespace", vertex.namespace());
    line("kind", vertex.kind());
    line("author", vertex.author().unwrap_or("-"));
    line("time", &time_text(vertex.timestamp_ms()));
    for parent in vertex.parents() {
        line("parent", &parent.to_string());
    }
    for (key, value) in vertex.labels() {
        line("label", &format!("{key}={}", value.escape_debug()));
    }
    if let Some(signature) = vertex.signature() {
        let key: String = hex(signature.public_key).chars().take(64).collect();
        line("signed by", &format!("{} {key}", signature.algorithm.name()));
    }
    line("payload", &format!("{} bytes", vertex.payload().len()));
    match text_of(vertex.payload()) {
        Some(payload) if !payload.is_empty() => {
            text.push('\n');
            text.push_str(payload.trim_end_matches('\n'));
        }
        _ => {}
    }
    text.trim_end().to_owned()
}
