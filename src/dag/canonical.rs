//! The canonical form of a vertex: strict DAG-CBOR, whose BLAKE3-256 is the vertex's id.
//!
//! ```text
//! { "kind": text, "author"?: text, "labels": { text: text }, "parents": [ link ], "payload": bytes,
//!   "version": 1, "namespace": text, "timestamp_ms": uint }
//! ```
//!
//! Keys of both maps stand in DAG-CBOR order: shorter first, then by bytes. Integers and lengths take the shortest
//! head. "author" is absent when there is none; every other key is always there. A link is tag 42 over 0x00 and the
//! binary CID.
//!
//! Promises: one vertex has exactly one canonical form, and nothing else is read as one.
//! Does not: know the limits of a vertex, nor where a vertex is stored.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::dag::vertex::{VERTEX_VERSION, Vertex, VertexError};
use crate::ids::{ID_BYTES, VertexId};

/// What stands before the 32 bytes of an id in a link: tag 42, 37 bytes, the identity multibase, the CID's head.
const LINK_HEAD: [u8; 9] = [0xd8, 42, 0x58, 37, 0x00, 0x01, 0x71, 0x1e, 0x20];
const MAJOR_UINT: u8 = 0;
const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_ARRAY: u8 = 4;
const MAJOR_MAP: u8 = 5;

/// A vertex as borrowed parts: what the encoder and the checks read, whichever form holds the bytes.
pub(crate) struct Fields<'a, Parents, Labels> {
    pub(crate) namespace: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) author: Option<&'a str>,
    pub(crate) timestamp_ms: u64,
    /// In the caller's order, which is part of the identity.
    pub(crate) parents: Parents,
    /// In canonical order, see [`label_order`].
    pub(crate) labels: Labels,
    pub(crate) payload: &'a [u8],
}

/// The order of label keys in the canonical form: shorter first, then by bytes.
pub(crate) fn label_order(left: &str, right: &str) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.as_bytes().cmp(right.as_bytes()))
}

/// Appends the canonical form of `fields` to `out`.
pub(crate) fn encode<'a, Parents, Labels>(fields: &Fields<'a, Parents, Labels>, out: &mut Vec<u8>)
where
    Parents: ExactSizeIterator<Item = &'a [u8; ID_BYTES]> + Clone,
    Labels: ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
{
    head(out, MAJOR_MAP, 7 + u64::from(fields.author.is_some()));
    text(out, "kind");
    text(out, fields.kind);
    if let Some(author) = fields.author {
        text(out, "author");
        text(out, author);
    }
    text(out, "labels");
    head(out, MAJOR_MAP, fields.labels.len() as u64);
    for (key, value) in fields.labels.clone() {
        text(out, key);
        text(out, value);
    }
    text(out, "parents");
    head(out, MAJOR_ARRAY, fields.parents.len() as u64);
    for parent in fields.parents.clone() {
        out.extend_from_slice(&LINK_HEAD);
        out.extend_from_slice(parent);
    }
    text(out, "payload");
    head(out, MAJOR_BYTES, fields.payload.len() as u64);
    out.extend_from_slice(fields.payload);
    text(out, "version");
    head(out, MAJOR_UINT, u64::from(VERTEX_VERSION));
    text(out, "namespace");
    text(out, fields.namespace);
    text(out, "timestamp_ms");
    head(out, MAJOR_UINT, fields.timestamp_ms);
}

/// Reads a canonical form, and nothing but a canonical form: what it would not have written itself is an error.
///
/// # Errors
/// [`VertexError::Malformed`] for anything that is not the canonical form of a vertex. Limits are not checked here.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vertex, VertexError> {
    let mut reader = Reader { rest: bytes };
    let entry_count = reader.head(MAJOR_MAP, "a map")?;
    let has_author = match entry_count {
        7 => false,
        8 => true,
        _ => return Err(VertexError::Malformed("a map of 7 or 8 entries")),
    };
    reader.key("kind")?;
    let kind = reader.text()?;
    let author = if has_author {
        reader.key("author")?;
        Some(reader.text()?)
    } else {
        None
    };
    reader.key("labels")?;
    let mut labels = BTreeMap::new();
    // The counts of a stranger reserve nothing: each turn consumes input or fails.
    for _ in 0..reader.head(MAJOR_MAP, "a map of labels")? {
        labels.insert(reader.text()?, reader.text()?);
    }
    reader.key("parents")?;
    let mut parents = Vec::new();
    for _ in 0..reader.head(MAJOR_ARRAY, "a list of parents")? {
        parents.push(reader.link()?);
    }
    reader.key("payload")?;
    let payload_bytes = reader.head(MAJOR_BYTES, "the payload as bytes")?;
    let payload = reader.take(payload_bytes)?.to_vec();
    reader.key("version")?;
    let version = reader.head(MAJOR_UINT, "the version as an unsigned integer")?;
    if version != u64::from(VERTEX_VERSION) {
        return Err(VertexError::Version { version });
    }
    reader.key("namespace")?;
    let namespace = reader.text()?;
    reader.key("timestamp_ms")?;
    let timestamp_ms = reader.head(MAJOR_UINT, "timestamp_ms as an unsigned integer")?;
    if !reader.rest.is_empty() {
        return Err(VertexError::Malformed("nothing after the map"));
    }
    let vertex = Vertex { namespace, kind, author, timestamp_ms, parents, labels, payload };
    // Order and uniqueness of labels, and every other way to spell the same vertex, in one comparison.
    if vertex.canonical() != bytes {
        return Err(VertexError::Malformed("the canonical spelling (order of keys, no key twice)"));
    }
    Ok(vertex)
}

fn text(out: &mut Vec<u8>, value: &str) {
    head(out, MAJOR_TEXT, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// The head of an item in its shortest form.
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..=23 => out.push(major | argument as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, byte_count: u64) -> Result<&'a [u8], VertexError> {
        let taken = usize::try_from(byte_count).ok().and_then(|at| self.rest.split_at_checked(at));
        let (taken, rest) = taken.ok_or(VertexError::Malformed("as many bytes as its lengths say"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn head(&mut self, major: u8, wanted: &'static str) -> Result<u64, VertexError> {
        let first = self.take(1)?[0];
        if first >> 5 != major {
            return Err(VertexError::Malformed(wanted));
        }
        let argument_bytes = match first & 31 {
            direct @ 0..=23 => return Ok(u64::from(direct)),
            width @ 24..=27 => 1u64 << (width - 24),
            _ => return Err(VertexError::Malformed("definite lengths")),
        };
        // A longer head than needed is caught when the form is compared with its re-encoding.
        Ok(self.take(argument_bytes)?.iter().fold(0, |argument, &byte| argument << 8 | u64::from(byte)))
    }

    fn text(&mut self) -> Result<String, VertexError> {
        let byte_count = self.head(MAJOR_TEXT, "text")?;
        let text = str::from_utf8(self.take(byte_count)?).map_err(|_| VertexError::Malformed("text in UTF-8"))?;
        Ok(text.to_owned())
    }

    fn key(&mut self, key: &'static str) -> Result<(), VertexError> {
        let byte_count = self.head(MAJOR_TEXT, key)?;
        if self.take(byte_count)? != key.as_bytes() { Err(VertexError::Malformed(key)) } else { Ok(()) }
    }

    fn link(&mut self) -> Result<VertexId, VertexError> {
        const WANTED: VertexError = VertexError::Malformed("parents as links (tag 42, CIDv1, dag-cbor, blake3-256)");
        if self.take(LINK_HEAD.len() as u64)? != LINK_HEAD {
            return Err(WANTED);
        }
        Ok(VertexId(self.take(ID_BYTES as u64)?.try_into().map_err(|_| WANTED)?))
    }
}
