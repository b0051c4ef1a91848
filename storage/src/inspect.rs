//! Reads a log's files without the log: what a segment holds, and whether a directory is whole.
//!
//! Promises: reads only; a torn tail (the next open will cut it) and damage (it will refuse) are told apart as the open does.
//! Does not: take the lock; beside a running node the tail of the active segment may look torn.

use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::record::Record;
use crate::scan::{self, Expected};
use crate::scrub::Damage;
use crate::wire::hint::Hint;
use crate::wire::seal::Seal;
use crate::wire::{self, FRAME_HEADER_BYTES, FrameHeader, Position, SEGMENT_HEADER_BYTES, SegmentHeader};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

/// A segment, as its file says.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// Its head.
    pub header: SegmentHeader,
    /// Its valid frames, in order.
    pub frames: Vec<FrameHeader>,
    /// How the frames end.
    pub state: State,
    /// Whether a readable seal stands beside it.
    pub sealed: bool,
}

/// How a segment's frames end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The rest is blank, or there is none.
    Clean {
        /// First free offset, in bytes.
        end: u64,
    },
    /// Something that is no valid frame: torn, or damaged.
    Stopped {
        /// Where, in bytes.
        offset: u64,
        /// What does not match.
        what: String,
        /// Whether a later frame proves that this place was durable: then it is damage.
        damaged: bool,
    },
}

/// A directory of segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntegrityReport {
    /// Segments that were read.
    pub segments: u64,
    /// Frames that are whole.
    pub frames: u64,
    /// Records that are whole and that the caller's check passed.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What was durable and is damaged.
    pub damages: Vec<Damage>,
    /// Frames that were never durable; the next open cuts them.
    pub torn_tail: Option<Damage>,
    /// Hints and seals that are missing or damaged; the next open makes them again.
    pub rebuildable: Vec<String>,
}

/// What a caller checks of each record: kind, key, body.
pub type Verify<'a> = &'a mut dyn FnMut(u8, &[u8; 32], &[u8]) -> Result<(), String>;

/// Reads one segment's file.
///
/// # Errors
/// When it cannot be read, or [`io::ErrorKind::InvalidData`] when its head is damaged.
pub fn segment(path: &Path) -> io::Result<SegmentReport> {
    let bytes = load(path)?;
    let invalid = |error: wire::WireError| io::Error::new(io::ErrorKind::InvalidData, error);
    let header = SegmentHeader::parse(&bytes).map_err(invalid)?;
    let first = Position { segment: header.sequence, offset: SEGMENT_HEADER_BYTES as u32 };
    let number = wire::parse_frame_header(&bytes[SEGMENT_HEADER_BYTES..], &header.log, first);
    let expected = Expected {
        log: header.log,
        segment: header.sequence,
        from: SEGMENT_HEADER_BYTES as u32,
        number: number.map_or(1, |frame| frame.placement.number),
    };
    let walk = scan::walk(&bytes, &expected);
    let end = Position { segment: header.sequence, offset: walk.end };
    let seal = std::fs::read(path.with_extension("seal")).ok().and_then(|file| Seal::parse(&file).ok());
    let sealed = seal.is_some();
    let state = match walk.stopped {
        None => State::Clean { end: u64::from(walk.end) },
        Some(what) => {
            let sealed_beyond = seal.is_some_and(|seal| walk.end < seal.end);
            let damaged = sealed_beyond || walk.proof.is_some_and(|proof| end < proof);
            State::Stopped { offset: u64::from(walk.end), what: what.to_string(), damaged }
        }
    };
    Ok(SegmentReport { header, frames: walk.frames, state, sealed })
}

/// Reads every segment of a log's directory and checks every sum in it; `verify` judges each record's body, `progress` hears
/// bytes done and bytes in all.
///
/// # Errors
/// When the directory or a file cannot be read.
pub fn integrity(
    directory: &Path,
    verify: Verify<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<IntegrityReport> {
    let mut paths = BTreeMap::new();
    let mut sealed = None;
    let mut total = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        if let Some(sequence) = wire::segment_sequence(name) {
            total += entry.metadata()?.len();
            paths.insert(sequence, entry.path());
        }
        sealed = sealed.max(wire::sealed_sequence(name));
    }
    let mut check =
        Check { report: IntegrityReport::default(), number: 1, log: None, broken: None, proof: Position::default() };
    let mut next = 1;
    for (&sequence, path) in &paths {
        check.gap(next, sequence);
        let bytes = load(path)?;
        check.segment(directory, sequence, &bytes, verify);
        check.report.segments += 1;
        check.report.bytes += bytes.len() as u64;
        progress(check.report.bytes, total);
        next = sequence.saturating_add(1);
    }
    if let Some(sealed) = sealed.filter(|&sealed| next <= sealed) {
        check.gap(next, sealed);
        let at = Position { segment: sealed, offset: 0 };
        check.damage(at, "the segment's seal is here, its file is missing".to_owned());
    }
    Ok(check.finish())
}

struct Check {
    report: IntegrityReport,
    /// The number of the next frame.
    number: u64,
    log: Option<[u8; 16]>,
    /// The first place that is not valid and not yet proven to have been durable.
    broken: Option<(Position, Position, String)>,
    proof: Position,
}

impl Check {
    fn damage(&mut self, at: Position, what: String) {
        self.report.damages.push(Damage { segment: at.segment, offset: u64::from(at.offset), what });
    }

    /// Segments from `next` on are missing before the one at hand. One damage, however many they are: names are a stranger's.
    fn gap(&mut self, next: u32, found: u32) {
        let at = Position { segment: next, offset: 0 };
        match found.checked_sub(next) {
            Some(0) => {}
            Some(1) => self.damage(at, "the segment's file is missing".to_owned()),
            Some(_) => self.damage(at, format!("the files of segments {next} to {} are missing", found - 1)),
            None => self.damage(Position { segment: found, ..at }, "no log has a segment of this number".to_owned()),
        }
    }

    fn segment(&mut self, directory: &Path, sequence: u32, bytes: &Bytes, verify: Verify<'_>) {
        let at = Position { segment: sequence, offset: 0 };
        let header = match SegmentHeader::parse(bytes) {
            Ok(header) if header.sequence == sequence && self.log.is_none_or(|log| log == header.log) => header,
            Ok(_) => return self.damage(at, "the segment belongs to another log or place".to_owned()),
            Err(error) => return self.damage(at, error.to_string()),
        };
        self.log = Some(header.log);
        if header.segment_bytes as usize != bytes.len() {
            return self.damage(at, format!("{} bytes, its head says {}", bytes.len(), header.segment_bytes));
        }
        self.companions(directory, sequence, &header, bytes);
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut end = Position { segment: sequence, offset: 0 };
        while offset < bytes.len() {
            let at = Position { segment: sequence, offset: offset as u32 };
            // As the open does: a whole frame ends the search for a torn tail, and a record in it that is not whole is damage.
            match wire::parse_frame(&bytes[offset..], &header.log, at) {
                Ok(frame) => {
                    let expected = std::mem::replace(&mut self.number, frame.placement.number + 1);
                    if frame.placement.number != expected && self.broken.is_none() {
                        let what = format!("frame {} where {expected} belongs", frame.placement.number);
                        self.broken = Some((at, end, what));
                    }
                    self.proof = self.proof.max(frame.placement.durable);
                    self.frame(&frame, bytes, verify);
                    offset += frame.frame_bytes as usize;
                    end = Position { segment: sequence, offset: offset as u32 };
                }
                Err(_) if wire::blank(&bytes[offset..]) => break,
                Err(error) => {
                    self.settle();
                    if self.broken.is_none() {
                        self.broken = Some((at, at, error.to_string()));
                    }
                    let expected = Expected { log: header.log, segment: sequence, from: 0, number: 0 };
                    self.proof = self.proof.max(scan::proof(bytes, &expected, offset).unwrap_or_default());
                    self.settle();
                    offset += BLOCK_BYTES;
                    while offset < bytes.len() && !self.resumes(bytes, offset, &header) {
                        offset += BLOCK_BYTES;
                    }
                }
            }
        }
    }

    /// Whether a whole frame stands at `offset`; the numbers go on from there.
    fn resumes(&mut self, bytes: &Bytes, offset: usize, header: &SegmentHeader) -> bool {
        let at = Position { segment: header.sequence, offset: offset as u32 };
        let frame = wire::parse_frame_header(&bytes[offset..], &header.log, at);
        frame.map(|frame| self.number = frame.placement.number).is_ok()
    }

    /// A broken place that is proven to have been durable is damage, and the search goes on behind it.
    fn settle(&mut self) {
        if let Some((at, _, what)) = self.broken.take_if(|(_, end, _)| *end < self.proof) {
            self.damage(at, what);
        }
    }

    fn frame(&mut self, frame: &FrameHeader, bytes: &Bytes, verify: Verify<'_>) {
        let at = frame.placement.at;
        self.report.frames += 1;
        let start = at.offset as usize + FRAME_HEADER_BYTES;
        let payload = bytes.slice(start..start + frame.entry.payload_bytes as usize);
        match Record::parse_all(&payload, frame.entry.record_count as usize) {
            Ok(records) => {
                for record in records {
                    match verify(record.kind(), record.key(), record.body()) {
                        Ok(()) => self.report.records += 1,
                        Err(what) => self.damage(at, what),
                    }
                }
            }
            Err(error) => self.damage(at, error.to_string()),
        }
    }

    /// The hint and the seal beside a segment: what they prove, and whether they are whole.
    fn companions(&mut self, directory: &Path, sequence: u32, header: &SegmentHeader, bytes: &Bytes) {
        let hint_name = wire::hint_name(sequence);
        let hint_file = std::fs::read(directory.join(&hint_name)).unwrap_or_default();
        let hint = Hint::parse(&hint_file).ok().filter(|hint| hint.cover.log == header.log);
        let seal_file = std::fs::read(directory.join(wire::seal_name(sequence))).unwrap_or_default();
        let seal = Seal::parse(&seal_file).ok().filter(|seal| seal.log == header.log && seal.segment == sequence);
        let mut durable = 0;
        if let Some(hint) = &hint {
            durable = hint.cover.end;
        } else if !hint_file.is_empty() {
            self.report.rebuildable.push(hint_name.clone());
        }
        if let Some(seal) = &seal {
            durable = durable.max(seal.end);
            if *blake3::hash(&hint_file).as_bytes() != seal.hint && !self.report.rebuildable.contains(&hint_name) {
                self.report.rebuildable.push(hint_name);
            }
            let content = bytes.get(..seal.end as usize).map(|used| *blake3::hash(used).as_bytes());
            if content != Some(seal.content) {
                let at = Position { segment: sequence, offset: 0 };
                self.damage(at, "the content does not match its seal".to_owned());
            }
        } else if !seal_file.is_empty() {
            self.report.rebuildable.push(wire::seal_name(sequence));
        }
        if SEGMENT_HEADER_BYTES < durable as usize {
            self.proof = self.proof.max(Position { segment: sequence, offset: durable });
        }
    }

    fn finish(mut self) -> IntegrityReport {
        self.settle();
        if let Some((at, _, what)) = self.broken.take() {
            self.report.torn_tail = Some(Damage { segment: at.segment, offset: u64::from(at.offset), what });
        }
        self.report
    }
}

fn load(path: &Path) -> io::Result<Bytes> {
    let mut file = std::fs::File::open(path)?;
    let mut bytes = AlignedBuffer::new();
    bytes.resize(file.metadata()?.len() as usize, 0);
    file.read_exact(&mut bytes)?;
    Ok(Bytes::from_owner(bytes))
}
