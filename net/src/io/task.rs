//! Tasks and time of the runtime that drives a core.
//!
//! Promises: nothing outside this folder spawns or sleeps by the runtime's own name.
//! Does not: build or pin a runtime; the caller is already inside one.

use std::{future::Future, time::Duration};

/// Runs a task on this core. The caller is inside a local set, as every core's loop is.
pub(crate) fn spawn_local(task: impl Future<Output = ()> + 'static) {
    drop(tokio::task::spawn_local(task));
}

/// Runs a task on whatever runtime the caller is in.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

/// The future's output, or `None` if it takes longer than `limit`.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Waits.
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
