//! Vertices to put: random content, each sealed once, none alike.
//!
//! Promises: no two vertices of any two runs are alike; [`Ahead`] never waits for its thread. Does not: compress well.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::dag::archive::SealedVertex;
use crate::dag::vertex::{NAMESPACE_DEFAULT, Vertex};
use crate::ids::VertexId;

/// Bytes that payloads are cut from.
const POOL_BYTES: usize = 4 << 20;
/// Vertices that are handed over at once, so that a put wakes nobody.
const BATCH_VERTICES: usize = 256;
/// Batches of sealed vertices that wait to be put.
const BATCHES_AHEAD_MAX: usize = 16;
/// Numbers from here on are those of vertices that were sealed ahead.
const AHEAD_NUMBERS: u64 = 1 << 39;

/// Vertices that differ from those of every other run.
pub(super) struct Payloads {
    bytes: usize,
    run: u64,
    pool: Vec<u8>,
}

impl Payloads {
    pub(super) fn new(bytes: usize) -> Self {
        let run = crate::gateway::now_ms() ^ u64::from(std::process::id()) << 40;
        let words = (POOL_BYTES + bytes) / 8 + 1;
        let pool = (0..words as u64).flat_map(|word| scatter(run ^ word).to_le_bytes()).collect();
        Self { bytes, run, pool }
    }

    pub(super) fn vertex(&self, number: u64) -> Result<SealedVertex, String> {
        self.child(number, Vec::new())
    }

    pub(super) fn child(&self, number: u64, parents: Vec<VertexId>) -> Result<SealedVertex, String> {
        let from = scatter(number) as usize % POOL_BYTES;
        let mut payload = self.pool[from..from + self.bytes].to_vec();
        // The same piece of the pool may come again.
        let stamp = scatter(self.run ^ scatter(number)).to_le_bytes();
        let stamped = stamp.len().min(self.bytes);
        payload[..stamped].copy_from_slice(&stamp[..stamped]);
        let vertex = Vertex {
            namespace: NAMESPACE_DEFAULT.to_owned(),
            kind: "bench".to_owned(),
            author: None,
            timestamp_ms: self.run.wrapping_add(number) >> 1 & ((1 << 40) - 1),
            parents,
            labels: Default::default(),
            payload,
        };
        SealedVertex::seal(&vertex, None).map_err(|error| error.to_string())
    }
}

/// Vertices that a thread of its own seals ahead of their put.
pub(super) struct Ahead {
    payloads: Arc<Payloads>,
    batches: Receiver<Vec<SealedVertex>>,
    batch: RefCell<Vec<SealedVertex>>,
}

impl Ahead {
    pub(super) fn start(payloads: Payloads) -> std::io::Result<Self> {
        let (sealer, batches) = sync_channel(BATCHES_AHEAD_MAX);
        let payloads = Arc::new(payloads);
        let own = payloads.clone();
        std::thread::Builder::new().name("sealer".to_owned()).spawn(move || seal_ahead(&own, &sealer))?;
        Ok(Self { payloads, batches, batch: RefCell::default() })
    }

    /// The next one, sealed here when the thread is late.
    pub(super) fn vertex(&self, number: u64) -> Result<SealedVertex, String> {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty()
            && let Ok(next) = self.batches.try_recv()
        {
            *batch = next;
        }
        batch.pop().map_or_else(|| self.payloads.vertex(number), Ok)
    }
}

/// Until nobody wants any more.
fn seal_ahead(payloads: &Payloads, sealer: &SyncSender<Vec<SealedVertex>>) {
    for from in (AHEAD_NUMBERS..).step_by(BATCH_VERTICES) {
        let batch: Result<_, _> = (from..).take(BATCH_VERTICES).map(|number| payloads.vertex(number)).collect();
        // What cannot be sealed is told by who seals it again on the spot.
        let Ok(batch) = batch else { return };
        if sealer.send(batch).is_err() {
            return;
        }
    }
}

/// Steele, Lea, Flood: SplitMix64's finaliser; spreads consecutive numbers.
pub(super) fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
