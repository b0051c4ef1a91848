//! How slowly a client may go: when a connection is cut because nothing useful comes.
//!
//! Promises: pure; a connection that has sent part of a head and not the rest, or nothing for long, gets a verdict.
//! Does not: watch bodies (see `body`), nor close anything itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;

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

/// The pace of one connection, shared by its socket, its requests and who looks at it. All of them are on one core; that the
/// figures could be shared between several is what hyper asks of a socket that may be upgraded.
pub(super) struct Pace {
    begun: Instant,
    /// Requests whose answers are not yet sent.
    open: AtomicUsize,
    /// When the last request ended, or the connection began; microseconds since then.
    quiet_since_us: AtomicU64,
    /// When the first byte of a head came whose rest has not; from the start for the first head. [`NEVER`]: there is none.
    head_since_us: AtomicU64,
    /// HTTP/2 multiplexes: its bytes outside requests are not a head.
    multiplexed: AtomicBool,
}

const NEVER: u64 = u64::MAX;

/// One request that is not yet answered.
pub(super) struct Request(Arc<Pace>);

impl Pace {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            begun: now,
            open: AtomicUsize::new(0),
            quiet_since_us: AtomicU64::new(0),
            head_since_us: AtomicU64::new(0),
            multiplexed: AtomicBool::new(false),
        })
    }

    fn us(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_micros()).unwrap_or(NEVER - 1)
    }

    /// Bytes came.
    fn bytes_came(&self, now: Instant) {
        if self.open.load(Relaxed) == 0 && !self.multiplexed.load(Relaxed) && self.head_since_us.load(Relaxed) == NEVER
        {
            self.head_since_us.store(self.us(now), Relaxed);
        }
    }

    /// A head is complete.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> Request {
        self.open.store(self.open.load(Relaxed) + 1, Relaxed);
        self.head_since_us.store(NEVER, Relaxed);
        self.multiplexed.store(multiplexed, Relaxed);
        Request(self.clone())
    }

    fn request_over(&self, now: Instant) {
        self.open.store(self.open.load(Relaxed) - 1, Relaxed);
        self.quiet_since_us.store(self.us(now), Relaxed);
    }

    /// Whether the connection is to be cut.
    pub(super) fn verdict(&self, now: Instant) -> Option<Verdict> {
        if 0 < self.open.load(Relaxed) {
            return None;
        }
        let now = self.us(now);
        let longer = |since: u64, ms: u64| ms * 1000 <= now.saturating_sub(since);
        let head = self.head_since_us.load(Relaxed);
        if head != NEVER && longer(head, HTTP_HEAD_TIMEOUT_MS) {
            return Some(Verdict::HeadTooSlow);
        }
        longer(self.quiet_since_us.load(Relaxed), IDLE_MS).then_some(Verdict::Idle)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.request_over(Instant::now());
    }
}

/// A socket that tells its pace.
pub(super) struct Paced<S, G> {
    socket: S,
    pace: Arc<Pace>,
    /// Its place among the door's connections, which it keeps when it no longer speaks HTTP.
    _place: G,
}

impl<S, G> Paced<S, G> {
    pub(super) fn new(socket: S, pace: Arc<Pace>, place: G) -> Self {
        Self { socket, pace, _place: place }
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Paced<S, G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if before < buffer.filled().len() && self.pace.open.load(Relaxed) == 0 {
            self.pace.bytes_came(Instant::now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Paced<S, G> {
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
    use std::time::Duration;

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
        let ended = pace.begun + Duration::from_micros(pace.quiet_since_us.load(Relaxed));
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
        let ended = pace.begun + Duration::from_micros(pace.quiet_since_us.load(Relaxed));
        pace.bytes_came(ended + MOMENT);
        assert_eq!(pace.verdict(ended + HEAD + HEAD), None);
    }
}
