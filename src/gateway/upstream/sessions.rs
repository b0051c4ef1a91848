//! What a client of an earlier revision has at servers behind the gateway: a session at each that has sessions.
//!
//! Promises: nothing of it is kept here; whoever is shown what was opened can go on with it. A server that does not answer soon is left
//! out, and calls to it go through the session that all share. Does not: seal it (see `mcp`).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::header::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use super::envelope::{Message, splice};
use super::federation::Entry;
use super::http::{HttpLink, Session};
use super::link::{Broken, Exchange, LEGACY, Link, Messages, Spoken};
use super::pool::now;
use super::{Caller, Subject, Upstreams};

/// Time for a server to open a client's session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Sessions of one client.
const SESSIONS_MAX: usize = 32;
/// Length of a server's name for a session, in bytes.
const SESSION_BYTES_MAX: usize = 256;

/// A session of a client at one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::gateway) struct Held {
    /// The server.
    upstream: String,
    /// Which of its endpoints has it.
    endpoint: String,
    /// Its name for the session.
    session: String,
    /// Which of [`LEGACY`] it has.
    revision: u8,
    /// Whether the server logs to its clients.
    pub(in crate::gateway) logs: bool,
    /// Whether the server tells when its resources change.
    pub(in crate::gateway) subscribes: bool,
}

/// A server's question to a client, as the client's answer has to find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::gateway) struct Question {
    held: Held,
    /// The server's id for it, as JSON.
    id: String,
}

impl Held {
    /// The server.
    pub(in crate::gateway) fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Which of the server's endpoints has it.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn session(&self) -> Session {
        Session { id: HeaderValue::from_str(&self.session).ok() }
    }

    fn version(&self) -> &'static str {
        LEGACY.get(usize::from(self.revision)).copied().unwrap_or(LEGACY[0])
    }

    /// What a server asks, as a question of this session.
    pub(in crate::gateway) fn question(&self, id: &str) -> Question {
        Question { held: self.clone(), id: id.to_owned() }
    }
}

impl Upstreams {
    /// Opens a session at each server that has sessions, for a client that can do `capabilities`.
    pub(in crate::gateway) async fn open_sessions(&self, capabilities: &Value) -> Vec<Held> {
        let federation = self.current();
        let with_sessions = federation.entries.iter().filter(|entry| {
            matches!(entry.known.spoken, Some(Spoken::Legacy(_))) && entry.process.is_none() && !entry.upstream.drained
        });
        let opening = with_sessions.take(SESSIONS_MAX).map(|entry| self.open_session(entry, capabilities));
        join_all(opening).await.into_iter().flatten().collect()
    }

    async fn open_session(&self, entry: &Entry, capabilities: &Value) -> Option<Held> {
        let caller = self.caller(entry).ok()?;
        let at = {
            let mut turns = caller.turns.borrow_mut();
            caller.pool.choose(0, None, &[], &mut turns, now()).ok()?.0
        };
        let Link::Http(link) = &caller.links[at] else { return None };
        let opened = timeout(OPEN_TIMEOUT, link.open_session(capabilities)).await.ok()?;
        let (session, version, _) = opened.ok()?;
        let id = session.id.as_ref().and_then(|id| id.to_str().ok()).filter(|id| id.len() <= SESSION_BYTES_MAX)?;
        let told = &entry.known.capabilities;
        Some(Held {
            upstream: entry.upstream.name.clone(),
            endpoint: caller.pool.endpoints[at].id.clone(),
            session: id.to_owned(),
            revision: LEGACY.iter().position(|known| *known == version)? as u8,
            logs: told.get("logging").is_some(),
            subscribes: told["resources"]["subscribe"] == true,
        })
    }

    /// The way to the endpoint of a session, by its number.
    fn way(&self, held: &Held) -> Option<(Rc<Caller>, usize)> {
        let federation = self.current();
        let entry = federation.entries.iter().find(|entry| entry.upstream.name == held.upstream)?;
        let caller = self.caller(entry).ok()?;
        let at = caller.pool.named(&held.endpoint)?;
        Some((caller, at))
    }

    /// Whose resource a URI is, by the server's name.
    pub(in crate::gateway) fn owner(&self, uri: &str) -> Option<String> {
        let entry = self.find(Subject::Resource(uri))?;
        Some(entry.upstream_name().to_owned())
    }

    /// Asks a server in a client's session, and gives its answer as it came.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::gateway) async fn ask_in(&self, held: &Held, method: &str, body: Bytes) -> Result<Bytes, Broken> {
        let (caller, at) = self
            .way(held)
            .ok_or_else(|| Broken::Unreachable("it is no upstream, or no endpoint of one, any more".to_owned()))?;
        let session = Some(Rc::new(held.session()));
        let exchange = Exchange { method: method.to_owned(), name: None, body, mirrored: Vec::new(), session };
        let asked = async { caller.links[at].send(Spoken::Legacy(held.version()), &exchange).await?.answer().await };
        let (_, answer) = timeout(OPEN_TIMEOUT, asked).await.map_err(|_| Broken::Timeout(OPEN_TIMEOUT))??;
        Ok(answer)
    }

    /// Hands a client's answer to the server that asked.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(in crate::gateway) async fn answer_question(&self, question: &Question, body: &Bytes) -> Result<(), Broken> {
        let held = &question.held;
        let (caller, at) = self
            .way(held)
            .ok_or_else(|| Broken::Unreachable("it is no upstream, or no endpoint of one, any more".to_owned()))?;
        let Link::Http(link) = &caller.links[at] else { return Ok(()) };
        let id = Message::read(body).ok().and_then(|message| message.id);
        let id = id.ok_or_else(|| Broken::Unsupported("an answer without an id".to_owned()))?;
        let body = splice(body, &mut [(id.get(), &question.id)]);
        link.post_answer(&held.session(), held.version(), body).await
    }

    /// What a server tells a client's session by itself.
    pub(in crate::gateway) async fn told_in(&self, held: &Held) -> Option<Messages> {
        let (caller, at) = self.way(held)?;
        let Link::Http(link) = &caller.links[at] else { return None };
        link.told_in(&held.session(), held.version()).await.ok().flatten()
    }

    /// Ends a client's sessions.
    pub(in crate::gateway) async fn end_sessions(&self, all: &[Held]) {
        let ending = all.iter().filter_map(|held| Some((self.way(held)?, held)));
        join_all(ending.map(|((caller, at), held)| async move {
            if let Link::Http(link) = &caller.links[at] {
                end(link, held).await;
            }
        }))
        .await;
    }
}

async fn end(link: &HttpLink, held: &Held) {
    link.end(&held.session(), held.version()).await;
}
