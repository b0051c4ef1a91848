//! One pinned thread per core, and what crosses from one to another.
//!
//! Promises: each core runs one event loop with one io_uring; what crosses cores is an owned message in a bounded inbox.
//! The async runtime is named here, in `storage/src/io` and in `net/src/io`, and nowhere else.
//! Does not: know what a message means.

mod consensus;
mod inbox;
mod watch;

use std::future::Future;
use std::io;
use std::thread;

pub use consensus::{Chance, ConsensusRuntime, seed_chance};
pub use inbox::{Full, Receiver, Sender, inbox};
pub use watch::{CoreWatch, WatchReceiver, WatchSender};

/// Which event loop a core runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// tokio-uring: sockets by epoll, files by io_uring, on one thread.
    Uring,
    /// A plain current-thread loop, for hosts or backends that do their file work elsewhere.
    Plain,
}

/// How a core's thread is to be made.
#[derive(Clone, Copy, Debug)]
pub struct CorePlan {
    /// The number of the core, from 0.
    pub index: usize,
    /// The CPU to pin it to, if any.
    pub cpu: Option<usize>,
    /// Its event loop.
    pub event_loop: Loop,
}

/// Starts a core's thread and runs `body` on its event loop until it ends.
///
/// # Errors
/// The operating system's, when it gives no thread.
pub fn start_core<B, F>(plan: CorePlan, body: B) -> io::Result<thread::JoinHandle<io::Result<()>>>
where
    B: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    thread::Builder::new().name(format!("core-{}", plan.index)).spawn(move || {
        if let Some(cpu) = plan.cpu {
            pin_to(cpu)?;
        }
        match plan.event_loop {
            Loop::Uring => {
                let runtime = tokio_uring::Runtime::new(&qmesh_storage::io::uring::builder())?;
                runtime.block_on(body());
            }
            Loop::Plain => run_plain(body())?,
        }
        Ok(())
    })
}

/// Runs `future` on a plain current-thread loop: what a command of the CLI needs.
///
/// # Errors
/// The operating system's, when it gives no event loop.
pub fn run_plain<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    Ok(local.block_on(&runtime, future))
}

/// Spawns a task on this core. It never leaves it.
pub fn spawn<F>(future: F)
where
    F: Future<Output = ()> + 'static,
{
    tokio::task::spawn_local(future);
}

/// Runs what may block on a thread of its own, and waits for it without holding this core.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It is not cancelled, so it panicked: go on with that.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Completes when the process is asked to stop: SIGTERM or SIGINT.
///
/// # Errors
/// The operating system's, when signals cannot be watched.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Hands a `!Send` future to this core; what hyper asks of its executor for HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[expect(unsafe_code, reason = "sched_setaffinity has no safe form in std")]
fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits, zero is its empty value, and CPU_SET writes inside it for cpu < CPU_SETSIZE.
    let pinned = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no CPU {cpu}")));
        }
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if pinned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the operating system what this thread has freed: what was needed once, at recovery, is not kept for the node's whole life.
#[expect(unsafe_code, reason = "the allocator's word for it is C")]
pub fn give_memory_back() {
    // SAFETY: it takes no pointer, may be called on any thread at any time, and frees nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// CPU time of this process so far, user and system, in microseconds.
#[expect(unsafe_code, reason = "getrusage has no safe form in std")]
pub fn process_cpu_us() -> u64 {
    // SAFETY: rusage is plain numbers, zero is a valid value, and the call writes one of them.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Resident memory of this process, in bytes; 0 where the host does not tell.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
