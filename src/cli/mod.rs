//! The commands: parse, call, print.
//!
//! Promises: what a command prints is its answer in the form that was asked for; progress and complaints go to stderr; the exit
//! code says how it ended (see `failure`). Does not: decide anything that a room could decide.

pub mod bench;
mod cluster;
pub mod dag;
pub mod doctor;
pub mod failure;
pub mod gateway;
pub mod generate;
pub mod health;
pub mod import_git;
pub mod inspect;
pub mod key;
pub mod mcp;
pub mod output;
pub mod refs;
pub mod session;
pub mod stats;
pub mod text;
pub mod transfer;
pub mod tune;
pub mod up;
pub mod upstream;
pub mod viz;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Outcome;
use output::Output;
use session::Global;

const EXAMPLES: &str = "\
First minutes:
  qmesh up                                    start a node in ./qmesh-data
  qmesh dag import git .                      bring in this repository's history
  qmesh dag lca git:A git:B --format git      ask what git merge-base --all asks
  echo hello | qmesh dag put --kind note -    store something of your own

Exit codes: 0 ok, 1 a check said no, 2 wrong use, 3 no node there, 4 conflict, 5 not found, 6 denied, 7 a limit, 8 timeout.";

/// A node of a distributed, content-addressed DAG, and the commands that speak to one.
#[derive(Debug, Parser)]
#[command(name = "qmesh", version, after_help = EXAMPLES, propagate_version = true, max_term_width = 120)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node and run it until it is told to end.
    #[command(
        after_help = "Examples:\n  qmesh up\n  qmesh up --data /var/lib/qmesh --http 127.0.0.1:8080 --quic 127.0.0.1:8443 -o json"
    )]
    Up(up::UpArguments),
    /// Store and read vertices, ask about the graph, import and export.
    Dag(dag::DagArguments),
    /// Named pointers to vertices, moved by compare-and-set.
    Ref(refs::RefArguments),
    /// The node's figures.
    #[command(after_help = "Example: qmesh stats -o json")]
    Stats,
    /// Look into a data directory without a node.
    Inspect(inspect::InspectArguments),
    /// Make signing keys.
    Key(key::KeyArguments),
    /// Load a node and measure it.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Tuning profiles: list, explain, compare with this machine.
    Tune(tune::TuneArguments),
    /// Look for what would keep a node from running well here.
    #[command(after_help = "Example: qmesh doctor --data ./qmesh-data")]
    Doctor(doctor::DoctorArguments),
    /// Make the first node of a new cluster, and the cluster's authority.
    #[command(after_help = "Example: qmesh init --data /var/lib/qmesh --name n1 --mesh 10.0.0.1:7430")]
    Init(cluster::found::InitArguments),
    /// Make a node that a running cluster takes in.
    #[command(
        after_help = "Example: qmesh join 10.0.0.1:7430 --token TOKEN --data /var/lib/qmesh --name n2 --mesh 10.0.0.2:7430"
    )]
    Join(cluster::found::JoinArguments),
    /// What the cluster is, and changes of it.
    Cluster(cluster::ClusterArguments),
    /// Tokens with which nodes join.
    Token(cluster::TokenArguments),
    /// MCP servers behind the node's gateway.
    Upstream(upstream::UpstreamArguments),
    /// How the servers behind the gateway are.
    Health(health::HealthArguments),
    /// Circuit breakers of the servers behind the gateway.
    Breaker(health::BreakerArguments),
    /// The node's MCP door, over other transports.
    Mcp(mcp::McpArguments),
    /// A real cluster of several processes on this machine, to try and to break.
    #[command(after_help = "Example: qmesh demo --nodes 3")]
    Demo(cluster::demo::DemoArguments),
    /// The gateway's file: whose tokens count, how often a caller may ask, under which names.
    Gateway(gateway::GatewayArguments),
    /// How requests are led.
    Route(gateway::RouteArguments),
    /// Completions and man pages.
    Gen(generate::GenerateArguments),
}

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    let Arguments { global, command } = Arguments::parse();
    let output = global.output;
    match command {
        Command::Up(arguments) => up::run(arguments, output),
        Command::Dag(arguments) => dag::run(arguments, global),
        Command::Ref(arguments) => refs::run(arguments, global),
        Command::Stats => stats::run(global),
        Command::Inspect(arguments) => ended(inspect::run(&arguments, output), output),
        Command::Key(arguments) => ended(key::run(&arguments, output), output),
        Command::Bench(bench) => bench::run(global, bench),
        Command::Tune(arguments) => tune::run(&arguments, output),
        Command::Doctor(arguments) => doctor::run(&arguments, output),
        Command::Init(arguments) => ended(cluster::found::init(&arguments, output), output),
        Command::Join(arguments) => ended(cluster::found::join(&arguments, output), output),
        Command::Cluster(arguments) => cluster::run(arguments, global),
        Command::Token(arguments) => cluster::run_token(arguments, global),
        Command::Upstream(arguments) => upstream::run(arguments, global),
        Command::Health(arguments) => health::run(arguments, global),
        Command::Breaker(arguments) => health::run_breaker(arguments, global),
        Command::Mcp(arguments) => mcp::run(arguments, global),
        Command::Demo(arguments) => ended(cluster::demo::run(&arguments, output), output),
        Command::Gateway(arguments) => ended(gateway::run(&arguments, output), output),
        Command::Route(arguments) => gateway::run_route(arguments, global),
        Command::Gen(arguments) => ended(generate::run(arguments, Arguments::command()), output),
    }
}

fn ended(outcome: Outcome, output: Output) -> ExitCode {
    outcome.unwrap_or_else(|failure| failure.report(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_the_commands_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn s0_2_the_commands_that_scripts_depend_on_parse() {
        for line in [
            "qmesh up --data DIR --http 127.0.0.1:1 --quic 127.0.0.1:2 -o json",
            "qmesh dag import git PATH",
            "qmesh dag lca git:A git:B --format git",
            "qmesh dag is-ancestor git:A git:B",
            "qmesh dag range git:A..git:B --format git",
            "qmesh dag ancestors git:A --format git",
            "qmesh dag put --kind K --parent ID --parent ID --label k=v -",
            "qmesh dag get ID --payload",
            "qmesh ref get NAME",
            "qmesh ref set NAME ID --if OLD",
            "qmesh dag get ID --node 127.0.0.1:1",
            "qmesh --node 127.0.0.1:1 dag get ID",
            "qmesh bench put -o json",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn s0_2_every_command_teaches_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let below: Vec<_> = command.get_subcommands().filter(|below| below.get_name() != "help").collect();
            if below.is_empty() && !path.contains("tune") && !path.contains("doctor") && !path.contains("bench") {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{path} has no example");
            }
            below.into_iter().for_each(|below| check(below, &path));
        }
        check(&Arguments::command(), "");
    }
}
