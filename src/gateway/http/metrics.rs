//! What the door counts, and how a scraper reads it.
//!
//! Promises: a request is counted on its own core, in counters that no other core writes; the text is OpenMetrics, and every
//! figure in it was counted or asked for when it was scraped. A scrape of any core tells of all of them.
//! Does not: keep history.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use parking_lot::Mutex;

use super::coding::Coding;
use super::route::{ROUTES, UNMATCHED};
use crate::dag::skeleton::Counts;
use crate::gateway::NodeFacts;
use crate::gateway::decisions::Decisions;
use crate::gateway::upstream;
use crate::router::Questions;
use crate::router::consistency::AnsweredBy;
use crate::router::message::CoreStats;

/// Media type of the text.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Statuses that the door answers; another is counted as the last.
const STATUSES: [u16; 26] = [
    101, 426, 200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 412, 413, 415, 416, 422, 429,
    503, 507, 500,
];
/// Upper bounds of the latency buckets, in microseconds; one more bucket has what is slower.
const BUCKETS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// The counters of one core's door.
pub struct Counters {
    core: usize,
    routes: Vec<RouteCounters>,
    /// Connections accepted.
    pub accepted: Count,
    /// Connections that are open.
    pub open: Count,
    /// Connections refused because the core has as many as it takes.
    pub refused: Count,
    /// Connections cut because their client was too slow.
    pub cut: Count,
    /// What was done to answers in each content coding.
    pub(super) coded: [CodedCounters; Coding::ALL.len()],
    /// What this core's gate decided, where there is one.
    gate: Option<Arc<Decisions>>,
}

#[derive(Default)]
struct RouteCounters {
    statuses: [Count; STATUSES.len()],
    buckets: [Count; BUCKETS_US.len() + 1],
    microseconds: Count,
}

/// Answers in one content coding.
#[derive(Default)]
pub(super) struct CodedCounters {
    /// Answers.
    pub(super) answers: Count,
    /// Their bytes before.
    pub(super) plain_bytes: Count,
    /// Their bytes after.
    pub(super) coded_bytes: Count,
    /// Time of the core for it.
    pub(super) nanoseconds: Count,
}

/// A figure that one core writes and a scrape reads.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub fn add(&self, count: u64) {
        // Only one core writes: a load and a store need no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Takes one off.
    pub fn less(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// The figure.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of every core of every node in this process, by the node's id. Locked when a door opens or is scraped, never
/// on the path of a request.
static DOORS: Mutex<Vec<(String, Arc<Counters>)>> = Mutex::new(Vec::new());

/// Counters for the door of `core`, and those of its gate.
pub fn open_door(facts: &NodeFacts, core: usize, gate: Option<Arc<Decisions>>) -> Arc<Counters> {
    let counters = Arc::new(Counters {
        core,
        routes: (0..=UNMATCHED).map(|_| RouteCounters::default()).collect(),
        accepted: Count::default(),
        open: Count::default(),
        refused: Count::default(),
        cut: Count::default(),
        coded: Default::default(),
        gate,
    });
    let mut doors = DOORS.lock();
    doors.retain(|(node, door)| *node != facts.node || door.core != core);
    doors.push((facts.node.clone(), counters.clone()));
    counters
}

impl Counters {
    /// Counts a request of that row.
    pub fn request(&self, row: usize, status: StatusCode, taken: Duration) {
        let counters = &self.routes[row.min(UNMATCHED)];
        let status = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        counters.statuses[status].add(1);
        let microseconds = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|&bound| microseconds <= bound).unwrap_or(BUCKETS_US.len());
        counters.buckets[bucket].add(1);
        counters.microseconds.add(microseconds);
    }
}

/// The text of a scrape.
pub(super) fn render(
    facts: &NodeFacts,
    uptime: Duration,
    cores: &[CoreStats],
    graph: &GraphFigures<'_>,
    upstreams: &[upstream::Figure],
) -> String {
    let mut text = Text(String::with_capacity(32 << 10));
    text.family("qmesh_build", "info", "The build.");
    text.line("qmesh_build_info", &[("version", facts.version), ("node", &facts.node)], 1.0);
    text.family("qmesh_uptime_seconds", "gauge", "Time since the node started.");
    text.line("qmesh_uptime_seconds", &[], uptime.as_secs_f64());
    graph_figures(&mut text, graph);
    shard_figures(&mut text, cores);
    log_figures(&mut text, cores);
    core_figures(&mut text, cores);
    let doors: Vec<Arc<Counters>> =
        DOORS.lock().iter().filter(|(node, _)| *node == facts.node).map(|(_, door)| door.clone()).collect();
    door_figures(&mut text, &doors);
    gate_figures(&mut text, &doors);
    for figure in upstreams {
        text.family(figure.family, figure.kind, figure.about);
        for (upstream, value) in &figure.values {
            text.line(figure.sample, &[("upstream", upstream)], *value as f64);
        }
    }
    text.0.push_str("# EOF\n");
    text.0
}

/// The graph at the moment of a scrape.
pub(super) struct GraphFigures<'a> {
    pub(super) counts: Counts,
    pub(super) bytes: usize,
    pub(super) questions: &'a Questions,
}

fn graph_figures(text: &mut Text, figures: &GraphFigures<'_>) {
    let (graph, questions) = (figures.counts, figures.questions);
    for (name, about, value) in [
        ("qmesh_dag_vertices", "Vertices in the graph.", f64::from(graph.vertices)),
        ("qmesh_dag_edges", "Edges from a vertex to a parent.", f64::from(graph.edges)),
        ("qmesh_dag_roots", "Vertices without parents.", f64::from(graph.roots)),
        ("qmesh_dag_tips", "Vertices without children.", f64::from(graph.tips)),
        ("qmesh_dag_staged_vertices", "Vertices that wait for a parent.", graph.staged as f64),
        ("qmesh_dag_staged_bytes", "Memory of those vertices.", graph.staged_bytes as f64),
        ("qmesh_dag_max_generation", "The greatest generation.", f64::from(graph.generation_max)),
        ("qmesh_dag_skeleton_bytes", "Memory of the graph's shape.", figures.bytes as f64),
    ] {
        text.family(name, "gauge", about);
        text.line(name, &[], value);
    }
    for (name, about, value) in [
        ("qmesh_dag_questions", "Questions about the graph that were answered.", questions.count() as f64),
        ("qmesh_dag_question_seconds", "Time of cores in walks for them.", questions.walk_ns() as f64 / 1e9),
    ] {
        text.family(name, "counter", about);
        text.line(&sample(name, "counter"), &[], value);
    }
}

fn shard_figures(text: &mut Text, cores: &[CoreStats]) {
    type Figure = fn(&crate::router::message::ShardStats) -> u64;
    let figures: [(&str, &str, &str, Figure); 7] = [
        ("qmesh_shard_records", "gauge", "Records in the index.", |shard| shard.records),
        ("qmesh_shard_index_bytes", "gauge", "Memory of the index.", |shard| shard.index_bytes),
        ("qmesh_shard_refs", "gauge", "Refs.", |shard| shard.refs),
        ("qmesh_shard_committed_index", "gauge", "Last committed entry.", |shard| shard.committed),
        ("qmesh_shard_pending_records", "gauge", "Records that are not yet durable.", |shard| shard.pending),
        ("qmesh_dag_puts", "counter", "Vertices made durable.", |shard| shard.puts),
        ("qmesh_dag_gets", "counter", "Reads answered.", |shard| shard.gets),
    ];
    for (name, kind, about, figure) in figures {
        text.family(name, kind, about);
        for shard in cores.iter().flat_map(|core| &core.shards) {
            text.line(&sample(name, kind), &[("shard", &shard.shard.to_string())], figure(shard) as f64);
        }
    }
}

fn log_figures(text: &mut Text, cores: &[CoreStats]) {
    type Figure = fn(&crate::router::message::LogFigures) -> f64;
    let figures: [(&str, &str, &str, Figure); 10] = [
        ("qmesh_log_segments", "gauge", "Segments.", |log| log.segments as f64),
        ("qmesh_log_bytes", "counter", "Bytes of frames written since the log was made.", |log| log.bytes as f64),
        ("qmesh_log_rounds", "counter", "Commit rounds.", |log| log.rounds as f64),
        ("qmesh_log_records", "counter", "Records committed.", |log| log.records as f64),
        ("qmesh_log_sync_seconds", "counter", "Time of syncs.", |log| log.sync_us_total as f64 / 1e6),
        ("qmesh_log_sync_seconds_max", "gauge", "The longest sync.", |log| log.sync_us_max as f64 / 1e6),
        ("qmesh_log_scrubs", "counter", "Scrubs that read all sealed segments.", |log| log.scrubs as f64),
        ("qmesh_log_scrub_bytes", "counter", "Bytes that scrubs read and checked.", |log| log.scrub_bytes as f64),
        ("qmesh_log_scrub_damages", "gauge", "Damaged places that the last scrub found.", |log| {
            log.scrub_damages as f64
        }),
        ("qmesh_log_disk_full", "gauge", "1 while writes are refused.", |log| f64::from(u8::from(log.disk_full))),
    ];
    for (name, kind, about, figure) in figures {
        text.family(name, kind, about);
        for log in cores.iter().flat_map(|core| &core.logs) {
            text.line(&sample(name, kind), &[("log", &log.log.to_string()), ("backend", &log.backend)], figure(log));
        }
    }
}

fn core_figures(text: &mut Text, cores: &[CoreStats]) {
    type Figure = fn(&CoreStats) -> u64;
    let by: [(AnsweredBy, Figure); 2] =
        [(AnsweredBy::Primary, |core| core.reads_by_primary), (AnsweredBy::Replica, |core| core.reads_by_replica)];
    text.family(
        "qmesh_reads",
        "counter",
        "Reads of vertices and refs, by who answered: the primary, or this node as another replica.",
    );
    for core in cores {
        for (by, figure) in by {
            let labels = [("core", &*core.core.to_string()), ("answered", by.word())];
            text.line("qmesh_reads_total", &labels, figure(core) as f64);
        }
    }
    let figures: [(&str, &str, &str, Figure); 5] = [
        ("qmesh_cache_vertices", "gauge", "Vertices in the read cache.", |core| core.cache_vertices),
        ("qmesh_cache_bytes", "gauge", "Bytes in the read cache.", |core| core.cache_bytes),
        ("qmesh_cache_hits", "counter", "Reads that the cache answered.", |core| core.cache_hits),
        ("qmesh_cache_misses", "counter", "Reads that went to the log.", |core| core.cache_misses),
        ("qmesh_queue_depth", "gauge", "Messages waiting in the inbox.", |core| core.inbox_waiting),
    ];
    for (name, kind, about, figure) in figures {
        text.family(name, kind, about);
        for core in cores {
            text.line(&sample(name, kind), &[("core", &core.core.to_string())], figure(core) as f64);
        }
    }
}

fn door_figures(text: &mut Text, doors: &[Arc<Counters>]) {
    type Figure = fn(&Counters) -> &Count;
    let figures: [(&str, &str, &str, Figure); 4] = [
        ("http_server_connections", "counter", "Connections accepted.", |door| &door.accepted),
        ("http_server_open_connections", "gauge", "Connections that are open.", |door| &door.open),
        ("http_server_connections_refused", "counter", "Connections beyond the bound.", |door| &door.refused),
        ("http_server_connections_cut", "counter", "Connections of clients that were too slow.", |door| &door.cut),
    ];
    for (name, kind, about, figure) in figures {
        text.family(name, kind, about);
        for door in doors {
            text.line(&sample(name, kind), &[("core", &door.core.to_string())], figure(door).get() as f64);
        }
    }
    coded_figures(text, doors);
    let labels = |row: usize| match ROUTES.get(row) {
        Some(route) => (route.method, route.path),
        None => ("other", "other"),
    };
    let total = |row: usize, figure: &dyn Fn(&RouteCounters) -> &Count| -> u64 {
        doors.iter().map(|door| figure(&door.routes[row]).get()).sum()
    };
    text.family("http_server_requests", "counter", "Requests answered.");
    for row in 0..=UNMATCHED {
        let (method, path) = labels(row);
        for (at, status) in STATUSES.iter().enumerate() {
            let count = total(row, &|counters| &counters.statuses[at]);
            if 0 < count {
                let labels = [
                    ("http_request_method", method),
                    ("http_route", path),
                    ("http_response_status_code", &status.to_string()),
                ];
                text.line("http_server_requests_total", &labels, count as f64);
            }
        }
    }
    const DURATION: &str = "http_server_request_duration_seconds";
    text.family(DURATION, "histogram", "Time from the head of a request to the head of its answer.");
    for row in 0..=UNMATCHED {
        let (method, path) = labels(row);
        let labels = [("http_request_method", method), ("http_route", path)];
        let counts: Vec<u64> = (0..=BUCKETS_US.len()).map(|at| total(row, &|counters| &counters.buckets[at])).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            continue;
        }
        let mut below = 0;
        for (at, count) in counts.iter().enumerate() {
            below += count;
            let bound = BUCKETS_US.get(at).map_or_else(|| "+Inf".to_owned(), |&bound| (bound as f64 / 1e6).to_string());
            text.line(&format!("{DURATION}_bucket"), &[labels[0], labels[1], ("le", &bound)], below as f64);
        }
        text.line(&format!("{DURATION}_count"), &labels, all as f64);
        let microseconds = total(row, &|counters| &counters.microseconds);
        text.line(&format!("{DURATION}_sum"), &labels, microseconds as f64 / 1e6);
    }
}

fn coded_figures(text: &mut Text, doors: &[Arc<Counters>]) {
    type Figure = fn(&CodedCounters) -> f64;
    let figures: [(&str, &str, Figure); 4] = [
        ("http_server_coded_answers", "Answers sent in a content coding.", |coded| coded.answers.get() as f64),
        ("http_server_coded_plain_bytes", "Bytes of them before.", |coded| coded.plain_bytes.get() as f64),
        ("http_server_coded_bytes", "Bytes of them after.", |coded| coded.coded_bytes.get() as f64),
        ("http_server_coding_seconds", "Time of cores for it.", |coded| coded.nanoseconds.get() as f64 / 1e9),
    ];
    for (name, about, figure) in figures {
        text.family(name, "counter", about);
        for coding in Coding::ALL {
            let value = doors.iter().map(|door| figure(&door.coded[coding as usize])).sum();
            text.line(&sample(name, "counter"), &[("coding", coding.name())], value);
        }
    }
}

fn gate_figures(text: &mut Text, doors: &[Arc<Counters>]) {
    let gates: Vec<&Decisions> = doors.iter().filter_map(|door| door.gate.as_deref()).collect();
    let Some(first) = gates.first() else { return };
    const AUTH: &str = "qmesh_auth_decisions";
    text.family(AUTH, "counter", "Callers let in or refused, and why.");
    for (row, (decision, reason, _)) in first.auth_rows().enumerate() {
        let count: u64 = gates.iter().filter_map(|gate| gate.auth_rows().nth(row)).map(|(_, _, count)| count).sum();
        text.line(&sample(AUTH, "counter"), &[("decision", decision), ("reason", reason)], count as f64);
    }
    const RATE: &str = "qmesh_ratelimit_decisions";
    text.family(RATE, "counter", "Requests that their caller's rate let pass, or not.");
    for (row, (decision, _)) in first.rate_rows().into_iter().enumerate() {
        let count: u64 = gates.iter().map(|gate| gate.rate_rows()[row].1).sum();
        text.line(&sample(RATE, "counter"), &[("decision", decision)], count as f64);
    }
}

/// The name of a family's sample.
fn sample(name: &str, kind: &str) -> String {
    if kind == "counter" { format!("{name}_total") } else { name.to_owned() }
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, about: &str) {
        self.0.push_str(&format!("# TYPE {name} {kind}\n# HELP {name} {about}\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.0.push_str(&format!("{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' }));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0.push_str(&format!(" {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_2_5_a_scrape_tells_what_was_counted_on_every_core() {
        let facts = super::super::facts::tests_facts("scrape");
        let gate = Arc::new(Decisions::default());
        gate.rate(false);
        let doors = [open_door(&facts, 0, Some(gate.clone())), open_door(&facts, 1, Some(gate))];
        doors[0].request(0, StatusCode::CREATED, Duration::from_micros(90));
        doors[1].request(0, StatusCode::CREATED, Duration::from_micros(3_000));
        doors[1].request(UNMATCHED, StatusCode::NOT_FOUND, Duration::from_secs(60));
        doors[1].request(UNMATCHED, StatusCode::IM_A_TEAPOT, Duration::ZERO);
        let graph =
            Counts { vertices: 3, edges: 2, roots: 1, tips: 1, staged: 2, staged_bytes: 900, generation_max: 3 };
        let graph = GraphFigures { counts: graph, bytes: 300, questions: &Questions::default() };
        let text = render(&facts, Duration::from_secs(5), &[CoreStats::default()], &graph, &[]);
        for line in [
            "qmesh_dag_vertices 3",
            "qmesh_dag_staged_bytes 900",
            "http_server_requests_total{http_request_method=\"POST\",http_route=\"/api/v1/dag/vertices\",\
             http_response_status_code=\"201\"} 2",
            "http_server_requests_total{http_request_method=\"other\",http_route=\"other\",\
             http_response_status_code=\"404\"} 1",
            "http_server_request_duration_seconds_bucket{http_request_method=\"POST\",\
             http_route=\"/api/v1/dag/vertices\",le=\"0.0001\"} 1",
            "http_server_request_duration_seconds_bucket{http_request_method=\"POST\",\
             http_route=\"/api/v1/dag/vertices\",le=\"+Inf\"} 2",
            "http_server_request_duration_seconds_sum{http_request_method=\"POST\",\
             http_route=\"/api/v1/dag/vertices\"} 0.00309",
            "qmesh_cache_hits_total{core=\"0\"} 0",
            "qmesh_ratelimit_decisions_total{decision=\"limited\"} 2",
            "qmesh_auth_decisions_total{decision=\"refused\",reason=\"audience\"} 0",
            "qmesh_reads_total{core=\"0\",answered=\"replica\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut once = families.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), families.len(), "a family is told twice");
    }
}
