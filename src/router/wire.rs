//! The bytes that answers have in common, whether a client or another node asked.
//!
//! Promises: any bytes are read without a panic. Does not: know how they travel.

use bytes::{BufMut, Bytes, BytesMut};

use super::message::PutReceipt;
use crate::error::{Reason, Refusal};
use crate::ids::{ID_BYTES, LogIndex, ShardId, VertexId};

/// Bytes of an answer's row for one record of a put.
pub const PUT_ROW_BYTES: usize = 16;

/// One row of a put's answer.
pub fn put_row(out: &mut BytesMut, outcome: &Result<PutReceipt, Refusal>) {
    match outcome {
        Ok(receipt) => {
            out.put_u8(0);
            out.put_u8(u8::from(receipt.existed));
            out.put_u16_le(receipt.shard.0);
            out.put_u32_le(0);
            out.put_u64_le(receipt.index.0);
        }
        Err(refusal) => {
            out.put_u8(refusal.reason.wire());
            out.put_u8(0);
            out.put_u16_le(0);
            out.put_u32_le(refusal.retry_after_ms);
            out.put_u64_le(0);
        }
    }
}

/// The outcomes in a put's answer for `records` records.
///
/// # Errors
/// Internal, when the answer is not of that form.
pub fn put_rows(body: &[u8], records: usize) -> Result<Vec<Result<PutReceipt, Refusal>>, Refusal> {
    let malformed = || Refusal::new(Reason::Internal, "the node's answer to a put is malformed");
    let (rows, sentence) = body.split_at_checked(records * PUT_ROW_BYTES).ok_or_else(malformed)?;
    let sentence = String::from_utf8_lossy(sentence);
    rows.chunks_exact(PUT_ROW_BYTES)
        .map(|row| {
            let number = |from: usize, to: usize| {
                row[from..to].iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte))
            };
            if row[0] == 0 {
                let shard = ShardId(number(2, 4) as u16);
                return Ok(Ok(PutReceipt { shard, index: LogIndex(number(8, 16)), existed: row[1] != 0 }));
            }
            let reason = Reason::from_wire(row[0]).ok_or_else(malformed)?;
            Ok(Err(Refusal { reason, detail: sentence.clone().into_owned(), retry_after_ms: number(4, 8) as u32 }))
        })
        .collect()
}

/// The ids of a get or has request.
///
/// # Errors
/// BadRequest when the body is not a whole number of ids.
pub fn ids(body: &[u8]) -> Result<Vec<VertexId>, Refusal> {
    let (ids, rest) = body.as_chunks::<ID_BYTES>();
    if !rest.is_empty() {
        return Err(Refusal::bad_request(format!("{} bytes are no whole number of 32-byte ids", body.len())));
    }
    Ok(ids.iter().map(|id| VertexId(*id)).collect())
}

/// The body of a refused request.
pub fn refusal(refusal: &Refusal) -> Bytes {
    let mut body = BytesMut::with_capacity(4 + refusal.detail.len());
    body.put_u32_le(refusal.retry_after_ms);
    body.extend_from_slice(refusal.detail.as_bytes());
    body.freeze()
}

/// The refusal in a frame of that status.
pub fn refusal_of(status: u8, body: &[u8]) -> Refusal {
    let reason = Reason::from_wire(status).unwrap_or(Reason::Internal);
    let (retry, sentence) = body.split_first_chunk::<4>().unwrap_or((&[0; 4], b""));
    Refusal {
        reason,
        detail: String::from_utf8_lossy(sentence).into_owned(),
        retry_after_ms: u32::from_le_bytes(*retry),
    }
}
