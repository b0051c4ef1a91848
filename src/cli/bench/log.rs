//! `qmesh bench log`: durable appends to a log in this process, without doors, graph or hashing.
//!
//! Promises: the log, its options and its disk are those of a node with the same profile; each writer waits until its record is
//! durable and its key is in the index; the log is removed afterwards. Does not: compare with anything.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use qmesh_storage::io::{Disk, glommio::GlommioDisk, threads::ThreadDisk, uring::UringDisk};
use qmesh_storage::{AppendError, Committed, Index, Log, Observer, Record, RecordError, Replayed};
use tokio::sync::oneshot;

use super::load::{self, Outcome, Plan};
use super::payloads::scatter;
use super::{Load, print};
use crate::cli::failure::{Failure, Outcome as Ended};
use crate::cli::output::Output;
use crate::config::{Backend, Host, Profile, resolve};
use crate::node::{DISK_THREADS, log_options};
use crate::runtime::{CorePlan, Loop, process_cpu_us, start_core};

/// Bytes that payloads are cut from.
const POOL_BYTES: usize = 4 << 20;
/// Largest content of one record, in bytes.
const CONTENT_BYTES_MAX: usize = 1 << 20;

/// `qmesh bench log …`
#[derive(Clone, Debug, Args)]
pub struct LogLoad {
    /// Where the log is made, and removed afterwards: the disk to be measured.
    #[arg(long, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    /// The tuning profile, by name or file.
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    tuning: String,
    /// How much load, and how long.
    #[command(flatten)]
    load: Load,
}

/// Runs `qmesh bench log`.
pub(super) fn run(asked: LogLoad, output: Output) -> ExitCode {
    let directory = asked.directory.join(format!("qmesh-bench-log-{}", std::process::id()));
    let measured = measure(&asked, &directory);
    // Not there when the log could not be made.
    let _ = std::fs::remove_dir_all(&directory);
    let ended: Ended = measured.and_then(|outcome| print(output, &outcome));
    ended.unwrap_or_else(|failure| failure.report(output))
}

fn measure(asked: &LogLoad, directory: &Path) -> Result<Outcome, Failure> {
    let content_bytes = asked.load.size;
    if CONTENT_BYTES_MAX < content_bytes {
        return Err(Failure::usage(format!("--size {content_bytes}: at most {CONTENT_BYTES_MAX} bytes")));
    }
    let profile = Profile::named_or_file(&asked.tuning).map_err(|error| Failure::usage(error.to_string()))?;
    let host = Host::read(Some(&asked.directory));
    let resolved = resolve(&profile, &host).map_err(|error| Failure::usage(error.to_string()))?;
    let backend = resolved.storage.backend;
    let event_loop = if backend == Backend::Threads { Loop::Plain } else { Loop::Uring };
    let (options, plan, directory) = (log_options(&resolved), asked.load.plan(), directory.to_owned());
    let (tell, told) = std::sync::mpsc::channel();
    let core = start_core(CorePlan { index: 0, cpu: None, event_loop }, move || async move {
        // The receiver waits below until this core ends.
        let _ = tell.send(append(backend, &directory, options, content_bytes, plan).await);
    });
    let core = core.map_err(|error| Failure::internal(format!("no thread: {error}")))?;
    let outcome = told.recv().map_err(|_| Failure::internal("the core ended without an answer"))?;
    match core.join() {
        Ok(ended) => ended.map_err(Failure::internal)?,
        Err(_) => return Err(Failure::internal("the core panicked")),
    }
    outcome
}

async fn append(
    backend: Backend,
    directory: &Path,
    options: qmesh_storage::LogOptions,
    content_bytes: usize,
    plan: Plan,
) -> Result<Outcome, Failure> {
    let disk: Rc<dyn Disk> = match backend {
        Backend::TokioUring => Rc::new(UringDisk::start(options.direct).map_err(Failure::internal)?),
        Backend::Glommio => Rc::new(GlommioDisk::start(None).map_err(Failure::internal)?),
        Backend::Threads => Rc::new(ThreadDisk::start(DISK_THREADS, options.direct).map_err(Failure::internal)?),
    };
    let observer = Rc::new(Waiting::default());
    let opened = Log::open(disk.clone(), directory, options, observer.clone(), &mut |_, _| {}).await;
    let (log, driver, _) = opened.map_err(Failure::internal)?;
    crate::runtime::spawn(async move {
        if let Err(failed) = driver.run().await {
            crate::error::fatal(crate::error::EXIT_DISK_FAILED, &failed);
        }
    });
    let writers = Rc::new(Writers { log: log.clone(), disk, observer, pool: pool(), content_bytes });
    let appended = writers.clone();
    let marks = RefCell::new(Vec::new());
    let operation = move |number| {
        let writers = appended.clone();
        async move { writers.append(number).await }
    };
    let mark = async || marks.borrow_mut().push((process_cpu_us(), writers.log.stats()));
    let mut outcome = load::run("log", plan, operation, mark).await;
    if let [(cpu_before, before), (cpu_after, after)] = marks.borrow()[..] {
        outcome.server_cpu_us = Some((cpu_after - cpu_before) as f64 / outcome.ops.max(1) as f64);
        outcome.tell_rounds(after.rounds - before.rounds, after.bytes_committed - before.bytes_committed);
    }
    log.close().await.map_err(Failure::internal)?;
    Ok(outcome)
}

struct Writers {
    log: Log,
    disk: Rc<dyn Disk>,
    observer: Rc<Waiting>,
    pool: Vec<u8>,
    content_bytes: usize,
}

impl Writers {
    async fn append(&self, number: u64) -> Result<(), String> {
        let record = self.record(number).map_err(|error| error.to_string())?;
        loop {
            match self.log.append(0, 1, &record) {
                Ok(_) => break,
                // The next segment is not yet written: that wait is part of what a writer sees.
                Err(AppendError::Busy { retry_after_ms }) => {
                    self.disk.pause(Duration::from_millis(retry_after_ms.into())).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        let (sender, durable) = oneshot::channel();
        self.observer.writers.borrow_mut().push_back((*record.key(), sender));
        durable.await.map_err(|_| "the log's driver ended".to_owned())
    }

    fn record(&self, number: u64) -> Result<Record, RecordError> {
        let mut key = [0; 32];
        for (at, word) in key.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&scatter(number.wrapping_mul(4).wrapping_add(at as u64)).to_le_bytes());
        }
        let from = scatter(number) as usize % (self.pool.len() - self.content_bytes);
        Record::build(1, &key, self.content_bytes, |mut buffer| {
            buffer.extend_from_slice(&self.pool[from..from + self.content_bytes]);
            Ok(buffer)
        })
    }
}

/// Writers that wait for their record, in the order of the log, and the index that a reader would use.
#[derive(Default)]
struct Waiting {
    writers: RefCell<VecDeque<([u8; 32], oneshot::Sender<()>)>>,
    index: RefCell<Index>,
}

impl Observer for Waiting {
    fn describe(&self, _: &Record) -> Vec<u8> {
        Vec::new()
    }

    fn replay(&self, _: Replayed<'_>) {}

    fn committed(&self, entry: Committed<'_>) {
        let mut index = self.index.borrow_mut();
        for (&location, (key, writer)) in
            entry.locations.iter().zip(self.writers.borrow_mut().drain(..entry.locations.len()))
        {
            index.insert(&key, location);
            // A writer that gave up does not wait for it.
            let _ = writer.send(());
        }
    }
}

fn pool() -> Vec<u8> {
    (0..POOL_BYTES as u64 / 8).flat_map(|number| scatter(number).to_le_bytes()).collect()
}

const _: () = assert!(CONTENT_BYTES_MAX < POOL_BYTES);
