//! Disks: what the log asks of a device, and the four that can answer.
//!
//! ```text
//! uring    io_uring on the core's own loop (tokio-uring)
//! glommio  io_uring on a thread of its own, past the page cache
//! threads  pwrite and fdatasync on a few threads, for hosts without io_uring
//! memory   no device at all, with seeded faults
//! ```
//!
//! Promises: the log names no runtime; an operation that was started is never taken back, and the buffer comes home with the
//! result. Does not: order operations; two that are in flight may finish either way.

mod files;
pub mod glommio;
pub mod memory;
mod pool;
pub mod threads;
mod transfer;
pub mod uring;

use crate::buffer::AlignedBuffer;
use crate::pace::Pace;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use files::{Lock, identity};

/// A future of the core that asked; its cost is nothing beside a sync.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// A directory's worth of files on some device.
pub trait Disk {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> LocalFuture<io::Result<Rc<dyn DiskFile>>>;

    /// Names of the files in `directory`, in no order; makes the directory when it is missing.
    fn list(&self, directory: &Path) -> LocalFuture<io::Result<Vec<String>>>;

    /// Makes `path` with `head` and then zeros, `bytes` in all, written and synced before it is visible under its name; no faster than
    /// `pace` permits.
    fn prepare(&self, path: &Path, head: AlignedBuffer, bytes: u64, pace: Arc<Pace>) -> LocalFuture<io::Result<()>>;

    /// Puts `content` under `path`, durable, all or nothing.
    fn replace(&self, path: &Path, content: Vec<u8>) -> LocalFuture<io::Result<()>>;

    /// The whole content of a small file.
    fn load(&self, path: &Path) -> LocalFuture<io::Result<Vec<u8>>>;

    /// BLAKE3 of the first `bytes` of a file, away from the core's loop; no faster than `pace` permits.
    fn digest(&self, path: &Path, bytes: u64, pace: Arc<Pace>) -> LocalFuture<io::Result<[u8; 32]>>;

    /// Removes a file; one that is not there is no error.
    fn remove(&self, path: &Path) -> LocalFuture<io::Result<()>>;

    /// Takes the lock file, or [`io::ErrorKind::WouldBlock`] when someone has it; dropping the value gives it back.
    fn lock(&self, path: &Path) -> LocalFuture<io::Result<Lock>>;

    /// Comes back after `duration`.
    fn pause(&self, duration: Duration) -> LocalFuture<()>;

    /// Random bytes to name a log with.
    fn identity(&self) -> [u8; 16];
}

/// An open file. Offsets and lengths are whole blocks.
pub trait DiskFile {
    /// Writes the whole buffer; a short write is continued.
    fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> LocalFuture<(io::Result<()>, AlignedBuffer)>;

    /// Reads exactly `bytes`; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    fn read_at(&self, offset: u64, bytes: usize) -> LocalFuture<io::Result<AlignedBuffer>>;

    /// Makes all completed writes durable.
    fn sync_data(&self) -> LocalFuture<io::Result<()>>;

    /// Size of the file, in bytes.
    fn bytes(&self) -> u64;
}
