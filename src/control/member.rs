//! The words of a member: names, addresses, roles, and the life of a member.
//!
//! Promises: a name, domain or address that exists was checked, whoever sent it; a set of roles has no unknown role.
//! Does not: resolve an address or judge whether a role is permitted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::control::Serial;

/// Name of a cluster, region or member, in bytes: one DNS label.
pub(super) const NAME_BYTES_MAX: usize = 63;
/// Domain of a cluster, in bytes.
pub(super) const DOMAIN_BYTES_MAX: usize = 253;
/// An address, in bytes: a domain name, a colon and a port.
pub(super) const ADDRESS_BYTES_MAX: usize = DOMAIN_BYTES_MAX + 6;

/// A member of the cluster, past ones included. Its id is the key it is found under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What people call it; no two members that are not removed share one.
    pub name: Name,
    /// Where it stands.
    pub region: Name,
    /// What it may do.
    pub roles: Roles,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The certificate it speaks with, if one was recorded.
    pub certificate: Option<CertificateFact>,
    /// Where it is in its life.
    pub state: MemberState,
    /// When it was taken in, by its proposer's clock, in milliseconds since 1970-01-01 UTC.
    pub joined_ms: u64,
}

/// The life of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Its token was redeemed; it has not yet spoken for itself. Holds no copy.
    Joining,
    /// Holds copies, may vote and be primary.
    Active,
    /// Holds copies, is no primary, and votes only where too few others could.
    Draining,
    /// Gone; its id is never given again.
    Removed {
        /// When, in milliseconds since 1970-01-01 UTC.
        removed_ms: u64,
    },
}

/// The certificate of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFact {
    /// Its serial.
    pub serial: Serial,
    /// When it ends, in milliseconds since 1970-01-01 UTC.
    pub expires_ms: u64,
}

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// By other members.
    pub mesh: Address,
    /// By clients over HTTPS.
    pub http: Option<Address>,
    /// By clients over QUIC.
    pub quic: Option<Address>,
}

/// One DNS label: 1 to 63 bytes of `a-z 0-9 -`, no hyphen at either end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A domain: labels with dots between them, at most 253 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// `host:port`: a domain name or an IP address, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

/// Why a text is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not a [`Name`].
    #[error("a name is 1 to {NAME_BYTES_MAX} bytes of a-z, 0-9 and -, with no - at either end")]
    Name,
    /// Not a [`Domain`].
    #[error("a domain is names with dots between them, at most {DOMAIN_BYTES_MAX} bytes")]
    Domain,
    /// Not an [`Address`].
    #[error("an address is HOST:PORT, an IPv6 host in brackets, at most {ADDRESS_BYTES_MAX} bytes")]
    Address,
    /// Not a [`Role`].
    #[error(
        "a role is one of control, coordinator, gateway, bridge, search, analytics, registry, storage, worker, cache, edge"
    )]
    Role,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// May vote in the control group.
    Control,
    /// Drives transactions over several shards.
    Coordinator,
    /// A door of its region.
    Gateway,
    /// Joins regions.
    Bridge,
    /// Answers searches.
    Search,
    /// Answers analytical questions.
    Analytics,
    /// Answers the registry's questions.
    Registry,
    /// Holds copies of shards.
    Storage,
    /// Walks the graph.
    Worker,
    /// Caches vertices.
    Cache,
    /// Caches vertices near the caller.
    Edge,
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Roles(u16);

impl Role {
    /// Every role; the place of each is its bit.
    pub const ALL: [Self; 11] = [
        Self::Control,
        Self::Coordinator,
        Self::Gateway,
        Self::Bridge,
        Self::Search,
        Self::Analytics,
        Self::Registry,
        Self::Storage,
        Self::Worker,
        Self::Cache,
        Self::Edge,
    ];

    /// The word for it in commands, configuration and certificates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Coordinator => "coordinator",
            Self::Gateway => "gateway",
            Self::Bridge => "bridge",
            Self::Search => "search",
            Self::Analytics => "analytics",
            Self::Registry => "registry",
            Self::Storage => "storage",
            Self::Worker => "worker",
            Self::Cache => "cache",
            Self::Edge => "edge",
        }
    }

    fn bit(self) -> u16 {
        1 << Self::ALL.iter().take_while(|&&role| role != self).count()
    }
}

impl FromStr for Role {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(TextError::Role)
    }
}

impl Roles {
    /// Every role: the embedded default.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// Whether the set has `role`.
    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles in the order of [`Role::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |&role| self.has(role))
    }
}

impl FromStr for Roles {
    type Err = TextError;

    fn from_str(words: &str) -> Result<Self, TextError> {
        words.split(',').map(|word| word.trim().parse::<Role>()).collect()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

impl TryFrom<u16> for Roles {
    type Error = TextError;

    fn try_from(bits: u16) -> Result<Self, TextError> {
        if bits < 1 << Role::ALL.len() { Ok(Self(bits)) } else { Err(TextError::Role) }
    }
}

impl From<Roles> for u16 {
    fn from(roles: Roles) -> Self {
        roles.0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, role) in self.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { "," }, role.name())?;
        }
        Ok(())
    }
}

impl MemberState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Removed { .. } => "removed",
        }
    }

    /// Whether the member is gone.
    pub fn is_removed(self) -> bool {
        matches!(self, Self::Removed { .. })
    }
}

impl Member {
    /// Whether it holds copies of shards now.
    pub fn holds_copies(&self) -> bool {
        self.roles.has(Role::Storage) && matches!(self.state, MemberState::Active | MemberState::Draining)
    }

    /// Whether routers must hear of the difference between two forms of a member: anything but its certificate, which
    /// changes with every renewal.
    pub(super) fn differs_in_topology(&self, other: &Self) -> bool {
        self != &Self { certificate: self.certificate, ..other.clone() }
    }
}

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_domain(text: &str) -> bool {
    text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(is_name)
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_fits = port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == port);
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match inside {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_domain(host),
    };
    text.len() <= ADDRESS_BYTES_MAX && port_fits && host_fits
}

macro_rules! checked_text {
    ($type:ident, $error:expr, $check:path) => {
        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = TextError;

            fn try_from(text: String) -> Result<Self, TextError> {
                if $check(&text) { Ok(Self(text)) } else { Err($error) }
            }
        }

        impl FromStr for $type {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$type> for String {
            fn from(text: $type) -> Self {
                text.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(Name, TextError::Name, is_name);
checked_text!(Domain, TextError::Domain, is_domain);
checked_text!(Address, TextError::Address, is_address);
