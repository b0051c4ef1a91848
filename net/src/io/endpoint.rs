//! UDP sockets with QUIC on them: one listening endpoint per core, and the endpoints of clients.
//!
//! Promises: several endpoints may share one address, so that the kernel spreads clients over cores; what the kernel
//! granted of the wished socket buffers is told; above `handshakes_max` a client must prove its address before it
//! costs a handshake, above `connections_max` it is refused; every handshake is bounded in time.
//! Does not: interpret streams, keep certificates, or choose a core for a client.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, pin_mut, select_biased};
use quinn::{
    Connection, ConnectionError, EndpointConfig, IdleTimeout, Incoming, MtuDiscoveryConfig, TokioRuntime,
    TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use super::task;
use crate::{
    peer::{Distrust, Rejection},
    rpc::server::{Handler, ServeOptions, serve},
    tls::Trust,
    wire::CloseCode,
};

/// Largest UDP payload for which packets are given to the kernel several at once, in bytes: ten of them must stay
/// below the 64 KiB of one such hand-over, which the kernel otherwise refuses whole, and every packet would be lost.
const SEGMENTED_MTU_MAX: u16 = 6_500;
/// Handshakes and first packets that the endpoint keeps for the accept loop, in bytes for all.
const INCOMING_BYTES_MAX: u64 = 16 << 20;

/// How connections behave. Both sides of a connection choose for themselves what they send.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Bidirectional streams that the peer may have open (S5.1: 100 a client).
    pub streams_max: u32,
    /// Unidirectional streams that the peer may have open. The mesh has none; HTTP/3 has three.
    pub one_way_streams_max: u32,
    /// Silence after which a connection is given up (S5.1: 300 s).
    pub idle_timeout: Duration,
    /// Silence after which a sign of life is sent (S5.1: 60 s).
    pub keep_alive: Duration,
    /// Time for the handshake (S5.1: 30 s).
    pub handshake_timeout: Duration,
    /// Bytes of one stream that the peer may send ahead of our reading.
    pub stream_window_bytes: u32,
    /// The same for all streams of a connection. Streams that are not read take their part of it: who reads several at his
    /// leisure needs as many stream windows here, which [`ClientOptions`](crate::rpc::client::ClientOptions) sees to.
    pub connection_window_bytes: u32,
    /// Bytes of a connection that may be sent and not yet acknowledged.
    pub send_window_bytes: u64,
    /// Largest UDP payload that discovery tries on a real network, in bytes.
    pub mtu_upper_bound: u16,
    /// UDP payload used from the start between two ends of one machine, in bytes; at most 65,487. The larger, the less
    /// CPU an operation costs. It also costs address space (not memory): 2048 of them for each endpoint.
    pub loopback_mtu: u16,
    /// Socket receive buffer asked of the kernel, in bytes.
    pub receive_buffer_bytes: usize,
    /// Socket send buffer asked of the kernel, in bytes.
    pub send_buffer_bytes: usize,
    /// Datagrams that came and are not read yet, in bytes; the oldest are forgotten first. 0: none are taken.
    pub datagram_buffer_bytes: usize,
}

impl TransportOptions {
    /// For connections between nodes: as many streams as a mesh peer may have (S5.1: 4096), and datagrams.
    pub fn for_peers() -> Self {
        Self { streams_max: 4096, datagram_buffer_bytes: 64 << 10, ..Self::default() }
    }
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            streams_max: 100,
            one_way_streams_max: 0,
            idle_timeout: Duration::from_secs(300),
            keep_alive: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(30),
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 16 << 20,
            send_window_bytes: 8 << 20,
            mtu_upper_bound: 1452,
            loopback_mtu: 65_487,
            receive_buffer_bytes: 4 << 20,
            send_buffer_bytes: 4 << 20,
            datagram_buffer_bytes: 0,
        }
    }
}

/// How an endpoint listens.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// How its connections behave.
    pub transport: TransportOptions,
    /// Whether other endpoints (of other cores) bind the same address.
    pub reuse_port: bool,
    /// Handshakes under way above which clients must first prove their address (QUIC Retry).
    pub handshakes_max: usize,
    /// Connections above which new ones are refused.
    pub connections_max: usize,
}

impl EndpointOptions {
    /// For connections between nodes: as many streams as a mesh peer may have (S5.1: 4096).
    pub fn for_peers() -> Self {
        Self { transport: TransportOptions::for_peers(), ..Self::default() }
    }
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self { transport: TransportOptions::default(), reuse_port: true, handshakes_max: 64, connections_max: 4096 }
    }
}

/// Socket buffers as the kernel granted them, in bytes. Linux doubles what it grants for its own bookkeeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketBuffers {
    /// For packets received and not yet read.
    pub receive_bytes: usize,
    /// For packets sent and not yet on the wire.
    pub send_bytes: usize,
}

/// A listening endpoint of one core.
#[derive(Debug)]
pub struct Endpoint {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    buffers: SocketBuffers,
    options: EndpointOptions,
    /// For clients on this machine.
    loopback: Arc<quinn::ServerConfig>,
}

impl Endpoint {
    /// Binds `address` (port zero for any) and listens. Must be called inside the core's runtime.
    pub fn bind(address: SocketAddr, tls: Arc<QuicServerConfig>, options: EndpointOptions) -> io::Result<Self> {
        let (socket, buffers) = open_socket(address, options.reuse_port, &options.transport)?;
        let config = |loopback: bool| {
            let mut config = quinn::ServerConfig::with_crypto(tls.clone());
            config.transport_config(Arc::new(transport(&options.transport, loopback.then_some(buffers))));
            config.max_incoming(options.connections_max).incoming_buffer_size_total(INCOMING_BYTES_MAX);
            config
        };
        let endpoint = quinn::Endpoint::new(
            endpoint_config(&options.transport)?,
            Some(config(false)),
            socket.into(),
            Arc::new(TokioRuntime),
        )?;
        let loopback = Arc::new(config(true));
        Ok(Self { address: endpoint.local_addr()?, endpoint, buffers, options, loopback })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the kernel granted of the wished buffers.
    pub fn buffers(&self) -> SocketBuffers {
        self.buffers
    }

    /// Connections that are open or shaking hands.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Serves clients until `draining` turns true; then answers what was read, closes every connection and returns.
    pub async fn serve(&self, handler: Rc<dyn Handler>, options: ServeOptions, draining: watch::Receiver<bool>) {
        let drain_timeout = options.drain_timeout;
        let clients = Clients { handler, options, draining: draining.clone() };
        self.serve_each(Rc::new(clients), drain_timeout, draining).await;
    }

    /// Hands every connection whose handshake is done to `serve` until `draining` turns true, and gives those that are open then
    /// `drain_timeout`.
    pub async fn serve_with<F: Future<Output = ()> + 'static>(
        &self,
        serve: impl Fn(Connection) -> F + 'static,
        drain_timeout: Duration,
        draining: watch::Receiver<bool>,
    ) {
        self.serve_each(Rc::new(Handed(serve)), drain_timeout, draining).await;
    }

    /// Accepts connections until `draining` turns true, and gives `drain_timeout` to those that are open then.
    pub(crate) async fn serve_each(
        &self,
        reception: Rc<impl Reception>,
        drain_timeout: Duration,
        draining: watch::Receiver<bool>,
    ) {
        let handshakes = Rc::new(Cell::new(0));
        let mut drain = draining;
        let stop = async move {
            if drain.wait_for(|&draining| draining).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .fuse();
        pin_mut!(stop);
        loop {
            let incoming = select_biased! {
                incoming = self.endpoint.accept().fuse() => incoming,
                () = stop => break,
            };
            let Some(incoming) = incoming else { break };
            let address = incoming.remote_address();
            // A first packet that already breaks the handshake fails here.
            let connecting = match self.admit(incoming, handshakes.get()) {
                None => continue,
                Some(Ok(connecting)) => connecting,
                Some(Err(error)) => {
                    reception.failed(address, &error);
                    continue;
                }
            };
            let reception = reception.clone();
            let limit = self.options.transport.handshake_timeout;
            handshakes.set(handshakes.get() + 1);
            let handshakes = handshakes.clone();
            task::spawn_local(async move {
                let connection = task::within(limit, connecting).await;
                handshakes.set(handshakes.get() - 1);
                match connection {
                    Some(Ok(connection)) => reception.serve(connection).await,
                    Some(Err(error)) => reception.failed(address, &error),
                    None => reception.failed(address, &ConnectionError::TimedOut),
                }
            });
        }
        // No new connections; each open one drains by itself and is gone when its client has what it asked for.
        self.endpoint.set_server_config(None);
        if task::within(drain_timeout * 2, self.endpoint.wait_idle()).await.is_none() {
            self.endpoint.close(VarInt::from_u32(CloseCode::Draining as u32), b"draining");
        }
    }

    fn admit(&self, incoming: Incoming, handshakes: usize) -> Option<Result<quinn::Connecting, ConnectionError>> {
        let admission = Admission {
            connections: self.endpoint.open_connections(),
            connections_max: self.options.connections_max,
            handshakes,
            handshakes_max: self.options.handshakes_max,
            address_proven: incoming.remote_address_validated(),
        };
        let is_loopback = incoming.remote_address().ip().to_canonical().is_loopback();
        Some(match admission.decide() {
            Verdict::Accept if is_loopback => incoming.accept_with(self.loopback.clone()),
            Verdict::Accept => incoming.accept(),
            Verdict::ProveAddress => {
                // Fails only for an address that is already proven, and that case is accepted above.
                let _ = incoming.retry();
                return None;
            }
            Verdict::Refuse => {
                incoming.refuse();
                return None;
            }
        })
    }
}

/// What becomes of connections.
pub(crate) trait Reception: 'static {
    /// Serves a connection whose handshake is done.
    async fn serve(&self, connection: Connection);
    /// Hears that a handshake has failed.
    fn failed(&self, address: SocketAddr, error: &ConnectionError);
}

/// Whoever trusts the certificate of the door may come in.
struct Clients {
    handler: Rc<dyn Handler>,
    options: ServeOptions,
    draining: watch::Receiver<bool>,
}

impl Reception for Clients {
    async fn serve(&self, connection: Connection) {
        serve(connection, None, self.handler.clone(), self.options.clone(), self.draining.clone()).await;
    }

    fn failed(&self, address: SocketAddr, error: &ConnectionError) {
        tracing::debug!(peer = %address, reason = %error, "handshake failed");
    }
}

/// Connections that somebody else serves.
struct Handed<S>(S);

impl<F: Future<Output = ()> + 'static, S: Fn(Connection) -> F + 'static> Reception for Handed<S> {
    async fn serve(&self, connection: Connection) {
        (self.0)(connection).await;
    }

    fn failed(&self, address: SocketAddr, error: &ConnectionError) {
        tracing::debug!(peer = %address, reason = %error, "handshake failed");
    }
}

/// What is known when a client knocks.
struct Admission {
    connections: usize,
    connections_max: usize,
    handshakes: usize,
    handshakes_max: usize,
    address_proven: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    ProveAddress,
    Refuse,
}

impl Admission {
    fn decide(&self) -> Verdict {
        if self.connections_max <= self.connections {
            Verdict::Refuse
        } else if self.handshakes_max <= self.handshakes && !self.address_proven {
            Verdict::ProveAddress
        } else {
            Verdict::Accept
        }
    }
}

/// Connects to `address`, whose certificate must bear `server_name`.
pub async fn connect(
    address: SocketAddr,
    server_name: &str,
    trust: &Trust,
    tls: Arc<QuicClientConfig>,
    options: &TransportOptions,
) -> Result<(quinn::Endpoint, Connection), ConnectError> {
    if !trust.permits(address.ip()) {
        return Err(ConnectError::NotLoopback { address });
    }
    dial(address, server_name, tls, options).await
}

/// Connects to `address`; `tls` decides whether the other side is believed.
pub(crate) async fn dial(
    address: SocketAddr,
    server_name: &str,
    tls: Arc<QuicClientConfig>,
    options: &TransportOptions,
) -> Result<(quinn::Endpoint, Connection), ConnectError> {
    let is_loopback = address.ip().to_canonical().is_loopback();
    let local: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (socket, buffers) = open_socket((local, 0).into(), false, options)?;
    let endpoint = quinn::Endpoint::new(endpoint_config(options)?, None, socket.into(), Arc::new(TokioRuntime))?;
    let mut config = quinn::ClientConfig::new(tls);
    config.transport_config(Arc::new(transport(options, is_loopback.then_some(buffers))));
    let connecting = endpoint.connect_with(config, address, server_name)?;
    match task::within(options.handshake_timeout, connecting).await {
        Some(connection) => Ok((endpoint, connection?)),
        None => Err(ConnectError::Timeout { address, limit: options.handshake_timeout }),
    }
}

/// Why a connection cannot be had. Nothing was asked yet, so a retry is always safe.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Unchecked certificates were wished for an address that is not on this machine.
    #[error("{address} is not a loopback address: name the authority to trust (its ca.pem) to connect to it")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The handshake took too long.
    #[error("no connection to {address} within {limit:?}")]
    Timeout {
        /// The address.
        address: SocketAddr,
        /// The bound.
        limit: Duration,
    },
    /// This side refuses the node there.
    #[error("{address} is refused: {distrust}")]
    Distrusted {
        /// The address.
        address: SocketAddr,
        /// Why.
        distrust: Distrust,
    },
    /// The node there refuses this side.
    #[error("{address} refuses: {rejection} (it said: {detail})")]
    Rejected {
        /// The address.
        address: SocketAddr,
        /// Why.
        rejection: Rejection,
        /// In its own words.
        detail: String,
    },
    /// The node there neither let us in nor refused.
    #[error("{address} took the connection and did not answer the greeting: {detail}")]
    Greeting {
        /// The address.
        address: SocketAddr,
        /// What happened.
        detail: String,
    },
    /// No socket could be had.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// The address or name cannot be used.
    #[error(transparent)]
    Unusable(#[from] quinn::ConnectError),
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(#[from] quinn::ConnectionError),
    /// The configuration cannot be made.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
}

fn open_socket(
    address: SocketAddr,
    reuse_port: bool,
    options: &TransportOptions,
) -> io::Result<(Socket, SocketBuffers)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(reuse_port)?;
    // The kernel cuts both down to its limit without an error; the granted sizes are what counts.
    socket.set_recv_buffer_size(options.receive_buffer_bytes)?;
    socket.set_send_buffer_size(options.send_buffer_bytes)?;
    socket.bind(&address.into())?;
    let buffers = SocketBuffers { receive_bytes: socket.recv_buffer_size()?, send_bytes: socket.send_buffer_size()? };
    Ok((socket, buffers))
}

fn endpoint_config(options: &TransportOptions) -> io::Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(options.mtu_upper_bound.max(options.loopback_mtu))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(config)
}

/// The transport's configuration; `loopback` has the socket buffers when the peer is on this machine.
fn transport(options: &TransportOptions, loopback: Option<SocketBuffers>) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(options.streams_max.into())
        .max_concurrent_uni_streams(options.one_way_streams_max.into())
        .datagram_receive_buffer_size((0 < options.datagram_buffer_bytes).then_some(options.datagram_buffer_bytes))
        .max_idle_timeout(IdleTimeout::try_from(options.idle_timeout).ok())
        .keep_alive_interval(Some(options.keep_alive))
        .stream_receive_window(options.stream_window_bytes.into())
        .receive_window(options.connection_window_bytes.into())
        .send_window(options.send_window_bytes);
    if let Some(buffers) = loopback {
        let mut congestion = CubicConfig::default();
        // There is no path to be gentle to, only the peer's socket buffer, which is as large as ours. A window below
        // a few packets would never open.
        let packets = 4 * u64::from(options.loopback_mtu);
        congestion.initial_window((buffers.receive_bytes as u64 / 4).max(packets).min(options.send_window_bytes));
        config
            .initial_mtu(options.loopback_mtu)
            .enable_segmentation_offload(options.loopback_mtu <= SEGMENTED_MTU_MAX)
            .mtu_discovery_config(None)
            .initial_rtt(Duration::from_millis(1))
            .congestion_controller_factory(Arc::new(congestion));
    } else {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(options.mtu_upper_bound);
        config.mtu_discovery_config(Some(discovery));
    }
    config
}
