//! `qmesh demo`: a real cluster of several processes on this machine, and a prompt to break it.
//!
//! Promises: every member is a process of its own with its own data directory, started as a person would start it; what the prompt
//! does is what it says (kill is SIGKILL, pause is SIGSTOP). Does not: pretend. A partition between processes of one machine needs
//! network namespaces and is not offered here.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use clap::Args;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::Output;
use crate::error::Reason;

/// `qmesh demo …`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct DemoArguments {
    /// Members.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// Where the members keep their data; a folder of the system's for temporary files when it is not said.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the data when the demo ends.
    #[arg(long)]
    keep: bool,
    /// How the machine is driven.
    #[arg(long, value_name = "NAME|FILE", default_value = "laptop")]
    tuning: String,
}

struct Member {
    name: String,
    data: PathBuf,
    mesh: SocketAddr,
    http: SocketAddr,
    quic: SocketAddr,
    process: Option<Child>,
}

/// Runs `qmesh demo …`.
pub(in crate::cli) fn run(arguments: &DemoArguments, output: Output) -> Outcome {
    let folder = arguments
        .data
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("qmesh-demo-{}", std::process::id())));
    let mut members = Vec::new();
    let outcome = play(arguments, output, &folder, &mut members);
    for member in &mut members {
        member.end();
    }
    if !arguments.keep && arguments.data.is_none() {
        // Left behind it is only disk space; the demo itself went as it went.
        let _ = std::fs::remove_dir_all(&folder);
    }
    outcome
}

fn play(arguments: &DemoArguments, output: Output, folder: &Path, members: &mut Vec<Member>) -> Outcome {
    for number in 1..=arguments.nodes {
        let name = format!("n{number}");
        let (mesh, http, quic) = (free_port()?, free_port()?, free_port()?);
        let mut member = Member { data: folder.join(&name), name, mesh, http, quic, process: None };
        match members.first() {
            None => qmesh(&["init", "--name", &member.name, "--mesh", &mesh.to_string()], &member.data)?,
            Some(first) => {
                let token = Command::new(program()?)
                    .args(["token", "issue", "--node", &first.quic.to_string(), "-o", "table"])
                    .output()
                    .map_err(Failure::internal)?;
                let token = String::from_utf8_lossy(&token.stdout).trim().to_owned();
                let at = first.mesh.to_string();
                qmesh(
                    &["join", &at, "--token", &token, "--name", &member.name, "--mesh", &mesh.to_string()],
                    &member.data,
                )?
            }
        };
        member.start(&arguments.tuning)?;
        eprintln!("{} is up: http://{http}/mcp, quic {quic}, mesh {mesh}", member.name);
        members.push(member);
    }
    let first = &members[0];
    if output == Output::Table {
        println!(
            "\n{} members run; their data is in {}\n\nTry in another terminal:\n  export QMESH_NODE={}\n  qmesh cluster status\n  \
             echo hello | qmesh dag put --kind note -\n  qmesh bench put --in-flight 64\n\nHere: status, kill nK, start nK, pause nK, \
             resume nK, quit",
            members.len(),
            folder.display(),
            first.quic,
        );
    } else {
        let rows: Vec<serde_json::Value> = members
            .iter()
            .map(|member| {
                serde_json::json!({"name": member.name, "http": member.http, "quic": member.quic, "mesh": member.mesh,
                    "data": member.data, "pid": member.process.as_ref().map(Child::id)})
            })
            .collect();
        println!("{}", serde_json::json!({"event": "ready", "members": rows}));
    }
    prompt(arguments, members)
}

fn prompt(arguments: &DemoArguments, members: &mut [Member]) -> Outcome {
    let mut line = String::new();
    loop {
        print!("> ");
        let _ = io::stdout().flush();
        line.clear();
        if io::stdin().lock().read_line(&mut line).map_err(Failure::internal)? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let mut words = line.split_whitespace();
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let member = members.iter_mut().find(|member| member.name == name);
        match (verb, member) {
            ("", _) => {}
            ("quit" | "exit", _) => return Ok(ExitCode::SUCCESS),
            ("status", _) => match members.iter().find(|member| member.process.is_some()) {
                Some(member) => {
                    let at = member.quic.to_string();
                    let _ = Command::new(program()?).args(["cluster", "status", "--node", &at]).status();
                }
                None => println!("nobody lives; start nK"),
            },
            ("kill", Some(member)) => member.kill(),
            ("start", Some(member)) => {
                if let Err(failure) = member.start(&arguments.tuning) {
                    failure.report(Output::Table);
                }
            }
            ("pause", Some(member)) => member.signal("STOP"),
            ("resume", Some(member)) => member.signal("CONT"),
            _ => println!("status, kill nK, start nK, pause nK, resume nK, quit"),
        }
    }
}

impl Member {
    fn start(&mut self, tuning: &str) -> Result<(), Failure> {
        if self.process.is_some() {
            return Err(Failure::new(Reason::Conflict, format!("{} lives already", self.name)));
        }
        let log = std::fs::File::options().create(true).append(true).open(self.data.with_extension("log"));
        let log = log.map_err(Failure::internal)?;
        let mut process = Command::new(program()?)
            .args(["up", "-o", "json", "--tuning", tuning])
            .args(["--http", &self.http.to_string(), "--quic", &self.quic.to_string()])
            .arg("--data")
            .arg(&self.data)
            .stdout(Stdio::piped())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .map_err(Failure::internal)?;
        let mut ready = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready).map_err(Failure::internal)?;
        }
        if !ready.contains("\"ready\"") {
            let _ = process.wait();
            let log = self.data.with_extension("log");
            return Err(Failure::internal(format!("{} did not start; see {}", self.name, log.display())));
        }
        self.process = Some(process);
        Ok(())
    }

    fn kill(&mut self) {
        match self.process.take() {
            Some(mut process) => {
                // An error means that it has ended already.
                let _ = process.kill();
                let _ = process.wait();
            }
            None => println!("{} does not live", self.name),
        }
    }

    fn signal(&self, signal: &str) {
        match &self.process {
            Some(process) => {
                let _ = Command::new("kill").args([&format!("-{signal}"), &process.id().to_string()]).status();
            }
            None => println!("{} does not live", self.name),
        }
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = process.id().to_string();
            // One that is paused could not hear that it should end.
            let _ = Command::new("kill").args(["-CONT", &pid]).status();
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
            let _ = process.wait();
        }
    }
}

fn qmesh(arguments: &[&str], data: &Path) -> Result<(), Failure> {
    let done = Command::new(program()?).args(arguments).arg("--data").arg(data).args(["-o", "json"]).output();
    let done = done.map_err(Failure::internal)?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(Failure::internal(format!("qmesh {}: {why}", arguments.first().unwrap_or(&""))))
}

fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(Failure::internal)
}

/// A port that is free now, for TCP and UDP alike.
fn free_port() -> Result<SocketAddr, Failure> {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").map_err(Failure::internal)?;
    let address = tcp.local_addr().map_err(Failure::internal)?;
    drop(UdpSocket::bind(address).map_err(Failure::internal)?);
    Ok(address)
}
