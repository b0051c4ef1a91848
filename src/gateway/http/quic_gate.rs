//! What `h3` may gather of a peer's streams: a gate between it and quinn.
//!
//! `h3` keeps a frame that is not data until it is whole, however long it says it is, and gives the peer credit for what it
//! keeps. Promises: of one stream it never holds more than [`GATHERED_BYTES_MAX`] beyond what was handed on; a peer that sends
//! more than that in one frame, or in all frames of a control stream, is cut off. Does not: read frames.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{
    BidiStream, Connection, ConnectionErrorIncoming, OpenStreams, RecvStream, SendStream, StreamErrorIncoming,
    StreamId, WriteBuf,
};

use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP2_STREAMS_MAX, HTTP3_STREAM_WINDOW_BYTES};

/// Bytes of one stream that came and were not handed on: a head, and what may come with it in one piece.
pub(super) const GATHERED_BYTES_MAX: usize = HTTP_HEAD_BYTES_MAX + HTTP3_STREAM_WINDOW_BYTES as usize;

/// Figures that are kept before those of ended streams are swept out: more than a connection has streams.
const GATES_MAX: usize = 2 * HTTP2_STREAMS_MAX as usize;

/// Bytes of one stream that came and were not handed on.
pub(super) type Pending = Rc<Cell<usize>>;

/// The figures of a connection's request streams, until their requests are read.
pub(super) type Gates = Rc<std::cell::RefCell<HashMap<u64, Pending>>>;

/// A connection behind the gate.
pub(super) struct Gated {
    connection: h3_quinn::Connection,
    gates: Gates,
}

impl Gated {
    pub(super) fn new(connection: quinn::Connection) -> (Self, Gates) {
        let gates = Gates::default();
        (Self { connection: h3_quinn::Connection::new(connection), gates: gates.clone() }, gates)
    }
}

/// A stream's receiving half behind the gate.
pub(super) struct GatedReceiver {
    receiver: h3_quinn::RecvStream,
    pending: Pending,
}

/// Both halves of a request's stream.
pub(super) struct GatedStream {
    sender: h3_quinn::SendStream<Bytes>,
    receiver: GatedReceiver,
}

/// What opens the streams of this side.
pub(super) struct Opener(h3_quinn::OpenStreams);

impl RecvStream for GatedReceiver {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let piece = ready!(self.receiver.poll_data(context))?;
        let gathered = self.pending.get() + piece.as_ref().map_or(0, Buf::remaining);
        self.pending.set(gathered);
        if GATHERED_BYTES_MAX < gathered {
            self.receiver.stop_sending(Code::H3_EXCESSIVE_LOAD.value());
            return Poll::Ready(Err(StreamErrorIncoming::Unknown("a frame is longer than it may be".into())));
        }
        Poll::Ready(Ok(piece))
    }

    fn stop_sending(&mut self, code: u64) {
        self.receiver.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiver.recv_id()
    }
}

impl RecvStream for GatedStream {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receiver.poll_data(context)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receiver.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiver.recv_id()
    }
}

impl SendStream<Bytes> for GatedStream {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sender.poll_ready(context)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sender.send_data(data)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sender.poll_finish(context)
    }

    fn reset(&mut self, code: u64) {
        self.sender.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.sender.send_id()
    }
}

impl BidiStream<Bytes> for GatedStream {
    type SendStream = h3_quinn::SendStream<Bytes>;
    type RecvStream = GatedReceiver;

    fn split(self) -> (Self::SendStream, Self::RecvStream) {
        (self.sender, self.receiver)
    }
}

fn gated(stream: h3_quinn::BidiStream<Bytes>) -> GatedStream {
    let (sender, receiver) = stream.split();
    GatedStream { sender, receiver: GatedReceiver { receiver, pending: Pending::default() } }
}

impl OpenStreams<Bytes> for Gated {
    type BidiStream = GatedStream;
    type SendStream = h3_quinn::SendStream<Bytes>;

    fn poll_open_bidi(&mut self, context: &mut Context<'_>) -> Poll<Result<GatedStream, StreamErrorIncoming>> {
        self.connection.poll_open_bidi(context).map_ok(gated)
    }

    fn poll_open_send(&mut self, context: &mut Context<'_>) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        self.connection.poll_open_send(context)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        OpenStreams::<Bytes>::close(&mut self.connection, code, reason);
    }
}

impl OpenStreams<Bytes> for Opener {
    type BidiStream = GatedStream;
    type SendStream = h3_quinn::SendStream<Bytes>;

    fn poll_open_bidi(&mut self, context: &mut Context<'_>) -> Poll<Result<GatedStream, StreamErrorIncoming>> {
        self.0.poll_open_bidi(context).map_ok(gated)
    }

    fn poll_open_send(&mut self, context: &mut Context<'_>) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        self.0.poll_open_send(context)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        OpenStreams::<Bytes>::close(&mut self.0, code, reason);
    }
}

impl Connection<Bytes> for Gated {
    type RecvStream = GatedReceiver;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<GatedReceiver, ConnectionErrorIncoming>> {
        let receiver = ready!(Connection::<Bytes>::poll_accept_recv(&mut self.connection, context))?;
        Poll::Ready(Ok(GatedReceiver { receiver, pending: Pending::default() }))
    }

    fn poll_accept_bidi(&mut self, context: &mut Context<'_>) -> Poll<Result<GatedStream, ConnectionErrorIncoming>> {
        let stream = gated(ready!(self.connection.poll_accept_bidi(context))?);
        let id = stream.recv_id().into_inner();
        let mut gates = self.gates.borrow_mut();
        if GATES_MAX <= gates.len() {
            // Those of streams that ended before they were a request.
            gates.retain(|_, pending| 1 < Rc::strong_count(pending));
        }
        gates.insert(id, stream.receiver.pending.clone());
        drop(gates);
        Poll::Ready(Ok(stream))
    }

    fn opener(&self) -> Opener {
        Opener(Connection::<Bytes>::opener(&self.connection))
    }
}
