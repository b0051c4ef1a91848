//! Bodies of requests that come in a content coding.
//!
//! Promises: a body is unfolded piece by piece as it is read, each piece of bounded size; one that unfolds to more than
//! [`HTTP_INFLATION_RATIO_MAX`] times what came is refused where it does, so a bomb costs no more than an honest body; a core
//! unfolds a bounded number at a time, each with a bounded window. A coding that is not known is 415, with those that are.
//! Does not: bound the whole (its reader does, as for plain bodies).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::{Buf, Bytes};
use hyper::StatusCode;
use hyper::body::Body as _;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::timeout;

use super::Problem;
use super::arriving::Arriving;
use super::coding::Coding;
use crate::error::{Reason, Refusal};
use crate::limits::{
    HTTP_BODY_IDLE_TIMEOUT_MS, HTTP_INFLATION_FREE_BYTES, HTTP_INFLATION_RATIO_MAX, HTTP_INFLATIONS_PER_CORE_MAX,
};

/// Bytes of one unfolded piece.
const PIECE_BYTES: usize = 64 << 10;
/// Binary logarithm of the bytes that a coded body may look back (RFC 9659: 8 MiB).
const WINDOW_LOG_MAX: u32 = 23;
/// How a Brotli stream with windows beyond RFC 7932 begins; such a window may be a gigabyte.
const BROTLI_LARGE_WINDOW: u8 = 0b001_0001;
const BROTLI_HEAD_MASK: u8 = 0b111_1111;

/// The coding of a request's body.
///
/// # Errors
/// 415: it is none that is known, or several.
pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
    let lines = headers.get_all(CONTENT_ENCODING).iter().map(|line| line.to_str().unwrap_or("?"));
    let mut named = lines.flat_map(|line| line.split(',')).map(str::trim);
    let mut named = named.by_ref().filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
    let Some(name) = named.next() else { return Ok(None) };
    match Coding::named(name) {
        Some(coding) if named.next().is_none() => Ok(Some(coding)),
        _ => {
            let known = Coding::ALL.map(Coding::name).join(", ");
            let detail = format!("Content-Encoding: send the body plain or in one of {known}");
            let problem = Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::BadRequest, detail);
            let value = HeaderValue::from_str(&known).unwrap_or(HeaderValue::from_static("identity"));
            Err(problem.with_header(ACCEPT_ENCODING, value))
        }
    }
}

/// The right to unfold one of a core's bodies.
struct Place;

thread_local! {
    static INFLATIONS: Cell<usize> = const { Cell::new(0) };
}

impl Place {
    fn take() -> Result<Self, Refusal> {
        let taken = INFLATIONS.get();
        if HTTP_INFLATIONS_PER_CORE_MAX <= taken {
            return Err(Refusal::overloaded("the core's table of coded bodies"));
        }
        INFLATIONS.set(taken + 1);
        Ok(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        INFLATIONS.set(INFLATIONS.get() - 1);
    }
}

/// A body that is unfolded while it is read.
pub(super) struct Inflation {
    decoder: Decoder,
    coding: Coding,
    /// Bytes that came out.
    unfolded: usize,
    _place: Place,
}

enum Decoder {
    Zstd(ZstdDecoder<Feed>),
    Brotli(Box<BrotliDecoder<Feed>>),
    Gzip(GzipDecoder<Feed>),
}

impl Inflation {
    /// # Errors
    /// Overloaded.
    pub(super) fn new(coding: Coding, body: Arriving) -> Result<Self, Refusal> {
        let place = Place::take()?;
        let feed = Feed { body: Some(body), piece: Bytes::new(), came: 0, brotli: coding == Coding::Brotli };
        let decoder = match coding {
            Coding::Zstd => {
                let window = [DParameter::window_log_max(WINDOW_LOG_MAX)];
                let mut decoder = ZstdDecoder::with_params(feed, &window);
                decoder.multiple_members(true);
                Decoder::Zstd(decoder)
            }
            Coding::Brotli => Decoder::Brotli(Box::new(BrotliDecoder::new(feed))),
            Coding::Gzip => {
                let mut decoder = GzipDecoder::new(feed);
                decoder.multiple_members(true);
                Decoder::Gzip(decoder)
            }
        };
        Ok(Self { decoder, coding, unfolded: 0, _place: place })
    }

    /// What nobody read of what came.
    pub(super) fn into_rest(mut self) -> Option<Arriving> {
        self.feed().body.take()
    }

    fn feed(&mut self) -> &mut Feed {
        match &mut self.decoder {
            Decoder::Zstd(decoder) => decoder.get_mut(),
            Decoder::Brotli(decoder) => decoder.get_mut(),
            Decoder::Gzip(decoder) => decoder.get_mut(),
        }
    }

    fn reader(&mut self) -> &mut (dyn AsyncRead + Unpin) {
        match &mut self.decoder {
            Decoder::Zstd(decoder) => decoder,
            Decoder::Brotli(decoder) => &mut **decoder,
            Decoder::Gzip(decoder) => decoder,
        }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Timeout, BadRequest, LimitExceeded.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let idle = Duration::from_millis(HTTP_BODY_IDLE_TIMEOUT_MS);
        let read = timeout(idle, self.reader().read_buf(&mut piece)).await.map_err(|_| {
            let detail = format!("nothing of the body came for {HTTP_BODY_IDLE_TIMEOUT_MS} ms; send it again");
            Refusal::new(Reason::Timeout, detail)
        })?;
        if let Err(error) = read {
            let coding = self.coding.name();
            return Err(Refusal::bad_request(format!("the body is not whole or not {coding}: {error}; send it again")));
        }
        self.unfolded += piece.len();
        let came = self.feed().came;
        if HTTP_INFLATION_FREE_BYTES < self.unfolded && came.saturating_mul(HTTP_INFLATION_RATIO_MAX) < self.unfolded {
            let detail = format!(
                "the body unfolds to more than {HTTP_INFLATION_RATIO_MAX} times its {came} bytes; send it plain"
            );
            return Err(Refusal::new(Reason::LimitExceeded, detail));
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

/// The coded bytes, as they come from the connection.
struct Feed {
    body: Option<Arriving>,
    piece: Bytes,
    /// Bytes that came.
    came: usize,
    /// Whether the first byte must be looked at.
    brotli: bool,
}

impl AsyncBufRead for Feed {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let feed = self.get_mut();
        while feed.piece.is_empty() {
            let Some(body) = &mut feed.body else { break };
            match ready!(Pin::new(body).poll_frame(context)) {
                None => break,
                Some(Err(error)) => {
                    feed.body = None;
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                // Trailers say nothing to us.
                Some(Ok(frame)) => feed.piece = frame.into_data().unwrap_or_default(),
            }
            feed.came += feed.piece.len();
            if feed.brotli && !feed.piece.is_empty() {
                feed.brotli = false;
                if feed.piece[0] & BROTLI_HEAD_MASK == BROTLI_LARGE_WINDOW {
                    return Poll::Ready(Err(io::Error::other("windows beyond 16 MiB are not taken")));
                }
            }
        }
        Poll::Ready(Ok(&feed.piece))
    }

    fn consume(mut self: Pin<&mut Self>, bytes: usize) {
        self.piece.advance(bytes);
    }
}

impl AsyncRead for Feed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let piece = ready!(self.as_mut().poll_fill_buf(context))?;
        let bytes = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..bytes]);
        self.consume(bytes);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s3_1_11_one_known_coding_is_taken_and_others_are_named() {
        let check = |value: &str, expected: Result<Option<Coding>, u16>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, value.parse().unwrap());
            let found = of_request(&headers).map_err(|problem| {
                assert_eq!(problem.header.unwrap().1, "zstd, br, gzip");
                problem.status.as_u16()
            });
            assert_eq!(found, expected, "{value}");
        };
        check("", Ok(None));
        check("identity", Ok(None));
        check("gzip", Ok(Some(Coding::Gzip)));
        check("BR", Ok(Some(Coding::Brotli)));
        check("identity, zstd", Ok(Some(Coding::Zstd)));
        check("deflate", Err(415));
        check("gzip, gzip", Err(415));
        check("compress", Err(415));
    }
}
