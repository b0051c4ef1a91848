//! A cluster of real nodes, what it is asked and what is done to it.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::house::{Node, QMESH};

/// Time for anything that a cluster does by itself, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A member: its place, and its process while it lives.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) quic: SocketAddr,
    pub(crate) mesh: SocketAddr,
    pub(crate) node: Option<Node>,
}

/// Several clusters at once would be as many machines on one.
pub(crate) static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) members: Vec<Member>,
}

impl Member {
    pub(crate) fn start(&mut self) {
        let (http, quic) = (self.http.to_string(), self.quic.to_string());
        let mut command = Command::new(QMESH);
        command.env("QMESH_LOG", std::env::var("QMESH_LOG").unwrap_or_else(|_| "warn,openraft=off".to_owned()));
        let tuning = std::env::var("QMESH_CLUSTER_TUNING").unwrap_or_else(|_| "laptop".to_owned());
        let arguments = ["--tuning", &tuning, "--http", &http, "--quic", &quic];
        self.node = Some(Node::spawn(command, &self.data, &arguments).unwrap_or_else(|error| panic!("{error}")));
    }

    pub(crate) fn kill(&mut self) {
        drop(self.node.take().expect("a member that lives").kill());
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("a member that lives")
    }
}

impl Cluster {
    /// A cluster of `count` members, every one a voter of every group that has so many.
    pub(crate) fn of(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { folder, members: Vec::new() };
        for number in 1..=count {
            let name = format!("n{number}");
            let (http, quic, mesh) = (free_port(), free_port(), free_port());
            let data = cluster.folder.path().join(&name);
            let mut member = Member { name, data, http, quic, mesh, node: None };
            let place = member.place();
            let place: Vec<&str> = place.iter().map(String::as_str).collect();
            match cluster.members.first() {
                None => succeeds(&qmesh(&[&["init"], &place[..]].concat())),
                Some(first) => {
                    let token = first.node().ok(&["token", "issue"]);
                    let at = first.mesh.to_string();
                    succeeds(&qmesh(&[&["join", &at, "--token", &token], &place[..]].concat()));
                }
            }
            member.start();
            cluster.members.push(member);
        }
        cluster.settles(count.min(5) - usize::from(count.min(5).is_multiple_of(2)));
        cluster
    }

    /// Waits until every group has `voters` voters and a primary, and every member that lives has applied what was committed when
    /// this was asked: under load more is committed all the time.
    pub(crate) fn settles(&self, voters: usize) {
        let until = Instant::now() + PATIENCE;
        let mut told = String::new();
        let mut wanted: Option<Vec<u64>> = None;
        while Instant::now() < until {
            let asked = self.living().next().expect("a member that lives").run(&["cluster", "status", "-o", "json"]);
            told = String::from_utf8_lossy(&asked.stdout).into_owned() + &String::from_utf8_lossy(&asked.stderr);
            let status: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
            let groups = status["groups"].as_array().cloned().unwrap_or_default();
            let living = self.living().count();
            let stands = |group: &serde_json::Value| {
                group["voters"].as_array().unwrap().len() == voters
                    && !group["primary"].is_null()
                    && group["applied"].as_object().unwrap().len() == living
            };
            if groups.len() == 5 && groups.iter().all(stands) {
                let committed = || groups.iter().map(|group| group["committed"].as_u64().unwrap_or_default()).collect();
                let wanted = wanted.get_or_insert_with(committed);
                let has = |(group, wanted): (&serde_json::Value, &u64)| {
                    let applied = group["applied"].as_object().unwrap();
                    applied.values().all(|index| index.as_u64().is_some_and(|index| *wanted <= index))
                };
                if groups.iter().zip(wanted.iter()).all(has) {
                    return;
                }
            }
            pause();
        }
        panic!("the cluster does not settle with {voters} voters:\n{told}");
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().filter_map(|member| member.node.as_ref())
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        self.members[number - 1].node()
    }

    pub(crate) fn notes(&self) -> PathBuf {
        self.folder.path().join("acknowledged")
    }
}

impl Member {
    pub(crate) fn place(&self) -> Vec<String> {
        let mesh = self.mesh.to_string();
        vec!["--data".into(), text(&self.data), "--name".into(), self.name.clone(), "--mesh".into(), mesh]
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub(crate) fn qmesh(arguments: &[&str]) -> Output {
    Command::new(QMESH).args(arguments).output().expect("the binary runs")
}

pub(crate) fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn refused(output: &Output, code: i32, wanted: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(wanted), "{told:?} should say {wanted:?}");
}

/// Between two looks at something that happens in other processes, which want the processors for it.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A port that is free for TCP and UDP; the next one differs.
pub(crate) fn free_port() -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    drop(UdpSocket::bind(address).unwrap());
    address
}

/// Writes that note what was acknowledged, until the load is dropped.
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn on(node: &Node, notes: &Path) -> Self {
        let load = Command::new(QMESH)
            .args(["bench", "acknowledged", "--in-flight", "16", "--append", notes.to_str().unwrap()])
            .env("QMESH_NODE", node.quic().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(load.unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn length(notes: &Path) -> u64 {
    fs::metadata(notes).map_or(0, |metadata| metadata.len())
}

/// Waits until so many more bytes of notes are there, and says how long that took.
pub(crate) fn grows(notes: &Path, bytes: u64) -> Duration {
    let (started, wanted) = (Instant::now(), length(notes) + bytes);
    while length(notes) < wanted {
        assert!(started.elapsed() < PATIENCE, "nothing was acknowledged for {PATIENCE:?}");
        pause();
    }
    started.elapsed()
}

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn eventually(node: &Node, wanted: impl Fn(&serde_json::Value) -> bool) {
    let until = Instant::now() + PATIENCE;
    let mut told = String::new();
    while Instant::now() < until {
        let asked = node.run(&["cluster", "status", "-o", "json"]);
        told = String::from_utf8_lossy(&asked.stdout).into_owned();
        if let Ok(status) = serde_json::from_slice(&asked.stdout)
            && wanted(&status)
        {
            return;
        }
        pause();
    }
    panic!("never came; the last status:\n{told}");
}
