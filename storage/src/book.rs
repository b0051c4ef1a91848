//! What a segment holds, kept while it fills: the groups of its hint and the sums of its seal.
//!
//! Promises: entries of a shard follow each other without a gap. Does not: know whether they are durable.

use crate::gather::Last;
use crate::wire::hint::{Cover, Group, Groups, Hint, Items};
use crate::wire::seal::{Seal, Span};
use std::collections::BTreeMap;

pub(crate) struct Book {
    pub(crate) segment: u32,
    /// First free offset, in bytes.
    pub(crate) end: u32,
    pub(crate) first_number: u64,
    pub(crate) next_number: u64,
    pub(crate) record_count: u64,
    groups: Groups,
    spans: BTreeMap<u16, Span>,
}

impl Book {
    pub(crate) fn new(segment: u32, first_number: u64) -> Self {
        Self {
            segment,
            end: crate::wire::SEGMENT_HEADER_BYTES as u32,
            first_number,
            next_number: first_number,
            record_count: 0,
            groups: Groups::default(),
            spans: BTreeMap::new(),
        }
    }

    /// Goes on where a hint ends.
    pub(crate) fn resume(first_number: u64, hint: &Hint<'_>) -> Self {
        let mut book = Self::new(hint.cover.segment, first_number);
        hint.for_each_group(|group, record_count| book.count(group, record_count));
        book.groups = Groups::resume(hint);
        book.end = hint.cover.end;
        book.next_number = hint.cover.next_number;
        book
    }

    /// A frame of `frame_bytes` stands at the end; `entry` is `None` for a close frame.
    pub(crate) fn enter(&mut self, frame_bytes: u32, entry: Option<(&Group, &Items)>) {
        if let Some((group, items)) = entry {
            assert!(group.frame_offset == self.end, "frames stand one behind the other");
            self.groups.push(group, items);
            self.count(group, items.count());
        }
        self.end += frame_bytes;
        self.next_number += 1;
    }

    fn count(&mut self, group: &Group, record_count: u32) {
        self.record_count += u64::from(record_count);
        let span = self.spans.entry(group.shard).or_insert(Span {
            shard: group.shard,
            first_index: group.index,
            last_index: group.index,
            last_term: group.term,
        });
        span.last_index = group.index;
        span.last_term = group.term;
    }

    pub(crate) fn hint_file(&self, log: [u8; 16]) -> Vec<u8> {
        self.groups.encode(&Cover { log, segment: self.segment, end: self.end, next_number: self.next_number })
    }

    pub(crate) fn seal(&self, log: [u8; 16], content: [u8; 32], hint: [u8; 32]) -> Seal {
        Seal {
            log,
            segment: self.segment,
            end: self.end,
            first_number: self.first_number,
            next_number: self.next_number,
            record_count: self.record_count,
            content,
            hint,
            shards: self.spans.values().copied().collect(),
        }
    }
}

/// The next entry of a shard: its index follows the last one, its term does not go back.
pub(crate) fn follow(lasts: &mut BTreeMap<u16, Last>, group: &Group) -> Result<(), String> {
    let last = lasts.entry(group.shard).or_default();
    // A replica that held another tail than the shard's primary has it replaced from the index where they differ; the new tail
    // may be of any term.
    let replaces = 0 < group.index && group.index <= last.index;
    let follows = group.index == last.index + 1 && last.term <= group.term;
    if !replaces && !follows {
        return Err(format!(
            "shard {}: entry {} of term {} behind entry {} of term {}",
            group.shard, group.index, group.term, last.index, last.term
        ));
    }
    *last = Last { term: group.term, index: group.index };
    Ok(())
}
