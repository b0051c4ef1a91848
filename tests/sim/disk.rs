//! A disk in memory whose operations take time by the world's clock.
//!
//! Promises: an operation has begun when it was asked, so that a power cut while it takes its time finds it half done.
//! Does not: decide what a power cut leaves; the disk in memory does.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use qmesh_storage::AlignedBuffer;
use qmesh_storage::io::memory::MemoryDisk;
use qmesh_storage::io::{Disk, DiskFile, LocalFuture, Lock};

use super::Dice;

/// How long operations take.
pub(crate) struct Pace {
    dice: RefCell<Dice>,
    sync_ms_max: Cell<u64>,
}

impl Pace {
    pub(crate) fn new(dice: Dice) -> Rc<Self> {
        Rc::new(Self { dice: RefCell::new(dice), sync_ms_max: Cell::new(SYNC_MS_MAX) })
    }

    /// From here on a sync takes up to so long.
    pub(crate) fn set_sync_ms_max(&self, sync_ms_max: u64) {
        self.sync_ms_max.set(sync_ms_max);
    }

    fn of_sync(&self) -> Duration {
        Duration::from_millis(1 + self.dice.borrow_mut().below(self.sync_ms_max.get()))
    }

    /// Most take no time at all: half a millisecond is nothing to the clock.
    fn of_other(&self) -> Duration {
        Duration::from_millis(self.dice.borrow_mut().below(8).saturating_sub(6))
    }
}

/// A healthy disk's sync, in milliseconds.
pub(crate) const SYNC_MS_MAX: u64 = 3;

/// See the file.
pub(crate) struct PacedDisk {
    disk: MemoryDisk,
    pace: Rc<Pace>,
}

struct PacedFile {
    file: Rc<dyn DiskFile>,
    pace: Rc<Pace>,
}

impl PacedDisk {
    pub(crate) fn new(disk: MemoryDisk, pace: Rc<Pace>) -> Self {
        Self { disk, pace }
    }

    fn later<T: 'static>(&self, begun: LocalFuture<T>) -> LocalFuture<T> {
        after(self.pace.of_other(), begun)
    }
}

fn after<T: 'static>(time: Duration, begun: LocalFuture<T>) -> LocalFuture<T> {
    Box::pin(async move {
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        begun.await
    })
}

impl Disk for PacedDisk {
    fn open(&self, path: &Path) -> LocalFuture<io::Result<Rc<dyn DiskFile>>> {
        let (opened, pace) = (self.disk.open(path), self.pace.clone());
        Box::pin(async move { Ok(Rc::new(PacedFile { file: opened.await?, pace }) as Rc<dyn DiskFile>) })
    }

    fn list(&self, directory: &Path) -> LocalFuture<io::Result<Vec<String>>> {
        self.later(self.disk.list(directory))
    }

    fn prepare(
        &self,
        path: &Path,
        head: AlignedBuffer,
        bytes: u64,
        permits: std::sync::Arc<qmesh_storage::Pace>,
    ) -> LocalFuture<io::Result<()>> {
        after(self.pace.of_sync(), self.disk.prepare(path, head, bytes, permits))
    }

    fn replace(&self, path: &Path, content: Vec<u8>) -> LocalFuture<io::Result<()>> {
        after(self.pace.of_sync(), self.disk.replace(path, content))
    }

    fn load(&self, path: &Path) -> LocalFuture<io::Result<Vec<u8>>> {
        self.later(self.disk.load(path))
    }

    fn digest(
        &self,
        path: &Path,
        bytes: u64,
        permits: std::sync::Arc<qmesh_storage::Pace>,
    ) -> LocalFuture<io::Result<[u8; 32]>> {
        self.later(self.disk.digest(path, bytes, permits))
    }

    fn remove(&self, path: &Path) -> LocalFuture<io::Result<()>> {
        self.later(self.disk.remove(path))
    }

    fn lock(&self, path: &Path) -> LocalFuture<io::Result<Lock>> {
        self.disk.lock(path)
    }

    fn pause(&self, duration: Duration) -> LocalFuture<()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn identity(&self) -> [u8; 16] {
        self.disk.identity()
    }
}

impl DiskFile for PacedFile {
    fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> LocalFuture<(io::Result<()>, AlignedBuffer)> {
        after(self.pace.of_other(), self.file.write_at(buffer, offset))
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalFuture<io::Result<AlignedBuffer>> {
        after(self.pace.of_other(), self.file.read_at(offset, bytes))
    }

    fn sync_data(&self) -> LocalFuture<io::Result<()>> {
        after(self.pace.of_sync(), self.file.sync_data())
    }

    fn bytes(&self) -> u64 {
        self.file.bytes()
    }
}
