//! How busy this node is, as it tells the other members.
//!
//! Promises: what is told is of the time since it was told last. Does not: judge it; who asks does.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::control::State;
use crate::membership::{Build, Load};
use crate::router::Shared;
use crate::runtime::process_cpu_us;
use crate::shard::Host;

/// See the file.
pub(super) struct Busy {
    host: Rc<Host>,
    shared: Arc<Shared>,
    states: watch::Receiver<Arc<State>>,
    told: Instant,
    cpu_us: u64,
    syncs: u64,
    sync_us: u64,
}

impl Busy {
    /// Of the node whose first core has `host`.
    pub(super) fn new(host: Rc<Host>, shared: Arc<Shared>, states: watch::Receiver<Arc<State>>) -> Self {
        Self { host, shared, states, told: Instant::now(), cpu_us: process_cpu_us(), syncs: 0, sync_us: 0 }
    }

    /// How busy it has been since the last call.
    pub(super) fn load(&mut self) -> Load {
        let (now, cpu_us) = (Instant::now(), process_cpu_us());
        let cores = self.shared.inboxes.len() as u64;
        let passed_us = (now - self.told).as_micros() as u64 * cores;
        let cpu_permille = ((cpu_us - self.cpu_us) * 1000).checked_div(passed_us).unwrap_or(0).min(1000);
        let stats: Vec<_> = self.host.logs().iter().map(|(_, log)| log.stats()).collect();
        let (syncs, sync_us): (u64, u64) =
            (stats.iter().map(|log| log.syncs).sum(), stats.iter().map(|log| log.sync_us_total).sum());
        let mean_us = (sync_us - self.sync_us).checked_div(syncs - self.syncs).unwrap_or(0);
        (self.told, self.cpu_us, self.syncs, self.sync_us) = (now, cpu_us, syncs, sync_us);
        let inbox_depth = self.shared.inboxes.iter().map(|inbox| inbox.waiting()).max().unwrap_or(0);
        Load {
            inbox_depth: inbox_depth as u32,
            cpu_permille: cpu_permille as u16,
            commit_latency_us: u32::try_from(mean_us).unwrap_or(u32::MAX),
            build: build(),
            epoch: self.states.borrow().cluster().map(|cluster| cluster.epoch()).unwrap_or_default(),
        }
    }
}

fn build() -> Build {
    let mut numbers = env!("CARGO_PKG_VERSION").split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    Build { major: next(), minor: next(), patch: next() }
}
