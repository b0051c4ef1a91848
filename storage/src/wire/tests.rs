//! Every flipped bit is seen, and any bytes are read without a panic.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use super::hint::{Cover, Group, Groups, Hint, Item, Items};
use super::seal::{Seal, Span};
use super::*;
use crate::record::Record;

const LOG: [u8; 16] = [5; 16];
const AT: Position = Position { segment: 3, offset: 8192 };

fn frame() -> AlignedBuffer {
    let record = Record::build::<record::RecordError>(1, &[7; 32], 3, |mut buffer| {
        buffer.extend_from_slice(b"abc");
        Ok(buffer)
    });
    let mut frame = crate::buffer::zeroed(FRAME_HEADER_BYTES);
    frame.extend_from_slice(record.unwrap().bytes());
    let payload = &frame[FRAME_HEADER_BYTES..];
    let entry = EntryHead {
        shard: 2,
        term: 4,
        index: 9,
        committed: 8,
        record_count: 1,
        payload_bytes: payload.len() as u32,
        payload_crc: crc(payload),
    };
    let durable = Position { segment: 3, offset: 4096 };
    finish_frame(&mut frame, &LOG, &Placement { kind: FrameKind::Entry, at: AT, number: 11, durable }, &entry);
    frame
}

fn hint() -> Vec<u8> {
    let mut items = Items::default();
    items.push(Item { offset: 112, kind: 1, key: &[7; 32], hint: b"shape" });
    let mut groups = Groups::default();
    let group = Group { shard: 2, term: 4, index: 9, frame_offset: 8192, frame_bytes: 4096, committed: 8 };
    groups.push(&group, &items);
    groups.encode(&Cover { log: LOG, segment: 3, end: 12288, next_number: 12 })
}

fn seal() -> Vec<u8> {
    let shards = vec![Span { shard: 2, first_index: 9, last_index: 9, last_term: 4 }];
    let seal = Seal {
        log: LOG,
        segment: 3,
        end: 12288,
        first_number: 11,
        next_number: 12,
        record_count: 1,
        content: [1; 32],
        hint: [2; 32],
        shards,
    };
    assert_eq!(Seal::parse(&seal.encode()), Ok(seal.clone()));
    seal.encode()
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 20
}

#[test]
fn s1_1_9_every_flipped_bit_of_a_frame_hint_seal_or_head_is_seen() {
    let header = SegmentHeader { log: LOG, sequence: 3, segment_bytes: 1 << 20 }.encode();
    assert_eq!(SegmentHeader::parse(&header).unwrap().sequence, 3);
    assert_eq!(parse_frame(&frame(), &LOG, AT).unwrap().placement.number, 11);
    assert_eq!(Hint::parse(&hint()).unwrap().cover.end, 12288);
    type Refused = fn(&[u8]) -> bool;
    let cases: [(&[u8], Refused); 4] = [
        (&frame(), |bytes| parse_frame(bytes, &LOG, AT).is_err()),
        (&header, |bytes| SegmentHeader::parse(bytes).is_err()),
        (&hint(), |bytes| Hint::parse(bytes).is_err()),
        (&seal(), |bytes| Seal::parse(bytes).is_err()),
    ];
    for (number, (good, refused)) in cases.into_iter().enumerate() {
        let mut bad = good.to_vec();
        for bit in 0..good.len() * 8 {
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&bad), "case {number}, bit {bit}");
            bad[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..good.len() {
            assert!(refused(&good[..length]), "case {number}, cut at {length}");
        }
    }
}

#[test]
fn s1_1_9_parsers_survive_anything() {
    let mut state = 42;
    let seeds = [frame().to_vec(), hint(), seal(), vec![0; 5000]];
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..1 + random(&mut state) % 8 {
            let at = random(&mut state) as usize % bytes.len().min(300);
            bytes[at] = random(&mut state) as u8;
        }
        // With the sums made right again, so that the checks behind them are reached.
        if bytes.len() >= FRAME_HEADER_BYTES && round % 2 == 0 {
            let entry_crc = crc(&bytes[ENTRY_AT..108]);
            put(&mut bytes, 108, &entry_crc.to_le_bytes());
            put(&mut bytes, 44, &entry_crc.to_le_bytes());
            let placement_crc = crc(&bytes[..60]);
            put(&mut bytes, 60, &placement_crc.to_le_bytes());
            if round % 4 == 2 {
                let groups_crc = crc(&bytes[64..]);
                put(&mut bytes, 48, &groups_crc.to_le_bytes());
                let header_crc = crc(&bytes[..60]);
                put(&mut bytes, 60, &header_crc.to_le_bytes());
            }
        }
        bytes.truncate(random(&mut state) as usize % (2 * bytes.len()));
        let frame = parse_frame(&bytes, &LOG, AT);
        assert!(frame.is_err() || bytes.len() >= frame.unwrap().frame_bytes as usize);
        if let Ok(hint) = Hint::parse(&bytes) {
            hint.for_each(|_, item| assert!(item.is_none_or(|item| item.hint.len() < bytes.len())));
        }
        let _ = Seal::parse(&bytes);
        let _ = SegmentHeader::parse(&bytes);
    }
}

#[test]
fn s1_1_9_a_segment_name_is_read_back_and_no_other() {
    let cases = [
        ("00000001.seg", Some(1)),
        ("1.seg", None),
        ("+0000001.seg", None),
        ("00000001.seg.tmp", None),
        ("LOCK", None),
    ];
    for (name, expected) in cases {
        assert_eq!(segment_sequence(name), expected, "{name}");
    }
    assert_eq!(segment_sequence(&segment_name(u32::MAX)), Some(u32::MAX));
}
