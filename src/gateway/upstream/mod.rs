//! MCP servers behind the gateway: found in `upstreams.d/`, asked what they offer, called on behalf of clients.
//!
//! Promises: a client of either era reaches a server of either era; what passes through keeps its bytes but for names and ids; a
//! server that is down, slow or wrong costs the others nothing: lists come from what is known, calls to it fail fast with the
//! reason. Does not: decide who may call (see the pipeline), nor remember anything of a client.

mod call;
mod check;
mod door;
mod envelope;
mod explained;
mod federation;
mod follow;
#[cfg(test)]
mod fuzz_tests;
mod http;
mod link;
mod news;
mod pool;
mod search;
mod sessions;
mod sse;
mod stdio;
mod window;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

pub(in crate::gateway) use call::{Asked, Kept, Subject, carry, event};
pub use door::Door;
pub(in crate::gateway) use envelope::{Message, splice};
pub use explained::{BreakerReset, Figure};
pub use federation::Federation;
pub(in crate::gateway) use federation::{Differs, Row};
pub use follow::examine;
pub(in crate::gateway) use link::{LEGACY, MODERN};
pub(in crate::gateway) use search::search;
pub(in crate::gateway) use sessions::{Held, Question};
pub(in crate::gateway) use sse::Events;

use federation::Entry;
use link::Link;
use pool::{Pool, Turns, now};

use crate::runtime;

/// What one core publishes to all.
pub type Published = watch::Receiver<Arc<Federation>>;

/// Where it publishes.
pub type Publisher = watch::Sender<Arc<Federation>>;

/// Follows `folder` on this core, for every core that has `Published`.
pub fn follow(folder: PathBuf, publish: Publisher) {
    follow::start(folder, publish);
}

/// A channel for what is published, with nothing in it yet.
pub fn publication() -> (Publisher, Published) {
    watch::channel(Arc::new(Federation::default()))
}

/// One core's ways to all servers.
pub struct Upstreams {
    current: RefCell<Arc<Federation>>,
    callers: RefCell<HashMap<String, Rc<Caller>>>,
    published: Published,
}

impl Upstreams {
    /// The ways of this core; they follow what is published.
    pub fn new(published: Published) -> Rc<Self> {
        let current = RefCell::new(published.borrow().clone());
        let upstreams = Rc::new(Self { current, callers: RefCell::default(), published: published.clone() });
        let (weak, mut published) = (Rc::downgrade(&upstreams), published);
        runtime::spawn(async move {
            while published.changed().await.is_ok() {
                let Some(upstreams) = weak.upgrade() else { return };
                let next = published.borrow_and_update().clone();
                upstreams.keep(&next);
                *upstreams.current.borrow_mut() = next;
            }
        });
        upstreams
    }

    /// What all servers offer now.
    pub(in crate::gateway) fn current(&self) -> Arc<Federation> {
        self.current.borrow().clone()
    }

    /// To wait for changes of it.
    pub(in crate::gateway) fn published(&self) -> Published {
        self.published.clone()
    }

    /// Drops the ways to servers that are no more, or were declared anew.
    fn keep(&self, next: &Federation) {
        let there = |name: &String, caller: &mut Rc<Caller>| {
            next.entries.iter().any(|entry| entry.upstream.name == *name && entry.generation == caller.generation)
        };
        self.callers.borrow_mut().retain(there);
    }

    /// The way to a server.
    fn caller(&self, entry: &Entry) -> Result<Rc<Caller>, String> {
        if let Some(caller) = self.callers.borrow().get(&entry.upstream.name)
            && caller.generation == entry.generation
        {
            return Ok(caller.clone());
        }
        let caller = Rc::new(Caller {
            generation: entry.generation,
            links: follow::links_to(&entry.upstream, entry.process.clone())?,
            pool: entry.pool.clone(),
            turns: RefCell::new(Turns::new(rand::random())),
        });
        self.callers.borrow_mut().insert(entry.upstream.name.clone(), caller.clone());
        Ok(caller)
    }

    /// What is known of every server, for people; the same on every core.
    pub(in crate::gateway) fn report(&self) -> Value {
        let federation = self.current();
        let now = now();
        let rows: Vec<Value> = federation
            .entries
            .iter()
            .map(|entry| {
                let (upstream, known) = (&entry.upstream, &entry.known);
                let (calls, failures, open) = entry.pool.counts();
                let (retries, retries_refused) = entry.pool.retried();
                let breakers = entry.breakers.rows(&entry.pool, now);
                // The worst of them.
                let words = ["open", "half_open"];
                let worst = words.into_iter().find(|word| breakers.iter().any(|row| row["state"] == *word));
                let state = match (&known.error, known.spoken) {
                    _ if upstream.drained => "drained",
                    (Some(_), _) => "down",
                    (None, Some(_)) => "up",
                    (None, None) => "starting",
                };
                json!({
                    "name": upstream.name,
                    "state": state,
                    "revision": known.spoken.map(link::Spoken::version),
                    "error": known.error,
                    "breaker": worst.unwrap_or("closed"),
                    "tools": known.lists.tools.len(),
                    "prompts": known.lists.prompts.len(),
                    "resources": known.lists.resources.len() + known.lists.templates.len(),
                    "lists_read_ms": known.read_ms,
                    "calls": calls,
                    "failures": failures,
                    "open": open,
                    "retries": retries,
                    "retries_refused": retries_refused,
                    "balance": upstream.pooling.balance.name(),
                    "endpoints": entry.pool.report(now),
                    "breakers": breakers,
                })
            })
            .collect();
        let refused: Vec<Value> =
            federation.refused.iter().map(|error| json!({ "file": error.file, "detail": error.detail })).collect();
        json!({ "upstreams": rows, "collisions": federation.collisions, "refused": refused })
    }
}

/// One core's way to one server.
struct Caller {
    generation: u64,
    /// One to each endpoint.
    links: Vec<Link>,
    pool: Arc<Pool>,
    turns: RefCell<Turns>,
}

impl Caller {
    /// The way to an endpoint that is well.
    fn link(&self) -> &Link {
        &self.links[self.pool.any(now())]
    }
}
