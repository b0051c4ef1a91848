//! The disk for hosts without io_uring: `pwrite`, `pread` and `fdatasync` on a few threads.
//!
//! Promises: works under any executor, since a thread wakes the future by its waker. Does not: pin its threads.

use super::pool::{Chores, Pool, disk_chores};
use super::{Disk, DiskFile, LocalFuture, Lock, files};
use crate::buffer::AlignedBuffer;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// A disk whose every operation runs on a small pool of threads.
pub struct ThreadDisk {
    pool: Pool,
    chores: Chores,
}

struct ThreadFile {
    pool: Pool,
    file: std::sync::Arc<std::fs::File>,
    bytes: u64,
}

impl ThreadDisk {
    /// Starts the threads. `direct` asks for O_DIRECT.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(threads: usize, direct: bool) -> io::Result<Self> {
        Ok(Self { pool: Pool::start("disk", threads.max(1))?, chores: Chores::start(direct)? })
    }
}

impl Disk for ThreadDisk {
    fn open(&self, path: &Path) -> LocalFuture<io::Result<Rc<dyn DiskFile>>> {
        let (opening, pool) = (self.chores.open(path), self.pool.clone());
        Box::pin(async move {
            let (file, bytes) = opening.await?;
            Ok(Rc::new(ThreadFile { pool, file: std::sync::Arc::new(file), bytes }) as Rc<dyn DiskFile>)
        })
    }

    fn pause(&self, duration: Duration) -> LocalFuture<()> {
        self.chores.pause(duration)
    }

    disk_chores!();
}

impl DiskFile for ThreadFile {
    fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> LocalFuture<(io::Result<()>, AlignedBuffer)> {
        let file = self.file.clone();
        self.pool.run(move || (file.write_all_at(&buffer, offset), buffer))
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalFuture<io::Result<AlignedBuffer>> {
        let file = self.file.clone();
        self.pool.run(move || {
            let mut buffer = crate::buffer::zeroed(bytes);
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer)
        })
    }

    fn sync_data(&self) -> LocalFuture<io::Result<()>> {
        let file = self.file.clone();
        self.pool.run(move || file.sync_data())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
