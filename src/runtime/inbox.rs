//! A core's inbox: a bounded lock-free queue and one wake-up.
//!
//! Promises: a push never waits; a full inbox gives the message back. A push to a core that is awake costs no system call.
//! Does not: order messages of different senders.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;

struct Shared<T> {
    queue: ArrayQueue<T>,
    waker: AtomicWaker,
}

/// The sending half: any core may hold a clone.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving half: its core holds it.
pub struct Receiver<T>(Arc<Shared<T>>);

/// The message that did not fit.
#[derive(Debug)]
pub struct Full<T>(pub T);

/// A new inbox for `messages_max` messages.
pub fn inbox<T>(messages_max: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { queue: ArrayQueue::new(messages_max), waker: AtomicWaker::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Puts a message into the inbox and wakes the core if it sleeps.
    ///
    /// # Errors
    /// [`Full`] gives the message back.
    pub fn push(&self, message: T) -> Result<(), Full<T>> {
        self.0.queue.push(message).map_err(Full)?;
        self.0.waker.wake();
        Ok(())
    }

    /// Messages waiting now.
    pub fn waiting(&self) -> usize {
        self.0.queue.len()
    }
}

impl<T> Receiver<T> {
    /// Waits until a message is there and takes at most `messages_max` of them into `out`.
    ///
    /// With `busy_poll` above zero the core keeps polling its inbox, sockets and disk that long after the last message before
    /// it sleeps: a wake-up costs more than the message.
    pub async fn receive(&mut self, out: &mut Vec<T>, messages_max: usize, busy_poll: Duration) {
        if self.take(out, messages_max) {
            // Let the sockets and the disk have their turn before the next batch is taken.
            return;
        }
        if !busy_poll.is_zero() {
            let idle_since = Instant::now();
            while idle_since.elapsed() < busy_poll {
                tokio::task::yield_now().await;
                if self.take(out, messages_max) {
                    return;
                }
            }
        }
        poll_fn(|context| {
            if self.take(out, messages_max) {
                return Poll::Ready(());
            }
            self.0.waker.register(context.waker());
            // A push between the look and the registration would not have woken us: look again.
            if self.take(out, messages_max) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn take(&self, out: &mut Vec<T>, messages_max: usize) -> bool {
        let before = out.len();
        while out.len() - before < messages_max
            && let Some(message) = self.0.queue.pop()
        {
            out.push(message);
        }
        out.len() > before
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;
    use crate::runtime::run_plain;

    #[test]
    fn s2_2_7_full_inbox_gives_the_message_back() {
        let (sender, _receiver) = inbox(2);
        sender.push(1).unwrap();
        sender.push(2).unwrap();
        let Err(Full(message)) = sender.push(3) else { panic!("a third message in an inbox for two") };
        assert_eq!(message, 3);
    }

    #[test]
    fn s2_2_7_messages_of_other_threads_arrive_in_their_order() {
        let (sender, mut receiver) = inbox(64);
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for number in 0..5_000u32 {
                        let mut message = (thread, number);
                        while let Err(Full(back)) = sender.push(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0u32; 4];
        run_plain(async {
            let mut out = Vec::new();
            while next.iter().sum::<u32>() < 20_000 {
                receiver.receive(&mut out, 7, Duration::ZERO).await;
                for (thread, number) in out.drain(..) {
                    assert_eq!(next[thread], number);
                    next[thread] += 1;
                }
            }
        })
        .unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
