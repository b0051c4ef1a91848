//! Appends until they are durable: 1, 16, 64 and 256 writers of 1 KiB records, each with one record in flight.
//!
//! Limit: the device's sync. One write and one `fdatasync` cost about 205 µs on the machine the design was measured on, whether
//! they carry 4 KiB or 256 KiB; a log that syncs once for all who wait is bound by syncs a second times the writers. The first
//! bench of each size is that limit here: one thread, O_DIRECT, the same batch into a file that was written before. Two rounds
//! in flight may go beyond it, because the device merges syncs.
//!
//! The files lie in cargo's target directory: put that on the device to be measured.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use qmesh::runtime::{Loop, spawn};
use qmesh_storage::io::{Disk, glommio::GlommioDisk, threads::ThreadDisk, uring::UringDisk};
use qmesh_storage::{
    AlignedBuffer, AppendError, BLOCK_BYTES, Committed, Log, LogOptions, Observer, Record, RecordError, Replayed,
};
use tokio::sync::oneshot;

mod stand;
use stand::{Questions, Stand};

/// Content of one record, in bytes.
const BODY_BYTES: usize = 1024;
/// Threads of the blocking backend, as the node has them for a core.
const DISK_THREADS: usize = 4;
/// Bytes of the file that shows the limit; it is written over and over.
const LIMIT_FILE_BYTES: usize = 64 << 20;
const WRITERS: [u64; 4] = [1, 16, 64, 256];

#[derive(Clone, Copy)]
enum Backend {
    TokioUring,
    Threads,
    Glommio,
}

/// Each writer appends so many records, one after the other is durable.
struct Wave {
    writers: u64,
    records_each: u64,
}

fn appends(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut group = criterion.benchmark_group("log/append to durable");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(1500));
    for writers in WRITERS {
        let mut limit = Limit::prepare(&folder.path().join("limit"), writers);
        group.throughput(Throughput::Elements(writers));
        group.bench_function(BenchmarkId::new("limit: pwrite and fdatasync of the batch", writers), |bencher| {
            bencher.iter(|| limit.write());
        });
    }
    for (name, backend) in
        [("tokio-uring", Backend::TokioUring), ("threads", Backend::Threads), ("glommio", Backend::Glommio)]
    {
        let directory = folder.path().join(name);
        let stand = Stand::start(Loop::Uring, move |waves| async move { serve(backend, &directory, waves).await });
        for writers in WRITERS {
            group.throughput(Throughput::Elements(writers));
            group.bench_function(BenchmarkId::new(name, writers), |bencher| {
                bencher.iter_custom(|records_each| stand.time(Wave { writers, records_each }));
            });
        }
    }
    group.finish();
}

async fn serve(backend: Backend, directory: &Path, mut waves: Questions<Wave>) {
    let disk: Rc<dyn Disk> = match backend {
        Backend::TokioUring => Rc::new(UringDisk::start(true).expect("io_uring")),
        Backend::Threads => Rc::new(ThreadDisk::start(DISK_THREADS, true).expect("threads")),
        Backend::Glommio => Rc::new(GlommioDisk::start(None).expect("io_uring")),
    };
    let acknowledgements = Rc::new(Acknowledgements::default());
    let observer: Rc<dyn Observer> = acknowledgements.clone();
    let options = LogOptions::default();
    let opened = Log::open(disk.clone(), directory, options, observer, &mut |_, _| {}).await;
    let (log, driver, _) = opened.expect("an empty log opens");
    spawn(async move { driver.run().await.expect("the disk writes") });
    let record = record().expect("within limits");
    while let Some(Wave { writers, records_each }) = waves.next().await {
        let writer = async || {
            for _ in 0..records_each {
                let index = append(&log, &record, &*disk).await;
                acknowledgements.wait(index).await;
            }
        };
        let began = Instant::now();
        futures_util::future::join_all((0..writers).map(|_| writer())).await;
        waves.tell(began.elapsed());
    }
    log.close().await.expect("the log closes");
}

async fn append(log: &Log, record: &Record, disk: &dyn Disk) -> u64 {
    loop {
        match log.append(0, 1, record) {
            Ok(index) => return index,
            // The next segment is not yet written: that wait is part of what a writer sees.
            Err(AppendError::Busy { retry_after_ms }) => disk.pause(Duration::from_millis(retry_after_ms.into())).await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn record() -> Result<Record, RecordError> {
    Record::build(1, &[7; 32], BODY_BYTES, |mut buffer| {
        buffer.resize(buffer.len() + BODY_BYTES, 0xa5);
        Ok(buffer)
    })
}

/// Writers that wait for an entry, in the order of entries.
#[derive(Default)]
struct Acknowledgements(RefCell<VecDeque<(u64, oneshot::Sender<()>)>>);

impl Acknowledgements {
    async fn wait(&self, index: u64) {
        let (sender, durable) = oneshot::channel();
        self.0.borrow_mut().push_back((index, sender));
        durable.await.expect("the log answers");
    }
}

impl Observer for Acknowledgements {
    fn describe(&self, _: &Record) -> Vec<u8> {
        Vec::new()
    }

    fn replay(&self, _: Replayed<'_>) {}

    fn committed(&self, entry: Committed<'_>) {
        let mut waiting = self.0.borrow_mut();
        while waiting.front().is_some_and(|(index, _)| *index <= entry.index) {
            let (_, writer) = waiting.pop_front().expect("seen above");
            writer.send(()).expect("the writer waits");
        }
    }
}

/// The least that makes a batch durable.
struct Limit {
    file: std::fs::File,
    batch: AlignedBuffer,
    offset: usize,
}

impl Limit {
    fn prepare(path: &Path, writers: u64) -> Self {
        let bytes = writers as usize * record().expect("within limits").bytes().len();
        let mut batch = AlignedBuffer::new();
        batch.resize(bytes.next_multiple_of(BLOCK_BYTES), 0xa5);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).custom_flags(libc::O_DIRECT).open(path);
        let file = file.expect("O_DIRECT is known here");
        let mut zeros = AlignedBuffer::new();
        zeros.resize(LIMIT_FILE_BYTES, 0);
        file.write_all_at(&zeros, 0).and_then(|()| file.sync_all()).expect("room for the file");
        Self { file, batch, offset: 0 }
    }

    fn write(&mut self) {
        if LIMIT_FILE_BYTES < self.offset + self.batch.len() {
            self.offset = 0;
        }
        self.file.write_all_at(black_box(&self.batch), self.offset as u64).expect("written");
        self.file.sync_data().expect("synced");
        self.offset += self.batch.len();
    }
}

criterion_group!(benches, appends);
criterion_main!(benches);
