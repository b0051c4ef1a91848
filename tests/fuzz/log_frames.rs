//! What the log writes: segment heads, frames, hints, seals. Checksums are mended half of the time.

use std::path::Path;

use qmesh_storage::BLOCK_BYTES;
use qmesh_storage::wire::hint::Hint;
use qmesh_storage::wire::seal::Seal;
use qmesh_storage::wire::{self, FRAME_HEADER_BYTES, Position, SegmentHeader, crc};

use super::drive::{Random, fuzz};
use super::log_directory::{Files, log_of};
use super::mutate::mutate;

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// Makes the checksums of a frame valid, from the inside out.
pub(crate) fn mend_frame(bytes: &mut [u8]) {
    if bytes.len() < FRAME_HEADER_BYTES {
        return;
    }
    let payload_bytes = u32::from_le_bytes([bytes[88], bytes[89], bytes[90], bytes[91]]) as usize;
    if let Some(payload) = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES.saturating_add(payload_bytes)) {
        let payload_crc = crc(payload);
        put(bytes, 92, payload_crc);
    }
    let entry_crc = crc(&bytes[64..108]);
    put(bytes, 108, entry_crc);
    put(bytes, 44, entry_crc);
    let placement_crc = crc(&bytes[..60]);
    put(bytes, 60, placement_crc);
}

/// Makes the checksums of a hint valid, and its length.
pub(crate) fn mend_hint(bytes: &mut [u8]) {
    if bytes.len() < 64 {
        return;
    }
    let groups_bytes = bytes.len() as u64 - 64;
    bytes[40..48].copy_from_slice(&groups_bytes.to_le_bytes());
    let groups_crc = crc(&bytes[64..]);
    put(bytes, 48, groups_crc);
    let header_crc = crc(&bytes[..60]);
    put(bytes, 60, header_crc);
}

/// Makes the checksum of a seal valid.
pub(crate) fn mend_seal(bytes: &mut [u8]) {
    if bytes.len() < 128 {
        return;
    }
    let seal_crc = crc(&[&bytes[..124], &bytes[128..]].concat());
    put(bytes, 124, seal_crc);
}

/// Every frame of the log with the place where it stands.
fn frames(files: &Files, log: &[u8; 16]) -> Vec<(Position, Vec<u8>)> {
    let mut frames = Vec::new();
    for segment in (1..).map_while(|sequence| files.get(Path::new("/log").join(wire::segment_name(sequence)).as_path()))
    {
        let sequence = SegmentHeader::parse(segment).unwrap().sequence;
        let mut offset = BLOCK_BYTES;
        while offset < segment.len() {
            let at = Position { segment: sequence, offset: offset as u32 };
            let Ok(frame) = wire::parse_frame(&segment[offset..], log, at) else { break };
            let end = offset + frame.frame_bytes as usize;
            frames.push((at, segment[offset..end].to_vec()));
            offset = end;
        }
    }
    frames
}

fn changed(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>], mend: fn(&mut [u8])) {
    mutate(random, bytes, others, &[]);
    if random.one_in(2) {
        mend(bytes);
    }
}

#[test]
fn s1_1_9_fuzz_log_frames() {
    let (files, _) = log_of(1, true);
    let of = |extension: &str| -> Vec<Vec<u8>> {
        let wanted = files.iter().filter(|(path, _)| path.extension().is_some_and(|found| found == extension));
        wanted.map(|(_, bytes)| bytes.clone()).collect()
    };
    let (segments, hints, seals) = (of("seg"), of("hint"), of("seal"));
    let log = SegmentHeader::parse(&segments[0]).unwrap().log;
    let frames = frames(&files, &log);
    let bodies: Vec<Vec<u8>> = frames.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert!(8 < frames.len() && 2 < hints.len() && 1 < seals.len());
    let mut accepted = [0; 4];
    fuzz("log frames", |random| match random.below(8) {
        0 => {
            let mut bytes = random.pick(&segments)[..BLOCK_BYTES].to_vec();
            changed(random, &mut bytes, &[], |bytes| {
                if 64 <= bytes.len() {
                    let sum = crc(&bytes[..60]);
                    put(bytes, 60, sum);
                }
            });
            if let Ok(header) = SegmentHeader::parse(&bytes) {
                accepted[0] += 1;
                assert_eq!(header.encode()[..], bytes[..BLOCK_BYTES], "a head has one form");
            }
        }
        1 | 2 => {
            let mut bytes = random.pick(&hints).clone();
            changed(random, &mut bytes, &hints, mend_hint);
            if let Ok(hint) = Hint::parse(&bytes) {
                accepted[1] += 1;
                let (mut items, mut counted) = (0, 0);
                hint.for_each(|group, item| {
                    let Some(item) = item else { return };
                    items += 1;
                    let end = u64::from(group.frame_offset) + u64::from(item.offset);
                    assert!(end < u64::from(hint.cover.end), "an item behind what the hint covers");
                });
                hint.for_each_group(|_, count| counted += count);
                assert_eq!(items, counted);
            }
        }
        3 => {
            let mut bytes = random.pick(&seals).clone();
            changed(random, &mut bytes, &seals, mend_seal);
            if let Ok(seal) = Seal::parse(&bytes) {
                accepted[2] += 1;
                assert_eq!(seal.encode(), bytes, "a seal has one form");
            }
        }
        _ => {
            let (at, bytes) = random.pick(&frames);
            let mut bytes = bytes.clone();
            changed(random, &mut bytes, &bodies, mend_frame);
            let head = wire::parse_frame_header(&bytes, &log, *at);
            match wire::parse_frame(&bytes, &log, *at) {
                Ok(frame) => {
                    accepted[3] += 1;
                    assert_eq!(head.as_ref(), Ok(&frame));
                    assert!(frame.frame_bytes as usize <= bytes.len());
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
    assert!(accepted.iter().all(|&count| 0 < count) || accepted.iter().sum::<u32>() < 50, "{accepted:?}");
}
