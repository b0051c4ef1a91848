//! Which roles an operation between nodes needs.
//!
//! Promises: one table; a caller without an identity is permitted nothing; a refusal names the caller, its roles and the
//! roles that would do, and stands in the log once.
//! Does not: sort operations into classes. Each room does that for its own.

use std::fmt;

use qmesh_net::identity::{PeerIdentity, Role, Roles};
use qmesh_net::rpc::server::Replies;

use crate::error::{Reason, Refusal};

/// What kind of thing a node asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationClass {
    /// Entries, votes and segments of shards.
    Replication,
    /// Changes of what the cluster is.
    Control,
    /// Signs of life, reports of load, and where everybody is.
    Membership,
    /// Reads and writes of clients that another node has taken.
    Forwarding,
}

impl OperationClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Replication, Self::Control, Self::Membership, Self::Forwarding];

    /// The roles of which the caller needs one; `None` where every member may.
    pub fn needs(self) -> Option<Roles> {
        match self {
            Self::Replication => Some(Roles::of(&[Role::Storage])),
            Self::Control => Some(Roles::of(&[Role::Control])),
            Self::Membership => None,
            Self::Forwarding => Some(Roles::of(&[Role::Gateway, Role::Storage, Role::Worker])),
        }
    }
}

impl fmt::Display for OperationClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Replication => "replication",
            Self::Control => "control commands",
            Self::Membership => "membership",
            Self::Forwarding => "forwarded reads and writes",
        })
    }
}

/// Whether a node with these roles may ask such a thing.
pub fn permits(class: OperationClass, roles: Roles) -> bool {
    class.needs().is_none_or(|needed| needed.intersects(roles))
}

/// Whether this caller may ask such a thing.
pub fn decide(class: OperationClass, caller: Option<&PeerIdentity>) -> Result<(), Refusal> {
    let denied = |detail: String| Err(Refusal::new(Reason::Denied, detail));
    let Some(caller) = caller else {
        return denied(format!("{class} is between nodes; connect with a node's certificate"));
    };
    let identity = &caller.identity;
    match class.needs() {
        Some(needed) if !needed.intersects(identity.roles()) => denied(format!(
            "{} has the roles {} and {class} needs one of {needed}; give it the role and a new certificate",
            identity.spiffe_id(),
            identity.roles(),
        )),
        _ => Ok(()),
    }
}

/// Decides on the caller of a stream, and tells the log of a refusal.
pub fn authorise(class: OperationClass, replies: &Replies) -> Result<(), Refusal> {
    decide(class, replies.identity()).inspect_err(|refusal| {
        tracing::warn!(peer = %replies.peer(), reason = %refusal.detail, "peer refused");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_1_4_the_table_of_what_roles_may() {
        fn check(class: OperationClass, permitted: &[Role]) {
            for role in Role::ALL {
                let expected = permitted.contains(&role);
                assert_eq!(permits(class, Roles::of(&[role])), expected, "{class}: {role}");
            }
            assert!(permits(class, Roles::ALL), "{class}");
        }
        check(OperationClass::Replication, &[Role::Storage]);
        check(OperationClass::Control, &[Role::Control]);
        check(OperationClass::Membership, &Role::ALL);
        check(OperationClass::Forwarding, &[Role::Gateway, Role::Storage, Role::Worker]);
        let nothing: Vec<_> = OperationClass::ALL.into_iter().filter(|&class| permits(class, Roles::NONE)).collect();
        assert_eq!(nothing, [OperationClass::Membership]);
        for class in OperationClass::ALL {
            let refused = decide(class, None).map_err(|refusal| refusal.reason);
            assert_eq!(refused, Err(Reason::Denied), "{class}: a client is no member");
        }
    }
}
