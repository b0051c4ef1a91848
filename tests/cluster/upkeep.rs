//! What happens to members in the course of a cluster's life: they fall silent, and are restarted in turn under load.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::house::{Node, QMESH};
use crate::stand::{Cluster, PATIENCE, alone, eventually, grows, pause, text};

/// Within which a dead member of a small cluster is down for all, by the rhythm of the gossip; see `membership::Timing`.
const DOWN_WITHIN: Duration = Duration::from_secs(10);
/// What a machine that is busy with other things may add.
const SLACK: Duration = Duration::from_secs(20);

/// How a member is, as `node` has heard.
fn health(node: &Node, name: &str) -> String {
    let told = node.ok(&["cluster", "members", "-o", "ndjson"]);
    let mut rows = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let row = rows.rfind(|row| row["name"] == name);
    row.map_or_else(String::new, |row| row["health"].as_str().unwrap_or_default().to_owned())
}

/// Waits for a member's health; the words that were seen on the way, in order, and the time it took.
fn turns(node: &Node, name: &str, wanted: &str) -> (Vec<String>, Duration) {
    let (started, mut seen) = (Instant::now(), Vec::<String>::new());
    while seen.last().is_none_or(|last| last != wanted) {
        assert!(started.elapsed() < PATIENCE, "{name} is {seen:?} for {PATIENCE:?}, not {wanted}");
        let health = health(node, name);
        if seen.last() != Some(&health) {
            seen.push(health);
        }
        pause();
    }
    (seen, started.elapsed())
}

#[test]
fn s5_1_9_a_silent_member_is_suspected_then_down_and_healthy_when_it_is_back() {
    let _alone = alone();
    let mut cluster = Cluster::of(3);
    for name in ["n1", "n2", "n3"] {
        turns(cluster.node(1), name, "healthy");
    }
    let told = cluster.node(1).ok(&["cluster", "members", "-o", "ndjson"]);
    assert!(told.contains("\"cpu_permille\"") && told.contains(env!("CARGO_PKG_VERSION")), "{told}");
    // Paused: it says nothing and is still there.
    cluster.node(3).signal("-STOP");
    let (seen, took) = turns(cluster.node(1), "n3", "down");
    // It may be suspected and believed again on a busy machine before that.
    assert!(seen.ends_with(&["suspect".to_owned(), "down".to_owned()]), "suspicion comes before the verdict: {seen:?}");
    assert!(took <= DOWN_WITHIN + SLACK, "down after {took:?}");
    // Suspicion removes nothing: it is a member, and a voter.
    let members = cluster.node(1).ok(&["cluster", "members", "-o", "ndjson"]);
    assert!(
        members.lines().filter(|line| line.contains("\"n3\"")).all(|line| line.contains("\"active\"")),
        "{members}"
    );
    cluster.node(3).signal("-CONT");
    let (_, back) = turns(cluster.node(1), "n3", "healthy");
    turns(cluster.node(3), "n1", "healthy");
    // Killed, and started again as another life of the same member.
    cluster.members[2].kill();
    let (_, killed) = turns(cluster.node(1), "n3", "down");
    assert!(killed <= DOWN_WITHIN + SLACK, "down after {killed:?}");
    cluster.members[2].start();
    let (_, again) = turns(cluster.node(1), "n3", "healthy");
    // Who says good-bye is not suspected first.
    let stopped = cluster.members[2].node.take().unwrap();
    assert_eq!(stopped.stop(), Some(0));
    let (seen, _) = turns(cluster.node(1), "n3", "down");
    println!(
        "paused: down after {took:?}, healthy {back:?} after it went on; killed: down after {killed:?}, healthy {again:?} after its start; stopped: {seen:?}"
    );
}

/// A put after the other, until one fails: then the process has ended.
struct OneByOne(Vec<Child>);

impl OneByOne {
    fn on(node: &Node, notes: &Path, count: usize) -> Self {
        let start = |_| {
            Command::new(QMESH)
                .args(["bench", "acknowledged", "--seconds", "600", "--in-flight", "1", "--append", &text(notes)])
                .env("QMESH_NODE", node.quic().to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self((0..count).map(start).collect())
    }

    /// Panics when a request has failed since the start.
    fn none_failed(&mut self, when: &str) {
        for child in &mut self.0 {
            assert!(child.try_wait().unwrap().is_none(), "a request failed while {when}");
        }
    }
}

impl Drop for OneByOne {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn s1_2_9_members_are_restarted_in_turn_and_no_request_fails() {
    let _alone = alone();
    let mut cluster = Cluster::of(3);
    let notes = cluster.notes();
    fs::write(&notes, "").unwrap();
    for turn in 0..3 {
        let (own, witness) = (turn, (turn + 1) % 3);
        let name = cluster.members[own].name.clone();
        let mut load = OneByOne::on(cluster.members[witness].node(), &notes, 4);
        grows(&notes, 65 * 32);
        cluster.members[witness].node().ok(&["cluster", "drain", &name]);
        let number = own as u64 + 1;
        eventually(cluster.members[witness].node(), |status| {
            status["groups"].as_array().unwrap().iter().all(|group| group["primary"] != number)
        });
        assert_eq!(cluster.members[own].node.take().unwrap().stop(), Some(0));
        load.none_failed(&format!("{name} was drained and stopped"));
        grows(&notes, 65 * 32);
        cluster.members[own].start();
        cluster.members[witness].node().ok(&["cluster", "undrain", &name]);
        cluster.settles(3);
        load.none_failed(&format!("{name} came back"));
        drop(load);
    }
    for member in &cluster.members {
        let told = member.node().ok(&["bench", "acknowledged", "--verify", &text(&notes)]);
        assert!(told.ends_with(", 0 lost"), "{}: {told}", member.name);
    }
}

/// The serial that the cluster knows of each member, from a renewal that was only tried.
fn serials(node: &Node) -> Vec<String> {
    let told = node.ok(&["cluster", "renew", "--all", "--dry-run", "-o", "ndjson"]);
    let rows = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| row["now"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn s6_1_2_certificates_of_all_members_are_renewed_under_load_and_no_request_fails() {
    let _alone = alone();
    let mut cluster = Cluster::of(3);
    let notes = cluster.notes();
    fs::write(&notes, "").unwrap();
    let mut seen = serials(cluster.node(1));
    let mut loads: Vec<OneByOne> = (1..=3).map(|number| OneByOne::on(cluster.node(number), &notes, 2)).collect();
    for round in 0..3 {
        grows(&notes, 65 * 32);
        let told = cluster.node(1 + round).ok(&["cluster", "renew", "--all", "-o", "ndjson"]);
        assert_eq!(told.lines().count(), 3, "{told}");
        let now = serials(cluster.node(1));
        assert!(now.iter().all(|serial| !seen.contains(serial)), "a member kept its certificate: {now:?}");
        seen.extend(now);
        grows(&notes, 65 * 32);
        loads.iter_mut().for_each(|load| load.none_failed("certificates were renewed"));
    }
    drop(loads);
    assert_eq!(seen.len(), 12);
    // Whoever starts anew speaks with the new one, and is believed by those that have theirs.
    for member in 0..3 {
        cluster.members[member].kill();
        cluster.members[member].start();
        cluster.settles(3);
    }
    // One of a member that is away comes when it is back; who waits for it is told.
    cluster.members[2].kill();
    let away = cluster.node(1).run(&["cluster", "renew", "n3", "--timeout", "1s"]);
    crate::stand::refused(&away, 8, "when it is up");
    cluster.members[2].start();
    cluster.node(1).ok(&["cluster", "renew", "n3", "--timeout", "60s"]);
    assert!(serials(cluster.node(1)).iter().filter(|serial| !seen.contains(serial)).count() == 1);
    crate::stand::refused(&cluster.node(1).run(&["cluster", "renew", "n9"]), 5, "no member n9");
    for member in &cluster.members {
        let told = member.node().ok(&["bench", "acknowledged", "--verify", &text(&notes)]);
        assert!(told.ends_with(", 0 lost"), "{}: {told}", member.name);
    }
}

#[test]
fn s1_1_9_a_cluster_has_as_many_shards_as_it_was_made_with() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let spawn = |name: &str| {
        let mut command = Command::new(QMESH);
        command.env("QMESH_LOG", "warn,openraft=off");
        let at = ["--tuning", "laptop", "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0"];
        Node::spawn(command, &folder.path().join(name), &at).unwrap_or_else(|error| panic!("{error}"))
    };
    let place = |name: &str, mesh: &str| {
        let data = text(&folder.path().join(name));
        ["--data", &data, "--name", name, "--mesh", mesh].map(str::to_owned).to_vec()
    };
    let made = |command: &[&str], place: &[String]| {
        let words = command.iter().map(|&word| word.to_owned()).chain(place.iter().cloned()).collect::<Vec<_>>();
        crate::stand::qmesh(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mesh = crate::stand::free_port().to_string();
    crate::stand::refused(&made(&["init", "--shards", "65"], &place("a", &mesh)), 2, "65");
    crate::stand::succeeds(&made(&["init", "--shards", "24"], &place("a", &mesh)));
    let first = spawn("a");
    let token = first.ok(&["token", "issue"]);
    let other = crate::stand::free_port().to_string();
    crate::stand::succeeds(&made(&["join", &mesh, "--token", &token], &place("b", &other)));
    let second = spawn("b");
    for node in [&first, &second] {
        eventually(node, |status| {
            let groups = status["groups"].as_array().unwrap();
            groups.len() == 25 && groups.iter().all(|group| !group["primary"].is_null())
        });
        let slots = node.ok(&["cluster", "slots", "-o", "ndjson"]);
        assert_eq!(slots.lines().count(), 24, "{slots}");
    }
    let id = second.ok_with_input(&["dag", "put", "--kind", "note", "-"], b"in one of 24");
    assert_eq!(first.ok(&["dag", "get", &id, "--payload"]), "in one of 24");
}
