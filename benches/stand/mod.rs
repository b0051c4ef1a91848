//! A core's thread for a bench: what is measured lives on its loop and is timed there.
//!
//! Promises: the time told is that of the work alone, without the way to the thread and back. Work that never ends is an error.
//! Does not: pin the thread, since the bench's own thread only waits.

#![allow(clippy::expect_used, reason = "a bench that cannot start has nothing to tell")]

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use qmesh::runtime::{CorePlan, Loop, start_core};

/// No question takes longer: criterion asks for a few seconds at most. A backend that stops answering fails its bench.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A running core that answers each question with how long it took.
pub(crate) struct Stand<Q> {
    ask: Option<tokio::sync::mpsc::Sender<Q>>,
    told: mpsc::Receiver<Duration>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// What a stand's body serves.
pub(crate) struct Questions<Q> {
    asked: tokio::sync::mpsc::Receiver<Q>,
    tell: mpsc::Sender<Duration>,
}

impl<Q: Send + 'static> Stand<Q> {
    /// Starts a loop and runs `body` on it; the body prepares what is measured, then serves the questions until there are no
    /// more.
    pub(crate) fn start<B, F>(event_loop: Loop, body: B) -> Self
    where
        B: FnOnce(Questions<Q>) -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let (ask, asked) = tokio::sync::mpsc::channel(1);
        let (tell, told) = mpsc::channel();
        let plan = CorePlan { index: 0, cpu: None, event_loop };
        let thread = start_core(plan, move || body(Questions { asked, tell })).expect("a thread");
        Self { ask: Some(ask), told, thread: Some(thread) }
    }

    /// Has a question answered.
    pub(crate) fn time(&self, question: Q) -> Duration {
        let ask = self.ask.as_ref().expect("asked before the end");
        assert!(ask.blocking_send(question).is_ok(), "the bench's core ended; its panic is told above");
        self.told.recv_timeout(ANSWER_MAX).expect("the bench's core ended, or nothing came of what was asked")
    }
}

impl<Q> Questions<Q> {
    /// The next question; `None` when there are no more.
    pub(crate) async fn next(&mut self) -> Option<Q> {
        self.asked.recv().await
    }

    /// Answers it.
    pub(crate) fn tell(&self, took: Duration) {
        // Nobody listens any more when the bench was stopped.
        let _ = self.tell.send(took);
    }
}

impl<Q> Drop for Stand<Q> {
    fn drop(&mut self) {
        drop(self.ask.take());
        // A core that did not answer would not end either.
        if !std::thread::panicking()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}
