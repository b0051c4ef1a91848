//! What a node is called, and its SPIFFE identity.
//!
//! Promises: a name that was parsed fits a certificate, a URI, a log line and a file name as it is.
//! Does not: know whether such a node exists.

use super::roles::Roles;

/// Length of a trust domain, region or node name, in bytes: what a certificate's common name holds.
pub const NAME_BYTES_MAX: usize = 64;

/// Who a node is among nodes: `spiffe://<domain>/region/<region>/node/<node>`, its number and its roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    domain: String,
    region: String,
    node: String,
    id: u64,
    roles: Roles,
}

impl NodeIdentity {
    /// An identity of these parts.
    pub fn new(domain: &str, region: &str, node: &str, id: u64, roles: Roles) -> Result<Self, NameError> {
        check_domain(domain)?;
        check_segment("region", region)?;
        check_segment("node", node)?;
        Ok(Self { domain: domain.to_owned(), region: region.to_owned(), node: node.to_owned(), id, roles })
    }

    /// Reads `spiffe://<domain>/region/<region>/node/<node>`.
    pub fn from_spiffe_id(text: &str, id: u64, roles: Roles) -> Result<Self, NameError> {
        let parts = text.strip_prefix("spiffe://").and_then(|rest| {
            let (domain, rest) = rest.split_once("/region/")?;
            let (region, node) = rest.split_once("/node/")?;
            Some((domain, region, node))
        });
        let (domain, region, node) = parts.ok_or_else(|| NameError::NotSpiffe { found: short(text) })?;
        Self::new(domain, region, node, id, roles)
    }

    /// `spiffe://<domain>/region/<region>/node/<node>`.
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{}/region/{}/node/{}", self.domain, self.region, self.node)
    }

    /// The trust domain: the cluster's name among clusters.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The node's name, unique in its region.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The node's number, unique in its cluster and never given twice.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the node may be.
    pub fn roles(&self) -> Roles {
        self.roles
    }
}

/// A SPIFFE trust domain: lower-case letters, digits, dots, dashes and underscores.
fn check_domain(text: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    check("trust domain", text, "lower-case letters, digits, '.', '-' and '_'", fits)
}

/// A segment of a SPIFFE path: letters, digits, dots, dashes and underscores.
fn check_segment(what: &'static str, text: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    check(what, text, "letters, digits, '.', '-' and '_'", fits)
}

fn check(what: &'static str, text: &str, permitted: &'static str, fits: impl Fn(u8) -> bool) -> Result<(), NameError> {
    let is_dots = text == "." || text == "..";
    if text.is_empty() || NAME_BYTES_MAX < text.len() || is_dots || !text.bytes().all(fits) {
        return Err(NameError::Unfit { what, found: short(text), permitted });
    }
    Ok(())
}

/// What a message shows of a text that may be anything.
fn short(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).collect()
}

/// Why a text names no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not of the form of a node's identity.
    #[error("{found:?} is not of the form spiffe://<domain>/region/<region>/node/<node>")]
    NotSpiffe {
        /// The text, cut short.
        found: String,
    },
    /// A part has the wrong length or characters.
    #[error("{what} {found:?} must be 1 to {NAME_BYTES_MAX} of {permitted}")]
    Unfit {
        /// Which part.
        what: &'static str,
        /// The part, cut short.
        found: String,
        /// What it may consist of.
        permitted: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_1_4_spiffe_identities_are_read_strictly() {
        fn check(text: &str, is_read: bool) {
            let read = NodeIdentity::from_spiffe_id(text, 7, Roles::ALL);
            assert_eq!(read.is_ok(), is_read, "{text:?}: {read:?}");
            if let Ok(read) = read {
                assert_eq!(read.spiffe_id(), text);
            }
        }
        check("spiffe://qmesh.local/region/eu/node/mcp-shard-00", true);
        check("spiffe://a/region/b/node/C_d.e", true);
        check("", false);
        check("spiffe://", false);
        check("https://qmesh.local/region/eu/node/n", false);
        check("spiffe://qmesh.local/region/eu", false);
        check("spiffe://qmesh.local/region/eu/node/", false);
        check("spiffe:///region/eu/node/n", false);
        check("spiffe://Qmesh.local/region/eu/node/n", false);
        check("spiffe://qmesh.local:80/region/eu/node/n", false);
        check("spiffe://qmesh.local/region/eu/node/n/more", false);
        check("spiffe://qmesh.local/region/eu/node/n/node/m", false);
        check("spiffe://qmesh.local/region/../node/n", false);
        check("spiffe://qmesh.local/region/eu/node/n%20", false);
        check("spiffe://qmesh.local/region/eu/node/n\n", false);
        check(&format!("spiffe://qmesh.local/region/eu/node/{}", "n".repeat(NAME_BYTES_MAX)), true);
        check(&format!("spiffe://qmesh.local/region/eu/node/{}", "n".repeat(NAME_BYTES_MAX + 1)), false);
    }
}
