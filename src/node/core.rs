//! The life of one core: recover, serve, drain.
//!
//! Promises: a core opens its doors only when told that the whole node is recovered, and leaves only when told that nobody
//! needs its shards any more.

use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender as BlockingSender;
use qmesh_net::io::endpoint::EndpointOptions;
use qmesh_storage::LogOptions;
use qmesh_storage::io::{Disk, glommio::GlommioDisk, threads::ThreadDisk, uring::UringDisk};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::takes_part::{ClusterParts, Part, hand_over};
use crate::config::Backend;
use crate::dag::ref_record::RefRecord;
use crate::dag::skeleton::Writer;
use crate::feed::{self, Item, Publisher};
use crate::gateway::gate::{Blueprint, Drivers, Gate};
use crate::gateway::{self, Context, NodeFacts};
use crate::ids::{Token, VertexId};
use crate::limits::INBOX_MESSAGES_PER_TURN;
use crate::router::message::Message;
use crate::router::{Router, Shared};
use crate::runtime::Receiver;
use crate::shard::{Host, HostParts};

/// Threads of the blocking disk backend, a core: rounds in flight, their syncs, and cold reads.
pub const DISK_THREADS: usize = 4;
/// Recovered vertices handed over at once.
pub(super) const RECOVERED_PER_CHUNK: usize = 4096;

/// A recovered entry's record: where it stands, its key, its shape; no shape for a ref.
pub(super) type RecoveredRecord = (Token, VertexId, Option<Box<[u8]>>);

/// What a core tells while it starts.
pub(super) enum Boot {
    /// Records of its logs, in order.
    Recovered(Vec<RecoveredRecord>),
    /// Bytes of its logs read so far, and in all.
    Progress { done: u64, total: u64 },
    /// All its logs are open.
    Opened,
    /// It cannot start.
    Failed(String),
}

/// What a core is given once the whole node is recovered.
pub(super) struct Start {
    /// The skeleton's writer and the feed's receiver, for the one core that follows.
    pub(super) follower: Option<(Receiver<Item>, Writer)>,
}

/// What a core tells while it serves.
pub(super) enum Life {
    /// Its doors are open, or the reason why not.
    Serving(Result<(), String>),
    /// Its doors are drained.
    Drained,
}

/// All a core needs.
pub(super) struct CoreParts {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Receiver<Message>,
    pub(super) feed: crate::runtime::Sender<Item>,
    pub(super) ref_events: broadcast::Sender<Arc<RefRecord>>,
    pub(super) backend: Backend,
    /// The CPU of this core's storage thread, where the backend has one and it is bound.
    pub(super) storage_cpu: Option<usize>,
    pub(super) directory: PathBuf,
    pub(super) log_options: LogOptions,
    pub(super) cache_bytes: u64,
    /// Bytes a second of the background scrub, and the time between two; `None`: there is none.
    pub(super) scrub: Option<(u64, Duration)>,
    pub(super) busy_poll: Duration,
    pub(super) boot: BlockingSender<Boot>,
    pub(super) start: oneshot::Receiver<Start>,
    pub(super) life: mpsc::Sender<Life>,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) over: watch::Receiver<bool>,
    pub(super) facts: Arc<NodeFacts>,
    pub(super) http: TcpListener,
    pub(super) https: Option<Arc<rustls::ServerConfig>>,
    pub(super) http3: Option<Arc<quinn::crypto::rustls::QuicServerConfig>>,
    pub(super) quic_server: Arc<quinn::crypto::rustls::QuicServerConfig>,
    pub(super) endpoint_options: EndpointOptions,
    /// What all gateways of a cluster know and nobody else.
    pub(super) gateway_secret: Arc<[u8]>,
    /// What MCP servers behind the gateway offer.
    pub(super) upstreams: gateway::upstream::Published,
    /// For the one core that follows them: the folder of their declarations, and where it publishes.
    pub(super) follow_upstreams: Option<(PathBuf, gateway::upstream::Publisher)>,
    /// With a gateway's file: what this core makes its gate of.
    pub(super) gate: Option<Blueprint>,
    /// What one core does for the gates of all.
    pub(super) gate_drivers: Option<Drivers>,
    /// With other nodes: what this core is told of them.
    pub(super) cluster: Option<ClusterParts>,
}

/// Runs one core from recovery to the end.
pub(super) async fn run(mut parts: CoreParts) {
    let boot = parts.boot.clone();
    let part =
        parts.cluster.as_ref().map(|cluster| Part::new(cluster, parts.index, &parts.endpoint_options)).transpose();
    let opened = match part {
        Ok(part) => open(&parts, part.as_ref()).await.map(|host| (host, part)),
        Err(reason) => Err(reason),
    };
    let (host, part) = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            drop(boot.send(Boot::Failed(reason)));
            return;
        }
    };
    drop(boot.send(Boot::Opened));
    drop(boot);
    // The sender is gone only when another core could not start: leave quietly, the reason is told there.
    let Ok(start) = (&mut parts.start).await else { return };
    crate::runtime::give_memory_back();
    if let Some((queue, writer)) = start.follower {
        let progress = parts.shared.progress.clone();
        crate::runtime::spawn(feed::follow(queue, writer, progress, parts.ref_events.clone()));
    }
    serve_inbox(host.clone(), parts.inbox, parts.busy_poll);
    if let Some(part) = part
        && let Err(reason) = part.start(&host, &parts.shared, parts.draining.clone(), parts.over.clone()).await
    {
        drop(parts.life.try_send(Life::Serving(Err(reason))));
        return;
    }
    let local = host.clone();
    let router = Router::new(parts.index, parts.shared.clone(), Box::new(move |message| local.accept(message)));
    if let Some((folder, publish)) = parts.follow_upstreams {
        gateway::upstream::follow(folder, publish);
    }
    if let Some(drivers) = parts.gate_drivers {
        crate::runtime::spawn(drivers.run());
    }
    let context = Context {
        router,
        facts: parts.facts.clone(),
        upstreams: gateway::upstream::Upstreams::new(parts.upstreams),
        seal: Rc::new(gateway::mcp::Seal::new(&parts.gateway_secret)),
        draining: parts.draining.clone(),
        gate: parts.gate.map(|blueprint| Rc::new(Gate::new(blueprint))),
    };
    let doors = gateway::Doors {
        http: parts.http,
        https: parts.https,
        http3: parts.http3,
        quic: parts.facts.quic,
        quic_server: parts.quic_server,
        endpoint_options: parts.endpoint_options,
    };
    match gateway::open(doors, context) {
        Ok(doors) => {
            drop(parts.life.try_send(Life::Serving(Ok(()))));
            scrub_in_background(&host, parts.scrub);
            doors.await;
            hand_over(&host).await;
            drop(parts.life.try_send(Life::Drained));
        }
        Err(error) => drop(parts.life.try_send(Life::Serving(Err(error.to_string())))),
    }
    // Other cores may still need the shards of this one.
    drop(parts.over.wait_for(|&over| over).await);
}

async fn open(parts: &CoreParts, part: Option<&Part>) -> Result<Rc<Host>, String> {
    let not_started = |error: std::io::Error| format!("the disk backend {}: {error}", parts.backend.word());
    let direct = parts.log_options.direct;
    let disk: Rc<dyn Disk> = match parts.backend {
        Backend::TokioUring => Rc::new(UringDisk::start(direct).map_err(not_started)?),
        Backend::Glommio => Rc::new(GlommioDisk::start(parts.storage_cpu).map_err(not_started)?),
        Backend::Threads => Rc::new(ThreadDisk::start(DISK_THREADS, direct).map_err(not_started)?),
    };
    let host_parts = HostParts {
        core: parts.index,
        core_count: parts.count,
        table: parts.shared.table.clone(),
        skeleton: parts.shared.skeleton.clone(),
        progress: parts.shared.progress.clone(),
        publisher: Publisher::new(parts.feed.clone()),
        disk,
        backend: parts.backend.word(),
        directory: parts.directory.clone(),
        log_options: parts.log_options.clone(),
        cache_bytes: parts.cache_bytes,
        consensus: part.map(Part::consensus),
    };
    let inbox = parts.shared.inboxes[parts.index].clone();
    let (boot, told) = (parts.boot.clone(), parts.boot.clone());
    // The last chunk is sent when the callback is dropped, which happens before the host is handed out.
    let mut chunks = Chunks { boot, chunk: Vec::with_capacity(RECOVERED_PER_CHUNK) };
    let recovered =
        move |(token, key, shape): crate::shard::Recovered<'_>| chunks.push((token, key, shape.map(Box::from)));
    let progress = move |done, total| drop(told.send(Boot::Progress { done, total }));
    Host::open(host_parts, Box::new(move || inbox.waiting()), recovered, progress)
        .await
        .map_err(|error| error.to_string())
}

/// Recovered records on their way to the skeleton, some at once.
struct Chunks {
    boot: BlockingSender<Boot>,
    chunk: Vec<RecoveredRecord>,
}

impl Chunks {
    fn push(&mut self, record: RecoveredRecord) {
        self.chunk.push(record);
        if self.chunk.len() == RECOVERED_PER_CHUNK {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.chunk.is_empty() {
            let next = Vec::with_capacity(RECOVERED_PER_CHUNK);
            // A receiver that is gone means that another core could not start.
            drop(self.boot.send(Boot::Recovered(std::mem::replace(&mut self.chunk, next))));
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.send();
    }
}

fn serve_inbox(host: Rc<Host>, mut inbox: Receiver<Message>, busy_poll: Duration) {
    crate::runtime::spawn(async move {
        let mut messages = Vec::with_capacity(INBOX_MESSAGES_PER_TURN);
        loop {
            inbox.receive(&mut messages, INBOX_MESSAGES_PER_TURN, busy_poll).await;
            for message in messages.drain(..) {
                host.accept(message);
            }
            tokio::task::yield_now().await;
        }
    });
}

fn scrub_in_background(host: &Rc<Host>, scrub: Option<(u64, Duration)>) {
    let Some((bytes_per_second, interval)) = scrub else { return };
    for (number, log) in host.logs() {
        crate::runtime::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let report = log.scrub(bytes_per_second, &mut |_, _| {}).await;
                if report.damages.is_empty() {
                    tracing::info!(log = number, ?report, "scrub found nothing");
                } else {
                    tracing::error!(log = number, ?report, "scrub found damage; run `qmesh inspect integrity`");
                }
            }
        });
    }
}
