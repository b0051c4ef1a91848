//! The hint file: what a replay of a segment needs, without reading its bodies.
//!
//! ```text
//!  0  u16       version (2)
//!  2  u16       reserved
//!  4  u32       magic "QHNT"
//!  8  [u8; 16]  log
//! 24  u32       segment
//! 28  u32       end: the frames below this offset are in here, and were durable when this file was written
//! 32  u64       next_number: the number of the first frame that is not in here
//! 40  u64       groups_bytes
//! 48  u32       crc of the groups
//! 52  [u8; 8]   reserved
//! 60  u32       crc of bytes 0..60
//! 64  groups, one for each entry
//!
//! group:   u16 shard, u16 reserved, u32 record_count, u64 term, u64 index, u32 frame offset, u32 items_bytes,
//!          u64 committed, u32 frame_bytes, u32 reserved, items
//! item:    u32 offset in the frame, u8 kind, u8 reserved, u16 hint_bytes, [u8; 32] key, hint
//! ```
//!
//! Frames stand at ascending block boundaries below the end, records at multiples of their alignment behind the heads of their
//! frame and below the end: a place that a hint names lies in its segment.
//!
//! Promises: `parse` hands out nothing that it did not check. Does not: know what a hint means.

use super::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, WireError, blank, crc, put, u16_at, u32_at, u64_at};
use crate::buffer::BLOCK_BYTES;
use crate::record::{RECORD_ALIGN, RECORD_HEADER_BYTES};

/// Bytes of one record's hint at most.
pub const HINT_BYTES_MAX: usize = u16::MAX as usize;

/// Version of the hint file. A file of another version is made again from its segment.
const VERSION: u16 = 2;
const MAGIC: u32 = u32::from_le_bytes(*b"QHNT");
const HEADER_BYTES: usize = 64;
const GROUP_BYTES: usize = 48;
const ITEM_BYTES: usize = 40;

/// The groups of a segment, while they gather.
#[derive(Default)]
pub struct Groups {
    bytes: Vec<u8>,
}

/// The items of one entry, while they gather.
#[derive(Default)]
pub struct Items {
    bytes: Vec<u8>,
    count: u32,
}

/// Which entry a group is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The shard.
    pub shard: u16,
    /// The term.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
    /// Offset of its frame in the segment, in bytes.
    pub frame_offset: u32,
    /// Bytes of its frame, padding included.
    pub frame_bytes: u32,
    /// What its head says was committed.
    pub committed: u64,
}

/// One record of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Offset of the record in its frame, in bytes.
    pub offset: u32,
    /// The record's kind.
    pub kind: u8,
    /// The record's key.
    pub key: &'a [u8; 32],
    /// What the room above wants to know at a replay.
    pub hint: &'a [u8],
}

/// What a hint covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Name of the log.
    pub log: [u8; 16],
    /// Sequence of the segment.
    pub segment: u32,
    /// First offset that is not covered, in bytes.
    pub end: u32,
    /// Number of the first frame that is not covered.
    pub next_number: u64,
}

/// A checked hint file.
pub struct Hint<'a> {
    /// What it covers.
    pub cover: Cover,
    groups: &'a [u8],
}

impl Items {
    /// Adds a record.
    pub fn push(&mut self, item: Item<'_>) {
        assert!(item.hint.len() <= HINT_BYTES_MAX, "hint of {} bytes", item.hint.len());
        self.bytes.extend_from_slice(&item.offset.to_le_bytes());
        self.bytes.extend_from_slice(&[item.kind, 0]);
        self.bytes.extend_from_slice(&(item.hint.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(item.key);
        self.bytes.extend_from_slice(item.hint);
        self.count += 1;
    }

    /// Records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Hands out the records in order; what was pushed parses.
    pub fn for_each(&self, mut each: impl FnMut(Item<'_>)) {
        let mut rest = &self.bytes[..];
        while let Some((item, after)) = next_item(rest) {
            each(item);
            rest = after;
        }
        assert!(rest.is_empty(), "items that this process gathered do not parse");
    }
}

impl Groups {
    /// Adds an entry.
    pub fn push(&mut self, group: &Group, items: &Items) {
        self.bytes.extend_from_slice(&group.shard.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&items.count.to_le_bytes());
        self.bytes.extend_from_slice(&group.term.to_le_bytes());
        self.bytes.extend_from_slice(&group.index.to_le_bytes());
        self.bytes.extend_from_slice(&group.frame_offset.to_le_bytes());
        self.bytes.extend_from_slice(&(items.bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&group.committed.to_le_bytes());
        self.bytes.extend_from_slice(&group.frame_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&items.bytes);
    }

    /// The groups of a checked hint file, to go on with.
    pub fn resume(hint: &Hint<'_>) -> Self {
        Self { bytes: hint.groups.to_vec() }
    }

    /// The whole file.
    pub fn encode(&self, cover: &Cover) -> Vec<u8> {
        let mut file = vec![0; HEADER_BYTES];
        put(&mut file, 0, &VERSION.to_le_bytes());
        put(&mut file, 4, &MAGIC.to_le_bytes());
        put(&mut file, 8, &cover.log);
        put(&mut file, 24, &cover.segment.to_le_bytes());
        put(&mut file, 28, &cover.end.to_le_bytes());
        put(&mut file, 32, &cover.next_number.to_le_bytes());
        put(&mut file, 40, &(self.bytes.len() as u64).to_le_bytes());
        put(&mut file, 48, &crc(&self.bytes).to_le_bytes());
        let header_crc = crc(&file[..60]);
        put(&mut file, 60, &header_crc.to_le_bytes());
        file.extend_from_slice(&self.bytes);
        file
    }
}

impl<'a> Hint<'a> {
    /// Checks a whole file: both checksums, that every group and item stays inside, and that every place lies in the segment.
    ///
    /// # Errors
    /// Any [`WireError`]; the caller then scans the segment instead.
    pub fn parse(file: &'a [u8]) -> Result<Self, WireError> {
        if file.len() < HEADER_BYTES {
            return Err(WireError::Short);
        }
        if u32_at(file, 4) != MAGIC {
            return Err(WireError::Magic("hint"));
        }
        if u16_at(file, 0) != VERSION {
            return Err(WireError::Version(u16_at(file, 0)));
        }
        if u32_at(file, 60) != crc(&file[..60]) {
            return Err(WireError::Checksum("hint header"));
        }
        if !blank(&file[2..4]) || !blank(&file[52..60]) {
            return Err(WireError::Reserved("hint header"));
        }
        let groups = &file[HEADER_BYTES..];
        if u64_at(file, 40) != groups.len() as u64 {
            return Err(WireError::Short);
        }
        if u32_at(file, 48) != crc(groups) {
            return Err(WireError::Checksum("hint"));
        }
        let mut log = [0; 16];
        log.copy_from_slice(&file[8..24]);
        let cover = Cover { log, segment: u32_at(file, 24), end: u32_at(file, 28), next_number: u64_at(file, 32) };
        if !is_block(cover.end) || (cover.end as usize) < SEGMENT_HEADER_BYTES {
            return Err(WireError::Range("end of the hint"));
        }
        let hint = Self { cover, groups };
        let mut rest = groups;
        let mut frame_least = SEGMENT_HEADER_BYTES as u32;
        while !rest.is_empty() {
            let (group, items, after) = next_group(rest).ok_or(WireError::Range("hint group"))?;
            let frame_offset = group.frame_offset;
            if !is_block(frame_offset) || frame_offset < frame_least || cover.end <= frame_offset {
                return Err(WireError::Range("frame of a hint group"));
            }
            if !blank(&rest[2..4]) {
                return Err(WireError::Reserved("hint group"));
            }
            frame_least = frame_offset + 1;
            check_items(items, u32_at(rest, 4), cover.end - frame_offset)?;
            rest = after;
        }
        Ok(hint)
    }

    /// Hands out every entry in log order: first alone, then with each of its records.
    pub fn for_each(&self, mut each: impl FnMut(&Group, Option<Item<'_>>)) {
        let mut rest = self.groups;
        while let Some((group, mut items, after)) = next_group(rest) {
            each(&group, None);
            while let Some((item, after)) = next_item(items) {
                each(&group, Some(item));
                items = after;
            }
            rest = after;
        }
    }

    /// Hands out every entry in log order, with its record count.
    pub fn for_each_group(&self, mut each: impl FnMut(&Group, u32)) {
        let mut rest = self.groups;
        while let Some((group, _, after)) = next_group(rest) {
            each(&group, u32_at(rest, 4));
            rest = after;
        }
    }
}

/// Checks the `count` items of a frame that ends at most `frame_bytes` behind its start.
fn check_items(mut items: &[u8], count: u32, frame_bytes: u32) -> Result<(), WireError> {
    let mut offset_least = FRAME_HEADER_BYTES;
    for _ in 0..count {
        let (item, after) = next_item(items).ok_or(WireError::Range("hint item"))?;
        let offset = item.offset as usize;
        let end = offset.saturating_add(RECORD_HEADER_BYTES);
        if !offset.is_multiple_of(RECORD_ALIGN) || offset < offset_least || (frame_bytes as usize) < end {
            return Err(WireError::Range("offset of a hint item"));
        }
        if items[5] != 0 {
            return Err(WireError::Reserved("hint item"));
        }
        offset_least = end;
        items = after;
    }
    if items.is_empty() { Ok(()) } else { Err(WireError::Range("hint items")) }
}

fn is_block(offset: u32) -> bool {
    (offset as usize).is_multiple_of(BLOCK_BYTES)
}

fn next_group(bytes: &[u8]) -> Option<(Group, &[u8], &[u8])> {
    if bytes.len() < GROUP_BYTES {
        return None;
    }
    let group = Group {
        shard: u16_at(bytes, 0),
        term: u64_at(bytes, 8),
        index: u64_at(bytes, 16),
        frame_offset: u32_at(bytes, 24),
        committed: u64_at(bytes, 32),
        frame_bytes: u32_at(bytes, 40),
    };
    let items_end = GROUP_BYTES.checked_add(u32_at(bytes, 28) as usize)?;
    Some((group, bytes.get(GROUP_BYTES..items_end)?, &bytes[items_end..]))
}

fn next_item(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (key, rest) = bytes.get(8..)?.split_first_chunk::<32>()?;
    let hint_bytes = u16_at(bytes, 6) as usize;
    let hint = rest.get(..hint_bytes)?;
    debug_assert!(ITEM_BYTES + hint_bytes <= bytes.len());
    Some((Item { offset: u32_at(bytes, 0), kind: bytes[4], key, hint }, &rest[hint_bytes..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hint of two frames with two records each, after `change`, with its sums made right again.
    fn hint(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut groups = Groups::default();
        for frame in [4096, 12288] {
            let mut items = Items::default();
            for offset in [112, 176] {
                items.push(Item { offset, kind: 1, key: &[7; 32], hint: b"shape" });
            }
            let group = Group { shard: 2, term: 4, index: 9, frame_offset: frame, frame_bytes: 4096, committed: 0 };
            groups.push(&group, &items);
        }
        let mut file = groups.encode(&Cover { log: [5; 16], segment: 3, end: 16384, next_number: 12 });
        change(&mut file);
        let groups_crc = crc(&file[HEADER_BYTES..]);
        put(&mut file, 48, &groups_crc.to_le_bytes());
        let header_crc = crc(&file[..60]);
        put(&mut file, 60, &header_crc.to_le_bytes());
        file
    }

    #[test]
    fn s1_1_9_a_hint_that_names_a_place_outside_its_segment_is_refused() {
        let refused = |change: &dyn Fn(&mut Vec<u8>)| Hint::parse(&hint(change)).err();
        assert_eq!(refused(&|_| ()), None);
        let number = |at: usize, value: u32| move |file: &mut Vec<u8>| put(file, at, &value.to_le_bytes());
        let (group, item, second) = (HEADER_BYTES, HEADER_BYTES + GROUP_BYTES, GROUP_BYTES + 2 * (ITEM_BYTES + 5));
        for end in [0, 4095, 16383, 12288, u32::MAX] {
            let expected = if end == 12288 { "frame of a hint group" } else { "end of the hint" };
            assert_eq!(refused(&number(28, end)), Some(WireError::Range(expected)), "end {end}");
        }
        for frame in [0, 16, 4097, 12288, 16384, u32::MAX - 4095] {
            assert_eq!(refused(&number(group + 24, frame)), Some(WireError::Range("frame of a hint group")), "{frame}");
        }
        let frame = WireError::Range("frame of a hint group");
        assert_eq!(refused(&number(group + second + 24, 4096)), Some(frame), "frames ascend");
        for offset in [0, 96, 113, 144, 12288, u32::MAX, u32::MAX - 15] {
            let found = refused(&number(item, offset));
            assert_eq!(found, Some(WireError::Range("offset of a hint item")), "offset {offset}");
        }
        assert_eq!(refused(&|file| file[group + 2] = 1), Some(WireError::Reserved("hint group")));
        assert_eq!(refused(&|file| file[item + 5] = 1), Some(WireError::Reserved("hint item")));
    }
}
