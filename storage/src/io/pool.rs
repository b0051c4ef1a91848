//! A few threads that may block, and futures that wait for them under any executor.
//!
//! Promises: a job that was queued runs, also when nobody waits for it any more. Does not: order jobs.

use super::{LocalFuture, files};
use crossbeam_channel::{Sender, TrySendError};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;

/// Jobs that wait for a thread; who finds the queue full comes again at the executor's next turn.
const JOBS_WAITING_MAX: usize = 1024;
/// Threads for slow work beside the commit path: preparing segments, sealing, opening, pausing.
const CHORE_THREADS: usize = 3;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(super) struct Pool(Sender<Job>);

impl Pool {
    pub(super) fn start(name: &str, threads: usize) -> io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded::<Job>(JOBS_WAITING_MAX);
        for thread in 0..threads {
            let receiver = receiver.clone();
            std::thread::Builder::new().name(format!("{name}-{thread}")).spawn(move || {
                for job in receiver {
                    job();
                }
            })?;
        }
        Ok(Self(sender))
    }

    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> LocalFuture<T> {
        let sender = self.0.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let mut job: Option<Job> = Some(Box::new(move || {
                // The one who asked may be gone; the work was done all the same.
                let _ = answer.send(work());
            }));
            poll_fn(|context| {
                let Some(waiting) = job.take() else { return Poll::Ready(()) };
                match sender.try_send(waiting) {
                    Ok(()) => Poll::Ready(()),
                    Err(TrySendError::Full(back)) => {
                        job = Some(back);
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Err(TrySendError::Disconnected(_)) => unreachable!("the threads live as long as a sender"),
                }
            })
            .await;
            answered.await.unwrap_or_else(|_| panic!("a disk thread died while it worked"))
        })
    }
}

/// The slow half of a disk on a real filesystem, shared by the backends.
pub(super) struct Chores {
    pool: Pool,
    direct: bool,
}

impl Chores {
    pub(super) fn start(direct: bool) -> io::Result<Self> {
        Ok(Self { pool: Pool::start("disk-chore", CHORE_THREADS)?, direct })
    }

    pub(super) fn open(&self, path: &Path) -> LocalFuture<io::Result<(std::fs::File, u64)>> {
        let (path, direct) = (path.to_owned(), self.direct);
        self.pool.run(move || {
            let file = files::open(&path, direct)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        })
    }

    pub(super) fn with<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(PathBuf, bool) -> T + Send + 'static,
    ) -> LocalFuture<T> {
        let (path, direct) = (path.to_owned(), self.direct);
        self.pool.run(move || work(path, direct))
    }

    pub(super) fn pause(&self, duration: Duration) -> LocalFuture<()> {
        self.pool.run(move || std::thread::sleep(duration))
    }
}

/// The part of [`Disk`] that every backend on a real filesystem answers from its chores.
macro_rules! disk_chores {
    () => {
        fn list(&self, directory: &Path) -> LocalFuture<io::Result<Vec<String>>> {
            self.chores.with(directory, |path, _| files::list(&path))
        }

        fn prepare(
            &self,
            path: &Path,
            head: AlignedBuffer,
            bytes: u64,
            pace: std::sync::Arc<$crate::pace::Pace>,
        ) -> LocalFuture<io::Result<()>> {
            self.chores.with(path, move |path, direct| files::prepare(&path, &head, bytes, direct, &pace))
        }

        fn replace(&self, path: &Path, content: Vec<u8>) -> LocalFuture<io::Result<()>> {
            self.chores.with(path, move |path, _| files::replace(&path, &content))
        }

        fn load(&self, path: &Path) -> LocalFuture<io::Result<Vec<u8>>> {
            self.chores.with(path, |path, _| std::fs::read(path))
        }

        fn digest(
            &self,
            path: &Path,
            bytes: u64,
            pace: std::sync::Arc<$crate::pace::Pace>,
        ) -> LocalFuture<io::Result<[u8; 32]>> {
            self.chores.with(path, move |path, direct| files::digest(&path, bytes, direct, &pace))
        }

        fn remove(&self, path: &Path) -> LocalFuture<io::Result<()>> {
            self.chores.with(path, |path, _| files::remove(&path))
        }

        fn lock(&self, path: &Path) -> LocalFuture<io::Result<Lock>> {
            let locked = self.chores.with(path, |path, _| files::lock(&path));
            Box::pin(async move { Ok(Lock::new(Box::new(locked.await?))) })
        }

        fn identity(&self) -> [u8; 16] {
            files::identity()
        }
    };
}
pub(super) use disk_chores;
