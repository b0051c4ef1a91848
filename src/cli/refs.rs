//! `qmesh ref …`
//!
//! Promises: `get` and `set` print the id and nothing else; a ref that is not where it was expected is exit code 4.
//! Does not: retry a compare-and-set.

use std::io;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::failure::{Failure, Outcome};
use super::session::{self, Global, Session};
use super::text::time_text;
use crate::error::Reason;
use crate::gateway::quic::wire::{FreshnessRow, RefAnswer, RefLogRow, RefRequest, RefRow};
use crate::limits::{PAGE_MAX, REFLOG_ENTRIES_MAX};
use crate::router::consistency::Consistency;

/// `qmesh ref …`
#[derive(Debug, Args)]
pub struct RefArguments {
    #[command(subcommand)]
    command: RefCommand,
}

#[derive(Debug, Subcommand)]
enum RefCommand {
    /// Print the id that a ref points to.
    #[command(
        after_help = "Examples:\n  qmesh ref get git/project/refs/heads/main\n  qmesh ref get release --consistency bounded:500 -o json"
    )]
    Get {
        /// The ref.
        name: String,
        #[command(flatten)]
        newness: Newness,
    },
    /// Point a ref to a vertex; exit 4 when it is not where --if says.
    #[command(
        after_help = "Examples:\n  qmesh ref set release git:HASH --if none\n  qmesh ref set release NEW --if OLD"
    )]
    Set {
        /// The ref.
        name: String,
        /// CID, hex, git:HASH or ref:NAME.
        id: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Remove a ref; its log stays.
    #[command(after_help = "Example: qmesh ref delete release --if OLD")]
    Delete {
        /// The ref.
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// List refs in the order of their names.
    #[command(after_help = "Example: qmesh ref list git/project/refs/tags/")]
    List {
        /// Names start with this.
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// Refs, at most.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        newness: Newness,
    },
    /// The latest moves of a ref, newest first.
    #[command(after_help = "Example: qmesh ref log git/project/HEAD")]
    Log {
        /// The ref.
        name: String,
        /// Moves, at most.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=REFLOG_ENTRIES_MAX as i64))]
        limit: u32,
        #[command(flatten)]
        newness: Newness,
    },
}

/// How new an answer must be.
#[derive(Debug, Args)]
pub(super) struct Newness {
    /// How new the answer must be; the replica that is asked answers `any`, and `bounded` when it is surely not older.
    #[arg(long, value_name = "linearizable|bounded:MS|any", default_value = "linearizable", hide_default_value = true)]
    pub(super) consistency: Consistency,
}

#[derive(Debug, Args)]
struct Terms {
    /// Only when the ref is there now: an id, git:HASH, ref:NAME, or none.
    #[arg(long = "if", value_name = "OLD|none")]
    expect: Option<String>,
    /// Why, for the ref's log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Who, for the ref's log.
    #[arg(long, env = "USER", default_value = "", hide_default_value = true)]
    actor: String,
}

#[derive(Serialize)]
struct One<'a> {
    #[serde(flatten)]
    row: &'a RefRow,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    freshness: Option<&'a FreshnessRow>,
}

/// Runs `qmesh ref …`.
pub fn run(arguments: RefArguments, global: Global) -> ExitCode {
    session::run(global, async |session| match arguments.command {
        RefCommand::Get { name, newness } => {
            let read = one(session, &RefRequest::Get { name, consistency: newness.text() }).await?;
            if read.0.at.is_none() {
                return Err(Failure::new(Reason::NotFound, format!("no ref {}", read.0.name)));
            }
            print(session, &read)
        }
        RefCommand::Set { name, id, terms } => print(session, &one(session, &moved(name, Some(id), terms)).await?),
        RefCommand::Delete { name, terms } => print(session, &one(session, &moved(name, None, terms)).await?),
        RefCommand::List { prefix, limit, newness } => list(session, prefix, limit, &newness).await,
        RefCommand::Log { name, limit, newness } => log(session, name, limit, &newness).await,
    })
}

fn moved(name: String, to: Option<String>, terms: Terms) -> RefRequest {
    let (expect, expect_at) = match terms.expect.as_deref() {
        None => (0, String::new()),
        Some("none") => (1, String::new()),
        Some(at) => (2, at.to_owned()),
    };
    RefRequest::Set { name, to, expect, expect_at, actor: terms.actor, reason: terms.reason }
}

type Answered = (RefRow, String, Option<FreshnessRow>);

impl Newness {
    fn text(&self) -> String {
        self.consistency.to_string()
    }
}

async fn one(session: &Session, request: &RefRequest) -> Result<Answered, Failure> {
    match session.node().await?.refs(request).await? {
        RefAnswer::One { row, token, freshness } => Ok((row, token, freshness)),
        _ => Err(unexpected()),
    }
}

fn print(session: &Session, (row, token, freshness): &Answered) -> Outcome {
    let one = One { row, token, freshness: freshness.as_ref() };
    session
        .output()
        .value(&mut io::stdout().lock(), &one, |one| one.row.at.clone().unwrap_or_else(|| "deleted".to_owned()))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session, prefix: String, limit: Option<usize>, newness: &Newness) -> Outcome {
    let node = session.node().await?;
    let limit = limit.unwrap_or(usize::MAX);
    let mut rows: Vec<RefRow> = Vec::new();
    while rows.len() < limit {
        let page = (limit - rows.len()).min(PAGE_MAX);
        let after = rows.last().map(|row| row.name.clone()).unwrap_or_default();
        let consistency = newness.text();
        let request = RefRequest::List { prefix: prefix.clone(), after, limit: page as u32, consistency };
        let RefAnswer::List { rows: more, .. } = node.refs(&request).await? else { return Err(unexpected()) };
        let full = more.len() == page;
        rows.extend(more);
        if !full {
            break;
        }
    }
    session.output().list(&mut io::stdout().lock(), &["name", "id", "moves"], &rows, |row| {
        vec![row.name.clone(), row.at.clone().unwrap_or_else(|| "deleted".to_owned()), row.version.to_string()]
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn log(session: &Session, name: String, limit: u32, newness: &Newness) -> Outcome {
    let request = RefRequest::Log { name, limit, consistency: newness.text() };
    let RefAnswer::Log { rows, .. } = session.node().await?.refs(&request).await? else {
        return Err(unexpected());
    };
    let place = |at: &Option<String>| at.clone().unwrap_or_else(|| "none".to_owned());
    let headers = ["move", "time", "from", "to", "actor", "reason"];
    session.output().list(&mut io::stdout().lock(), &headers, &rows, |row: &RefLogRow| {
        vec![
            row.version.to_string(),
            time_text(row.timestamp_ms),
            place(&row.from),
            place(&row.to),
            row.actor.clone(),
            row.reason.clone(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn unexpected() -> Failure {
    Failure::internal("the node answered about refs with something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_the_terms_of_a_move_are_absent_none_or_a_place() {
        let check = |expect: Option<&str>, wanted: (u8, &str)| {
            let terms = Terms { expect: expect.map(str::to_owned), reason: String::new(), actor: String::new() };
            let RefRequest::Set { expect: found, expect_at, .. } = moved("r".to_owned(), None, terms) else {
                panic!("not a move");
            };
            assert_eq!((found, expect_at.as_str()), wanted);
        };
        check(None, (0, ""));
        check(Some("none"), (1, ""));
        check(Some("git:aa"), (2, "git:aa"));
    }
}
