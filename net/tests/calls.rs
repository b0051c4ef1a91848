//! Scenes with well-behaved clients.
//!
//! Promises: calls, streams, lanes, drains and connections behave as the crate's documentation says, on real sockets.
//! Does not: misbehave; `hostile.rs` does.

mod support;

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all};
use qmesh_net::{
    identity::{Authority, Leaf, Names, NodeIdentity, Roles},
    io::endpoint::{ConnectError, Endpoint, EndpointOptions, TransportOptions},
    rpc::{
        client::{CallError, Client, ClientOptions},
        server::ServeOptions,
    },
    tls::{Trust, mesh_server},
    wire::{FRAME_BYTES_MAX, Lane, StreamHead},
};
use support::*;

fn body(number: usize) -> Bytes {
    let length = number * 7919 % 3000;
    Bytes::from((0..length).map(|index| (index + number) as u8).collect::<Vec<_>>())
}

#[test]
fn s5_1_4_many_pipelined_calls_come_back_to_their_callers() {
    run(async |scene| {
        let client = scene.client().await;
        for operation in [ECHO, ECHO_LATER] {
            for lane in Lane::ALL {
                let calls = (0..600).map(|number| client.call(lane, operation, body(number)));
                for (number, answer) in join_all(calls).await.into_iter().enumerate() {
                    assert_eq!(answer, Ok(body(number)), "call {number} on {lane:?}");
                }
            }
        }
        assert_eq!(scene.seen.requests.get(), 2 * Lane::ALL.len() * 600);
        assert!(16 < scene.seen.batch_requests_max.get(), "requests that arrive together are handed over together");
    });
}

#[test]
fn s5_1_4_bodies_are_handed_over_aligned() {
    run(async |scene| {
        let client = scene.client().await;
        let calls = (1..200).map(|number| client.call(Lane::Put, ADDRESS, vec![0; number]));
        for answer in join_all(calls).await {
            assert_eq!(answer, Ok(Bytes::from_static(&[0])));
        }
    });
}

#[test]
fn s5_1_4_large_requests_and_answers_arrive_whole() {
    run(async |scene| {
        let options = ClientOptions { answer_bytes_max: 5 << 20, ..ClientOptions::default() };
        let client = scene.client_with(options).await;
        let largest = Bytes::from(vec![3; FRAME_BYTES_MAX]);
        assert_eq!(client.call(Lane::Put, ECHO, largest.clone()).await, Ok(largest));
        let refused = client.call(Lane::Put, ECHO, vec![0; FRAME_BYTES_MAX + 1]).await;
        assert_eq!(refused, Err(CallError::RequestTooLarge { bytes: FRAME_BYTES_MAX + 1 }));
        let ask = |bytes: u64| client.call(Lane::PointRead, BYTES, bytes.to_le_bytes().to_vec());
        assert_eq!(ask(5 << 20).await.map(|answer| answer.len()), Ok(5 << 20));
        assert_eq!(ask((5 << 20) + 1).await, Err(CallError::AnswerTooLarge { bytes_max: 5 << 20 }));
        assert_eq!(ask(20 << 20).await, Err(CallError::AnswerTooLarge { bytes_max: 5 << 20 }));
        assert_eq!(ask(1).await, Ok(Bytes::from_static(&[9])), "the lane goes on");
    });
}

#[test]
fn s6_1_4_a_client_without_a_certificate_is_nobody() {
    run(async |scene| {
        let client = scene.client().await;
        assert_eq!(client.call(Lane::PointRead, WHO, "").await, Ok(Bytes::from_static(b"nobody")));
        assert_eq!(client.peer(), None);
    });
}

#[test]
fn s5_1_4_a_refusal_carries_its_reason() {
    run(async |scene| {
        let client = scene.client().await;
        let refused = client.call(Lane::Put, REFUSE, "why").await;
        assert_eq!(refused, Err(CallError::Refused { status: 8, body: Bytes::from_static(b"why") }));
        let mut answer = client.call_streaming(Lane::Put, REFUSE, "why").await.expect("asks");
        assert_eq!(answer.next().await, Some(Err(CallError::Refused { status: 8, body: Bytes::from_static(b"why") })));
        assert_eq!(answer.next().await, None);
    });
}

#[test]
fn s5_1_6_the_head_names_the_lane_and_the_deadline() {
    run(async |scene| {
        let client = scene.client().await;
        for lane in Lane::ALL {
            let mut expected = vec![lane as u8];
            expected.extend(0_u64.to_le_bytes());
            assert_eq!(client.call(lane, HEAD, "").await, Ok(Bytes::from(expected)));
        }
        let priorities: Vec<i32> = Lane::ALL.iter().map(|lane| lane.priority()).collect();
        assert_eq!(priorities, [4, 3, 2, 1, 0]);
        let (_endpoint, connection) = scene.raw().await;
        let (mut send, mut receive) = connection.open_bi().await.expect("opens");
        let head = StreamHead { deadline_ms: 1500, ..StreamHead::rpc(Lane::Bulk) };
        send.write_all(&head.encode()).await.expect("writes");
        send.write_all(&request(1, HEAD, b"")).await.expect("writes");
        send.finish().expect("finishes");
        let bytes = receive.read_to_end(1000).await.expect("answers");
        assert_eq!(answers(&bytes)[0].3, [4, 0xdc, 5, 0, 0, 0, 0, 0, 0]);
    });
}

#[test]
fn s5_1_4_a_streamed_answer_comes_in_parts_and_slows_only_itself() {
    let serve = ServeOptions { reply_bytes_max: 1 << 20, ..ServeOptions::default() };
    run_with(EndpointOptions::default(), serve, async |scene| {
        let client = scene.client().await;
        let ask = |parts: u64| client.call_streaming(Lane::Bulk, PARTS, parts.to_le_bytes().to_vec());
        let parts: Vec<_> = ask(100).await.expect("asks").into_stream().collect().await;
        let bytes: usize = parts.iter().map(|part| part.as_ref().map_or(0, Bytes::len)).sum();
        assert_eq!(bytes, 100 * PART_BYTES);
        // One that is not read stops at the windows, while the connection serves others.
        scene.seen.parts_sent.set(0);
        let unread = ask(100_000).await.expect("asks");
        let sent = settled(|| scene.seen.parts_sent.get()).await;
        let bound = (1 << 20) + TransportOptions::default().send_window_bytes as usize + 2 * PART_BYTES;
        assert!(sent * PART_BYTES <= bound, "{sent} parts sent to nobody");
        assert_eq!(client.call(Lane::PointRead, ECHO, "still here").await, Ok(Bytes::from_static(b"still here")));
        // Dropping it stops the work.
        assert!(!scene.seen.parts_abandoned.get());
        drop(unread);
        until(|| scene.seen.parts_abandoned.get()).await;
    });
}

#[test]
fn s5_1_6_answers_that_nobody_reads_hold_up_no_point_read() {
    run(async |scene| {
        let client = scene.client().await;
        let ask = || client.call_streaming(Lane::Bulk, PARTS, 100_000_u64.to_le_bytes().to_vec());
        let mut unread = Vec::new();
        for _ in 0..ClientOptions::default().answers_open_max {
            unread.push(ask().await.expect("asks"));
        }
        let sent = settled(|| scene.seen.parts_sent.get()).await;
        let windows = unread.len() * TransportOptions::default().stream_window_bytes as usize;
        assert!(windows <= sent * PART_BYTES, "every stream has filled its window: {sent} parts sent");
        for lane in Lane::ALL {
            let wanted = 300_000_u64.to_le_bytes().to_vec();
            let read = tokio::time::timeout(Duration::from_secs(5), client.call(lane, BYTES, wanted)).await;
            assert_eq!(read.expect("nobody waits for a reader that does not read").map(|body| body.len()), Ok(300_000));
        }
        let Err(one_more) = ask().await else { panic!("one more than the limit") };
        assert_eq!(one_more, CallError::AnswersOpen { answers_max: unread.len() });
        assert!(one_more.is_retry_safe());
        drop(unread.pop());
        let parts =
            client.call_streaming(Lane::Bulk, PARTS, 20_u64.to_le_bytes().to_vec()).await.expect("a place is free");
        assert_eq!(parts.into_stream().count().await, 20);
    });
}

#[test]
fn s5_1_4_a_full_lane_refuses_and_a_late_answer_hurts_nobody() {
    run(async |scene| {
        let options = ClientOptions {
            calls_in_flight_max: 2,
            call_timeout: Duration::from_millis(50),
            ..ClientOptions::default()
        };
        let client = scene.client_with(options).await;
        let calls = (0..3).map(|_| client.call(Lane::Put, HOLD, "x"));
        let answers = join_all(calls).await;
        let timeout = Err(CallError::Timeout { limit: Duration::from_millis(50) });
        assert_eq!(answers[..2], [timeout.clone(), timeout]);
        let Err(full @ CallError::Full { calls: 2, .. }) = &answers[2] else { panic!("{:?}", answers[2]) };
        assert!(full.is_retry_safe());
        // The two places are free again once the late answers have come.
        until(|| scene.seen.held.borrow().len() == 2).await;
        scene.seen.release();
        while let Err(error) = client.call(Lane::Put, ECHO, "y").await {
            assert!(matches!(error, CallError::Full { .. }), "{error}");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn s5_1_4_draining_answers_what_was_read_and_then_closes() {
    run(async |scene| {
        let client = scene.client().await;
        let calls = join_all((0..10).map(|_| client.call(Lane::Put, HOLD, "held")));
        let drain = async {
            until(|| scene.seen.held.borrow().len() == 10).await;
            scene.drain.send(true).expect("serves");
            // Give the drain time to reach the stream before the answers do.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!scene.is_over.get(), "it waits for what is in flight");
            let error = client.call(Lane::Put, ECHO, "new").await.expect_err("it takes nothing new");
            assert!(error.is_retry_safe(), "{error}");
            scene.seen.release();
        };
        let (answers, ()) = tokio::join!(calls, drain);
        for answer in answers {
            assert_eq!(answer, Ok(Bytes::from_static(b"held")));
        }
        until(|| scene.is_over.get()).await;
        assert!(client.lost().is_some_and(|reason| reason.contains("draining")), "{:?}", client.lost());
        let late = Client::connect(scene.address(), "localhost", &scene.trust(), quick()).await;
        assert!(late.is_err(), "a drained endpoint takes no connection");
    });
}

fn quick() -> ClientOptions {
    let transport = TransportOptions { handshake_timeout: Duration::from_millis(300), ..TransportOptions::default() };
    ClientOptions { transport, ..ClientOptions::default() }
}

#[test]
fn s6_1_1_a_server_of_another_authority_is_refused() {
    run(async |scene| {
        let folder = tempfile::tempdir().expect("creates");
        let stranger = Authority::open_or_create(folder.path(), std::time::SystemTime::now()).expect("creates");
        let trust = Trust::Authority(stranger.certificate_path());
        let refused = Client::connect(scene.address(), "localhost", &trust, ClientOptions::default()).await;
        assert!(matches!(refused.err(), Some(ConnectError::Handshake(_))));
        let refused = Client::connect(scene.address(), "other.example", &scene.trust(), ClientOptions::default()).await;
        assert!(matches!(refused.err(), Some(ConnectError::Handshake(_))));
        let missing = Trust::Authority(folder.path().join("no-such.pem"));
        let refused = Client::connect(scene.address(), "localhost", &missing, ClientOptions::default()).await;
        assert!(matches!(refused.err(), Some(ConnectError::Tls(_))));
    });
}

#[test]
fn s6_1_1_unchecked_certificates_reach_loopback_and_nothing_else() {
    run(async |scene| {
        let client = Client::connect(scene.address(), "whatever", &Trust::LoopbackOnly, ClientOptions::default()).await;
        let client = client.expect("loopback is permitted");
        assert_eq!(client.call(Lane::Put, ECHO, "hi").await, Ok(Bytes::from_static(b"hi")));
        let address = "192.0.2.1:7".parse().expect("an address");
        let refused = Client::connect(address, "whatever", &Trust::LoopbackOnly, ClientOptions::default()).await;
        let Some(error @ ConnectError::NotLoopback { .. }) = refused.err() else { panic!("not refused") };
        assert!(error.to_string().contains("ca.pem"), "{error}");
    });
}

#[test]
fn s5_1_5_clients_above_the_bound_are_refused_and_room_is_found_again() {
    let endpoint = EndpointOptions { connections_max: 2, ..EndpointOptions::default() };
    run_with(endpoint, ServeOptions::default(), async |scene| {
        let first = scene.client().await;
        let _second = scene.client().await;
        let refused = Client::connect(scene.address(), "localhost", &scene.trust(), ClientOptions::default()).await;
        assert!(matches!(refused.err(), Some(ConnectError::Handshake(_))));
        first.close().await;
        until(|| scene.endpoint.connections() == 1).await;
        scene.client().await;
    });
}

#[test]
fn s6_1_12_under_load_a_client_proves_its_address_and_is_served() {
    let endpoint = EndpointOptions { handshakes_max: 0, ..EndpointOptions::default() };
    run_with(endpoint, ServeOptions::default(), async |scene| {
        let client = scene.client().await;
        assert_eq!(client.call(Lane::Put, ECHO, "hi").await, Ok(Bytes::from_static(b"hi")));
    });
}

#[test]
fn s5_1_4_several_endpoints_share_a_port_when_asked() {
    run(async |scene| {
        let bind = |reuse_port| {
            let options = EndpointOptions { reuse_port, ..EndpointOptions::default() };
            let tls = mesh_server(&leaf(), None).expect("configures");
            Endpoint::bind(scene.address(), tls, options)
        };
        let sibling = bind(true).expect("shares the port");
        assert_eq!(sibling.address(), scene.address());
        assert!(0 < sibling.buffers().receive_bytes && 0 < sibling.buffers().send_bytes);
        let error = bind(false).expect_err("does not share the port");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    });
}

fn leaf() -> Leaf {
    let folder = tempfile::tempdir().expect("creates");
    let now = std::time::SystemTime::now();
    let names = Names {
        dns: Vec::new(),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        identity: NodeIdentity::new("qmesh.local", "r1", "n1", 1, Roles::ALL).expect("named"),
    };
    Authority::open_or_create(folder.path(), now).expect("creates").node_leaf(&names, now).expect("signs")
}
