//! What the tests of the log share: an observer that remembers, and a core that can lose its power.
#![allow(dead_code, reason = "each test crate uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use qmesh_storage::io::Disk;
use qmesh_storage::{
    Committed, Driver, Failed, Location, Log, LogOptions, Observer, OpenError, Opened, Record, Replayed,
};
use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) shard: u16,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) key: [u8; 32],
    pub(crate) location: Location,
    pub(crate) hint: Vec<u8>,
}

/// Shard, term, index and places of a committed entry.
pub(crate) type Told = (u16, u64, u64, Vec<Location>);

/// Remembers everything it is told.
#[derive(Default)]
pub(crate) struct Memo {
    pub(crate) replayed: RefCell<Vec<Seen>>,
    pub(crate) committed: RefCell<Vec<Told>>,
}

impl Observer for Memo {
    fn describe(&self, record: &Record) -> Vec<u8> {
        record.body()[..record.body().len().min(5)].to_vec()
    }

    fn replay(&self, item: Replayed<'_>) {
        let Replayed { shard, term, index, location, key, hint, .. } = item;
        self.replayed.borrow_mut().push(Seen { shard, term, index, key: *key, location, hint: hint.to_vec() });
    }

    fn committed(&self, entry: Committed<'_>) {
        self.committed.borrow_mut().push((entry.shard, entry.term, entry.index, entry.locations.to_vec()));
    }
}

pub(crate) fn record(number: u64, body_bytes: usize) -> Record {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key[8..16].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let body: Vec<u8> = (0..body_bytes).map(|at| (at as u64 ^ number) as u8).collect();
    Record::build::<qmesh_storage::RecordError>(3, &key, body_bytes, |mut buffer| {
        buffer.extend_from_slice(&body);
        Ok(buffer)
    })
    .unwrap()
}

pub(crate) fn number(key: &[u8; 32]) -> u64 {
    u64::from_le_bytes(key[..8].try_into().unwrap())
}

/// Small segments, so that a few records rotate them.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        round_bytes_max: 64 << 10,
        backlog_bytes_max: 1 << 20,
        round_bytes_eager: 4 << 10,
        prepare_retry_ms: 0,
        ..LogOptions::default()
    }
}

pub(crate) async fn open(
    disk: &Rc<dyn Disk>,
    directory: &Path,
    options: &LogOptions,
) -> Result<(Log, Driver, Opened, Rc<Memo>), OpenError> {
    let memo = Rc::new(Memo::default());
    let (log, driver, opened) =
        Log::open(disk.clone(), directory, options.clone(), memo.clone(), &mut |_, _| ()).await?;
    Ok((log, driver, opened, memo))
}

/// Runs `scene` on a core of its own; what it spawned is dropped with it, as in a kill.
pub(crate) fn on_core<T>(scene: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, scene)
}

pub(crate) fn drive(driver: Driver) -> Rc<RefCell<Option<Result<(), Failed>>>> {
    let outcome = Rc::new(RefCell::new(None));
    let told = outcome.clone();
    tokio::task::spawn_local(async move {
        let ended = driver.run().await;
        *told.borrow_mut() = Some(ended);
    });
    outcome
}

/// Lets the core turn until `done`, or fails.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2_000_000 {
        if done() {
            return;
        }
        turn().await;
    }
    panic!("never came: {what}");
}

/// Lets other tasks run. A plain wake: tokio's own `yield_now` keeps the loop from parking, and tokio-uring submits when it parks.
pub(crate) async fn turn() {
    let mut turned = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut turned, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
