//! Scenes between nodes of one cluster, and with those who are none.
//!
//! Promises: who is let in is known by its certificate; each refusal says why on both sides, and others are served
//! meanwhile. Does not: join (`joining.rs`) or replace credentials (`rotation.rs`).

mod support;

use std::{collections::HashSet, net::UdpSocket, sync::Arc, time::SystemTime};

use bytes::Bytes;
use qmesh_net::{
    identity::Role,
    io::endpoint::{ConnectError, TransportOptions, connect},
    peer::{Credentials, Distrust, Expect, Rejection},
    rpc::client::{CallError, Client, ClientOptions},
    tls::{Trust, mesh_client},
    wire::{CloseCode, Lane, PEER_ALPN},
};
use quinn::{ReadError, ReadToEndError, VarInt};
use support::{
    ECHO, WHO,
    mesh::{Cluster, DAY, Lines, Node, raw, run_mesh},
};

const EVERY: [Role; 6] = Role::ALL;

#[test]
fn s6_1_4_a_node_is_known_by_its_certificate() {
    run_mesh(async |lines: Lines| {
        let cluster = Cluster::new();
        let node = Node::start(cluster.credentials(1, &[Role::Control, Role::Storage]));
        let client = node.connect(&cluster.credentials(2, &[Role::Worker])).await.expect("is let in");
        let who = client.call(Lane::Control, WHO, "").await;
        assert_eq!(who, Ok(Bytes::from_static(b"spiffe://qmesh.test/region/eu/node/n2 2 worker")));
        let server = client.peer().expect("is known");
        assert_eq!(support::mesh::describe(server), "spiffe://qmesh.test/region/eu/node/n1 1 control,storage");
        assert_eq!(client.call(Lane::Put, ECHO, "hello").await, Ok(Bytes::from_static(b"hello")));
        assert_eq!(lines.take(), Vec::<String>::new());
    });
}

/// Lets `credentials` knock and expects to be refused by the node, with one line there.
async fn check_rejected(node: &Node, lines: &Lines, credentials: &Arc<Credentials>, expected: Rejection, line: &str) {
    let refused = node.connect(credentials).await.err().expect("is refused");
    let ConnectError::Rejected { rejection, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*rejection, expected, "{refused}");
    lines.expect(line).await;
}

#[test]
fn s6_1_4_a_node_refuses_who_has_no_fit_certificate_and_says_why() {
    run_mesh(async |lines: Lines| {
        let (cluster, other) = (Cluster::new(), Cluster::new());
        let own = cluster.credentials(1, &EVERY);
        let node = Node::start(own.clone());
        let now = SystemTime::now();
        let shown = |leaf| Credentials::new(&leaf, &cluster.trust()).expect("fits");
        let stranger = shown(other.leaf(2, &EVERY));
        check_rejected(&node, &lines, &stranger, Rejection::UnknownAuthority, "UnknownIssuer").await;
        let expired = shown(cluster.leaf_from(2, &EVERY, now - 100 * DAY));
        check_rejected(&node, &lines, &expired, Rejection::OutOfValidity, "expired").await;
        let early = shown(cluster.leaf_from(2, &EVERY, now + 2 * DAY));
        check_rejected(&node, &lines, &early, Rejection::OutOfValidity, "not valid yet").await;
        let revoked = cluster.credentials(2, &EVERY);
        own.replace_revoked(HashSet::from([revoked.own().serial])).expect("fits");
        check_rejected(&node, &lines, &revoked, Rejection::Revoked, "Revoked").await;
        // Meanwhile, and afterwards, a member is served.
        let client = node.connect(&cluster.credentials(3, &EVERY)).await.expect("is let in");
        assert_eq!(client.call(Lane::Put, ECHO, "hello").await, Ok(Bytes::from_static(b"hello")));
        assert_eq!(node.seen.requests.get(), 1, "nobody else reached the handler");
    });
}

#[test]
fn s6_1_4_a_node_refuses_to_speak_to_an_unfit_node_and_says_why() {
    async fn check(
        lines: &Lines,
        shown: Arc<Credentials>,
        asking: &Arc<Credentials>,
        expect: Expect,
        expected: impl FnOnce(&Distrust) -> bool,
    ) {
        let node = Node::start(shown);
        let refused = Client::connect_peer(asking, node.address(), expect, ClientOptions::default()).await;
        let refused = refused.err().expect("is refused");
        let ConnectError::Distrusted { distrust, .. } = &refused else { panic!("{refused}") };
        assert!(expected(distrust), "{refused}");
        lines.expect("").await;
    }
    run_mesh(async |lines: Lines| {
        let (cluster, other) = (Cluster::new(), Cluster::new());
        let asking = cluster.credentials(9, &EVERY);
        let now = SystemTime::now();
        let shown = |leaf| Credentials::new(&leaf, &cluster.trust()).expect("fits");
        let any = Expect::AnyMember;
        let stranger = shown(other.leaf(1, &EVERY));
        check(&lines, stranger, &asking, any, |found| matches!(found, Distrust::UnknownAuthority)).await;
        let expired = shown(cluster.leaf_from(1, &EVERY, now - 100 * DAY));
        check(&lines, expired, &asking, any, |found| matches!(found, Distrust::Expired { .. })).await;
        let early = shown(cluster.leaf_from(1, &EVERY, now + 2 * DAY));
        check(&lines, early, &asking, any, |found| matches!(found, Distrust::NotYetValid { .. })).await;
        let wrong = cluster.credentials(1, &EVERY);
        check(&lines, wrong, &asking, Expect::Node(7), |found| {
            matches!(found, Distrust::OtherNode { found: 1, expected: 7 })
        })
        .await;
        let wrong = cluster.credentials(1, &[Role::Storage]);
        check(&lines, wrong, &asking, Expect::Role(Role::Control), |found| {
            matches!(found, Distrust::MissingRole { wanted: Role::Control, .. })
        })
        .await;
        let revoked = cluster.credentials(1, &EVERY);
        let serial = revoked.own().serial;
        asking.replace_revoked(HashSet::from([serial])).expect("fits");
        check(&lines, revoked, &asking, any, |found| *found == Distrust::Revoked { serial }).await;
        let right = Node::start(cluster.credentials(1, &[Role::Control]));
        for expect in [any, Expect::Node(1), Expect::Role(Role::Control)] {
            let options = ClientOptions::default();
            Client::connect_peer(&asking, right.address(), expect, options).await.expect("is believed");
        }
    });
}

#[test]
fn s6_1_4_without_a_certificate_or_the_protocol_nobody_is_let_in() {
    run_mesh(async |lines: Lines| {
        let cluster = Cluster::new();
        let node = Node::start(cluster.credentials(1, &EVERY));
        let transport = TransportOptions::default();
        // The protocol of nodes without a certificate: TLS goes through, and then the node looks.
        let (_endpoint, connection) = raw(&node, PEER_ALPN, None).await;
        let closed = connection.closed().await;
        assert_eq!(Rejection::of(&closed), Some(Rejection::CertificateMissing), "{closed}");
        lines.expect("no client certificate").await;
        // The protocol of clients.
        let tls = mesh_client(&Trust::LoopbackOnly, None).expect("configures");
        let refused = connect(node.address(), "n1", &Trust::LoopbackOnly, tls, &transport).await;
        let Some(ConnectError::Handshake(reason)) = refused.err() else { panic!("is let in") };
        assert_eq!(Rejection::of(&reason), Some(Rejection::OtherProtocol), "{reason}");
        lines.expect("protocol").await;
        assert_eq!(node.seen.requests.get(), 0);
    });
}

#[test]
fn s6_1_12_garbage_hurts_nobody() {
    run_mesh(async |lines: Lines| {
        let cluster = Cluster::new();
        let node = Node::start(cluster.credentials(1, &EVERY));
        let client = node.connect(&cluster.credentials(2, &EVERY)).await.expect("is let in");
        // Datagrams that are no QUIC, or only look like it, are dropped without a word.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        for length in [1, 20, 100, 1200, 1452] {
            for first in [0x00, 0x47, 0x80, 0xc0, 0xff] {
                let mut datagram = vec![first; length];
                datagram[length / 2..].fill(0x5a);
                socket.send_to(&datagram, node.address()).expect("sends");
            }
        }
        socket.send_to(b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n", node.address()).expect("sends");
        assert_eq!(client.call(Lane::Put, ECHO, "served").await, Ok(Bytes::from_static(b"served")));
        assert_eq!(lines.take(), Vec::<String>::new());
        // A member that speaks nonsense loses its stream, and is named.
        let (_endpoint, connection) = raw(&node, PEER_ALPN, Some(cluster.leaf(3, &EVERY))).await;
        let (mut send, mut receive) = connection.open_bi().await.expect("opens");
        send.write_all(&[0xff; 64]).await.expect("writes");
        let code = VarInt::from_u32(CloseCode::BadHead as u32);
        assert_eq!(receive.read_to_end(100).await, Err(ReadToEndError::Read(ReadError::Reset(code))));
        lines.expect("node=\"n3\" reason=stream head of version 255").await;
        assert_eq!(client.call(Lane::Put, ECHO, "served").await, Ok(Bytes::from_static(b"served")));
    });
}

#[test]
fn s6_1_4_a_revoked_node_loses_its_connections_and_no_other_does() {
    run_mesh(async |lines: Lines| {
        let cluster = Cluster::new();
        let (own, bad, good) =
            (cluster.credentials(1, &EVERY), cluster.credentials(2, &EVERY), cluster.credentials(3, &EVERY));
        let node = Node::start(own.clone());
        let (bad_client, good_client) =
            (node.connect(&bad).await.expect("is let in"), node.connect(&good).await.expect("is let in"));
        own.replace_revoked(HashSet::from([bad.own().serial])).expect("fits");
        support::until(|| bad_client.lost().is_some()).await;
        let lost = bad_client.lost().unwrap_or_default();
        assert!(lost.contains("revoked; it has to join again"), "{lost}");
        lines.expect("revoked").await;
        let error = bad_client.call(Lane::Put, ECHO, "more").await.expect_err("is lost");
        assert!(matches!(error, CallError::Lost { .. }), "{error}");
        assert_eq!(good_client.call(Lane::Put, ECHO, "served").await, Ok(Bytes::from_static(b"served")));
        // The other direction: who connected hears that the node it speaks to is revoked.
        good.replace_revoked(HashSet::from([own.own().serial])).expect("fits");
        support::until(|| good_client.lost().is_some()).await;
        lines.expect("revoked").await;
        assert!(node.connect(&good).await.is_err());
    });
}
