//! The archived form of a vertex: the body of its record, one rkyv archive in memory, on the wire and on disk.
//!
//! ```text
//! namespace | kind | author | parents | payload | public key | signature | labels' text | labels | root (80 bytes)
//! root: u16 version, u8 algorithm, u8 and u32 reserved, u64 timestamp_ms, then eight relative pointers with lengths
//! ```
//!
//! All widths little-endian. No author and no signature are empty slices; labels stand in canonical order. The length
//! of the body follows from its content, and rkyv's validation lets no two parts overlap, so nothing but a few bytes
//! of padding stands between them.
//!
//! Promises: a [`SealedVertex`] in hand was verified when it entered: within limits, its id is the hash of its content,
//! its signature, if any, is its key's. Does not: look up parents, nor judge who signed.

use qmesh_storage::Record;
use qmesh_storage::record::RECORD_HEADER_BYTES;
use rkyv::rancor::Failure;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::dag::canonical::{self, Fields, label_order};
use crate::dag::signature::{Algorithm, Signature, SignatureView};
use crate::dag::vertex::{self, VERTEX_VERSION, Vertex, VertexError};
use crate::ids::{ID_BYTES, VertexId};

/// Kind of a record that holds a vertex.
pub const RECORD_KIND_VERTEX: u8 = 1;

/// A vertex in its archived form, verified when it entered. Cheap to clone, may cross cores, read in place.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedVertex(Record);

/// Room for the canonical form while it is hashed, kept from one vertex to the next.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u8>);

#[derive(Archive, Serialize)]
struct Body<'a> {
    version: u16,
    /// 0: not signed.
    algorithm: u8,
    reserved_byte: u8,
    reserved_word: u32,
    timestamp_ms: u64,
    #[rkyv(with = InlineAsBox)]
    namespace: &'a str,
    #[rkyv(with = InlineAsBox)]
    kind: &'a str,
    #[rkyv(with = InlineAsBox)]
    author: &'a str,
    #[rkyv(with = InlineAsBox)]
    parents: &'a [[u8; ID_BYTES]],
    #[rkyv(with = InlineAsBox)]
    payload: &'a [u8],
    #[rkyv(with = InlineAsBox)]
    public_key: &'a [u8],
    #[rkyv(with = InlineAsBox)]
    signature: &'a [u8],
    labels: Vec<Label<'a>>,
}

#[derive(Archive, Serialize)]
struct Label<'a> {
    #[rkyv(with = InlineAsBox)]
    key: &'a str,
    #[rkyv(with = InlineAsBox)]
    value: &'a str,
}

const ROOT_BYTES: usize = size_of::<ArchivedBody<'static>>();
const LABEL_BYTES: usize = size_of::<ArchivedLabel<'static>>();
// The layout drawn above, which other builds of this version read.
const _: () = assert!(ROOT_BYTES == 80 && align_of::<ArchivedBody<'static>>() == 8);
const _: () = assert!(LABEL_BYTES == 16 && align_of::<ArchivedLabel<'static>>() == 4);

impl SealedVertex {
    /// Builds the record of `vertex`: checks it, names it, verifies `signature` over its id.
    ///
    /// # Errors
    /// What [`Vertex::check`] and [`SignatureView::verify`] return.
    pub fn seal(vertex: &Vertex, signature: Option<Signature>) -> Result<Self, VertexError> {
        Self::seal_with(vertex, signature.as_ref().map(Signature::view), &mut Scratch::default())
    }

    /// As [`SealedVertex::seal`], with the caller's scratch.
    ///
    /// # Errors
    /// As [`SealedVertex::seal`].
    pub fn seal_with(
        vertex: &Vertex,
        signature: Option<SignatureView<'_>>,
        scratch: &mut Scratch,
    ) -> Result<Self, VertexError> {
        let parents: Vec<[u8; ID_BYTES]> = vertex.parents.iter().map(|parent| parent.0).collect();
        vertex.with_fields(|fields| {
            vertex::check(&fields)?;
            let id = scratch.id(&fields);
            if let Some(signature) = &signature {
                signature.verify(&id)?;
            }
            let body = Body {
                version: VERTEX_VERSION,
                algorithm: signature.map_or(0, |signature| signature.algorithm.wire()),
                reserved_byte: 0,
                reserved_word: 0,
                timestamp_ms: fields.timestamp_ms,
                namespace: fields.namespace,
                kind: fields.kind,
                author: fields.author.unwrap_or_default(),
                parents: &parents,
                payload: fields.payload,
                public_key: signature.map_or(&[], |signature| signature.public_key),
                signature: signature.map_or(&[], |signature| signature.bytes),
                labels: fields.labels.clone().map(|(key, value)| Label { key, value }).collect(),
            };
            let body_bytes = body_bytes(&fields, signature.as_ref());
            let record = Record::build(RECORD_KIND_VERTEX, &id.0, body_bytes, |buffer| {
                rkyv::api::high::to_bytes_in::<_, Failure>(&body, buffer)
                    .map_err(|_| VertexError::Archive("it could not be written"))
            })?;
            assert_eq!(record.body().len(), body_bytes, "the layout of the body is not the documented one");
            Ok(Self(record))
        })
    }

    /// Verifies a stranger's record: archive, limits, id, signature.
    ///
    /// # Errors
    /// Any [`VertexError`].
    pub fn verify(record: Record) -> Result<Self, VertexError> {
        Self::verify_with(record, &mut Scratch::default())
    }

    /// As [`SealedVertex::verify`], with the caller's scratch: nothing is allocated for a vertex of up to 8 parents.
    ///
    /// # Errors
    /// As [`SealedVertex::verify`].
    pub fn verify_with(record: Record, scratch: &mut Scratch) -> Result<Self, VertexError> {
        check_record(&record, scratch)?;
        Ok(Self(record))
    }

    /// A record that this node verified when it entered and that came back with the checksum this node computed then,
    /// so it is accessed without being validated again. Never for bytes that another process made: those go through
    /// [`SealedVertex::verify_with`].
    ///
    /// # Panics
    /// When the record does not hold a vertex.
    pub fn trusted(record: Record) -> Self {
        assert_eq!(record.kind(), RECORD_KIND_VERTEX, "a record of another kind was trusted as a vertex");
        assert!(ROOT_BYTES <= record.body().len(), "a record too short for a vertex was trusted as one");
        debug_assert!(
            rkyv::api::low::access::<ArchivedBody<'static>, Failure>(record.body()).is_ok(),
            "a record that was never verified was trusted"
        );
        Self(record)
    }

    /// The id.
    pub fn id(&self) -> VertexId {
        VertexId(*self.0.key())
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.body().namespace
    }

    /// What it is, in its maker's words.
    pub fn kind(&self) -> &str {
        &self.body().kind
    }

    /// Who made it, in its maker's words.
    pub fn author(&self) -> Option<&str> {
        author(self.body())
    }

    /// When it was made, by its maker's clock, in milliseconds since 1970-01-01 UTC.
    pub fn timestamp_ms(&self) -> u64 {
        self.body().timestamp_ms.to_native()
    }

    /// The ids of the parents, in the maker's order.
    pub fn parents(&self) -> impl ExactSizeIterator<Item = VertexId> + Clone + '_ {
        self.parents_raw().iter().map(|&parent| VertexId(parent))
    }

    /// The parents as bare hashes, in place.
    pub fn parents_raw(&self) -> &[[u8; ID_BYTES]] {
        &self.body().parents
    }

    /// The labels, in canonical order: shorter keys first, then by bytes.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone + '_ {
        labels(self.body())
    }

    /// The value of the label `key`.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.body().labels.as_slice();
        let at = labels.binary_search_by(|label| label_order(&label.key, key)).ok()?;
        Some(&labels[at].value)
    }

    /// The content.
    pub fn payload(&self) -> &[u8] {
        &self.body().payload
    }

    /// The signature that stands beside it.
    pub fn signature(&self) -> Option<SignatureView<'_>> {
        let body = self.body();
        let algorithm = Algorithm::from_wire(body.algorithm)?;
        Some(SignatureView { algorithm, public_key: &body.public_key, bytes: &body.signature })
    }

    /// The record: what is sent, written and cached.
    pub fn record(&self) -> &Record {
        &self.0
    }

    /// The record, without a copy.
    pub fn into_record(self) -> Record {
        self.0
    }

    /// The domain form.
    pub fn to_vertex(&self) -> Vertex {
        Vertex {
            namespace: self.namespace().to_owned(),
            kind: self.kind().to_owned(),
            author: self.author().map(str::to_owned),
            timestamp_ms: self.timestamp_ms(),
            parents: self.parents().collect(),
            labels: self.labels().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            payload: self.payload().to_vec(),
        }
    }

    /// Appends the canonical form to `out`.
    pub fn canonical_into(&self, out: &mut Vec<u8>) {
        canonical::encode(&fields(self.body()), out);
    }

    fn body(&self) -> &ArchivedBody<'static> {
        // SAFETY: a SealedVertex is made by `seal`, from an archive this process just wrote; by `verify_with`, from one
        // that rkyv validated; or by `trusted`, whose caller got it back under the checksum this node computed over
        // such an archive. A record's bytes never change, and its body is 16-byte aligned.
        unsafe { rkyv::access_unchecked::<ArchivedBody<'static>>(self.0.body()) }
    }
}

impl std::fmt::Debug for SealedVertex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedVertex({}, {} bytes)", self.id(), self.0.bytes().len())
    }
}

impl Scratch {
    /// The id of `fields`: BLAKE3-256 of the canonical form.
    fn id<'a, Parents, Labels>(&mut self, fields: &Fields<'a, Parents, Labels>) -> VertexId
    where
        Parents: ExactSizeIterator<Item = &'a [u8; ID_BYTES]> + Clone,
        Labels: ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
    {
        self.0.clear();
        canonical::encode(fields, &mut self.0);
        VertexId(*blake3::hash(&self.0).as_bytes())
    }
}

fn check_record(record: &Record, scratch: &mut Scratch) -> Result<(), VertexError> {
    if record.kind() != RECORD_KIND_VERTEX {
        return Err(VertexError::RecordKind { kind: record.kind(), wanted: RECORD_KIND_VERTEX });
    }
    let body = rkyv::api::low::access::<ArchivedBody<'static>, Failure>(record.body())
        .map_err(|_| VertexError::Archive("its parts do not fit together"))?;
    if body.version != VERTEX_VERSION {
        return Err(VertexError::Version { version: u64::from(body.version.to_native()) });
    }
    if body.reserved_byte != 0 || body.reserved_word != 0 {
        return Err(VertexError::Archive("reserved bytes are not zero"));
    }
    let signature = checked_signature(body)?;
    let fields = fields(body);
    if record.body().len() != body_bytes(&fields, signature.as_ref()) {
        return Err(VertexError::Archive("it is longer or shorter than its parts"));
    }
    vertex::check(&fields)?;
    let found = scratch.id(&fields);
    let claimed = VertexId(*record.key());
    if found != claimed {
        return Err(VertexError::IdMismatch { claimed, found });
    }
    signature.map_or(Ok(()), |signature| signature.verify(&found))
}

fn fields<'a>(
    body: &'a ArchivedBody<'static>,
) -> Fields<
    'a,
    impl ExactSizeIterator<Item = &'a [u8; ID_BYTES]> + Clone,
    impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
> {
    Fields {
        namespace: &body.namespace,
        kind: &body.kind,
        author: author(body),
        timestamp_ms: body.timestamp_ms.to_native(),
        parents: body.parents.iter(),
        labels: labels(body),
        payload: &body.payload,
    }
}

fn author<'a>(body: &'a ArchivedBody<'static>) -> Option<&'a str> {
    let author: &str = &body.author;
    (!author.is_empty()).then_some(author)
}

fn labels<'a>(body: &'a ArchivedBody<'static>) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone {
    body.labels.iter().map(|label| (&*label.key, &*label.value))
}

fn checked_signature<'a>(body: &'a ArchivedBody<'static>) -> Result<Option<SignatureView<'a>>, VertexError> {
    let (public_key, bytes): (&[u8], &[u8]) = (&body.public_key, &body.signature);
    if body.algorithm == 0 {
        let absent = public_key.is_empty() && bytes.is_empty();
        return if absent { Ok(None) } else { Err(VertexError::Archive("a signature without an algorithm")) };
    }
    let algorithm = Algorithm::from_wire(body.algorithm).ok_or(VertexError::Algorithm(body.algorithm))?;
    Ok(Some(SignatureView { algorithm, public_key, bytes }))
}

/// Length of the body that holds these parts, in bytes.
fn body_bytes<'a, Parents, Labels>(fields: &Fields<'a, Parents, Labels>, signature: Option<&SignatureView<'_>>) -> usize
where
    Parents: ExactSizeIterator<Item = &'a [u8; ID_BYTES]>,
    Labels: ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
{
    let text_bytes = fields.namespace.len() + fields.kind.len() + fields.author.map_or(0, str::len);
    let parent_bytes = fields.parents.len() * ID_BYTES;
    let signature_bytes = signature.map_or(0, |signature| signature.public_key.len() + signature.bytes.len());
    let label_text_bytes: usize = fields.labels.clone().map(|(key, value)| key.len() + value.len()).sum();
    let parts = text_bytes + parent_bytes + fields.payload.len() + signature_bytes + label_text_bytes;
    let parts = parts.next_multiple_of(align_of::<ArchivedLabel<'static>>()) + fields.labels.len() * LABEL_BYTES;
    parts.next_multiple_of(align_of::<ArchivedBody<'static>>()) + ROOT_BYTES
}

// The record's header keeps the body on rkyv's alignment.
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(align_of::<ArchivedBody<'static>>()));
