//! Gets of 1 KiB vertices, hot from the shard host's cache and cold from its log; opening a log of 10,000 and of 100,000 records.
//!
//! Limit, hot: one look-up in a table and one clone of a handle, the first bench of "read/hot"; the host adds the cache's
//! bookkeeping and the reply's channel. Limit, cold: the device's random reads, 8 KiB each by O_DIRECT (5,000–8,000 a second one
//! after the other, 25,000–52,000 with 64 in flight on the machine the design was measured on); the first bench of "read/cold" is
//! that, through the same backend at the same depth. Limit, open: a sealed segment costs its hint (one sequential read, one
//! index entry a record); one that is not sealed is read whole, since behind a torn frame may stand a whole one. The first
//! bench of "read/open" is reading and checksumming those, which are two of 64 MiB here whatever the log holds: the one in use
//! and the one ahead. Aim: a million records in two seconds.
//!
//! The files lie in cargo's target directory: put that on the device to be measured.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use qmesh::dag::archive::SealedVertex;
use qmesh::dag::skeleton;
use qmesh::dag::vertex::Vertex;
use qmesh::feed::{FEED_ITEMS_MAX, Item, Progress, Publisher, REF_EVENTS_MAX, follow};
use qmesh::ids::VertexId;
use qmesh::router::message::Message;
use qmesh::router::slots::SlotTable;
use qmesh::runtime::{Loop, inbox, spawn};
use qmesh::shard::{Host, HostParts, log_directory};
use qmesh_storage::io::{Disk, DiskFile, uring::UringDisk};
use qmesh_storage::wire::{crc, segment_name, segment_sequence};
use qmesh_storage::{BLOCK_BYTES, Committed, Index, Log, LogOptions, Observer, Opened, Record, Replayed};
use tokio::sync::{broadcast, oneshot};

mod stand;
use stand::{Questions, Stand};

/// Vertices that gets choose from.
const VERTICES: u32 = 10_000;
/// Content of one vertex or record, in bytes.
const PAYLOAD_BYTES: usize = 1024;
/// Vertices or records written before their answers are awaited.
const WRITE_BATCH: usize = 1000;
/// Ids of one get.
const BATCHES: [usize; 2] = [1, 64];
/// What the log reads at first for a record.
const COLD_READ_BYTES: usize = 2 * BLOCK_BYTES;
/// Holds all vertices.
const CACHE_BYTES_HOT: u64 = 256 << 20;
/// Holds none.
const CACHE_BYTES_COLD: u64 = 1;
/// One read of a whole segment, in bytes.
const PIECE_BYTES: usize = 4 << 20;
/// Steps from one id to the next; prime, so that all come in turn and none soon again.
const STRIDE: usize = 7919;

const SLOTS: u16 = 16;
const SHARDS: u16 = 4;

/// Gets, or bare reads of the device, so many times so many at once.
#[derive(Clone, Copy)]
enum Ask {
    Get { ids: usize, rounds: u64 },
    Device { reads: usize, rounds: u64 },
}

fn gets(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut group = criterion.benchmark_group("read/hot");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let ids: Vec<VertexId> = (0..VERTICES).map(|at| vertex(at).id()).collect();
    let table: HashMap<VertexId, SealedVertex> = (0..VERTICES).map(|at| (ids[at as usize], vertex(at))).collect();
    let mut at = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("limit: a look-up and a clone", |bencher| {
        bencher.iter(|| {
            at = (at + STRIDE) % ids.len();
            table.get(black_box(&ids[at])).cloned()
        });
    });
    let stand = host_stand(folder.path(), CACHE_BYTES_HOT, true);
    for ids in BATCHES {
        group.throughput(Throughput::Elements(ids as u64));
        group.bench_function(BenchmarkId::new("get, ids at once", ids), |bencher| {
            bencher.iter_custom(|rounds| stand.time(Ask::Get { ids, rounds }));
        });
    }
    group.finish();
    drop(stand);

    let mut group = criterion.benchmark_group("read/cold");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let stand = host_stand(folder.path(), CACHE_BYTES_COLD, false);
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("limit: random reads of 8 KiB, at once", batch), |bencher| {
            bencher.iter_custom(|rounds| stand.time(Ask::Device { reads: batch, rounds }));
        });
        group.bench_function(BenchmarkId::new("get, ids at once", batch), |bencher| {
            bencher.iter_custom(|rounds| stand.time(Ask::Get { ids: batch, rounds }));
        });
    }
    group.finish();
}

fn vertex(number: u32) -> SealedVertex {
    let vertex = Vertex {
        namespace: "default".to_owned(),
        kind: "bench".to_owned(),
        author: None,
        timestamp_ms: u64::from(number),
        parents: Vec::new(),
        labels: [].into(),
        payload: (0..PAYLOAD_BYTES).map(|at| (at as u32 * 31 + number) as u8).collect(),
    };
    SealedVertex::seal(&vertex, None).expect("within limits")
}

fn host_stand(directory: &Path, cache_bytes: u64, is_empty: bool) -> Stand<Ask> {
    let directory = directory.to_owned();
    Stand::start(Loop::Uring, move |asks| async move { serve(directory, cache_bytes, is_empty, asks).await })
}

async fn serve(directory: PathBuf, cache_bytes: u64, is_empty: bool, mut asks: Questions<Ask>) {
    let disk: Rc<dyn Disk> = Rc::new(UringDisk::start(true).expect("io_uring"));
    let host = host(&directory, cache_bytes, disk.clone()).await;
    let vertices: Vec<SealedVertex> = (0..VERTICES).map(vertex).collect();
    let ids: Vec<VertexId> = vertices.iter().map(SealedVertex::id).collect();
    if is_empty {
        for records in vertices.chunks(WRITE_BATCH) {
            let (reply, answer) = oneshot::channel();
            host.accept(Message::Put { records: records.to_vec(), reply });
            assert!(answer.await.expect("the host answers").iter().all(Result::is_ok), "durable");
        }
        // The first read fills the cache.
        get(&host, ids.clone()).await;
    }
    let segment = log_directory(&directory, 0).join(segment_name(1));
    let file = disk.open(&segment).await.expect("the first segment");
    let blocks = host.logs()[0].1.stats().bytes as usize / BLOCK_BYTES - COLD_READ_BYTES / BLOCK_BYTES;
    let mut at = 0;
    while let Some(ask) = asks.next().await {
        let began = Instant::now();
        match ask {
            Ask::Get { ids: count, rounds } => {
                for _ in 0..rounds {
                    let wanted = (0..count).map(|id| ids[(at + id * STRIDE) % ids.len()]).collect();
                    at = (at + count * STRIDE) % ids.len();
                    get(&host, wanted).await;
                }
            }
            Ask::Device { reads, rounds } => {
                for _ in 0..rounds {
                    let read =
                        |read| file.read_at(((at + read * STRIDE) % blocks * BLOCK_BYTES) as u64, COLD_READ_BYTES);
                    let read = join_all((0..reads).map(read)).await;
                    at = (at + reads * STRIDE) % blocks;
                    assert!(read.iter().all(Result::is_ok), "read");
                }
            }
        }
        asks.tell(began.elapsed());
    }
    let (reply, drained) = oneshot::channel();
    host.accept(Message::Drain { reply });
    drained.await.expect("the host drains");
}

async fn get(host: &Rc<Host>, ids: Vec<VertexId>) {
    let (reply, answer) = oneshot::channel();
    host.accept(Message::Get { ids, reply });
    let answers = answer.await.expect("the host answers");
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Some(_)))), "all were put");
}

/// A host of all shards, as a node with one core has it, without doors.
async fn host(directory: &Path, cache_bytes: u64, disk: Rc<dyn Disk>) -> Rc<Host> {
    let (writer, skeleton) = skeleton::new(SHARDS);
    let progress = std::sync::Arc::new(Progress::new(SHARDS));
    let (feed, followed) = inbox::<Item>(FEED_ITEMS_MAX);
    let (ref_events, _) = broadcast::channel(REF_EVENTS_MAX);
    let parts = HostParts {
        core: 0,
        core_count: 1,
        table: SlotTable::new(SLOTS, SHARDS, 1, 1),
        skeleton,
        progress: progress.clone(),
        publisher: Publisher::new(feed),
        disk,
        backend: "tokio-uring",
        directory: directory.to_owned(),
        log_options: LogOptions::default(),
        cache_bytes,
        consensus: None,
    };
    let host = Host::open(parts, Box::new(|| 0), |_| {}, |_, _| {}).await.expect("the log opens");
    spawn(follow(followed, writer, progress, ref_events));
    host
}

/// What is asked of a log that was left as a crash leaves it.
#[derive(Clone, Copy)]
enum Reopen {
    Unsealed { rounds: u64 },
    Log { rounds: u64 },
}

fn opens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read/open");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for records in [10_000u32, 100_000] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let directory = folder.path().join("log");
        // The driver ends with its loop, without closing the log: what is left has a tail to be scanned.
        drop(Stand::<()>::start(Loop::Uring, {
            let directory = directory.clone();
            move |_| async move { write(&directory, records).await }
        }));
        let stand = Stand::start(Loop::Uring, move |asks| async move { reopen(&directory, records, asks).await });
        group.throughput(Throughput::Elements(u64::from(records)));
        group.bench_function(BenchmarkId::new("limit: what is not sealed, read and checksummed", records), |bencher| {
            bencher.iter_custom(|rounds| stand.time(Reopen::Unsealed { rounds }));
        });
        group.bench_function(BenchmarkId::new("open and index", records), |bencher| {
            bencher.iter_custom(|rounds| stand.time(Reopen::Log { rounds }));
        });
    }
    group.finish();
}

async fn write(directory: &Path, records: u32) {
    let disk: Rc<dyn Disk> = Rc::new(UringDisk::start(true).expect("io_uring"));
    let indexing = Rc::new(Indexing::default());
    let opened = Log::open(disk.clone(), directory, LogOptions::default(), indexing, &mut |_, _| {}).await;
    let (log, driver, _) = opened.expect("an empty log opens");
    spawn(async move { driver.run().await.expect("the disk writes") });
    let mut written = 0;
    while written < records {
        let until = records.min(written + WRITE_BATCH as u32);
        while written < until && log.append(0, 1, &record(written)).is_ok() {
            written += 1;
        }
        while log.stats().records_committed < u64::from(written) {
            disk.pause(Duration::from_millis(1)).await;
        }
    }
}

fn record(number: u32) -> Record {
    let record = Record::build(1, blake3::hash(&number.to_le_bytes()).as_bytes(), PAYLOAD_BYTES, |mut buffer| {
        buffer.resize(buffer.len() + PAYLOAD_BYTES, number as u8);
        Ok::<_, qmesh_storage::RecordError>(buffer)
    });
    record.expect("within limits")
}

async fn reopen(directory: &Path, records: u32, mut asks: Questions<Reopen>) {
    let disk: Rc<dyn Disk> = Rc::new(UringDisk::start(true).expect("io_uring"));
    let found = open(&disk, directory, records).await;
    let mut unsealed = Vec::new();
    for name in disk.list(directory).await.expect("listed") {
        if segment_sequence(&name).is_some_and(|sequence| found.segments <= u64::from(sequence)) {
            unsealed.push(disk.open(&directory.join(name)).await.expect("opened"));
        }
    }
    while let Some(ask) = asks.next().await {
        let began = Instant::now();
        match ask {
            Reopen::Unsealed { rounds } => {
                for _ in 0..rounds {
                    for segment in &unsealed {
                        checksum(&**segment).await;
                    }
                }
            }
            Reopen::Log { rounds } => {
                for _ in 0..rounds {
                    black_box(open(&disk, directory, records).await);
                }
            }
        }
        asks.tell(began.elapsed());
    }
}

async fn checksum(segment: &dyn DiskFile) {
    let bytes = segment.bytes() as usize;
    for from in (0..bytes).step_by(PIECE_BYTES) {
        let piece = segment.read_at(from as u64, PIECE_BYTES.min(bytes - from)).await;
        black_box(crc(&piece.expect("read")));
    }
}

async fn open(disk: &Rc<dyn Disk>, directory: &Path, records: u32) -> Opened {
    let indexing = Rc::new(Indexing::default());
    let opened = Log::open(disk.clone(), directory, LogOptions::default(), indexing.clone(), &mut |_, _| {}).await;
    // The log and its driver are let go at once, as a crash would.
    let (_, _, opened) = opened.expect("the log opens");
    assert_eq!(indexing.0.borrow().len(), records as usize, "all records are found again");
    opened
}

/// Places of records, as a replica keeps them.
#[derive(Default)]
struct Indexing(RefCell<Index>);

impl Observer for Indexing {
    fn describe(&self, _: &Record) -> Vec<u8> {
        Vec::new()
    }

    fn replay(&self, item: Replayed<'_>) {
        self.0.borrow_mut().insert(item.key, item.location);
    }

    fn committed(&self, _: Committed<'_>) {}
}

criterion_group!(benches, gets, opens);
criterion_main!(benches);
