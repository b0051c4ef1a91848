//! Content codings of answers: which one a caller takes, whether an answer is worth it, and the coder that writes it.
//!
//! Promises: an answer is coded only when it shrinks; a step of the coder takes at most [`STEP_BYTES`], so that the core serves
//! others between two; a coded answer has a tag of its own kind (weak), because its bytes are others than those the strong tag
//! names; a stream is flushed after each of its pieces.
//! What a token opens is coded only as a whole of at least [`AUTHENTICATED_BYTES_MIN`]: the length of a small coded answer tells
//! whether its secret resembles what a stranger had written into it (BREACH). Server-sent events stay plain: they are small, and
//! live as long as their listener, whose coder would too. Does not: read coded bodies (see `inflate`).

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use async_compression::brotli::EncoderParams;
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use async_compression::zstd::CParameter;
use async_compression::{Level, zstd};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, IF_NONE_MATCH, VARY,
};
use hyper::{Method, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::metrics::Counters;
use super::negotiate::EVENTS;
use super::{Body, Response};

/// A shorter answer is left as it is: it fits into one packet with its head.
const BYTES_MIN: usize = 1 << 10;
/// A shorter answer to a caller with a token is.
const AUTHENTICATED_BYTES_MIN: usize = 16 << 10;
/// Bytes that a coder takes in one step. A whole body that fits in one is coded at once and keeps its length.
pub(super) const STEP_BYTES: usize = 64 << 10;
/// Bytes from the middle of a larger body whose coding shows whether the rest is worth it.
const PROBE_BYTES: usize = 8 << 10;
/// Answers of one core that are being coded at a time; a further one is sent plain.
const CODERS_PER_CORE_MAX: usize = 128;
/// Binary logarithm of the bytes that a coder looks back: a coder's memory is a few times that.
const WINDOW_LOG: u32 = 18;
/// Entries of Accept-Encoding that are looked at.
const ENTRIES_MAX: usize = 32;
const _: () = assert!(BYTES_MIN <= AUTHENTICATED_BYTES_MIN && PROBE_BYTES < STEP_BYTES);

/// A content coding, in the order of our liking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Zstd,
    Brotli,
    Gzip,
}

/// What a request says of the coding of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taste {
    coding: Option<Coding>,
    authenticated: bool,
    head: bool,
    /// It holds a coded form already, and asks whether that is still good.
    holds_weak: bool,
}

impl Coding {
    pub(super) const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its registered name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The one that has this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case("x-gzip") { "gzip" } else { name };
        Self::ALL.into_iter().find(|coding| coding.name().eq_ignore_ascii_case(name))
    }

    /// The one that the caller likes best; `None` when it takes none, or says nothing.
    fn liked(headers: &HeaderMap) -> Option<Self> {
        // Quality in thousandths of each coding, and of what is not named.
        let (mut named, mut rest) = ([None; Self::ALL.len()], 0u16);
        let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
        for entry in lines.flat_map(|line| line.split(',')).take(ENTRIES_MAX) {
            let mut parts = entry.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let quality = quality.map_or(1000, |text| text.parse().map_or(0, |quality: f32| (quality * 1000.0) as u16));
            match Self::named(name) {
                Some(coding) => named[coding as usize] = Some(quality),
                None if name == "*" => rest = quality,
                None => {}
            }
        }
        let quality = |coding: &Self| named[*coding as usize].unwrap_or(rest);
        let best = Self::ALL.iter().map(quality).max().filter(|&best| 0 < best)?;
        Self::ALL.into_iter().find(|coding| quality(coding) == best)
    }
}

impl Taste {
    pub(super) fn of(method: &Method, headers: &HeaderMap, query: Option<&str>) -> Self {
        let weak = |value: &HeaderValue| value.as_bytes().windows(3).any(|three| three == b"W/\"");
        Self {
            coding: Coding::liked(headers),
            authenticated: headers.contains_key(AUTHORIZATION)
                || query.is_some_and(|query| query.contains("access_token")),
            head: method == Method::HEAD,
            holds_weak: headers.get_all(IF_NONE_MATCH).iter().any(weak),
        }
    }

    /// The answer in the coding that its caller likes, where that is worth it. `exact` is an answer whose tag a caller brings
    /// back to say what it has seen (`If-Match` compares strongly): it stays as it is.
    pub(super) fn apply(self, mut response: Response, exact: bool, counters: &Arc<Counters>) -> Response {
        let codable = !exact && is_codable(response.headers());
        if codable && self.holds_weak && response.status() == StatusCode::NOT_MODIFIED {
            vary(response.headers_mut());
            weaken(response.headers_mut());
        }
        let bytes_min = if self.authenticated { AUTHENTICATED_BYTES_MIN } else { BYTES_MIN };
        let length = response.body().length();
        let worth = length.map_or(!self.authenticated, |length| bytes_min <= length);
        if !codable || !worth {
            return response;
        }
        vary(response.headers_mut());
        // HEAD tells of the plain form: the coded one is not made for nobody.
        let Some(coding) = self.coding.filter(|_| !self.head) else { return response };
        let Some(place) = Place::take() else { return response };
        let (mut parts, body) = response.into_parts();
        let (body, coded) = match body.as_whole() {
            Some(whole) if whole.len() <= STEP_BYTES => match at_once(coding, &whole, place, counters) {
                Some(bytes) => (Body::whole(bytes), true),
                None => (body, false),
            },
            Some(whole) if !shrinks(coding, &whole) => (body, false),
            _ => (body.coded(Box::new(Coder::new(coding, place, counters.clone()))), true),
        };
        if coded {
            counters.coded[coding as usize].answers.add(1);
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            parts.headers.remove(hyper::header::CONTENT_LENGTH);
            parts.headers.remove(hyper::header::ACCEPT_RANGES);
            weaken(&mut parts.headers);
        }
        Response::from_parts(parts, body)
    }
}

fn is_codable(headers: &HeaderMap) -> bool {
    let starts = |value: &HeaderValue, with: &str| value.to_str().is_ok_and(|value| value.starts_with(with));
    !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
        && !headers.get(CONTENT_TYPE).is_some_and(|kind| starts(kind, EVENTS))
        && !headers.get(CACHE_CONTROL).is_some_and(|value| value.to_str().is_ok_and(|v| v.contains("no-transform")))
}

fn vary(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// The tag of what means the same in other bytes.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) else { return };
    if let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        headers.insert(ETAG, weak);
    }
}

/// Whether so many bytes instead of so many are worth the work of both sides: a tenth less.
fn is_worth(plain: usize, coded: usize) -> bool {
    coded < plain - plain / 10
}

fn at_once(coding: Coding, whole: &Bytes, place: Place, counters: &Arc<Counters>) -> Option<Bytes> {
    let mut coder = Coder::new(coding, place, counters.clone());
    let coded = [coder.step(whole, false)?, coder.finish()?].concat();
    is_worth(whole.len(), coded.len()).then(|| coded.into())
}

/// Whether the middle of a large body shrinks.
fn shrinks(coding: Coding, whole: &Bytes) -> bool {
    let from = (whole.len() - PROBE_BYTES) / 2;
    let middle = &whole[from..from + PROBE_BYTES];
    let mut writer = Writer::new(coding);
    let written = writer.write(middle, false).and_then(|()| writer.close());
    written.is_some() && is_worth(middle.len(), writer.sink().len())
}

/// The right to one of a core's coders.
struct Place;

thread_local! {
    static CODERS: Cell<usize> = const { Cell::new(0) };
}

impl Place {
    fn take() -> Option<Self> {
        let taken = CODERS.get();
        (taken < CODERS_PER_CORE_MAX).then(|| {
            CODERS.set(taken + 1);
            Self
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        CODERS.set(CODERS.get() - 1);
    }
}

/// Writes one body in a coding.
pub(super) struct Coder {
    writer: Writer,
    coding: Coding,
    counters: Arc<Counters>,
    _place: Place,
}

impl Coder {
    fn new(coding: Coding, place: Place, counters: Arc<Counters>) -> Self {
        Self { writer: Writer::new(coding), coding, counters, _place: place }
    }

    /// What comes out when `plain` goes in; all of it when flushed. `None` is a defect of the coder.
    pub(super) fn step(&mut self, plain: &[u8], flush: bool) -> Option<Bytes> {
        self.measured(plain.len(), |writer| writer.write(plain, flush))
    }

    /// What comes out at the end.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        self.measured(0, Writer::close)
    }

    fn measured(&mut self, plain: usize, work: impl FnOnce(&mut Writer) -> Option<()>) -> Option<Bytes> {
        let begun = Instant::now();
        work(&mut self.writer)?;
        let coded = std::mem::take(self.writer.sink());
        let counts = &self.counters.coded[self.coding as usize];
        counts.plain_bytes.add(plain as u64);
        counts.coded_bytes.add(coded.len() as u64);
        counts.nanoseconds.add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Some(coded.into())
    }
}

/// The coders of the library, each in front of a buffer that takes everything at once.
enum Writer {
    Zstd(ZstdEncoder<Vec<u8>>),
    Brotli(Box<BrotliEncoder<Vec<u8>>>),
    Gzip(GzipEncoder<Vec<u8>>),
}

impl Writer {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Zstd => {
                let window: [zstd::CParameter; 1] = [CParameter::window_log(WINDOW_LOG)];
                Self::Zstd(ZstdEncoder::with_quality_and_params(Vec::new(), Level::Precise(3), &window))
            }
            Coding::Brotli => {
                let params = EncoderParams::default().quality(Level::Precise(4)).window_size(WINDOW_LOG as i32);
                Self::Brotli(Box::new(BrotliEncoder::with_params(Vec::new(), params)))
            }
            Coding::Gzip => Self::Gzip(GzipEncoder::with_quality(Vec::new(), Level::Precise(5))),
        }
    }

    fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        match self {
            Self::Zstd(encoder) => encoder,
            Self::Brotli(encoder) => &mut **encoder,
            Self::Gzip(encoder) => encoder,
        }
    }

    fn sink(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        }
    }

    /// A buffer never lets its writer wait, so what is asked of it is done when it returns.
    fn write(&mut self, plain: &[u8], flush: bool) -> Option<()> {
        let writer = self.writer();
        writer.write_all(plain).now_or_never()?.ok()?;
        if flush { writer.flush().now_or_never()?.ok() } else { Some(()) }
    }

    fn close(&mut self) -> Option<()> {
        self.writer().shutdown().now_or_never()?.ok()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s3_1_11_the_coding_is_the_one_the_caller_likes_best() {
        let check = |accept: Option<&str>, expected: Option<Coding>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT_ENCODING, accept.parse().unwrap());
            }
            assert_eq!(Coding::liked(&headers), expected, "{accept:?}");
        };
        check(None, None);
        check(Some(""), None);
        check(Some("identity"), None);
        check(Some("gzip, deflate, br, zstd"), Some(Coding::Zstd));
        check(Some("gzip, deflate, br"), Some(Coding::Brotli));
        check(Some("GZIP"), Some(Coding::Gzip));
        check(Some("x-gzip"), Some(Coding::Gzip));
        check(Some("gzip;q=1.0, br;q=0.5, zstd;q=0"), Some(Coding::Gzip));
        check(Some("*"), Some(Coding::Zstd));
        check(Some("zstd;q=0, *;q=0.1"), Some(Coding::Brotli));
        check(Some("*;q=0"), None);
        check(Some("gzip;q=nonsense"), None);
        check(Some("deflate"), None);
    }

    #[test]
    fn s3_1_11_what_does_not_shrink_is_told_from_its_middle() {
        for coding in Coding::ALL {
            assert!(!shrinks(coding, &Bytes::from(noise(128 << 10))), "{coding:?}");
            assert!(shrinks(coding, &Bytes::from(vec![b'a'; 128 << 10])), "{coding:?}");
        }
    }

    fn noise(bytes: usize) -> Vec<u8> {
        (0..bytes.div_ceil(32) as u32).flat_map(|at| *blake3::hash(&at.to_le_bytes()).as_bytes()).take(bytes).collect()
    }

    #[test]
    fn s3_1_11_coders_of_a_core_are_bounded_and_given_back() {
        let mut places: Vec<Place> = (0..CODERS_PER_CORE_MAX).map_while(|_| Place::take()).collect();
        assert_eq!(places.len(), CODERS_PER_CORE_MAX);
        assert!(Place::take().is_none());
        places.pop();
        assert!(Place::take().is_some());
    }
}
