//! How slowly a client may go: when a connection is cut because nothing useful comes.
//!
//! Promises: pure; a connection that has sent part of a head and not the rest, or nothing for long, gets a verdict.
//! Does not: watch bodies (see `body`), nor close anything itself.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::HTTP_HEAD_TIMEOUT_MS;

/// Time that a connection may stay without a request, in milliseconds (S5.1: idle 300 s).
pub(super) const IDLE_MS: u64 = 300_000;
/// Time between two looks at a connection, in milliseconds: a verdict may come so much late.
pub(super) const LOOK_INTERVAL_MS: u64 = HTTP_HEAD_TIMEOUT_MS / 8;

/// Why a connection is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The head of a request did not arrive in time.
    HeadTooSlow,
    /// No request for too long.
    Idle,
}

/// The pace of one connection, shared by its socket, its requests and who looks at it.
pub(super) struct Pace {
    /// Requests whose answers are not yet sent.
    open: Cell<usize>,
    /// When the last request ended, or the connection began.
    quiet_since: Cell<Instant>,
    /// When the first byte of a head came whose rest has not; from the start for the first head.
    head_since: Cell<Option<Instant>>,
    /// HTTP/2 multiplexes: its bytes outside requests are not a head.
    multiplexed: Cell<bool>,
}

/// One request that is not yet answered.
pub(super) struct Request(Rc<Pace>);

impl Pace {
    pub(super) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            quiet_since: Cell::new(now),
            head_since: Cell::new(Some(now)),
            multiplexed: Cell::new(false),
        })
    }

    /// Bytes came.
    fn bytes_came(&self, now: Instant) {
        if self.open.get() == 0 && !self.multiplexed.get() && self.head_since.get().is_none() {
            self.head_since.set(Some(now));
        }
    }

    /// A head is complete.
    pub(super) fn request(self: &Rc<Self>, multiplexed: bool) -> Rc<Request> {
        self.open.set(self.open.get() + 1);
        self.head_since.set(None);
        self.multiplexed.set(multiplexed);
        Rc::new(Request(self.clone()))
    }

    fn request_over(&self, now: Instant) {
        self.open.set(self.open.get() - 1);
        self.quiet_since.set(now);
    }

    /// Whether the connection is to be cut.
    pub(super) fn verdict(&self, now: Instant) -> Option<Verdict> {
        if 0 < self.open.get() {
            return None;
        }
        let longer = |since: Instant, ms| Duration::from_millis(ms) <= now.saturating_duration_since(since);
        if self.head_since.get().is_some_and(|since| longer(since, HTTP_HEAD_TIMEOUT_MS)) {
            return Some(Verdict::HeadTooSlow);
        }
        longer(self.quiet_since.get(), IDLE_MS).then_some(Verdict::Idle)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.request_over(Instant::now());
    }
}

/// A socket that tells its pace.
pub(super) struct Paced<S> {
    socket: S,
    pace: Rc<Pace>,
}

impl<S> Paced<S> {
    pub(super) fn new(socket: S, pace: Rc<Pace>) -> Self {
        Self { socket, pace }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if before < buffer.filled().len() && self.pace.open.get() == 0 {
            self.pace.bytes_came(Instant::now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_millis(HTTP_HEAD_TIMEOUT_MS);
    const IDLE: Duration = Duration::from_millis(IDLE_MS);
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn s3_2_5_a_head_that_does_not_arrive_is_cut_and_not_a_moment_earlier() {
        let start = Instant::now();
        let pace = Pace::new(start);
        assert_eq!(pace.verdict(start + HEAD - MOMENT), None);
        assert_eq!(pace.verdict(start + HEAD), Some(Verdict::HeadTooSlow), "nothing was ever sent");
        // Bytes one by one do not put it off.
        pace.bytes_came(start + HEAD - MOMENT);
        assert_eq!(pace.verdict(start + HEAD), Some(Verdict::HeadTooSlow));
    }

    #[test]
    fn s3_2_5_a_request_in_work_is_never_cut_and_a_quiet_connection_late() {
        let start = Instant::now();
        let pace = Pace::new(start);
        let request = pace.request(false);
        assert_eq!(pace.verdict(start + IDLE + IDLE), None, "an answer is being made");
        drop(request);
        let ended = pace.quiet_since.get();
        assert_eq!(pace.verdict(ended + HEAD), None, "keep-alive");
        assert_eq!(pace.verdict(ended + IDLE), Some(Verdict::Idle));
        // The second head has its time from its first byte.
        pace.bytes_came(ended + HEAD);
        assert_eq!(pace.verdict(ended + HEAD + HEAD - MOMENT), None);
        assert_eq!(pace.verdict(ended + HEAD + HEAD), Some(Verdict::HeadTooSlow));
    }

    #[test]
    fn s3_2_5_frames_between_the_requests_of_http2_are_no_head() {
        let start = Instant::now();
        let pace = Pace::new(start);
        drop(pace.request(true));
        let ended = pace.quiet_since.get();
        pace.bytes_came(ended + MOMENT);
        assert_eq!(pace.verdict(ended + HEAD + HEAD), None);
    }
}
