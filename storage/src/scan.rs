//! Walks the frames of a segment and decides where its valid prefix ends, and whether what follows was torn or damaged.
//!
//! Promises: the prefix holds whole, checked, consecutively numbered frames only; a later frame that proves the first invalid
//! place was once durable is found, wherever in the segment it stands. Does not: read, cut or repair.

use crate::buffer::BLOCK_BYTES;
use crate::wire::{self, FrameHeader, Position, WireError};

/// What a segment's bytes are expected to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) log: [u8; 16],
    pub(crate) segment: u32,
    /// Where to start, in bytes.
    pub(crate) from: u32,
    /// The number of the frame there.
    pub(crate) number: u64,
}

/// A walk's outcome.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) frames: Vec<FrameHeader>,
    /// First offset behind the valid frames, in bytes.
    pub(crate) end: u32,
    /// Why the walk ended before the blank rest of the segment; `None` when the rest is blank.
    pub(crate) stopped: Option<WireError>,
    /// The highest position that a frame behind the end, by a valid head, says was durable when it was written.
    pub(crate) proof: Option<Position>,
}

/// Walks `bytes`, the whole segment.
pub(crate) fn walk(bytes: &[u8], expected: &Expected) -> Walk {
    let mut at = expected.from as usize;
    let mut number = expected.number;
    let mut frames = Vec::new();
    let mut stopped = None;
    while at < bytes.len() {
        let position = Position { segment: expected.segment, offset: at as u32 };
        match wire::parse_frame(&bytes[at..], &expected.log, position) {
            Ok(frame) if frame.placement.number == number => {
                at += frame.frame_bytes as usize;
                number += 1;
                frames.push(frame);
            }
            Ok(_) => {
                stopped = Some(WireError::Range("frame number"));
                break;
            }
            Err(error) => {
                stopped = Some(error);
                break;
            }
        }
    }
    if stopped.is_some() && wire::blank(&bytes[at..]) {
        stopped = None;
    }
    let proof = if stopped.is_some() { proof(bytes, expected, at) } else { None };
    Walk { frames, end: at as u32, stopped, proof }
}

/// The highest durable position that any valid head from `from` on tells.
pub(crate) fn proof(bytes: &[u8], expected: &Expected, from: usize) -> Option<Position> {
    let blocks = (from..bytes.len()).step_by(BLOCK_BYTES);
    blocks
        .filter_map(|at| {
            let position = Position { segment: expected.segment, offset: at as u32 };
            wire::parse_frame_header(&bytes[at..], &expected.log, position).ok()
        })
        .map(|frame| frame.placement.durable)
        .max()
}

/// Runs of blocks from `from` on that are not blank: (offset, bytes).
pub(crate) fn dirty(bytes: &[u8], from: usize, run_bytes_max: usize) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for at in (from..bytes.len()).step_by(BLOCK_BYTES) {
        if wire::blank(&bytes[at..bytes.len().min(at + BLOCK_BYTES)]) {
            continue;
        }
        match runs.last_mut() {
            Some((start, length)) if *start + *length == at && *length < run_bytes_max => *length += BLOCK_BYTES,
            _ => runs.push((at, BLOCK_BYTES)),
        }
    }
    runs
}
