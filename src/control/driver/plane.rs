//! The control plane's replica on this node: applies committed commands to the [`State`], tells every core what stands, signs
//! certificates where the authority's key is, and sends what it is asked to the group's primary.
//!
//! Promises: a command is answered after a majority of the control group has it; a command that is asked again with its request id
//! is carried out once; a certificate leaves only after the command that names it is committed.
//! Does not: decide ([`State::apply`] does), or judge who may ask: the doors have.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use qmesh_net::identity::{Authority, LEAF_LIFE, Names, NodeIdentity, Roles as CertificateRoles};
use qmesh_net::wire::Lane;
use qmesh_storage::{Entry, Location, Payload, Record, RecordError};
use tokio::sync::watch;

use crate::control::ask::{Answer, Ask, JoinerSays, JoinerTold};
use crate::control::{
    Action, CertificateFact, Change, Command, Member, Name, Outcome, RequestId, Role, Roles, Serial, State, preview,
    wire,
};
use crate::error::{Reason, Refusal};
use crate::ids::{LogIndex, NodeId, ShardId};
use crate::router::Peers;
use crate::router::peers::{OP_CONTROL, OP_JOIN};
use crate::security::token::JoinToken;
use crate::security::wire::{JoinAnswer, JoinRequest};
use crate::shard::raft::{Applied, Group, Machine};
use crate::shard::{LocalAnswer, Steward};

/// Kind of a record that holds a command to the control plane.
pub const RECORD_KIND_COMMAND: u8 = 4;
/// How long a question looks for the group's primary.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Time for one try at another node.
const TRY_LIMIT: Duration = Duration::from_secs(4);
/// Bytes before the JSON of a question between nodes: version, shard, whether it may be sent on.
const HEAD_BYTES: usize = 16;
/// Flag of a question: whoever takes it may send it on to the group's primary.
const FLAG_SENDS_ON: u8 = 1;

/// The control plane's replica on this node.
pub struct Plane {
    node: NodeId,
    state: RefCell<State>,
    group: RefCell<Option<Rc<Group>>>,
    peers: Rc<dyn Peers>,
    told: watch::Sender<std::sync::Arc<State>>,
    /// The authority and its key (PEM), for those who may have to sign.
    authority: Option<(Authority, String)>,
}

impl Plane {
    /// An empty replica; its log fills it. `told` hears of every state that stands.
    pub fn new(
        node: NodeId,
        peers: Rc<dyn Peers>,
        told: watch::Sender<std::sync::Arc<State>>,
        authority: Option<(Authority, String)>,
    ) -> Rc<Self> {
        let (state, group) = (RefCell::default(), RefCell::default());
        Rc::new(Self { node, state, group, peers, told, authority })
    }

    /// Takes part in the group from here on.
    pub fn takes_part(&self, group: Rc<Group>) {
        *self.group.borrow_mut() = Some(group);
        self.tell();
    }

    /// Carries out a command: here when this replica is the group's primary, there when another is.
    ///
    /// # Errors
    /// Unavailable when nobody can carry it out in time.
    pub async fn command(self: &Rc<Self>, action: Action) -> Result<Outcome, Refusal> {
        let command = Command { request: RequestId(random()), now_ms: now_ms(), action };
        match self.ask(Ask::Command { command: Box::new(command), dry_run: false }, true).await? {
            Answer::Outcome { outcome, .. } => Ok(outcome),
            _ => Err(strange()),
        }
    }

    /// Answers a question, or has it answered by the group's primary.
    ///
    /// # Errors
    /// Unavailable when nobody answers in time; what the answer refuses.
    pub async fn ask(self: &Rc<Self>, ask: Ask, sends_on: bool) -> Result<Answer, Refusal> {
        let until = Instant::now() + PATIENCE;
        loop {
            let group = self.group.borrow().clone();
            let primary = group.as_ref().and_then(|group| group.primary());
            match (&group, primary) {
                (Some(group), _) if group.is_ready_primary() => match self.answer(group, &ask).await {
                    Err(refusal) if refusal.reason == Reason::Unavailable && Instant::now() < until => {}
                    answer => return answer,
                },
                (Some(_), Some(node)) if sends_on && node != self.node => {
                    match self.peers.call(node, Lane::Control, OP_CONTROL, request(&ask, false)?, TRY_LIMIT).await {
                        Ok(body) => return Answer::parse(&body),
                        Err(crate::router::PeerError::Refused(refusal)) if refusal.reason != Reason::Unavailable => {
                            return Err(refusal);
                        }
                        Err(_) => {}
                    }
                }
                (_, Some(_)) if !sends_on => return Err(no_primary()),
                _ => {}
            }
            if until <= Instant::now() {
                return Err(no_primary());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn answer(self: &Rc<Self>, group: &Group, ask: &Ask) -> Result<Answer, Refusal> {
        match ask {
            Ask::Command { command, dry_run: true } => {
                group.confirm().await?;
                let preview = preview(&self.state.borrow(), command);
                let differences = preview.differences.iter().map(|difference| format!("{difference:?}")).collect();
                Ok(Answer::Outcome { outcome: preview.outcome, differences })
            }
            Ask::Command { command, dry_run: false } => {
                let outcome = self.propose(group, command).await?;
                Ok(Answer::Outcome { outcome, differences: Vec::new() })
            }
            Ask::IssueToken { roles, region, life_ms } => {
                let (authority, _) = self.authority.as_ref().ok_or_else(no_key)?;
                let token = JoinToken::generate(authority.fingerprint());
                let token = token.map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
                let expires_ms = now_ms().saturating_add(*life_ms);
                let record = token.record();
                let action = Action::IssueToken {
                    token: crate::control::TokenId(record.id.0),
                    secret_hash: record.secret_hash,
                    roles: *roles,
                    region: region.clone(),
                    expires_ms,
                };
                let command = Command { request: RequestId(random()), now_ms: now_ms(), action };
                self.propose(group, &command).await?.map_err(refused)?;
                Ok(Answer::Token { token: token.reveal(), expires_ms })
            }
            Ask::Renew { node, request } => self.renew(group, NodeId(*node), request).await,
            Ask::State => {
                group.confirm().await?;
                Ok(Answer::State { state: wire::encode_state(&self.state.borrow()) })
            }
        }
    }

    async fn propose(&self, group: &Group, command: &Command) -> Result<Outcome, Refusal> {
        let body = wire::encode_command(command);
        let record = Record::build::<RecordError>(RECORD_KIND_COMMAND, &[0; 32], body.len(), |mut buffer| {
            buffer.extend_from_slice(&body);
            Ok(buffer)
        });
        let record = record.map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        let (_, applied) = group.propose(Payload::of(&[record])).await.map_err(|_| no_primary())?;
        match applied {
            Applied::Opaque(outcome) => {
                wire::decode_outcome(&outcome).map_err(|error| Refusal::new(Reason::Internal, error.to_string()))
            }
            _ => Err(strange()),
        }
    }

    async fn renew(self: &Rc<Self>, group: &Group, node: NodeId, request: &[u8]) -> Result<Answer, Refusal> {
        let (names, replaces) = {
            let state = self.state.borrow();
            let member = state.cluster().and_then(|cluster| cluster.member(node));
            let member = member.ok_or_else(|| Refusal::new(Reason::NotFound, format!("{node} is no member")))?;
            let certificate = member.certificate.ok_or_else(|| {
                Refusal::new(
                    Reason::Denied,
                    format!("{node} has no certificate that could be renewed; let it join again"),
                )
            })?;
            (self.names(&state, node, member)?, certificate.serial)
        };
        let (chain, certificate) = self.sign(request, &names)?;
        let action = Action::Renew { node, replaces, certificate };
        let command = Command { request: RequestId(random()), now_ms: now_ms(), action };
        self.propose(group, &command).await?.map_err(refused)?;
        Ok(Answer::Chain { chain })
    }

    /// Takes a stranger with a token into the cluster.
    async fn join(self: &Rc<Self>, body: &[u8]) -> Result<Bytes, Refusal> {
        let asked = JoinRequest::parse(body)?;
        let says: JoinerSays = crate::control::ask::from_json("what the joiner says of itself", &asked.about)?;
        let (authority, key) = self.authority.as_ref().ok_or_else(no_key)?;
        let shown = JoinToken { authority: authority.fingerprint(), id: asked.token, secret: asked.secret }.record();
        let redeem = Action::RedeemToken {
            token: crate::control::TokenId(shown.id.0),
            secret_hash: shown.secret_hash,
            csr_digest: *blake3::hash(&asked.request).as_bytes(),
            name: says.name,
            addresses: says.addresses,
        };
        let node = redeemed(self.command(redeem).await?)?;
        let Answer::State { state } = self.ask(Ask::State, true).await? else { return Err(strange()) };
        let state = wire::decode_state(&state).map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        let cluster = state.cluster().ok_or_else(no_primary)?;
        let member = cluster.member(node).ok_or_else(strange)?;
        let (chain, certificate) = self.sign(&asked.request, &self.names(&state, node, member)?)?;
        self.command(Action::CertificateIssued { node, certificate }).await?.map_err(refused)?;
        let with_control =
            |(_, member): &(NodeId, &Member)| member.roles.has(Role::Control) && !member.state.is_removed();
        let contacts = cluster.members().filter(with_control).map(|(_, member)| member.addresses.mesh.to_string());
        let key = member.roles.has(Role::Control).then(|| key.clone());
        let told = JoinerTold {
            node: node.0,
            cluster: crate::ids::hex(&cluster.id()),
            cluster_name: cluster.name().to_string(),
            domain: cluster.domain().to_string(),
            region: member.region.to_string(),
            roles: member.roles.to_string(),
            slots: cluster.slot_count(),
            shards: cluster.shard_count(),
            contacts: contacts.collect(),
            authority_key: key,
        };
        let chain = chain.into_iter().map(rustls::pki_types::CertificateDer::from).collect();
        let about = crate::control::ask::to_json(&told)?.to_vec();
        tracing::info!(%node, name = %member.name, "a node joins");
        JoinAnswer { chain, about }.encode().map(Bytes::from)
    }

    /// Signs a request for a certificate of ninety days.
    ///
    /// # Errors
    /// BadRequest for the request; Unavailable where the authority's key is not.
    pub fn sign(&self, request: &[u8], names: &Names) -> Result<(Vec<Vec<u8>>, CertificateFact), Refusal> {
        let (authority, _) = self.authority.as_ref().ok_or_else(no_key)?;
        let issued = authority.sign_request(request, names, LEAF_LIFE, SystemTime::now());
        let issued = issued.map_err(|error| Refusal::bad_request(error.to_string()))?;
        let fact = CertificateFact { serial: serial(issued.serial), expires_ms: ms(issued.expires) };
        Ok((issued.chain.iter().map(|certificate| certificate.as_ref().to_vec()).collect(), fact))
    }

    /// What the certificate of a member says.
    ///
    /// # Errors
    /// Internal, when its name cannot stand in a certificate.
    pub fn names(&self, state: &State, node: NodeId, member: &Member) -> Result<Names, Refusal> {
        let domain = state.cluster().map(|cluster| cluster.domain().to_string()).unwrap_or_default();
        names(&domain, &member.region, &member.name, node, member.roles)
    }

    /// What stands.
    pub fn state(&self) -> std::cell::Ref<'_, State> {
        self.state.borrow()
    }

    fn apply_record(&self, index: LogIndex, record: &Record) -> Option<Outcome> {
        match wire::decode_command(record.body()) {
            Ok(command) => Some(self.state.borrow_mut().apply(index, &command)),
            Err(error) => {
                tracing::error!(index = index.0, %error, "a committed command is not readable; is this node older than the others?");
                None
            }
        }
    }

    fn tell(&self) {
        self.told.send_replace(std::sync::Arc::new(self.state.borrow().clone()));
    }
}

impl Machine for Plane {
    fn apply(&self, _shard: ShardId, entry: &Entry, _locations: &[Location]) -> Applied {
        let index = LogIndex(entry.head().index);
        let outcome = entry.records().filter_map(|record| self.apply_record(index, &record)).last();
        self.tell();
        outcome.map_or(Applied::Nothing, |outcome| Applied::Opaque(wire::encode_outcome(&outcome).into()))
    }
}

impl Steward for Plane {
    fn replay(&self, index: LogIndex, kind: u8, hint: &[u8]) {
        if kind != RECORD_KIND_COMMAND {
            return;
        }
        match Record::parse(&Bytes::copy_from_slice(hint)) {
            Ok(record) => drop(self.apply_record(index, &record)),
            Err(error) => tracing::error!(index = index.0, %error, "a recovered command is not readable"),
        }
    }

    fn serve(self: Rc<Self>, operation: u16, body: Bytes) -> LocalAnswer {
        Box::pin(async move {
            if operation == OP_JOIN {
                return self.join(&body).await;
            }
            let (head, json) = body
                .split_first_chunk::<HEAD_BYTES>()
                .ok_or_else(|| Refusal::bad_request("a question to the control plane is shorter than its head"))?;
            self.ask(Ask::parse(json)?, head[4] & FLAG_SENDS_ON != 0).await?.encode()
        })
    }
}

/// The names that a member's certificate bears.
///
/// # Errors
/// Internal, when they cannot stand in a certificate.
pub fn names(domain: &str, region: &Name, name: &Name, node: NodeId, roles: Roles) -> Result<Names, Refusal> {
    let unfit = |error: &dyn std::fmt::Display| Refusal::new(Reason::Internal, error.to_string());
    // A role that certificates of this version do not know is not yet checked by any operation.
    let words: Vec<&str> =
        roles.iter().map(crate::control::Role::name).filter(|word| word.parse::<CertificateRoles>().is_ok()).collect();
    let roles: CertificateRoles = words.join(",").parse().map_err(|error| unfit(&error))?;
    let (region, name) = (region.to_string(), name.to_string());
    let identity = NodeIdentity::new(domain, &region, &name, node.0, roles).map_err(|error| unfit(&error))?;
    Ok(Names { dns: Vec::new(), addresses: Vec::new(), identity })
}

/// A certificate's number as the control plane keeps it.
pub fn serial(serial: qmesh_net::identity::Serial) -> Serial {
    let bytes = serial.to_big_endian();
    let mut kept = [0; 16];
    kept.copy_from_slice(&bytes[bytes.len() - 16..]);
    Serial(kept)
}

/// A question to the control plane, as another node is asked it. With `sends_on` that node may ask the group's primary in turn.
///
/// # Errors
/// Internal.
pub fn request(ask: &Ask, sends_on: bool) -> Result<Bytes, Refusal> {
    let flags = if sends_on { u32::from(FLAG_SENDS_ON) } else { 0 };
    let mut body = crate::shard::request_head(ShardId::CONTROL, flags);
    body.extend_from_slice(&ask.encode()?);
    Ok(body.into())
}

/// A request that carries nothing but the group it is for.
pub fn bare_request(shard: ShardId) -> Bytes {
    crate::shard::request_head(shard, 0).into()
}

/// A refused command as a refusal of the house.
pub fn refused(refused: crate::control::Refused) -> Refusal {
    Refusal::new(refused.reason(), refused.to_string())
}

/// What a redeemed token gave.
pub fn redeemed(outcome: Outcome) -> Result<NodeId, Refusal> {
    match outcome.map_err(refused)?.change {
        Change::Redeemed { node, .. } => Ok(node),
        _ => Err(strange()),
    }
}

fn no_key() -> Refusal {
    Refusal::new(Reason::Unavailable, "this node has no key of the authority; ask a node with the role control")
}

fn no_primary() -> Refusal {
    Refusal::new(
        Reason::Unavailable,
        "the control plane has no primary that answers; is a majority of the nodes with the role control up?",
    )
}

fn strange() -> Refusal {
    Refusal::new(Reason::Internal, "the control plane answered another question")
}

/// Random bytes of the operating system.
pub fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        crate::error::fatal(crate::error::EXIT_BUG, &"the operating system gives no random bytes");
    }
    bytes
}

/// Milliseconds since 1970-01-01 UTC.
pub fn now_ms() -> u64 {
    ms(SystemTime::now())
}

fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
