//! The mesh of a core: connections to other nodes, and the door at which they call.
//!
//! Promises: one connection a node and core, made when it is first wanted and again after it was lost; a node that does not answer
//! is left alone for a short while, not asked by every caller anew; who calls is permitted by the roles in its certificate; a
//! request reaches the core that owns its shard by at most one inbox.
//! Does not: know what a request means.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use qmesh_net::identity::PeerIdentity;
use qmesh_net::io::endpoint::{EndpointOptions, TransportOptions};
use qmesh_net::peer::{Credentials, Expect};
use qmesh_net::rpc::client::{CallError, Client, ClientOptions};
use qmesh_net::rpc::server::{Handler, Replies, Request};
use qmesh_net::wire::Lane;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::control::State;
use crate::error::{Reason, Refusal};
use crate::ids::{NodeId, ShardId};
use crate::membership::driver::Heard;
use crate::router::message::Message;
use crate::router::peers::{
    OP_CONTROL, OP_GROUP_CHANGE, OP_GROUP_VIEW, OP_RAFT_APPEND, OP_RAFT_PRE_VOTE, OP_RAFT_TRANSFER, OP_RAFT_VOTE,
    OP_SHARD_GET, OP_SHARD_PUT, OP_SHARD_REF,
};
use crate::router::{PeerAnswer, PeerError, Peers, Shared, wire};
use crate::runtime::Full;
use crate::security::permission::{OperationClass, authorise};
use crate::shard::{Host, raft};

/// Silence after which a connection to a node is given up: a node that was killed says no goodbye.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence after which a sign of life is sent.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// Time for a connection to a node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed connection the next is tried so much later.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Calls of one lane to one node that wait for their answers.
const CALLS_IN_FLIGHT_MAX: usize = 8192;
/// A connection on which calls go unanswered for so long is made anew.
const SILENCE_MAX: Duration = Duration::from_millis(1500);

/// How connections between nodes behave.
pub(super) fn transport(mut options: EndpointOptions) -> EndpointOptions {
    options.transport = TransportOptions {
        streams_max: TransportOptions::for_peers().streams_max,
        idle_timeout: IDLE_TIMEOUT,
        keep_alive: KEEP_ALIVE,
        handshake_timeout: CONNECT_TIMEOUT,
        datagram_buffer_bytes: TransportOptions::for_peers().datagram_buffer_bytes,
        ..options.transport
    };
    options
}

/// The other nodes, as one core reaches them.
pub(super) struct Pool {
    credentials: Arc<Credentials>,
    options: ClientOptions,
    addresses: RefCell<BTreeMap<NodeId, SocketAddr>>,
    links: RefCell<BTreeMap<NodeId, Rc<Link>>>,
}

/// The connection to one node.
#[derive(Default)]
struct Link {
    current: RefCell<Option<Client>>,
    /// A task of this core is making the connection; callers come and go meanwhile.
    is_connecting: Cell<bool>,
    settled: Notify,
    failed: RefCell<Option<(Instant, String)>>,
    /// Since when calls go unanswered.
    silent: Cell<Option<Instant>>,
}

impl Pool {
    /// A pool without connections.
    pub(super) fn new(credentials: Arc<Credentials>, endpoint: &EndpointOptions) -> Rc<Self> {
        let options = ClientOptions {
            transport: endpoint.transport.clone(),
            calls_in_flight_max: CALLS_IN_FLIGHT_MAX,
            ..ClientOptions::default()
        };
        Rc::new(Self { credentials, options, addresses: RefCell::default(), links: RefCell::default() })
    }

    /// Learns where the members are.
    pub(super) fn learn(&self, state: &State) {
        let Some(cluster) = state.cluster() else { return };
        let mut addresses = self.addresses.borrow_mut();
        for (node, member) in cluster.members() {
            if member.state.is_removed() {
                addresses.remove(&node);
                self.links.borrow_mut().remove(&node);
            } else if let Ok(address) = member.addresses.mesh.to_string().parse::<SocketAddr>()
                && addresses.insert(node, address) != Some(address)
            {
                // A connection to where it was is of no use.
                self.links.borrow_mut().remove(&node);
            }
        }
    }

    /// Sends a datagram to a node, or forgets it: where there is no connection, it is made and this one datagram waits for it.
    pub(super) fn datagram(self: &Rc<Self>, node: NodeId, datagram: Vec<u8>) {
        let link = self.link(node);
        if let Some(client) = link.usable() {
            client.datagram(datagram);
        } else if !link.is_connecting.get() {
            let pool = self.clone();
            crate::runtime::spawn(async move {
                if let Ok(client) = pool.client(node, &link).await {
                    client.datagram(datagram);
                }
            });
        }
    }

    /// A node called on a connection that is new here. Where ours to it has gone unanswered, the node has been started anew and will
    /// not answer it: what waits there is told so, and the next call connects.
    fn heard_anew(&self, node: NodeId) {
        let link = self.link(node);
        if link.silent.take().is_none() {
            return;
        }
        *link.failed.borrow_mut() = None;
        if let Some(client) = link.current.take() {
            tracing::debug!(%node, "a node was started anew; it is connected again");
            crate::runtime::spawn(client.close());
        }
    }

    fn link(&self, node: NodeId) -> Rc<Link> {
        self.links.borrow_mut().entry(node).or_default().clone()
    }

    async fn client(self: &Rc<Self>, node: NodeId, link: &Rc<Link>) -> Result<Client, PeerError> {
        let unreached = |why: &str| PeerError::Unreached(format!("{node}: {why}"));
        if let Some(client) = link.usable() {
            return Ok(client);
        }
        let settled = link.settled.notified();
        if !link.is_connecting.get() {
            if let Some((failed, why)) = &*link.failed.borrow()
                && failed.elapsed() < RETRY_AFTER
            {
                return Err(unreached(why));
            }
            let address = self.addresses.borrow().get(&node).copied();
            let address = address.ok_or_else(|| unreached("its address is not known"))?;
            link.is_connecting.set(true);
            let (pool, link) = (self.clone(), link.clone());
            crate::runtime::spawn(async move { pool.connect(node, address, &link).await });
        }
        settled.await;
        link.usable().ok_or_else(|| match &*link.failed.borrow() {
            Some((_, why)) => unreached(why),
            None => unreached("the connection was lost"),
        })
    }

    async fn connect(&self, node: NodeId, address: SocketAddr, link: &Link) {
        let connecting = Client::connect_peer(&self.credentials, address, Expect::Node(node.0), self.options.clone());
        let why = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(client)) => {
                link.silent.set(None);
                *link.current.borrow_mut() = Some(client);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no connection within {CONNECT_TIMEOUT:?}")),
        };
        if let Some(why) = &why {
            tracing::debug!(%node, %address, why, "a node cannot be reached");
        }
        *link.failed.borrow_mut() = why.map(|why| (Instant::now(), why));
        link.is_connecting.set(false);
        link.settled.notify_waiters();
    }
}

impl Link {
    fn usable(&self) -> Option<Client> {
        self.current.borrow().as_ref().filter(|client| client.lost().is_none()).cloned()
    }

    /// A call had no answer in time.
    fn fell_silent(&self) {
        let since = self.silent.get().unwrap_or_else(Instant::now);
        self.silent.set(Some(since));
        if SILENCE_MAX <= since.elapsed() {
            *self.current.borrow_mut() = None;
            self.silent.set(None);
        }
    }
}

impl Peers for PoolHandle {
    fn call(&self, node: NodeId, lane: Lane, operation: u16, body: Bytes, limit: Duration) -> PeerAnswer {
        let pool = self.0.clone();
        Box::pin(async move {
            let link = pool.link(node);
            let called = async {
                let client = pool.client(node, &link).await?;
                let answer = client.call(lane, operation, body).await;
                answer.map_err(|error| match error {
                    CallError::Refused { status, body } => PeerError::Refused(wire::refusal_of(status, &body)),
                    error if error.is_retry_safe() => PeerError::Unreached(format!("{node}: {error}")),
                    error => PeerError::Lost(format!("{node}: {error}")),
                })
            };
            match tokio::time::timeout(limit, called).await {
                Ok(answer) => {
                    if matches!(answer, Ok(_) | Err(PeerError::Refused(_))) {
                        link.silent.set(None);
                    }
                    answer
                }
                Err(_) => {
                    link.fell_silent();
                    Err(PeerError::Lost(format!("{node}: no answer within {limit:?}")))
                }
            }
        })
    }
}

/// A pool that answers can hold on to.
#[derive(Clone)]
pub(super) struct PoolHandle(pub(super) Rc<Pool>);

/// The door at which other nodes call one core.
pub(super) struct MeshDoor {
    /// The core.
    pub(super) core: usize,
    /// What every core knows.
    pub(super) shared: Arc<Shared>,
    /// The core's own shards.
    pub(super) host: Rc<Host>,
    /// The core's own connections.
    pub(super) pool: Rc<Pool>,
    /// Where each node called from last.
    pub(super) callers: RefCell<BTreeMap<NodeId, SocketAddr>>,
    /// Where rumours go.
    pub(super) rumours: mpsc::Sender<Heard>,
}

impl Handler for MeshDoor {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        if let Some(identity) = replies.identity() {
            let node = NodeId(identity.identity.id());
            if self.callers.borrow_mut().insert(node, replies.peer()) != Some(replies.peer()) {
                self.pool.heard_anew(node);
            }
        }
        for request in batch {
            let (id, answer) = (request.id, self.take(request, replies));
            let replies = replies.clone();
            match answer {
                Err(refusal) => replies.answer(id, refusal.reason.wire(), wire::refusal(&refusal)),
                Ok(answer) => crate::runtime::spawn(async move {
                    let gone = || Err(Refusal::new(Reason::Unavailable, "the node is shutting down"));
                    match answer.await.unwrap_or_else(|_| gone()) {
                        Ok(body) => replies.answer(id, 0, body),
                        Err(refusal) => replies.answer(id, refusal.reason.wire(), wire::refusal(&refusal)),
                    }
                }),
            }
        }
    }

    fn datagram(&self, bytes: Bytes, from: &PeerIdentity) {
        // Rumours bear loss: what finds no room is told again by somebody.
        let _ = self.rumours.try_send((NodeId(from.identity.id()), bytes));
    }
}

impl MeshDoor {
    fn take(&self, request: Request, replies: &Replies) -> Result<oneshot::Receiver<Result<Bytes, Refusal>>, Refusal> {
        let Request { operation, body, .. } = request;
        let shard = raft::wire::shard(&body)?;
        authorise(class(operation, shard)?, replies)?;
        let table = &self.shared.table;
        let core = match shard {
            ShardId::CONTROL => 0,
            shard if shard.0 < table.shard_count() => table.core(shard),
            shard => return Err(Refusal::bad_request(format!("there is no shard {}", shard.0))),
        };
        let (reply, answer) = oneshot::channel();
        let message = Message::Mesh { operation, shard, body, reply };
        if core == self.core {
            self.host.accept(message);
        } else {
            let full = |Full(_)| Refusal::overloaded("the inbox of a core");
            self.shared.inboxes[core].push(message).map_err(full)?;
        }
        Ok(answer)
    }
}

/// What kind of thing an operation is.
fn class(operation: u16, shard: ShardId) -> Result<OperationClass, Refusal> {
    match operation {
        // Every member follows the control group and speaks for itself; what a command may do is the state machine's.
        OP_RAFT_APPEND | OP_RAFT_VOTE | OP_RAFT_PRE_VOTE | OP_RAFT_TRANSFER if shard == ShardId::CONTROL => {
            Ok(OperationClass::Control)
        }
        OP_RAFT_APPEND | OP_RAFT_VOTE | OP_RAFT_PRE_VOTE | OP_RAFT_TRANSFER => Ok(OperationClass::Replication),
        OP_SHARD_PUT | OP_SHARD_GET | OP_SHARD_REF => Ok(OperationClass::Forwarding),
        OP_CONTROL | OP_GROUP_VIEW => Ok(OperationClass::Membership),
        OP_GROUP_CHANGE => Ok(OperationClass::Control),
        other => Err(Refusal::bad_request(format!("no operation {other:#06x} between nodes; is this node older?"))),
    }
}
