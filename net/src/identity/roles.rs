//! The roles that a node may hold.
//!
//! Promises: one word a role, the same in certificates, configuration and messages; an unknown word is refused with the
//! list of those that exist.
//! Does not: say what a role may do.

use std::{fmt, str::FromStr};

/// One role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Voter of the metadata group.
    Control = 0,
    /// The region's door for clients.
    Gateway = 1,
    /// Replicas of shards.
    Storage = 2,
    /// Questions about the graph.
    Worker = 3,
    /// Feeds to and from other regions.
    Bridge = 4,
    /// Vertices near the caller.
    Cache = 5,
}

impl Role {
    /// Every role, in the order of its bit.
    pub const ALL: [Self; 6] = [Self::Control, Self::Gateway, Self::Storage, Self::Worker, Self::Bridge, Self::Cache];

    /// The role's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Gateway => "gateway",
            Self::Storage => "storage",
            Self::Worker => "worker",
            Self::Bridge => "bridge",
            Self::Cache => "cache",
        }
    }

    /// The role with that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.word())
    }
}

/// A set of roles. As text: words with commas between them, in the order of [`Role::ALL`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// No role.
    pub const NONE: Self = Self(0);
    /// Every role: what a node that is alone holds.
    pub const ALL: Self = Self((1 << Role::ALL.len()) - 1);

    /// The set of these roles.
    pub const fn of(roles: &[Role]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < roles.len() {
            bits |= 1 << roles[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Whether `role` is among them.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// Whether the two sets share a role.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is no role in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles, in the order of [`Role::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |&role| self.contains(role))
    }

    /// Reads the words of a certificate. A word that this version does not know grants nothing here, so that nodes of
    /// the next version are not shut out while a cluster is upgraded.
    pub(crate) fn from_certificate(words: &str) -> Self {
        let known: Vec<Role> = words.split(',').filter_map(|word| Role::from_word(word.trim())).collect();
        Self::of(&known)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Role::word).collect();
        formatter.pad(&words.join(","))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Roles({self})")
    }
}

impl FromStr for Roles {
    type Err = RolesError;

    fn from_str(text: &str) -> Result<Self, RolesError> {
        if text.trim().is_empty() {
            return Err(RolesError::Empty);
        }
        let known = text.split(',').map(str::trim).map(|word| {
            Role::from_word(word).ok_or_else(|| RolesError::Unknown { word: word.chars().take(32).collect() })
        });
        Ok(Self::of(&known.collect::<Result<Vec<_>, _>>()?))
    }
}

/// Why a text is no set of roles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolesError {
    /// No word at all.
    #[error("no role given; the roles are {}", Roles::ALL)]
    Empty,
    /// A word that is no role.
    #[error("no role {word:?}; the roles are {}", Roles::ALL)]
    Unknown {
        /// The word, cut short.
        word: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_1_4_roles_are_read_and_printed_as_comma_words() {
        fn check(text: &str, expected: Result<&str, RolesError>) {
            let read = text.parse::<Roles>();
            assert_eq!(read.map(|roles| roles.to_string()), expected.map(str::to_owned), "{text:?}");
        }
        let unknown = |word: &str| Err(RolesError::Unknown { word: word.to_owned() });
        check("control", Ok("control"));
        check("worker, storage", Ok("storage,worker"));
        check("control,gateway,storage,worker,bridge,cache", Ok("control,gateway,storage,worker,bridge,cache"));
        check("storage,storage", Ok("storage"));
        check("", Err(RolesError::Empty));
        check(" ", Err(RolesError::Empty));
        check("storage,", unknown(""));
        check("Storage", unknown("Storage"));
        check("master", unknown("master"));
        let error = "master".parse::<Roles>().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("control,gateway,storage,worker,bridge,cache"), "{error}");
        assert_eq!(Roles::of(&Role::ALL), Roles::ALL);
        assert_eq!(Roles::NONE.to_string(), "");
    }

    #[test]
    fn s6_1_4_a_role_of_a_later_version_grants_nothing_and_shuts_nobody_out() {
        let read = Roles::from_certificate("storage,oracle,control2");
        assert_eq!(read, Roles::of(&[Role::Storage]));
        assert_eq!(Roles::from_certificate(""), Roles::NONE);
    }
}
