//! The serving side of calls, on one core.
//!
//! Promises: the handler gets whole requests in batches and may answer at once or later, in any order; per stream at
//! most `requests_in_flight_max` requests wait for their answers, and reading stops while `reply_bytes_max` of answers
//! wait for a slow reader; a client that finishes its side still gets every answer.
//! Does not: leave the core it runs on, or interpret operations, status numbers or bodies.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, pin_mut, select_biased};
use quinn::{Connection, ReadExactError, RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, watch};

use super::outgoing::Outgoing;
use crate::{
    assembly::Assembler,
    identity::PeerIdentity,
    io::task,
    wire::{
        AnswerHeader, CloseCode, FRAME_BYTES_MAX, FrameError, HeadError, RequestHeader, STREAM_HEAD_BYTES, StreamHead,
    },
};

/// Pieces that one read takes from a stream: at most this many datagrams' worth of bytes.
const PIECES_PER_GULP: usize = 64;

/// Requests of one batch. Bounds what a handler that answers at once can buffer before the bounds on answers are looked
/// at again.
const REQUESTS_PER_BATCH_MAX: usize = 256;

/// While a connection drains, a client that acknowledges nothing for so long is taken for dead.
const DRAIN_SILENCE_MAX: Duration = Duration::from_millis(1500);

/// Answers requests. The meaning of operations, bodies and status numbers is its own.
pub trait Handler {
    /// Takes requests that arrived together, in the order of their arrival. Each must be answered exactly once
    /// through `replies`, now or later. Must not block.
    ///
    /// A body is a slice of the batch's one buffer: who keeps it longer than the request should copy it.
    fn requests(&self, batch: Vec<Request>, replies: &Replies);

    /// Takes a datagram of the node `from`. One that has no use for datagrams takes none.
    fn datagram(&self, _bytes: Bytes, _from: &PeerIdentity) {}
}

/// Hands a connection's datagrams to `handler` until the connection ends.
pub(crate) async fn serve_datagrams(connection: Connection, peer: Arc<PeerIdentity>, handler: Rc<dyn Handler>) {
    while let Ok(bytes) = connection.read_datagram().await {
        handler.datagram(bytes, &peer);
    }
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// The caller's number for it.
    pub id: u64,
    /// What is asked.
    pub operation: u16,
    /// With what; starts at a multiple of 16 in memory.
    pub body: Bytes,
}

/// Bounds of serving.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Requests of one stream that wait for their answers.
    pub requests_in_flight_max: usize,
    /// Streams of one connection that are served at a time; the transport's own bound is told to the peer, this one is
    /// for connections that should have fewer.
    pub streams_max: usize,
    /// Body of one request, in bytes; at most [`FRAME_BYTES_MAX`].
    pub request_bytes_max: usize,
    /// Answer bytes of one stream that wait to be sent, above which no more of its requests are read.
    pub reply_bytes_max: usize,
    /// The same for all streams of one connection together, in bytes.
    pub connection_reply_bytes_max: usize,
    /// Time for a new stream to send its head.
    pub head_timeout: Duration,
    /// Time that a draining connection gets to take its answers.
    pub drain_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            requests_in_flight_max: 1024,
            streams_max: 4096,
            request_bytes_max: FRAME_BYTES_MAX,
            reply_bytes_max: 8 << 20,
            connection_reply_bytes_max: 32 << 20,
            head_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Where the answers of one stream go. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct Replies(Rc<Shared>);

impl Replies {
    /// Answers a request for good: `status` zero for success, else the number of a reason. A body beyond
    /// [`FRAME_BYTES_MAX`] leaves in several frames. Answers of a closed stream are dropped.
    pub fn answer(&self, id: u64, status: u8, mut body: Bytes) {
        if !self.0.closed.get() {
            while FRAME_BYTES_MAX < body.len() {
                self.0.push(AnswerHeader { body_bytes: 0, status: 0, last: false, id }, body.split_to(FRAME_BYTES_MAX));
            }
            self.0.push(AnswerHeader { body_bytes: 0, status, last: true, id }, body);
        }
        let in_flight = self.0.in_flight.get();
        assert!(0 < in_flight, "request {id} was answered twice");
        self.0.in_flight.set(in_flight - 1);
        self.0.reader.notify_one();
        self.0.writer.notify_one();
    }

    /// Sends a part of an answer; more parts or [`answer`](Self::answer) follow. Who sends many parts awaits
    /// [`room`](Self::room) between them.
    pub fn part(&self, id: u64, mut body: Bytes) {
        while !self.0.closed.get() && !body.is_empty() {
            let piece = body.split_to(body.len().min(FRAME_BYTES_MAX));
            self.0.push(AnswerHeader { body_bytes: 0, status: 0, last: false, id }, piece);
        }
        self.0.writer.notify_one();
    }

    /// Waits until the stream's buffered answers are below their bound. `false` when the stream is closed and the
    /// work should end.
    pub async fn room(&self) -> bool {
        while !self.0.closed.get() && self.0.is_full() {
            self.0.room.notified().await;
        }
        !self.0.closed.get()
    }

    /// Whether there is room for another part just now.
    pub fn has_room(&self) -> bool {
        !self.0.is_full()
    }

    /// Whether nobody waits for answers any more: the client stopped the stream or is gone.
    pub fn is_closed(&self) -> bool {
        self.0.closed.get()
    }

    /// Time in which each request of the stream wants its answer, from its arrival.
    pub fn deadline(&self) -> Option<Duration> {
        match self.0.head.deadline_ms {
            0 => None,
            milliseconds => Some(Duration::from_millis(milliseconds.into())),
        }
    }

    /// The head with which the stream was opened.
    pub fn head(&self) -> &StreamHead {
        &self.0.head
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.0.caller.address
    }

    /// Which node calls, as its certificate says; `None` at a door for clients and while a node joins.
    pub fn identity(&self) -> Option<&PeerIdentity> {
        self.0.caller.identity.as_deref()
    }
}

/// Who is on the other side of a connection.
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    pub(crate) identity: Option<Arc<PeerIdentity>>,
}

/// What the reader, the writer and the handler of one stream share.
struct Shared {
    head: StreamHead,
    caller: Rc<Caller>,
    outgoing: RefCell<Outgoing>,
    /// Bytes in `outgoing` and in the write that is under way.
    buffered_bytes: Cell<usize>,
    /// The same over all streams of the connection.
    connection_buffered_bytes: Rc<Cell<usize>>,
    in_flight: Cell<usize>,
    closed: Cell<bool>,
    /// No more requests will be read.
    reading_over: Cell<bool>,
    reply_bytes_max: usize,
    connection_reply_bytes_max: usize,
    writer: Notify,
    reader: Notify,
    room: Notify,
    closing: Notify,
}

impl Shared {
    fn push(&self, header: AnswerHeader, body: Bytes) {
        let header = AnswerHeader { body_bytes: body.len() as u32, ..header };
        let mut outgoing = self.outgoing.borrow_mut();
        let before = outgoing.bytes();
        outgoing.push(header.encode(), body);
        self.count(outgoing.bytes() - before);
    }

    fn count(&self, bytes: usize) {
        self.buffered_bytes.set(self.buffered_bytes.get() + bytes);
        self.connection_buffered_bytes.set(self.connection_buffered_bytes.get() + bytes);
    }

    fn uncount(&self, bytes: usize) {
        self.buffered_bytes.set(self.buffered_bytes.get() - bytes);
        self.connection_buffered_bytes.set(self.connection_buffered_bytes.get() - bytes);
        self.reader.notify_one();
        self.room.notify_waiters();
    }

    fn is_full(&self) -> bool {
        self.reply_bytes_max <= self.buffered_bytes.get()
            || (self.connection_reply_bytes_max <= self.connection_buffered_bytes.get()
                && 0 < self.buffered_bytes.get())
    }

    /// Drops what waits and wakes everybody, so that nobody works for a client that is gone.
    fn close(&self) {
        self.closed.set(true);
        drop(self.outgoing.borrow_mut().take());
        self.uncount(self.buffered_bytes.get());
        self.closing.notify_one();
        self.writer.notify_one();
    }

    fn end_reading(&self) {
        self.reading_over.set(true);
        self.writer.notify_one();
    }
}

/// Serves one connection until it is lost, closed, or drained: once `draining` turns true no more requests are read,
/// those that were read are answered, and the connection is closed with [`CloseCode::Draining`].
pub(crate) async fn serve(
    connection: Connection,
    identity: Option<Arc<PeerIdentity>>,
    handler: Rc<dyn Handler>,
    options: ServeOptions,
    mut draining: watch::Receiver<bool>,
) {
    let caller = Rc::new(Caller { address: connection.remote_address(), identity });
    let buffered_bytes = Rc::new(Cell::new(0));
    let streams = Rc::new(Streams::default());
    let drain = draining.clone();
    let stop = drained(&mut draining).fuse();
    pin_mut!(stop);
    loop {
        let accepted = select_biased! {
            accepted = connection.accept_bi().fuse() => accepted,
            () = stop => {
                // The wait is bounded, so that a client that takes nothing cannot hold the node.
                let over = refuse_until(&connection, streams.all_over());
                task::within(options.drain_timeout, either(over, gone(&connection))).await;
                connection.close(code(CloseCode::Draining), b"draining");
                return;
            }
        };
        let Ok((send, receive)) = accepted else { return };
        if options.streams_max <= streams.count.get() {
            refuse(send, receive, CloseCode::StreamsFull);
            continue;
        }
        let (handler, options, drain) = (handler.clone(), options.clone(), drain.clone());
        let (caller, buffered_bytes, guard) = (caller.clone(), buffered_bytes.clone(), streams.enter());
        task::spawn_local(async move {
            serve_stream(send, receive, caller, buffered_bytes, handler, options, drain).await;
            drop(guard);
        });
    }
}

/// Refuses new streams until `over` completes.
async fn refuse_until(connection: &Connection, over: impl Future<Output = ()>) {
    let over = over.fuse();
    pin_mut!(over);
    loop {
        select_biased! {
            () = over => return,
            accepted = connection.accept_bi().fuse() => match accepted {
                Ok((send, receive)) => refuse(send, receive, CloseCode::Draining),
                Err(_) => return,
            },
        }
    }
}

/// Completes when either does.
async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (one, other) = (one.fuse(), other.fuse());
    pin_mut!(one, other);
    select_biased! {
        () = one => {}
        () = other => {}
    }
}

/// Completes when the client has acknowledged nothing of what it was sent for [`DRAIN_SILENCE_MAX`]: it has died without a word. One that
/// waits for an answer which is still being made owes no acknowledgement and is waited for.
async fn gone(connection: &Connection) {
    let counts = || {
        let stats = connection.stats();
        (stats.udp_rx.datagrams, stats.udp_tx.datagrams)
    };
    let ((mut heard, mut sent), mut since) = (counts(), Instant::now());
    loop {
        task::pause(DRAIN_SILENCE_MAX / 10).await;
        let now = counts();
        if now.0 != heard {
            ((heard, sent), since) = (now, Instant::now());
        } else if sent < now.1 && DRAIN_SILENCE_MAX <= since.elapsed() {
            return;
        }
    }
}

/// Ends both directions of a stream of which nothing was read that counts.
fn refuse(mut send: SendStream, mut receive: RecvStream, reason: CloseCode) {
    // Both fail only when the peer has already given up the stream.
    let _ = receive.stop(code(reason));
    let _ = send.reset(code(reason));
}

/// Counts the streams that are being served.
#[derive(Default)]
struct Streams {
    count: Cell<usize>,
    over: Notify,
}

impl Streams {
    fn enter(self: &Rc<Self>) -> StreamGuard {
        self.count.set(self.count.get() + 1);
        StreamGuard(self.clone())
    }

    async fn all_over(&self) {
        while 0 < self.count.get() {
            self.over.notified().await;
        }
    }
}

struct StreamGuard(Rc<Streams>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.over.notify_one();
    }
}

/// Completes when draining begins; never when the sender is gone without that.
async fn drained(draining: &mut watch::Receiver<bool>) {
    if draining.wait_for(|&draining| draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code as u32)
}

async fn serve_stream(
    mut send: SendStream,
    mut receive: RecvStream,
    caller: Rc<Caller>,
    connection_buffered_bytes: Rc<Cell<usize>>,
    handler: Rc<dyn Handler>,
    options: ServeOptions,
    draining: watch::Receiver<bool>,
) {
    let mut drain = draining.clone();
    let head = select_biased! {
        head = read_head(&mut receive, options.head_timeout).fuse() => head,
        () = drained(&mut drain).fuse() => Err(StreamError::Draining),
    };
    let head = match head {
        Ok(head) => head,
        Err(refusal) => {
            complain(&caller, &refusal);
            return refuse(send, receive, refusal.code());
        }
    };
    let _ = send.set_priority(head.lane.priority());
    let shared = Rc::new(Shared {
        head,
        caller,
        outgoing: RefCell::default(),
        buffered_bytes: Cell::new(0),
        connection_buffered_bytes,
        in_flight: Cell::new(0),
        closed: Cell::new(false),
        reading_over: Cell::new(false),
        reply_bytes_max: options.reply_bytes_max,
        connection_reply_bytes_max: options.connection_reply_bytes_max,
        writer: Notify::new(),
        reader: Notify::new(),
        room: Notify::new(),
        closing: Notify::new(),
    });
    let reading = async {
        let outcome = read_requests(&mut receive, &shared, &handler, &options, draining).await;
        match outcome {
            Ok(()) => {}
            Err(StreamError::Lost) => shared.close(),
            Err(refusal) => {
                complain(&shared.caller, &refusal);
                shared.close();
                let _ = receive.stop(code(refusal.code()));
            }
        }
        shared.end_reading();
        outcome
    };
    let (outcome, ()) = futures_util::join!(reading, write_answers(&mut send, &shared));
    match outcome {
        Ok(()) if !shared.closed.get() => {
            let _ = send.finish();
            // Until the client has everything, a close of the connection would take answers away from it.
            let _ = send.stopped().await;
        }
        Ok(()) => drop(send.reset(code(CloseCode::Cancelled))),
        Err(refusal) => drop(send.reset(code(refusal.code()))),
    }
}

/// Why a stream ends before its client ended it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("no stream head within {limit_ms} ms")]
    HeadTimeout { limit_ms: u128 },
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the client is gone")]
    Lost,
    #[error("the node is draining")]
    Draining,
}

impl StreamError {
    fn code(self) -> CloseCode {
        match self {
            Self::Head(_) => CloseCode::BadHead,
            Self::HeadTimeout { .. } => CloseCode::HeadTimeout,
            Self::Frame(_) => CloseCode::BadFrame,
            Self::Lost => CloseCode::Cancelled,
            Self::Draining => CloseCode::Draining,
        }
    }
}

/// Tells of bytes that are none of ours. From a node it means that one of the two is broken; from a client it is daily.
fn complain(caller: &Caller, refusal: &StreamError) {
    match (refusal, &caller.identity) {
        (StreamError::Lost | StreamError::Draining, _) | (_, None) => {
            tracing::debug!(peer = %caller.address, reason = %refusal, "stream refused");
        }
        (refusal, Some(peer)) => {
            tracing::warn!(peer = %caller.address, node = peer.identity.node(), reason = %refusal, "peer refused");
        }
    }
}

async fn read_head(receive: &mut RecvStream, limit: Duration) -> Result<StreamHead, StreamError> {
    let mut bytes = [0; STREAM_HEAD_BYTES];
    match task::within(limit, receive.read_exact(&mut bytes)).await {
        None => Err(StreamError::HeadTimeout { limit_ms: limit.as_millis() }),
        Some(Err(ReadExactError::FinishedEarly(_))) => Err(HeadError::Truncated.into()),
        Some(Err(ReadExactError::ReadError(_))) => Err(StreamError::Lost),
        Some(Ok(())) => Ok(StreamHead::parse(&bytes)?),
    }
}

/// Reads until the client's side ends or draining begins.
async fn read_requests(
    receive: &mut RecvStream,
    shared: &Rc<Shared>,
    handler: &Rc<dyn Handler>,
    options: &ServeOptions,
    mut draining: watch::Receiver<bool>,
) -> Result<(), StreamError> {
    let in_flight_max = options.requests_in_flight_max;
    let replies = Replies(shared.clone());
    let mut assembler = Assembler::<RequestHeader>::with_limit(options.request_bytes_max);
    let mut pieces = [const { Bytes::new() }; PIECES_PER_GULP];
    let drained = drained(&mut draining).fuse();
    pin_mut!(drained);
    loop {
        // First what is already here: the bound on requests in flight may have left some of it.
        loop {
            while !shared.closed.get() && (shared.is_full() || in_flight_max <= shared.in_flight.get()) {
                select_biased! {
                    () = shared.reader.notified().fuse() => {}
                    () = drained => {
                        let _ = receive.stop(code(CloseCode::Draining));
                        return Ok(());
                    }
                }
            }
            if shared.closed.get() {
                return Err(StreamError::Lost);
            }
            let frames = assembler.take(REQUESTS_PER_BATCH_MAX.min(in_flight_max - shared.in_flight.get()))?;
            if frames.is_empty() {
                break;
            }
            shared.in_flight.set(shared.in_flight.get() + frames.len());
            let request =
                |(header, body): (RequestHeader, Bytes)| Request { id: header.id, operation: header.operation, body };
            handler.requests(frames.into_iter().map(request).collect(), &replies);
        }
        let count = select_biased! {
            read = receive.read_chunks(&mut pieces).fuse() => read.map_err(|_| StreamError::Lost)?,
            () = shared.closing.notified().fuse() => return Err(StreamError::Lost),
            () = drained => {
                let _ = receive.stop(code(CloseCode::Draining));
                return Ok(());
            }
        };
        match count {
            Some(count) => pieces[..count].iter_mut().for_each(|piece| assembler.push(std::mem::take(piece))),
            None if assembler.is_between_frames() => return Ok(()),
            None => return Err(FrameError::Truncated.into()),
        }
    }
}

/// Writes answers until all requests that were read are answered, or the client is gone.
async fn write_answers(send: &mut SendStream, shared: &Shared) {
    let stopped = send.stopped().fuse();
    pin_mut!(stopped);
    loop {
        let (mut pieces, bytes) = {
            let mut outgoing = shared.outgoing.borrow_mut();
            let bytes = outgoing.bytes();
            (outgoing.take(), bytes)
        };
        if !pieces.is_empty() {
            let write = send.write_all_chunks(&mut pieces).fuse();
            pin_mut!(write);
            // A client that takes nothing must not keep a stream that the reader has found broken.
            let written = loop {
                select_biased! {
                    written = write => break written,
                    () = shared.writer.notified().fuse() => if shared.closed.get() { return },
                }
            };
            if written.is_err() || shared.closed.get() {
                return shared.close();
            }
            shared.uncount(bytes);
        } else if shared.closed.get() || (shared.reading_over.get() && shared.in_flight.get() == 0) {
            return;
        } else {
            select_biased! {
                () = shared.writer.notified().fuse() => {}
                _ = stopped => return shared.close(),
            }
        }
    }
}
