//! Scenes for the tests of this room: clusters in the making.

use crate::control::{
    Accepted, Action, Addresses, Bootstrap, CertificateFact, Change, Cluster, Command, Group, GroupConfig, Name,
    Outcome, RequestId, Role, Roles, Serial, State, TokenId,
};
use crate::ids::{LogIndex, NodeId, ShardId};

/// The time of every scene, unless it says otherwise.
pub(super) const NOW_MS: u64 = 1_800_000_000_000;
pub(super) const HOUR_MS: u64 = 3_600_000;

pub(super) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub(super) fn addresses(host: &str) -> Addresses {
    Addresses {
        mesh: format!("{host}:7000").parse().expect("an address"),
        http: Some(format!("{host}:8080").parse().expect("an address")),
        quic: None,
    }
}

pub(super) fn serial(number: u64) -> Serial {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Serial(bytes)
}

pub(super) fn fact(number: u64) -> CertificateFact {
    CertificateFact { serial: serial(number), expires_ms: NOW_MS + 24 * 90 * HOUR_MS }
}

pub(super) fn token(number: u8) -> TokenId {
    TokenId([number; 16])
}

pub(super) fn shard(number: u16) -> Group {
    Group::Shard(ShardId(number))
}

pub(super) fn nodes(ids: &[u64]) -> std::collections::BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

pub(super) fn config(voters: &[u64], learners: &[u64]) -> GroupConfig {
    GroupConfig::new(nodes(voters), nodes(learners))
}

pub(super) fn bootstrap(replication_factor: u8) -> Bootstrap {
    Bootstrap {
        cluster_id: [7; 16],
        cluster_name: name("qudag"),
        domain: "qudag.net".parse().expect("a domain"),
        slot_count: 16,
        shard_count: 4,
        replication_factor,
        name: name("n1"),
        region: name("eu"),
        roles: Roles::all(),
        addresses: addresses("n1"),
        certificate: fact(1),
    }
}

pub(super) fn issue(number: u8, roles: Roles) -> Action {
    Action::IssueToken {
        token: token(number),
        secret_hash: [number; 32],
        roles,
        region: name("eu"),
        expires_ms: NOW_MS + HOUR_MS,
    }
}

pub(super) fn redeem(number: u8) -> Action {
    Action::RedeemToken {
        token: token(number),
        secret_hash: [number; 32],
        csr_digest: [number; 32],
        name: name(&format!("n{number}")),
        addresses: addresses(&format!("n{number}")),
    }
}

/// A state and the number of its next request.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) state: State,
    pub(super) request: u64,
    pub(super) now_ms: u64,
}

impl Scene {
    pub(super) fn empty() -> Self {
        Self { state: State::default(), request: 0, now_ms: NOW_MS }
    }

    /// One member with every role, factor 3.
    pub(super) fn alone() -> Self {
        let mut scene = Self::empty();
        scene.accept(Action::Bootstrap(bootstrap(3)));
        scene
    }

    /// `count` active members with every role, factor 3; every group stands as it is wished.
    pub(super) fn with_members(count: u8) -> Self {
        let mut scene = Self::alone();
        for number in 2..=count {
            scene.join(number, Roles::all());
        }
        scene.stand();
        scene
    }

    pub(super) fn command(&mut self, action: Action) -> Command {
        self.request += 1;
        let mut request = [0; 16];
        request[..8].copy_from_slice(&self.request.to_le_bytes());
        Command { request: RequestId(request), now_ms: self.now_ms, action }
    }

    pub(super) fn apply(&mut self, command: &Command) -> Outcome {
        self.state.apply(LogIndex(self.state.applied().0 + 1), command)
    }

    pub(super) fn ask(&mut self, action: Action) -> Outcome {
        let command = self.command(action);
        self.apply(&command)
    }

    pub(super) fn accept(&mut self, action: Action) -> Accepted {
        let shown = format!("{action:?}");
        self.ask(action).unwrap_or_else(|refused| panic!("{shown}: {refused}"))
    }

    /// Takes in a member by token, certificate and its own word. Its token, name and certificate bear `number`.
    pub(super) fn join(&mut self, number: u8, roles: Roles) -> NodeId {
        self.accept(issue(number, roles));
        let Change::Redeemed { node, .. } = self.accept(redeem(number)).change else { panic!("no member came") };
        self.accept(Action::CertificateIssued { node, certificate: fact(u64::from(number)) });
        self.accept(Action::MemberUpdate { node, addresses: addresses(&format!("n{number}")) });
        node
    }

    /// Every group reports that it stands as it is wished.
    pub(super) fn stand(&mut self) {
        for group in self.cluster().groups().collect::<Vec<_>>() {
            let config = self.cluster().wished(group).expect("a wish").config.clone();
            let at = LogIndex(self.cluster().standing(group).expect("it stands").at.0 + 1);
            self.accept(Action::Report { group, config, at });
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        self.state.cluster().expect("the cluster is formed")
    }

    pub(super) fn voters(&self, group: Group) -> Vec<u64> {
        self.cluster().wished(group).expect("a wish").config.voters.iter().map(|node| node.0).collect()
    }

    pub(super) fn learners(&self, group: Group) -> Vec<u64> {
        self.cluster().wished(group).expect("a wish").config.learners.iter().map(|node| node.0).collect()
    }
}

pub(super) fn storage_only() -> Roles {
    [Role::Storage].into_iter().collect()
}
