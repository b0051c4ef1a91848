//! The doors: HTTP (REST and MCP) and QUIC.
//!
//! Promises: bytes become types once, here, with limits; a refusal carries the same reason at every door; a door that drains
//! finishes what it took; every HTTP request but a probe goes through one pipeline. Does not: know shards or logs. It asks the router.

pub mod auth;
pub mod decisions;
pub mod gate;
pub mod http;
pub mod json;
pub mod mcp;
pub mod pipeline;
pub mod query;
pub mod quic;
pub mod rate;
pub mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qmesh_net::io::endpoint::{Endpoint, EndpointOptions};
use qmesh_net::rpc::server::ServeOptions;
use tokio::sync::watch;

use crate::error::Refusal;
use crate::limits::DRAIN_TIMEOUT_MS;
use crate::router::Router;
use crate::router::message::CoreStats;

/// How long the doors may take to finish what they took, when the node drains.
pub const DRAIN_TIMEOUT: Duration = Duration::from_millis(DRAIN_TIMEOUT_MS);

/// What the doors tell of the node.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Version of this build.
    pub version: &'static str,
    /// The node's id: 32 hexadecimal digits.
    pub node: String,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Where QUIC listens.
    pub quic: SocketAddr,
    /// Whether the HTTP door speaks TLS.
    pub https: bool,
    /// Name of the disk backend.
    pub backend: String,
    /// Name of the tuning profile.
    pub profile: String,
    /// When the node started.
    pub started: SystemTime,
    /// Deadline of a request that brings none.
    pub request_timeout: Duration,
    /// HTTP connections of one core.
    pub http_connections_max: usize,
}

/// What every door of a core has.
#[derive(Clone)]
pub struct Context {
    /// The hall.
    pub router: Router,
    /// The node's facts.
    pub facts: std::sync::Arc<NodeFacts>,
    /// This core's ways to the MCP servers behind the gateway.
    pub upstreams: std::rc::Rc<upstream::Upstreams>,
    /// Seals what clients of earlier revisions carry for the cluster's gateways.
    pub seal: std::rc::Rc<mcp::Seal>,
    /// Turns true when the doors are to drain.
    pub draining: watch::Receiver<bool>,
    /// Who may ask, and how often; `None` is everyone, as often as they like.
    pub gate: Option<Rc<gate::Gate>>,
}

impl Context {
    /// Waits until the doors are to drain.
    pub async fn drain_asked(&self) {
        let mut draining = self.draining.clone();
        // A closed channel means that the node is going down: drain too.
        drop(draining.wait_for(|&draining| draining).await);
    }
}

/// The sockets and keys of a core's doors.
pub struct Doors {
    /// The HTTP listener of this core.
    pub http: TcpListener,
    /// TLS of the HTTP door, if it has any.
    pub https: Option<Arc<rustls::ServerConfig>>,
    /// TLS of HTTP/3 beside it, on the same address.
    pub http3: Option<Arc<quinn::crypto::rustls::QuicServerConfig>>,
    /// Where QUIC listens, together with the other cores.
    pub quic: SocketAddr,
    /// TLS of the QUIC door.
    pub quic_server: Arc<quinn::crypto::rustls::QuicServerConfig>,
    /// How the QUIC door listens.
    pub endpoint_options: EndpointOptions,
}

/// Opens a core's doors. The future serves until they are drained.
///
/// # Errors
/// The operating system's, when a socket cannot be had.
pub fn open(doors: Doors, context: Context) -> io::Result<impl Future<Output = ()>> {
    let http3 = doors.http3.map(|tls| {
        let options = http::http3_options(&doors.endpoint_options, context.facts.http_connections_max);
        Endpoint::bind(context.facts.http, tls, options)
    });
    let http3 = http3.transpose()?;
    let endpoint = Endpoint::bind(doors.quic, doors.quic_server, doors.endpoint_options)?;
    tracing::info!(core = context.router.core(), buffers = ?endpoint.buffers(), "QUIC door open");
    let options = ServeOptions { drain_timeout: DRAIN_TIMEOUT, ..ServeOptions::default() };
    let (door, draining) = (quic::Door::new(context.clone()), context.draining.clone());
    Ok(async move {
        let quic = endpoint.serve(door, options, draining);
        let http = http::serve(doors.http, doors.https, http3, context);
        futures_util::join!(quic, http);
    })
}

/// What the node tells of itself to whoever asks for figures.
#[derive(Debug, serde::Serialize)]
pub struct Figures {
    /// Version of this build.
    pub version: &'static str,
    /// The node's id.
    pub node: String,
    /// Name of the tuning profile.
    pub profile: String,
    /// Name of the disk backend.
    pub backend: String,
    /// Where HTTP listens.
    pub http: String,
    /// Whether that is HTTPS.
    pub https: bool,
    /// Where QUIC listens.
    pub quic: String,
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// CPU time of the node's process since it started, in microseconds.
    pub cpu_us: u64,
    /// Resident memory of the node's process, in bytes.
    pub resident_bytes: u64,
    /// The shape of the DAG.
    pub dag: DagFigures,
    /// Every core.
    pub cores: Vec<CoreStats>,
}

/// Figures of the skeleton.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct DagFigures {
    /// Vertices in the graph.
    pub vertices: u64,
    /// Edges from child to parent.
    pub edges: u64,
    /// Vertices without parents.
    pub roots: u64,
    /// Vertices without children.
    pub tips: u64,
    /// Vertices that wait for parents which are not here.
    pub staged: u64,
    /// The largest generation.
    pub generation_max: u64,
    /// Bytes of the skeleton in memory.
    pub skeleton_bytes: u64,
    /// Questions about the graph that were answered since the node started.
    pub questions: u64,
    /// Time that cores spent in walks for them, in microseconds.
    pub questions_us_total: u64,
}

/// Gathers the node's figures.
///
/// # Errors
/// Overloaded.
pub async fn figures(context: &Context) -> Result<Figures, Refusal> {
    let facts = &context.facts;
    let counts = context.router.skeleton().counts();
    Ok(Figures {
        version: facts.version,
        node: facts.node.clone(),
        profile: facts.profile.clone(),
        backend: facts.backend.clone(),
        http: facts.http.to_string(),
        https: facts.https,
        quic: facts.quic.to_string(),
        cpu_us: crate::runtime::process_cpu_us(),
        resident_bytes: crate::runtime::resident_bytes(),
        uptime_s: facts.started.elapsed().map_or(0, |uptime| uptime.as_secs()),
        dag: DagFigures {
            vertices: u64::from(counts.vertices),
            edges: u64::from(counts.edges),
            roots: u64::from(counts.roots),
            tips: u64::from(counts.tips),
            staged: counts.staged,
            generation_max: u64::from(counts.generation_max),
            skeleton_bytes: context.router.skeleton().bytes() as u64,
            questions: context.router.questions().count(),
            questions_us_total: context.router.questions().walk_ns() / 1000,
        },
        cores: context.router.stats().await?,
    })
}

/// Milliseconds since 1970, as the host's clock has it.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
