//! Reads that replicas answer by themselves, with the age that they tell.

use std::time::{Duration, Instant};

use crate::house::{Node, parse_http};
use crate::stand::{Cluster, PATIENCE, alone, eventually, pause, refused};

/// An answer and how new it says to be.
struct Read {
    status: u16,
    answered: String,
    staleness_ms: Option<u64>,
}

/// Reads over REST; the headers tell.
fn read(node: &Node, path: &str, consistency: &str) -> Read {
    let request = format!(
        "GET /api/v1/dag/{path}?consistency={consistency} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    );
    let answer = node.raw_http(request.as_bytes(), Duration::from_secs(20));
    let text = String::from_utf8_lossy(&answer).into_owned();
    let header = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    };
    Read {
        status: parse_http(&answer).0,
        answered: header("qmesh-answered"),
        staleness_ms: header("qmesh-staleness-ms").parse().ok(),
    }
}

/// Reads by replicas since start.
fn reads_by(node: &Node, answered: &str) -> f64 {
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let (_, text) = parse_http(&node.raw_http(request, Duration::from_secs(20)));
    let lines = text.lines().filter(|line| line.starts_with("qmesh_reads_total{") && line.contains(answered));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn s1_2_6_a_replica_answers_at_the_age_that_is_asked_for_and_says_how_old_it_is() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let first = cluster.node(1);
    for shard in ["0", "1", "2", "3"] {
        first.ok(&["cluster", "promote", shard, "n1"]);
    }
    let all_at_first = |status: &serde_json::Value| {
        let groups = status["groups"].as_array().unwrap();
        groups.iter().filter(|group| group["group"] != "control").all(|group| group["primary"] == 1)
    };
    eventually(first, all_at_first);
    let id = first.ok_with_input(&["dag", "put", "--kind", "note", "-"], b"hello");
    first.ok(&["ref", "set", "main", &id]);
    cluster.settles(3);
    let follower = cluster.node(2);
    // Young enough is answered here, and says how young: a heartbeat or two.
    let before = (reads_by(follower, "replica"), reads_by(follower, "primary"));
    let until = Instant::now() + PATIENCE;
    let read_young = loop {
        let young = read(follower, "refs/main", "bounded:2000");
        if young.answered == "replica" {
            break young;
        }
        assert!(Instant::now() < until, "a follower of a cluster that is well is never young");
        pause();
    };
    assert_eq!(read_young.status, 200);
    assert!(read_young.staleness_ms.is_some_and(|age| age <= 2000), "{:?}", read_young.staleness_ms);
    // The bound that no replica keeps is asked of the primary, and so is what is not said.
    for consistency in ["bounded:0", "linearizable", ""] {
        let now = read(follower, "refs/main", consistency);
        assert_eq!((now.status, &*now.answered, now.staleness_ms), (200, "primary", Some(0)), "{consistency:?}");
    }
    // What is not here is answered with an age too; a vertex that is here has none.
    let nowhere = format!("vertices/{}", "0".repeat(64));
    let absent = read(follower, &nowhere, "any");
    assert_eq!((absent.status, &*absent.answered), (404, "replica"));
    assert_eq!(read(follower, &nowhere, "linearizable").answered, "primary");
    assert_eq!(follower.ok(&["dag", "get", &id, "--payload", "--consistency", "any"]), "hello");
    refused(&follower.run(&["dag", "get", &"0".repeat(64), "--consistency", "any"]), 5, "may be old");
    refused(&follower.run(&["ref", "get", "main", "--consistency", "soon"]), 2, "bounded:");
    let json = follower.ok(&["ref", "get", "main", "--consistency", "any", "-o", "json"]);
    assert!(json.contains("\"answered\": \"replica\"") && json.contains("\"staleness_ms\""), "{json}");
    assert_eq!(follower.ok(&["ref", "get", "main", "--consistency", "any"]), id);
    assert!(before.0 + 3.0 <= reads_by(follower, "replica") && before.1 + 4.0 <= reads_by(follower, "primary"));
    // At the primary the same words are answered by the primary.
    assert_eq!(read(first, "refs/main", "any").answered, "primary");

    // A primary that says nothing: the followers answer, and say that they grow older, also when there is nobody to ask.
    first.signal("-STOP");
    cluster.node(3).signal("-STOP");
    let old = read(follower, "refs/main", "any");
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_millis(700) {
        pause();
    }
    let older = read(follower, "refs/main", "any");
    let waited = stopped.elapsed().as_millis() as u64;
    assert_eq!((old.status, &*old.answered, older.status, &*older.answered), (200, "replica", 200, "replica"));
    let (old_ms, older_ms) = (old.staleness_ms.unwrap(), older.staleness_ms.unwrap());
    assert!(old_ms + 600 <= older_ms && older_ms <= old_ms + waited + 1000, "{old_ms}, {waited} ms later {older_ms}");
    assert_eq!(follower.ok(&["ref", "list", "--consistency", "any"]).lines().count(), 2);
    first.signal("-CONT");
    cluster.node(3).signal("-CONT");
    cluster.settles(3);
}
