//! `qmesh upstream …`: MCP servers behind the gateway.
//!
//! Promises: what `add` writes is what the node reads, checked before it is written; `test` speaks to the server as the node would.
//! Does not: change a running node but by its folder of declarations, which it looks at every two seconds.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::failure::{EXIT_CHECK_FAILED, Failure, Outcome};
use super::session::{self, Global, Session};
use crate::config::upstream::{Upstream, check_name};
use crate::error::Reason;
use crate::gateway::upstream::examine;

/// `qmesh upstream …`
#[derive(Debug, Args)]
pub struct UpstreamArguments {
    #[command(subcommand)]
    command: UpstreamCommand,
}

#[derive(Debug, Subcommand)]
enum UpstreamCommand {
    /// Put a server behind the gateway.
    #[command(
        after_help = "Examples:\n  qmesh upstream add files --command npx --command -y --command @modelcontextprotocol/server-filesystem --command /srv\n  \
                      qmesh upstream add search --url https://search.example.org/mcp --header 'Authorization=env:SEARCH_TOKEN'"
    )]
    Add(Box<AddArguments>),
    /// Take a server out.
    #[command(after_help = "Example: qmesh upstream rm files")]
    Rm {
        /// The server.
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
    /// Let a server take no new calls; what it has open ends.
    #[command(after_help = "Example: qmesh upstream drain files")]
    Drain {
        /// The server.
        name: String,
        /// Let it take calls again.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        folder: Folder,
    },
    /// What the node knows of its servers.
    #[command(after_help = "Example: qmesh upstream ls -o json")]
    Ls,
    /// Speak to a declared server from here, as the node would, and tell what it offers. Exit 1 when it does not answer.
    #[command(after_help = "Example: qmesh upstream test files")]
    Test {
        /// The server.
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
}

#[derive(Debug, Args)]
struct Folder {
    /// The folder with the declarations [default: upstreams.d in the data directory].
    #[arg(long, value_name = "DIR")]
    upstreams: Option<PathBuf>,
    /// The node's data directory.
    #[arg(long, value_name = "DIR", default_value = "qmesh-data")]
    data: PathBuf,
}

#[derive(Debug, Args)]
struct AddArguments {
    /// Its name: its tools are NAME__TOOL for clients.
    name: String,
    /// Its MCP endpoint.
    #[arg(long, value_name = "URL", conflicts_with = "command", required_unless_present = "command")]
    url: Option<String>,
    /// The program to start and speak to over its standard input and output; once for each argument.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    command: Vec<String>,
    /// A header of every request: NAME=VALUE, NAME=env:VARIABLE or NAME=file:PATH.
    #[arg(long = "header", value_name = "NAME=VALUE", requires = "url")]
    headers: Vec<String>,
    /// A variable for the program: NAME=VALUE, NAME=env:VARIABLE or NAME=file:PATH.
    #[arg(long = "env", value_name = "NAME=VALUE", requires = "command")]
    environment: Vec<String>,
    /// The authority of its certificate, instead of the public ones.
    #[arg(long, value_name = "FILE", requires = "url")]
    authority: Option<PathBuf>,
    /// What its tools' names begin with, instead of its name; empty for nothing.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Time for one call, in milliseconds.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<i64>,
    #[command(flatten)]
    folder: Folder,
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.upstreams.clone().unwrap_or_else(|| self.data.join("upstreams.d"))
    }

    fn file(&self, name: &str) -> Result<PathBuf, Failure> {
        check_name(name).map_err(Failure::usage)?;
        Ok(self.path().join(format!("{name}.toml")))
    }

    fn read(&self, name: &str) -> Result<(PathBuf, String), Failure> {
        let file = self.file(name)?;
        let text = std::fs::read_to_string(&file).map_err(|error| Failure::file(&file, &error))?;
        Ok((file, text))
    }
}

/// Runs `qmesh upstream …`.
pub fn run(arguments: UpstreamArguments, global: Global) -> ExitCode {
    session::run(global, async |session| match arguments.command {
        UpstreamCommand::Add(arguments) => add(session, &arguments),
        UpstreamCommand::Rm { name, folder } => {
            let file = folder.file(&name)?;
            std::fs::remove_file(&file).map_err(|error| Failure::file(&file, &error))?;
            told(session, &file, "removed")
        }
        UpstreamCommand::Drain { name, undo, folder } => drain(session, &name, !undo, &folder),
        UpstreamCommand::Ls => list(session).await,
        UpstreamCommand::Test { name, folder } => test(session, &name, &folder).await,
    })
}

fn add(session: &Session, arguments: &AddArguments) -> Outcome {
    let file = arguments.folder.file(&arguments.name)?;
    let mut table = toml::Table::new();
    if let Some(url) = &arguments.url {
        table.insert("url".to_owned(), url.clone().into());
    }
    if !arguments.command.is_empty() {
        table.insert("command".to_owned(), arguments.command.clone().into());
    }
    for (key, pairs) in [("headers", &arguments.headers), ("environment", &arguments.environment)] {
        let mut members = toml::Table::new();
        for pair in pairs {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| Failure::usage(format!("{pair:?} must be NAME=VALUE")))?;
            members.insert(name.to_owned(), value.into());
        }
        if !members.is_empty() {
            table.insert(key.to_owned(), members.into());
        }
    }
    if let Some(authority) = &arguments.authority {
        let path = std::path::absolute(authority).map_err(|error| Failure::file(authority, &error))?;
        table.insert("authority".to_owned(), path.display().to_string().into());
    }
    if let Some(prefix) = &arguments.prefix {
        table.insert("prefix".to_owned(), prefix.clone().into());
    }
    if let Some(timeout_ms) = arguments.timeout_ms {
        table.insert("timeout_ms".to_owned(), timeout_ms.into());
    }
    let text = table.to_string();
    Upstream::parse(&arguments.name, &text).map_err(Failure::usage)?;
    if file.exists() {
        let there = format!("{} is there already; remove it first, or edit it", file.display());
        return Err(Failure::new(Reason::Conflict, there));
    }
    write(&file, &text)?;
    told(session, &file, "written")
}

fn drain(session: &Session, name: &str, drained: bool, folder: &Folder) -> Outcome {
    let (file, text) = folder.read(name)?;
    let mut table: toml::Table =
        text.parse().map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    table.insert("drained".to_owned(), drained.into());
    write(&file, &table.to_string())?;
    told(session, &file, if drained { "drained" } else { "takes calls" })
}

/// Replaces a file whole: the node may read it at any moment.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| Failure::file(folder, &error))?;
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).map_err(|error| Failure::file(&beside, &error))?;
    std::fs::rename(&beside, file).map_err(|error| Failure::file(file, &error))
}

fn told(session: &Session, file: &Path, state: &str) -> Outcome {
    let value = serde_json::json!({ "file": file, "state": state });
    session.output().value(&mut io::stdout().lock(), &value, |_| format!("{} {state}", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session) -> Outcome {
    let report = session.node().await?.upstreams().await?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    if session.output().is_json() {
        session.output().value(&mut io::stdout().lock(), &report, |_| String::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: &[Value] = report["upstreams"].as_array().map_or(&[], Vec::as_slice);
    let columns =
        ["name", "state", "revision", "tools", "prompts", "resources", "calls", "failures", "breaker", "error"];
    session.output().list(&mut io::stdout().lock(), &columns, rows, |row| {
        columns.iter().map(|column| text(&row[*column])).collect()
    })?;
    let mut told = String::new();
    for refused in report["refused"].as_array().into_iter().flatten() {
        // Writing into a String does not fail.
        let _ = write!(told, "\nrefused {}: {}", text(&refused["file"]), text(&refused["detail"]));
    }
    for collision in report["collisions"].as_array().into_iter().flatten() {
        let _ = write!(told, "\ncollision: {} is hidden by another's", text(collision));
    }
    if !told.is_empty() {
        eprintln!("{}", told.trim_start());
    }
    Ok(ExitCode::SUCCESS)
}

async fn test(session: &Session, name: &str, folder: &Folder) -> Outcome {
    let (file, text) = folder.read(name)?;
    let upstream =
        Upstream::parse(name, &text).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let report = examine(upstream).await;
    let good = report["error"].is_null();
    session.output().value(&mut io::stdout().lock(), &report, |report| {
        if good {
            format!(
                "{name} speaks {}: {} tools, {} prompts, {} resources; it took {} ms",
                report["revision"].as_str().unwrap_or_default(),
                report["tools"],
                report["prompts"],
                report["resources"],
                report["took_ms"],
            )
        } else {
            format!("{name}: {}", report["error"].as_str().unwrap_or_default())
        }
    })?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHECK_FAILED) })
}
