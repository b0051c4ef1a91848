//! A real node in a process of its own, for tests: started on free ports with a fresh data directory, killed when dropped.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of the house")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

/// Path of the binary under test.
pub const QMESH: &str = env!("CARGO_BIN_EXE_qmesh");

/// The profile of nodes that name none.
const TWO_CORES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/house/two-cores.toml");

/// A running node.
pub struct Node {
    child: Option<Child>,
    /// Kept so that the directory lives as long as the node.
    folder: Option<TempDir>,
    data: PathBuf,
    http: SocketAddr,
    quic: SocketAddr,
    ready: serde_json::Value,
    panics: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// A node with an empty data directory of its own.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments of `qmesh up`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let mut node = Self::start_in(&data, arguments).unwrap_or_else(|error| panic!("{error}"));
        node.folder = Some(folder);
        node
    }

    /// A node on a given data directory; what it printed on standard error when it does not start.
    pub fn start_in(data: &Path, arguments: &[&str]) -> Result<Self, String> {
        Self::spawn(Command::new(QMESH), data, arguments)
    }

    /// The same, through a command that runs the binary (a wrapper, an environment).
    pub fn spawn(mut command: Command, data: &Path, arguments: &[&str]) -> Result<Self, String> {
        let mut child = command
            .args(["up", "--data"])
            .arg(data)
            .args(if arguments.contains(&"--http") {
                &[][..]
            } else {
                &["--http", "127.0.0.1:0", "--quic", "127.0.0.1:0"]
            })
            .args(["-o", "json"])
            .args(if arguments.contains(&"--tuning") { &[][..] } else { &["--tuning", TWO_CORES] })
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).map_err(|error| error.to_string())?;
        let stderr = child.stderr.take().expect("a pipe");
        if line.is_empty() {
            let mut told = String::new();
            BufReader::new(stderr).read_to_string(&mut told).map_err(|error| error.to_string())?;
            let status = child.wait().map_err(|error| error.to_string())?;
            return Err(format!("{status}: {told}"));
        }
        let panics = Arc::new(Mutex::new(Vec::new()));
        let heard = panics.clone();
        // A node whose log nobody reads would stop when the pipe is full.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("panicked at") {
                    heard.lock().expect("no test panics here").push(line.clone());
                }
                if std::env::var_os("QMESH_TEST_LOG").is_some() {
                    eprintln!("node: {line}");
                }
            }
        });
        let ready: serde_json::Value = serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
        let address = |key: &str| ready[key].as_str().expect("an address").parse().expect("an address");
        let (http, quic) = (address("http"), address("quic"));
        Ok(Self { child: Some(child), folder: None, data: data.to_owned(), http, quic, ready, panics })
    }

    /// Panics that the node has told of: each is a defect, also where a task's end was all that came of it.
    pub fn panics(&self) -> Vec<String> {
        self.panics.lock().expect("no test panics there").clone()
    }

    /// Where HTTP listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where QUIC listens.
    pub fn quic(&self) -> SocketAddr {
        self.quic
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The line that told readiness.
    pub fn ready(&self) -> &serde_json::Value {
        &self.ready
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running node").id()
    }

    /// Runs a command of the CLI against this node.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, b"")
    }

    /// The same with bytes on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(QMESH)
            .args(arguments)
            .env("QMESH_NODE", self.quic.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // A command that does not read its input closes the pipe early.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        child.wait_with_output().expect("the command ends")
    }

    /// The trimmed standard output of a command that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with_input(arguments, b"")
    }

    /// The same with bytes on its standard input.
    pub fn ok_with_input(&self, arguments: &[&str], input: &[u8]) -> String {
        let output = self.run_with_input(arguments, input);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "qmesh {arguments:?}: {}: {told}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// Sends raw bytes to the HTTP door and reads until it closes or `wait` passes without a byte.
    pub fn raw_http(&self, request: &[u8], wait: Duration) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.http).expect("the HTTP door is open");
        stream.set_read_timeout(Some(wait)).expect("a timeout");
        // The door may answer and close before it has read all.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            answer.extend_from_slice(&piece[..count]);
        }
        answer
    }

    /// Takes over the folder with the data directory, so that it outlives the node; `None` when the caller made it.
    pub fn keep_folder(&mut self) -> Option<TempDir> {
        self.folder.take()
    }

    /// Asks the node to stop and returns its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        let mut child = self.child.take().expect("a running node");
        child.wait().expect("the node ends").code()
    }

    /// Kills the node at once, as a crash would, and returns its data directory's keeper.
    pub fn kill(mut self) -> Option<TempDir> {
        let mut child = self.child.take().expect("a running node");
        child.kill().expect("the node is killed");
        child.wait().expect("the node ends");
        self.folder.take()
    }

    /// Waits for the node to end by itself and returns its exit code.
    pub fn wait(mut self) -> Option<i32> {
        let mut child = self.child.take().expect("a running node");
        child.wait().expect("the node ends").code()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill {name}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Already ended is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The status line's code and the body of a raw HTTP answer.
pub fn parse_http(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer);
    let code = text.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code, body.to_owned())
}
