//! `qmesh gateway check` and `qmesh route explain`: what the gateway's file means, and what the pipeline makes of a request.
//!
//! Promises: `check` ends with 0 when `up` would take the file, and says in words what each part means; `explain` ends with 0
//! when every stage would let the request pass and with 1 otherwise. Does not: reach an issuer.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::failure::{EXIT_CHECK_FAILED, Failure, Outcome};
use super::output::{Output, table};
use super::session::{self, Global};
use crate::client::{ConnectOptions, explain_route};
use crate::config::Gateway;
use crate::config::gateway::Rate;
use crate::gateway::gate::prepare;

/// `qmesh gateway …`
#[derive(Debug, Args)]
pub struct GatewayArguments {
    #[command(subcommand)]
    command: GatewayCommand,
}

#[derive(Debug, Subcommand)]
enum GatewayCommand {
    /// Read the file of `up --gateway` and say what it means.
    #[command(after_help = "Example: qmesh gateway check gateway.toml")]
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// `qmesh route …`
#[derive(Debug, Args)]
pub struct RouteArguments {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Ask a node what each stage of its pipeline would say of a request, without doing it.
    #[command(after_help = "Examples:\n  qmesh route explain --path /api/v1/dag/tips\n  \
                            qmesh route explain --tool dag_put --access-token-file token.jwt --node https://dag.example.org:443 --ca ca.pem")]
    Explain {
        /// The method of the request.
        #[arg(long, value_name = "METHOD", default_value = "GET")]
        method: String,
        /// Its path, with its query.
        #[arg(long, value_name = "PATH", required_unless_present = "tool")]
        path: Option<String>,
        /// Instead of both: the MCP tool that is called.
        #[arg(long, value_name = "NAME", conflicts_with = "path")]
        tool: Option<String>,
        /// A file with the access token to ask as.
        #[arg(long, value_name = "FILE")]
        access_token_file: Option<PathBuf>,
    },
}

#[derive(Serialize)]
struct Meaning {
    what: &'static str,
    means: String,
}

/// Runs `qmesh gateway …`.
///
/// # Errors
/// The file's.
pub fn run(arguments: &GatewayArguments, output: Output) -> Outcome {
    let GatewayCommand::Check { file } = &arguments.command;
    let gateway = Gateway::load(file).map_err(|error| Failure::usage(error.to_string()))?;
    let meanings = meanings(&gateway);
    // What `up` does with it, as far as that can fail.
    prepare(gateway).map_err(|error| Failure::usage(format!("auth.ca: {error}")))?;
    output.list(&mut io::stdout().lock(), &["what", "means"], &meanings, |row| {
        vec![row.what.to_owned(), row.means.clone()]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn meanings(gateway: &Gateway) -> Vec<Meaning> {
    let mut rows = Vec::new();
    let mut say = |what, means: String| rows.push(Meaning { what, means });
    let list = |texts: &[String]| if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    match &gateway.auth {
        None => say("tokens", "none are taken: everyone on loopback may do everything".to_owned()),
        Some(auth) => {
            let required =
                if auth.required { "every request needs one" } else { "without one everything is permitted" };
            say("tokens", format!("of {}; {required}", list(&auth.issuers)));
            say("audience", auth.resource.clone());
            let names = &auth.scopes;
            say(
                "scopes",
                format!(
                    "read {}, write {}, tools of others {}, figures {}",
                    names.read, names.write, names.call, names.admin
                ),
            );
            say("clocks", format!("may differ by {} s", auth.clock_skew.as_secs()));
            let (stale, refetch) = (auth.jwks_stale.as_secs(), auth.jwks_refetch.as_secs());
            say("keys", format!("believed {stale} s beyond a refresh that fails; fetched at most every {refetch} s"));
        }
    }
    let rate = |rate: Rate| format!("{} a second, {} at once, for each caller", rate.per_second, rate.burst);
    say("rate", rate(gateway.limits.requests));
    for (tool, own) in &gateway.limits.tools {
        say("rate of a tool", format!("{tool}: {}", rate(*own)));
    }
    say("hosts", format!("{} beside loopback names on this machine", list(&gateway.ingress.hosts)));
    say("origins", list(&gateway.ingress.origins));
    let public = gateway.auth.as_ref().is_some_and(|auth| auth.required) && !gateway.ingress.hosts.is_empty();
    let may = if public {
        "with --tls, on any address"
    } else {
        "on loopback: beyond it tokens are required and hosts listed"
    };
    say("HTTP door", format!("{may}; QUIC on loopback only"));
    rows
}

/// Runs `qmesh route …`.
pub fn run_route(arguments: RouteArguments, global: Global) -> ExitCode {
    let RouteCommand::Explain { method, path, tool, access_token_file } = arguments.command;
    session::run(global, async |session| {
        let token = access_token_file
            .as_deref()
            .map(|file| std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error)));
        let token = token.transpose()?;
        let options = ConnectOptions { authority: session.global.ca.clone(), timeout: session.global.timeout.0 };
        let query: Vec<(&str, &str)> = match (&tool, &path) {
            (Some(tool), _) => vec![("tool", tool)],
            (None, path) => vec![("method", &method), ("path", path.as_deref().unwrap_or("/"))],
        };
        let explained = explain_route(&session.global.node, &options, &query, token.as_deref().map(str::trim)).await?;
        session.output().value(&mut io::stdout().lock(), &explained, |explained| {
            let stages = explained["stages"].as_array().cloned().unwrap_or_default();
            let text = |step: &serde_json::Value, member: &str| step[member].as_str().unwrap_or_default().to_owned();
            table(
                &["stage", "verdict", "detail"],
                stages.iter().map(|step| ["stage", "verdict", "detail"].map(|m| text(step, m)).to_vec()),
            )
        })?;
        let passes = explained["passes"].as_bool().unwrap_or_default();
        Ok(if passes { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHECK_FAILED) })
    })
}
