//! Coded bodies of a real node: zstd, br and gzip, cut, changed, joined and misnamed, as one vertex and as a stream of them.
//!
//! What comes back is an answer that does not blame the node, and comes in time.

use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use futures_util::FutureExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::drive::fuzz;
use super::http::{Connection, request};
use super::mutate::mutate;
use super::stand::Stand;

const CASES_PER_LOOK: u32 = 64;
const CODINGS: [&str; 6] = ["zstd", "br", "gzip", "identity", "gzip, br", "zip"];

fn through<W: AsyncWrite + Unpin>(mut writer: W, bytes: &[u8]) -> W {
    writer.write_all(bytes).now_or_never().unwrap().unwrap();
    writer.shutdown().now_or_never().unwrap().unwrap();
    writer
}

#[test]
fn s3_1_11_fuzz_coded_bodies() {
    let mut stand = Stand::new();
    let address = stand.node.http();
    let vertex = br#"{"kind":"note","timestamp_ms":1,"payload":"words and words and words"}"#;
    let plain = [vertex.to_vec(), [&vertex[..], b"\n"].concat().repeat(200), vec![b' '; 1 << 20]];
    let seeds: Vec<(usize, Vec<u8>)> = plain
        .iter()
        .flat_map(|plain| {
            [
                (0, through(ZstdEncoder::new(Vec::new()), plain).into_inner()),
                (1, through(BrotliEncoder::new(Vec::new()), plain).into_inner()),
                (2, through(GzipEncoder::new(Vec::new()), plain).into_inner()),
            ]
        })
        .collect();
    let others: Vec<Vec<u8>> = seeds.iter().map(|(_, bytes)| bytes.clone()).collect();
    let host = ("Host".to_owned(), address.to_string());
    let (mut connection, mut cases) = (None, 0u32);
    fuzz("coded bodies", |random| {
        let (coding, mut body) = random.pick(&seeds).clone();
        if !random.one_in(8) {
            mutate(
                random,
                &mut body,
                &others,
                &[&[0x28, 0xb5, 0x2f, 0xfd], &[0x1f, 0x8b, 8], &[0x11, 0xff], &[0xff; 8]],
            );
        }
        let coding = if random.one_in(8) { *random.pick(&CODINGS) } else { CODINGS[coding] };
        let path = if random.one_in(2) { "/api/v1/dag/vertices" } else { "/api/v1/dag/vertices:batch" };
        let headers = [
            host.clone(),
            ("Content-Encoding".to_owned(), coding.to_owned()),
            ("Accept-Encoding".to_owned(), "identity".to_owned()),
            ("Content-Length".to_owned(), body.len().to_string()),
        ];
        let mut open = connection.take().unwrap_or_else(|| Connection::open(address));
        open.send(&request("POST", path, &headers, &body));
        let answer = open.answer("POST").expect("an answer");
        assert!((200..500).contains(&answer.status), "{coding} {path}: {}", answer.status);
        if answer.open {
            connection = Some(open);
        }
        cases += 1;
        if cases.is_multiple_of(CASES_PER_LOOK) {
            stand.is_well();
        }
    });
    drop(connection);
    stand.end();
}
