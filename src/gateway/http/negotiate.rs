//! Which form an answer has, and whether the caller has it already: `Accept`, `If-None-Match`, `Range`.
//!
//! Promises: pure; RFC 9110's rules for the parts that are used. A header that is not understood never turns a good request
//! into a wrong answer: it is ignored where the RFC says so, refused where it says that.
//! Does not: know what is sent.

use hyper::header::{self, HeaderMap};

/// JSON, the form where nobody asks for another.
pub(super) const JSON: &str = "application/json";
/// A JSON document a line.
pub(super) const NDJSON: &str = "application/x-ndjson";
/// The canonical form of a vertex.
pub(super) const DAG_CBOR: &str = "application/vnd.ipld.dag-cbor";
/// The record of a vertex, as it is stored.
pub(super) const RKYV: &str = "application/vnd.qmesh.rkyv";
/// Server-sent events.
pub(super) const EVENTS: &str = "text/event-stream";

/// Entries of one header that are looked at.
const ENTRIES_MAX: usize = 64;

/// The place in `offers` of the form that the caller likes best; the first where all are alike. `None`: it takes none of them.
pub(super) fn choose(headers: &HeaderMap, offers: &[&str]) -> Option<usize> {
    let mut asked = false;
    // (quality in thousandths, how precisely it was named) of each offer.
    let mut wanted: Vec<(u16, u8)> = vec![(0, 0); offers.len()];
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    for entry in lines.flat_map(|line| line.split(',')).take(ENTRIES_MAX) {
        let mut parts = entry.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default();
        if range.is_empty() {
            continue;
        }
        asked = true;
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = quality.map_or(1000, |text| text.parse().map_or(0, |quality: f32| (quality * 1000.0) as u16));
        for (offer, wanted) in offers.iter().zip(&mut wanted) {
            let precision = match range.split_once('/') {
                _ if range.eq_ignore_ascii_case(offer) => 3,
                Some(("*", "*")) => 1,
                Some((kind, "*")) if offer.split('/').next().is_some_and(|own| own.eq_ignore_ascii_case(kind)) => 2,
                _ => continue,
            };
            if wanted.1 < precision {
                *wanted = (quality, precision);
            }
        }
    }
    if !asked {
        return Some(0);
    }
    let best = wanted.iter().map(|(quality, _)| *quality).max().filter(|&quality| 0 < quality)?;
    wanted.iter().position(|(quality, _)| *quality == best)
}

/// Whether the header `name` lists `etag` (weakly compared) or `*`.
pub(super) fn lists(headers: &HeaderMap, name: header::HeaderName, etag: &str) -> bool {
    entries(headers, name).any(|entry| entry == "*" || entry.trim_start_matches("W/") == etag)
}

/// The entries of a list of entity tags.
pub(super) fn entries(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty()).take(ENTRIES_MAX)
}

/// The part of a content that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The bytes from the first to the last, both included.
    Bytes {
        /// The first.
        first: usize,
        /// The last.
        last: usize,
    },
    /// Nothing of it: the range begins behind its end.
    Outside,
}

/// What `Range` (under `If-Range`) asks of a content of `length` bytes with that tag. Several ranges are answered with the
/// whole, as RFC 9110 allows.
pub(super) fn part(headers: &HeaderMap, length: usize, etag: &str) -> Part {
    let Some(range) = headers.get(header::RANGE).and_then(|range| range.to_str().ok()) else { return Part::Whole };
    if headers.get(header::IF_RANGE).is_some_and(|condition| condition.as_bytes() != etag.as_bytes()) {
        return Part::Whole;
    }
    let Some((unit, spec)) = range.split_once('=') else { return Part::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Part::Whole;
    }
    // A number too large for us lies behind every end.
    let number = |digits: &str| {
        let valid = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        valid.then(|| digits.parse::<usize>().unwrap_or(usize::MAX))
    };
    match (number(first), number(last), first.is_empty(), last.is_empty()) {
        (Some(first), Some(last), ..) if first <= last && first < length => {
            Part::Bytes { first, last: last.min(length - 1) }
        }
        (Some(first), None, _, true) if first < length => Part::Bytes { first, last: length - 1 },
        (Some(first), Some(last), ..) if last < first => Part::Whole,
        (Some(_), Some(_), ..) | (Some(_), None, _, true) => Part::Outside,
        (None, Some(count), true, _) if 0 < count && 0 < length => {
            Part::Bytes { first: length.saturating_sub(count), last: length - 1 }
        }
        (None, Some(_), true, _) => Part::Outside,
        _ => Part::Whole,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn s3_2_10_the_form_is_the_one_the_caller_likes_best() {
        let check = |accept: Option<&str>, expected: Option<usize>| {
            let headers = accept.map_or_else(HeaderMap::new, |accept| headers(&[("accept", accept)]));
            assert_eq!(choose(&headers, &[JSON, NDJSON]), expected, "accept {accept:?}");
        };
        check(None, Some(0));
        check(Some("*/*"), Some(0));
        check(Some("application/x-ndjson"), Some(1));
        check(Some("Application/X-NDJSON; charset=utf-8"), Some(1));
        check(Some("application/json;q=0.5, application/x-ndjson"), Some(1));
        check(Some("application/*, application/x-ndjson;q=0.1"), Some(0));
        check(Some("application/json;q=0, */*"), Some(1));
        check(Some("text/html"), None);
        check(Some("text/html, */*;q=0.1"), Some(0));
        check(Some(""), Some(0));
    }

    #[test]
    fn s3_2_10_ranges_at_their_edges() {
        let check = |range: &str, length: usize, expected: Part| {
            assert_eq!(part(&headers(&[("range", range)]), length, "\"e\""), expected, "{range} of {length}");
        };
        check("bytes=0-0", 10, Part::Bytes { first: 0, last: 0 });
        check("bytes=0-", 10, Part::Bytes { first: 0, last: 9 });
        check("bytes=9-9", 10, Part::Bytes { first: 9, last: 9 });
        check("bytes=9-100", 10, Part::Bytes { first: 9, last: 9 });
        check("bytes=10-", 10, Part::Outside);
        check("bytes=10-11", 10, Part::Outside);
        check("bytes=99999999999999999999999-", 10, Part::Outside);
        check("bytes=-1", 10, Part::Bytes { first: 9, last: 9 });
        check("bytes=-100", 10, Part::Bytes { first: 0, last: 9 });
        check("bytes=-0", 10, Part::Outside);
        check("bytes=0-", 0, Part::Outside);
        check("bytes=-1", 0, Part::Outside);
        // What is not understood is not there.
        for range in
            ["bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=", "bytes=-", "bytes", "bytes=a-b", "bytes=+1-2"]
        {
            check(range, 10, Part::Whole);
        }
        let conditional = headers(&[("range", "bytes=1-2"), ("if-range", "\"other\"")]);
        assert_eq!(part(&conditional, 10, "\"e\""), Part::Whole);
        let conditional = headers(&[("range", "bytes=1-2"), ("if-range", "\"e\"")]);
        assert_eq!(part(&conditional, 10, "\"e\""), Part::Bytes { first: 1, last: 2 });
    }

    #[test]
    fn s3_2_10_entity_tags_are_found_in_lists() {
        let check = |value: &str, expected: bool| {
            let headers = headers(&[("if-none-match", value)]);
            assert_eq!(lists(&headers, header::IF_NONE_MATCH, "\"a\""), expected, "{value}");
        };
        check("\"a\"", true);
        check("W/\"a\"", true);
        check("\"b\", \"a\"", true);
        check("*", true);
        check("\"b\"", false);
        check("a", false);
    }
}
