//! Clusters of real nodes: several processes on this machine, joined by tokens, killed, paused and restarted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

mod house;
#[path = "cluster/reads.rs"]
mod reads;
#[path = "cluster/replaced.rs"]
mod replaced;
#[path = "cluster/stand.rs"]
mod stand;
#[path = "cluster/upkeep.rs"]
mod upkeep;

use std::fs;
use std::time::Duration;

use stand::{Cluster, Load, Member, alone, eventually, free_port, grows, qmesh, refused, succeeds, text};

/// Kills of one run; QMESH_CLUSTER_KILLS asks for more, QMESH_CLUSTER_TUNING for another profile than `laptop`.
const KILLS: usize = 4;

#[test]
fn s1_2_6_any_member_takes_any_request_and_they_agree() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut ids: Vec<String> = Vec::new();
    for number in 0..9 {
        let node = cluster.node(1 + number % 3);
        let body = format!("from {number}");
        let mut arguments = vec!["dag", "put", "--kind", "note"];
        // The parent was put at another member, and is known there because it was acknowledged.
        if let Some(parent) = ids.last() {
            arguments.extend(["--parent", parent]);
        }
        arguments.push("-");
        let id = node.ok_with_input(&arguments, body.as_bytes());
        ids.push(id);
    }
    for (number, id) in ids.iter().enumerate() {
        for member in 1..=3 {
            assert_eq!(cluster.node(member).ok(&["dag", "get", id, "--payload"]), format!("from {number}"));
        }
    }
    let nowhere = cluster.node(2).run(&["dag", "get", &"0".repeat(64)]);
    refused(&nowhere, 5, "");
    let set = |member: usize, id: &str, old: &str| cluster.node(member).run(&["ref", "set", "main", id, "--if", old]);
    succeeds(&set(1, &ids[0], "none"));
    refused(&set(2, &ids[1], "none"), 4, "main");
    succeeds(&set(3, &ids[1], &ids[0]));
    for member in 1..=3 {
        assert_eq!(cluster.node(member).ok(&["ref", "get", "main"]), ids[1]);
        assert!(cluster.node(member).ok(&["ref", "list"]).contains(&ids[1]));
        let log = cluster.node(member).ok(&["ref", "log", "main", "-o", "ndjson"]);
        assert_eq!(log.lines().count(), 2, "{log}");
    }
    cluster.settles(3);
    for member in 1..=3 {
        let ancestors = cluster.node(member).ok(&["dag", "ancestors", &ids[8], "-o", "ndjson"]);
        assert_eq!(ancestors.lines().count(), 9, "{ancestors}");
        let figures: serde_json::Value =
            serde_json::from_str(&cluster.node(member).ok(&["stats", "-o", "json"])).unwrap();
        assert!(figures.is_object());
    }
}

#[test]
fn s1_2_4_killed_members_lose_nothing_and_writes_resume() {
    let _alone = alone();
    let kills = std::env::var("QMESH_CLUSTER_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let mut cluster = Cluster::of(3);
    let notes = cluster.notes();
    fs::write(&notes, "").unwrap();
    let mut resumed: Vec<Duration> = Vec::new();
    for kill in 0..kills {
        let (victim, witness) = (kill % 3, (kill + 1) % 3);
        let load = Load::on(cluster.members[witness].node(), &notes);
        // A different moment each time: after so many notes, not after so much time.
        grows(&notes, 65 * (50 + kill as u64 * 97 % 400));
        cluster.members[victim].kill();
        // Long enough that what was in flight at the primaries that live cannot fill it.
        resumed.push(grows(&notes, 65 * 64));
        cluster.members[victim].start();
        grows(&notes, 65 * 16);
        drop(load);
        if kill % 5 == 4 {
            cluster.members[witness].node().ok(&["bench", "acknowledged", "--verify", notes.to_str().unwrap()]);
        }
    }
    cluster.settles(3);
    for member in &cluster.members {
        let told = member.node().ok(&["bench", "acknowledged", "--verify", notes.to_str().unwrap()]);
        assert!(told.ends_with(", 0 lost") && !told.starts_with("0 "), "{}: {told}", member.name);
    }
    resumed.sort_unstable();
    let (median, worst) = (resumed[resumed.len() / 2], resumed[resumed.len() - 1]);
    println!("each: {resumed:?}");
    println!("{kills} kills: writes resumed after {median:?} (median), {worst:?} (worst); 0 lost");
}

#[test]
fn s1_2_3_a_cluster_that_died_whole_comes_back_with_everything() {
    let _alone = alone();
    let mut cluster = Cluster::of(3);
    let notes = cluster.notes();
    fs::write(&notes, "").unwrap();
    for round in 0..2 {
        let load = Load::on(cluster.node(1 + round), &notes);
        grows(&notes, 65 * 300);
        cluster.members.iter_mut().for_each(Member::kill);
        drop(load);
        cluster.members.iter_mut().for_each(Member::start);
        cluster.settles(3);
        for member in &cluster.members {
            let told = member.node().ok(&["bench", "acknowledged", "--verify", notes.to_str().unwrap()]);
            assert!(told.ends_with(", 0 lost"), "{}: {told}", member.name);
        }
    }
    for member in &mut cluster.members {
        assert_eq!(member.node.take().unwrap().stop(), Some(0), "{} drains", member.name);
        let inspected = qmesh(&["inspect", "integrity", &text(&member.data)]);
        assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stdout));
    }
}

#[test]
fn s1_2_5_a_paused_primary_is_replaced_and_finds_its_place_again() {
    let _alone = alone();
    let mut cluster = Cluster::of(3);
    let notes = cluster.notes();
    fs::write(&notes, "").unwrap();
    for round in 0..3 {
        let load = Load::on(cluster.members[(round + 1) % 3].node(), &notes);
        grows(&notes, 65 * 64);
        cluster.members[round].node().signal("-STOP");
        grows(&notes, 65 * 64);
        cluster.members[round].node().signal("-CONT");
        grows(&notes, 65 * 64);
        drop(load);
    }
    cluster.settles(3);
    for member in &cluster.members {
        let told = member.node().ok(&["bench", "acknowledged", "--verify", notes.to_str().unwrap()]);
        assert!(told.ends_with(", 0 lost"), "{}: {told}", member.name);
    }
    assert_eq!(cluster.members[0].node.take().unwrap().stop(), Some(0));
}

#[test]
fn s6_1_6_tokens_are_used_once_and_by_whom_they_are_for() {
    let _alone = alone();
    let cluster = Cluster::of(1);
    let first = &cluster.members[0];
    let at = first.mesh.to_string();
    let join = |name: &str, token: &str| {
        let data = text(&cluster.folder.path().join(name));
        let mesh = free_port().to_string();
        qmesh(&["join", &at, "--token", token, "--name", name, "--mesh", &mesh, "--data", &data])
    };
    let token = first.node().ok(&["token", "issue", "--role", "storage,worker"]);
    refused(&join("a", "qmj1-nonsense"), 2, "--token");
    let mut typo = token.clone().into_bytes();
    let at_typo = typo.len() - 3;
    typo[at_typo] = if typo[at_typo] == b'a' { b'b' } else { b'a' };
    refused(&join("a", &String::from_utf8(typo).unwrap()), 2, "--token");
    refused(&join("n1", &token), 4, "n1");
    succeeds(&join("a", &token));
    refused(&join("b", &token), 6, "used");
    // The token of another cluster: its authority is not this one's.
    let other = Cluster::of(1);
    let foreign = other.members[0].node().ok(&["token", "issue"]);
    let output = join("c", &foreign);
    assert_ne!(output.status.code(), Some(0));
    let told = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(told.contains("authority") || told.contains("fingerprint"), "{told}");
    // A directory that holds a node is not given to another.
    let again = qmesh(&["init", "--name", "x", "--data", &text(&first.data)]);
    refused(&again, 4, "holds a node already");
    let members = first.node().ok(&["cluster", "members", "-o", "ndjson"]);
    assert_eq!(members.lines().count(), 2, "{members}");
    assert!(members.contains("\"storage,worker\""), "{members}");
}

#[test]
fn s1_1_2_the_control_plane_changes_the_cluster_as_it_is_told() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let first = cluster.node(1);
    // A dry run tells and changes nothing.
    let told = first.ok(&["cluster", "drain", "n3", "--dry-run"]);
    assert!(told.contains("nothing was changed"), "{told}");
    assert!(first.ok(&["cluster", "members", "-o", "ndjson"]).lines().all(|line| line.contains("\"active\"")));
    refused(&first.run(&["cluster", "drain", "n9"]), 5, "no member n9");
    // An office goes to whom it is wished.
    for shard in ["0", "1", "2", "3"] {
        first.ok(&["cluster", "promote", shard, "n2"]);
    }
    eventually(first, |status| {
        let groups = status["groups"].as_array().unwrap();
        groups.iter().filter(|group| group["group"] != "control").all(|group| group["primary"] == 2)
    });
    let id = cluster.node(3).ok_with_input(&["dag", "put", "--kind", "note", "-"], b"after the hand-over");
    assert_eq!(cluster.node(1).ok(&["dag", "get", &id, "--payload"]), "after the hand-over");
    // Who drains holds no office; who was removed is not believed any more.
    first.ok(&["cluster", "drain", "n2"]);
    eventually(first, |status| status["groups"].as_array().unwrap().iter().all(|group| group["primary"] != 2));
    first.ok(&["cluster", "undrain", "n2"]);
    refused(&first.run(&["cluster", "remove", "n3"]), 4, "drain");
}
