//! What can be asked of the control plane.
//!
//! Promises: a command carries all that its outcome depends on, the time included.
//! Does not: say who may ask; that is checked before it is proposed.

use serde::{Deserialize, Serialize};

use crate::control::{Address, Addresses, CertificateFact, Domain, Group, GroupConfig, Name, Roles, Serial, TokenId};
use crate::ids::{LogIndex, NodeId, ShardId};

/// One proposal. Who repeats it after a lost answer repeats the request id and the action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Chosen by the asker at random.
    pub request: RequestId,
    /// The proposer's clock, in milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// What is asked.
    pub action: Action,
}

/// Names one request for as long as its outcome is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Forms the cluster with its first member.
    Bootstrap(Bootstrap),
    /// Permits one node to join.
    IssueToken {
        /// Its public half, chosen by the asker.
        token: TokenId,
        /// BLAKE3 of its secret half.
        secret_hash: [u8; 32],
        /// What the node will be.
        roles: Roles,
        /// Where the node will stand.
        region: Name,
        /// Until when, in milliseconds since 1970-01-01 UTC.
        expires_ms: u64,
    },
    /// Takes the permission back; who has used the token stays a member.
    WithdrawToken {
        /// The token.
        token: TokenId,
    },
    /// Uses a token: the node gets an id and is joining.
    RedeemToken {
        /// The token.
        token: TokenId,
        /// BLAKE3 of the secret that was shown.
        secret_hash: [u8; 32],
        /// Digest of the node's certificate request: the same may ask again, another may not.
        csr_digest: [u8; 32],
        /// What the node will be called.
        name: Name,
        /// Where it will be reached.
        addresses: Addresses,
    },
    /// The node speaks for itself, under its certificate. The first time makes a joining node active.
    MemberUpdate {
        /// The node.
        node: NodeId,
        /// Where it is reached.
        addresses: Addresses,
    },
    /// The authority signed a certificate for a node that has no good one.
    CertificateIssued {
        /// Whose it is.
        node: NodeId,
        /// Its serial and end.
        certificate: CertificateFact,
    },
    /// The authority signed the next certificate of a node.
    Renew {
        /// Whose it is.
        node: NodeId,
        /// The one it follows.
        replaces: Serial,
        /// The new one.
        certificate: CertificateFact,
    },
    /// A certificate must not be believed any more.
    Revoke {
        /// Its serial.
        serial: Serial,
    },
    /// The node gives up its offices and, where enough others can vote, its votes.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// The node takes part again.
    Undrain {
        /// The node.
        node: NodeId,
    },
    /// The node leaves for good; its certificates are revoked.
    Remove {
        /// The node.
        node: NodeId,
        /// Do not ask for a drain first: the node is dead. A majority must stand without it all the same.
        force: bool,
    },
    /// How many copies vote.
    SetReplication {
        /// Copies with a vote that are wished, 1 to 5; the odd number below is used.
        factor: u8,
        /// With two members: let both vote. Every write is then on both disks, and either node's death stops writes.
        pair_votes: bool,
    },
    /// Wishes a primary for a shard.
    Promote {
        /// The shard.
        shard: ShardId,
        /// One of its voters.
        node: NodeId,
    },
    /// A group's primary says which configuration its group has committed.
    Report {
        /// The group.
        group: Group,
        /// Its configuration.
        config: GroupConfig,
        /// Where in the group's log it stands; an older report changes nothing.
        at: LogIndex,
    },
    // Commands stand in logs: what is new comes last.
    /// The node shall get its next certificate now, not at two thirds of its life.
    AskRenewal {
        /// The node.
        node: NodeId,
    },
}

/// How a cluster is formed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Chosen at random; stands in every certificate's authority.
    pub cluster_id: [u8; 16],
    /// What people call it.
    pub cluster_name: Name,
    /// The trust domain.
    pub domain: Domain,
    /// Slots, a power of two.
    pub slot_count: u16,
    /// Shards.
    pub shard_count: u16,
    /// Copies with a vote that are wished.
    pub replication_factor: u8,
    /// The first member's name.
    pub name: Name,
    /// The first member's region.
    pub region: Name,
    /// The first member's roles: control and storage at least.
    pub roles: Roles,
    /// Where the first member is reached.
    pub addresses: Addresses,
    /// The first member's certificate.
    pub certificate: CertificateFact,
}

impl Addresses {
    /// Only the mesh.
    pub fn mesh_only(mesh: Address) -> Self {
        Self { mesh, http: None, quic: None }
    }
}
