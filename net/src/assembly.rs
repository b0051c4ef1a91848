//! Turns pieces of a byte stream into whole frames, each body at an address that an archive can be read at.
//!
//! Promises: every byte of a body is copied once, twice only for the one frame that a batch ends in; memory follows
//! what has arrived, never what a header announces; a body starts at a multiple of [`BODY_ALIGNMENT`].
//! Does not: read a socket, or bound how much is pushed: the reader takes bounded gulps.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use rkyv::util::AlignedVec;

use crate::wire::{BODY_ALIGNMENT, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameError, FrameHeader, too_large};

/// Collects pieces and gives out frames.
pub(crate) struct Assembler<H> {
    /// Received and not yet looked at.
    pieces: VecDeque<Bytes>,
    pieces_bytes: usize,
    header_raw: [u8; FRAME_HEADER_BYTES],
    header_filled: usize,
    /// The frame whose body is being collected at `body_start` of `block`.
    header: Option<H>,
    body_start: usize,
    block: AlignedVec<BODY_ALIGNMENT>,
    /// Complete frames of `block`: header and where the body starts.
    complete: Vec<(H, usize)>,
    body_bytes_max: usize,
}

impl<H: FrameHeader> Assembler<H> {
    pub(crate) fn new() -> Self {
        Self::with_limit(FRAME_BYTES_MAX)
    }

    /// Refuses bodies longer than `body_bytes_max`, which is itself at most [`FRAME_BYTES_MAX`].
    pub(crate) fn with_limit(body_bytes_max: usize) -> Self {
        Self {
            body_bytes_max: body_bytes_max.min(FRAME_BYTES_MAX),
            pieces: VecDeque::new(),
            pieces_bytes: 0,
            header_raw: [0; FRAME_HEADER_BYTES],
            header_filled: 0,
            header: None,
            body_start: 0,
            block: AlignedVec::new(),
            complete: Vec::new(),
        }
    }

    /// Adds the next bytes of the stream.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.pieces_bytes += piece.len();
        self.pieces.push_back(piece);
    }

    /// Takes at most `frames_max` whole frames. After an error the stream is of no further use.
    pub(crate) fn take(&mut self, frames_max: usize) -> Result<Vec<(H, Bytes)>, FrameError> {
        self.block.reserve(self.pieces_bytes);
        while self.complete.len() < frames_max && self.advance()? {}
        if self.complete.is_empty() {
            return Ok(Vec::new());
        }
        let mut next = AlignedVec::new();
        if self.header.is_some() {
            next.extend_from_slice(&self.block[self.body_start..]);
            self.body_start = 0;
        }
        let block = Bytes::from_owner(std::mem::replace(&mut self.block, next));
        Ok(self
            .complete
            .drain(..)
            .map(|(header, start)| (header, block.slice(start..start + header.body_bytes())))
            .collect())
    }

    /// Whether the stream may end here: no frame has begun.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.header.is_none() && self.header_filled == 0 && self.pieces_bytes == 0
    }

    /// Completes one frame, or says that the pieces do not suffice.
    fn advance(&mut self) -> Result<bool, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                if !self.fill_header() {
                    return Ok(false);
                }
                let header = H::parse(&self.header_raw)?;
                if self.body_bytes_max < header.body_bytes() {
                    return Err(too_large(header.body_bytes() as u32, self.body_bytes_max));
                }
                self.header_filled = 0;
                self.body_start = self.block.len().next_multiple_of(BODY_ALIGNMENT);
                self.block.resize(self.body_start, 0);
                self.header = Some(header);
                header
            }
        };
        let body_end = self.body_start + header.body_bytes();
        while self.block.len() < body_end {
            let Some(piece) = self.pieces.front_mut() else { return Ok(false) };
            let length = piece.len().min(body_end - self.block.len());
            self.block.extend_from_slice(&piece[..length]);
            self.consume(length);
        }
        self.complete.push((header, self.body_start));
        self.header = None;
        Ok(true)
    }

    fn fill_header(&mut self) -> bool {
        while self.header_filled < FRAME_HEADER_BYTES {
            let Some(piece) = self.pieces.front() else { return false };
            let length = piece.len().min(FRAME_HEADER_BYTES - self.header_filled);
            self.header_raw[self.header_filled..self.header_filled + length].copy_from_slice(&piece[..length]);
            self.header_filled += length;
            self.consume(length);
        }
        true
    }

    /// Drops `length` bytes of the first piece, and the piece with its last byte.
    fn consume(&mut self, length: usize) {
        let Some(piece) = self.pieces.front_mut() else { return };
        piece.advance(length);
        self.pieces_bytes -= length;
        if piece.is_empty() {
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
#[path = "assembly_fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::RequestHeader;

    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            let header = RequestHeader { body_bytes: body.len() as u32, operation: 7, id: index as u64 };
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    proptest! {
        #[test]
        fn s0_1_frames_survive_any_cut_and_any_batch(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            piece_bytes in 1_usize..97,
            frames_max in 1_usize..9,
        ) {
            let mut assembler = Assembler::<RequestHeader>::new();
            let mut frames = Vec::new();
            for piece in stream(&bodies).chunks(piece_bytes) {
                assembler.push(Bytes::copy_from_slice(piece));
                let taken = assembler.take(frames_max).expect("well-formed");
                prop_assert!(taken.len() <= frames_max);
                frames.extend(taken);
            }
            loop {
                let taken = assembler.take(frames_max).expect("well-formed");
                if taken.is_empty() {
                    break;
                }
                frames.extend(taken);
            }
            prop_assert!(assembler.is_between_frames());
            prop_assert_eq!(frames.len(), bodies.len());
            for (index, ((header, body), expected)) in frames.iter().zip(&bodies).enumerate() {
                prop_assert_eq!(header.id, index as u64);
                prop_assert_eq!(body.as_ref(), expected.as_slice());
                prop_assert!(body.is_empty() || (body.as_ptr() as usize).is_multiple_of(BODY_ALIGNMENT));
            }
        }
    }

    #[test]
    fn s6_1_12_memory_follows_what_arrived_not_what_was_announced() {
        let mut assembler = Assembler::<RequestHeader>::new();
        let header = RequestHeader { body_bytes: FRAME_BYTES_MAX as u32, operation: 0, id: 0 };
        assembler.push(Bytes::copy_from_slice(&header.encode()));
        assembler.push(Bytes::from_static(&[1; 100]));
        assert!(assembler.take(1).expect("well-formed").is_empty());
        assert!(assembler.block.capacity() < 4096, "{} bytes held for 100 received", assembler.block.capacity());
        assert!(!assembler.is_between_frames());
    }

    #[test]
    fn s6_1_12_an_oversize_frame_is_refused_at_its_header() {
        let mut assembler = Assembler::<RequestHeader>::new();
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
        assembler.push(Bytes::copy_from_slice(&bytes));
        let refused = assembler.take(1).err();
        assert_eq!(refused, Some(too_large(FRAME_BYTES_MAX as u32 + 1, FRAME_BYTES_MAX)));
    }
}
