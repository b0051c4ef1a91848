//! Scenes in which keys, trust and authorities are replaced under load.
//!
//! Promises: no call fails by it, on connections that were open before, during or after; who is no longer trusted is not
//! let in again. Does not: renew by itself.

mod support;

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use qmesh_net::{
    identity::{LEAF_LIFE, Role},
    peer::{Credentials, CredentialsError},
    rpc::client::Client,
    wire::Lane,
};
use support::{
    ECHO, ECHO_LATER, HOLD,
    mesh::{Cluster, DAY, Lines, Node, run_mesh},
};

const EVERY: [Role; 6] = Role::ALL;
/// Calls that a caller has in flight.
const CALLS_IN_FLIGHT: usize = 16;
/// New connections that are made while the keys change; each is a handshake.
const CONNECTIONS: usize = 40;

/// Calls until `over`, and counts.
async fn call_until(client: &Client, over: &Cell<bool>, calls: &Cell<usize>) {
    while !over.get() {
        let batch = (0..CALLS_IN_FLIGHT).map(|number| {
            let operation = if number % 2 == 0 { ECHO } else { ECHO_LATER };
            client.call(Lane::ALL[number % Lane::ALL.len()], operation, vec![number as u8; 100 * number])
        });
        for (number, answer) in futures_util::future::join_all(batch).await.into_iter().enumerate() {
            assert_eq!(answer, Ok(Bytes::from(vec![number as u8; 100 * number])), "a call failed");
            calls.set(calls.get() + 1);
        }
    }
}

#[test]
fn s6_1_2_leaves_and_authorities_are_replaced_under_load_without_a_failed_call() {
    run_mesh(async |lines: Lines| {
        let (old, new) = (Cluster::new(), Cluster::new());
        let (server, client) = (old.credentials(1, &EVERY), old.credentials(2, &EVERY));
        let node = Node::start(server.clone());
        let first = node.connect(&client).await.expect("is let in");
        let (over, calls) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let caller = {
            let (first, over, calls) = (first.clone(), over.clone(), calls.clone());
            tokio::task::spawn_local(async move { call_until(&first, &over, &calls).await })
        };
        let held = first.call(Lane::Put, HOLD, "across it all");
        let change = async {
            support::until(|| !node.seen.held.borrow().is_empty()).await;
            let both = [old.trust(), new.trust()].concat();
            let mut serials = vec![first.peer().expect("is a node").serial];
            for round in 0..CONNECTIONS {
                // The order of a real change of authority, with new leaves of the authority of the time at each step.
                let authority = if round < CONNECTIONS / 2 { &old } else { &new };
                match round {
                    10 => [&server, &client].map(|side| side.replace_trust(&both).expect("fits")),
                    30 => [&server, &client].map(|side| side.replace_trust(&new.trust()).expect("fits")),
                    _ => [(), ()],
                };
                server.replace_leaf(&authority.leaf(1, &EVERY)).expect("fits");
                client.replace_leaf(&authority.leaf(2, &EVERY)).expect("fits");
                let fresh = node.connect(&client).await.expect("is let in");
                let answer = fresh.call(Lane::Put, ECHO, "fresh").await;
                assert_eq!(answer, Ok(Bytes::from_static(b"fresh")), "round {round}");
                serials.push(fresh.peer().expect("is a node").serial);
            }
            serials.sort_unstable();
            serials.dedup();
            assert_eq!(serials.len(), CONNECTIONS + 1, "each handshake saw the leaf of its moment");
            // Who still has a leaf of the old authority, and trusts both, is not let in any more.
            let late = Credentials::new(&old.leaf(3, &EVERY), &both).expect("fits");
            assert!(node.connect(&late).await.is_err());
            lines.expect("UnknownIssuer").await;
            node.seen.release();
        };
        let (held, ()) = tokio::join!(held, change);
        assert_eq!(held, Ok(Bytes::from_static(b"across it all")), "a request in flight is unharmed");
        over.set(true);
        caller.await.expect("no call failed");
        assert!(500 < calls.get(), "{} calls went through meanwhile", calls.get());
        assert_eq!(first.lost(), None, "the first connection lives on");
    });
}

#[test]
fn s6_1_2_an_unfit_replacement_leaves_what_was() {
    run_mesh(async |_lines: Lines| {
        let cluster = Cluster::new();
        let own = cluster.credentials(1, &[Role::Storage]);
        let before = own.own();
        let other = own.replace_leaf(&cluster.leaf(2, &EVERY)).expect_err("is another node");
        assert!(matches!(other, CredentialsError::OtherNode { .. }), "{other}");
        let mut mixed = cluster.leaf(1, &EVERY);
        mixed.key = cluster.leaf(1, &EVERY).key;
        let mixed = own.replace_leaf(&mixed).expect_err("is another key");
        assert!(matches!(mixed, CredentialsError::Key(_)), "{mixed}");
        let none = own.replace_trust(&[]).expect_err("trusts nobody");
        assert!(matches!(none, CredentialsError::Authorities { count: 0 }), "{none}");
        let garbage = own.replace_trust(&[b"garbage".to_vec().into()]).expect_err("is no certificate");
        assert!(matches!(garbage, CredentialsError::Authority(_)), "{garbage}");
        assert_eq!(own.own(), before);
        let node = Node::start(own.clone());
        node.connect(&cluster.credentials(2, &EVERY)).await.expect("what was there still works");
        // New roles of the same node are fine, and seen at the next connection.
        own.replace_leaf(&cluster.leaf(1, &EVERY)).expect("fits");
        let client = node.connect(&cluster.credentials(2, &EVERY)).await.expect("is let in");
        assert_eq!(client.peer().map(|peer| peer.identity.roles().iter().count()), Some(EVERY.len()));
    });
}

#[test]
fn s6_1_2_a_node_knows_when_to_renew() {
    let cluster = Cluster::new();
    let own: Arc<Credentials> = cluster.credentials(1, &EVERY);
    let now = SystemTime::now();
    assert!(!own.renew_due(now));
    assert!(!own.renew_due(now + 59 * DAY));
    assert!(own.renew_due(now + LEAF_LIFE * 2 / 3 + Duration::from_secs(3_600)));
}
