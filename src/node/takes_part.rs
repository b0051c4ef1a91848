//! How a core of a node takes part in a cluster: its groups, its mesh endpoint, and on the first core the control plane.
//!
//! Promises: the mesh is open before any group starts to elect; a node that is told to stop hands its offices over before its groups
//! end; a certificate is renewed at two thirds of its life without a connection being closed.
//! Does not: decide anything a room decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use qmesh_net::identity::SigningRequest;
use qmesh_net::io::endpoint::EndpointOptions;
use qmesh_net::io::mesh::MeshEndpoint;
use qmesh_net::peer::{Credentials, Expect, JoinOptions, Joining};
use qmesh_net::rpc::client::{Client, ClientOptions};
use qmesh_net::rpc::server::ServeOptions;
use qmesh_net::wire::Lane;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};

use super::busy::Busy;
use super::cluster::{self, Membership};
use super::join::JoinDoor;
use super::mesh::{MeshDoor, Pool, PoolHandle, transport};
use crate::control::ask::{Answer, Ask};
use crate::control::driver::plane::{self, Plane, now_ms, random};
use crate::control::driver::reconcile::{Report, reconcile};
use crate::control::{Action, Addresses, Bootstrap, CertificateFact, MemberState, State};
use crate::error::Refusal;
use crate::ids::{NodeId, ShardId};
use crate::membership::driver::{self, HEARD_MAX, Heard, Seen};
use crate::membership::{Identity, Timing};
use crate::router::Shared;
use crate::router::peers::OP_CONTROL;
use crate::runtime::spawn;
use crate::shard::raft::Timers;
use crate::shard::{ConsensusParts, Host, Steward};

/// Time between two looks at the end of the node's certificate.
const RENEWAL_LOOK: Duration = Duration::from_secs(600);
/// Time until a renewal that failed is tried again.
const RENEWAL_AGAIN: Duration = Duration::from_secs(5);
/// Time between two tries to tell the cluster where this node is.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(300);
/// Time for which a node that stops waits for others to take its offices.
const HAND_OVER_MAX: Duration = Duration::from_millis(1500);
/// Requests of one stream that wait for their answers.
const REQUESTS_IN_FLIGHT_MAX: usize = 8192;

/// What a core is told of its cluster.
#[derive(Clone)]
pub(super) struct ClusterParts {
    pub(super) membership: Membership,
    pub(super) data: PathBuf,
    pub(super) credentials: Arc<Credentials>,
    pub(super) states: watch::Receiver<Arc<State>>,
    pub(super) tell: watch::Sender<Arc<State>>,
    pub(super) timers: Timers,
    pub(super) rumours: Rumours,
    /// Where clients reach this node.
    pub(super) http: SocketAddr,
    pub(super) quic: SocketAddr,
}

/// Where what members say of each other goes.
#[derive(Clone)]
pub(super) struct Rumours {
    /// Every core's door hears, the first core's driver listens.
    hear: mpsc::Sender<Heard>,
    heard: Arc<Mutex<Option<mpsc::Receiver<Heard>>>>,
    told: watch::Sender<Arc<Seen>>,
    generation: u64,
}

impl Rumours {
    /// Rumours that end in `told`, about a node in its `generation`.
    pub(super) fn new(told: watch::Sender<Arc<Seen>>, generation: u64) -> Self {
        let (hear, heard) = mpsc::channel(HEARD_MAX);
        Self { hear, heard: Arc::new(Mutex::new(Some(heard))), told, generation }
    }
}

/// A core's part before its logs are open.
pub(super) struct Part {
    parts: ClusterParts,
    core: usize,
    pool: Rc<Pool>,
    plane: Option<Rc<Plane>>,
    endpoint_options: EndpointOptions,
}

impl Part {
    /// Of core `core`.
    ///
    /// # Errors
    /// A sentence: the authority's key is not readable.
    pub(super) fn new(parts: &ClusterParts, core: usize, endpoint: &EndpointOptions) -> Result<Self, String> {
        let endpoint_options = transport(endpoint.clone());
        let pool = Pool::new(parts.credentials.clone(), &endpoint_options);
        let plane = match core {
            0 => {
                let authority = cluster::authority(&parts.data).map_err(|error| error.to_string())?;
                let key = std::fs::read_to_string(parts.data.join("ca").join("ca.key")).ok();
                let peers = Rc::new(PoolHandle(pool.clone()));
                Some(Plane::new(parts.membership.id(), peers, parts.tell.clone(), authority.zip(key)))
            }
            _ => None,
        };
        Ok(Self { parts: parts.clone(), core, pool, plane, endpoint_options })
    }

    /// What the host of the core is told.
    pub(super) fn consensus(&self) -> ConsensusParts {
        ConsensusParts {
            node: self.parts.membership.id(),
            peers: Rc::new(PoolHandle(self.pool.clone())),
            timers: self.parts.timers,
            steward: self.plane.clone().map(|plane| plane as Rc<dyn Steward>),
        }
    }

    /// Opens the mesh and starts the groups. The mesh serves until `over`.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn start(
        self,
        host: &Rc<Host>,
        shared: &Arc<Shared>,
        stops: watch::Receiver<bool>,
        over: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let ClusterParts { membership, credentials, states, .. } = &self.parts;
        let mesh = MeshEndpoint::bind(membership.mesh, credentials.clone(), self.endpoint_options.clone())
            .map_err(|error| format!("mesh {}: {error}; name another with --mesh", membership.mesh))?;
        let door = Rc::new(MeshDoor {
            core: self.core,
            shared: shared.clone(),
            host: host.clone(),
            pool: self.pool.clone(),
            callers: Default::default(),
            rumours: self.parts.rumours.hear.clone(),
        });
        let joining =
            Joining { handler: Rc::new(JoinDoor { shared: shared.clone() }), options: JoinOptions::default() };
        let serve_options = ServeOptions { requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX, ..ServeOptions::default() };
        spawn(async move { mesh.serve(door, Some(joining), serve_options, over).await });
        // What the log says of the members is known before the first word is said to one of them.
        if let Some(plane) = &self.plane {
            self.pool.learn(&plane.state());
        }
        spawn(learn(self.pool.clone(), credentials.clone(), states.clone()));
        let listens = self.parts.rumours.heard.lock().take_if(|_| self.core == 0);
        if let Some(heard) = listens {
            spawn(driver::run(self.gossip(heard, host, shared, stops)));
        }
        host.start_groups(membership.is_first).await?;
        let report = self.report();
        for group in host.groups() {
            if let (ShardId::CONTROL, Some(plane)) = (group.shard(), &self.plane) {
                plane.takes_part(group.clone());
            }
            spawn(reconcile(group, states.clone(), report.clone()));
        }
        if let Some(plane) = &self.plane {
            spawn(announce(self.parts.clone(), plane.clone()));
            spawn(renew(self.parts.clone(), plane.clone()));
        }
        Ok(())
    }

    /// What drives the gossip of this node.
    fn gossip(
        &self,
        heard: mpsc::Receiver<Heard>,
        host: &Rc<Host>,
        shared: &Arc<Shared>,
        stops: watch::Receiver<bool>,
    ) -> driver::Parts {
        let (membership, states) = (&self.parts.membership, self.parts.states.clone());
        let own =
            Identity { node: membership.id(), generation: self.parts.rumours.generation, address: membership.mesh };
        let pool = self.pool.clone();
        let mut busy = Busy::new(host.clone(), shared.clone(), states.clone());
        driver::Parts {
            own,
            timing: Timing::default(),
            heard,
            send: Box::new(move |to, datagram| pool.datagram(to, datagram)),
            roster: Box::new(move || {
                let state = states.borrow().clone();
                let members = state.cluster().into_iter().flat_map(|cluster| cluster.members());
                members.filter(|(_, member)| !member.state.is_removed()).map(|(node, _)| node).collect()
            }),
            load: Box::new(move || busy.load()),
            told: self.parts.rumours.told.clone(),
            stops,
        }
    }

    /// How the groups of this core report to the control plane: through the core that has it, or over the mesh.
    fn report(&self) -> Report {
        let (pool, states, own) = (self.pool.clone(), self.parts.states.clone(), self.parts.membership.id());
        let (plane, seen) = (self.plane.clone(), self.parts.rumours.told.subscribe());
        Rc::new(move |action| {
            let (pool, plane, state) = (pool.clone(), plane.clone(), states.borrow().clone());
            let seen = seen.borrow().clone();
            Box::pin(async move {
                match plane {
                    Some(plane) => plane.command(action).await.is_ok(),
                    None => told_there(&pool, &state, &seen, own, action).await,
                }
            })
        })
    }
}

/// Tells any member that lives, which sends it on. Who is suspected is tried last.
async fn told_there(pool: &Rc<Pool>, state: &State, seen: &Seen, own: NodeId, action: Action) -> bool {
    use crate::router::Peers as _;
    let Ok(body) = plane::request(&Ask::command(random(), now_ms(), action), true) else { return false };
    let nodes: Vec<NodeId> =
        state.cluster().into_iter().flat_map(|cluster| cluster.members().map(|(node, _)| node)).collect();
    let nodes = seen.view.as_ref().map_or(nodes.clone(), |view| view.in_order(seen.now_ms, nodes));
    for node in nodes.into_iter().filter(|&node| node != own) {
        let limit = Duration::from_secs(4);
        if PoolHandle(pool.clone()).call(node, Lane::Control, OP_CONTROL, body.clone(), limit).await.is_ok() {
            return true;
        }
    }
    false
}

/// Follows what the control plane says of members and certificates.
async fn learn(pool: Rc<Pool>, credentials: Arc<Credentials>, mut states: watch::Receiver<Arc<State>>) {
    loop {
        let state = states.borrow_and_update().clone();
        pool.learn(&state);
        let revoked = state.cluster().into_iter().flat_map(|cluster| cluster.revoked());
        let revoked = revoked.filter_map(|serial| qmesh_net::identity::Serial::from_big_endian(&serial.0)).collect();
        if let Err(error) = credentials.replace_revoked(revoked) {
            tracing::error!(%error, "revoked certificates are not all refused");
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the cluster where this node is, until it knows.
async fn announce(parts: ClusterParts, plane: Rc<Plane>) {
    let membership = &parts.membership;
    let addresses = || -> Result<Addresses, crate::control::TextError> {
        Ok(Addresses {
            mesh: membership.mesh.to_string().parse()?,
            http: Some(parts.http.to_string().parse()?),
            quic: Some(parts.quic.to_string().parse()?),
        })
    };
    let Ok(addresses) = addresses() else {
        tracing::error!("this node's addresses cannot be told to the cluster");
        return;
    };
    let mut contact = 0;
    loop {
        let known = {
            let state = plane.state();
            let member = state.cluster().and_then(|cluster| cluster.member(membership.id()));
            member.is_some_and(|member| member.addresses == addresses && !matches!(member.state, MemberState::Joining))
        };
        if known {
            tracing::info!(node = membership.node, "the cluster knows this node");
            return;
        }
        let is_formed = plane.state().cluster().is_some();
        let told = if membership.is_first && !is_formed {
            form(&parts, &plane, addresses.clone()).await
        } else {
            let action = Action::MemberUpdate { node: membership.id(), addresses: addresses.clone() };
            match membership.contacts.get(contact % membership.contacts.len().max(1)) {
                Some(&at) if !is_formed => tell_contact(&parts, at, action).await,
                _ => plane.command(action).await.and_then(|outcome| outcome.map(drop).map_err(plane::refused)),
            }
        };
        contact += 1;
        if let Err(refusal) = told {
            tracing::debug!(%refusal, "the cluster does not know this node yet");
        }
        tokio::time::sleep(ANNOUNCE_AGAIN).await;
    }
}

/// Forms the cluster with this node.
async fn form(parts: &ClusterParts, plane: &Rc<Plane>, addresses: Addresses) -> Result<(), Refusal> {
    let membership = &parts.membership;
    let unfit = |error: &dyn std::fmt::Display| Refusal::bad_request(format!("cluster.toml: {error}"));
    let own = parts.credentials.own();
    let expires = own.not_after.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let cluster = crate::ids::unhex(&membership.cluster).and_then(|id| <[u8; 16]>::try_from(id).ok());
    let action = Action::Bootstrap(Bootstrap {
        cluster_id: cluster.ok_or_else(|| unfit(&"cluster is not 32 hexadecimal digits"))?,
        cluster_name: membership.cluster_name.parse().map_err(|e| unfit(&e))?,
        domain: membership.domain.parse().map_err(|e| unfit(&e))?,
        slot_count: membership.slots,
        shard_count: membership.shards,
        replication_factor: 3,
        name: membership.name.parse().map_err(|e| unfit(&e))?,
        region: membership.region.parse().map_err(|e| unfit(&e))?,
        roles: membership.roles.parse().map_err(|e| unfit(&e))?,
        addresses,
        certificate: CertificateFact { serial: plane::serial(own.serial), expires_ms: expires },
    });
    plane.command(action).await?.map(drop).map_err(plane::refused)
}

/// Tells a member that this node knows only by its address.
async fn tell_contact(parts: &ClusterParts, at: SocketAddr, action: Action) -> Result<(), Refusal> {
    let unreached =
        |error: &dyn std::fmt::Display| Refusal::new(crate::error::Reason::Unavailable, format!("{at}: {error}"));
    let options = ClientOptions::default();
    let client = Client::connect_peer(&parts.credentials, at, Expect::AnyMember, options).await;
    let client = client.map_err(|error| unreached(&error))?;
    let body = plane::request(&Ask::command(random(), now_ms(), action), true)?;
    let answer = client.call(Lane::Control, OP_CONTROL, body).await.map_err(|error| unreached(&error))?;
    match Answer::parse(&answer)? {
        Answer::Outcome { outcome, .. } => outcome.map(drop).map_err(plane::refused),
        _ => Err(unreached(&"it answered another question")),
    }
}

/// Renews the node's certificate when two thirds of its life are over, or when the cluster is asked to.
async fn renew(parts: ClusterParts, plane: Rc<Plane>) {
    let (mut states, own) = (parts.states.clone(), parts.membership.id());
    loop {
        let is_asked = states.borrow_and_update().cluster().is_some_and(|cluster| cluster.is_renewal_asked(own));
        let mut pause = RENEWAL_LOOK;
        if (is_asked || parts.credentials.renew_due(SystemTime::now()))
            && let Err(refusal) = renew_now(&parts, &plane).await
        {
            tracing::warn!(%refusal, "the certificate was not renewed; it is tried again");
            pause = RENEWAL_AGAIN;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = states.changed(), if pause == RENEWAL_LOOK => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn renew_now(parts: &ClusterParts, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let failed = |error: &dyn std::fmt::Display| Refusal::new(crate::error::Reason::Internal, error.to_string());
    let request = SigningRequest::new().map_err(|error| failed(&error))?;
    let ask = Ask::Renew { node: parts.membership.node, request: request.der().to_vec() };
    let Answer::Chain { chain } = plane.ask(ask, true).await? else {
        return Err(failed(&"the control plane answered another question"));
    };
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let leaf = request.into_leaf(chain).map_err(|error| failed(&error))?;
    leaf.write(&cluster::leaf_path(&parts.data)).map_err(|error| failed(&error))?;
    parts.credentials.replace_leaf(&leaf).map_err(|error| failed(&error))?;
    tracing::info!(node = parts.membership.node, "the certificate was renewed");
    Ok(())
}

/// Hands every office of this core to another voter that lives, so that nobody has to wait for an election.
pub(super) async fn hand_over(host: &Rc<Host>) {
    let until = Instant::now() + HAND_OVER_MAX;
    for group in host.groups() {
        let view = group.view();
        let own = view.node;
        let other = |node: &&u64| **node != own && view.voters.contains(*node);
        let best = view.live.iter().filter(other).max_by_key(|node| view.matched.get(node));
        if let (true, Some(&to)) = (group.is_ready_primary(), best)
            && let Err(error) = group.transfer(NodeId(to)).await
        {
            tracing::info!(shard = view.shard, error, "an office could not be handed over");
        }
    }
    let holds_one = || host.groups().iter().any(|group| group.is_ready_primary() && 1 < group.view().voters.len());
    while holds_one() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
