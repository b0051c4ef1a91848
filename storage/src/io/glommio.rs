//! The disk of dedicated storage cores: a thread of its own runs a glommio executor over O_DIRECT files and serves one core.
//!
//! glommio 0.9 sleeps on runnable tasks when an event of its latency ring interrupts it before it ran anything
//! (`LocalExecutor::run_task_queues` answers "nothing ran", and the executor parks). So nothing here makes such an event: the
//! preemption timer is set to a century, no waker of the executor leaves its thread (work arrives by a queue and a socket that is
//! polled on the main ring), no call goes to its blocking pool, and fewer operations run at once than would complete the timer that
//! counts the main ring's completions.
//!
//! Promises: the core's loop only hands a buffer over and takes it back. Does not: go through the page cache; pay on small
//! machines, where the hand-over costs more than the core saves.

use super::pool::{Chores, disk_chores};
use super::transfer::{Arrival, Arrivals, Way, way};
use super::{Disk, DiskFile, LocalFuture, Lock, files};
use crate::buffer::{AlignedBuffer, zeroed};
use futures_util::io::AsyncRead;
use futures_util::stream::{FuturesUnordered, StreamExt};
use glommio::io::{DmaFile, OpenOptions};
use glommio::net::UnixStream;
use glommio::{LocalExecutorBuilder, Placement};
use std::cell::Cell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;

/// Requests that wait for the storage thread; the next one waits in the asking future.
const REQUESTS_WAITING_MAX: usize = 256;
/// Reads, writes and syncs that the storage thread has running at once.
const OPERATIONS_MAX: usize = 128;
/// Entries of each of the executor's rings. So many completions within one turn would complete the counting timer.
const RING_ENTRIES: usize = 512;
/// Completions of one turn that are no operation's: the bell, the timer, its cancellation, the link between rings.
const COMPLETIONS_BESIDE_MAX: usize = 16;
// A turn completes what runs and closes the files that were let go, at most one for each waiting request.
const _: () = assert!(OPERATIONS_MAX + REQUESTS_WAITING_MAX + COMPLETIONS_BESIDE_MAX < RING_ENTRIES);
/// Memory that the storage thread's rings keep for buffers, in bytes; what does not fit comes from the heap. Small enough for the
/// usual limit of 8 MiB of locked memory.
const RING_MEMORY_BYTES: usize = 1 << 20;
/// Locked memory below which glommio does not start, in bytes.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// The executor's preemption timer: one task that never computes needs none.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

type Written = (io::Result<()>, AlignedBuffer);

enum Request {
    Open { file: u64, path: PathBuf, answer: oneshot::Sender<io::Result<u64>> },
    Write { file: u64, buffer: AlignedBuffer, offset: u64, answer: oneshot::Sender<Written> },
    Read { file: u64, offset: u64, bytes: usize, answer: oneshot::Sender<io::Result<AlignedBuffer>> },
    Sync { file: u64, answer: oneshot::Sender<io::Result<()>> },
    Close { file: u64 },
}

/// A disk served by a glommio thread.
pub struct GlommioDisk {
    storage: Rc<Storage>,
    chores: Chores,
}

struct GlommioFile {
    handle: Rc<Handle>,
    bytes: u64,
}

/// A file that is open over there, for as long as it or an operation on it is wanted here.
struct Handle {
    storage: Rc<Storage>,
    file: u64,
}

/// The way to the storage thread.
struct Storage {
    requests: Way<Request>,
    file_next: Cell<u64>,
}

impl GlommioDisk {
    /// Starts the storage thread and its chores, pinned to `cpu` when one is given.
    ///
    /// # Errors
    /// When the host refuses a thread, an io_uring or the locked memory that glommio wants; the text says what to do.
    pub fn start(cpu: Option<usize>) -> io::Result<Self> {
        refuse_small_memlock()?;
        refuse_no_ring()?;
        let (requests, arrivals, ear) = way(REQUESTS_WAITING_MAX)?;
        let (tell, started) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("disk-glommio".to_owned()).spawn(move || {
            let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
            let executor = LocalExecutorBuilder::new(placement)
                .io_memory(RING_MEMORY_BYTES)
                .ring_depth(RING_ENTRIES)
                .preempt_timer(NEVER)
                .make();
            // The one who started the disk waits for what is told. Threads inherit their CPU: chores are the device's work too.
            match (executor, Chores::start(true)) {
                (Ok(executor), Ok(chores)) => {
                    let _ = tell.send(Ok(chores));
                    executor.run(serve(arrivals, ear));
                }
                (Err(error), _) => {
                    let _ = tell.send(Err(io::Error::other(format!("glommio does not start: {error}"))));
                }
                (_, Err(error)) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        let chores = started.recv().map_err(|_| io::Error::other("glommio's thread died while it started"))??;
        Ok(Self { storage: Rc::new(Storage { requests, file_next: Cell::new(0) }), chores })
    }
}

impl Disk for GlommioDisk {
    fn open(&self, path: &Path) -> LocalFuture<io::Result<Rc<dyn DiskFile>>> {
        let (storage, path) = (self.storage.clone(), std::path::absolute(path));
        Box::pin(async move {
            let path = path?;
            let file = storage.file_next.replace(storage.file_next.get() + 1);
            let bytes = storage.ask(|answer| Request::Open { file, path, answer }).await?;
            Ok(Rc::new(GlommioFile { handle: Rc::new(Handle { storage, file }), bytes }) as Rc<dyn DiskFile>)
        })
    }

    fn pause(&self, duration: Duration) -> LocalFuture<()> {
        self.chores.pause(duration)
    }

    disk_chores!();
}

impl DiskFile for GlommioFile {
    fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> LocalFuture<Written> {
        let handle = self.handle.clone();
        Box::pin(async move { handle.ask(|file, answer| Request::Write { file, buffer, offset, answer }).await })
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalFuture<io::Result<AlignedBuffer>> {
        let handle = self.handle.clone();
        Box::pin(async move { handle.ask(|file, answer| Request::Read { file, offset, bytes, answer }).await })
    }

    fn sync_data(&self) -> LocalFuture<io::Result<()>> {
        let handle = self.handle.clone();
        Box::pin(async move { handle.ask(|file, answer| Request::Sync { file, answer }).await })
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Handle {
    async fn ask<T>(&self, request: impl FnOnce(u64, oneshot::Sender<T>) -> Request) -> T {
        self.storage.ask(|answer| request(self.file, answer)).await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A full queue only keeps the file open until the disk is dropped.
        let _ = self.storage.requests.try_push(Request::Close { file: self.file });
    }
}

impl Storage {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> T {
        let (answer, answered) = oneshot::channel();
        assert!(self.requests.push(request(answer)).await, "the storage thread died");
        answered.await.unwrap_or_else(|_| panic!("the storage thread died while it worked"))
    }
}

/// A file that was opened for somebody.
struct Opened {
    file: u64,
    opened: io::Result<(DmaFile, u64)>,
    answer: oneshot::Sender<io::Result<u64>>,
}

/// The storage thread: one task that takes requests while it has fewer than [`OPERATIONS_MAX`] running.
async fn serve(arrivals: Arrivals<Request>, ear: std::os::unix::net::UnixStream) {
    // SAFETY: the descriptor was just given up by its owner, and the stream is its only one from here on.
    let mut ear = unsafe { UnixStream::from_raw_fd(ear.into_raw_fd()) };
    let mut files: HashMap<u64, Rc<DmaFile>> = HashMap::new();
    let mut running: FuturesUnordered<LocalFuture<Option<Opened>>> = FuturesUnordered::new();
    let mut ended = false;
    loop {
        while !ended && running.len() < OPERATIONS_MAX {
            match arrivals.next() {
                Arrival::Item(Request::Close { file }) => drop(files.remove(&file)),
                Arrival::Item(request) => running.push(operation(request, &files)),
                Arrival::Nothing => break,
                Arrival::End => ended = true,
            }
        }
        if ended && running.is_empty() {
            return;
        }
        let done = poll_fn(|context| {
            if let Poll::Ready(Some(done)) = running.poll_next_unpin(context) {
                return Poll::Ready(done);
            }
            // After the end the bell would ring for ever.
            if ended {
                return Poll::Pending;
            }
            let mut rings = [0; 8];
            Pin::new(&mut ear).poll_read(context, &mut rings).map(|_| {
                arrivals.heard();
                None
            })
        })
        .await;
        if let Some(Opened { file, opened, answer }) = done {
            let told = opened.map(|(handle, bytes)| {
                files.insert(file, Rc::new(handle));
                bytes
            });
            // Whoever asked may be gone; then nobody will close it.
            if answer.send(told).is_err() {
                files.remove(&file);
            }
        }
    }
}

fn operation(request: Request, files: &HashMap<u64, Rc<DmaFile>>) -> LocalFuture<Option<Opened>> {
    // Whoever asked may be gone; then nobody misses the answer.
    match request {
        Request::Open { file, path, answer } => {
            Box::pin(async move { Some(Opened { file, opened: open(&path).await, answer }) })
        }
        Request::Write { file, buffer, offset, answer } => {
            let file = files[&file].clone();
            Box::pin(async move {
                let _ = answer.send((write(&file, &buffer, offset).await, buffer));
                None
            })
        }
        Request::Read { file, offset, bytes, answer } => {
            let file = files[&file].clone();
            Box::pin(async move {
                let _ = answer.send(read(&file, offset, bytes).await);
                None
            })
        }
        Request::Sync { file, answer } => {
            let file = files[&file].clone();
            Box::pin(async move {
                let _ = answer.send(file.fdatasync().await.map_err(io::Error::from));
                None
            })
        }
        Request::Close { .. } => unreachable!("a close is no operation"),
    }
}

async fn open(path: &Path) -> io::Result<(DmaFile, u64)> {
    let file = OpenOptions::new().read(true).write(true).dma_open(path).await?;
    let bytes = file.file_size().await?;
    Ok((file, bytes))
}

async fn write(file: &DmaFile, buffer: &AlignedBuffer, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let mut lent = file.alloc_dma_buffer(buffer.len() - done);
        lent.as_bytes_mut().copy_from_slice(&buffer[done..]);
        match file.write_at(lent, offset + done as u64).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            bytes => done += bytes,
        }
    }
    Ok(())
}

async fn read(file: &DmaFile, offset: u64, bytes: usize) -> io::Result<AlignedBuffer> {
    let mut buffer = zeroed(bytes);
    let mut done = 0;
    while done < bytes {
        let read = file.read_at_aligned(offset + done as u64, bytes - done).await?;
        if read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer[done..done + read.len()].copy_from_slice(&read);
        done += read.len();
    }
    Ok(buffer)
}

fn refuse_small_memlock() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the structure that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < MEMLOCK_BYTES_MIN {
        let (found, wanted) = (limit.rlim_cur, MEMLOCK_BYTES_MIN);
        return Err(io::Error::other(format!(
            "glommio wants {wanted} bytes of locked memory and may have {found} (RLIMIT_MEMLOCK): ulimit -l {}, or \
             LimitMEMLOCK={wanted} in the systemd unit, or storage.backend = \"tokio-uring\"",
            wanted >> 10
        )));
    }
    Ok(())
}

/// glommio panics where io_uring is forbidden, so that is asked before.
fn refuse_no_ring() -> io::Result<()> {
    /// Bytes of the kernel's `struct io_uring_params`.
    const PARAMETERS_BYTES: usize = 120;
    let mut parameters = [0_u64; PARAMETERS_BYTES / 8];
    // SAFETY: the kernel reads and fills the parameters, whose size and alignment are those of its structure.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if ring < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("glommio wants io_uring, which is refused here: {error}")));
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(ring as i32) });
    Ok(())
}
