//! The online scrub: re-reads sealed segments at a given pace, while the log serves.
//!
//! Promises: every sum of every frame and record of a sealed segment is checked against what is on the disk now; the core's loop
//! gets its turn between two reads. Does not: repair; the caller refetches what is damaged from a replica.

use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::io::DiskFile;
use crate::log::{Core, Log};
use crate::record;
use crate::wire::seal::Seal;
use crate::wire::{self, FRAME_HEADER_BYTES, FrameHeader, Position, SEGMENT_HEADER_BYTES, WireError};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// One read of the scrub, in bytes; a frame that is larger is read whole.
const WINDOW_BYTES: usize = 256 << 10;

/// A place that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Sequence of the segment.
    pub segment: u32,
    /// Offset in the segment, in bytes.
    pub offset: u64,
    /// What does not match.
    pub what: String,
}

/// What a scrub saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Sealed segments that were read.
    pub segments: u64,
    /// Frames that are whole.
    pub frames: u64,
    /// Records that are whole.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is damaged.
    pub damages: Vec<Damage>,
}

/// How fast a scrub may read.
struct Pace {
    bytes_per_second: u64,
    started: Instant,
}

/// A window on a segment's file.
struct Window {
    file: Rc<dyn DiskFile>,
    end: usize,
    start: usize,
    bytes: AlignedBuffer,
}

impl Log {
    /// Reads and checks every sealed segment, at most `bytes_per_second`; `progress` hears bytes done and bytes in all.
    pub async fn scrub(&self, bytes_per_second: u64, progress: &mut dyn FnMut(u64, u64)) -> ScrubReport {
        let core = &*self.0;
        let active = core.state.borrow().durable.segment;
        let started = Instant::now();
        let mut report = ScrubReport::default();
        let mut seals = Vec::new();
        for sequence in 1..active {
            let file = core.disk.load(&core.path(&wire::seal_name(sequence))).await.unwrap_or_default();
            // One without a seal is not complete, or is scanned at the next open.
            seals.extend(Seal::parse(&file));
        }
        let total = seals.iter().map(|seal| u64::from(seal.end)).sum();
        let pace = Pace { bytes_per_second, started };
        let mut before = 0;
        for seal in seals {
            report.segments += 1;
            let mut progress = |at: usize| progress(before + at as u64, total);
            if let Err(error) = scrub_segment(core, &seal, &pace, &mut report, &mut progress).await {
                let what = format!("cannot be read: {error}");
                report.damages.push(Damage { segment: seal.segment, offset: 0, what });
            }
            before += u64::from(seal.end);
        }
        let stats = &mut core.state.borrow_mut().stats;
        stats.scrubs += 1;
        stats.scrub_bytes += report.bytes;
        stats.scrub_damages = report.damages.len() as u64;
        report
    }
}

async fn scrub_segment(
    core: &Core,
    seal: &Seal,
    pace: &Pace,
    report: &mut ScrubReport,
    progress: &mut dyn FnMut(usize),
) -> io::Result<()> {
    let file = core.file(seal.segment).await?;
    let end = (seal.end as usize).min(file.bytes() as usize);
    let mut window = Window { file, end, start: 0, bytes: AlignedBuffer::new() };
    let damage = |offset: usize, what: String| Damage { segment: seal.segment, offset: offset as u64, what };
    let mut at = SEGMENT_HEADER_BYTES;
    let mut number = seal.first_number;
    while at < end {
        let read = window.hold(at, BLOCK_BYTES).await?;
        let position = Position { segment: seal.segment, offset: at as u32 };
        let head = wire::parse_frame_header(window.at(at), &seal.log, position);
        let read = read
            + match &head {
                Ok(head) => window.hold(at, head.frame_bytes as usize).await?,
                Err(_) => 0,
            };
        let checked = head.and_then(|_| check_frame(window.at(at), &seal.log, position));
        match checked {
            Ok(frame) => {
                if frame.placement.number != number {
                    report.damages.push(damage(at, format!("frame {} where {number} belongs", frame.placement.number)));
                }
                number = frame.placement.number + 1;
                report.frames += 1;
                report.records += u64::from(frame.entry.record_count);
                at += frame.frame_bytes as usize;
            }
            Err(error) => {
                report.damages.push(damage(at, error.to_string()));
                at = window.next_frame(at + BLOCK_BYTES, seal).await?;
                // The gap was told; what follows is held against its own numbers.
                if at < end {
                    let position = Position { segment: seal.segment, offset: at as u32 };
                    let head = wire::parse_frame_header(window.at(at), &seal.log, position);
                    number = head.map_or(number, |head| head.placement.number);
                }
            }
        }
        if 0 < read {
            report.bytes += read as u64;
            let ahead = pace.ahead(report.bytes);
            if !ahead.is_zero() {
                core.disk.pause(ahead).await;
            }
        }
        progress(at.min(end));
    }
    Ok(())
}

impl Pace {
    /// How long to wait when so many bytes were read.
    fn ahead(&self, bytes: u64) -> Duration {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64);
        due.saturating_sub(self.started.elapsed())
    }
}

impl Window {
    /// Makes sure that `bytes` from `at` on are in memory, up to the segment's end; answers what was read for it, in bytes.
    async fn hold(&mut self, at: usize, bytes: usize) -> io::Result<usize> {
        let until = (at + bytes).min(self.end);
        if self.start <= at && until <= self.start + self.bytes.len() {
            return Ok(0);
        }
        let wanted = bytes.max(WINDOW_BYTES).min(self.end - at);
        self.bytes = self.file.read_at(at as u64, wanted).await?;
        self.start = at;
        Ok(wanted)
    }

    fn at(&self, at: usize) -> &[u8] {
        &self.bytes[at - self.start..]
    }

    /// The next block with a frame head, or the end.
    async fn next_frame(&mut self, mut at: usize, seal: &Seal) -> io::Result<usize> {
        while at < self.end {
            self.hold(at, BLOCK_BYTES).await?;
            let position = Position { segment: seal.segment, offset: at as u32 };
            if wire::parse_frame_header(self.at(at), &seal.log, position).is_ok() {
                return Ok(at);
            }
            at += BLOCK_BYTES;
        }
        Ok(self.end)
    }
}

/// Checks a whole frame, and each record by its own sum.
fn check_frame(bytes: &[u8], log: &[u8; 16], at: Position) -> Result<FrameHeader, WireError> {
    let frame = wire::parse_frame(bytes, log, at)?;
    let mut rest = &bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + frame.entry.payload_bytes as usize];
    while !rest.is_empty() {
        rest = &rest[record::check(rest)?..];
    }
    Ok(frame)
}
