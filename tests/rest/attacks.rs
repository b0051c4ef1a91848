//! Drills: what strangers do to a door that costs them little, and a door that stays within its bounds and serves others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use qmesh::limits::HTTP_HEAD_TIMEOUT_MS;

use crate::house::Node;
use crate::http::{connect, get};

/// Connections of one drill.
const CONNECTIONS: usize = 200;
/// Longest time for an honest client meanwhile.
const PROMPT: Duration = Duration::from_secs(3);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Whether the node answers somebody else at once.
fn serves_others(node: &Node) {
    let begun = Instant::now();
    assert_eq!(get(node, "/livez").status, 200);
    assert!(begun.elapsed() < PROMPT, "an honest client waited {:?}", begun.elapsed());
}

/// Reads until the door ends it; how long that took, and what came.
fn ended(mut stream: TcpStream, since: Instant) -> (Duration, Vec<u8>) {
    let mut rest = Vec::new();
    // Closed or reset: both end it.
    let _ = stream.read_to_end(&mut rest);
    (since.elapsed(), rest)
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags][..], &stream.to_be_bytes(), content].concat()
}

/// `GET /livez` of this host as a block of header fields: three of the static table, one in letters.
fn head(node: &Node) -> Vec<u8> {
    let host = node.http().to_string();
    [&[0x82, 0x86, 0x04, 6][..], b"/livez", &[0x01, host.len() as u8], host.as_bytes()].concat()
}

#[test]
fn s6_1_12_half_open_handshakes_and_heads_are_cut_in_time_and_others_are_served() {
    // In the clear: silent, with half a head, and with half a preface of HTTP/2.
    let node = Node::start();
    let begun = Instant::now();
    let mut open: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&node)).collect();
    for (at, stream) in open.iter_mut().enumerate() {
        let part: &[u8] = [&b""[..], b"GET / HTTP/1.1\r\nHost: x", &PREFACE[..20]][at % 3];
        stream.write_all(part).unwrap();
    }
    serves_others(&node);
    // With TLS: half a greeting.
    let secure = Node::start_with(&["--tls"]);
    let mut half: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&secure)).collect();
    for stream in &mut half {
        stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7]).unwrap();
    }
    let mut honest = connect(&secure);
    let late = Duration::from_millis(2 * HTTP_HEAD_TIMEOUT_MS);
    for stream in open.into_iter().chain(half) {
        let (took, _) = ended(stream, begun);
        assert!(took < late, "a half-open connection lived for {took:?}");
    }
    serves_others(&node);
    let scrape = get(&node, "/metrics").text();
    let cut = scrape.lines().filter(|line| line.starts_with("http_server_connections_cut_total"));
    let cut: f64 = cut.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert_eq!(cut as usize, CONNECTIONS);
    // A TLS door that was shut to nobody: an honest greeting still gets an answer (here an alert, to nonsense).
    let _ = honest.write_all(b"GET / HTTP/1.1\r\n\r\n");
    let mut fresh = connect(&secure);
    fresh.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let (_, alert) = ended(fresh, Instant::now());
    assert_eq!(alert.first(), Some(&21), "no alert: {alert:?}");
}

#[test]
fn s6_1_12_heads_without_an_end_over_http2_are_cut() {
    let node = Node::start();
    let mut stream = connect(&node);
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(1, 0, 1, &head(&node))).unwrap();
    // Fields that go on and on, without a last frame.
    let field = [&[0x00, 7][..], b"x-bombs", &[0x7f, 0xe1, 0x3e], &vec![b'x'; 8160]].concat();
    let mut sent = 0;
    while sent < 64 << 20 {
        let continuation = frame(9, 0, 1, &field);
        if stream.write_all(&continuation).is_err() {
            break;
        }
        sent += continuation.len();
    }
    assert!(sent < 16 << 20, "{sent} bytes of one head were taken");
    serves_others(&node);
}

#[test]
fn s6_1_12_requests_that_are_taken_back_at_once_are_cut() {
    let node = Node::start();
    let mut stream = connect(&node);
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut came = Vec::new();
        let _ = reader.read_to_end(&mut came);
        came
    });
    stream.write_all(PREFACE).unwrap();
    let head = head(&node);
    let mut taken_back = 0u32;
    // Each is asked and cancelled in the same breath, so that the bound on open streams never holds it.
    'attack: for batch in 0..1000u32 {
        let mut bytes = Vec::new();
        for at in 0..100 {
            let id = 1 + 2 * (batch * 100 + at);
            bytes.extend(frame(1, 0x5, id, &head));
            bytes.extend(frame(3, 0, id, &8u32.to_be_bytes()));
        }
        if stream.write_all(&bytes).is_err() {
            break 'attack;
        }
        taken_back += 100;
        if batch.is_multiple_of(20) {
            serves_others(&node);
        }
    }
    drop(stream);
    let came = reading.join().unwrap();
    assert!(taken_back < 100_000, "the door took all of it");
    // It says why: ENHANCE_YOUR_CALM, in a GOAWAY.
    assert!(came.windows(4).any(|four| four == 11u32.to_be_bytes()), "no reason among {} bytes", came.len());
    serves_others(&node);
}
