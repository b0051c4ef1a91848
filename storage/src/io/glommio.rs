//! The disk of dedicated storage cores: a thread of its own runs a glommio executor over O_DIRECT files and serves one core.
//!
//! glommio 0.9 sleeps on one of its rings and lets the kernel tell it about the others; on Linux 6.18 that word was lost in one
//! run of four of the round trip, and the executor slept on with finished work beside it. A message from another thread always
//! wakes it, so a small thread sends one every millisecond while an answer is out.
//!
//! Promises: the core's loop only hands a buffer over and takes it back; requests are served from a latency-bounded queue, since
//! without one a busy executor looks at other threads' messages only every 100 ms. Does not: pay on small machines, where the
//! hand-over costs more than the core saves.

use super::pool::{Chores, disk_chores};
use super::{Disk, DiskFile, LocalFuture, Lock, files};
use crate::buffer::{AlignedBuffer, zeroed};
use glommio::io::{DmaFile, OpenOptions};
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the storage thread; the next one waits in the asking future.
const REQUESTS_WAITING_MAX: usize = 256;
/// How long a request may wait behind other work of the storage thread, in microseconds.
const LATENCY_US_MAX: u64 = 100;
/// While an answer is out the storage thread is woken at least so often, in microseconds.
const NUDGE_US: u64 = 1000;
/// While none is out the nudging thread looks so often whether the disk still exists, in milliseconds.
const IDLE_MS: u64 = 500;
/// Memory that the storage thread's ring keeps for its buffers, in bytes; what does not fit comes from the heap. Small enough
/// for the usual limit of 8 MiB of locked memory.
const RING_MEMORY_BYTES: usize = 4 << 20;

type Written = (io::Result<()>, AlignedBuffer);

enum Request {
    Open { path: PathBuf, answer: oneshot::Sender<io::Result<(u64, u64)>> },
    Write { file: u64, buffer: AlignedBuffer, offset: u64, answer: oneshot::Sender<Written> },
    Read { file: u64, offset: u64, bytes: usize, answer: oneshot::Sender<io::Result<AlignedBuffer>> },
    Sync { file: u64, answer: oneshot::Sender<io::Result<()>> },
    Close { file: u64 },
    Nudge,
}

/// A disk served by a glommio thread.
pub struct GlommioDisk {
    storage: Storage,
    chores: Chores,
}

struct GlommioFile {
    storage: Storage,
    file: u64,
    bytes: u64,
}

/// The way to the storage thread.
#[derive(Clone)]
struct Storage {
    requests: mpsc::Sender<Request>,
    answers_out: Arc<AtomicUsize>,
    nudger: Thread,
}

/// One answer that is out, also when nobody waits for it any more.
struct Out<'a>(&'a AtomicUsize);

impl GlommioDisk {
    /// Starts the storage thread, pinned to `cpu` when one is given.
    ///
    /// # Errors
    /// When the host refuses a thread or an io_uring.
    pub fn start(cpu: Option<usize>) -> io::Result<Self> {
        let (requests, served) = mpsc::channel(REQUESTS_WAITING_MAX);
        let chores = Chores::start(true)?;
        let builder = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed));
        // The handle is let go: the thread ends when the last sender is dropped.
        let _ = builder.name("disk-glommio").io_memory(RING_MEMORY_BYTES).spawn(move || serve(served))?;
        let answers_out = Arc::new(AtomicUsize::new(0));
        let (out, weak) = (answers_out.clone(), requests.downgrade());
        let nudger = std::thread::Builder::new().name("disk-nudge".to_owned()).spawn(move || nudge(&weak, &out))?;
        let nudger = nudger.thread().clone();
        Ok(Self { storage: Storage { requests, answers_out, nudger }, chores })
    }
}

impl Disk for GlommioDisk {
    fn open(&self, path: &Path) -> LocalFuture<io::Result<Rc<dyn DiskFile>>> {
        let (storage, path) = (self.storage.clone(), path.to_owned());
        Box::pin(async move {
            let (file, bytes) = storage.ask(|answer| Request::Open { path, answer }).await?;
            Ok(Rc::new(GlommioFile { storage, file, bytes }) as Rc<dyn DiskFile>)
        })
    }

    fn pause(&self, duration: Duration) -> LocalFuture<()> {
        self.chores.pause(duration)
    }

    disk_chores!();
}

impl DiskFile for GlommioFile {
    fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> LocalFuture<Written> {
        let (storage, file) = (self.storage.clone(), self.file);
        Box::pin(async move { storage.ask(|answer| Request::Write { file, buffer, offset, answer }).await })
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalFuture<io::Result<AlignedBuffer>> {
        let (storage, file) = (self.storage.clone(), self.file);
        Box::pin(async move { storage.ask(|answer| Request::Read { file, offset, bytes, answer }).await })
    }

    fn sync_data(&self) -> LocalFuture<io::Result<()>> {
        let (storage, file) = (self.storage.clone(), self.file);
        Box::pin(async move { storage.ask(|answer| Request::Sync { file, answer }).await })
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for GlommioFile {
    fn drop(&mut self) {
        // A full queue only keeps the file open until the disk is dropped.
        let _ = self.storage.requests.try_send(Request::Close { file: self.file });
    }
}

impl Storage {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> T {
        let (answer, answered) = oneshot::channel();
        if self.answers_out.fetch_add(1, Ordering::AcqRel) == 0 {
            self.nudger.unpark();
        }
        let _out = Out(&self.answers_out);
        let sent = self.requests.send(request(answer)).await;
        assert!(sent.is_ok(), "the storage thread died");
        answered.await.unwrap_or_else(|_| panic!("the storage thread died while it worked"))
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Wakes the storage thread while an answer is out; ends with the disk and its files.
fn nudge(requests: &mpsc::WeakSender<Request>, answers_out: &AtomicUsize) {
    while let Some(requests) = requests.upgrade() {
        if answers_out.load(Ordering::Acquire) == 0 {
            drop(requests);
            std::thread::park_timeout(Duration::from_millis(IDLE_MS));
        } else {
            // A full queue wakes it as well.
            let _ = requests.try_send(Request::Nudge);
            drop(requests);
            std::thread::sleep(Duration::from_micros(NUDGE_US));
        }
    }
}

/// The storage thread: every request is a task of its own, so that writes, reads and syncs overlap.
async fn serve(mut requests: mpsc::Receiver<Request>) {
    let executor = glommio::executor();
    let latency = Latency::Matters(Duration::from_micros(LATENCY_US_MAX));
    let queue = executor.create_task_queue(Shares::default(), latency, "requests");
    let receive = async move {
        let mut files: HashMap<u64, Rc<DmaFile>> = HashMap::new();
        let mut file_next = 0;
        while let Some(request) = requests.recv().await {
            match request {
                Request::Open { path, answer } => {
                    let opened = open(&path).await.map(|(file, bytes)| {
                        file_next += 1;
                        files.insert(file_next, Rc::new(file));
                        (file_next, bytes)
                    });
                    // Whoever asked may be gone; then nobody misses the answer. So below.
                    let _ = answer.send(opened);
                }
                Request::Write { file, buffer, offset, answer } => {
                    let file = files[&file].clone();
                    let write = async move {
                        let _ = answer.send((write(&file, &buffer, offset).await, buffer));
                    };
                    glommio::spawn_local(write).detach();
                }
                Request::Read { file, offset, bytes, answer } => {
                    let file = files[&file].clone();
                    let read = async move {
                        let _ = answer.send(read(&file, offset, bytes).await);
                    };
                    glommio::spawn_local(read).detach();
                }
                Request::Sync { file, answer } => {
                    let file = files[&file].clone();
                    let sync = async move {
                        let _ = answer.send(file.fdatasync().await.map_err(io::Error::from));
                    };
                    glommio::spawn_local(sync).detach();
                }
                Request::Close { file } => {
                    files.remove(&file);
                }
                Request::Nudge => {}
            }
        }
    };
    // Tasks that are spawned inside a queue stay in it.
    match glommio::spawn_local_into(receive, queue) {
        Ok(task) => task.await,
        Err(error) => tracing::error!(%error, "the storage thread has no queue to serve from"),
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
