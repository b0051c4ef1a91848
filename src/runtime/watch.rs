//! A value that one part of a core changes and others watch, as consensus asks for it.
//!
//! Promises: who waits is woken in the order in which it began to wait, so that the same events lead to the same steps; tokio's own
//! channel wakes its receivers in a random order. Does not: leave its core.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use openraft::async_runtime::watch::{self, RecvError, SendError};

/// The kind of channel.
#[derive(Debug)]
pub struct CoreWatch;

/// Changes the value.
pub struct WatchSender<T>(Rc<Shared<T>>);

/// Sees the value and waits for its changes.
pub struct WatchReceiver<T> {
    shared: Rc<Shared<T>>,
    number: u64,
    seen: u64,
}

struct Shared<T> {
    value: RefCell<T>,
    /// Grows with every change.
    version: Cell<u64>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    receiver_next: Cell<u64>,
    /// At most one a receiver, in the order in which they began to wait.
    waiting: RefCell<Vec<(u64, Waker)>>,
}

impl<T> Shared<T> {
    fn changed(&self) {
        self.version.set(self.version.get() + 1);
        self.wake();
    }

    fn wake(&self) {
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

fn receiver<T>(shared: &Rc<Shared<T>>, seen: u64) -> WatchReceiver<T> {
    let number = shared.receiver_next.get();
    shared.receiver_next.set(number + 1);
    shared.receivers.set(shared.receivers.get() + 1);
    WatchReceiver { shared: shared.clone(), number, seen }
}

impl watch::Watch for CoreWatch {
    type Sender<T> = WatchSender<T>;
    type Receiver<T> = WatchReceiver<T>;
    type Ref<'a, T: 'a> = Ref<'a, T>;

    fn channel<T>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let shared = Rc::new(Shared {
            value: RefCell::new(init),
            version: Cell::new(0),
            senders: Cell::new(1),
            receivers: Cell::new(0),
            receiver_next: Cell::new(0),
            waiting: RefCell::default(),
        });
        let receiver = receiver(&shared, 0);
        (WatchSender(shared), receiver)
    }
}

impl<T> watch::WatchSender<CoreWatch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.get() == 0 {
            return Err(SendError(value));
        }
        // The old value is dropped after the borrow: its destructor may look here.
        let old = self.0.value.replace(value);
        self.0.changed();
        drop(old);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let is_modified = modify(&mut self.0.value.borrow_mut());
        if is_modified {
            self.0.changed();
        }
        is_modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        receiver(&self.0, self.0.version.get())
    }
}

impl<T> watch::WatchReceiver<CoreWatch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            let version = self.shared.version.get();
            if self.seen != version {
                self.seen = version;
                return Poll::Ready(Ok(()));
            }
            if self.shared.senders.get() == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            let mut waiting = self.shared.waiting.borrow_mut();
            match waiting.iter_mut().find(|(number, _)| *number == self.number) {
                Some((_, waker)) => waker.clone_from(context.waker()),
                None => waiting.push((self.number, context.waker().clone())),
            }
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }
}

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(self.0.clone())
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        receiver(&self.shared, self.seen)
    }
}

impl<T> Drop for WatchSender<T> {
    fn drop(&mut self) {
        let left = self.0.senders.get() - 1;
        self.0.senders.set(left);
        if left == 0 {
            self.0.wake();
        }
    }
}

impl<T> Drop for WatchReceiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
        self.shared.waiting.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}
