//! Starting and ending the node.

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use qmesh_net::identity::{Authority, Names, NodeIdentity, Roles};
use qmesh_net::io::endpoint::{EndpointOptions, TransportOptions};
use qmesh_net::tls;
use qmesh_storage::LogOptions;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::core::{Boot, CoreParts, Life, Start, run};
use super::superblock::{Counts, Superblock};
use super::takes_part::ClusterParts;
use super::{UpError, UpOptions};
use crate::config::probe::raise_soft_limits;
use crate::config::{Backend, Gateway, Host as HostFacts, Logs, Profile, Resolved, resolve};
use crate::dag::shape::Shape;
use crate::dag::skeleton::{self, Writer};
use crate::feed::{self, FEED_ITEMS_MAX, Progress, REF_EVENTS_MAX};
use crate::gateway::{self, DRAIN_TIMEOUT, NodeFacts};
use crate::limits::INBOX_MESSAGES_MAX;
use crate::router::message::Message;
use crate::router::slots::SlotTable;
use crate::router::{Questions, Shared};
use crate::runtime::{CorePlan, Loop, inbox, run_plain, start_core};

/// Chunks of recovered records between the cores and the skeleton's writer at start.
const RECOVERED_CHUNKS_MAX: usize = 64;
/// What a core tells while it lives: that it serves, and that it is drained.
const LIFE_MESSAGES_PER_CORE: usize = 2;
/// Connections that wait to be accepted.
const LISTEN_BACKLOG: i32 = 1024;

/// Runs a node until it is told to stop.
///
/// # Errors
/// [`UpError`] when it cannot start.
pub fn up(options: &UpOptions) -> Result<(), UpError> {
    let started = Instant::now();
    let profile = Profile::named_or_file(&options.tuning)?;
    let gateway = options.gateway.as_deref().map(Gateway::load).transpose()?;
    refuse_strangers(options, gateway.as_ref())?;
    let (host_names, host_addresses) = gateway.as_ref().map(|gateway| gateway.ingress.subjects()).unwrap_or_default();
    let resolved = resolve(&profile, &HostFacts::read(Some(&options.data)))?;
    for remark in &resolved.remarks {
        eprintln!("qmesh: {remark}");
    }
    raise_soft_limits(resolved.memlock_bytes, resolved.nofile);
    let backend = resolved.storage.backend;
    let core_count = resolved.core_count();
    let membership = super::cluster::Membership::read(&options.data)?;
    let (slots, shards) = membership
        .as_ref()
        .map_or((crate::limits::SLOTS_DEFAULT, crate::limits::SHARDS_DEFAULT), |member| (member.slots, member.shards));
    let logs = match resolved.storage.logs {
        Logs::PerCore => core_count.min(usize::from(shards)) as u16,
        Logs::PerShard => shards,
    };
    let (superblock, is_new) = Superblock::open_or_create(&options.data, Counts { slots, shards, logs }, random())?;
    let table = SlotTable::new(superblock.slots, superblock.shards, usize::from(superblock.logs), core_count);
    let (writer, skeleton) = skeleton::new(superblock.shards);
    let progress = Arc::new(Progress::new(superblock.shards));
    let (feed_sender, feed_receiver) = inbox(FEED_ITEMS_MAX);
    let (ref_events, _) = broadcast::channel(REF_EVENTS_MAX);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..core_count).map(|_| inbox(INBOX_MESSAGES_MAX)).unzip();
    let (rumours, members) = watch::channel(Arc::default());
    let shared = Arc::new(Shared {
        table,
        inboxes: senders,
        skeleton,
        progress: progress.clone(),
        ref_events: ref_events.clone(),
        boot: u64::from_le_bytes(random()),
        questions: Questions::default(),
        staged_bytes_max: resolved.storage.staged_bytes_max,
        staging_bytes: std::sync::atomic::AtomicU64::new(0),
        members,
    });

    let mut listeners = Vec::with_capacity(core_count);
    let mut http = options.http;
    for _ in 0..core_count {
        let bind = |error| UpError::Bind { what: "HTTP", address: http, error, flag: "--http" };
        let listener = listen(http, core_count > 1).map_err(bind)?;
        http = listener.local_addr().map_err(|error| UpError::Io { what: "the HTTP address", error })?;
        listeners.push(listener);
    }
    // Holds a free port until every core has bound it.
    let reservation = reserve(options.quic).map_err(|error| UpError::Bind {
        what: "QUIC",
        address: options.quic,
        error,
        flag: "--quic",
    })?;
    let quic = reservation.local_addr().ok().and_then(|address| address.as_socket()).unwrap_or(options.quic);

    let identity = |error: &dyn std::fmt::Display| UpError::Identity(format!("keys and certificates: {error}"));
    let authority =
        Authority::open_or_create(&options.data.join("tls"), SystemTime::now()).map_err(|e| identity(&e))?;
    // A node that is alone is the first of its cluster and holds every role.
    let names = Names {
        dns: std::iter::once("localhost".to_owned()).chain(host_names).collect(),
        addresses: [http.ip(), quic.ip()]
            .into_iter()
            .filter(|address| !address.is_unspecified())
            .chain(host_addresses)
            .collect(),
        identity: NodeIdentity::new("qmesh.local", "local", &superblock.node, 1, Roles::ALL)
            .map_err(|e| identity(&e))?,
    };
    let leaf = authority.node_leaf(&names, SystemTime::now()).map_err(|e| identity(&e))?;
    let quic_server = tls::mesh_server(&leaf, None).map_err(|e| identity(&e))?;
    let https = if options.https { Some(tls::https_server(&leaf).map_err(|e| identity(&e))?) } else { None };
    // One UDP port cannot be the door of both.
    let http3 = options.https && http.port() != quic.port();
    if options.https && !http3 {
        tracing::warn!(port = quic.port(), "no HTTP/3: QUIC has its port; give --http or --quic another");
    }
    let http3 = if http3 { Some(tls::http3_server(&leaf).map_err(|e| identity(&e))?) } else { None };

    let facts = Arc::new(NodeFacts {
        version: env!("CARGO_PKG_VERSION"),
        node: superblock.node.clone(),
        http,
        quic,
        https: options.https,
        backend: backend.word().to_owned(),
        profile: profile.name.clone(),
        started: SystemTime::now(),
        request_timeout: resolved.net.request_timeout,
        http_connections_max: resolved.net.http_connections_per_core,
    });
    let cluster = match membership {
        None => None,
        Some(membership) => {
            let (tell, states) = watch::channel(Arc::new(crate::control::State::default()));
            Some(ClusterParts {
                credentials: super::cluster::credentials(&options.data)?,
                data: options.data.clone(),
                membership,
                states,
                tell,
                rumours: super::takes_part::Rumours::new(rumours, super::cluster::next_generation(&options.data)?),
                timers: {
                    let (heartbeat_ms, election_ms_min, election_ms_max) = resolved.consensus_ms;
                    crate::shard::raft::Timers { heartbeat_ms, election_ms_min, election_ms_max, ..Default::default() }
                },
                http,
                quic,
            })
        }
    };
    let (gate, mut gate_drivers) = match gateway.map(gateway::gate::prepare).transpose().map_err(|e| identity(&e))? {
        Some((blueprint, drivers)) => (Some(blueprint), Some(drivers)),
        None => (None, None),
    };
    let (boot_sender, boot) = crossbeam_channel::bounded(RECOVERED_CHUNKS_MAX);
    let (life_sender, life) = mpsc::channel(core_count * LIFE_MESSAGES_PER_CORE);
    let (drain, draining) = watch::channel(false);
    let (end, over) = watch::channel(false);
    let gateway_secret: Arc<[u8]> = super::cluster::gateway_secret(&options.data)?.into();
    let (publish, upstreams) = crate::gateway::upstream::publication();
    let folder = options.upstreams.clone().unwrap_or_else(|| options.data.join("upstreams.d"));
    let mut follow_upstreams = Some((folder, publish));
    let mut starts = Vec::with_capacity(core_count);
    let mut threads = Vec::with_capacity(core_count);
    for (index, (inbox, http)) in receivers.into_iter().zip(listeners).enumerate() {
        let (start_sender, start) = oneshot::channel();
        starts.push(start_sender);
        let parts = CoreParts {
            index,
            count: core_count,
            shared: shared.clone(),
            inbox,
            feed: feed_sender.clone(),
            ref_events: ref_events.clone(),
            backend,
            storage_cpu: resolved.storage_cpu_of_core[index],
            directory: options.data.clone(),
            log_options: log_options(&resolved),
            cache_bytes: resolved.storage.cache_bytes_per_core,
            scrub: resolved.storage.scrub_bytes_per_second.map(|pace| (pace, resolved.storage.scrub_interval)),
            busy_poll: resolved.busy_poll,
            boot: boot_sender.clone(),
            start,
            life: life_sender.clone(),
            draining: draining.clone(),
            over: over.clone(),
            facts: facts.clone(),
            http,
            https: https.clone(),
            http3: http3.clone(),
            quic_server: quic_server.clone(),
            endpoint_options: endpoint_options(&resolved),
            gateway_secret: gateway_secret.clone(),
            upstreams: upstreams.clone(),
            follow_upstreams: follow_upstreams.take(),
            gate: gate.clone(),
            gate_drivers: gate_drivers.take(),
            cluster: cluster.clone(),
        };
        let plan = CorePlan {
            index,
            cpu: resolved.cpu_of_core[index],
            event_loop: if backend == Backend::Threads { Loop::Plain } else { Loop::Uring },
        };
        let thread = start_core(plan, move || run(parts));
        threads.push(thread.map_err(|error| UpError::Io { what: "a core's thread", error })?);
    }
    drop((boot_sender, life_sender, feed_sender));

    let writer = recover(&boot, writer, &progress, core_count)?;
    crate::runtime::give_memory_back();
    let mut follower = Some((feed_receiver, writer));
    for start in starts {
        drop(start.send(Start { follower: follower.take() }));
    }
    let ready =
        Ready { facts: &facts, options, is_new, took: started.elapsed(), vertices: shared.skeleton.counts().vertices };
    let lived = run_plain(live(life, &drain, &shared, core_count, reservation, &ready));
    end.send_replace(true);
    lived.map_err(|error| UpError::Io { what: "the event loop of the main thread", error })??;
    join(threads)
}

/// A door that others than this machine's users can reach wants everyone to be known.
fn refuse_strangers(options: &UpOptions, gateway: Option<&Gateway>) -> Result<(), UpError> {
    if !options.quic.ip().is_loopback() {
        return Err(UpError::QuicNotLoopback(options.quic));
    }
    if options.http.ip().is_loopback() {
        return Ok(());
    }
    let required = gateway.and_then(|gateway| gateway.auth.as_ref()).is_some_and(|auth| auth.required);
    let named = gateway.is_some_and(|gateway| !gateway.ingress.hosts.is_empty());
    let lacks: Vec<&str> = [
        (options.https, "--tls"),
        (required, "[auth] with resource, issuers and required = true in the file of --gateway"),
        (named, "[ingress] hosts in the file of --gateway, the names under which it is reached"),
    ]
    .into_iter()
    .filter_map(|(there, what)| (!there).then_some(what))
    .collect();
    if lacks.is_empty() { Ok(()) } else { Err(UpError::NotLoopback { address: options.http, lacks: lacks.join("; ") }) }
}

/// Builds the skeleton from what the cores recover.
fn recover(
    boot: &crossbeam_channel::Receiver<Boot>,
    mut writer: Writer,
    progress: &Progress,
    core_count: usize,
) -> Result<Writer, UpError> {
    let bar = recovery_bar();
    let mut opened = 0;
    while opened < core_count {
        match boot.recv() {
            Ok(Boot::Recovered(records)) => {
                for (token, id, shape) in records {
                    if let Some(bytes) = shape {
                        match Shape::decode(&id.0, &bytes) {
                            Ok(shape) => feed::admit(&mut writer, token, &shape),
                            Err(error) => tracing::error!(%id, %error, "a recovered shape is not readable"),
                        }
                    }
                    writer.advance(token.shard, token.index);
                    feed::recovered(progress, token);
                }
            }
            Ok(Boot::Progress { done, total }) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Ok(Boot::Opened) => opened += 1,
            Ok(Boot::Failed(reason)) => return Err(UpError::Log(reason)),
            Err(_) => return Err(UpError::Log("a core ended before its logs were open".to_owned())),
        }
    }
    bar.finish_and_clear();
    Ok(writer)
}

fn recovery_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("recovering {bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// From open doors to closed logs.
async fn live(
    mut life: mpsc::Receiver<Life>,
    drain: &watch::Sender<bool>,
    shared: &Shared,
    core_count: usize,
    reservation: Socket,
    ready: &Ready<'_>,
) -> Result<(), UpError> {
    for _ in 0..core_count {
        match life.recv().await {
            Some(Life::Serving(Ok(()))) => {}
            Some(Life::Serving(Err(reason))) => return Err(UpError::Log(reason)),
            Some(Life::Drained) | None => {
                return Err(UpError::Log("a core ended before its doors were open".to_owned()));
            }
        }
    }
    drop(reservation);
    let stop = crate::runtime::stop_signal().map_err(|error| UpError::Io { what: "signals", error })?;
    ready.tell();
    stop.await;
    tracing::info!("draining");
    drain.send_replace(true);
    let drained = async {
        for _ in 0..core_count {
            life.recv().await;
        }
    };
    if tokio::time::timeout(DRAIN_TIMEOUT * 2, drained).await.is_err() {
        tracing::warn!(waited_s = (DRAIN_TIMEOUT * 2).as_secs(), "doors did not drain in time; going on");
    }
    for inbox in &shared.inboxes {
        let (reply, closed) = oneshot::channel();
        if inbox.push(Message::Drain { reply }).is_ok() {
            // An error means that the core has ended already.
            drop(closed.await);
        }
    }
    tracing::info!("logs closed");
    Ok(())
}

fn join(threads: Vec<JoinHandle<std::io::Result<()>>>) -> Result<(), UpError> {
    for thread in threads {
        match thread.join() {
            Ok(ended) => ended.map_err(|error| UpError::Io { what: "a core's thread", error })?,
            Err(_) => return Err(UpError::Log("a core panicked".to_owned())),
        }
    }
    Ok(())
}

/// What is told when the doors are open.
struct Ready<'a> {
    facts: &'a NodeFacts,
    options: &'a UpOptions,
    is_new: bool,
    took: Duration,
    vertices: u32,
}

impl Ready<'_> {
    fn tell(&self) {
        let NodeFacts { http, quic, https, node, .. } = self.facts;
        let scheme = if *https { "https" } else { "http" };
        let (mcp, rest) = (format!("{scheme}://{http}/mcp"), format!("{scheme}://{http}/api/v1"));
        let mut out = std::io::stdout().lock();
        // Who started us may have closed the pipe; the node serves all the same.
        let _ = if self.options.json {
            let line = serde_json::json!({
                "event": "ready", "version": self.facts.version, "node": node, "mcp": mcp, "rest": rest,
                "http": http.to_string(), "quic": quic.to_string(), "data": self.options.data,
                "profile": self.facts.profile, "backend": self.facts.backend, "new": self.is_new,
                "vertices": self.vertices, "took_ms": self.took.as_millis() as u64,
            });
            writeln!(out, "{line}")
        } else {
            let from = if self.is_new { "new".to_owned() } else { format!("recovered {} vertices", self.vertices) };
            writeln!(
                out,
                "qmesh {} is up in {:.0?} ({from}; data in {})\n\n  MCP   {mcp}\n  REST  {rest}\n  QUIC  {quic}\n\nTry:\n  \
                 echo hello | qmesh --node {quic} dag put --kind note -\n  qmesh --node {quic} dag import git .\n  \
                 curl {scheme}://{http}/api/v1/dag/tips\n\nStop with Ctrl-C; what was acknowledged stays.",
                self.facts.version,
                self.took,
                self.options.data.display(),
            )
        };
        let _ = out.flush();
    }
}

fn listen(address: SocketAddr, reuse_port: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn reserve(address: SocketAddr) -> std::io::Result<Socket> {
    // Without SO_REUSEPORT first: a port that another node shares among its cores must look taken.
    let probe = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    probe.bind(&address.into())?;
    let bound = probe.local_addr()?;
    drop(probe);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&bound)?;
    Ok(socket)
}

/// How the logs of a node with this profile on this host are driven.
pub fn log_options(resolved: &Resolved) -> LogOptions {
    let storage = &resolved.storage;
    LogOptions {
        segment_bytes: storage.segment_bytes,
        round_bytes_max: storage.round_bytes_max,
        rounds_in_flight_max: storage.rounds_in_flight_max,
        round_bytes_eager: storage.round_bytes_eager,
        backlog_bytes_max: storage.backlog_bytes_max,
        segments_ahead: storage.segments_ahead,
        direct: storage.direct,
        ..LogOptions::default()
    }
}

fn endpoint_options(resolved: &Resolved) -> EndpointOptions {
    EndpointOptions {
        transport: TransportOptions {
            streams_max: resolved.net.streams_per_client,
            idle_timeout: resolved.net.idle_timeout,
            keep_alive: resolved.net.keep_alive,
            mtu_upper_bound: resolved.net.mtu_bytes_max,
            receive_buffer_bytes: resolved.net.udp_recv_buffer_bytes,
            send_buffer_bytes: resolved.net.udp_send_buffer_bytes,
            ..TransportOptions::default()
        },
        // Even a single core shares the port: with the reservation that holds it until the core has bound it.
        reuse_port: true,
        ..EndpointOptions::default()
    }
}

/// Random bytes of the operating system.
fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        crate::error::fatal(crate::error::EXIT_BUG, &"the operating system gives no random bytes");
    }
    bytes
}
