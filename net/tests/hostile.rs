//! Scenes with clients that are slow, broken, greedy or gone.
//!
//! Promises: each is survived within its bound, and others on the same endpoint are served meanwhile.
//! Does not: attack TLS or QUIC themselves.

mod support;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use qmesh_net::{
    io::endpoint::{EndpointOptions, TransportOptions},
    rpc::{client::ClientOptions, server::ServeOptions},
    wire::{CloseCode, FRAME_BYTES_MAX, Lane, STREAM_HEAD_BYTES, StreamHead},
};
use quinn::{Connection, ReadError, ReadToEndError, RecvStream, SendStream, VarInt};
use support::*;

async fn open(connection: &Connection, first: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.expect("opens");
    send.write_all(first).await.expect("writes");
    (send, receive)
}

fn with_head(bytes: &[u8]) -> Vec<u8> {
    let mut all = StreamHead::rpc(Lane::Put).encode().to_vec();
    all.extend_from_slice(bytes);
    all
}

/// Whether `future` is still waiting after everything else had time to go on.
async fn waits<F: Future>(future: F) -> bool {
    tokio::time::timeout(Duration::from_millis(100), future).await.is_err()
}

#[test]
fn s6_1_12_what_cannot_be_parsed_resets_its_stream_and_no_other() {
    run(async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let check = async |first: Vec<u8>, finish: bool, expected: CloseCode| {
            let (mut send, mut receive) = open(&connection, &first).await;
            if finish {
                send.finish().expect("finishes");
            }
            let refused = receive.read_to_end(1 << 20).await;
            let code = VarInt::from_u32(expected as u32);
            assert_eq!(refused, Err(ReadToEndError::Read(ReadError::Reset(code))), "{expected:?}");
        };
        let damaged = |offset: usize| {
            let mut head = StreamHead::rpc(Lane::Put).encode();
            head[offset] = 0xff;
            head.to_vec()
        };
        for offset in [0, 1, 2, 41, STREAM_HEAD_BYTES - 1] {
            check(damaged(offset), false, CloseCode::BadHead).await;
        }
        check(vec![1; 10], true, CloseCode::BadHead).await;
        check(b"GET / HTTP/1.1\r\nHost: a-client-of-something-else\r\n\r\n".to_vec(), false, CloseCode::BadHead).await;
        let mut oversize = request(1, ECHO, b"");
        oversize[..4].copy_from_slice(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
        check(with_head(&oversize), false, CloseCode::BadFrame).await;
        check(with_head(&[0xff; 64]), false, CloseCode::BadFrame).await;
        check(with_head(&request(1, ECHO, b"cut off")[..20]), true, CloseCode::BadFrame).await;
        // The same connection is served on.
        let (mut send, mut receive) = open(&connection, &with_head(&request(7, ECHO, b"good"))).await;
        send.finish().expect("finishes");
        let bytes = receive.read_to_end(1000).await.expect("answers");
        assert_eq!(answers(&bytes), [(7, 0, true, b"good".to_vec())]);
    });
}

#[test]
fn s6_1_12_seeded_garbage_after_the_head_never_stops_the_node() {
    run(async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..300 {
            let mut garbage = vec![0; 200];
            for byte in &mut garbage {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state as u8;
            }
            // Some of it looks like small frames, so that it comes past the header.
            if state.is_multiple_of(2) {
                garbage[1..4].fill(0);
                garbage[6..8].fill(0);
            }
            let (mut send, mut receive) = open(&connection, &with_head(&garbage)).await;
            let _ = send.finish();
            let _ = receive.read_to_end(1 << 20).await;
        }
        assert_eq!(scene.client().await.call(Lane::Put, ECHO, "ok").await, Ok(Bytes::from_static(b"ok")));
    });
}

#[test]
fn s0_1_a_client_that_finished_asking_still_gets_every_answer() {
    run(async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let mut bytes = with_head(&[]);
        for id in 0..500 {
            bytes.extend(request(id, ECHO_LATER, &id.to_le_bytes()));
        }
        let (mut send, mut receive) = open(&connection, &bytes).await;
        send.finish().expect("finishes");
        let bytes = receive.read_to_end(1 << 20).await.expect("answers and ends");
        let mut answers = answers(&bytes);
        answers.sort();
        let expected: Vec<_> = (0..500_u64).map(|id| (id, 0, true, id.to_le_bytes().to_vec())).collect();
        assert_eq!(answers, expected);
    });
}

#[test]
fn s6_1_12_a_stream_without_a_head_is_given_up() {
    let serve = ServeOptions { head_timeout: Duration::from_millis(50), ..ServeOptions::default() };
    run_with(EndpointOptions::default(), serve, async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let (_send, mut receive) = open(&connection, &StreamHead::rpc(Lane::Put).encode()[..47]).await;
        let code = VarInt::from_u32(CloseCode::HeadTimeout as u32);
        assert_eq!(receive.read_to_end(100).await, Err(ReadToEndError::Read(ReadError::Reset(code))));
    });
}

#[test]
fn s6_1_12_a_client_that_never_reads_is_bounded_and_alone() {
    const ANSWER_BYTES: u64 = 64 << 10;
    let serve = ServeOptions { reply_bytes_max: 1 << 20, ..ServeOptions::default() };
    run_with(EndpointOptions::default(), serve, async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let (mut send, _receive) = open(&connection, &with_head(&[])).await;
        tokio::task::spawn_local(async move {
            let many: Vec<u8> = (0..1000).flat_map(|id| request(id, BYTES, &ANSWER_BYTES.to_le_bytes())).collect();
            while send.write_all(&many).await.is_ok() {}
        });
        let requests = settled(|| scene.seen.requests.get()).await;
        // The client's windows, the server's buffer, and one batch that was handed over before it was full.
        let transport = TransportOptions::default();
        let bound = transport.send_window_bytes + u64::from(transport.stream_window_bytes) + (1 << 20);
        let bound = bound + 257 * ANSWER_BYTES;
        assert!(0 < requests && requests as u64 * ANSWER_BYTES <= bound, "{requests} requests taken");
        let client = scene.client().await;
        assert_eq!(client.call(Lane::Put, ECHO, "served").await, Ok(Bytes::from_static(b"served")));
    });
}

#[test]
fn s5_1_5_requests_in_flight_of_a_stream_are_bounded() {
    let serve = ServeOptions { requests_in_flight_max: 16, ..ServeOptions::default() };
    run_with(EndpointOptions::default(), serve, async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let mut bytes = with_head(&[]);
        for id in 0..100 {
            bytes.extend(request(id, HOLD, b"x"));
        }
        let (mut send, mut receive) = open(&connection, &bytes).await;
        send.finish().expect("finishes");
        for round in 1..=7 {
            let expected = (16 * round).min(100);
            assert_eq!(settled(|| scene.seen.requests.get()).await, expected);
            scene.seen.release();
        }
        let bytes = receive.read_to_end(1 << 20).await.expect("answers and ends");
        assert_eq!(answers(&bytes).len(), 100);
    });
}

#[test]
fn s5_1_5_the_101st_stream_waits_for_a_place() {
    run(async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let mut streams = Vec::new();
        for _ in 0..100 {
            streams.push(open(&connection, &with_head(&request(1, HOLD, b"x"))).await);
        }
        until(|| scene.seen.held.borrow().len() == 100).await;
        assert!(waits(connection.open_bi()).await, "a client has 100 streams");
        scene.seen.release();
        // QUIC tells of free places an eighth of the bound at a time.
        for (mut send, mut receive) in streams.drain(..20) {
            send.finish().expect("finishes");
            receive.read_to_end(1000).await.expect("answers and ends");
        }
        connection.open_bi().await.expect("a place is free");
        let uni = connection.open_uni();
        assert!(waits(uni).await, "there are no unidirectional streams");
    });
}

#[test]
fn s5_1_4_a_stopped_stream_ends_its_work() {
    run(async |scene| {
        let (_endpoint, connection) = scene.raw().await;
        let (_send, mut receive) = open(&connection, &with_head(&request(1, HOLD, b"x"))).await;
        until(|| scene.seen.held.borrow().len() == 1).await;
        assert!(!scene.seen.held.borrow()[0].1.is_closed());
        receive.stop(VarInt::from_u32(CloseCode::Cancelled as u32)).expect("stops");
        until(|| scene.seen.held.borrow()[0].1.is_closed()).await;
        scene.seen.release();
        assert_eq!(scene.client().await.call(Lane::Put, ECHO, "ok").await, Ok(Bytes::from_static(b"ok")));
    });
}

#[test]
fn s5_1_4_a_client_that_vanishes_is_forgotten() {
    let transport = TransportOptions { idle_timeout: Duration::from_millis(200), ..TransportOptions::default() };
    let endpoint = EndpointOptions { transport, ..EndpointOptions::default() };
    run_with(endpoint, ServeOptions::default(), async |scene| {
        let (address, trust) = (scene.address(), scene.trust());
        // A runtime that is dropped takes its sockets with it, as a killed process does: nothing says goodbye.
        let vanishing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
            runtime.block_on(async {
                let client = qmesh_net::rpc::client::Client::connect(
                    address,
                    "localhost",
                    &trust,
                    ClientOptions { call_timeout: Duration::from_millis(50), ..ClientOptions::default() },
                );
                let client = client.await.expect("connects");
                client.call(Lane::Put, HOLD, "x").await.expect_err("is held");
                std::mem::forget(client);
            });
        });
        until(|| scene.seen.held.borrow().len() == 1).await;
        until(|| vanishing.is_finished()).await;
        vanishing.join().expect("vanished as planned");
        until(|| scene.endpoint.connections() == 0).await;
        assert!(scene.seen.held.borrow()[0].1.is_closed());
        scene.seen.release();
        let client = scene.client().await;
        assert_eq!(client.call(Lane::Put, ECHO, "served").await, Ok(Bytes::from_static(b"served")));
    });
}
