//! The commands, run as processes against a real node: what scripts depend on, and how each ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

mod house;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use gix::objs::{Kind, Write as _};
use house::{Node, QMESH};
use serde_json::Value;

/// Runs a command that must end with `code`; what it said on standard error.
fn ends(node: &Node, arguments: &[&str], code: i32) -> String {
    let output = node.run(arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "qmesh {arguments:?}: {told}");
    told
}

fn json(node: &Node, arguments: &[&str]) -> Value {
    let text = node.ok(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

fn put(node: &Node, payload: &str, parents: &[&str]) -> String {
    let mut arguments = vec!["dag", "put", "--kind", "note", "--label", "k=v", "-"];
    for parent in parents {
        arguments.extend(["--parent", parent]);
    }
    node.ok_with_input(&arguments, payload.as_bytes())
}

#[test]
fn s1_1_8_vertices_are_put_and_read_back() {
    let node = Node::start();
    let first = put(&node, "hello\n", &[]);
    assert_eq!((first.len(), &first[..6]), (59, "bafyr4"));
    let second = put(&node, "", &[&first]);
    assert_eq!(node.run(&["dag", "get", &first, "--payload"]).stdout, b"hello\n");
    let shown = json(&node, &["dag", "get", &second]);
    assert_eq!(shown["parents"], serde_json::json!([first]));
    assert_eq!(shown["labels"]["k"], "v");
    let hex = shown["hex"].as_str().unwrap();
    assert_eq!(json(&node, &["dag", "get", hex]), shown);
    assert!(node.ok(&["dag", "get", &first]).contains("hello"));
    let binary: Vec<u8> = (0..=255).collect();
    let id = node.ok_with_input(&["dag", "put", "--kind", "blob", "-"], &binary);
    assert_eq!(node.run(&["dag", "get", &id, "--payload"]).stdout, binary);
    node.ok(&["dag", "has", &first, &second]);
    ends(&node, &["dag", "has", &first, &"0".repeat(64)], 1);
    assert_eq!(node.ok(&["dag", "parents", &second, "--format", "id"]), first);
    assert_eq!(node.ok(&["dag", "children", &first, "--format", "id"]), second);
    assert_eq!(json(&node, &["dag", "tips", "--format", "hex"])["vertices"].as_array().unwrap().len(), 2);
    assert_eq!(json(&node, &["dag", "path", &first, &second])["vertices"].as_array().unwrap().len(), 2);
    assert!(node.ok(&["dag", "verify", &second]).contains("verified"));
    assert!(node.ok(&["dag", "verify", &second, "--ancestors"]).starts_with("2 vertices verified"));
}

#[test]
fn s3_1_15_every_way_to_fail_has_its_exit_code() {
    let node = Node::start();
    let id = put(&node, "x", &[]);
    let other = put(&node, "y", &[]);
    ends(&node, &["dag", "is-ancestor", &id, &other], 1);
    ends(&node, &["dag", "path", &id, &other], 1);
    ends(&node, &["dag", "gett", &id], 2);
    ends(&node, &["dag", "get", "not-an-id"], 2);
    ends(&node, &["dag", "range", "nodots"], 2);
    let told = ends(&node, &["dag", "put", "--kind", "Capital", "-"], 2);
    assert!(told.contains("'C'"), "{told}");
    let told = ends(&node, &["--node", "127.0.0.1:1", "stats"], 3);
    assert!(told.contains("qmesh up"), "{told}");
    node.ok(&["ref", "set", "r", &id, "--if", "none"]);
    ends(&node, &["ref", "set", "r", &other, "--if", "none"], 4);
    ends(&node, &["ref", "set", "r", &other, "--if", &other], 4);
    let absent = "0".repeat(64);
    ends(&node, &["dag", "get", &absent], 5);
    ends(&node, &["ref", "get", "absent"], 5);
    ends(&node, &["dag", "get", &format!("git:{}", "0".repeat(40))], 5);
    ends(&node, &["dag", "put", "--kind", "k", "--parent", &absent, "-"], 5);
    node.ok(&["dag", "put", "--kind", "k", "--parent", &absent, "--allow-missing-parents", "-"]);
    let told = ends(&node, &["--node", "192.0.2.1:7420", "stats"], 6);
    assert!(told.contains("--ca"), "{told}");
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large");
    fs::write(&large, vec![b'x'; (1 << 20) + 1]).unwrap();
    let told = ends(&node, &["dag", "put", "--kind", "k", large.to_str().unwrap()], 7);
    assert!(told.contains("1048576 bytes"), "{told}");
    let told = ends(&node, &["ref", "get", "absent", "-o", "json"], 5);
    let problem: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&problem["reason"], &problem["exit_code"]), (&Value::from("not_found"), &Value::from(5)));
}

#[test]
fn s6_1_1_a_named_authority_is_believed_and_no_other() {
    let node = Node::start();
    let id = put(&node, "x", &[]);
    let own = node.data().join("tls/ca.pem");
    let own = own.to_str().unwrap();
    assert_eq!(node.ok(&["dag", "get", &id, "--payload", "--ca", own]), "x");
    // By its name, and from the HTTP door, which tells where the QUIC door is.
    let named = format!("localhost:{}", node.quic().port());
    assert_eq!(node.ok(&["dag", "get", &id, "--payload", "--ca", own, "--node", &named]), "x");
    let folder = tempfile::tempdir().unwrap();
    let stranger = qmesh_net::identity::Authority::open_or_create(folder.path(), std::time::SystemTime::now()).unwrap();
    let stranger = stranger.certificate_path();
    let told = ends(&node, &["dag", "get", &id, "--ca", stranger.to_str().unwrap()], 3);
    assert!(told.contains("certificate"), "{told}");
    let missing = folder.path().join("none.pem");
    let told = ends(&node, &["dag", "get", &id, "--ca", missing.to_str().unwrap()], 3);
    assert!(told.contains("none.pem"), "{told}");
    // Without a name the loopback address is trusted, whoever answers there.
    assert_eq!(node.ok(&["dag", "get", &id, "--payload"]), "x");
}

#[test]
fn s0_2_refs_move_by_compare_and_set() {
    let node = Node::start();
    let (first, second) = (put(&node, "1", &[]), put(&node, "2", &[]));
    assert_eq!(node.ok(&["ref", "set", "a/main", &first]), first);
    assert_eq!(node.ok(&["ref", "set", "a/main", "ref:a/main", "--if", &first]), first);
    assert_eq!(node.ok(&["ref", "set", "a/main", &second, "--if", "ref:a/main", "--reason", "why"]), second);
    assert_eq!(node.ok(&["ref", "get", "a/main"]), second);
    assert_eq!(node.ok(&["dag", "get", "ref:a/main", "--payload"]), "2");
    node.ok(&["ref", "set", "b", &first]);
    assert_eq!(json(&node, &["ref", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(json(&node, &["ref", "list", "a/"])[0]["name"], "a/main");
    assert_eq!(json(&node, &["ref", "list", "--limit", "1"]).as_array().unwrap().len(), 1);
    let log = json(&node, &["ref", "log", "a/main"]);
    assert_eq!((&log[0]["reason"], &log[0]["to"]), (&Value::from("why"), &Value::from(second.clone())));
    ends(&node, &["ref", "delete", "a/main", "--if", &first], 4);
    node.ok(&["ref", "delete", "a/main", "--if", &second]);
    ends(&node, &["ref", "get", "a/main"], 5);
}

#[test]
fn s1_1_8_a_signed_vertex_says_who_signed_it() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    for algorithm in ["ed25519", "ml-dsa-65"] {
        let key = folder.path().join(algorithm);
        let key = key.to_str().unwrap();
        let public = node.ok(&["key", "generate", "--algorithm", algorithm, key]);
        let id = node.ok_with_input(&["dag", "put", "--kind", "note", "--sign", key, "-"], algorithm.as_bytes());
        let row = &json(&node, &["dag", "verify", &id])[0];
        assert_eq!(row["signed_by"], format!("{algorithm} {public}"));
        ends(&node, &["key", "generate", key], 4);
    }
}

#[test]
fn s1_1_8_exports_are_imported_elsewhere_as_the_same_vertices() {
    let (here, there, elsewhere) = (Node::start(), Node::start(), Node::start());
    let root = put(&here, "root", &[]);
    let (left, right) = (put(&here, "left", &[&root]), put(&here, "right", &[&root]));
    let tip = put(&here, "tip", &[&left, &right]);
    put(&here, "another", &[]);
    let folder = tempfile::tempdir().unwrap();
    let car = folder.path().join("all.car");
    let car = car.to_str().unwrap();
    here.ok(&["dag", "export", "--format", "car", "-O", car]);
    let imported = json(&there, &["dag", "import", "car", car]);
    assert_eq!((&imported["vertices"], &imported["new"]), (&Value::from(5), &Value::from(5)));
    assert_eq!(json(&there, &["dag", "import", "car", car])["new"], 0);
    assert_eq!(json(&there, &["dag", "get", &tip]), json(&here, &["dag", "get", &tip]));
    let lines = here.run(&["dag", "export", "--format", "ndjson", "--root", &tip, "-O", "-"]).stdout;
    assert_eq!(lines.iter().filter(|&&byte| byte == b'\n').count(), 4);
    elsewhere.ok_with_input(&["dag", "import", "ndjson", "-"], &lines);
    let order = ["dag", "topo", &tip, "--format", "id"];
    assert_eq!(elsewhere.ok(&order).lines().count(), 4);
    // The last line alone has parents that a fresh node lacks.
    let last = lines.trim_ascii_end().rsplit(|&byte| byte == b'\n').next().unwrap();
    let fresh = Node::start();
    let output = fresh.run_with_input(&["dag", "import", "ndjson", "-"], last);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let mut bent = fs::read(car).unwrap();
    *bent.last_mut().unwrap() ^= 1;
    fs::write(car, bent).unwrap();
    assert!(ends(&fresh, &["dag", "import", "car", car], 1).contains("block 5"));
}

#[test]
fn s1_1_8_drawings_come_in_three_forms() {
    let node = Node::start();
    let root = put(&node, "first <line>\nmore", &[]);
    let tip = put(&node, "second", &[&root]);
    assert!(node.ok(&["dag", "viz"]).contains("v0 -> v1"));
    assert!(node.ok(&["dag", "viz", &tip, "--as", "mermaid"]).contains("v0 --> v1"));
    let svg = node.ok(&["dag", "viz", &tip, "--as", "svg"]);
    assert!(svg.contains("first &lt;line&gt;") && svg.ends_with("</svg>"), "{svg}");
    let output = node.run(&["dag", "viz", &tip, "--limit", "1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("go on"));
}

#[test]
fn s1_1_9_a_data_directory_is_inspected_without_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start_in(&data, &[]).unwrap();
    let ids: Vec<String> = (0..20).map(|at| put(&node, &format!("payload {at}"), &[])).collect();
    node.ok(&["ref", "set", "r", &ids[0]]);
    node.stop();
    let inspect = |what: &[&str]| {
        let output = Command::new(QMESH).arg("inspect").args(what).args(["-o", "json"]).output().unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    let path = data.to_str().unwrap();
    let (code, report) = inspect(&["integrity", path]);
    assert_eq!(
        (code, &report["vertices"], &report["ref_moves"]),
        (Some(0), &Value::from(20), &Value::from(1)),
        "{report}"
    );
    assert_eq!(inspect(&["superblock", path]).1["slots"], 16);
    // One byte of one payload.
    let segment = segments(&data).into_iter().find(|segment| find(segment, b"payload 7").is_some()).unwrap();
    assert_eq!(inspect(&["segment", segment.to_str().unwrap()]).0, Some(0));
    let mut bytes = fs::read(&segment).unwrap();
    let at = find(&segment, b"payload 7").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (code, report) = inspect(&["integrity", path]);
    assert_eq!((code, &report["ok"]), (Some(1), &Value::from(false)), "{report}");
    assert_eq!(inspect(&["integrity", folder.path().to_str().unwrap()]).0, Some(5));
}

fn segments(data: &Path) -> Vec<std::path::PathBuf> {
    let logs = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = logs.flat_map(|log| fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()));
    files.filter(|file| file.extension().is_some_and(|extension| extension == "seg")).collect()
}

fn find(file: &Path, wanted: &[u8]) -> Option<usize> {
    fs::read(file).unwrap().windows(wanted.len()).position(|window| window == wanted)
}

/// A repository written object by object, so that no git has to be installed.
struct History {
    folder: tempfile::TempDir,
    hashes: Vec<String>,
    parents: Vec<Vec<usize>>,
}

impl History {
    /// `count` commits: several roots, merges of up to three parents, criss-cross; a branch, an annotated tag, a tag of a blob.
    fn generate(count: usize, seed: u64) -> Self {
        let mut history = Self { folder: tempfile::tempdir().unwrap(), hashes: Vec::new(), parents: Vec::new() };
        history.grow(count, seed);
        history
    }

    fn grow(&mut self, count: usize, mut seed: u64) {
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let path = self.path();
        let repository = gix::open(&path).or_else(|_| gix::init_bare(&path)).unwrap();
        let write = |kind, bytes: &[u8]| repository.objects.write_buf(kind, bytes).unwrap().to_string();
        let tree = write(Kind::Tree, b"");
        for _ in 0..count {
            let at = self.hashes.len();
            let parents: BTreeSet<usize> = match random(10) {
                _ if at == 0 => BTreeSet::new(),
                0 => BTreeSet::new(),
                many @ 1..=3 => (0..many).map(|_| at - 1 - random(at.min(8))).collect(),
                _ => [at - 1 - random(at.min(4))].into(),
            };
            let lines: String = parents.iter().map(|&parent| format!("parent {}\n", self.hashes[parent])).collect();
            let person = format!("P {at} <p@example.com> {} +0100", 1_700_000_000 + random(1000));
            let text = format!("tree {tree}\n{lines}author {person}\ncommitter {person}\n\ncommit {at}\n");
            self.hashes.push(write(Kind::Commit, text.as_bytes()));
            self.parents.push(parents.into_iter().collect());
        }
        let tip = self.hashes.last().unwrap().clone();
        let tag = format!("object {tip}\ntype commit\ntag v1\ntagger T <t@example.com> 1700000000 +0000\n\nv1\n");
        let blob = write(Kind::Blob, b"not a commit");
        for (name, hash) in [("heads/main", tip), ("tags/v1", write(Kind::Tag, tag.as_bytes())), ("tags/blob", blob)] {
            fs::write(path.join("refs").join(name), format!("{hash}\n")).unwrap();
        }
        for (at, hash) in self.hashes.iter().enumerate() {
            fs::write(path.join(format!("refs/heads/c{at}")), format!("{hash}\n")).unwrap();
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("project.git")
    }

    fn ancestors(&self, of: usize) -> BTreeSet<usize> {
        let (mut found, mut open) = (BTreeSet::new(), vec![of]);
        while let Some(at) = open.pop() {
            if found.insert(at) {
                open.extend(&self.parents[at]);
            }
        }
        found
    }

    fn numbers(&self, printed: &str) -> BTreeSet<usize> {
        let numbers: HashMap<&str, usize> =
            self.hashes.iter().enumerate().map(|(at, hash)| (hash.as_str(), at)).collect();
        let found: Vec<usize> = printed.lines().map(|line| numbers[line]).collect();
        let set: BTreeSet<usize> = found.iter().copied().collect();
        assert_eq!(set.len(), found.len(), "a commit is printed twice");
        set
    }
}

#[test]
fn s0_2_a_git_history_is_imported_and_answers_as_git_would() {
    let mut history = History::generate(60, 7);
    let node = Node::start();
    let path = history.path();
    let import = ["dag", "import", "git", path.to_str().unwrap()];
    let summary = json(&node, &import);
    let wanted = serde_json::json!({"repository": "project", "commits": 60, "new": 60, "refs": 63, "refs_skipped": 1});
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&summary[key], value, "{summary}");
    }
    let again = json(&node, &import);
    assert_eq!((&again["new"], &again["refs_moved"]), (&Value::from(0), &Value::from(0)), "{again}");
    history.grow(20, 11);
    let more = json(&node, &import);
    assert_eq!((&more["commits"], &more["new"]), (&Value::from(80), &Value::from(20)), "{more}");

    let sets: Vec<BTreeSet<usize>> = (0..80).map(|at| history.ancestors(at)).collect();
    for nth in 0..12usize {
        let (a, b) = (nth * 37 % 80, 79 - nth * 23 % 80);
        let (left, right) = (format!("git:{}", history.hashes[a]), format!("git:{}", history.hashes[b]));
        let ask = |arguments: &[&str]| history.numbers(&node.ok(&[arguments, &["--format", "git"]].concat()));
        assert_eq!(ask(&["dag", "ancestors", &left]), sets[a], "ancestors of {a}");
        assert_eq!(ask(&["dag", "topo", &left]), sets[a], "order of {a}");
        let only_right: BTreeSet<usize> = sets[b].difference(&sets[a]).copied().collect();
        assert_eq!(ask(&["dag", "range", &format!("{left}..{right}")]), only_right, "{a}..{b}");
        let common: BTreeSet<usize> = sets[a].intersection(&sets[b]).copied().collect();
        let best = common.iter().filter(|&&at| !common.iter().any(|&other| other != at && sets[other].contains(&at)));
        assert_eq!(ask(&["dag", "lca", &left, &right]), best.copied().collect(), "bases of {a} and {b}");
        let code = if sets[b].contains(&a) { 0 } else { 1 };
        ends(&node, &["dag", "is-ancestor", &left, &right], code);
    }

    let tip = format!("git:{}", history.hashes[79]);
    let shown = json(&node, &["dag", "get", &tip]);
    assert_eq!(shown["payload"], "commit 79\n");
    assert_eq!(shown["author"], "P 79 <p@example.com>");
    for name in ["HEAD", "refs/heads/main", "refs/tags/v1"] {
        assert_eq!(node.ok(&["ref", "get", &format!("git/project/{name}")]), shown["id"], "{name}");
    }
    ends(&node, &["ref", "get", "git/project/refs/tags/blob"], 5);
    let note = put(&node, "review", &[&tip]);
    ends(&node, &["dag", "is-ancestor", &tip, &note], 0);
}

#[test]
fn s0_2_what_is_no_repository_is_refused() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let told = ends(&node, &["dag", "import", "git", folder.path().to_str().unwrap()], 5);
    assert!(told.contains("git repository"), "{told}");
}

#[test]
fn s0_2_the_node_is_found_by_any_of_its_addresses() {
    let node = Node::start();
    let (http, quic) = (node.http().to_string(), node.quic().to_string());
    for address in [http.clone(), quic.clone(), format!("http://{http}"), format!("quic://{quic}")] {
        assert!(node.ok(&["--node", &address, "stats", "-o", "json"]).contains("version"), "{address}");
    }
}

#[test]
fn s0_2_a_reader_that_has_enough_ends_a_command_quietly() {
    let node = Node::start();
    let mut last = put(&node, "0", &[]);
    for at in 1..5 {
        last = put(&node, &at.to_string(), &[&last]);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(QMESH);
    command.args(["dag", "ancestors", &last, "--node", &node.quic().to_string()]).stdout(writer);
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn s0_2_a_watcher_hears_of_vertices_and_refs() {
    let node = Node::start();
    let arguments = ["dag", "watch", "--refs", "--kind", "note", "--count", "2", "-o", "ndjson", "--node"];
    let mut watch = Command::new(QMESH);
    watch.args(arguments).arg(node.quic().to_string()).stdout(std::process::Stdio::piped());
    // What happened before the watcher asked is not told, so things happen until it heard enough.
    let mut child = watch.spawn().unwrap();
    for at in 0..200 {
        let id = put(&node, &format!("event {at}"), &[]);
        node.ok(&["ref", "set", "watched", &id]);
        if child.try_wait().unwrap().is_some() {
            break;
        }
    }
    let output = child.wait_with_output().unwrap();
    let events: Vec<Value> =
        output.stdout.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event["event"] == "vertex" || event["event"] == "ref"), "{events:?}");
}

#[test]
fn s0_2_completions_and_man_pages_are_made_without_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Command::new(QMESH).args(arguments).output().unwrap();
    systemd_takes_the_unit(&folder.path().join("qmesh.service"));
    assert!(String::from_utf8(run(&["gen", "completions", "bash"]).stdout).unwrap().contains("qmesh"));
    assert!(run(&["gen", "man", folder.path().to_str().unwrap()]).status.success());
    let page = fs::read_to_string(folder.path().join("qmesh-dag-put.1")).unwrap();
    assert!(page.contains("qmesh dag put") || page.contains("qmesh\\-dag\\-put"), "{page}");
}

/// The unit has the limits of its profile, and systemd has nothing to say against it where there is one to ask.
fn systemd_takes_the_unit(path: &Path) {
    let run =
        |arguments: &[&str]| Command::new(QMESH).args([&["gen", "systemd"], arguments].concat()).output().unwrap();
    let unit = run(&["--data", "/srv/qmesh", "--user", "qmesh", "--tuning", "throughput"]);
    assert!(unit.status.success(), "{}", String::from_utf8_lossy(&unit.stderr));
    let text = String::from_utf8(unit.stdout).unwrap();
    let profile = fs::read_to_string("tuning/throughput.toml").unwrap();
    let number = |key: &str| {
        let line = profile.lines().find(|line| line.split('=').next().unwrap().trim() == key).unwrap();
        line.split(['=', '#']).nth(1).unwrap().trim().replace('_', "")
    };
    for line in [
        format!("LimitMEMLOCK={}M", number("memlock_mib")),
        format!("LimitNOFILE={}", number("nofile")),
        format!("ExecStart={QMESH} up --data /srv/qmesh --tuning throughput"),
        "KillSignal=SIGTERM".to_owned(),
        "Restart=on-failure".to_owned(),
        "ReadWritePaths=/srv/qmesh".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for wrong in [&["--data", "data"][..], &["--user", "a b"], &["--data", "/a%h"], &["--tuning", "none-such"]] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    fs::write(path, text).unwrap();
    // Where systemd is not installed, the lines above are what there is.
    if let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(path).output() {
        let told = String::from_utf8_lossy(&verified.stderr);
        assert!(!told.contains("qmesh.service:"), "{told}");
    }
}
