//! HTTP/3: QUIC connections of the HTTP address, and the same answers.
//!
//! Promises: one endpoint a core on one address (SO_REUSEPORT), as for the mesh; an address proves itself above a number of
//! handshakes (Retry); a connection counts among the door's, has [`HTTP2_STREAMS_MAX`] streams, heads of the same size and time as
//! elsewhere, and is given up when it is silent; a reader that takes nothing is cut. Does not: push, take early data or WebSocket.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use h3::server::{Connection, RequestResolver};
use http_body_util::BodyExt;
use hyper::Request;
use qmesh_net::io::endpoint::{Endpoint, EndpointOptions, TransportOptions};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::arriving::Arriving;
use super::body::STREAM_STALL_MS;
use super::pace::IDLE_MS;
use super::quic_gate::{Gated, Gates};
use super::server::{Door, Open, answer};
use crate::gateway::DRAIN_TIMEOUT;
use crate::limits::{
    HTTP_HEAD_BYTES_MAX, HTTP_HEAD_TIMEOUT_MS, HTTP2_STREAMS_MAX, HTTP3_CONNECTION_WINDOW_BYTES,
    HTTP3_STREAM_WINDOW_BYTES,
};
use crate::runtime::spawn;

/// Streams for control and for header tables, which every client opens, and one that greases.
const ONE_WAY_STREAMS_MAX: u32 = 8;
const STALL: Duration = Duration::from_millis(STREAM_STALL_MS);

/// How the endpoint of a core listens.
pub(in crate::gateway) fn options(base: &EndpointOptions, connections_max: usize) -> EndpointOptions {
    let transport = TransportOptions {
        streams_max: HTTP2_STREAMS_MAX,
        one_way_streams_max: ONE_WAY_STREAMS_MAX,
        idle_timeout: Duration::from_millis(IDLE_MS),
        stream_window_bytes: HTTP3_STREAM_WINDOW_BYTES,
        connection_window_bytes: HTTP3_CONNECTION_WINDOW_BYTES,
        ..base.transport.clone()
    };
    EndpointOptions { transport, connections_max, ..base.clone() }
}

/// Serves HTTP/3 on `endpoint` until the node drains.
pub(super) async fn serve(endpoint: Endpoint, door: Rc<Door>) {
    let draining = door.context.draining.clone();
    endpoint.serve_with(move |connection| converse(connection, door.clone()), DRAIN_TIMEOUT, draining).await;
}

async fn converse(connection: quinn::Connection, door: Rc<Door>) {
    door.counters.accepted.add(1);
    if door.is_full() {
        door.counters.refused.add(1);
        let code = quinn::VarInt::from_u64(Code::H3_EXCESSIVE_LOAD.value()).unwrap_or_default();
        connection.close(code, b"the core's table of HTTP connections is full; come back");
        return;
    }
    let _open = Open::new(&door.tally);
    let peer = connection.remote_address().ip().to_canonical();
    let (gated, gates) = Gated::new(connection);
    let mut builder = h3::server::builder();
    let built = builder.max_field_section_size(HTTP_HEAD_BYTES_MAX as u64).build::<Gated, Bytes>(gated).await;
    let mut connection: Connection<Gated, Bytes> = match built {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "no HTTP/3 connection");
            return;
        }
    };
    let mut draining = std::pin::pin!(door.context.drain_asked());
    let mut drains = false;
    let requests = Rc::new(Requests::default());
    // The connection is closed when it is dropped.
    while !(drains && requests.open.get() == 0) {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = requests.ended.notified(), if drains => continue,
            () = &mut draining, if !drains => {
                drains = true;
                // What was asked is answered; what is asked from now on is refused, to be asked elsewhere.
                if connection.shutdown(0).await.is_err() {
                    return;
                }
                continue;
            }
        };
        match accepted {
            Ok(Some(request)) => {
                let (door, gates, open) = (door.clone(), gates.clone(), Requests::open(&requests));
                spawn(async move {
                    serve_one(request, peer, &door, &gates).await;
                    drop(open);
                });
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "an HTTP/3 connection ended");
                return;
            }
        }
    }
}

/// The requests of one connection that are not yet answered.
#[derive(Default)]
struct Requests {
    open: Cell<usize>,
    ended: Notify,
}

struct OpenRequest(Rc<Requests>);

impl Requests {
    fn open(requests: &Rc<Self>) -> OpenRequest {
        requests.open.set(requests.open.get() + 1);
        OpenRequest(requests.clone())
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.notify_one();
    }
}

async fn serve_one(request: RequestResolver<Gated, Bytes>, peer: IpAddr, door: &Rc<Door>, gates: &Gates) {
    let head = timeout(Duration::from_millis(HTTP_HEAD_TIMEOUT_MS), request.resolve_request()).await;
    let (request, stream) = match head {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no head of an HTTP/3 request");
            return;
        }
        Err(_) => {
            door.counters.cut.add(1);
            return;
        }
    };
    let pending = gates.borrow_mut().remove(&stream.id().into_inner()).unwrap_or_default();
    pending.set(0);
    let (mut sender, receiver) = stream.split();
    let request: Request<Arriving> = request.map(|()| Arriving::Quic(receiver, pending));
    let response = answer(door, peer, request).await;
    let (parts, body) = response.into_parts();
    let mut body = std::pin::pin!(body);
    let sent = async {
        sender.send_response(hyper::Response::from_parts(parts, ())).await.ok()?;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                // The reader must not take it for whole.
                sender.stop_stream(Code::H3_INTERNAL_ERROR);
                return None;
            };
            let Ok(piece) = frame.into_data() else { continue };
            if timeout(STALL, sender.send_data(piece)).await.ok()?.is_err() {
                return None;
            }
        }
        timeout(STALL, sender.finish()).await.ok()?.ok()
    };
    let sent = sent.await;
    if sent.is_none() {
        sender.stop_stream(Code::H3_REQUEST_CANCELLED);
    }
}
