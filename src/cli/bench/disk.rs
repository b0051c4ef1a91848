//! `qmesh bench disk`: the least that makes a round durable, so that the figures of a log have their limit beside them.
//!
//! Promises: whole blocks, O_DIRECT where the filesystem takes it, one write and one `fdatasync` a round, into a file that was
//! written once before, as the log does it. Does not: gather, checksum, answer anybody, or keep what it wrote.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use qmesh_storage::{AlignedBuffer, BLOCK_BYTES};

use super::load::{LATENCY_NS_MAX, Outcome, histogram};
use super::print;
use crate::cli::failure::{Failure, Outcome as Ended};
use crate::cli::output::Output;
use crate::runtime::process_cpu_us;

/// Size of the file that is written over and over, in bytes.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of one write while the file is made.
const PIECE_BYTES: usize = 1 << 20;
/// Most bytes of one round.
const ROUND_BYTES_MAX: u64 = 64 << 20;

/// `qmesh bench disk …`
#[derive(Clone, Debug, Args)]
pub struct Disk {
    /// Where the file is made, and removed afterwards: the disk to be measured.
    #[arg(long, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    /// Bytes of one round; taken up to whole blocks of 4096.
    #[arg(long, default_value_t = 64 << 10, value_parser = clap::value_parser!(u64).range(1..=ROUND_BYTES_MAX))]
    round_bytes: u64,
    /// Rounds that are written and synced at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    rounds_in_flight: u32,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before counting begins.
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
}

/// Runs `qmesh bench disk`.
pub(super) fn run(disk: &Disk, output: Output) -> ExitCode {
    let path = disk.directory.join(format!("qmesh-bench-disk-{}", std::process::id()));
    let measured = measure(disk, &path).map_err(|error| Failure::file(&path, &error));
    // Already gone when it could not be made.
    let _ = std::fs::remove_file(&path);
    let ended: Ended = measured.and_then(|outcome| print(output, &outcome));
    ended.unwrap_or_else(|failure| failure.report(output))
}

/// What the rounds in flight share.
struct Run {
    file: File,
    round_bytes: usize,
    next: AtomicU64,
    over: AtomicBool,
    counting_from: Instant,
    until: Instant,
    failed: Mutex<Option<io::Error>>,
}

fn measure(disk: &Disk, path: &Path) -> io::Result<Outcome> {
    let round_bytes = (disk.round_bytes as usize).next_multiple_of(BLOCK_BYTES);
    let file = written_before(path)?;
    let warm = Duration::from_secs_f64(disk.warm.clamp(0.0, 3600.0));
    let measured = Duration::from_secs_f64(disk.seconds.clamp(0.01, 3600.0));
    let counting_from = Instant::now() + warm;
    let run = Run {
        file,
        round_bytes,
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
        counting_from,
        until: counting_from + measured,
        failed: Mutex::new(None),
    };
    let mut latencies = histogram();
    let mut cpu_us = 0;
    std::thread::scope(|scope| {
        let rounds: Vec<_> = (0..disk.rounds_in_flight).map(|_| scope.spawn(|| rounds(&run))).collect();
        std::thread::sleep(warm);
        let before = process_cpu_us();
        std::thread::sleep(measured);
        cpu_us = process_cpu_us() - before;
        run.over.store(true, Ordering::Relaxed);
        for one in rounds {
            if let Ok(own) = one.join() {
                // Both have the same bounds.
                let _ = latencies.add(own);
            }
        }
    });
    if let Some(error) = run.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    let load = format!("{} rounds of {round_bytes} B in flight", disk.rounds_in_flight);
    let mut outcome = Outcome::of("disk", load, &latencies, measured);
    outcome.server_cpu_us = Some(cpu_us as f64 / latencies.len().max(1) as f64);
    Ok(outcome)
}

fn rounds(run: &Run) -> hdrhistogram::Histogram<u64> {
    let mut latencies = histogram();
    let mut buffer = AlignedBuffer::new();
    buffer.resize(run.round_bytes, 0xa5);
    let places = FILE_BYTES / run.round_bytes as u64;
    while !run.over.load(Ordering::Relaxed) {
        let number = run.next.fetch_add(1, Ordering::Relaxed);
        // No two rounds are alike, so that nothing below can save itself the work.
        buffer[..8].copy_from_slice(&number.to_le_bytes());
        let began = Instant::now();
        let at = number % places * run.round_bytes as u64;
        if let Err(error) = run.file.write_all_at(&buffer, at).and_then(|()| run.file.sync_data()) {
            *run.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            return latencies;
        }
        let now = Instant::now();
        if run.counting_from <= began && now <= run.until {
            latencies.saturating_record((now - began).as_nanos().min(LATENCY_NS_MAX.into()) as u64);
        }
    }
    latencies
}

/// A file of zeros that were really written.
fn written_before(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
    let file = match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options.open(path)?,
        opened => opened?,
    };
    let mut zeros = AlignedBuffer::new();
    zeros.resize(PIECE_BYTES, 0);
    for at in (0..FILE_BYTES).step_by(PIECE_BYTES) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

const _: () = assert!(ROUND_BYTES_MAX <= FILE_BYTES);
