//! Memory that a device may read and write directly.
//!
//! Promises: a buffer starts on a block boundary, grows like a vector and can be reused. Does not: guess sizes; the caller
//! pads to blocks before a write.

use rkyv::util::AlignedVec;

/// The device block: every write to the log starts and ends on a multiple of it, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Bytes that start on a block boundary.
pub type AlignedBuffer = AlignedVec<BLOCK_BYTES>;

/// `bytes` rounded up to whole blocks.
pub(crate) const fn blocks_up(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// A buffer of `bytes` zeros.
pub(crate) fn zeroed(bytes: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::with_capacity(bytes);
    buffer.resize(bytes, 0);
    buffer
}
