//! `qmesh bench`: loads a running node and tells rates, percentiles and the server's CPU an operation.
//!
//! Promises: real requests through the client library or the HTTP door; the server's CPU is taken from its own figures before and
//! after, so it covers just what was counted. Does not: compare with anything; run both in one session and compare yourself.

mod acknowledged;
mod disk;
pub mod load;
mod log;
mod mcp;
mod payloads;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::failure::{EXIT_CHECK_FAILED, Failure, Outcome as Ended};
use super::output::Output;
use super::session::{Global, Session};
use crate::client::{ConnectOptions, Node};
use crate::dag::archive::SealedVertex;
use crate::gateway::quic::wire::QueryRequest;
use crate::ids::VertexId;
use crate::router::PutOptions;
use load::{Outcome, Plan};
use payloads::{Ahead, Payloads, scatter};

/// Vertices that `bench get` writes first, so that it reads what is there.
const GET_VERTICES: u64 = 10_000;
/// Vertices of one put while preparing.
const PREPARE_BATCH: u64 = 256;

/// Load a running node and measure it.
#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Durable puts of vertices of --size bytes, each with its own random payload.
    #[command(after_help = "Example: qmesh bench put --in-flight 64 --seconds 10 -o json")]
    Put(Load),
    /// Gets of vertices that were put before (hot after the first read).
    #[command(after_help = "Example: qmesh bench get --in-flight 64")]
    Get(Load),
    /// Ancestor walks from --root (default: a tip), counted as walks; --limit bounds each.
    #[command(after_help = "Example: qmesh bench walk --root git:HASH --limit 1000")]
    Walk {
        /// How much load, and how long.
        #[command(flatten)]
        load: Load,
        /// Where each walk begins.
        #[arg(long)]
        root: Option<String>,
        /// Vertices of one walk, at most.
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
    /// MCP tools/call over HTTP, one connection for each in flight.
    #[command(after_help = "Example: qmesh bench mcp --in-flight 32\n         \
        qmesh bench mcp --url http://127.0.0.1:7501/mcp --tool echo --arguments '{\"message\":\"hi\"}'")]
    Mcp {
        /// How much load, and how long.
        #[command(flatten)]
        load: Load,
        /// The endpoint; default: this node's /mcp.
        #[arg(long)]
        url: Option<String>,
        /// The tool; default: dag_get of a vertex of --size bytes.
        #[arg(long, requires = "arguments")]
        tool: Option<String>,
        /// Its arguments, as a JSON object.
        #[arg(long)]
        arguments: Option<String>,
        /// A file with an access token that every call shows.
        #[arg(long, value_name = "FILE")]
        access_token_file: Option<PathBuf>,
    },
    /// Puts a history of so many vertices, a line of work with short branches and merges, and tells how long it took.
    #[command(after_help = "Example: qmesh bench fill --vertices 1000000 --size 100")]
    Fill {
        /// How many.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        vertices: u64,
        /// Payload of one vertex, in bytes.
        #[arg(long, default_value_t = 100)]
        size: usize,
    },
    /// Durable appends to a log in this process, without a node: what the log alone can do.
    #[command(after_help = "Example: qmesh bench log --directory /var/lib --in-flight 64")]
    Log(log::LogLoad),
    /// Rounds of whole blocks, written and synced, without a log: what the disk alone can do.
    #[command(after_help = "Example: qmesh bench disk --directory /var/lib --round-bytes 65536 --rounds-in-flight 2")]
    Disk(disk::Disk),
    /// Writes vertices and notes each id once it is acknowledged, or checks that all noted ids can be read: for crash tests.
    Acknowledged {
        /// Append the id of every acknowledged vertex to this file, until the node is gone or --seconds are over.
        #[arg(long, conflicts_with = "verify", required_unless_present = "verify")]
        append: Option<PathBuf>,
        /// Read back every id in this file and verify it; exit 1 when one is missing.
        #[arg(long)]
        verify: Option<PathBuf>,
        /// How much load, and how long.
        #[command(flatten)]
        load: Load,
    },
}

/// How much load, and how long.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Operations in flight (closed loop).
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub in_flight: u32,
    /// Operations a second (open loop): latency counts from when an operation was due.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Seconds before counting begins.
    #[arg(long, default_value_t = 2.0)]
    pub warm: f64,
    /// Payload of one vertex, in bytes.
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// QUIC connections over which the operations are spread; the kernel spreads connections over the node's cores.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
}

impl Load {
    fn plan(&self) -> Plan {
        Plan {
            in_flight: self.in_flight as usize,
            rate: self.rate,
            warm: Duration::from_secs_f64(self.warm.clamp(0.0, 3600.0)),
            measured: Duration::from_secs_f64(self.seconds.clamp(0.01, 3600.0)),
        }
    }
}

/// Runs one bench.
pub fn run(global: Global, bench: Bench) -> ExitCode {
    let bench = match bench {
        Bench::Disk(disk) => return disk::run(&disk, global.output),
        Bench::Log(load) => return log::run(load, global.output),
        of_a_node => of_a_node,
    };
    super::session::run(global, async move |session| match bench {
        Bench::Put(load) => put(session, &load).await,
        Bench::Get(load) => get(session, &load).await,
        Bench::Walk { load, root, limit } => walk(session, &load, root, limit).await,
        Bench::Mcp { load, url, tool, arguments, access_token_file } => {
            mcp::run(session, &load, url, tool.zip(arguments), access_token_file.as_deref()).await
        }
        Bench::Fill { vertices, size } => fill(session, vertices, size).await,
        Bench::Acknowledged { append: Some(file), load, .. } => acknowledged::append(session, &load, &file).await,
        Bench::Acknowledged { verify: Some(file), .. } => acknowledged::verify(session, &file).await,
        Bench::Acknowledged { .. } => Err(Failure::usage("name a file with --append or --verify")),
        Bench::Disk(_) | Bench::Log(_) => unreachable!("they need no node and ran above"),
    })
}

async fn put(session: &Session, load: &Load) -> Ended {
    let nodes = connect(session, load).await?;
    // The node is to be measured, not how fast this process hashes.
    let ahead = Rc::new(Ahead::start(Payloads::new(load.size)).map_err(Failure::internal)?);
    let operation = move |number: u64| {
        let (node, ahead) = (nodes[number as usize % nodes.len()].clone(), ahead.clone());
        async move {
            let vertex = ahead.vertex(number)?;
            put_one(&node, &vertex).await
        }
    };
    measured(session, "put", load, operation).await
}

/// Each vertex follows the one before it; every fourth merges another, not far back.
async fn fill(session: &Session, vertices: u64, size: usize) -> Ended {
    const REACH: usize = 80;
    let (node, payloads) = (session.node().await?, Payloads::new(size));
    let mut latest: Vec<VertexId> = Vec::new();
    let began = Instant::now();
    for from in (0..vertices).step_by(PREPARE_BATCH as usize) {
        let mut batch = Vec::new();
        for number in from..(from + PREPARE_BATCH).min(vertices) {
            let mut parents: Vec<VertexId> = latest.last().copied().into_iter().collect();
            let other = latest.len().checked_sub(2 + scatter(number) as usize % REACH).map(|at| latest[at]);
            parents.extend(other.filter(|_| number % 4 == 0));
            let vertex = payloads.child(number, parents).map_err(Failure::internal)?;
            latest.push(vertex.id());
            batch.push(vertex);
        }
        for outcome in node.put(&batch, PutOptions::default()).await? {
            outcome.map_err(|refusal| Failure::new(refusal.reason, refusal.detail))?;
        }
        latest.drain(..latest.len().saturating_sub(2 * REACH));
    }
    let seconds = began.elapsed().as_secs_f64();
    if session.output().is_json() {
        println!("{}", serde_json::json!({ "workload": "fill", "vertices": vertices, "took_s": seconds }));
    } else {
        println!("{vertices} vertices in {seconds:.2} s");
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(session: &Session, load: &Load) -> Ended {
    let nodes = connect(session, load).await?;
    let payloads = Payloads::new(load.size);
    let mut ids = Vec::new();
    for from in (0..GET_VERTICES).step_by(PREPARE_BATCH as usize) {
        let vertices: Result<Vec<SealedVertex>, String> =
            (from..(from + PREPARE_BATCH).min(GET_VERTICES)).map(|number| payloads.vertex(number)).collect();
        let vertices = vertices.map_err(Failure::internal)?;
        for outcome in nodes[0].put(&vertices, PutOptions::default()).await? {
            outcome.map_err(|refusal| Failure::new(refusal.reason, refusal.detail))?;
        }
        ids.extend(vertices.iter().map(SealedVertex::id));
    }
    let ids = Rc::new(ids);
    let operation = move |number: u64| {
        let node = nodes[number as usize % nodes.len()].clone();
        let id = ids[(scatter(number) % ids.len() as u64) as usize];
        async move {
            match node.get(id).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(format!("{id} is gone")),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    measured(session, "get", load, operation).await
}

async fn walk(session: &Session, load: &Load, root: Option<String>, limit: u32) -> Ended {
    let nodes = connect(session, load).await?;
    let root = match root {
        Some(root) => root,
        None => tip(&nodes[0]).await?,
    };
    let request = Rc::new(QueryRequest {
        verb: "ancestors".to_owned(),
        ids: vec![root],
        limit: Some(limit),
        ..QueryRequest::default()
    });
    let operation = move |number: u64| {
        let (node, request) = (nodes[number as usize % nodes.len()].clone(), request.clone());
        async move {
            let mut answer = node.query(&request).await.map_err(|error| error.to_string())?;
            while answer.next().await.map_err(|error| error.to_string())?.is_some() {}
            Ok(())
        }
    };
    measured(session, "walk", load, operation).await
}

async fn tip(node: &Node) -> Result<String, Failure> {
    use crate::gateway::quic::wire::QueryFrame;
    let request = QueryRequest { verb: "tips".to_owned(), limit: Some(1), ..QueryRequest::default() };
    let mut answer = node.query(&request).await?;
    while let Some(frame) = answer.next().await? {
        if let QueryFrame::Ids(ids) = frame
            && let Some(id) = ids.first_chunk::<32>()
        {
            return Ok(VertexId(*id).to_string());
        }
    }
    Err(Failure::usage("the node holds no vertex yet; import something, or name --root"))
}

/// Runs the operation by the plan, takes the server's CPU around what is counted, prints.
async fn measured<O, F>(session: &Session, workload: &str, load: &Load, operation: O) -> Ended
where
    O: Fn(u64) -> F + 'static,
    F: Future<Output = Result<(), String>> + 'static,
{
    let node = session.node().await?;
    let marks = RefCell::new(Vec::new());
    let mark = async || {
        if let Ok(figures) = node.stats().await {
            marks.borrow_mut().push(Mark::of(&figures));
        }
    };
    let mut outcome = load::run(workload, load.plan(), operation, mark).await;
    if let [before, after] = marks.borrow()[..]
        && 0 < outcome.ops
    {
        outcome.server_cpu_us = Some((after.cpu_us - before.cpu_us) as f64 / outcome.ops as f64);
        outcome.tell_rounds(after.rounds - before.rounds, after.bytes - before.bytes);
    }
    print(session.output(), &outcome)
}

/// The server's sums when counting begins and when it ends.
#[derive(Clone, Copy)]
struct Mark {
    cpu_us: u64,
    rounds: u64,
    bytes: u64,
}

impl Mark {
    fn of(figures: &serde_json::Value) -> Self {
        let logs =
            || figures["cores"].as_array().into_iter().flatten().flat_map(|core| core["logs"].as_array()).flatten();
        let sum = |name: &str| logs().filter_map(|log| log[name].as_u64()).sum();
        Self { cpu_us: figures["cpu_us"].as_u64().unwrap_or(0), rounds: sum("rounds"), bytes: sum("bytes") }
    }
}

fn print(output: Output, outcome: &Outcome) -> Ended {
    let Outcome { workload, load, ops_per_s, p50_us, p99_us, p999_us, max_us, errors, .. } = outcome;
    if output.is_json() {
        let line = serde_json::to_string(outcome).map_err(Failure::internal)?;
        println!("{line}");
    } else {
        println!("{workload}, {load}: {ops_per_s:.0} op/s");
        println!("latency us: p50 {p50_us:.0}  p99 {p99_us:.0}  p99.9 {p999_us:.0}  max {max_us:.0}");
        if let Some(cpu) = outcome.server_cpu_us {
            println!(
                "{}: {cpu:.1} us an operation",
                if matches!(workload.as_str(), "log" | "disk") { "CPU" } else { "server CPU" }
            );
        }
        if let (Some(rounds), Some(bytes)) = (outcome.rounds_per_s, outcome.round_bytes) {
            println!("commit rounds: {rounds:.0} a second of {bytes:.0} bytes");
        }
        match &outcome.first_error {
            Some(sentence) => println!("errors: {errors}, the first: {sentence}"),
            None => println!("errors: 0"),
        }
    }
    Ok(if outcome.ops == 0 { ExitCode::from(EXIT_CHECK_FAILED) } else { ExitCode::SUCCESS })
}

async fn connect(session: &Session, load: &Load) -> Result<Vec<Rc<Node>>, Failure> {
    let options = ConnectOptions { authority: session.global.ca.clone(), timeout: session.global.timeout.0 };
    let mut nodes = Vec::new();
    for _ in 0..load.connections {
        nodes.push(Rc::new(Node::connect(&session.global.node, &options).await?));
    }
    Ok(nodes)
}

async fn put_one(node: &Node, vertex: &SealedVertex) -> Result<(), String> {
    let outcomes = node.put(std::slice::from_ref(vertex), PutOptions::default()).await;
    match outcomes.map_err(|error| error.to_string())?.pop() {
        Some(Ok(_)) => Ok(()),
        Some(Err(refusal)) => Err(refusal.to_string()),
        None => Err("the put was not answered".to_owned()),
    }
}
