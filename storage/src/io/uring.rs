//! The default disk: io_uring on the core's own loop.
//!
//! tokio-uring 0.5 hands its queue to the kernel only when the loop is about to sleep, and a loop that always has something to
//! run never is: a commit would wait until the core falls idle. Seen with tokio 1.54: a loop with one task that wakes itself
//! never wrote anything. It also hands the queue over when it is full. So the loop is built with a queue of one entry
//! ([`builder`]), and behind each operation goes a no-op that pushes it out.
//!
//! Promises: reads, writes and syncs never leave the core's thread, and reach the kernel at once on a loop made by [`builder`].
//! Does not: prepare or seal segments there; that is slow work for a chore thread.

use super::pool::{Chores, disk_chores};
use super::{Disk, DiskFile, LocalFuture, Lock, files};
use crate::buffer::{AlignedBuffer, zeroed};
use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio_uring::buf::{BoundedBuf, IoBuf, IoBufMut};

/// Completions that the kernel may have waiting for the loop before it keeps them in a list of its own.
const COMPLETIONS_WAITING_MAX: u32 = 1024;

/// A tokio-uring loop on which an operation reaches the kernel when it is asked for, however busy the loop is.
pub fn builder() -> tokio_uring::Builder {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(COMPLETIONS_WAITING_MAX);
    let mut builder = tokio_uring::builder();
    builder.entries(1).uring_builder(&ring);
    builder
}

/// Drives an operation, and pushes it out behind its first poll.
async fn at_once<T>(operation: impl Future<Output = T>) -> T {
    let mut operation = pin!(operation);
    let mut pushed = false;
    poll_fn(|context| {
        let answer = operation.as_mut().poll(context);
        if answer.is_pending() && !std::mem::replace(&mut pushed, true) {
            // The queue takes one entry, so the no-op makes the loop submit what stands in it. Nobody waits for the no-op.
            let _: Poll<_> = pin!(tokio_uring::no_op()).poll(&mut Context::from_waker(Waker::noop()));
        }
        answer
    })
    .await
}

/// A disk reached through the io_uring of the tokio-uring loop it is used in.
pub struct UringDisk {
    chores: Chores,
}

struct UringFile {
    file: Rc<tokio_uring::fs::File>,
    bytes: u64,
}

impl UringDisk {
    /// Starts the chore threads. `direct` asks for O_DIRECT.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(direct: bool) -> io::Result<Self> {
        Ok(Self { chores: Chores::start(direct)? })
    }
}

impl Disk for UringDisk {
    fn open(&self, path: &Path) -> LocalFuture<io::Result<Rc<dyn DiskFile>>> {
        let opening = self.chores.open(path);
        Box::pin(async move {
            let (file, bytes) = opening.await?;
            let file = Rc::new(tokio_uring::fs::File::from_std(file));
            Ok(Rc::new(UringFile { file, bytes }) as Rc<dyn DiskFile>)
        })
    }

    fn pause(&self, duration: Duration) -> LocalFuture<()> {
        Box::pin(tokio::time::sleep(duration))
    }

    disk_chores!();
}

impl DiskFile for UringFile {
    fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> LocalFuture<(io::Result<()>, AlignedBuffer)> {
        let file = self.file.clone();
        Box::pin(async move {
            let (mut buffer, mut done) = (Loan(buffer), 0);
            while done < buffer.0.len() {
                let (written, slice) =
                    at_once(file.write_at(buffer.slice(done..), offset + done as u64).submit()).await;
                buffer = slice.into_inner();
                match written {
                    Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer.0),
                    Ok(bytes) => done += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return (Err(error), buffer.0),
                }
            }
            (Ok(()), buffer.0)
        })
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalFuture<io::Result<AlignedBuffer>> {
        let file = self.file.clone();
        Box::pin(async move {
            let (mut buffer, mut done) = (Loan(zeroed(bytes)), 0);
            while done < bytes {
                let (read, slice) = at_once(file.read_at(buffer.slice(done..), offset + done as u64)).await;
                buffer = slice.into_inner();
                match read {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(bytes) => done += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(buffer.0)
        })
    }

    fn sync_data(&self) -> LocalFuture<io::Result<()>> {
        let file = self.file.clone();
        Box::pin(async move { at_once(file.sync_data()).await })
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A buffer on loan to the kernel.
struct Loan(AlignedBuffer);

// SAFETY: the vector's heap block does not move while the loan is alive and not grown, and nothing here grows it; its first
// `len` bytes are initialised.
unsafe impl IoBuf for Loan {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as above; the total equals the initialised bytes, so a read can never initialise more than there are.
unsafe impl IoBufMut for Loan {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, bytes: usize) {
        assert!(bytes <= self.0.len(), "the kernel filled more than it was lent");
    }
}
