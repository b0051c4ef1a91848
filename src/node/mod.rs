//! The composition root: from a profile and a data directory to a node that serves, and back to nothing.
//!
//! Promises: doors open only when every log is recovered and the skeleton is whole; a drain finishes what was taken, then
//! closes the logs, then ends; a node that cannot start says why and what to do.
//! Does not: decide anything a room decides.

mod boot;
mod busy;
pub mod cluster;
mod core;
mod join;
mod mesh;
pub mod superblock;
mod takes_part;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use boot::{log_options, up};
pub use core::DISK_THREADS;

use crate::config::{GatewayError, TuningError, Unmet};
use superblock::SuperblockError;

/// What `qmesh up` was asked.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The data directory; made when it is not there.
    pub data: PathBuf,
    /// Where HTTP listens; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where QUIC listens; port 0 takes a free one.
    pub quic: SocketAddr,
    /// Name of a shipped tuning profile, or path of a file.
    pub tuning: String,
    /// The folder with the declarations of MCP servers behind the gateway; `upstreams.d` in the data directory when it is none.
    pub upstreams: Option<PathBuf>,
    /// Whether the HTTP door speaks TLS.
    pub https: bool,
    /// The gateway's file.
    pub gateway: Option<PathBuf>,
    /// Whether readiness is told as one JSON line.
    pub json: bool,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The tuning profile.
    #[error(transparent)]
    Tuning(#[from] TuningError),
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] SuperblockError),
    /// The gateway's file.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// An HTTP address that others can reach, while not everyone who asks would be known.
    #[error(
        "{address} is not a loopback address: there this node wants TLS and tokens; it lacks {lacks}. Or bind 127.0.0.1 or ::1"
    )]
    NotLoopback {
        /// Where.
        address: SocketAddr,
        /// What there must be.
        lacks: String,
    },
    /// A QUIC address that others can reach.
    #[error(
        "{0} is not a loopback address, and the QUIC door knows no client: bind 127.0.0.1 or ::1, and reach the node from \
         elsewhere over HTTPS"
    )]
    QuicNotLoopback(SocketAddr),
    /// What the profile wants of the host.
    #[error(transparent)]
    Host(#[from] Unmet),
    /// An address is taken.
    #[error("{what} {address}: {error}; is a node running there already? Name another with {flag}")]
    Bind {
        /// Which door.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What happened.
        error: io::Error,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// The node's place in its cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    /// A log could not be opened.
    #[error("{0}")]
    Log(String),
    /// Keys and certificates.
    #[error("{0}")]
    Identity(String),
    /// The operating system's.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What happened.
        error: io::Error,
    },
}
