//! Scenes with those who want to become a node, and with those who only say so.
//!
//! Promises: who knows the authority's fingerprint can ask to join, and nothing else; each refusal says why.
//! Does not: check tokens, whose meaning is the handler's.

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use qmesh_net::{
    identity::{LEAF_LIFE, Role, SigningRequest},
    io::endpoint::ConnectError,
    peer::{Credentials, Distrust, Expect, JoinOptions, Rejection},
    rpc::client::{CallError, Client, ClientOptions},
    wire::{JOIN_ALPN, Lane, OPERATION_JOIN},
};
use support::{
    ECHO, WHO,
    mesh::{Cluster, DAY, Lines, Node, raw, run_mesh},
};

async fn join(node: &Node, cluster: &Cluster) -> Result<qmesh_net::peer::Pinned, ConnectError> {
    Client::connect_pinned(node.address(), cluster.authority.fingerprint(), ClientOptions::default()).await
}

#[test]
fn s6_1_4_a_stranger_joins_by_the_fingerprint_and_is_a_member_then() {
    run_mesh(async |lines: Lines| {
        let cluster = Cluster::new();
        let node = Node::start(cluster.credentials(1, &[Role::Control]));
        let pinned = join(&node, &cluster).await.expect("finds the authority");
        assert_eq!(pinned.authority, *cluster.authority.certificate());
        let request = SigningRequest::new().expect("makes a key");
        let answer = pinned.client.call(Lane::Control, OPERATION_JOIN, request.der().to_vec()).await;
        assert_eq!(answer, Ok(Bytes::from([b"joined with ", request.der()].concat())));
        assert_eq!(node.joins.requests.get(), 1);
        // What the handler would do with the request, and the joiner with the answer.
        let names = Cluster::names(2, &[Role::Worker]);
        let issued = cluster.authority.sign_request(request.der(), &names, LEAF_LIFE, std::time::SystemTime::now());
        let leaf = request.into_leaf(issued.expect("signs").chain).expect("fits");
        let credentials = Credentials::new(&leaf, &[pinned.authority]).expect("fits");
        let client = node.connect(&credentials).await.expect("is let in");
        let who = client.call(Lane::Control, WHO, "").await;
        assert_eq!(who, Ok(Bytes::from_static(b"spiffe://qmesh.test/region/eu/node/n2 2 worker")));
        assert_eq!(lines.take(), Vec::<String>::new());
    });
}

#[test]
fn s6_1_4_a_joiner_believes_only_the_control_nodes_of_the_pinned_authority() {
    async fn check(shown: Arc<Credentials>, cluster: &Cluster, expected: impl FnOnce(&Distrust) -> bool) {
        let node = Node::start(shown);
        let refused = join(&node, cluster).await.err().expect("is not believed");
        let ConnectError::Distrusted { distrust, .. } = &refused else { panic!("{refused}") };
        assert!(expected(distrust), "{refused}");
        assert_eq!(node.joins.requests.get(), 0);
    }
    run_mesh(async |_lines: Lines| {
        let (cluster, other) = (Cluster::new(), Cluster::new());
        let control = [Role::Control];
        let pinned = cluster.authority.fingerprint();
        let is_other = |found: &Distrust| *found == Distrust::OtherFingerprint { expected: pinned };
        check(other.credentials(1, &control), &cluster, is_other).await;
        // The authority is public: another's leaf beside it is no proof.
        let mut leaf = other.leaf(1, &control);
        leaf.chain[1] = cluster.authority.certificate().clone();
        check(Credentials::new(&leaf, &other.trust()).expect("fits"), &cluster, is_other).await;
        let mut leaf = other.leaf(1, &control);
        leaf.chain.push(cluster.authority.certificate().clone());
        check(Credentials::new(&leaf, &other.trust()).expect("fits"), &cluster, is_other).await;
        let worker = cluster.credentials(1, &[Role::Worker, Role::Storage]);
        check(worker, &cluster, |found| matches!(found, Distrust::MissingRole { wanted: Role::Control, .. })).await;
        let expired = cluster.leaf_from(1, &control, std::time::SystemTime::now() - 100 * DAY);
        let expired = Credentials::new(&expired, &cluster.trust()).expect("fits");
        check(expired, &cluster, |found| matches!(found, Distrust::Expired { .. })).await;
    });
}

#[test]
fn s6_1_4_a_joining_connection_can_do_nothing_but_join() {
    run_mesh(async |lines: Lines| {
        let cluster = Cluster::new();
        let node = Node::start(cluster.credentials(1, &[Role::Control]));
        for operation in (2..40).chain([u16::MAX]) {
            let pinned = join(&node, &cluster).await.expect("finds the authority");
            let error = pinned.client.call(Lane::Control, operation, "please").await.expect_err("is refused");
            assert!(matches!(&error, CallError::Lost { detail, .. } if detail.contains("may only join")), "{error}");
        }
        lines.expect("reason=this connection may only join").await;
        // Neither by a stream beside an honest one, nor with a member's certificate under the joiners' protocol.
        let pinned = join(&node, &cluster).await.expect("finds the authority");
        let (honest, greedy) = tokio::join!(
            pinned.client.call(Lane::Control, OPERATION_JOIN, "token"),
            pinned.client.call(Lane::Bulk, ECHO + 1, "data")
        );
        assert!(greedy.is_err(), "{greedy:?}, {honest:?}");
        let leaf = cluster.leaf(2, &Role::ALL);
        let (_endpoint, connection) = raw(&node, JOIN_ALPN, Some(leaf)).await;
        let (mut send, mut receive) = connection.open_bi().await.expect("opens");
        send.write_all(&qmesh_net::wire::StreamHead::rpc(Lane::Control).encode()).await.expect("writes");
        send.write_all(&support::request(1, WHO, b"")).await.expect("writes");
        assert!(receive.read_to_end(1000).await.is_err());
        assert_eq!(Rejection::of(&connection.closed().await), Some(Rejection::JoinOnly));
        assert_eq!(node.seen.requests.get(), 0, "no operation of members was reached");
    });
}

#[test]
fn s6_1_12_joining_is_bounded_in_attempts_bytes_seats_and_time() {
    run_mesh(async |lines: Lines| {
        let cluster = Cluster::new();
        let own = cluster.credentials(1, &[Role::Control]);
        let options = JoinOptions { joiners_max: 2, attempts_per_connection: 3, ..JoinOptions::default() };
        let node = Node::start_with(own.clone(), Some(options.clone()));
        let first = join(&node, &cluster).await.expect("finds a seat");
        for _ in 0..3 {
            assert!(first.client.call(Lane::Control, OPERATION_JOIN, "guess").await.is_ok());
        }
        let error = first.client.call(Lane::Control, OPERATION_JOIN, "guess").await.expect_err("is refused");
        assert!(matches!(&error, CallError::Lost { detail, .. } if detail.contains("used up")), "{error}");
        lines.expect("the attempts to join are used up").await;
        assert_eq!(node.joins.requests.get(), 3);
        // Bytes: the largest body passes, one byte more does not reach the handler.
        let second = join(&node, &cluster).await.expect("finds a seat");
        let largest = vec![1; options.request_bytes_max];
        assert!(second.client.call(Lane::Control, OPERATION_JOIN, largest).await.is_ok());
        let larger = vec![1; options.request_bytes_max + 1];
        assert!(second.client.call(Lane::Control, OPERATION_JOIN, larger).await.is_err());
        assert_eq!(node.joins.requests.get(), 4);
        // Seats.
        let third = join(&node, &cluster).await.expect("finds a seat");
        let refused = join(&node, &cluster).await.err().expect("no seat is left");
        let full = matches!(&refused, ConnectError::Rejected { rejection: Rejection::JoinersFull, .. });
        assert!(full, "{refused}");
        lines.expect("2 nodes are joining already").await;
        second.client.close().await;
        support::until(|| node.endpoint.connections() == 1).await;
        drop((join(&node, &cluster).await.expect("the seat is free again"), third));
        // Time.
        let options = JoinOptions { connection_timeout: Duration::from_millis(50), ..JoinOptions::default() };
        let hasty = Node::start_with(own.clone(), Some(options));
        let slow = join(&hasty, &cluster).await.expect("finds a seat");
        support::until(|| slow.client.lost().is_some()).await;
        // Nobody.
        let closed = Node::start_with(own.clone(), None);
        let refused = join(&closed, &cluster).await.err().expect("nobody joins there");
        let nobody = matches!(&refused, ConnectError::Rejected { rejection: Rejection::JoinsNobody, .. });
        assert!(nobody, "{refused}");
        lines.expect("nobody can join here").await;
        // Members are served all the while.
        let options = ClientOptions::default();
        let member = cluster.credentials(2, &[Role::Worker]);
        Client::connect_peer(&member, node.address(), Expect::Node(1), options).await.expect("is let in");
    });
}
