//! `subscriptions/listen`: told when what a URI names has changed, for as long as the listener stays.
//!
//! Promises: the first message says which URIs are listened to; every message carries the subscription's id; a change is told
//! at most [`SETTLE_MS`] after it is seen, several close together as one; a node that drains says so with a result.
//! Does not: tell what changed, nor remember anything for a listener who went away. The URI is read again.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::Fault;
use super::message::{Notifications, Params};
use super::resources::{self, Content};
use super::uri::{Named, Part};
use crate::gateway::Context;
use crate::gateway::http::{Body, BodySender, Response};
use crate::gateway::upstream::Differs;
use crate::runtime;

/// URIs of one listener.
const RESOURCES_MAX: usize = 64;
/// Length of one of them, in bytes.
const URI_BYTES_MAX: usize = 2048;
/// Listeners of one core.
const LISTENERS_MAX: usize = 1024;
/// Changes within this time are told as one, in milliseconds.
const SETTLE_MS: u64 = 100;
/// Time without a message after which a comment keeps the connection open, in milliseconds.
const KEEP_ALIVE_MS: u64 = 15_000;
/// When a listener who found all places taken should come back, in milliseconds.
const RETRY_AFTER_MS: u32 = 1000;

/// Opens a stream of notifications.
///
/// # Errors
/// Invalid params; too many URIs; too many listeners on this core.
pub(super) fn listen(context: &Context, id: &str, params: &Params<'_>) -> Result<Response, Fault> {
    let Some(wanted) = &params.notifications else {
        return Err(Fault::invalid_params("params must have \"notifications\", an object").with_status(400));
    };
    let wanted = wanted.0.resources.as_deref().unwrap_or_default();
    if RESOURCES_MAX < wanted.len() {
        let message = format!("resourceSubscriptions: {} URIs, at most {RESOURCES_MAX} URIs", wanted.len());
        return Err(Fault::invalid_params(message));
    }
    let mut seen = HashSet::new();
    // What cannot change, or is no resource here, is left out of the acknowledgement, which is how the client learns of it.
    let mut resources: Vec<Watched> = Vec::new();
    let mut elsewhere: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for uri in wanted.iter().map(|uri| uri.as_str()).filter(|uri| seen.insert(*uri)) {
        if changes(uri) {
            resources.push(Watched { uri: uri.to_owned(), seen: 0 });
        } else if let Some(teller) = context.upstreams.teller(uri) {
            elsewhere.entry(teller).or_default().push(uri.to_owned());
        }
    }
    let params = params.notifications.as_ref().map(|wanted| &wanted.0);
    let wants = |of: fn(&Notifications<'_>) -> Option<bool>| params.is_some_and(|wanted| of(wanted) == Some(true));
    let lists = Differs {
        tools: wants(|wanted| wanted.tools),
        prompts: wants(|wanted| wanted.prompts),
        resources: wants(|wanted| wanted.resource_lists),
    };
    let place = Place::take()?;
    let (sender, body) = Body::stream();
    let listener = Listener { context: context.clone(), id: id.to_owned(), resources, elsewhere, lists, _place: place };
    runtime::spawn(listener.run(sender));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Whether a URI names something here that may change.
fn changes(uri: &str) -> bool {
    let moving = |named| match named {
        Named::State | Named::Tips { .. } | Named::Ref { .. } => true,
        Named::Vertex { part, .. } => matches!(part, Part::Children | Part::Status),
        Named::Walk { .. } => false,
    };
    uri.len() <= URI_BYTES_MAX && Named::parse(uri).is_ok_and(moving)
}

/// One of the places that listeners of a core have.
pub(super) struct Place;

thread_local! {
    static LISTENERS: Cell<usize> = const { Cell::new(0) };
}

impl Place {
    pub(super) fn take() -> Result<Self, Fault> {
        let taken = LISTENERS.get();
        if LISTENERS_MAX <= taken {
            return Err(Fault::try_again(
                &format!("all {LISTENERS_MAX} places of listeners are taken"),
                RETRY_AFTER_MS,
            ));
        }
        LISTENERS.set(taken + 1);
        Ok(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LISTENERS.set(LISTENERS.get() - 1);
    }
}

/// A URI, and what it looked like when it was last read.
struct Watched {
    uri: String,
    seen: u64,
}

struct Listener {
    context: Context,
    /// The id of the listening request, as JSON: the subscription's id.
    id: String,
    resources: Vec<Watched>,
    /// URIs of servers behind the gateway, by server.
    elsewhere: BTreeMap<String, Vec<String>>,
    /// Which lists it is told about.
    lists: Differs,
    _place: Place,
}

impl Listener {
    async fn run(mut self, mut sender: BodySender) {
        // When nobody listens any more, all that was held for them is dropped with this task.
        let _ended = self.serve(&mut sender).await;
    }

    /// `None` when the listener has gone.
    async fn serve(&mut self, sender: &mut BodySender) -> Option<()> {
        let own = self.resources.iter().map(|watched| watched.uri.as_str());
        let uris: Vec<&str> = own.chain(self.elsewhere.values().flatten().map(String::as_str)).collect();
        let mut honoured = if uris.is_empty() { json!({}) } else { json!({ "resourceSubscriptions": uris }) };
        for (wanted, member) in [
            (self.lists.tools, "toolsListChanged"),
            (self.lists.prompts, "promptsListChanged"),
            (self.lists.resources, "resourcesListChanged"),
        ] {
            if wanted {
                honoured[member] = true.into();
            }
        }
        let mut published = self.context.upstreams.published();
        let mut federation = published.borrow_and_update().clone();
        let acknowledged = json!({ "notifications": honoured });
        for watched in &mut self.resources {
            watched.seen = look(&self.context, &watched.uri).await;
        }
        sender.send(self.notification("notifications/subscriptions/acknowledged", acknowledged)).await.ok()?;
        let context = self.context.clone();
        let (tell, mut changed_elsewhere) = mpsc::channel(RESOURCES_MAX);
        for (server, uris) in &self.elsewhere {
            context.upstreams.listen(server.clone(), uris.clone(), tell.clone());
        }
        drop(tell);
        let mut draining = pin!(context.drain_asked().fuse());
        loop {
            // Asked for before looking, so that what changes while we look is not missed.
            let mut changed = pin!(context.router.progress().changed().fuse());
            let polled = changed.as_mut().now_or_never().is_some();
            self.tell(sender).await?;
            let quiet = sleep(Duration::from_millis(KEEP_ALIVE_MS));
            let settled = Instant::now() + Duration::from_millis(SETTLE_MS);
            let wait = async {
                if !polled {
                    changed.await;
                }
                sleep_until(settled).await;
            };
            tokio::select! {
                () = wait => {}
                Some(uri) = changed_elsewhere.recv() => {
                    sender.send(self.notification("notifications/resources/updated", json!({ "uri": uri }))).await.ok()?;
                }
                Ok(()) = published.changed() => {
                    let next = published.borrow_and_update().clone();
                    let differs = next.differs(&federation);
                    federation = next;
                    self.tell_lists(differs, sender).await?;
                }
                () = quiet => sender.send(Bytes::from_static(b":\n\n")).await.ok()?,
                () = sender.closed() => return None,
                () = &mut draining => {
                    let meta = json!({ "io.modelcontextprotocol/subscriptionId": self.id_json() });
                    let result = json!({ "resultType": "complete", "_meta": meta });
                    let last = event(&json!({ "jsonrpc": "2.0", "id": self.id_json(), "result": result }));
                    return sender.send(last).await.ok();
                }
            }
        }
    }

    /// Tells of every URI that looks different from when it was last looked at.
    async fn tell(&mut self, sender: &mut BodySender) -> Option<()> {
        for at in 0..self.resources.len() {
            let found = look(&self.context, &self.resources[at].uri).await;
            if self.resources[at].seen != found {
                self.resources[at].seen = found;
                let params = json!({ "uri": self.resources[at].uri });
                sender.send(self.notification("notifications/resources/updated", params)).await.ok()?;
            }
        }
        Some(())
    }

    /// Tells of lists that changed, if they are listened to.
    async fn tell_lists(&self, differs: Differs, sender: &mut BodySender) -> Option<()> {
        for (changed, method) in [
            (differs.tools && self.lists.tools, "notifications/tools/list_changed"),
            (differs.prompts && self.lists.prompts, "notifications/prompts/list_changed"),
            (differs.resources && self.lists.resources, "notifications/resources/list_changed"),
        ] {
            if changed {
                sender.send(self.notification(method, json!({}))).await.ok()?;
            }
        }
        Some(())
    }

    fn notification(&self, method: &str, mut params: Value) -> Bytes {
        params["_meta"] = json!({ "io.modelcontextprotocol/subscriptionId": self.id_json() });
        event(&json!({ "jsonrpc": "2.0", "method": method, "params": params }))
    }

    fn id_json(&self) -> Value {
        // It came as JSON.
        serde_json::from_str(&self.id).unwrap_or_default()
    }
}

fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}

/// What a URI looks like now, as a number. What is not there yet looks like nothing, and its coming is a change.
async fn look(context: &Context, uri: &str) -> u64 {
    if uri == "dag://state" {
        // Its own figures only: the uptime in it changes all the time.
        let counts = context.router.skeleton().counts();
        let mut hasher = DefaultHasher::new();
        (counts.vertices, counts.edges, counts.tips, counts.staged).hash(&mut hasher);
        return hasher.finish();
    }
    match resources::load(context, uri).await {
        Ok(resource) => {
            let mut hasher = DefaultHasher::new();
            match &resource.content {
                Content::Text(text) => text.hash(&mut hasher),
                Content::Bytes(bytes) => bytes.hash(&mut hasher),
            }
            hasher.finish()
        }
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_2_10_only_what_may_change_is_listened_to() {
        for uri in
            ["dag://state", "dag://tips/default", "dag://ref/a/b", "dag://vertex/x/children", "dag://vertex/x/status"]
        {
            assert!(changes(uri), "{uri}");
        }
        let long = format!("dag://ref/{}", "a".repeat(URI_BYTES_MAX));
        for uri in ["dag://vertex/x", "dag://vertex/x/payload", "dag://walk?root=x", "file:///x", "", &long] {
            assert!(!changes(uri), "{uri}");
        }
    }

    #[test]
    fn s3_2_10_places_of_listeners_are_bounded_and_given_back() {
        let mut places: Vec<Place> = (0..LISTENERS_MAX).map_while(|_| Place::take().ok()).collect();
        assert_eq!(places.len(), LISTENERS_MAX);
        assert!(Place::take().is_err());
        places.pop();
        assert!(Place::take().is_ok());
    }
}
