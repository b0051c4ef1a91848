//! CAR v1: a header with roots, then blocks of a CID and the content it names.
//!
//! ```text
//! varint length, dag-cbor {"roots": [CID], "version": 1}
//! varint length, CID (36 bytes: v1, dag-cbor, blake3-256), canonical form of a vertex      ... and so on
//! ```
//!
//! Promises: what is written is readable by any IPLD tool; a block is believed only when its bytes have the id that its CID
//! says and are the canonical form of a vertex. Does not: carry signatures, which stand beside a vertex.

use std::io::Read;

use crate::dag::archive::{Scratch, SealedVertex};
use crate::dag::vertex::Vertex;
use crate::error::{Reason, Refusal};
use crate::ids::{CODEC_DAG_CBOR, HASH_BLAKE3, ID_BYTES, VertexId};
use crate::limits::RECORD_BYTES_MAX;

/// A header, in bytes: room for a hundred thousand roots.
const HEADER_BYTES_MAX: usize = 4 << 20;
/// A block, in bytes: the canonical form is never larger than the record by more than its map keys.
const BLOCK_BYTES_MAX: usize = RECORD_BYTES_MAX + 4096;
const CID_BYTES: usize = 36;
/// The longest varint of 64 bits.
const VARINT_BYTES_MAX: usize = 10;
/// Before each CID in DAG-CBOR: tag 42, 37 bytes, the identity multibase.
const LINK_HEAD: [u8; 5] = [0xd8, 0x2a, 0x58, 0x25, 0x00];

/// The header of a file with these roots.
pub(super) fn header(roots: &[VertexId]) -> Vec<u8> {
    let mut cbor = vec![0xa2, 0x65];
    cbor.extend_from_slice(b"roots");
    array_head(&mut cbor, roots.len() as u64);
    for root in roots {
        cbor.extend_from_slice(&LINK_HEAD);
        cbor.extend_from_slice(&root.cid_bytes());
    }
    cbor.push(0x67);
    cbor.extend_from_slice(b"version");
    cbor.push(1);
    let mut header = Vec::with_capacity(cbor.len() + VARINT_BYTES_MAX);
    write_varint(&mut header, cbor.len() as u64);
    header.extend_from_slice(&cbor);
    header
}

/// Appends the block of a vertex.
pub(super) fn block(vertex: &SealedVertex, out: &mut Vec<u8>) {
    let mut content = Vec::with_capacity(256 + vertex.payload().len());
    vertex.canonical_into(&mut content);
    write_varint(out, (CID_BYTES + content.len()) as u64);
    out.extend_from_slice(&vertex.id().cid_bytes());
    out.extend_from_slice(&content);
}

/// Reads the vertices of a file.
pub(super) struct Reader<R> {
    input: R,
    content: Vec<u8>,
    scratch: Scratch,
    block: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub(super) fn new(mut input: R) -> Result<Self, Refusal> {
        let mut content = Vec::new();
        let found = section(&mut input, &mut content, HEADER_BYTES_MAX)
            .map_err(|refusal| Refusal { detail: format!("header: {}", refusal.detail), ..refusal })?;
        if found.is_none() {
            return Err(Refusal::bad_request("the file is empty, not a CAR"));
        }
        check_header(&content)?;
        Ok(Self { input, content, scratch: Scratch::default(), block: 0 })
    }

    /// The next vertex; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<SealedVertex>, Refusal> {
        self.block += 1;
        let next = section(&mut self.input, &mut self.content, CID_BYTES + BLOCK_BYTES_MAX)
            .and_then(|found| found.map(|()| vertex(&self.content, &mut self.scratch)).transpose());
        next.map_err(|refusal| Refusal { detail: format!("block {}: {}", self.block, refusal.detail), ..refusal })
    }
}

fn vertex(section: &[u8], scratch: &mut Scratch) -> Result<SealedVertex, Refusal> {
    let mut rest = section;
    let cid = cid::Cid::read_bytes(&mut rest).map_err(|error| Refusal::bad_request(format!("no CID: {error}")))?;
    let id = VertexId::from_cid(&cid).map_err(|_| {
        Refusal::bad_request(format!(
            "{cid} is of codec {:#x} and hash {:#x}; a vertex has {CODEC_DAG_CBOR:#x} and {HASH_BLAKE3:#x}",
            cid.codec(),
            cid.hash().code()
        ))
    })?;
    let found = VertexId(*blake3::hash(rest).as_bytes());
    if found != id {
        return Err(Refusal::new(Reason::Unverified, format!("the content has the id {found}, not {id}")));
    }
    let vertex = Vertex::from_canonical(rest)?;
    Ok(SealedVertex::seal_with(&vertex, None, scratch)?)
}

/// Reads a varint and as many bytes as it says.
fn section(input: &mut impl Read, content: &mut Vec<u8>, bytes_max: usize) -> Result<Option<()>, Refusal> {
    let broken = |error: std::io::Error| Refusal::bad_request(error.to_string());
    let Some(bytes) = read_varint(input)? else { return Ok(None) };
    if bytes == 0 || (bytes_max as u64) < bytes {
        return Err(Refusal::bad_request(format!("a section of {bytes} bytes, allowed are 1 to {bytes_max} bytes")));
    }
    content.clear();
    let count = input.take(bytes).read_to_end(content).map_err(broken)?;
    if (count as u64) < bytes {
        return Err(Refusal::bad_request(format!("the file ends inside a section: {count} of {bytes} bytes")));
    }
    Ok(Some(()))
}

fn read_varint(input: &mut impl Read) -> Result<Option<u64>, Refusal> {
    let mut value = 0u64;
    for nth in 0..VARINT_BYTES_MAX {
        let mut byte = [0];
        let count = input.read(&mut byte).map_err(|error| Refusal::bad_request(error.to_string()))?;
        if count == 0 {
            return if nth == 0 { Ok(None) } else { Err(Refusal::bad_request("the file ends inside a length")) };
        }
        value |= u64::from(byte[0] & 0x7f).checked_shl(nth as u32 * 7).unwrap_or(0);
        if byte[0] & 0x80 == 0 {
            return Ok(Some(value));
        }
    }
    Err(Refusal::bad_request("a length of more than 64 bits"))
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while 0x80 <= value {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn array_head(out: &mut Vec<u8>, count: u64) {
    match count {
        0..=23 => out.push(0x80 | count as u8),
        24..=0xff => out.extend_from_slice(&[0x98, count as u8]),
        0x100..=0xffff => {
            out.push(0x99);
            out.extend_from_slice(&(count as u16).to_be_bytes());
        }
        _ => {
            out.push(0x9a);
            out.extend_from_slice(&(count as u32).to_be_bytes());
        }
    }
}

/// Accepts a header of version 1, with or without roots; roots say nothing about what to import.
fn check_header(cbor: &[u8]) -> Result<(), Refusal> {
    #[derive(serde::Deserialize)]
    struct Header {
        version: u64,
    }
    let header: Header = serde_ipld_dagcbor::from_slice(cbor)
        .map_err(|_| Refusal::bad_request("the header is no dag-cbor map with a version: not a CAR"))?;
    match header.version {
        1 => Ok(()),
        other => Err(Refusal::bad_request(format!("CAR version {other}; convert it to version 1 first"))),
    }
}

const _: () = assert!(CID_BYTES == 4 + ID_BYTES);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;

    fn vertices(count: usize) -> Vec<SealedVertex> {
        let mut made: Vec<SealedVertex> = Vec::new();
        for nth in 0..count {
            let vertex = Vertex {
                namespace: "n".to_owned(),
                kind: "k".to_owned(),
                author: None,
                timestamp_ms: nth as u64,
                parents: made.iter().map(SealedVertex::id).collect(),
                labels: Default::default(),
                payload: vec![nth as u8; nth * 100],
            };
            made.push(SealedVertex::seal(&vertex, None).unwrap());
        }
        made
    }

    fn file(vertices: &[SealedVertex], roots: usize) -> Vec<u8> {
        let ids: Vec<VertexId> = vertices.iter().map(SealedVertex::id).cycle().take(roots).collect();
        let mut file = header(&ids);
        vertices.iter().for_each(|vertex| block(vertex, &mut file));
        file
    }

    fn read(file: &[u8]) -> Result<Vec<SealedVertex>, Refusal> {
        let mut reader = Reader::new(file)?;
        let mut found = Vec::new();
        while let Some(vertex) = reader.next()? {
            found.push(vertex);
        }
        Ok(found)
    }

    #[test]
    fn s1_1_8_a_car_reads_back_whatever_its_roots() {
        let made = vertices(5);
        for roots in [0, 1, 23, 24, 255, 256, 65_536] {
            assert_eq!(read(&file(&made, roots)).unwrap(), made, "{roots} roots");
        }
        assert!(read(&file(&[], 0)).unwrap().is_empty());
    }

    #[test]
    fn s1_1_8_the_header_is_what_the_specification_shows() {
        let id = VertexId([7; 32]);
        let wanted = [
            &[0x38, 0xa2, 0x65][..],
            b"roots",
            &[0x81, 0xd8, 0x2a, 0x58, 0x25, 0x00],
            &id.cid_bytes(),
            &[0x67],
            b"version",
            &[1],
        ]
        .concat();
        let header = header(&[id]);
        assert_eq!(usize::from(header[0]), header.len() - 1);
        assert_eq!(header[1..], wanted[1..]);
    }

    #[test]
    fn s1_1_8_a_damaged_car_is_refused_and_says_where() {
        let good = file(&vertices(2), 1);
        for cut in 0..good.len() {
            // A file may end between two blocks; everywhere else the cut is seen.
            drop(read(&good[..cut]));
        }
        assert!(read(&good[..good.len() - 1]).unwrap_err().detail.starts_with("block 2: the file ends"));
        let mut bent = good.clone();
        *bent.last_mut().unwrap() ^= 1;
        assert_eq!(read(&bent).unwrap_err().reason, Reason::Unverified);
        let start = header(&[vertices(1)[0].id()]).len();
        for at in start..good.len() {
            let mut bent = good.clone();
            bent[at] ^= 0x01;
            assert!(read(&bent).is_err(), "byte {at}");
        }
        assert!(read(b"").unwrap_err().detail.contains("empty"));
        assert!(read(b"\x0bnot a car!!").is_err());
        assert!(read(&[0xff; 20]).is_err());
        let second = b"\x0a\xa1gversion\x02";
        assert!(read(second).unwrap_err().detail.contains("version 2"));
    }
}
