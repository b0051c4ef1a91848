//! Work handed to a thread with a runtime of its own: a bounded queue, and a bell that the other side hears as a readable socket.
//!
//! The other runtime's wakers stay on its own thread: what wakes it is an operation of its own ring.
//!
//! Promises: what was pushed before the bell is seen after it; a bell that is already ringing costs nothing; when the sender is
//! gone the bell reads its end. Does not: carry answers back; each item brings its own way home.

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

/// The side that hands over.
pub(super) struct Way<T> {
    // Dropped before the bell, so that who reads the bell's end finds the queue's end too.
    queue: Sender<T>,
    rung: Arc<AtomicBool>,
    bell: UnixStream,
}

/// The side that works.
pub(super) struct Arrivals<T> {
    queue: Receiver<T>,
    rung: Arc<AtomicBool>,
}

/// What [`Arrivals::next`] found.
pub(super) enum Arrival<T> {
    /// Work.
    Item(T),
    /// Nothing now; the bell will ring.
    Nothing,
    /// Nothing ever again.
    End,
}

/// A way for at most `waiting_max` items, its other end, and the socket to listen to there.
pub(super) fn way<T>(waiting_max: usize) -> io::Result<(Way<T>, Arrivals<T>, UnixStream)> {
    let (sender, receiver) = crossbeam_channel::bounded(waiting_max);
    let (bell, ear) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    ear.set_nonblocking(true)?;
    let rung = Arc::new(AtomicBool::new(false));
    Ok((Way { queue: sender, rung: rung.clone(), bell }, Arrivals { queue: receiver, rung }, ear))
}

impl<T> Way<T> {
    /// Hands `item` over; while the queue is full, at the executor's next turn. False when nobody takes anything any more.
    pub(super) async fn push(&self, item: T) -> bool {
        let mut item = Some(item);
        poll_fn(|context| {
            let Some(waiting) = item.take() else { return Poll::Ready(true) };
            match self.try_push(waiting) {
                Ok(()) => Poll::Ready(true),
                Err(TrySendError::Full(back)) => {
                    item = Some(back);
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Err(TrySendError::Disconnected(_)) => Poll::Ready(false),
            }
        })
        .await
    }

    /// Hands `item` over, or gives it back.
    pub(super) fn try_push(&self, item: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(item)?;
        if !self.rung.swap(true, Ordering::AcqRel) {
            // A full socket is readable, and one whose other end is gone wakes nobody: the queue tells of that.
            let _ = (&self.bell).write(&[1]);
        }
        Ok(())
    }
}

impl<T> Arrivals<T> {
    /// The bell was read: what is pushed from now on rings it again. To be called before the queue is looked at.
    pub(super) fn heard(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// The next item.
    pub(super) fn next(&self) -> Arrival<T> {
        match self.queue.try_recv() {
            Ok(item) => Arrival::Item(item),
            Err(TryRecvError::Empty) => Arrival::Nothing,
            Err(TryRecvError::Disconnected) => Arrival::End,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn s1_1_9_the_bell_rings_once_until_it_is_heard_and_tells_the_end() {
        let (way, arrivals, mut ear) = way(2).unwrap();
        let mut rings = [0; 8];
        let next = |expected| match (arrivals.next(), expected) {
            (Arrival::Item(item), Some(expected)) => assert_eq!(item, expected),
            (Arrival::Nothing, None) => {}
            (Arrival::Item(_) | Arrival::Nothing | Arrival::End, expected) => panic!("not {expected:?}"),
        };
        way.try_push(1).unwrap();
        way.try_push(2).unwrap();
        assert!(matches!(way.try_push(3), Err(TrySendError::Full(3))), "full gives the item back");
        assert_eq!(ear.read(&mut rings).unwrap(), 1);
        assert_eq!(ear.read(&mut rings).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        arrivals.heard();
        next(Some(1));
        // Heard and not yet looked through: it rings for what comes now.
        way.try_push(3).unwrap();
        assert_eq!(ear.read(&mut rings).unwrap(), 1);
        arrivals.heard();
        [Some(2), Some(3), None].into_iter().for_each(next);
        way.try_push(4).unwrap();
        drop(way);
        assert_eq!((ear.read(&mut rings).unwrap(), ear.read(&mut rings).unwrap()), (1, 0));
        next(Some(4));
        assert!(matches!(arrivals.next(), Arrival::End));
    }
}
