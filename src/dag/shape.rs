//! The shape of a vertex: what the skeleton and the hint files need of it, without its content.
//!
//! ```text
//!  0  u8   version (1)
//!  1  u8   bytes of the git hash: 0, 20 or 32
//!  2  u8   bytes of the namespace
//!  3  u8   bytes of the kind
//!  4  u16  parents
//!  6  u8   labels
//!  7  u8   reserved, zero
//!  8  u64  timestamp_ms
//! 16  parents, 32 bytes each; label hashes, u32 each; git hash; namespace; kind
//! ```
//!
//! Promises: a shape that was decoded was encoded by this layout, whole, with nothing behind it; little-endian.
//! Does not: prove that it belongs to its vertex; hint files are covered by their own checksum.

use crate::dag::archive::SealedVertex;
use crate::ids::{ID_BYTES, VertexId, unhex};
use crate::limits::{KIND_BYTES_MAX, LABELS_MAX, NAMESPACE_BYTES_MAX, PARENTS_MAX};

/// Version of the layout above.
pub const SHAPE_VERSION: u8 = 1;
/// The label that holds a git object's name in hexadecimal digits.
pub const GIT_LABEL: &str = "git";

const HEADER_BYTES: usize = 16;
const GIT_BYTES_MAX: usize = 32;
const _: () = assert!(NAMESPACE_BYTES_MAX <= u8::MAX as usize && KIND_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(LABELS_MAX <= u8::MAX as usize && PARENTS_MAX <= u16::MAX as usize);

/// The shape of one vertex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape<'a> {
    /// The vertex.
    pub id: VertexId,
    /// Its parents, in its order.
    pub parents: Vec<VertexId>,
    /// Its time, in milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: u64,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// A [`label_hash`] for each label, in canonical order of the labels.
    pub label_hashes: Vec<u32>,
    /// The git object it mirrors.
    pub git: Option<GitHash>,
}

/// The name of a git object: SHA-1 (20 bytes) or SHA-256 (32 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GitHash {
    /// SHA-1.
    Sha1([u8; 20]),
    /// SHA-256.
    Sha256([u8; 32]),
}

/// Why bytes are not a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A layout this build does not know.
    #[error("shape version {0}; this build reads version {SHAPE_VERSION}")]
    Version(u8),
    /// Not as long as its header says.
    #[error("shape of {bytes} bytes, its header says {wanted} bytes")]
    Length {
        /// Bytes at hand.
        bytes: usize,
        /// What the header says.
        wanted: usize,
    },
    /// A count, length or reserved byte that no vertex has, or text that is not UTF-8.
    #[error("the shape's {0} is not one that a vertex has")]
    Field(&'static str),
}

/// The hash by which a label is filtered: the first four bytes, little-endian, of BLAKE3 over key, 0x00, value. Two
/// labels may share it (one pair in four billion), so what must be exact looks at the vertex.
pub fn label_hash(key: &str, value: &str) -> u32 {
    // A hasher's state is far larger than nearly every label: those are hashed from the stack in one call.
    const SHORT_BYTES: usize = 128;
    let (key, value) = (key.as_bytes(), value.as_bytes());
    let bytes = key.len() + 1 + value.len();
    let hash = if bytes <= SHORT_BYTES {
        let mut label = [0; SHORT_BYTES];
        label[..key.len()].copy_from_slice(key);
        label[key.len() + 1..bytes].copy_from_slice(value);
        blake3::hash(&label[..bytes])
    } else {
        blake3::Hasher::new().update(key).update(&[0]).update(value).finalize()
    };
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl<'a> Shape<'a> {
    /// The shape of `vertex`.
    pub fn of(vertex: &'a SealedVertex) -> Self {
        Self {
            id: vertex.id(),
            parents: vertex.parents().collect(),
            timestamp_ms: vertex.timestamp_ms(),
            namespace: vertex.namespace(),
            kind: vertex.kind(),
            label_hashes: vertex.labels().map(|(key, value)| label_hash(key, value)).collect(),
            git: vertex.label(GIT_LABEL).and_then(GitHash::from_hex),
        }
    }

    /// The shape without its id, which is the key under which it is kept.
    pub fn encode(&self) -> Vec<u8> {
        let git = self.git.as_ref().map_or(&[][..], GitHash::as_bytes);
        assert!(
            self.parents.len() <= PARENTS_MAX && self.label_hashes.len() <= LABELS_MAX,
            "a shape beyond the limits"
        );
        assert!(
            self.namespace.len() <= NAMESPACE_BYTES_MAX && self.kind.len() <= KIND_BYTES_MAX,
            "names beyond the limits"
        );
        let tail_bytes = git.len() + self.namespace.len() + self.kind.len();
        let mut out =
            Vec::with_capacity(HEADER_BYTES + self.parents.len() * ID_BYTES + self.label_hashes.len() * 4 + tail_bytes);
        out.extend_from_slice(&[SHAPE_VERSION, git.len() as u8, self.namespace.len() as u8, self.kind.len() as u8]);
        out.extend_from_slice(&(self.parents.len() as u16).to_le_bytes());
        out.extend_from_slice(&[self.label_hashes.len() as u8, 0]);
        out.extend_from_slice(&self.timestamp_ms.to_le_bytes());
        for parent in &self.parents {
            out.extend_from_slice(&parent.0);
        }
        for hash in &self.label_hashes {
            out.extend_from_slice(&hash.to_le_bytes());
        }
        out.extend_from_slice(git);
        out.extend_from_slice(self.namespace.as_bytes());
        out.extend_from_slice(self.kind.as_bytes());
        out
    }

    /// The shape of the vertex `key` from what [`Shape::encode`] wrote.
    ///
    /// # Errors
    /// Any [`ShapeError`]; the bytes may be a stranger's.
    pub fn decode(key: &[u8; ID_BYTES], bytes: &'a [u8]) -> Result<Self, ShapeError> {
        let cut_short = ShapeError::Length { bytes: bytes.len(), wanted: HEADER_BYTES };
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(cut_short)?;
        let &[
            version,
            git_bytes,
            namespace_bytes,
            kind_bytes,
            p0,
            p1,
            label_count,
            reserved,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
        ] = header;
        if version != SHAPE_VERSION {
            return Err(ShapeError::Version(version));
        }
        let [git_bytes, namespace_bytes, kind_bytes] = [git_bytes, namespace_bytes, kind_bytes].map(usize::from);
        let parent_count = usize::from(u16::from_le_bytes([p0, p1]));
        let label_count = usize::from(label_count);
        for (what, good) in [
            ("reserved byte", reserved == 0),
            ("git hash", matches!(git_bytes, 0 | 20 | GIT_BYTES_MAX)),
            ("namespace", (1..=NAMESPACE_BYTES_MAX).contains(&namespace_bytes)),
            ("kind", (1..=KIND_BYTES_MAX).contains(&kind_bytes)),
            ("count of parents", parent_count <= PARENTS_MAX),
            ("count of labels", label_count <= LABELS_MAX),
        ] {
            if !good {
                return Err(ShapeError::Field(what));
            }
        }
        let (parents_bytes, labels_bytes) = (parent_count * ID_BYTES, label_count * size_of::<u32>());
        let wanted = parents_bytes + labels_bytes + git_bytes + namespace_bytes + kind_bytes;
        if rest.len() != wanted {
            return Err(ShapeError::Length { bytes: bytes.len(), wanted: HEADER_BYTES + wanted });
        }
        let (parents, rest) = rest.split_at(parents_bytes);
        let (labels, rest) = rest.split_at(labels_bytes);
        let (git, rest) = rest.split_at(git_bytes);
        let (namespace, kind) = rest.split_at(namespace_bytes);
        Ok(Self {
            id: VertexId(*key),
            parents: parents.as_chunks().0.iter().map(|&parent| VertexId(parent)).collect(),
            timestamp_ms: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            namespace: str::from_utf8(namespace).map_err(|_| ShapeError::Field("namespace"))?,
            kind: str::from_utf8(kind).map_err(|_| ShapeError::Field("kind"))?,
            label_hashes: labels.as_chunks().0.iter().map(|&hash| u32::from_le_bytes(hash)).collect(),
            git: GitHash::from_bytes(git),
        })
    }

    /// The raw bytes of the git hash, if there is one.
    pub fn git_bytes(&self) -> Option<&[u8]> {
        self.git.as_ref().map(GitHash::as_bytes)
    }
}

impl GitHash {
    /// The hash that 40 or 64 hexadecimal digits spell.
    pub fn from_hex(digits: &str) -> Option<Self> {
        // Other labels of this name may be long: only what can be a hash is read.
        if digits.len() != 40 && digits.len() != 64 {
            return None;
        }
        Self::from_bytes(&unhex(digits)?)
    }

    /// The hash of 20 or 32 raw bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            20 => bytes.try_into().ok().map(Self::Sha1),
            32 => bytes.try_into().ok().map(Self::Sha256),
            _ => None,
        }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        }
    }
}
