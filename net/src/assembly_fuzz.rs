//! Fuzz target of the assembly of frames, which no other crate can reach: streams changed anywhere, in pieces of any length.
//!
//! However a stream is cut and however many frames are taken at a time, it comes to the same frames and the same end.

use bytes::Bytes;

use super::Assembler;
use crate::wire::{AnswerHeader, BODY_ALIGNMENT, FRAME_HEADER_BYTES, FrameError, FrameHeader, RequestHeader};

#[path = "../../tests/fuzz/drive.rs"]
mod drive;
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;

use drive::{Random, fuzz};

/// How a stream comes to its end.
#[derive(Debug, PartialEq)]
enum End {
    BetweenFrames,
    InsideFrame,
    Refused(FrameError),
}

/// What the layout alone says of a stream.
fn expected<H: FrameHeader>(mut bytes: &[u8]) -> (Vec<(H, Vec<u8>)>, End) {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return (frames, End::InsideFrame);
        };
        let header = match H::parse(header) {
            Ok(header) => header,
            Err(error) => return (frames, End::Refused(error)),
        };
        let Some((body, rest)) = rest.split_at_checked(header.body_bytes()) else { return (frames, End::InsideFrame) };
        frames.push((header, body.to_vec()));
        bytes = rest;
    }
    (frames, End::BetweenFrames)
}

fn assembled<H: FrameHeader>(random: &mut Random, bytes: &[u8]) -> (Vec<(H, Vec<u8>)>, End) {
    let mut assembler = Assembler::<H>::new();
    let (mut frames, mut rest) = (Vec::new(), bytes);
    loop {
        for _ in 0..random.below(4) {
            let (piece, behind) = rest.split_at(random.length(rest.len()));
            assembler.push(Bytes::copy_from_slice(piece));
            rest = behind;
        }
        let frames_max = 1 + random.below(6);
        match assembler.take(frames_max) {
            Err(error) => return (frames, End::Refused(error)),
            Ok(taken) => {
                assert!(taken.len() <= frames_max);
                let none = taken.is_empty();
                for (header, body) in taken {
                    assert!(body.is_empty() || body.as_ptr().addr().is_multiple_of(BODY_ALIGNMENT));
                    frames.push((header, body.to_vec()));
                }
                if none && rest.is_empty() {
                    let end = if assembler.is_between_frames() { End::BetweenFrames } else { End::InsideFrame };
                    return (frames, end);
                }
            }
        }
    }
}

fn agree<H: FrameHeader + PartialEq + std::fmt::Debug>(random: &mut Random, bytes: &[u8]) {
    let (wanted, end) = expected::<H>(bytes);
    let (found, found_end) = assembled::<H>(random, bytes);
    match end {
        // Frames of the batch that ended in a refusal are not handed out: the stream is of no further use.
        End::Refused(_) => assert!(wanted.starts_with(&found)),
        _ => assert_eq!(found, wanted),
    }
    assert_eq!(found_end, end);
}

#[test]
fn s6_1_12_fuzz_the_assembly_of_frames() {
    fuzz("the assembly of frames", |random| {
        let answers = random.one_in(2);
        let mut bytes = Vec::new();
        for id in 0..random.below(12) as u64 {
            let body_bytes = random.length(5000);
            let header = if answers {
                AnswerHeader { body_bytes: body_bytes as u32, status: 0, last: random.one_in(2), id }.encode()
            } else {
                RequestHeader { body_bytes: body_bytes as u32, operation: random.next() as u16, id }.encode()
            };
            bytes.extend_from_slice(&header);
            bytes.extend(random.bytes(body_bytes));
        }
        if random.one_in(2) {
            mutate::mutate(random, &mut bytes, &[], &[]);
        }
        if answers { agree::<AnswerHeader>(random, &bytes) } else { agree::<RequestHeader>(random, &bytes) }
    });
}
