//! Bounds of a node that its tuning profile sets, each set low and met.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use qmesh::dag::vertex::Vertex;
use qmesh::ids::VertexId;
use serde_json::json;

use crate::house::Node;
use crate::http::{Answer, DAG, PATIENCE, call, connect, get, put, read_answer};

/// A node of one core with this profile.
fn tuned(folder: &Path, profile: &str) -> Node {
    let path = folder.join("tuning.toml");
    std::fs::write(&path, format!("[cpu]\ncores = 1\n{profile}")).unwrap();
    Node::start_in(&folder.join("data"), &["--tuning", path.to_str().unwrap()]).unwrap_or_else(|told| panic!("{told}"))
}

/// A figure of the scrape, summed over its labels.
fn figure(node: &Node, name: &str) -> f64 {
    sum(&get(node, "/metrics"), name)
}

fn sum(scrape: &Answer, name: &str) -> f64 {
    let text = scrape.text();
    let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    let values: Vec<f64> = samples.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "{name} is not in\n{text}");
    values.iter().sum()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Puts lines with missing parents allowed; the reasons of those that were refused, and what was said.
fn batch(node: &Node, lines: &[String]) -> Vec<(String, String)> {
    let path = format!("{DAG}/vertices:batch?allow_missing_parents=true");
    let answer = call(node, "POST", &path, &[], lines.join("\n").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answers = answer.lines();
    assert_eq!(answers.len(), lines.len());
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let errors = answers.iter().map(|line| &line["error"]).filter(|error| !error.is_null());
    errors.map(|error| (text(&error["reason"]), text(&error["detail"]))).collect()
}

#[test]
fn s2_2_7_vertices_whose_parents_never_come_are_bounded_and_the_bound_names_itself() {
    let folder = tempfile::tempdir().unwrap();
    let node = tuned(folder.path(), "[storage]\nstaged_mib_max = 1\n");
    let late = Vertex {
        namespace: "default".to_owned(),
        kind: "note".to_owned(),
        author: None,
        timestamp_ms: 5,
        parents: Vec::new(),
        labels: Default::default(),
        payload: b"late".to_vec(),
    };
    let orphan = |at: u64, parent: VertexId| {
        json!({ "kind": "note", "timestamp_ms": at, "parents": [parent.to_string()] }).to_string()
    };
    let lost = |at: u64| VertexId(*blake3::hash(&at.to_le_bytes()).as_bytes());
    assert_eq!(batch(&node, &(0..500).map(|at| orphan(at, late.id())).collect::<Vec<_>>()), []);
    let (mut refused, mut at) = (Vec::new(), 500);
    while refused.is_empty() {
        refused = batch(&node, &(at..at + 500).map(|at| orphan(at, lost(at))).collect::<Vec<_>>());
        at += 500;
        assert!(at < 10_000, "nothing bounds the vertices that wait");
    }
    for (reason, detail) in &refused {
        assert_eq!(reason, "limit_exceeded", "{detail}");
        assert!(detail.contains("storage.staged_mib_max") && detail.contains("1048576 bytes"), "{detail}");
    }
    // While a request is on its way it counts for more than it takes; one by one they come as far as there is room.
    let mut taken = at as usize - refused.len();
    until("all that was taken is followed", || figure(&node, "qmesh_dag_staged_vertices") as usize == taken);
    while batch(&node, &[orphan(at, lost(at))]).is_empty() {
        (at, taken) = (at + 1, taken + 1);
        until("one more", || figure(&node, "qmesh_dag_staged_vertices") as usize == taken);
    }
    assert!(figure(&node, "qmesh_dag_staged_bytes") <= f64::from(1 << 20));
    // Whoever stands in the graph is not concerned, and neither is whoever comes behind it.
    let root = put(&node, &json!({ "kind": "note", "timestamp_ms": 1, "payload": "root" }));
    put(&node, &json!({ "kind": "note", "timestamp_ms": 2, "parents": [root] }));
    // A vertex behind one that waits would wait too, allowed or not.
    let waits: VertexId = lost(0);
    let behind = json!({ "kind": "note", "timestamp_ms": 3, "parents": [waits.to_string()] }).to_string();
    assert_eq!(batch(&node, &[behind]).len(), 1);
    // The parents come, and with them room.
    put(&node, &json!({ "kind": "note", "timestamp_ms": 5, "payload": "late" }));
    until("those that waited for it are in the graph", || {
        figure(&node, "qmesh_dag_staged_vertices") as usize + 500 == taken
    });
    assert_eq!(batch(&node, &[orphan(at, lost(at))]), []);
    // What waits is in the log: a start with a smaller bound takes it, and takes no more.
    let waiting = figure(&node, "qmesh_dag_staged_vertices");
    assert_eq!(node.stop(), Some(0));
    let node = tuned(folder.path(), "[storage]\nstaged_mib_max = 1\n");
    assert_eq!(figure(&node, "qmesh_dag_staged_vertices"), waiting);
}

#[test]
fn s2_2_7_in_one_request_nobody_is_stored_behind_a_refused_one() {
    let node = Node::start();
    let vertex = |at: u64, parents: &[VertexId]| Vertex {
        namespace: "default".to_owned(),
        kind: "note".to_owned(),
        author: None,
        timestamp_ms: at,
        parents: parents.to_vec(),
        labels: Default::default(),
        payload: Vec::new(),
    };
    let orphan = vertex(1, &[VertexId([9; 32])]);
    let behind = vertex(2, &[orphan.id()]);
    let further = vertex(3, &[behind.id()]);
    let line = |vertex: &Vertex| {
        let parents: Vec<String> = vertex.parents.iter().map(VertexId::to_string).collect();
        json!({ "kind": "note", "timestamp_ms": vertex.timestamp_ms, "parents": parents }).to_string()
    };
    let body = [&orphan, &behind, &further].map(line).join("\n");
    let answer = call(&node, "POST", &format!("{DAG}/vertices:batch"), &[], body.as_bytes());
    for refused in answer.lines() {
        assert_eq!(refused["error"]["reason"], "missing_parents", "{refused}");
    }
    for vertex in [&orphan, &behind, &further] {
        get(&node, &format!("{DAG}/vertices/{}", vertex.id())).is_problem(404, "not_found");
    }
    assert_eq!(figure(&node, "qmesh_dag_staged_vertices"), 0.0);
}

#[test]
fn s5_1_5_a_connection_beyond_the_bound_is_told_so_and_room_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let node = tuned(folder.path(), "[net]\nhttp_connections_per_core = 2\n");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", node.http());
    let ask = |stream: &mut TcpStream| {
        stream.write_all(request.as_bytes()).unwrap();
        read_answer(stream, false)
    };
    let (mut first, mut second) = (connect(&node), connect(&node));
    assert_eq!((ask(&mut first).status, ask(&mut second).status), (200, 200));
    // One that speaks first and one that waits to be spoken to.
    for speaks in [true, false].into_iter().cycle().take(20) {
        let mut third = connect(&node);
        if speaks {
            third.write_all(request.as_bytes()).unwrap();
        }
        let refused = read_answer(&mut third, false);
        let problem = refused.is_problem(503, "overloaded");
        assert!(problem["detail"].as_str().unwrap().contains("HTTP connections"), "{problem}");
        assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), Some("close")));
    }
    let scrape = ask(&mut first);
    assert_eq!(sum(&scrape, "http_server_connections_refused_total"), 20.0);
    assert_eq!(sum(&scrape, "http_server_open_connections"), 2.0);
    drop(second);
    until("room for another", || {
        let mut third = connect(&node);
        ask(&mut third).status == 200
    });
    assert_eq!(ask(&mut first).status, 200, "whoever was here is not disturbed");
}

#[test]
fn s1_1_9_the_background_scrub_comes_by_its_timer_and_tells_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let profile = "[storage]\nsegment_mib = 8\nround_mib_max = 4\nscrub_interval_s = 1\nscrub_mib_s = 1000\n";
    let node = tuned(folder.path(), profile);
    // More than two segments, so that one is sealed.
    let payload = "x".repeat(1 << 20);
    for at in 0..20 {
        put(&node, &json!({ "kind": "note", "timestamp_ms": at, "payload": payload }));
    }
    until("a scrub that read a sealed segment", || 8e6 * 0.9 <= figure(&node, "qmesh_log_scrub_bytes_total"));
    assert!(1.0 <= figure(&node, "qmesh_log_scrubs_total"));
    assert_eq!(figure(&node, "qmesh_log_scrub_damages"), 0.0);
    let segment = node.data().join("log-00/00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[(1 << 20) + 7] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    until("a scrub that finds the damage", || 1.0 <= figure(&node, "qmesh_log_scrub_damages"));
    let scrubs = figure(&node, "qmesh_log_scrubs_total");
    until("a further scrub", || scrubs < figure(&node, "qmesh_log_scrubs_total"));
}
