//! What a connection may ask: a member anything, a stranger that joins one thing.
//!
//! Promises: under the joining protocol nothing but [`OPERATION_JOIN`] reaches a handler, at most
//! `attempts_per_connection` times, and each body is at most `request_bytes_max` long; the rest closes the connection.
//! Does not: look into a request to join. The handler checks the token.

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use quinn::{Connection, VarInt};

use crate::{
    identity::PeerIdentity,
    io::mesh::Refusals,
    rpc::server::{Handler, Replies, Request, ServeOptions},
    wire::{CloseCode, OPERATION_HELLO, OPERATION_JOIN},
};

/// How strangers may join.
#[derive(Clone)]
pub struct Joining {
    /// Answers [`OPERATION_JOIN`].
    pub handler: Rc<dyn Handler>,
    /// Bounds.
    pub options: JoinOptions,
}

/// Bounds of joining, since anybody may try.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Connections to join that may be open at a time, on one endpoint.
    pub joiners_max: usize,
    /// Requests to join on one connection.
    pub attempts_per_connection: u32,
    /// Body of one request, in bytes.
    pub request_bytes_max: usize,
    /// Life of one connection.
    pub connection_timeout: Duration,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self {
            joiners_max: 16,
            attempts_per_connection: 3,
            request_bytes_max: 16 << 10,
            connection_timeout: Duration::from_secs(60),
        }
    }
}

impl JoinOptions {
    /// The bounds of serving under these.
    pub(crate) fn serve_options(&self, options: &ServeOptions) -> ServeOptions {
        ServeOptions {
            requests_in_flight_max: 1,
            streams_max: STREAMS_MAX,
            request_bytes_max: self.request_bytes_max,
            reply_bytes_max: 64 << 10,
            connection_reply_bytes_max: 64 << 10,
            ..options.clone()
        }
    }
}

/// Stands before the handler of members: answers the greeting, passes on all else.
pub(crate) struct MemberGate(pub(crate) Rc<dyn Handler>);

impl Handler for MemberGate {
    fn requests(&self, mut batch: Vec<Request>, replies: &Replies) {
        if batch.iter().any(|request| request.operation == OPERATION_HELLO) {
            batch.retain(|request| !greets(request, replies));
        }
        if !batch.is_empty() {
            self.0.requests(batch, replies);
        }
    }

    fn datagram(&self, bytes: Bytes, from: &PeerIdentity) {
        self.0.datagram(bytes, from);
    }
}

/// Stands before the handler of joins: the one place that decides what a stranger may ask.
pub(crate) struct JoinGate {
    handler: Rc<dyn Handler>,
    connection: Connection,
    attempts_left: Cell<u32>,
    refusals: Rc<Refusals>,
}

impl JoinGate {
    pub(crate) fn new(joining: &Joining, connection: Connection, refusals: Rc<Refusals>) -> Self {
        let attempts_left = Cell::new(joining.options.attempts_per_connection);
        Self { handler: joining.handler.clone(), connection, attempts_left, refusals }
    }

    fn permits(&self, request: &Request) -> Result<(), &'static str> {
        if request.operation != OPERATION_JOIN {
            return Err("this connection may only join");
        }
        let left = self.attempts_left.get().checked_sub(1).ok_or("the attempts to join are used up")?;
        self.attempts_left.set(left);
        Ok(())
    }
}

impl Handler for JoinGate {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        for request in batch {
            if greets(&request, replies) {
                continue;
            }
            match self.permits(&request) {
                Ok(()) => self.handler.requests(vec![request], replies),
                Err(reason) => {
                    self.refusals.tell(replies.peer(), &reason);
                    self.connection.close(VarInt::from_u32(CloseCode::JoinOnly as u32), reason.as_bytes());
                    replies.answer(request.id, STATUS_REFUSED, Bytes::new());
                }
            }
        }
    }
}

/// Streams of a joining connection: one is enough, and one more for a client that lost its first.
const STREAMS_MAX: usize = 2;
/// Nobody reads it: the connection is closed before it.
const STATUS_REFUSED: u8 = u8::MAX;

/// Answers the request if it only asks whether it was let in.
fn greets(request: &Request, replies: &Replies) -> bool {
    let greets = request.operation == OPERATION_HELLO;
    if greets {
        replies.answer(request.id, 0, Bytes::new());
    }
    greets
}
