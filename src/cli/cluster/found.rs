//! `qmesh init` and `qmesh join`: a data directory that belongs to a cluster.
//!
//! Promises: both write the directory and end; `qmesh up --data DIR` starts the node. Does not: start anything.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::Output;
use crate::error::Reason;
use crate::node::cluster::{self, ClusterError, Membership, NewNode};
use crate::security::join::JoinError;
use crate::security::token::JoinToken;

/// What is common to both.
#[derive(Clone, Debug, Args)]
struct Place {
    /// The data directory; it must hold no node yet.
    #[arg(long, value_name = "DIR", default_value = "qmesh-data")]
    data: PathBuf,
    /// What the node is called: a-z, 0-9 and -.
    #[arg(long)]
    name: String,
    /// Where the node listens for other nodes; they reach it there too.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7430")]
    mesh: SocketAddr,
}

/// `qmesh init …`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct InitArguments {
    #[command(flatten)]
    place: Place,
    /// What the cluster is called: a-z, 0-9 and -.
    #[arg(long, default_value = "qmesh")]
    cluster: String,
    /// The trust domain that stands in certificates.
    #[arg(long, default_value = "qmesh.local")]
    domain: String,
    /// Where the node stands.
    #[arg(long, default_value = "local")]
    region: String,
    /// Groups that the data is spread over, each with its own primary; it cannot be changed later.
    #[arg(long, default_value_t = crate::limits::SHARDS_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=i64::from(crate::control::SHARDS_MAX)))]
    shards: u16,
}

/// `qmesh join …`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct JoinArguments {
    /// The mesh address of a member with the role control.
    address: SocketAddr,
    /// What `qmesh token issue` printed on a member.
    #[arg(long, env = "QMESH_TOKEN", hide_env_values = true)]
    token: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Serialize)]
struct Founded<'a> {
    data: &'a PathBuf,
    membership: &'a Membership,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
}

/// Runs `qmesh init …`.
pub(in crate::cli) fn init(arguments: &InitArguments, output: Output) -> Outcome {
    let InitArguments { place, cluster, domain, region, shards } = arguments;
    let (membership, fingerprint) =
        cluster::init(&new_node(place), cluster, domain, region, *shards).map_err(|error| failure(&error))?;
    let founded = Founded { data: &place.data, membership: &membership, authority: Some(fingerprint.to_string()) };
    output.value(&mut io::stdout().lock(), &founded, |_| {
        format!(
            "cluster {} is made; authority {fingerprint}\n\nStart its first node:\n  qmesh up --data {}\nThen let others in:\n  \
             qmesh token issue\n  qmesh join {} --token TOKEN --name n2 --mesh ADDR --data DIR",
            membership.cluster_name,
            place.data.display(),
            membership.mesh,
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `qmesh join …`.
pub(in crate::cli) fn join(arguments: &JoinArguments, output: Output) -> Outcome {
    let token: JoinToken = arguments
        .token
        .parse()
        .map_err(|error: crate::security::token::TokenError| Failure::usage(format!("--token: {error}")))?;
    let new = new_node(&arguments.place);
    let joined = crate::runtime::run_plain(cluster::join(&new, arguments.address, &token));
    let membership = joined.map_err(Failure::internal)?.map_err(|error| failure(&error))?;
    let founded = Founded { data: &new.data, membership: &membership, authority: None };
    output.value(&mut io::stdout().lock(), &founded, |_| {
        format!(
            "node {} ({}) has joined cluster {}\n\nStart it:\n  qmesh up --data {}",
            membership.node,
            membership.name,
            membership.cluster_name,
            new.data.display(),
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn new_node(place: &Place) -> NewNode {
    NewNode { data: place.data.clone(), name: place.name.clone(), mesh: place.mesh }
}

fn failure(error: &ClusterError) -> Failure {
    let reason = match error {
        ClusterError::Taken { .. } => Reason::Conflict,
        ClusterError::Text(_) => Reason::BadRequest,
        ClusterError::Join(JoinError::Connect(_) | JoinError::Lost(_)) => Reason::Unavailable,
        ClusterError::Join(JoinError::Refused(refusal)) => refusal.reason,
        ClusterError::Join(JoinError::OtherAuthority { .. }) => Reason::Denied,
        _ => Reason::Internal,
    };
    Failure::new(reason, error.to_string())
}
