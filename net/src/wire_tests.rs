//! Scenes for the stream head and the frame headers.
//!
//! Promises: layouts are pinned byte by byte; a seeded flood of random and of slightly damaged bytes is parsed
//! without a panic, and what is accepted encodes back to the same bytes.
//! Does not: open sockets.

use super::*;

/// Inputs of each flood.
const FLOOD_INPUTS: usize = 100_000;

/// A small seeded generator (splitmix64), so that a failing input can be found again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

fn head() -> StreamHead {
    StreamHead {
        kind: Kind::Rpc,
        lane: Lane::Put,
        hop_limit: 3,
        deadline_ms: 30_000,
        epoch: 0x0102_0304_0506_0708,
        trace: TraceContext { trace_id: [0xaa; 16], span_id: [0xbb; 8], flags: 1 },
    }
}

#[test]
fn s0_1_a_stream_head_has_this_layout() {
    let mut expected = vec![1, 1, 2, 3, 0x30, 0x75, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
    expected.extend([0xaa; 16]);
    expected.extend([0xbb; 8]);
    expected.push(1);
    expected.extend([0; 7]);
    assert_eq!(head().encode().as_slice(), expected);
    assert_eq!(StreamHead::parse(&head().encode()), Ok(head()));
}

#[test]
fn s6_1_12_a_damaged_stream_head_is_refused_with_its_reason() {
    fn check(offset: usize, value: u8, expected: HeadError) {
        let mut bytes = head().encode();
        bytes[offset] = value;
        assert_eq!(StreamHead::parse(&bytes), Err(expected), "byte {offset} = {value}");
    }
    check(0, 0, HeadError::Version { found: 0 });
    check(0, 2, HeadError::Version { found: 2 });
    check(1, 0, HeadError::Kind { found: 0 });
    check(1, 2, HeadError::Kind { found: 2 });
    check(2, 5, HeadError::Lane { found: 5 });
    check(41, 1, HeadError::Reserved);
    check(47, 0x80, HeadError::Reserved);
}

#[test]
fn s0_1_frame_headers_have_this_layout() {
    let request = RequestHeader { body_bytes: 0x0001_0203, operation: 0x0405, id: 6 };
    assert_eq!(request.encode(), [3, 2, 1, 0, 5, 4, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(RequestHeader::parse(&request.encode()), Ok(request));
    let more = AnswerHeader { body_bytes: 9, status: 0, last: false, id: 6 };
    assert_eq!(more.encode(), [9, 0, 0, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(AnswerHeader::parse(&more.encode()), Ok(more));
    let last = AnswerHeader { body_bytes: 9, status: 8, last: true, id: 6 };
    assert_eq!(last.encode(), [9, 0, 0, 0, 0, 0, 2, 8, 6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(AnswerHeader::parse(&last.encode()), Ok(last));
}

#[test]
fn s6_1_12_a_damaged_frame_header_is_refused_with_its_reason() {
    let limit = FRAME_BYTES_MAX as u32;
    let request = RequestHeader { body_bytes: limit, operation: 1, id: 1 };
    assert_eq!(RequestHeader::parse(&request.encode()), Ok(request), "the limit itself is allowed");
    let mut bytes = request.encode();
    bytes[0] = 1;
    assert_eq!(RequestHeader::parse(&bytes), Err(too_large(limit + 1, FRAME_BYTES_MAX)));
    assert_eq!(too_large(limit + 1, FRAME_BYTES_MAX).to_string(), "frame of 2097153 bytes, the limit is 2097152");
    for offset in [6, 7] {
        let mut bytes = request.encode();
        bytes[offset] = 1;
        assert_eq!(RequestHeader::parse(&bytes), Err(FrameError::Reserved), "byte {offset}");
    }
    let answer = AnswerHeader { body_bytes: 0, status: 0, last: false, id: 1 };
    for flags in [0, 3, 4, 255] {
        let mut bytes = answer.encode();
        bytes[6] = flags;
        assert_eq!(AnswerHeader::parse(&bytes), Err(FrameError::Flags { found: flags }));
    }
    for offset in [4, 5, 7] {
        let mut bytes = answer.encode();
        bytes[offset] = 1;
        assert_eq!(AnswerHeader::parse(&bytes), Err(FrameError::Reserved), "byte {offset}");
    }
}

#[test]
fn s6_1_12_a_flood_of_random_heads_and_headers_never_panics() {
    let mut random = Random(0x0071_6d65_7368);
    let mut heads_accepted = 0;
    let mut answers_accepted = 0;
    for _ in 0..FLOOD_INPUTS {
        // Half of the inputs are a good head with one byte changed: those come past the first check.
        let bytes = if random.next().is_multiple_of(2) {
            random.bytes()
        } else {
            let mut bytes = head().encode();
            bytes[random.next() as usize % STREAM_HEAD_BYTES] = random.next() as u8;
            bytes
        };
        if let Ok(head) = StreamHead::parse(&bytes) {
            heads_accepted += 1;
            assert_eq!(head.encode(), bytes);
        }
        let mut bytes: [u8; FRAME_HEADER_BYTES] = random.bytes();
        if random.next().is_multiple_of(2) {
            bytes[2..6].fill(0);
            bytes[6] &= 3;
        }
        if let Ok(header) = RequestHeader::parse(&bytes) {
            assert!(header.body_bytes as usize <= FRAME_BYTES_MAX);
            assert_eq!(header.encode(), bytes);
        }
        if let Ok(header) = AnswerHeader::parse(&bytes) {
            answers_accepted += 1;
            assert!(header.body_bytes as usize <= FRAME_BYTES_MAX);
            assert_eq!(header.encode(), bytes);
        }
    }
    assert!(10_000 < heads_accepted, "the flood must also reach the accepting path: {heads_accepted}");
    assert!(10_000 < answers_accepted, "the flood must also reach the accepting path: {answers_accepted}");
}
