//! Active checks: each endpoint of a server is asked how it is, whether clients call it or not.
//!
//! Promises: checks of one endpoint are apart by the declared time, give or take a tenth, so that gateways do not ask in step; a
//! check that does not end in time is a bad one. Does not: check processes, which are watched by themselves.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::envelope::Message;
use super::follow::exchange;
use super::link::{Link, Spoken};
use super::pool::{Pool, now};

/// Checks every endpoint until it is dropped. `spoken` is none until the server has answered for the first time.
pub(super) async fn check_all(pool: Arc<Pool>, links: Rc<Vec<Link>>, spoken: watch::Receiver<Option<Spoken>>) {
    if !pool.rule.health.active {
        return;
    }
    let all = (0..links.len()).map(|at| check_one(&pool, &links, at, spoken.clone()));
    futures_util::future::join_all(all).await;
}

async fn check_one(pool: &Pool, links: &[Link], at: usize, spoken: watch::Receiver<Option<Spoken>>) {
    let Link::Http(_) = &links[at] else { return };
    let interval_ms = pool.rule.health.interval_ms;
    loop {
        let spread = rand::random_range(0..=interval_ms / 5);
        sleep(Duration::from_millis(interval_ms - interval_ms / 10 + spread)).await;
        let spoken = *spoken.borrow();
        let Some(spoken) = spoken else { continue };
        pool.checked(at, is_well(&links[at], spoken, pool.rule.check_timeout()).await, now());
    }
}

/// Whether an answer came. One that refuses the gateway, or is busy, is well.
async fn is_well(link: &Link, spoken: Spoken, limit: Duration) -> bool {
    let method = if spoken == Spoken::Modern { "server/discover" } else { "ping" };
    let asked = exchange(1, method, json!({}));
    let answered = timeout(limit, async { link.send(spoken, &asked).await?.answer().await }).await;
    match answered {
        Ok(Ok((_, message))) => Message::read(&message).is_ok(),
        Ok(Err(broken)) => !broken.is_failure(),
        Err(_) => false,
    }
}
