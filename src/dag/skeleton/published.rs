//! A cell in which the writer replaces a whole value while readers use the one they found.
//!
//! Promises: a reader sees a complete value, never waits, and the value it uses is not freed under it.
//! Does not: order two writers; the skeleton has one.
//!
//! This is the only file of the skeleton with `unsafe`: the standard library has no cell of this kind without a lock.

use crossbeam_epoch::{Atomic, Owned, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The cell. It always holds a value.
pub(super) struct Published<T>(Atomic<Arc<T>>);

impl<T: Send + Sync + 'static> Published<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Atomic::new(Arc::new(value)))
    }

    /// Lets `read` use the present value in place. For short uses: what was replaced meanwhile waits to be freed.
    #[inline]
    pub(super) fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        let guard = pin();
        let shared = self.0.load(Ordering::Acquire, &guard);
        // SAFETY: the cell is never null (made full, replaced by full values, emptied only in `drop`), and a value
        // taken out by `replace` is destroyed only after every guard pinned before that moment is gone, as ours is not.
        read(unsafe { shared.deref() })
    }

    /// The present value, to be kept as long as one likes.
    pub(super) fn load(&self) -> Arc<T> {
        let guard = pin();
        let shared = self.0.load(Ordering::Acquire, &guard);
        // SAFETY: as in `with`; the clone counts for itself once the guard is gone.
        Arc::clone(unsafe { shared.deref() })
    }

    /// Replaces the value. Readers that found the old one finish with it.
    pub(super) fn replace(&self, value: Arc<T>) {
        let guard = pin();
        let old = self.0.swap(Owned::new(value), Ordering::AcqRel, &guard);
        // SAFETY: `old` was in the cell, which owns what it holds, and the swap took it out: no new reader can find it,
        // and it is handed to be destroyed exactly once.
        unsafe { guard.defer_destroy(old) };
        // Replacements are few and large: they must not wait here until there are many.
        guard.flush();
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self` shows that no reader is left, so the value is ours alone; the cell is never null, and it
        // is not looked at again.
        drop(unsafe { std::mem::replace(&mut self.0, Atomic::null()).into_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Counted(usize, Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn s1_1_8_published_value_outlives_its_replacement() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let cell = Published::new(Counted(1, Arc::clone(&dropped)));
        let kept = cell.load();
        cell.replace(Arc::new(Counted(2, Arc::clone(&dropped))));
        assert_eq!(kept.0, 1);
        assert_eq!(cell.with(|value| value.0), 2);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        drop(kept);
        drop(cell);
        // The replaced value goes when the epoch moves on, which other tests of this process may hold back; the one
        // that was in the cell goes with it.
        assert!(1 <= dropped.load(Ordering::Relaxed));
    }
}
