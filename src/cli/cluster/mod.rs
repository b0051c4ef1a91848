//! `qmesh cluster …` and `qmesh token …`: what the cluster is, and changes of it.
//!
//! Promises: a change is carried out by the control plane or refused with its reason; `--dry-run` tells what would change and
//! changes nothing. Does not: wait until a change has worked its way through the groups; `status` shows how far it is.

pub(super) mod demo;
pub(super) mod found;
mod renew;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::failure::{Failure, Outcome};
use super::session::{self, Global, Session};
use super::text::time_text;
use crate::client::{ConnectOptions, Node};
use crate::control::ask::{Answer, Ask};
use crate::control::driver::plane::{now_ms, random};
use crate::control::{Action, Command, Name, RequestId, Roles, State, wire as control_wire};
use crate::error::Reason;
use crate::gateway::quic::wire::{ClusterAsk, HealthRow, LoadRow};
use crate::ids::{NodeId, ShardId};
use crate::shard::raft::GroupView;

/// Time for one member to tell what its groups look like.
const MEMBER_LIMIT: Duration = Duration::from_secs(2);

/// `qmesh cluster …`
#[derive(Debug, Args)]
pub(super) struct ClusterArguments {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Members, and for every group its primary, voters and how far each replica is.
    #[command(after_help = "Example: qmesh cluster status -o json")]
    Status,
    /// Members with their addresses, roles and certificates.
    #[command(after_help = "Example: qmesh cluster members -o ndjson")]
    Members,
    /// Which shard has which slots, and where its copies are wished.
    #[command(after_help = "Example: qmesh cluster slots")]
    Slots,
    /// Take a node's offices and, where enough others can vote, its votes; it goes on serving reads.
    #[command(after_help = "Example: qmesh cluster drain n2")]
    Drain {
        /// Name or number of the node.
        #[arg(value_name = "NODE")]
        member: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let a drained node take part again.
    #[command(after_help = "Example: qmesh cluster undrain n2")]
    Undrain {
        /// Name or number of the node.
        #[arg(value_name = "NODE")]
        member: String,
        #[command(flatten)]
        change: Change,
    },
    /// Take a node out of the cluster for good; its certificates are revoked.
    #[command(after_help = "Examples:\n  qmesh cluster remove n2 --dry-run\n  qmesh cluster remove n2 --force")]
    Remove {
        /// Name or number of the node.
        #[arg(value_name = "NODE")]
        member: String,
        /// Do not ask for a drain first: the node is dead.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Wish a node as primary of a shard; the shard's present primary hands over when that node is caught up.
    #[command(after_help = "Example: qmesh cluster promote 0 n2")]
    Promote {
        /// The shard.
        shard: u16,
        /// Name or number of one of its voters.
        #[arg(value_name = "NODE")]
        member: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let nodes get their next certificates now, without closing a connection; waits until they have them.
    #[command(after_help = "Examples:\n  qmesh cluster renew n2\n  qmesh cluster renew --all --timeout 2m")]
    Renew {
        /// Name or number of the node.
        #[arg(value_name = "NODE", required_unless_present = "all")]
        member: Option<String>,
        /// Every node that takes part.
        #[arg(long, conflicts_with = "member")]
        all: bool,
        #[command(flatten)]
        change: Change,
    },
    /// How many copies of every shard vote: 1 to 5.
    #[command(after_help = "Example: qmesh cluster replicas 5")]
    Replicas {
        /// Copies.
        #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
        count: u8,
        /// With two members: let both vote. Either's death then stops writes.
        #[arg(long)]
        pair: bool,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Args)]
struct Change {
    /// Only tell what would change.
    #[arg(long)]
    dry_run: bool,
}

/// `qmesh token …`
#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a token with which one node can join, once.
    #[command(after_help = "Example: qmesh token issue --role storage,worker --valid 3600")]
    Issue {
        /// What the node will be: comma words of control, gateway, storage, worker, bridge, cache.
        #[arg(long = "role", value_name = "ROLES", default_value = crate::node::cluster::ROLES_DEFAULT)]
        roles: String,
        /// Where the node will stand; the region of the node that is asked when it is not said.
        #[arg(long, default_value = "local")]
        region: String,
        /// For how long it can be used, in seconds; at most seven days.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        valid: u64,
    },
}

/// Runs `qmesh cluster …`.
pub(super) fn run(arguments: ClusterArguments, global: Global) -> ExitCode {
    session::run(global, async |session| match arguments.command {
        ClusterCommand::Status => status(session).await,
        ClusterCommand::Members => members(session).await,
        ClusterCommand::Slots => slots(session).await,
        ClusterCommand::Drain { member, change } => {
            let node = named(session, &member).await?;
            command(session, Action::Drain { node }, change).await
        }
        ClusterCommand::Undrain { member, change } => {
            let node = named(session, &member).await?;
            command(session, Action::Undrain { node }, change).await
        }
        ClusterCommand::Remove { member, force, change } => {
            let node = named(session, &member).await?;
            command(session, Action::Remove { node, force }, change).await
        }
        ClusterCommand::Promote { shard, member, change } => {
            let node = named(session, &member).await?;
            command(session, Action::Promote { shard: ShardId(shard), node }, change).await
        }
        ClusterCommand::Renew { member, all: _, change } => renew::run(session, member.as_deref(), change).await,
        ClusterCommand::Replicas { count, pair, change } => {
            command(session, Action::SetReplication { factor: count, pair_votes: pair }, change).await
        }
    })
}

/// Runs `qmesh token …`.
pub(super) fn run_token(arguments: TokenArguments, global: Global) -> ExitCode {
    session::run(global, async |session| {
        let TokenCommand::Issue { roles, region, valid } = arguments.command;
        let roles: Roles =
            roles.parse().map_err(|error: crate::control::TextError| Failure::usage(error.to_string()))?;
        let region: Name =
            region.parse().map_err(|error: crate::control::TextError| Failure::usage(error.to_string()))?;
        let ask = Ask::IssueToken { roles, region, life_ms: valid.saturating_mul(1000) };
        let Answer::Token { token, expires_ms } = control(session, ask).await? else { return Err(unexpected()) };
        #[derive(Serialize)]
        struct Issued {
            token: String,
            expires_ms: u64,
        }
        session
            .output()
            .value(&mut io::stdout().lock(), &Issued { token, expires_ms }, |issued| issued.token.clone())?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn control(session: &Session, ask: Ask) -> Result<Answer, Failure> {
    let body = session.node().await?.cluster(&ClusterAsk::Control { ask: Box::new(ask) }).await?;
    Answer::parse(&body).map_err(Failure::Refused)
}

async fn state(session: &Session) -> Result<State, Failure> {
    let Answer::State { state } = control(session, Ask::State).await? else { return Err(unexpected()) };
    control_wire::decode_state(&state).map_err(Failure::internal)
}

async fn named(session: &Session, text: &str) -> Result<NodeId, Failure> {
    let state = state(session).await?;
    let members = state.cluster().into_iter().flat_map(|cluster| cluster.members());
    let number = text.strip_prefix('n').unwrap_or(text).parse::<u64>().ok();
    let found = members.filter(|(node, member)| member.name.to_string() == text || Some(node.0) == number);
    // A name wins over a number that looks like it.
    let found = found.max_by_key(|(_, member)| member.name.to_string() == text).map(|(node, _)| node);
    found.ok_or_else(|| Failure::new(Reason::NotFound, format!("no member {text}; see qmesh cluster members")))
}

async fn command(session: &Session, action: Action, Change { dry_run }: Change) -> Outcome {
    let told = commanded(session, action, dry_run).await?;
    session.output().value(&mut io::stdout().lock(), &told, |told| {
        let head = if told.dry_run { "nothing was changed; it would be:" } else { "done" };
        let lines =
            told.differences.iter().cloned().chain(told.warnings.iter().map(|warning| format!("warning: {warning}")));
        std::iter::once(format!("{head} (epoch {})", told.epoch)).chain(lines).collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Told {
    dry_run: bool,
    epoch: u64,
    warnings: Vec<String>,
    differences: Vec<String>,
}

async fn commanded(session: &Session, action: Action, dry_run: bool) -> Result<Told, Failure> {
    let command = Command { request: RequestId(random()), now_ms: now_ms(), action };
    let answer = control(session, Ask::Command { command: Box::new(command), dry_run }).await?;
    let Answer::Outcome { outcome, differences } = answer else { return Err(unexpected()) };
    let accepted = outcome.map_err(|refused| Failure::new(refused.reason(), refused.to_string()))?;
    let warnings = accepted.warnings.iter().map(ToString::to_string).collect();
    Ok(Told { dry_run, epoch: accepted.epoch.0, warnings, differences })
}

#[derive(Serialize)]
struct MemberRow {
    node: u64,
    name: String,
    region: String,
    roles: String,
    state: &'static str,
    mesh: String,
    http: Option<String>,
    quic: Option<String>,
    certificate_expires_ms: Option<u64>,
    /// Whether it told what its groups look like just now.
    answers: bool,
    /// How it is by what the node that is asked has heard: healthy, suspect or down.
    health: Option<String>,
    /// What it said of its load last.
    load: Option<LoadRow>,
}

#[derive(Serialize)]
struct GroupRow {
    group: String,
    primary: Option<u64>,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    committed: u64,
    /// Applied entries of each member that answers.
    applied: std::collections::BTreeMap<u64, u64>,
}

#[derive(Serialize)]
struct StatusReport {
    cluster: String,
    epoch: u64,
    members: Vec<MemberRow>,
    groups: Vec<GroupRow>,
}

async fn report(session: &Session) -> Result<StatusReport, Failure> {
    let state = state(session).await?;
    let cluster = state.cluster().ok_or_else(|| Failure::new(Reason::Unavailable, "the cluster is not formed yet"))?;
    let mut members = Vec::new();
    let mut views: Vec<GroupView> = Vec::new();
    let heard = session.node().await?.cluster(&ClusterAsk::Health).await?;
    let mut heard: Vec<HealthRow> = serde_json::from_slice(&heard).map_err(Failure::internal)?;
    for (node, member) in cluster.members() {
        let told = match &member.addresses.quic {
            Some(address) if !member.state.is_removed() => groups_of(session, &address.to_string()).await,
            _ => None,
        };
        let heard = heard.iter().position(|row| row.node == node.0).map(|at| heard.swap_remove(at));
        members.push(MemberRow {
            node: node.0,
            name: member.name.to_string(),
            region: member.region.to_string(),
            roles: member.roles.to_string(),
            state: member.state.name(),
            mesh: member.addresses.mesh.to_string(),
            http: member.addresses.http.as_ref().map(ToString::to_string),
            quic: member.addresses.quic.as_ref().map(ToString::to_string),
            certificate_expires_ms: member.certificate.map(|certificate| certificate.expires_ms),
            answers: told.is_some(),
            health: heard.as_ref().map(|row| row.health.clone()),
            load: heard.and_then(|row| row.load),
        });
        views.extend(told.into_iter().flatten());
    }
    let mut shards: Vec<u16> = views.iter().map(|view| view.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let groups = shards.into_iter().filter_map(|shard| group_row(shard, &views)).collect();
    Ok(StatusReport { cluster: cluster.name().to_string(), epoch: cluster.epoch().0, members, groups })
}

fn group_row(shard: u16, views: &[GroupView]) -> Option<GroupRow> {
    let own: Vec<&GroupView> = views.iter().filter(|view| view.shard == shard).collect();
    // Who holds the office knows best; else whoever has the newest term.
    let best = own.iter().max_by_key(|view| (view.role == "primary", view.term, view.committed))?;
    let group = if shard == ShardId::CONTROL.0 { "control".to_owned() } else { format!("shard {shard}") };
    Some(GroupRow {
        group,
        primary: best.primary,
        term: best.term,
        voters: best.voters.iter().copied().collect(),
        learners: best.learners.iter().copied().collect(),
        committed: best.committed,
        applied: own.iter().map(|view| (view.node, view.applied)).collect(),
    })
}

async fn groups_of(session: &Session, address: &str) -> Option<Vec<GroupView>> {
    let options = ConnectOptions { authority: session.global.ca.clone(), timeout: MEMBER_LIMIT };
    let asked = async {
        let node = Node::connect(address, &options).await.ok()?;
        let body = node.cluster(&ClusterAsk::Groups).await.ok();
        node.farewell().await;
        serde_json::from_slice(&body?).ok()
    };
    tokio::time::timeout(MEMBER_LIMIT, asked).await.ok().flatten()
}

async fn status(session: &Session) -> Outcome {
    let report = report(session).await?;
    session.output().value(&mut io::stdout().lock(), &report, |report| {
        let members = super::output::table(
            &["node", "name", "state", "health", "answers", "roles", "mesh", "quic"],
            report.members.iter().map(|row| {
                let quic = row.quic.clone().unwrap_or_else(|| "-".to_owned());
                let answers = if row.answers { "yes" } else { "no" };
                let health = row.health.clone().unwrap_or_else(|| "-".to_owned());
                let texts = [row.node.to_string(), row.name.clone(), row.state.to_owned(), health, answers.to_owned()];
                texts.into_iter().chain([row.roles.clone(), row.mesh.clone(), quic]).collect()
            }),
        );
        let groups = super::output::table(
            &["group", "primary", "term", "voters", "learners", "committed", "applied"],
            report.groups.iter().map(|row| {
                let list = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
                let primary = row.primary.map_or_else(|| "none".to_owned(), |node| node.to_string());
                let applied = row.applied.iter().map(|(node, index)| format!("{node}:{index}"));
                let texts = [row.group.clone(), primary, row.term.to_string(), list(&row.voters), list(&row.learners)];
                let more = [row.committed.to_string(), applied.collect::<Vec<_>>().join(" ")];
                texts.into_iter().chain(more).collect()
            }),
        );
        format!("cluster {}, epoch {}\n\n{members}\n\n{groups}", report.cluster, report.epoch)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn members(session: &Session) -> Outcome {
    let rows = report(session).await?.members;
    let headers =
        ["node", "name", "region", "state", "health", "answers", "roles", "mesh", "http", "quic", "certificate ends"];
    session.output().list(&mut io::stdout().lock(), &headers, &rows, |row| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            row.node.to_string(),
            row.name.clone(),
            row.region.clone(),
            row.state.to_owned(),
            or_dash(&row.health),
            if row.answers { "yes" } else { "no" }.to_owned(),
            row.roles.clone(),
            row.mesh.clone(),
            or_dash(&row.http),
            or_dash(&row.quic),
            row.certificate_expires_ms.map_or_else(|| "-".to_owned(), time_text),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn slots(session: &Session) -> Outcome {
    #[derive(Serialize)]
    struct SlotRow {
        shard: u16,
        slots: String,
        voters: Vec<u64>,
        learners: Vec<u64>,
        preferred_primary: Option<u64>,
    }
    let state = state(session).await?;
    let cluster = state.cluster().ok_or_else(|| Failure::new(Reason::Unavailable, "the cluster is not formed yet"))?;
    let rows: Vec<SlotRow> = (0..cluster.shard_count())
        .map(|shard| {
            let wished = cluster.wished(crate::control::Group::Shard(ShardId(shard)));
            let numbers = |nodes: &std::collections::BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect();
            let slots = cluster.slots(ShardId(shard)).map(|slots| format!("{}-{}", slots.start, slots.end - 1));
            SlotRow {
                shard,
                slots: slots.unwrap_or_default(),
                voters: wished.map(|wish| numbers(&wish.config.voters)).unwrap_or_default(),
                learners: wished.map(|wish| numbers(&wish.config.learners)).unwrap_or_default(),
                preferred_primary: wished.and_then(|wish| wish.primary).map(|node| node.0),
            }
        })
        .collect();
    session.output().list(
        &mut io::stdout().lock(),
        &["shard", "slots", "voters", "learners", "primary"],
        &rows,
        |row| {
            let list = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let primary = row.preferred_primary.map_or_else(|| "-".to_owned(), |node| node.to_string());
            vec![row.shard.to_string(), row.slots.clone(), list(&row.voters), list(&row.learners), primary]
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

fn unexpected() -> Failure {
    Failure::internal("the control plane answered another question")
}
