//! What comes of a command: accepted with its result, or refused with a reason that says what to do.
//!
//! Promises: a refused command has changed nothing.
//! Does not: speak a door's language; [`Refused`] becomes the house's [`Refusal`].

use serde::{Deserialize, Serialize};

use crate::control::{
    CERTIFICATE_LIFETIME_MS_MAX, CERTIFICATES_MAX, Group, MEMBERS_MAX, MemberState, Name, REPLICATION_FACTOR_MAX,
    Roles, SHARDS_MAX, SLOTS_MAX, Serial, TOKEN_LIFETIME_MS_MAX, TOKENS_MAX,
};
use crate::error::{Reason, Refusal};
use crate::ids::{Epoch, NodeId, ShardId};

/// What comes of a command.
pub type Outcome = Result<Accepted, Refused>;

/// An accepted command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The epoch after it.
    pub epoch: Epoch,
    /// What it did.
    pub change: Change,
    /// What the asker should know of the topology that stands now; only when the epoch grew.
    pub warnings: Vec<Warning>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It was so already.
    Unchanged,
    /// The cluster exists.
    Bootstrapped {
        /// Its first member.
        node: NodeId,
    },
    /// The token can be used.
    TokenIssued,
    /// The token can be used no more.
    TokenWithdrawn,
    /// The node is a joining member.
    Redeemed {
        /// Its id.
        node: NodeId,
        /// Its region.
        region: Name,
        /// Its roles.
        roles: Roles,
    },
    /// The member is as it said.
    Updated {
        /// Whether it has just become active.
        activated: bool,
    },
    /// The member's certificate is known.
    CertificateRecorded,
    /// The certificate is not to be believed.
    Revoked {
        /// Whose it is.
        owner: NodeId,
        /// Whether the owner speaks with it: it is cut off until it gets another.
        current: bool,
    },
    /// The member gives up its offices.
    Drained,
    /// The member takes part again.
    Undrained,
    /// The member is gone.
    Removed {
        /// Certificates revoked with it.
        revoked_count: u32,
    },
    /// The policy is as asked.
    ReplicationSet,
    /// The wish for the shard's primary is noted.
    Preferred,
    /// The configuration is noted.
    Reported,
    /// The member gets its next certificate.
    RenewalAsked,
}

/// What an asker should know though the command was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Warning {
    /// There are not as many copies as wished.
    #[error("{copies} of {wished} wished copies of every shard: {} more member(s) with the role storage are needed", .wished.saturating_sub(*.copies))]
    FewCopies {
        /// Copies that are there.
        copies: u8,
        /// Copies that are wished.
        wished: u8,
    },
    /// One copy decides alone.
    #[error("one of two copies votes: a write is acknowledged by one disk; add a third member, or let the pair vote")]
    OneOfTwoVotes,
    /// Both copies must be there.
    #[error("both copies vote: either node's death stops writes; a third member cures it")]
    PairVotes,
    /// An even factor gives the odd number of votes below it.
    #[error("{wished} copies are wished and {votes} vote: an even vote survives no more failures and waits longer")]
    EvenFactor {
        /// The factor.
        wished: u8,
        /// The votes.
        votes: u8,
    },
    /// The control group survives no failure.
    #[error(
        "the control group has {votes} vote(s) and survives no failure; it wants three members with the role control"
    )]
    ControlFragile {
        /// Votes of the control group.
        votes: u8,
    },
    /// Too few others could vote.
    #[error(
        "{node} drains but still votes in {group}: too few others could; it may be stopped for a while, or removed"
    )]
    KeepsVote {
        /// The draining node.
        node: NodeId,
        /// The group.
        group: Group,
    },
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// There is no cluster yet.
    #[error("there is no cluster yet; form one, or join one")]
    NotBootstrapped,
    /// There is a cluster.
    #[error("the cluster is formed already")]
    AlreadyBootstrapped,
    /// The request id was used for something else.
    #[error("this request id was used for another command; choose another at random")]
    RequestReused,
    /// Slots and shards do not fit.
    #[error("slots are a power of two up to {SLOTS_MAX}, shards 1 to {SHARDS_MAX} and no more than slots")]
    Counts,
    /// The replication factor is out of range.
    #[error("the replication factor is 1 to {REPLICATION_FACTOR_MAX}")]
    ReplicationFactor,
    /// No roles, or not those a first member needs.
    #[error("roles are missing: a member has at least one, the first member has control and storage")]
    Roles,
    /// No such node.
    #[error("{0} is not a member")]
    UnknownNode(NodeId),
    /// The node is in another part of its life.
    #[error("{node} is {}; this needs a member that is {wanted}", .state.name())]
    NodeState {
        /// The node.
        node: NodeId,
        /// Where it is.
        state: MemberState,
        /// Where it should be.
        wanted: Wanted,
    },
    /// The name is taken.
    #[error("the name {name} is that of {node}; remove that member first, or choose another name")]
    NameTaken {
        /// The name.
        name: Name,
        /// Whose it is.
        node: NodeId,
    },
    /// There are as many members as there may be.
    #[error("the cluster has {MEMBERS_MAX} members, the most it can have; remove one first")]
    MembersFull,
    /// There is such a token.
    #[error("a token with this id exists; choose another at random")]
    TokenExists,
    /// No such token, or the secret is not its secret; which of the two is not told.
    #[error("no token with this id and secret is known; issue another")]
    TokenUnknown,
    /// The token's time is over.
    #[error("the token has expired; issue another")]
    TokenExpired,
    /// The token was used with another certificate request.
    #[error("the token was used by {0} with another key; issue another, and remove {0} if nobody knows it")]
    TokenUsed(NodeId),
    /// The token's end is past or too far.
    #[error("a token ends in the future, at most {} days from now", TOKEN_LIFETIME_MS_MAX / 86_400_000)]
    TokenLifetime,
    /// There are as many tokens as there may be.
    #[error("{TOKENS_MAX} tokens are known, the most there can be; withdraw one, or wait until one expires")]
    TokensFull,
    /// The serial was issued before.
    #[error("serial {0} was issued before; choose another at random")]
    SerialExists(Serial),
    /// The serial is not known.
    #[error("serial {0} is not one of ours, or expired long ago")]
    SerialUnknown(Serial),
    /// The certificate's end is past or too far.
    #[error("a certificate ends in the future, at most {} days from now", CERTIFICATE_LIFETIME_MS_MAX / 86_400_000)]
    CertificateLifetime,
    /// The node has a good certificate.
    #[error("{0} has a good certificate; renew it, or revoke it first")]
    CertificateStands(NodeId),
    /// What is to be renewed is not what the node speaks with, or is good no more.
    #[error("{0} does not speak with that certificate, or it is expired or revoked; it needs a new one, not a renewal")]
    NotRenewable(NodeId),
    /// There are as many certificates as there may be.
    #[error("{CERTIFICATES_MAX} certificates are remembered, the most there can be; wait until one is forgotten")]
    CertificatesFull,
    /// The node should be drained before it is removed.
    #[error("{0} is active; drain it first, or force the removal if it is dead")]
    DrainFirst(NodeId),
    /// Without the node, a group has no majority.
    #[error(
        "without {node}, {group} would keep {remaining} of {voters} voters, less than a majority; drain it and wait until \
         the topology shows no vote of it, or add a member first (no force helps here)"
    )]
    MajorityLost {
        /// The node.
        node: NodeId,
        /// The group.
        group: Group,
        /// Voters of the configuration that stands.
        voters: u8,
        /// Those of them that would be left.
        remaining: u8,
    },
    /// Nobody could take over from the node.
    #[error("no other active member could take over from {node} in {group}; add one first")]
    NothingToTakeOver {
        /// The node.
        node: NodeId,
        /// The group.
        group: Group,
    },
    /// No such shard.
    #[error("there is no such shard: {}", .0.0)]
    UnknownShard(ShardId),
    /// The node has no vote in the shard, or gives it up.
    #[error("{node} is not an active voter of shard {}; promote one of its voters, which the topology lists", .shard.0)]
    NotVoter {
        /// The node.
        node: NodeId,
        /// The shard.
        shard: ShardId,
    },
    /// A report that cannot be of one of our groups.
    #[error("the reported configuration of {0} has no voter, a member twice, or more members than there can be")]
    Report(Group),
}

/// The part of its life in which a member can be what the command asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Wanted {
    /// Not removed.
    #[error("not removed")]
    Here,
    /// Active.
    #[error("active")]
    Active,
    /// Draining.
    #[error("draining")]
    Draining,
    /// Active or draining.
    #[error("active or draining")]
    Standing,
    /// With a good certificate.
    #[error("one with a good certificate")]
    Certified,
}

impl Refused {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::UnknownNode(_) | Self::UnknownShard(_) | Self::SerialUnknown(_) => Reason::NotFound,
            Self::TokenUnknown | Self::TokenExpired | Self::TokenUsed(_) => Reason::Denied,
            Self::MembersFull | Self::TokensFull | Self::CertificatesFull => Reason::LimitExceeded,
            Self::NotBootstrapped => Reason::Unavailable,
            Self::Counts
            | Self::ReplicationFactor
            | Self::Roles
            | Self::TokenLifetime
            | Self::CertificateLifetime
            | Self::Report(_) => Reason::BadRequest,
            Self::AlreadyBootstrapped
            | Self::RequestReused
            | Self::NodeState { .. }
            | Self::NameTaken { .. }
            | Self::TokenExists
            | Self::SerialExists(_)
            | Self::CertificateStands(_)
            | Self::NotRenewable(_)
            | Self::DrainFirst(_)
            | Self::MajorityLost { .. }
            | Self::NothingToTakeOver { .. }
            | Self::NotVoter { .. } => Reason::Conflict,
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::new(refused.reason(), refused.to_string())
    }
}
