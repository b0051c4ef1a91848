//! An answer that comes in parts, on a stream of its own.
//!
//! Promises: reading slowly slows the other side's work on this answer alone; dropping it stops that work and gives its place
//! back. Does not: bound its length or its time.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::Stream;
use quinn::RecvStream;
use tokio::sync::OwnedSemaphorePermit;

use super::client::{CallError, PIECES_PER_GULP, lost};
use crate::{assembly::Assembler, wire::AnswerHeader};

/// An answer that comes in parts. Dropping it before its end stops the server's work on it.
pub struct Answer {
    receive: RecvStream,
    pieces: [Bytes; PIECES_PER_GULP],
    assembler: Assembler<AnswerHeader>,
    ready: VecDeque<(AnswerHeader, Bytes)>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Answer {
    /// The answer to the request of id 0 on a stream, in one of the places for open answers.
    pub(super) fn new(receive: RecvStream, place: OwnedSemaphorePermit) -> Self {
        let pieces = [const { Bytes::new() }; PIECES_PER_GULP];
        Self { receive, pieces, assembler: Assembler::new(), ready: VecDeque::new(), is_over: false, _place: place }
    }

    /// The next part; `None` after the last. An error ends the answer.
    pub async fn next(&mut self) -> Option<Result<Bytes, CallError>> {
        loop {
            if self.is_over {
                return None;
            }
            let Some((header, body)) = self.ready.pop_front() else {
                match self.receive().await {
                    Ok(()) => continue,
                    Err(error) => {
                        self.is_over = true;
                        return Some(Err(error));
                    }
                }
            };
            self.is_over = header.last;
            if header.status != 0 {
                return Some(Err(CallError::Refused { status: header.status, body }));
            }
            if !body.is_empty() {
                return Some(Ok(body));
            }
        }
    }

    /// The parts as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, CallError>> + Send {
        futures_util::stream::unfold(self, async |mut answer| Some((answer.next().await?, answer)))
    }

    async fn receive(&mut self) -> Result<(), CallError> {
        let ended = |detail: String| CallError::Lost { detail: detail.into(), unseen: false };
        let count = self.receive.read_chunks(&mut self.pieces).await.map_err(|error| ended(lost(&error)))?;
        let count = count.ok_or_else(|| ended("the server finished the stream inside an answer".to_owned()))?;
        self.pieces[..count].iter_mut().for_each(|piece| self.assembler.push(std::mem::take(piece)));
        let frames = self.assembler.take(usize::MAX);
        let frames = frames.map_err(|error| CallError::Protocol { detail: error.to_string().into() })?;
        if frames.iter().any(|(header, _)| header.id != 0) {
            return Err(CallError::Protocol { detail: "an answer to a call that does not wait".into() });
        }
        self.ready.extend(frames);
        Ok(())
    }
}
