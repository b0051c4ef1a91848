//! News of resources that servers of the modern era have: one listener there for the URIs that one client wants.
//!
//! Promises: a server that ends its stream is listened to again after [`PAUSE`], for as long as the client listens.
//! Does not: tell what changed.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::envelope::{Message, request};
use super::follow::own_meta;
use super::link::{Exchange, Reply, Spoken};
use super::{Subject, Upstreams};
use crate::runtime;

/// Time before a server is listened to again.
const PAUSE: Duration = Duration::from_secs(5);

impl Upstreams {
    /// The server that can tell of changes of a resource, by name.
    pub(in crate::gateway) fn teller(&self, uri: &str) -> Option<String> {
        let name = self.find(Subject::Resource(uri))?.upstream_name().to_owned();
        let federation = self.current();
        let entry = federation.entries.iter().find(|entry| entry.upstream.name == name)?;
        let tells = entry.known.spoken == Some(Spoken::Modern);
        (tells && entry.known.capabilities["resources"]["subscribe"] == true).then_some(name)
    }

    /// Tells `changed` the URI of every one of these resources of a server that changes, until nobody takes it any more.
    pub(in crate::gateway) fn listen(self: &Rc<Self>, name: String, uris: Vec<String>, changed: mpsc::Sender<String>) {
        let upstreams = self.clone();
        runtime::spawn(async move {
            loop {
                tokio::select! {
                    () = upstreams.hear(&name, &uris, &changed) => {}
                    () = changed.closed() => return,
                }
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = changed.closed() => return,
                }
            }
        });
    }

    async fn hear(&self, name: &str, uris: &[String], changed: &mpsc::Sender<String>) {
        let federation = self.current();
        let Some(entry) = federation.entries.iter().find(|entry| entry.upstream.name == name) else { return };
        let Ok(caller) = self.caller(entry) else { return };
        let params = json!({ "_meta": own_meta(), "notifications": { "resourceSubscriptions": uris } });
        let exchange = Exchange {
            method: "subscriptions/listen".to_owned(),
            name: None,
            body: request(1, "subscriptions/listen", &params),
            mirrored: Vec::new(),
            session: None,
        };
        let Ok(Reply::Stream(mut messages)) = caller.link().send(Spoken::Modern, &exchange).await else { return };
        while let Ok(Some(message)) = messages.next().await {
            if let Some(uri) = updated(&message)
                && changed.send(uri).await.is_err()
            {
                return;
            }
        }
    }
}

/// The URI that a message says was updated.
fn updated(message: &Bytes) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Params {
        uri: String,
    }
    let message = Message::read(message).ok()?;
    if message.method.as_deref() != Some("notifications/resources/updated") {
        return None;
    }
    serde_json::from_str::<Params>(message.params?.get()).ok().map(|params| params.uri)
}
