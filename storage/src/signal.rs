//! A wake-up on one core: an append tells the driver that there is work.
//!
//! Promises: a raise between two waits is not lost; many raises are one. Does not: cross threads.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub(crate) struct Signal {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once after each raise.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}
