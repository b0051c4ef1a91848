//! `qmesh up`: a node in this process.
//!
//! Promises: with `-o json` exactly one JSON line with the addresses, when the node is ready; SIGTERM drains and exits 0.
//! Does not: fork, or write anything outside the data directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use crate::client::ADDRESS_DEFAULT;
use crate::error::{EXIT_BUG, Reason};
use crate::node::{UpError, UpOptions, up};

/// `qmesh up …`
#[derive(Clone, Debug, Args)]
pub struct UpArguments {
    /// The data directory; made when it is not there.
    #[arg(long, value_name = "DIR", default_value = "qmesh-data")]
    data: PathBuf,
    /// Where HTTP (REST and MCP) listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = ADDRESS_DEFAULT)]
    http: SocketAddr,
    /// Where QUIC listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = ADDRESS_DEFAULT)]
    quic: SocketAddr,
    /// How this machine is driven: a name from `qmesh tune profiles`, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    tuning: String,
    /// MCP servers behind the gateway, one file each [default: upstreams.d in the data directory].
    #[arg(long, value_name = "DIR")]
    upstreams: Option<PathBuf>,
    /// Serve HTTPS, with a certificate of the node's own authority (tls/ca.pem in the data directory).
    #[arg(long)]
    tls: bool,
    /// Whose tokens the HTTP door takes, how often one caller may ask, under which names: see `qmesh gateway check`.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
}

/// Runs a node until it is told to end.
pub fn run(arguments: UpArguments, output: Output) -> ExitCode {
    crate::telemetry::start();
    // A broken promise of ours on one core must not leave the others serving without it, whichever build this is.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::exit(EXIT_BUG);
    }));
    let options = UpOptions {
        data: arguments.data,
        http: arguments.http,
        quic: arguments.quic,
        tuning: arguments.tuning,
        upstreams: arguments.upstreams,
        https: arguments.tls,
        gateway: arguments.gateway,
        json: output != Output::Table,
    };
    match up(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::new(reason(&error), error.to_string()).report(output),
    }
}

fn reason(error: &UpError) -> Reason {
    match error {
        UpError::Tuning(_) | UpError::Gateway(_) => Reason::BadRequest,
        UpError::NotLoopback { .. } | UpError::QuicNotLoopback(_) => Reason::Denied,
        UpError::Bind { .. } => Reason::Conflict,
        _ => Reason::Internal,
    }
}
