//! Kills of a real node under load, and what it finds when it comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

mod house;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use house::{Node, QMESH};

/// Kills of one run; QMESH_KILLS asks for more.
const KILLS: u32 = 12;

#[test]
fn s1_1_9_kill_loop_loses_no_acknowledged_write() {
    kill_loop("tokio-uring");
}

#[test]
fn s1_1_9_kill_loop_loses_no_acknowledged_write_on_glommio() {
    kill_loop("glommio");
}

fn kill_loop(backend: &str) {
    let kills = std::env::var("QMESH_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let folder = tempfile::tempdir().unwrap();
    let (data, notes) = (folder.path().join("data"), folder.path().join("acknowledged"));
    let profile = format!("[storage]\nbackend = \"{backend}\"\nsegment_mib = 8\nround_mib_max = 4\n");
    fs::write(folder.path().join("small.toml"), profile).unwrap();
    let tuning = folder.path().join("small.toml");
    let tuning = tuning.to_str().unwrap();
    fs::write(&notes, "").unwrap();
    for kill in 0..kills {
        let node =
            Node::start_in(&data, &["--tuning", tuning]).unwrap_or_else(|error| panic!("after kill {kill}: {error}"));
        node.ok(&["bench", "acknowledged", "--verify", notes.to_str().unwrap()]);
        let mut load = Command::new(QMESH)
            .args(["bench", "acknowledged", "--in-flight", "64", "--append", notes.to_str().unwrap()])
            .env("QMESH_NODE", node.quic().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before = fs::metadata(&notes).unwrap().len();
        // A different moment each time: after so many notes, not after so much time.
        let wanted = before + 65 * (1 + u64::from(kill) * 97 % 1500);
        while fs::metadata(&notes).unwrap().len() < wanted {
            assert!(load.try_wait().unwrap().is_none(), "the load ended by itself");
            std::thread::yield_now();
        }
        drop(node.kill());
        load.kill().unwrap();
        load.wait().unwrap();
    }
    let node = Node::start_in(&data, &["--tuning", tuning]).unwrap();
    let told = node.ok(&["bench", "acknowledged", "--verify", notes.to_str().unwrap()]);
    assert!(told.ends_with(", 0 lost") && !told.starts_with("0 "), "{told}");
    eprintln!(
        "kill loop: backend={backend} kills={kills} acknowledged={} lost=0",
        told.split(' ').next().unwrap_or_default()
    );
    assert_eq!(node.stop(), Some(0));
    let inspected = Command::new(QMESH).args(["inspect", "integrity"]).arg(&data).output().unwrap();
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
}

#[test]
fn s1_1_9_glommio_without_locked_memory_is_refused_in_one_line_with_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let tuning = folder.path().join("glommio.toml");
    fs::write(&tuning, "[storage]\nbackend = \"glommio\"\n").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 64 && exec \"$0\" \"$@\"", QMESH]);
    let started = Node::spawn(command, &folder.path().join("data"), &["--tuning", tuning.to_str().unwrap()]);
    let Err(told) = started else { panic!("it started") };
    assert!(told.contains("RLIMIT_MEMLOCK") && told.contains("ulimit -l 512"), "{told}");
    assert!(told.contains("LimitMEMLOCK=524288") && !told.contains("panicked"), "{told}");
}

#[test]
fn s1_1_9_second_start_recovers_what_sigterm_left() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start_in(&data, &[]).unwrap();
    assert_eq!(node.ready()["new"], true);
    let first = node.ok_with_input(&["dag", "put", "--kind", "note", "-"], b"first");
    let second = node.ok_with_input(&["dag", "put", "--kind", "note", "--parent", &first, "-"], b"second");
    node.ok(&["ref", "set", "heads/main", &second]);
    assert_eq!(node.stop(), Some(0));
    let node = Node::start_in(&data, &[]).unwrap();
    assert_eq!((&node.ready()["new"], &node.ready()["vertices"]), (&false.into(), &2.into()));
    assert_eq!(node.ok(&["dag", "get", &first, "--payload"]), "first");
    assert_eq!(node.ok(&["dag", "is-ancestor", &first, &second]), "");
    assert_eq!(node.ok(&["dag", "get", "ref:heads/main", "--payload"]), "second");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn s1_1_9_two_nodes_do_not_share_a_directory() {
    let node = Node::start();
    let Err(told) = Node::start_in(node.data(), &[]) else { panic!("two nodes on one directory") };
    assert!(told.contains("lock"), "{told}");
}

#[test]
fn s1_1_9_a_flipped_bit_in_acknowledged_data_is_reported_and_not_cut() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start_in(&data, &[]).unwrap();
    for number in 0..40 {
        node.ok_with_input(&["dag", "put", "--kind", "note", "-"], format!("note {number}").as_bytes());
    }
    assert_eq!(node.stop(), Some(0));
    let segment = first_segment(&data);
    flip(&segment, b"note 7");
    let inspected = Command::new(QMESH).args(["inspect", "integrity"]).arg(&data).output().unwrap();
    assert_eq!(inspected.status.code(), Some(1));
    let told = String::from_utf8_lossy(&inspected.stdout).into_owned() + &String::from_utf8_lossy(&inspected.stderr);
    assert!(told.contains("DAMAGED: log-0") && told.contains("segment"), "the damaged place is named: {told}");
}

#[test]
fn s1_1_9_a_misdirected_write_is_told_and_not_taken_for_absence() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start_in(&data, &["--tuning", &one_core(folder.path())]).unwrap();
    let put = |text: &str| node.ok_with_input(&["dag", "put", "--kind", "note", "-"], text.as_bytes());
    let (first, second) = (put("note 7, the first"), put("note 8, the other"));
    assert_eq!(node.stop(), Some(0));
    // The block of the one comes to stand where the other was: each is whole, one of them is in the wrong place.
    let segment = first_segment(&data);
    let mut bytes = fs::read(&segment).unwrap();
    let block = |text: &[u8]| position(&bytes, text).unwrap() / 4096 * 4096;
    let (from, to) = (block(b"note 8"), block(b"note 7"));
    assert_ne!(from, to);
    bytes.copy_within(from..from + 4096, to);
    fs::write(&segment, bytes).unwrap();
    let node = Node::start_in(&data, &["--tuning", &one_core(folder.path())]).unwrap();
    assert_eq!(node.ok(&["dag", "get", &second, "--payload"]), "note 8, the other");
    let refused = node.run(&["dag", "get", &first, "--payload"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("another record"), "{}: {told}", refused.status);
    assert!(node.run(&["dag", "get", &"0".repeat(64)]).status.code() == Some(5), "what never was is not here");
}

/// A profile with one core, so that everything stands in one log.
fn one_core(folder: &Path) -> String {
    let path = folder.join("one.toml");
    fs::write(&path, "[cpu]\ncores = 1\n").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn s6_1_1_up_refuses_addresses_that_others_can_reach() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(QMESH)
        .args(["up", "--http", "0.0.0.0:0", "--data"])
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("loopback") && told.contains("127.0.0.1"), "the fix is told: {told}");
}

/// The first segment of any log that holds a payload of the test.
fn first_segment(data: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "seg") {
                let mut bytes = Vec::new();
                fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
                if position(&bytes, b"note 7").is_some() {
                    found.push(path);
                }
            }
        }
    }
    found.pop().expect("a segment with the payload")
}

fn flip(path: &Path, needle: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let at = position(&bytes, needle).unwrap() as u64;
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[bytes[at as usize] ^ 1]).unwrap();
    file.sync_all().unwrap();
}

fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[test]
fn s1_1_9_drain_answers_what_was_taken() {
    let node = Node::start();
    let mut load = Command::new(QMESH)
        .args(["bench", "put", "--in-flight", "64", "--seconds", "3", "--warm", "0", "-o", "json"])
        .env("QMESH_NODE", node.quic().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Under load, not before it.
    let loaded = || {
        let stats: serde_json::Value = serde_json::from_str(&node.ok(&["stats", "-o", "json"])).unwrap();
        stats["dag"]["vertices"].as_u64().unwrap() > 100
    };
    while !loaded() {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.stop(), Some(0));
    load.wait().unwrap();
}

#[test]
fn s1_1_9_drain_does_not_wait_for_clients_that_died() {
    let node = Node::start();
    let mut load = Command::new(QMESH)
        .args(["bench", "put", "--in-flight", "64", "--seconds", "600", "--warm", "0"])
        .env("QMESH_NODE", node.quic().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let vertices = || {
        let stats: serde_json::Value = serde_json::from_str(&node.ok(&["stats", "-o", "json"])).unwrap();
        stats["dag"]["vertices"].as_u64().unwrap()
    };
    while vertices() < 1000 {
        std::thread::sleep(Duration::from_millis(10));
    }
    load.kill().unwrap();
    load.wait().unwrap();
    let asked = std::time::Instant::now();
    assert_eq!(node.stop(), Some(0));
    // A client that lives gets ten seconds to take its answers.
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

#[test]
fn s2_2_7_one_core_is_a_node_too() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start_with(&["--tuning", &one_core(folder.path())]);
    let id = node.ok_with_input(&["dag", "put", "--kind", "note", "-"], b"alone");
    assert_eq!(node.ok(&["dag", "get", &id, "--payload"]), "alone");
    assert_eq!(node.stop(), Some(0));
}
