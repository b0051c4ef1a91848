//! A member whose disk is damaged or lost: it does not take part, and another takes its place while writes go on.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::house::Node;
use crate::stand::{Cluster, Load, alone, grows, qmesh, succeeds, text};

/// The first file of a data directory's log.
fn first_segment(data: &Path) -> PathBuf {
    let log = fs::read_dir(data).unwrap().flatten().map(|entry| entry.path());
    let log = log.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).min().unwrap();
    let files = fs::read_dir(log).unwrap().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).min().unwrap()
}

/// Bytes of frames in a member's logs.
fn log_bytes(node: &Node) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(&node.ok(&["stats", "-o", "json"])).unwrap();
    let cores = stats["cores"].as_array().unwrap().iter();
    cores.flat_map(|core| core["logs"].as_array().unwrap()).map(|log| log["bytes"].as_u64().unwrap()).sum()
}

/// One run of durable puts: how many failed, and the 99th percentile in microseconds.
fn puts(node: &Node) -> (u64, f64) {
    let told = node.ok(&["bench", "put", "--in-flight", "16", "--seconds", "4", "-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    (told["errors"].as_u64().unwrap(), told["p99_us"].as_f64().unwrap())
}

#[test]
fn s1_2_3_a_damaged_replica_does_not_take_part_and_is_replaced_under_load() {
    let _alone = alone();
    let mut cluster = Cluster::of(3);
    let notes = cluster.notes();
    fs::write(&notes, "").unwrap();
    let load = Load::on(cluster.node(1), &notes);
    grows(&notes, 65 * 200);
    drop(load);
    cluster.settles(3);
    let undisturbed = puts(cluster.node(1));
    // One bit of what is long durable, with valid frames behind it.
    cluster.members[2].kill();
    let segment = first_segment(&cluster.members[2].data);
    let mut file = OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let (place, mut byte) = (64 << 10, [0]);
    file.seek(SeekFrom::Start(place)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(place)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    drop(file);
    let before = fs::read(&segment).unwrap();
    let data = text(&cluster.members[2].data);
    let refused =
        qmesh(&["up", "--data", &data, "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0", "--tuning", "laptop"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("is damaged at offset"), "{told}");
    assert!(told.contains("Nothing was cut") && told.contains("under a new id"), "{told}");
    assert_eq!(fs::read(&segment).unwrap(), before, "damage is left as it is");
    // The documented way: out, and in anew with an empty disk, while writes go on.
    let load = Load::on(cluster.node(1), &notes);
    cluster.node(2).ok(&["cluster", "remove", "n3", "--force"]);
    let token = cluster.node(1).ok(&["token", "issue"]);
    let at = cluster.members[0].mesh.to_string();
    fs::remove_dir_all(&data).unwrap();
    cluster.members[2].name = "n4".to_owned();
    let place = cluster.members[2].place();
    let place: Vec<&str> = place.iter().map(String::as_str).collect();
    succeeds(&qmesh(&[&["join", &at, "--token", &token], &place[..]].concat()));
    drop(load);
    cluster.members[2].start();
    let rebuilding = puts(cluster.node(1));
    let load = Load::on(cluster.node(2), &notes);
    grows(&notes, 65 * 64);
    drop(load);
    cluster.settles(3);
    let (lacked, moved) = (log_bytes(cluster.node(1)), log_bytes(cluster.node(3)));
    for member in &cluster.members {
        let told = member.node().ok(&["bench", "acknowledged", "--verify", &text(&notes)]);
        assert!(told.ends_with(", 0 lost"), "{}: {told}", member.name);
    }
    assert_eq!((undisturbed.0, rebuilding.0), (0, 0), "puts failed");
    assert!(moved * 10 <= lacked * 11, "{moved} bytes of frames for {lacked} that were lacked");
    println!(
        "put p99 {} us undisturbed, {} us during the rebuild; {moved} bytes of frames written for {lacked} that were lacked",
        undisturbed.1, rebuilding.1
    );
}
