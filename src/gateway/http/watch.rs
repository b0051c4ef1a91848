//! New vertices and moves of refs, as server-sent events.
//!
//! Promises: after each event's id, a watcher that comes back goes on where it was, as long as the node did not restart; a
//! watcher that lags behind the moves of refs is told how many it missed; one that takes nothing is cut, with the reason as its
//! last event. A quiet stream sends a comment, so that both sides know the other is there.
//! Does not: keep history beyond the graph itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use hyper::header::{self, HeaderValue};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::body::{BodySender, Gone};
use super::negotiate::EVENTS;
use super::problem::document_of;
use super::route::Call;
use super::socket::Asked;
use super::{Body, Problem, Response};
use crate::dag::ref_record::RefRecord;
use crate::dag::skeleton::Number;
use crate::error::{Reason, Refusal};
use crate::gateway::Context;
use crate::gateway::json::{self, summary};

/// Quiet time after which a comment is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that are written before the watcher's socket is asked again.
const EVENTS_PER_PIECE: usize = 256;
/// Vertices that are looked at, told or not, before the core serves others.
const VERTICES_PER_LOOK: u32 = 10_000;

pub(super) fn watch(call: &Call) -> Result<Response, Problem> {
    let mut response = Response::new(follow(call, Form::Events)?);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The same on a socket: each event is a text, `{"event", "id", "data"}`.
pub(super) fn on_socket(call: Call, asked: Asked) -> Result<Response, Problem> {
    let told = follow(&call, Form::Texts)?;
    Ok(asked.tell(call.context, &call.parts, told))
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// With its name, its id and its data in lines of their own.
    Events,
    /// With all of it as its data.
    Texts,
}

fn follow(call: &Call, form: Form) -> Result<Body, Problem> {
    let Call { context, parts, parameters, .. } = call;
    let view_end = context.router.skeleton().view().len();
    let cursor = parameters.get("cursor").filter(|cursor| !cursor.is_empty());
    let cursor = cursor.or_else(|| parts.headers.get("last-event-id").and_then(|id| id.to_str().ok()));
    let next = match cursor {
        None => view_end,
        Some(text) => Cursor::read(text, context.router.boot(), view_end)?,
    };
    let watcher = Watcher {
        namespace: parameters.text("namespace"),
        kind: parameters.text("kind"),
        refs: parameters.switch("refs")?.unwrap_or(true).then(|| context.router.watch_refs()),
        next,
        boot: context.router.boot(),
        form,
        text: Vec::new(),
    };
    let (sender, body) = Body::stream();
    crate::runtime::spawn(watcher.run(context.clone(), sender));
    Ok(body)
}

/// The id of an event: which start of the node, and how many vertices had been told.
struct Cursor;

impl Cursor {
    fn text(boot: u64, next: u32) -> String {
        format!("{boot:016x}.{next}")
    }

    fn read(text: &str, boot: u64, next_max: u32) -> Result<u32, Refusal> {
        let wrong = || Refusal::bad_request("cursor: not the id of an event of this stream");
        let (found, next) = text.split_once('.').ok_or_else(wrong)?;
        let found = u64::from_str_radix(found, 16).map_err(|_| wrong())?;
        let next: u32 = next.parse().map_err(|_| wrong())?;
        if found != boot {
            let detail = "the node has restarted since this event; watch from now on and read what you miss by a walk";
            return Err(Refusal::new(Reason::CursorExpired, detail));
        }
        if next_max < next { Err(wrong()) } else { Ok(next) }
    }
}

struct Watcher {
    namespace: String,
    kind: String,
    refs: Option<Receiver<Arc<RefRecord>>>,
    /// The first vertex that was not told.
    next: u32,
    boot: u64,
    form: Form,
    text: Vec<u8>,
}

impl Watcher {
    async fn run(mut self, context: Context, mut sender: BodySender) {
        self.comment("watching");
        let ended = tokio::select! {
            ended = self.follow(&context, &mut sender) => ended,
            () = context.drain_asked() => Ok(()),
        };
        if ended.is_ok() {
            // A drain is no failure: the watcher comes back with its cursor, to this node or another.
            self.text.clear();
            self.comment("the node drains");
            let (Ok(()) | Err(Gone)) = sender.send(Bytes::from(self.text)).await;
        } else {
            let refusal = Refusal::new(Reason::Overloaded, "the watcher took nothing for too long");
            sender.cut(Bytes::from(format!("event: cut\ndata: {}\n\n", document_of(&refusal))));
        }
    }

    /// Tells what is new until nobody listens.
    async fn follow(&mut self, context: &Context, sender: &mut BodySender) -> Result<(), Gone> {
        let router = &context.router;
        loop {
            let mut changed = std::pin::pin!(router.progress().changed());
            // Registered before we look, so that what changes while we look wakes us.
            let already = poll!(&mut changed).is_ready();
            while self.tell_vertices(context) | self.tell_refs() {
                sender.send(Bytes::from(std::mem::take(&mut self.text))).await?;
                tokio::task::yield_now().await;
            }
            if !self.text.is_empty() {
                sender.send(Bytes::from(std::mem::take(&mut self.text))).await?;
            }
            if already {
                continue;
            }
            tokio::select! {
                () = &mut changed => {}
                record = next_ref(&mut self.refs) => self.tell_ref(record),
                () = sender.closed() => return Err(Gone),
                () = tokio::time::sleep(KEEP_ALIVE) => self.comment(""),
            }
        }
    }

    /// Writes events of new vertices; whether there may be more.
    fn tell_vertices(&mut self, context: &Context) -> bool {
        let view = context.router.skeleton().view();
        let (first, mut told) = (self.next, 0);
        let end = view.len().min(first.saturating_add(VERTICES_PER_LOOK));
        while self.next < end && told < EVENTS_PER_PIECE {
            let number = Number(self.next);
            self.next += 1;
            let wanted = |asked: &str, found: Option<&str>| asked.is_empty() || found == Some(asked);
            if wanted(&self.namespace, view.namespace(number)) && wanted(&self.kind, view.kind(number)) {
                self.event("vertex", &json::to_value(&summary(&view, number)));
                told += 1;
            }
        }
        first < self.next && self.next < view.len()
    }

    /// Writes events of the moves of refs that wait; whether there were any.
    fn tell_refs(&mut self) -> bool {
        let mut told = 0;
        while told < EVENTS_PER_PIECE {
            let Some(refs) = &mut self.refs else { return false };
            match refs.try_recv() {
                Ok(record) => self.tell_ref(Ok(record)),
                Err(TryRecvError::Lagged(missed)) => self.tell_ref(Err(RecvError::Lagged(missed))),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
            told += 1;
        }
        told == EVENTS_PER_PIECE
    }

    fn tell_ref(&mut self, record: Result<Arc<RefRecord>, RecvError>) {
        match record {
            Ok(record) => self.event("ref", &json::ref_event(&record)),
            Err(RecvError::Lagged(missed)) => self.event("missed", &serde_json::json!({ "ref_moves": missed })),
            // The node goes down; the drain says so.
            Err(RecvError::Closed) => self.refs = None,
        }
    }

    fn event(&mut self, name: &str, data: &serde_json::Value) {
        let id = Cursor::text(self.boot, self.next);
        // JSON text has no line ends of its own.
        if self.form == Form::Texts {
            let text = format!("data: {{\"event\":\"{name}\",\"id\":\"{id}\",\"data\":{data}}}\n\n");
            return self.text.extend_from_slice(text.as_bytes());
        }
        self.text.extend_from_slice(format!("event: {name}\nid: {id}\ndata: {data}\n\n").as_bytes());
    }

    fn comment(&mut self, text: &str) {
        self.text.extend_from_slice(format!(": {text}\n\n").as_bytes());
    }
}

/// The next move of a ref; never, for a watcher that does not want them.
async fn next_ref(refs: &mut Option<Receiver<Arc<RefRecord>>>) -> Result<Arc<RefRecord>, RecvError> {
    match refs {
        Some(refs) => refs.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_2_10_a_watcher_goes_on_where_it_was_and_not_elsewhere() {
        let check = |text: &str, expected: Result<u32, Reason>| {
            assert_eq!(Cursor::read(text, 7, 10).map_err(|refusal| refusal.reason), expected, "{text}");
        };
        check(&Cursor::text(7, 3), Ok(3));
        check(&Cursor::text(7, 10), Ok(10));
        check(&Cursor::text(7, 11), Err(Reason::BadRequest));
        check(&Cursor::text(8, 3), Err(Reason::CursorExpired));
        for text in ["", "7", "7.", ".3", "x.3", "7.-3", "7.3.3"] {
            check(text, Err(Reason::BadRequest));
        }
    }
}
