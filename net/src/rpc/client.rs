//! The asking side of calls.
//!
//! Promises: calls of one lane share one long-lived stream and leave together in one write; at most
//! `calls_in_flight_max` wait on a lane, one more is refused at once; every failure says whether the call may be
//! repeated without being done twice; a dropped answer stream stops the work at the other side; answers that nobody reads,
//! at most `answers_open_max`, leave the connection's window to everybody else.
//! Does not: reconnect, retry, or interpret operations, status numbers or bodies.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, pin_mut, select_biased};
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, Semaphore, oneshot};

pub use super::answer::Answer;
use super::outgoing::Outgoing;
use crate::{
    assembly::Assembler,
    identity::{Leaf, PeerIdentity},
    io::{
        endpoint::{ConnectError, TransportOptions, connect},
        task,
    },
    tls::{Trust, mesh_client},
    wire::{AnswerHeader, CloseCode, FRAME_BYTES_MAX, Lane, RequestHeader, StreamHead},
};

/// Pieces that one read takes from a stream.
pub(super) const PIECES_PER_GULP: usize = 64;

/// Bounds and times of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How the connection behaves.
    pub transport: TransportOptions,
    /// Calls of one lane that wait for their answers.
    pub calls_in_flight_max: usize,
    /// Request bytes of one lane that wait to be sent.
    pub unsent_bytes_max: usize,
    /// Bytes of one whole answer; longer ones are for [`Client::call_streaming`].
    pub answer_bytes_max: usize,
    /// Answers of [`Client::call_streaming`] that are open at a time. The connection's window has room for all of them
    /// unread, and for every lane beside.
    pub answers_open_max: usize,
    /// Time for one call.
    pub call_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            transport: TransportOptions::default(),
            calls_in_flight_max: 1024,
            unsent_bytes_max: 64 << 20,
            answer_bytes_max: 64 << 20,
            answers_open_max: 32,
            call_timeout: Duration::from_secs(30),
        }
    }
}

impl ClientOptions {
    /// How the connection behaves, with a window in which no stream can take the room of another: a server that serves a slow
    /// reader would otherwise have nothing left to answer a point read with.
    pub(crate) fn transport(&self) -> TransportOptions {
        let streams = u32::try_from(self.answers_open_max.saturating_add(Lane::ALL.len())).unwrap_or(u32::MAX);
        let needed = self.transport.stream_window_bytes.saturating_mul(streams);
        let connection_window_bytes = self.transport.connection_window_bytes.max(needed);
        TransportOptions { connection_window_bytes, ..self.transport.clone() }
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The server answered with a reason.
    #[error("refused with reason {status}")]
    Refused {
        /// Number of the reason.
        status: u8,
        /// What the server says about it.
        body: Bytes,
    },
    /// The request is beyond what a frame carries.
    #[error("request of {bytes} bytes, the limit is {FRAME_BYTES_MAX}")]
    RequestTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The answer is beyond what this client keeps.
    #[error("answer of more than {bytes_max} bytes")]
    AnswerTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// Too much waits on this lane of the client. Nothing was sent.
    #[error("the lane is full ({calls} calls and {unsent_bytes} unsent bytes)")]
    Full {
        /// Calls that wait for their answers.
        calls: usize,
        /// Bytes that wait to be sent.
        unsent_bytes: usize,
    },
    /// Too many answers are being read, or not read, on this connection. Nothing was sent.
    #[error("{answers_max} answers of this connection are open; read one to its end or drop it")]
    AnswersOpen {
        /// The limit.
        answers_max: usize,
    },
    /// No answer in time. The request may have been done.
    #[error("no answer within {limit:?}")]
    Timeout {
        /// The bound.
        limit: Duration,
    },
    /// The connection or stream ended.
    #[error("connection lost: {detail}")]
    Lost {
        /// What ended it.
        detail: Arc<str>,
        /// Whether the server certainly did not see the request.
        unseen: bool,
    },
    /// The server sent what is no answer.
    #[error("the server broke the protocol: {detail}")]
    Protocol {
        /// What was wrong.
        detail: Arc<str>,
    },
}

impl CallError {
    /// Whether repeating the call cannot do it twice, whatever it is. A refusal's reason says that for itself.
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Full { .. } | Self::AnswersOpen { .. } => true,
            Self::Lost { unseen, .. } => *unseen,
            Self::Refused { .. }
            | Self::RequestTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::Timeout { .. }
            | Self::Protocol { .. } => false,
        }
    }
}

/// A connection to one node. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// Lives as long as the connection, because it drives the socket.
    endpoint: quinn::Endpoint,
    connection: Connection,
    peer: Option<Arc<PeerIdentity>>,
    options: ClientOptions,
    lanes: [LaneSlot; Lane::ALL.len()],
    /// Places for answers that are open.
    answers: Arc<Semaphore>,
}

#[derive(Default)]
struct LaneSlot {
    current: Mutex<Option<Arc<LaneStream>>>,
    /// Held while a stream is opened, so that concurrent first calls open one.
    opening: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(CloseCode::Done as u32), b"");
    }
}

impl Client {
    /// Connects to `address`, whose certificate must bear `server_name`. Must be called inside a tokio runtime.
    pub async fn connect(
        address: SocketAddr,
        server_name: &str,
        trust: &Trust,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        Self::connect_as(None, address, server_name, trust, options).await
    }

    /// Connects and shows `identity` to a server that asks for one.
    pub async fn connect_as(
        identity: Option<&Leaf>,
        address: SocketAddr,
        server_name: &str,
        trust: &Trust,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        let tls = mesh_client(trust, identity)?;
        let (endpoint, connection) = connect(address, server_name, trust, tls, &options.transport()).await?;
        Ok(Self::new(endpoint, connection, None, options))
    }

    /// A client on a connection that is open.
    pub(crate) fn new(
        endpoint: quinn::Endpoint,
        connection: Connection,
        peer: Option<Arc<PeerIdentity>>,
        options: ClientOptions,
    ) -> Self {
        let answers = Arc::new(Semaphore::new(options.answers_open_max.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner { endpoint, connection, peer, options, lanes: Default::default(), answers }))
    }

    /// Asks and waits for the whole answer.
    pub async fn call(&self, lane: Lane, operation: u16, body: impl Into<Bytes>) -> Result<Bytes, CallError> {
        let stream = self.lane(lane).await?;
        let answer = stream.ask(operation, body.into(), &self.0.options)?;
        let limit = self.0.options.call_timeout;
        match task::within(limit, answer).await {
            Some(Ok(answer)) => answer,
            // The stream's state was dropped without a word: only a runtime that is being torn down does that.
            Some(Err(_)) => Err(CallError::Lost { detail: "the client's runtime stopped".into(), unseen: false }),
            None => Err(CallError::Timeout { limit }),
        }
    }

    /// Asks on a stream of its own and gives the answer's parts as they come. Reading slowly slows the server's work
    /// on this answer alone; dropping it stops that work. There is no bound on the time, one of `answers_open_max` on how
    /// many are open.
    pub async fn call_streaming(
        &self,
        lane: Lane,
        operation: u16,
        body: impl Into<Bytes>,
    ) -> Result<Answer, CallError> {
        let body = body.into();
        check_request(&body)?;
        let place = self.0.answers.clone().try_acquire_owned();
        let place = place.map_err(|_| CallError::AnswersOpen { answers_max: self.0.options.answers_open_max })?;
        let (mut send, receive) = self.open(lane).await?;
        let mut outgoing = Outgoing::default();
        outgoing.push(RequestHeader { body_bytes: body.len() as u32, operation, id: 0 }.encode(), body);
        let written = send.write_all_chunks(&mut outgoing.take()).await;
        written.map_err(|error| CallError::Lost { detail: error.to_string().into(), unseen: false })?;
        let _ = send.finish();
        Ok(Answer::new(receive, place))
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// Which node is on the other side; `None` at a door for clients, which is known by its name alone.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.0.peer.as_deref()
    }

    /// The smoothed round-trip time of the connection.
    pub fn round_trip(&self) -> Duration {
        self.0.connection.rtt()
    }

    /// Sends a datagram; false when it cannot be sent at once, or the server takes none.
    pub fn datagram(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.connection.send_datagram(bytes.into()).is_ok()
    }

    /// Why the connection ended, if it has.
    pub fn lost(&self) -> Option<String> {
        self.close_reason().map(|reason| reason.to_string())
    }

    pub(crate) fn close_reason(&self) -> Option<quinn::ConnectionError> {
        self.0.connection.close_reason()
    }

    /// Closes the connection and waits until the server has been told.
    pub async fn close(self) {
        self.0.connection.close(VarInt::from_u32(CloseCode::Done as u32), b"");
        self.0.endpoint.wait_idle().await;
    }

    /// The lane's stream, opened by the first call and again after it was lost.
    async fn lane(&self, lane: Lane) -> Result<Arc<LaneStream>, CallError> {
        let slot = &self.0.lanes[lane as usize];
        if let Some(stream) = slot.usable() {
            return Ok(stream);
        }
        let _opening = slot.opening.lock().await;
        if let Some(stream) = slot.usable() {
            return Ok(stream);
        }
        let (send, receive) = self.open(lane).await?;
        let stream = Arc::new(LaneStream::default());
        task::spawn(write_requests(send, stream.clone()));
        task::spawn(read_answers(receive, stream.clone(), self.0.options.answer_bytes_max));
        *lock(&slot.current) = Some(stream.clone());
        Ok(stream)
    }

    /// Opens a stream and sends its head. Waits while the server's bound on streams is reached.
    async fn open(&self, lane: Lane) -> Result<(SendStream, RecvStream), CallError> {
        let lost = |detail: String| CallError::Lost { detail: detail.into(), unseen: true };
        let (mut send, receive) = self.0.connection.open_bi().await.map_err(|error| lost(error.to_string()))?;
        let _ = send.set_priority(lane.priority());
        send.write_all(&StreamHead::rpc(lane).encode()).await.map_err(|error| lost(error.to_string()))?;
        Ok((send, receive))
    }
}

impl LaneSlot {
    fn usable(&self) -> Option<Arc<LaneStream>> {
        lock(&self.current).as_ref().filter(|stream| lock(&stream.state).ended.is_none()).cloned()
    }
}

/// One long-lived stream and the calls that wait on it.
#[derive(Default)]
struct LaneStream {
    state: Mutex<LaneState>,
    writer: Notify,
}

#[derive(Default)]
struct LaneState {
    outgoing: Outgoing,
    /// Calls that were handed to the transport, counted since the stream began.
    asked_count: u64,
    sent_count: u64,
    calls: Calls,
    ended: Option<CallError>,
}

impl LaneStream {
    fn ask(
        &self,
        operation: u16,
        body: Bytes,
        options: &ClientOptions,
    ) -> Result<oneshot::Receiver<Result<Bytes, CallError>>, CallError> {
        check_request(&body)?;
        let (sender, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let (calls, unsent_bytes) = (state.calls.count, state.outgoing.bytes());
        if calls == options.calls_in_flight_max || options.unsent_bytes_max < unsent_bytes + body.len() {
            return Err(CallError::Full { calls, unsent_bytes });
        }
        let number = state.asked_count;
        state.asked_count += 1;
        let id = state.calls.insert(Call { sender, number, parts: BytesMut::new(), is_too_large: false });
        state.outgoing.push(RequestHeader { body_bytes: body.len() as u32, operation, id }.encode(), body);
        let was_idle = unsent_bytes == 0;
        drop(state);
        if was_idle {
            self.writer.notify_one();
        }
        Ok(receiver)
    }

    /// Ends the stream: every waiting call fails. `answered_all` says that the server answered what it has read.
    fn end(&self, detail: &str, answered_all: bool) {
        let mut state = lock(&self.state);
        let detail: Arc<str> = detail.into();
        if state.ended.is_none() {
            // Calls that come later never reach the server.
            state.ended = Some(CallError::Lost { detail: detail.clone(), unseen: true });
        }
        let sent_count = state.sent_count;
        let calls = std::mem::take(&mut state.calls);
        drop(state.outgoing.take());
        drop(state);
        for call in calls.into_waiting() {
            let unseen = answered_all || sent_count <= call.number;
            let _ = call.sender.send(Err(CallError::Lost { detail: detail.clone(), unseen }));
        }
        self.writer.notify_one();
    }
}

/// Waiting calls by the low half of their id; the high half tells uses of one place apart.
#[derive(Default)]
struct Calls {
    places: Vec<Place>,
    free: Vec<u32>,
    count: usize,
}

struct Place {
    generation: u32,
    call: Option<Call>,
}

struct Call {
    sender: oneshot::Sender<Result<Bytes, CallError>>,
    /// Place in the order of sending.
    number: u64,
    /// Parts of the answer so far.
    parts: BytesMut,
    /// The answer is beyond the bound, or nobody waits for it: its parts are no longer kept.
    is_too_large: bool,
}

impl Calls {
    fn insert(&mut self, call: Call) -> u64 {
        self.count += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, call: None });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.call = Some(call);
        u64::from(place.generation) << 32 | u64::from(index)
    }

    fn get(&mut self, id: u64) -> Option<&mut Call> {
        let place = self.places.get_mut(id as u32 as usize)?;
        if u64::from(place.generation) == id >> 32 { place.call.as_mut() } else { None }
    }

    fn remove(&mut self, id: u64) -> Option<Call> {
        self.get(id)?;
        let place = &mut self.places[id as u32 as usize];
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id as u32);
        self.count -= 1;
        place.call.take()
    }

    fn into_waiting(self) -> impl Iterator<Item = Call> {
        self.places.into_iter().filter_map(|place| place.call)
    }
}

async fn write_requests(mut send: SendStream, stream: Arc<LaneStream>) {
    loop {
        let mut pieces = {
            let mut state = lock(&stream.state);
            if state.ended.is_some() {
                return;
            }
            state.sent_count = state.asked_count;
            state.outgoing.take()
        };
        if pieces.is_empty() {
            let stopped = send.stopped().fuse();
            pin_mut!(stopped);
            select_biased! {
                () = stream.writer.notified().fuse() => {}
                // The server reads no more, but may still answer: the reader learns how it ends.
                _ = stopped => return refuse_new(&stream),
            }
        } else if send.write_all_chunks(&mut pieces).await.is_err() {
            return refuse_new(&stream);
        }
    }
}

/// Lets later calls fail at once, and leaves those that wait to the reader.
fn refuse_new(stream: &LaneStream) {
    let mut state = lock(&stream.state);
    if state.ended.is_none() {
        state.ended = Some(CallError::Lost { detail: "the server reads no more requests".into(), unseen: true });
    }
}

async fn read_answers(mut receive: RecvStream, stream: Arc<LaneStream>, answer_bytes_max: usize) {
    let mut assembler = Assembler::<AnswerHeader>::new();
    let mut pieces = [const { Bytes::new() }; PIECES_PER_GULP];
    loop {
        let count = match receive.read_chunks(&mut pieces).await {
            Ok(Some(count)) => count,
            // Only a server that answered all it has read finishes its side.
            Ok(None) => return stream.end("the server finished the stream", assembler.is_between_frames()),
            Err(error) => {
                // A server that drains resets only streams of which it has read nothing.
                let draining = ReadError::Reset(VarInt::from_u32(CloseCode::Draining as u32));
                return stream.end(&lost(&error), error == draining);
            }
        };
        pieces[..count].iter_mut().for_each(|piece| assembler.push(std::mem::take(piece)));
        let frames = match assembler.take(usize::MAX) {
            Ok(frames) => frames,
            Err(error) => return stream.end(&error.to_string(), false),
        };
        let mut answers = Vec::with_capacity(frames.len());
        {
            let mut state = lock(&stream.state);
            for (header, body) in frames {
                let outcome = state.calls.accept(header, body, answer_bytes_max);
                match outcome {
                    Ok(answer) => answers.extend(answer),
                    Err(detail) => {
                        drop(state);
                        return stream.end(detail, false);
                    }
                }
            }
        }
        // Callers are woken without the lock: on other threads they would run into it at once.
        for (sender, answer) in answers {
            let _ = sender.send(answer);
        }
    }
}

/// What ended a stream; with the reason that the other side gave when it closed the connection.
pub(super) fn lost(error: &ReadError) -> String {
    match error {
        ReadError::ConnectionLost(reason) => reason.to_string(),
        error => error.to_string(),
    }
}

type Finished = (oneshot::Sender<Result<Bytes, CallError>>, Result<Bytes, CallError>);

impl Calls {
    /// Takes one frame; gives the call that it finishes.
    fn accept(
        &mut self,
        header: AnswerHeader,
        body: Bytes,
        bytes_max: usize,
    ) -> Result<Option<Finished>, &'static str> {
        let Some(call) = self.get(header.id) else { return Err("an answer to a call that does not wait") };
        let is_too_large = call.is_too_large || bytes_max < call.parts.len() + body.len();
        if !header.last {
            // What nobody wants or may keep is not kept; the call's place stays taken until its last frame.
            if is_too_large || call.sender.is_closed() {
                call.is_too_large = true;
                call.parts = BytesMut::new();
            } else {
                call.parts.extend_from_slice(&body);
            }
            return Ok(None);
        }
        let Some(mut call) = self.remove(header.id) else { return Ok(None) };
        let answer = if header.status != 0 {
            Err(CallError::Refused { status: header.status, body })
        } else if is_too_large {
            Err(CallError::AnswerTooLarge { bytes_max })
        } else if call.parts.is_empty() {
            Ok(body)
        } else {
            call.parts.extend_from_slice(&body);
            Ok(call.parts.freeze())
        };
        Ok(Some((call.sender, answer)))
    }
}

fn check_request(body: &Bytes) -> Result<(), CallError> {
    if body.len() <= FRAME_BYTES_MAX { Ok(()) } else { Err(CallError::RequestTooLarge { bytes: body.len() }) }
}

/// Nothing that runs under these locks can panic half-way, so a poisoned lock still guards whole state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
