//! `qmesh dag watch`.
//!
//! Promises: every event is written out before the next is awaited; an interrupt ends it with exit code 0.
//! Does not: catch up on what happened before.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::Output;
use crate::cli::session::Session;
use crate::cli::text::time_text;
use crate::error::Reason;
use crate::gateway::quic::wire::{RefLogRow, RefRow, Summary, WatchFrame, WatchRequest};
use crate::ids::VertexId;

/// `qmesh dag watch …`
#[derive(Debug, Args)]
pub(super) struct WatchArguments {
    /// Only this namespace.
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// Only this kind.
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    /// Tell of moves of refs too.
    #[arg(long)]
    refs: bool,
    /// Stop after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Vertex {
        #[serde(flatten)]
        vertex: &'a Summary,
    },
    Ref {
        #[serde(flatten)]
        row: &'a RefRow,
        change: &'a RefLogRow,
    },
    Missed {
        moves: u64,
    },
}

/// Runs `qmesh dag watch`.
pub(super) async fn run(session: &Session, arguments: WatchArguments) -> Outcome {
    let request = WatchRequest { namespace: arguments.namespace, kind: arguments.kind, refs: arguments.refs };
    let mut answer = session.node().await?.watch(&request).await?;
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut stdout = io::stdout().lock();
    let interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let events = async {
        while 0 < left {
            let Some(frame) = answer.next().await? else {
                return Err(Failure::new(Reason::Unavailable, "the node is going down"));
            };
            let events = match &frame {
                WatchFrame::Vertices(rows) => rows.iter().map(|vertex| Event::Vertex { vertex }).collect(),
                WatchFrame::Ref { row, change } => vec![Event::Ref { row, change }],
                WatchFrame::Missed(moves) => vec![Event::Missed { moves: *moves }],
            };
            for event in events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                print(&mut stdout, session.output(), event)?;
                left -= 1;
            }
            stdout.flush()?;
        }
        Ok(())
    };
    let events = std::pin::pin!(events);
    match futures_util::future::select(events, interrupted).await {
        futures_util::future::Either::Left((ended, _)) => ended?,
        futures_util::future::Either::Right(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn print(sink: &mut impl Write, output: Output, event: &Event<'_>) -> Result<(), Failure> {
    if output != Output::Table {
        let line = serde_json::to_string(event).map_err(Failure::internal)?;
        return Ok(writeln!(sink, "{line}")?);
    }
    match event {
        Event::Vertex { vertex } => {
            let git = vertex.git.as_deref().unwrap_or("-");
            let (id, time) = (VertexId(vertex.id), time_text(vertex.timestamp_ms));
            writeln!(sink, "vertex  {id}  {time:<24}  {:<16}  {git}", vertex.kind)?;
        }
        Event::Ref { row, change } => {
            let place = |at: &Option<String>| at.clone().unwrap_or_else(|| "none".to_owned());
            writeln!(sink, "ref     {}  {} -> {}", row.name, place(&change.from), place(&change.to))?;
        }
        Event::Missed { moves } => writeln!(sink, "missed  {moves} moves of refs: this watcher was too slow")?,
    }
    Ok(())
}
