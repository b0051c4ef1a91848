//! `qmesh health …` and `qmesh breaker …`: how the endpoints of servers behind the gateway are, and why a call does not reach one.
//!
//! Promises: what is shown holds for the whole node. Does not: ask the servers, or change anything but breakers.

use std::io;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::failure::Outcome;
use super::session::{self, Global, Session};
use crate::gateway::upstream::BreakerReset;

/// `qmesh health …`
#[derive(Debug, Args)]
pub struct HealthArguments {
    #[command(subcommand)]
    command: HealthCommand,
}

#[derive(Debug, Subcommand)]
enum HealthCommand {
    /// Every endpoint of every server behind the gateway: state, share of calls, latency, and what the detectors count.
    #[command(after_help = "Example: qmesh health matrix -o json")]
    Matrix,
}

/// `qmesh breaker …`
#[derive(Debug, Args)]
pub struct BreakerArguments {
    #[command(subcommand)]
    command: BreakerCommand,
}

#[derive(Debug, Subcommand)]
enum BreakerCommand {
    /// Breakers that are not closed, or have failures that count.
    #[command(after_help = "Example: qmesh breaker ls")]
    Ls,
    /// Close the breakers of a server, or of one of its tools: calls go at once.
    #[command(after_help = "Example: qmesh breaker reset search --tool find")]
    Reset {
        /// The server.
        upstream: String,
        /// Its tool, by the name that the server gave; all of them when it is not said.
        #[arg(long, value_name = "TOOL")]
        tool: Option<String>,
    },
}

/// Runs `qmesh health …`.
pub fn run(arguments: HealthArguments, global: Global) -> ExitCode {
    let HealthCommand::Matrix = arguments.command;
    session::run(global, async |session| {
        let columns = [
            "upstream",
            "endpoint",
            "state",
            "weight_percent",
            "open",
            "calls",
            "failures",
            "latency_ms",
            "window_calls",
            "window_failures",
            "ejected_ms",
        ];
        list(session, "endpoints", &columns).await
    })
}

/// Runs `qmesh breaker …`.
pub fn run_breaker(arguments: BreakerArguments, global: Global) -> ExitCode {
    session::run(global, async |session| match arguments.command {
        BreakerCommand::Ls => {
            list(session, "breakers", &["upstream", "tool", "endpoint", "state", "failures", "retry_ms"]).await
        }
        BreakerCommand::Reset { upstream, tool } => {
            let answer = session.node().await?.reset_breakers(&BreakerReset { upstream, tool }).await?;
            let told = |answer: &Value| format!("{} breakers are closed", answer["reset"]);
            session.output().value(&mut io::stdout().lock(), &answer, told)?;
            Ok(ExitCode::SUCCESS)
        }
    })
}

/// The rows that each upstream has under `member`.
async fn list(session: &Session, member: &str, columns: &[&str]) -> Outcome {
    let report = session.node().await?.upstreams().await?;
    let mut rows = Vec::new();
    for upstream in report["upstreams"].as_array().into_iter().flatten() {
        for row in upstream[member].as_array().into_iter().flatten() {
            let mut row = row.clone();
            row["upstream"] = upstream["name"].clone();
            rows.push(row);
        }
    }
    if session.output().is_json() {
        let told = json!({ member: rows });
        session.output().value(&mut io::stdout().lock(), &told, |_| String::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    session.output().list(&mut io::stdout().lock(), columns, &rows, |row| {
        columns.iter().map(|column| text(&row[*column])).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}
