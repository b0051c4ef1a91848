//! A vertex in its domain form: what a caller fills in and what a door shows.
//!
//! Promises: a vertex that passed [`Vertex::check`] is within every limit and has one canonical form and one id.
//! Does not: know how it is stored (see `archive`), nor whether its parents exist.

use std::collections::BTreeMap;

use qmesh_storage::RecordError;

use crate::dag::canonical::{self, Fields, label_order};
use crate::error::{Reason, Refusal};
use crate::ids::{ID_BYTES, VertexId};
use crate::limits::{
    AUTHOR_BYTES_MAX, KIND_BYTES_MAX, LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, NAMESPACE_BYTES_MAX,
    PARENTS_MAX, PAYLOAD_BYTES_MAX,
};

/// Version of the vertex's form. It is part of the canonical form, and so of the id.
pub const VERTEX_VERSION: u16 = 1;
/// The namespace of a vertex whose caller names none.
pub const NAMESPACE_DEFAULT: &str = "default";

/// A vertex: immutable, named by the hash of its canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vertex {
    /// The family it belongs to: 1 to [`NAMESPACE_BYTES_MAX`] bytes of `a-z 0-9 . _ / -`.
    pub namespace: String,
    /// What it is, in the caller's words: 1 to [`KIND_BYTES_MAX`] bytes of `a-z 0-9 . _ / -`.
    pub kind: String,
    /// Who made it, in the caller's words: 1 to [`AUTHOR_BYTES_MAX`] bytes.
    pub author: Option<String>,
    /// When it was made, by its maker's clock, in milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: u64,
    /// What it follows, in the maker's order, none twice, at most [`PARENTS_MAX`].
    pub parents: Vec<VertexId>,
    /// At most [`LABELS_MAX`] pairs; keys of 1 to [`LABEL_KEY_BYTES_MAX`] bytes.
    pub labels: BTreeMap<String, String>,
    /// The content, at most [`PAYLOAD_BYTES_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// Why a vertex is refused. A stranger's vertex and a caller's are refused with the same words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VertexError {
    /// A named limit is exceeded.
    #[error("{what}: {value} {unit}, at most {value_max} {unit}")]
    Limit {
        /// The field.
        what: &'static str,
        /// What it has.
        value: usize,
        /// What it may have.
        value_max: usize,
        /// Of both numbers.
        unit: &'static str,
    },
    /// A field that must not be empty is.
    #[error("{what} is empty")]
    Empty {
        /// The field.
        what: &'static str,
    },
    /// A character that namespaces and kinds do not have.
    #[error("{what} has the character {character:?}; allowed are a-z 0-9 . _ / -")]
    Character {
        /// The field.
        what: &'static str,
        /// The first one that is not allowed.
        character: char,
    },
    /// A parent named twice.
    #[error("parent {parent} is named twice")]
    ParentTwice {
        /// The parent.
        parent: VertexId,
    },
    /// Labels out of canonical order, or a key twice.
    #[error("label {key:?} is out of order or there twice; keys stand shorter first, then by bytes")]
    LabelOrder {
        /// The key that does not come after the one before it.
        key: String,
    },
    /// A version this build does not know.
    #[error("vertex version {version}; this build reads version {VERTEX_VERSION}")]
    Version {
        /// What was found.
        version: u64,
    },
    /// Not the canonical form of a vertex.
    #[error("not a canonical vertex: wanted {0}")]
    Malformed(&'static str),
    /// The record holds something else than a vertex.
    #[error("record of kind {kind}, a vertex has kind {wanted}")]
    RecordKind {
        /// What was found.
        kind: u8,
        /// What a vertex has.
        wanted: u8,
    },
    /// The record's body is not an archive of a vertex.
    #[error("the body of the record is not an archived vertex: {0}")]
    Archive(&'static str),
    /// The id does not name this content.
    #[error("the content has the id {found}, not {claimed}")]
    IdMismatch {
        /// The id it came with.
        claimed: VertexId,
        /// The id it has.
        found: VertexId,
    },
    /// A signature algorithm this build does not know.
    #[error("signature algorithm {0}; known are 1 (ed25519) and 2 (ml-dsa-65)")]
    Algorithm(u8),
    /// A public key or signature of the wrong length.
    #[error("{what} of {bytes} bytes, the algorithm has {bytes_wanted} bytes")]
    SignatureLength {
        /// Public key or signature.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// What the algorithm has.
        bytes_wanted: usize,
    },
    /// The signature is not of this vertex by this key.
    #[error("the signature does not verify")]
    Signature,
    /// The record's envelope is refused.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Vertex {
    /// Checks every limit and form.
    ///
    /// # Errors
    /// The first limit or form that is broken, with its value and its bound.
    pub fn check(&self) -> Result<(), VertexError> {
        self.with_fields(|fields| check(&fields))
    }

    /// The canonical form: strict DAG-CBOR, as `canonical` describes it.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.payload.len() + self.parents.len() * 41);
        self.with_fields(|fields| canonical::encode(&fields, &mut out));
        out
    }

    /// The id: BLAKE3-256 of the canonical form.
    pub fn id(&self) -> VertexId {
        VertexId(*blake3::hash(&self.canonical()).as_bytes())
    }

    /// The vertex whose canonical form `bytes` is, checked.
    ///
    /// # Errors
    /// [`VertexError::Malformed`] when the bytes are not exactly a canonical form; what [`Vertex::check`] returns.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, VertexError> {
        let vertex = canonical::decode(bytes)?;
        vertex.check()?;
        Ok(vertex)
    }

    /// Hands out the borrowed parts, labels in canonical order.
    pub(crate) fn with_fields<R>(
        &self,
        read: impl FnOnce(Fields<'_, ParentBytes<'_>, std::iter::Copied<std::slice::Iter<'_, (&str, &str)>>>) -> R,
    ) -> R {
        let mut labels: Vec<(&str, &str)> = self.labels.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        labels.sort_unstable_by(|left, right| label_order(left.0, right.0));
        read(Fields {
            namespace: &self.namespace,
            kind: &self.kind,
            author: self.author.as_deref(),
            timestamp_ms: self.timestamp_ms,
            parents: ParentBytes(self.parents.iter()),
            labels: labels.iter().copied(),
            payload: &self.payload,
        })
    }
}

impl VertexError {
    /// The stable reason under which a door answers it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Limit { .. } | Self::Record(RecordError::TooLarge { .. }) => Reason::LimitExceeded,
            Self::IdMismatch { .. } | Self::Signature => Reason::Unverified,
            Self::Record(RecordError::Checksum { .. }) => Reason::Corrupt,
            Self::Empty { .. }
            | Self::Character { .. }
            | Self::ParentTwice { .. }
            | Self::LabelOrder { .. }
            | Self::Version { .. }
            | Self::Malformed(_)
            | Self::RecordKind { .. }
            | Self::Archive(_)
            | Self::Algorithm(_)
            | Self::SignatureLength { .. }
            | Self::Record(_) => Reason::BadRequest,
        }
    }
}

impl From<VertexError> for Refusal {
    fn from(error: VertexError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

/// The parents of a domain vertex as bare hashes, which is what both forms have in common.
#[derive(Clone)]
pub(crate) struct ParentBytes<'a>(std::slice::Iter<'a, VertexId>);

impl<'a> Iterator for ParentBytes<'a> {
    type Item = &'a [u8; ID_BYTES];

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|parent| &parent.0)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for ParentBytes<'_> {}

/// Checks the limits and forms of a vertex, whichever form holds it.
pub(crate) fn check<'a, Parents, Labels>(fields: &Fields<'a, Parents, Labels>) -> Result<(), VertexError>
where
    Parents: ExactSizeIterator<Item = &'a [u8; ID_BYTES]> + Clone,
    Labels: ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
{
    word("namespace", fields.namespace, NAMESPACE_BYTES_MAX)?;
    word("kind", fields.kind, KIND_BYTES_MAX)?;
    if let Some(author) = fields.author {
        filled("author", author)?;
        limit("author", author.len(), AUTHOR_BYTES_MAX, "bytes")?;
    }
    limit("payload", fields.payload.len(), PAYLOAD_BYTES_MAX, "bytes")?;
    limit("parents", fields.parents.len(), PARENTS_MAX, "parents")?;
    check_parents(fields.parents.clone())?;
    limit("labels", fields.labels.len(), LABELS_MAX, "labels")?;
    let mut key_before = None;
    for (key, value) in fields.labels.clone() {
        filled("label key", key)?;
        limit("label key", key.len(), LABEL_KEY_BYTES_MAX, "bytes")?;
        limit("label value", value.len(), LABEL_VALUE_BYTES_MAX, "bytes")?;
        if key_before.is_some_and(|before| label_order(before, key).is_ge()) {
            return Err(VertexError::LabelOrder { key: key.to_owned() });
        }
        key_before = Some(key);
    }
    Ok(())
}

fn check_parents<'a>(parents: impl ExactSizeIterator<Item = &'a [u8; ID_BYTES]> + Clone) -> Result<(), VertexError> {
    // Up to this many, comparing all pairs is cheaper than sorting a copy; nearly every vertex has one or two parents.
    const PAIRWISE_MAX: usize = 8;
    let twice = if parents.len() <= PAIRWISE_MAX {
        let mut rest = parents;
        loop {
            let Some(parent) = rest.next() else { break None };
            if rest.clone().any(|other| other == parent) {
                break Some(parent);
            }
        }
    } else {
        let mut sorted: Vec<_> = parents.collect();
        sorted.sort_unstable();
        sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    };
    twice.map_or(Ok(()), |parent| Err(VertexError::ParentTwice { parent: VertexId(*parent) }))
}

fn word(what: &'static str, value: &str, bytes_max: usize) -> Result<(), VertexError> {
    filled(what, value)?;
    limit(what, value.len(), bytes_max, "bytes")?;
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'/' | b'-');
    if value.bytes().all(allowed) {
        return Ok(());
    }
    let stranger = |character: &char| !u8::try_from(*character).is_ok_and(allowed);
    let character = value.chars().find(stranger).unwrap_or(char::REPLACEMENT_CHARACTER);
    Err(VertexError::Character { what, character })
}

fn filled(what: &'static str, value: &str) -> Result<(), VertexError> {
    if value.is_empty() { Err(VertexError::Empty { what }) } else { Ok(()) }
}

fn limit(what: &'static str, value: usize, value_max: usize, unit: &'static str) -> Result<(), VertexError> {
    if value <= value_max { Ok(()) } else { Err(VertexError::Limit { what, value, value_max, unit }) }
}
