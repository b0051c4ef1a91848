//! What a node that belongs to a cluster keeps beside its logs: who it is, its certificate, and, with the role control, the
//! authority's key.
//!
//! ```text
//! cluster.toml        who this node is (version first)
//! mesh/node.pem       its key and certificate
//! mesh/ca.pem         the authority that it believes
//! mesh/generation     the number of its last life
//! ca/ca.pem, ca.key   the authority itself
//! ```
//!
//! Promises: `init` and `join` write everything or leave a directory that a second try can use; nothing secret is readable by
//! others. Does not: start the node.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use qmesh_net::identity::{AUTHORITY_CERTIFICATE_FILE, Authority, Fingerprint, LEAF_LIFE, Leaf, Names};
use qmesh_net::peer::Credentials;
use qmesh_net::rpc::client::ClientOptions;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::superblock::{Superblock, SuperblockError};
use crate::control::ask::{JoinerSays, JoinerTold, from_json, to_json};
use crate::control::driver::plane;
use crate::control::{Address, Addresses, Name, Roles};
use crate::error::Refusal;
use crate::ids::{NodeId, hex};
use crate::limits::{SHARDS_DEFAULT, SLOTS_DEFAULT};
use crate::security::join::{JoinError, join as join_cluster};
use crate::security::token::JoinToken;

const FILE: &str = "cluster.toml";
const VERSION: u32 = 1;
/// A life takes more generations when the others held it for dead; at most about so many.
const GENERATIONS_OF_A_LIFE: u64 = 1 << 20;
/// Roles of a node whose maker says nothing.
pub const ROLES_DEFAULT: &str = "control,gateway,storage,worker";

/// Who a node is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Version of this file; first, so that any build can read it.
    pub version: u32,
    /// The cluster, in hexadecimal.
    pub cluster: String,
    /// What people call the cluster.
    pub cluster_name: String,
    /// The trust domain.
    pub domain: String,
    /// This node's number.
    pub node: u64,
    /// This node's name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its roles, as comma words.
    pub roles: String,
    /// Where it listens for other nodes.
    pub mesh: SocketAddr,
    /// Members with the role control, as they were known when it joined.
    pub contacts: Vec<SocketAddr>,
    /// Whether it forms the cluster.
    pub is_first: bool,
    /// Slots of the cluster.
    #[serde(default = "slots_default")]
    pub slots: u16,
    /// Shards of the cluster.
    #[serde(default = "shards_default")]
    pub shards: u16,
}

fn slots_default() -> u16 {
    SLOTS_DEFAULT
}

fn shards_default() -> u16 {
    SHARDS_DEFAULT
}

/// Why a node has no place in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} cannot be read: {what}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The directory holds something already.
    #[error("{path} holds a node already; name an empty directory with --data")]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// A name, address or role cannot be used.
    #[error("{0}")]
    Text(String),
    /// Keys and certificates.
    #[error("keys and certificates: {0}")]
    Identity(String),
    /// The data directory.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The cluster did not take the node.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The cluster answered what this build does not understand.
    #[error("{0}")]
    Answer(Refusal),
}

/// What `init` and `join` are told of the new node.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Its data directory.
    pub data: PathBuf,
    /// Its name.
    pub name: String,
    /// Where it listens for other nodes.
    pub mesh: SocketAddr,
}

impl Membership {
    /// Who the node of `data` is; `None` when it belongs to no cluster.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn read(data: &Path) -> Result<Option<Self>, ClusterError> {
        let path = data.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ClusterError::Io { path, error }),
        };
        let membership: Self = toml::from_str(&text)
            .map_err(|error| ClusterError::Unreadable { path: path.clone(), what: error.message().to_owned() })?;
        if membership.version != VERSION {
            let what = format!("version {}; this build reads version {VERSION}", membership.version);
            return Err(ClusterError::Unreadable { path, what });
        }
        Ok(Some(membership))
    }

    fn write(&self, data: &Path) -> Result<(), ClusterError> {
        let path = data.join(FILE);
        let text = toml::to_string(self)
            .map_err(|error| ClusterError::Unreadable { path: path.clone(), what: error.to_string() })?;
        let partial = data.join("cluster.tmp");
        let write = || -> io::Result<()> {
            fs::write(&partial, &text)?;
            fs::File::open(&partial)?.sync_all()?;
            fs::rename(&partial, &path)?;
            fs::File::open(data)?.sync_all()
        };
        write().map_err(|error| ClusterError::Io { path, error })
    }

    /// The node's number.
    pub fn id(&self) -> NodeId {
        NodeId(self.node)
    }
}

/// The node's certificate and whom it believes.
///
/// # Errors
/// [`ClusterError`].
pub fn credentials(data: &Path) -> Result<std::sync::Arc<Credentials>, ClusterError> {
    let path = leaf_path(data);
    let leaf = Leaf::read(&path).map_err(|error| ClusterError::Identity(error.to_string()))?;
    let leaf = leaf.ok_or_else(|| ClusterError::Unreadable { path, what: "it is missing".to_owned() })?;
    let path = data.join("mesh").join(AUTHORITY_CERTIFICATE_FILE);
    let pem = fs::read(&path).map_err(|error| ClusterError::Io { path: path.clone(), error })?;
    let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let authorities = authorities.map_err(|error| ClusterError::Unreadable { path, what: error.to_string() })?;
    Credentials::new(&leaf, &authorities).map_err(|error| ClusterError::Identity(error.to_string()))
}

/// Where the node's key and certificate are.
pub fn leaf_path(data: &Path) -> PathBuf {
    data.join("mesh").join("node.pem")
}

/// Numbers this life of the node among its lives, for rumours of it: more than every one before, also where the clock was set back. It is
/// the time where it can be.
///
/// # Errors
/// The file's.
pub fn next_generation(data: &Path) -> Result<u64, ClusterError> {
    let path = data.join("mesh").join("generation");
    let failed = |error| ClusterError::Io { path: path.clone(), error };
    let last = match fs::read_to_string(&path) {
        Ok(text) => {
            text.trim().strip_prefix("v1 ").and_then(|number| number.parse::<u64>().ok()).unwrap_or_else(|| {
                // No reason to stay away: at worst the others take the node for its last life until its clock is past that.
                tracing::warn!(path = %path.display(), "it holds no generation; the time is taken for it");
                0
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    let next = plane::now_ms().max(last.saturating_add(GENERATIONS_OF_A_LIFE));
    let partial = path.with_extension("tmp");
    write(&partial, &format!("v1 {next}\n"), 0o644)?;
    // The content is synced before its name is, so that a power cut leaves the number of this life or of the one before.
    fs::rename(&partial, &path).and_then(|()| fs::File::open(data.join("mesh"))?.sync_all()).map_err(failed)?;
    Ok(next)
}

/// The authority, where its key is.
///
/// # Errors
/// [`ClusterError::Identity`].
pub fn authority(data: &Path) -> Result<Option<Authority>, ClusterError> {
    let folder = data.join("ca");
    if !folder.join("ca.key").exists() {
        return Ok(None);
    }
    let authority = Authority::open_or_create(&folder, SystemTime::now());
    authority.map(Some).map_err(|error| ClusterError::Identity(error.to_string()))
}

/// What all gateways of a cluster know and nobody else: the key of the cluster's authority where this node has it, else that of its own,
/// and then no other gateway opens what this one sealed.
///
/// # Errors
/// The file's.
pub fn gateway_secret(data: &Path) -> Result<Vec<u8>, ClusterError> {
    let cluster = data.join("ca").join("ca.key");
    let path = if cluster.exists() { cluster } else { data.join("tls").join("ca.key") };
    let text = std::fs::read_to_string(&path).map_err(|error| ClusterError::Io { path: path.clone(), error })?;
    Ok(text.trim().as_bytes().to_vec())
}

/// Makes the first node of a new cluster and the cluster's authority.
///
/// # Errors
/// [`ClusterError`].
pub fn init(
    new: &NewNode,
    cluster_name: &str,
    domain: &str,
    region: &str,
    shards: u16,
) -> Result<(Membership, Fingerprint), ClusterError> {
    let text = |error: &dyn std::fmt::Display| ClusterError::Text(error.to_string());
    let (name, region): (Name, Name) = (new.name.parse().map_err(|e| text(&e))?, region.parse().map_err(|e| text(&e))?);
    let _: Name = cluster_name.parse().map_err(|e| text(&e))?;
    let _: crate::control::Domain = domain.parse().map_err(|e| text(&e))?;
    let roles: Roles = ROLES_DEFAULT.parse().map_err(|e| text(&e))?;
    refuse_taken(&new.data)?;
    let identity = |error: &dyn std::fmt::Display| ClusterError::Identity(error.to_string());
    let now = SystemTime::now();
    make_folder(&new.data)?;
    let authority = Authority::open_or_create(&new.data.join("ca"), now).map_err(|e| identity(&e))?;
    let node = NodeId(1);
    let names: Names = plane::names(domain, &region, &name, node, roles).map_err(|e| identity(&e))?;
    let leaf = authority.issue_leaf(&names, LEAF_LIFE, now).map_err(|e| identity(&e))?;
    keep_identity(&new.data, &leaf, authority.certificate())?;
    let membership = Membership {
        version: VERSION,
        cluster: hex(&plane::random::<16>()),
        cluster_name: cluster_name.to_owned(),
        domain: domain.to_owned(),
        node: node.0,
        name: new.name.clone(),
        region: region.to_string(),
        roles: ROLES_DEFAULT.to_owned(),
        mesh: new.mesh,
        contacts: Vec::new(),
        is_first: true,
        // A shard has a slot at least.
        slots: SLOTS_DEFAULT.max(shards.next_power_of_two()),
        shards,
    };
    // Last: it is what makes the directory a node.
    membership.write(&new.data)?;
    Ok((membership, authority.fingerprint()))
}

/// Makes a node that a running cluster has taken.
///
/// # Errors
/// [`ClusterError`].
pub async fn join(new: &NewNode, at: SocketAddr, token: &JoinToken) -> Result<Membership, ClusterError> {
    let text = |error: &dyn std::fmt::Display| ClusterError::Text(error.to_string());
    let mesh: Address = new.mesh.to_string().parse().map_err(|e| text(&e))?;
    let says = JoinerSays {
        name: new.name.parse().map_err(|e| text(&e))?,
        addresses: Addresses { mesh, http: None, quic: None },
    };
    refuse_taken(&new.data)?;
    make_folder(&new.data)?;
    let about = to_json(&says).map_err(ClusterError::Answer)?;
    let joined = join_cluster(at, token, about.to_vec(), ClientOptions::default()).await?;
    let told: JoinerTold = from_json("what the cluster told", &joined.about).map_err(ClusterError::Answer)?;
    keep_identity(&new.data, &joined.leaf, &joined.authority)?;
    if let Some(key) = &told.authority_key {
        keep_authority(&new.data, key, &joined.authority)?;
    }
    let contacts = told.contacts.iter().filter_map(|contact| contact.parse().ok()).chain([at]).collect();
    let membership = Membership {
        version: VERSION,
        cluster: told.cluster,
        cluster_name: told.cluster_name,
        domain: told.domain,
        node: told.node,
        name: new.name.clone(),
        region: told.region,
        roles: told.roles,
        mesh: new.mesh,
        contacts,
        is_first: false,
        slots: told.slots,
        shards: told.shards,
    };
    membership.write(&new.data)?;
    Ok(membership)
}

fn refuse_taken(data: &Path) -> Result<(), ClusterError> {
    let taken =
        data.join(FILE).exists() || matches!(Superblock::read(data), Ok(_) | Err(SuperblockError::Damaged { .. }));
    if taken { Err(ClusterError::Taken { path: data.to_owned() }) } else { Ok(()) }
}

fn make_folder(path: &Path) -> Result<(), ClusterError> {
    fs::create_dir_all(path).map_err(|error| ClusterError::Io { path: path.to_owned(), error })
}

fn keep_identity(data: &Path, leaf: &Leaf, authority: &CertificateDer<'static>) -> Result<(), ClusterError> {
    let folder = data.join("mesh");
    make_folder(&folder)?;
    leaf.write(&leaf_path(data)).map_err(|error| ClusterError::Identity(error.to_string()))?;
    write(&folder.join(AUTHORITY_CERTIFICATE_FILE), &certificate_pem(authority), 0o644)
}

fn keep_authority(data: &Path, key: &str, certificate: &CertificateDer<'static>) -> Result<(), ClusterError> {
    let folder = data.join("ca");
    make_folder(&folder)?;
    write(&folder.join(AUTHORITY_CERTIFICATE_FILE), &certificate_pem(certificate), 0o600)?;
    write(&folder.join("ca.key"), key, 0o600)
}

fn certificate_pem(certificate: &CertificateDer<'static>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate.as_ref()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), ClusterError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| ClusterError::Io { path: path.to_owned(), error })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    #[test]
    fn s5_1_9_a_life_is_newer_than_the_one_before_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mesh")).unwrap();
        let path = folder.path().join("mesh/generation");
        let now = plane::now_ms();
        let first = next_generation(folder.path()).unwrap();
        assert!((now..now + 60_000).contains(&first), "the time, where it can be");
        assert!(first < next_generation(folder.path()).unwrap(), "at once again");
        // The life before had a clock an hour ahead.
        fs::write(&path, format!("v1 {}\n", now + 3_600_000)).unwrap();
        assert!(now + 3_600_000 < next_generation(folder.path()).unwrap());
        // What holds no number does not keep the node away.
        for damaged in ["v1 many\n", ""] {
            fs::write(&path, damaged).unwrap();
            assert!(now <= next_generation(folder.path()).unwrap());
            assert!(fs::read_to_string(&path).unwrap().starts_with("v1 "));
        }
    }
}
