//! Frames waiting to be written, already in the shape in which they leave.
//!
//! Promises: small frames stand together in one buffer, so that the stream below handles few pieces; a large body is
//! passed on without a copy.
//! Does not: bound itself. Both owners count `bytes` and stop taking work.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::wire::FRAME_HEADER_BYTES;

/// A body up to this length is copied beside its neighbours, in bytes. Above it, one more piece in the stream's
/// send buffer costs less than the copy.
const COPIED_BODY_BYTES_MAX: usize = 8 << 10;
/// Capacity of a new buffer for small frames, in bytes.
const BUFFER_BYTES: usize = 16 << 10;

#[derive(Default)]
pub(crate) struct Outgoing {
    pieces: Vec<Bytes>,
    buffer: BytesMut,
    bytes: usize,
}

impl Outgoing {
    /// Adds one frame.
    pub(crate) fn push(&mut self, header: [u8; FRAME_HEADER_BYTES], body: Bytes) {
        self.bytes += FRAME_HEADER_BYTES + body.len();
        let copied_bytes = if body.len() <= COPIED_BODY_BYTES_MAX { body.len() } else { 0 };
        if self.buffer.capacity() - self.buffer.len() < FRAME_HEADER_BYTES + copied_bytes {
            self.buffer.reserve(BUFFER_BYTES.max(FRAME_HEADER_BYTES + copied_bytes));
        }
        self.buffer.put_slice(&header);
        if copied_bytes == body.len() {
            self.buffer.put_slice(&body);
        } else {
            self.pieces.push(self.buffer.split().freeze());
            self.pieces.push(body);
        }
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes all that waits, in order.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        if !self.buffer.is_empty() {
            self.pieces.push(self.buffer.split().freeze());
        }
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_1_4_small_frames_leave_as_one_piece_and_large_bodies_uncopied() {
        let mut outgoing = Outgoing::default();
        let large = Bytes::from(vec![7; COPIED_BODY_BYTES_MAX + 1]);
        for number in 0..3 {
            outgoing.push([number; FRAME_HEADER_BYTES], Bytes::from_static(b"small"));
        }
        outgoing.push([3; FRAME_HEADER_BYTES], large.clone());
        outgoing.push([4; FRAME_HEADER_BYTES], Bytes::new());
        assert_eq!(outgoing.bytes(), 5 * FRAME_HEADER_BYTES + 15 + large.len());
        let pieces = outgoing.take();
        let lengths: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [4 * FRAME_HEADER_BYTES + 15, large.len(), FRAME_HEADER_BYTES]);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(&pieces[0][..FRAME_HEADER_BYTES + 5], b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0small");
        assert_eq!(outgoing.bytes(), 0);
        assert!(outgoing.take().is_empty());
    }
}
