//! Bodies: what is sent, and how what comes is read.
//!
//! Promises: a whole body is handed to the socket without a copy; a streamed one has a bounded queue, and ends with an error
//! that the reader sees when its writer gave up. A request's body is read within a bound of bytes and of idle time.
//! Does not: know forms. It moves bytes.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};

use super::arriving::Arriving;
use super::coding::{Coder, Coding, STEP_BYTES};
use super::inflate::Inflation;
use super::pace::Request;
use crate::error::{Reason, Refusal};
use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_BODY_IDLE_TIMEOUT_MS};

/// Pieces of a streamed body that wait for the socket.
pub(super) const STREAM_PIECES_MAX: usize = 64;
/// Time that a streamed body waits for a reader that takes nothing, in milliseconds.
pub(super) const STREAM_STALL_MS: u64 = 30_000;
/// Bytes of a body that nobody wants which are still read, so that the answer reaches a client that is still sending.
const DISCARD_BYTES_MAX: usize = 16 << 20;
/// Time for that, in milliseconds.
const DISCARD_MS: u64 = 5_000;

/// The body of an answer.
pub struct Body {
    content: Content,
    /// Says to the connection that this request is over when the body has been sent or dropped.
    request: Option<Request>,
    /// When a stream is cut, however much is left of it.
    ends: Option<Pin<Box<Sleep>>>,
}

enum Content {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Piece>),
    /// A body that is coded step by step.
    Coded(Box<Content>, Box<Coder>),
    /// The last word was handed over; the error follows when the socket has had its turn to take it.
    LastWordSaid,
    Cut,
}

enum Piece {
    Bytes(Bytes),
    /// The last piece of a body that is not complete.
    LastWord(Bytes),
}

/// The body ended before it was complete.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut short")]
pub struct Cut;

/// The writing end of a streamed body.
pub struct BodySender {
    pieces: mpsc::Sender<Piece>,
    /// Room for the last word, reserved when the stream was made.
    last_word: Option<mpsc::OwnedPermit<Piece>>,
}

/// The reader of a stream went away, or took nothing for [`STREAM_STALL_MS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Body {
    /// A body that is there as a whole.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { content: Content::Whole((!bytes.is_empty()).then_some(bytes)), request: None, ends: None }
    }

    /// No body.
    pub fn empty() -> Self {
        Self { content: Content::Whole(None), request: None, ends: None }
    }

    /// A body that is written while it is sent.
    pub fn stream() -> (BodySender, Self) {
        // One place more than the pieces: the last word's.
        let (pieces, receiver) = mpsc::channel(STREAM_PIECES_MAX + 1);
        let last_word = pieces.clone().try_reserve_owned().ok();
        (BodySender { pieces, last_word }, Self { content: Content::Stream(receiver), request: None, ends: None })
    }

    /// The same body, which keeps `request` open until it has been sent.
    pub(super) fn holding(mut self, request: Request) -> Self {
        self.request = Some(request);
        self
    }

    /// The same body; if it is a stream, it is cut after `time`.
    pub fn ending_in(mut self, time: Duration) -> Self {
        if self.length().is_none() {
            self.ends = Some(Box::pin(sleep(time)));
        }
        self
    }

    /// Bytes of a body that is there as a whole; `None` for a stream.
    pub fn length(&self) -> Option<usize> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len)),
            Content::Stream(_) | Content::Coded(..) | Content::LastWordSaid | Content::Cut => None,
        }
    }

    /// The bytes of a body that is there as a whole, and not empty.
    pub(super) fn as_whole(&self) -> Option<Bytes> {
        if let Content::Whole(bytes) = &self.content { bytes.clone() } else { None }
    }

    /// The same body, sent through a coder.
    pub(super) fn coded(mut self, coder: Box<Coder>) -> Self {
        self.content = Content::Coded(Box::new(self.content), coder);
        self
    }
}

impl Content {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let (piece, mut coder) = match self {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::LastWordSaid => {
                *self = Self::Cut;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Self::Cut => return Poll::Ready(Some(Err(Cut))),
            Self::Stream(pieces) => (std::task::ready!(pieces.poll_recv(context)), None),
            Self::Coded(plain, coder) => match &mut **plain {
                Self::Whole(Some(bytes)) => {
                    let step = bytes.split_to(bytes.len().min(STEP_BYTES));
                    if bytes.is_empty() {
                        **plain = Self::Whole(None);
                    }
                    return match coder.step(&step, false) {
                        None => self.broken(),
                        // Nothing came out yet. The core serves others before the next step.
                        Some(coded) if coded.is_empty() => {
                            context.waker().wake_by_ref();
                            Poll::Pending
                        }
                        Some(coded) => Poll::Ready(Some(Ok(Frame::data(coded)))),
                    };
                }
                Self::Stream(pieces) => (std::task::ready!(pieces.poll_recv(context)), Some(coder)),
                _ => (None, Some(coder)),
            },
        };
        let (last_word, bytes) = match piece {
            Some(Piece::Bytes(bytes)) => (false, Some(bytes)),
            Some(Piece::LastWord(bytes)) => (true, Some(bytes)),
            None => (false, None),
        };
        let ended = bytes.is_none();
        let bytes = match (&mut coder, bytes) {
            (None, bytes) => bytes,
            (Some(coder), Some(bytes)) => match coder.step(&bytes, true) {
                Some(coded) => Some(coded),
                None => return self.broken(),
            },
            (Some(coder), None) => match coder.finish() {
                Some(rest) => Some(rest),
                None => return self.broken(),
            },
        };
        if last_word {
            *self = Self::LastWordSaid;
        } else if ended {
            *self = Self::Whole(None);
        }
        Poll::Ready(bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }

    /// A coder that fails in front of a buffer is a defect of ours; the reader learns that the answer is not whole.
    fn broken(&mut self) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        tracing::error!("an answer could not be coded");
        *self = Self::Cut;
        Poll::Ready(Some(Err(Cut)))
    }
}

impl BodySender {
    /// Queues a piece, and waits while the queue is full.
    ///
    /// # Errors
    /// [`Gone`]: nobody reads any more. What the caller computes is for nobody.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        if bytes.is_empty() {
            return Ok(());
        }
        let piece = match self.pieces.try_send(Piece::Bytes(bytes)) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Gone),
            Err(mpsc::error::TrySendError::Full(piece)) => piece,
        };
        match timeout(Duration::from_millis(STREAM_STALL_MS), self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone),
            Err(_) => {
                tracing::info!(stall_ms = STREAM_STALL_MS, "cut a reader that takes nothing");
                self.cut(Bytes::from_static(b"\n"));
                Err(Gone)
            }
        }
    }

    /// Ends the body as incomplete, after `last_word` for the reader.
    pub fn cut(&mut self, last_word: Bytes) {
        if let Some(room) = self.last_word.take() {
            drop(room.send(Piece::LastWord(last_word)));
        }
    }

    /// Waits until the reader is gone.
    pub async fn closed(&self) {
        self.pieces.closed().await;
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(context).is_ready()) {
            self.ends = None;
            self.content = Content::Cut;
        }
        self.content.poll(context)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, |bytes| SizeHint::with_exact(bytes as u64))
    }
}

/// A request's body as a whole, at most [`HTTP_BODY_BYTES_MAX`] bytes.
///
/// # Errors
/// LimitExceeded; Timeout when nothing comes for [`HTTP_BODY_IDLE_TIMEOUT_MS`]; BadRequest when it breaks off.
pub(super) async fn read_whole(mut reader: Reader) -> Result<Bytes, Refusal> {
    let announced = reader.announced();
    if HTTP_BODY_BYTES_MAX < announced {
        return Err(too_large(announced));
    }
    let Some(first) = reader.next().await? else { return Ok(Bytes::new()) };
    // What fits in one piece, as nearly every body does, is not copied.
    let Some(second) = reader.next().await? else { return Ok(first) };
    let mut whole = BytesMut::with_capacity(announced.max(first.len() + second.len()));
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    loop {
        if HTTP_BODY_BYTES_MAX < whole.len() {
            return Err(too_large(whole.len()));
        }
        match reader.next().await? {
            Some(bytes) => whole.extend_from_slice(&bytes),
            None => return Ok(whole.freeze()),
        }
    }
}

fn too_large(bytes: usize) -> Refusal {
    Refusal::limit("body of a request", bytes, HTTP_BODY_BYTES_MAX, "bytes")
}

/// Reads a request's body piece by piece. What is left of it when the reader goes is its [`Rest`].
pub(super) struct Reader {
    /// `None` when it broke off.
    body: Option<Source>,
    rest: Rc<Cell<Option<Arriving>>>,
}

/// Where the bytes of a request's body come from.
enum Source {
    Plain(Arriving),
    Coded(Box<Inflation>),
}

impl Source {
    fn into_rest(self) -> Option<Arriving> {
        match self {
            Self::Plain(body) => Some(body),
            Self::Coded(body) => body.into_rest(),
        }
    }
}

/// What nobody read of a request's body.
pub(super) struct Rest(Rc<Cell<Option<Arriving>>>);

impl Reader {
    pub(super) fn new(body: Arriving) -> (Self, Rest) {
        let rest = Rc::new(Cell::new(None));
        (Self { body: Some(Source::Plain(body)), rest: rest.clone() }, Rest(rest))
    }

    /// The same body, which came in a coding.
    ///
    /// # Errors
    /// Overloaded: the core unfolds as many as it takes.
    pub(super) fn unfolding(mut self, coding: Option<Coding>) -> Result<Self, Refusal> {
        if let Some(coding) = coding
            && let Some(body) = self.body.take().and_then(Source::into_rest)
        {
            self.body = Some(Source::Coded(Box::new(Inflation::new(coding, body)?)));
        }
        Ok(self)
    }

    /// The least length that the head announced, in bytes.
    pub(super) fn announced(&self) -> usize {
        let Some(Source::Plain(body)) = &self.body else { return 0 };
        let hint = body.size_hint().lower();
        usize::try_from(hint).unwrap_or(usize::MAX)
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Timeout, BadRequest.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let next = match body {
            Source::Plain(body) => next_piece(body).await,
            Source::Coded(body) => body.next().await,
        };
        if matches!(&next, Err(refusal) if refusal.reason != Reason::LimitExceeded) {
            // Nothing more will come of it.
            self.body = None;
        }
        next
    }

    /// Reads on for a bounded while and forgets what comes: a client that is still sending when its socket is closed may never
    /// see its answer.
    pub(super) fn discard(mut self) {
        if let Some(body) = self.body.take().and_then(Source::into_rest) {
            discard(body);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.rest.set(self.body.take().and_then(Source::into_rest));
    }
}

impl Rest {
    /// Reads on for a bounded while after an answer that did not need the body: the connection stays good for the next
    /// request, and a client that is still sending sees its answer.
    pub(super) fn discard(self) {
        if let Some(body) = self.0.take() {
            discard(body);
        }
    }
}

async fn next_piece(body: &mut Arriving) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = timeout(Duration::from_millis(HTTP_BODY_IDLE_TIMEOUT_MS), body.frame()).await;
        let frame = frame.map_err(|_| {
            let detail = format!("nothing of the body came for {HTTP_BODY_IDLE_TIMEOUT_MS} ms; send it again");
            Refusal::new(Reason::Timeout, detail)
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Refusal::bad_request(format!("the body broke off: {error}"))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                // Trailers and empty pieces say nothing to us.
                Ok(_) | Err(_) => {}
            },
        }
    }
}

/// Reads a body that nobody wants to its end, or for a bounded while.
pub(super) fn discard(mut body: Arriving) {
    if body.is_end_stream() {
        return;
    }
    crate::runtime::spawn(async move {
        let read_on = async {
            let mut bytes = 0;
            while let Ok(Some(piece)) = next_piece(&mut body).await {
                bytes += piece.len();
                if DISCARD_BYTES_MAX < bytes {
                    return;
                }
            }
        };
        drop(timeout(Duration::from_millis(DISCARD_MS), read_on).await);
    });
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s3_2_5_a_stream_that_is_cut_ends_with_its_last_word_and_an_error() {
        crate::runtime::run_plain(async {
            let (mut sender, body) = Body::stream();
            assert_eq!(body.length(), None);
            for _ in 0..STREAM_PIECES_MAX {
                sender.send(Bytes::from_static(b"x")).await.unwrap();
            }
            // The queue is full, and the last word still has its place.
            sender.cut(Bytes::from_static(b"why"));
            let mut body = std::pin::pin!(body);
            let mut received = Vec::new();
            let error = loop {
                match body.frame().await.unwrap() {
                    Ok(frame) => received.extend_from_slice(&frame.into_data().unwrap()),
                    Err(error) => break error,
                }
            };
            assert_eq!(received.len(), STREAM_PIECES_MAX + 3);
            assert!(received.ends_with(b"why"));
            assert_eq!(error.to_string(), "the answer was cut short");
        })
        .unwrap();
    }

    #[test]
    fn s3_2_5_a_writer_learns_that_its_reader_went_away() {
        crate::runtime::run_plain(async {
            let (mut sender, body) = Body::stream();
            drop(body);
            assert_eq!(sender.send(Bytes::from_static(b"x")).await, Err(Gone));
        })
        .unwrap();
    }

    #[test]
    fn s3_2_5_a_whole_body_knows_its_length_and_is_one_piece() {
        crate::runtime::run_plain(async {
            let bytes = Bytes::from_static(b"whole");
            let body = Body::whole(bytes.clone());
            assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(5));
            let collected = body.collect().await.unwrap().to_bytes();
            assert_eq!(collected.as_ptr(), bytes.as_ptr(), "the bytes were copied");
            assert!(hyper::body::Body::is_end_stream(&Body::empty()));
        })
        .unwrap();
    }
}
