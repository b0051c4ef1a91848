//! The endpoint on which the nodes of a cluster meet, and at which strangers with a token join.
//!
//! Promises: who is turned away costs one line of the log, with the address and the reason, and strangers cannot fill
//! the log; a connection whose certificate is revoked is closed; joining connections are few and short.
//! Does not: connect to others (`rpc::client::Client::connect_peer`), or know what an operation means.

use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::{Connection, ConnectionError, VarInt, crypto::rustls::HandshakeData};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::{
    endpoint::{Endpoint, EndpointOptions, Reception, SocketBuffers},
    task,
};
use crate::{
    peer::{Caller, Credentials, JoinGate, Joining, MemberGate, TurnedAway, admit, close_when_revoked, mesh_endpoint},
    rpc::server::{Handler, ServeOptions, serve, serve_datagrams},
    tls::TlsError,
    wire::CloseCode,
};

/// Lines about refused strangers that one endpoint writes into the log in one second.
const REFUSAL_LINES_PER_SECOND_MAX: u32 = 10;

/// A listening endpoint of one core for nodes.
#[derive(Debug)]
pub struct MeshEndpoint {
    endpoint: Endpoint,
    credentials: Arc<Credentials>,
}

impl MeshEndpoint {
    /// Binds `address` (port zero for any) and listens. Must be called inside the core's runtime. Replacing what is in
    /// `credentials` takes effect at the next handshake.
    pub fn bind(
        address: SocketAddr,
        credentials: Arc<Credentials>,
        options: EndpointOptions,
    ) -> Result<Self, MeshBindError> {
        let endpoint = Endpoint::bind(address, mesh_endpoint(&credentials)?, options)?;
        Ok(Self { endpoint, credentials })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address()
    }

    /// What the kernel granted of the wished buffers.
    pub fn buffers(&self) -> SocketBuffers {
        self.endpoint.buffers()
    }

    /// Connections that are open or shaking hands.
    pub fn connections(&self) -> usize {
        self.endpoint.connections()
    }

    /// Serves nodes until `draining` turns true; then answers what was read, closes every connection and returns.
    /// `handler` learns from [`Replies::identity`](crate::rpc::server::Replies::identity) who calls. Without `joining`
    /// nobody can join here.
    pub async fn serve(
        &self,
        handler: Rc<dyn Handler>,
        joining: Option<Joining>,
        options: ServeOptions,
        draining: watch::Receiver<bool>,
    ) {
        let drain_timeout = options.drain_timeout;
        let reception = MeshReception {
            credentials: self.credentials.clone(),
            handler: Rc::new(MemberGate(handler)),
            joining,
            joiners: Cell::new(0),
            options,
            draining: draining.clone(),
            refusals: Rc::default(),
        };
        self.endpoint.serve_each(Rc::new(reception), drain_timeout, draining).await;
    }
}

/// Why a mesh endpoint cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum MeshBindError {
    /// The address cannot be had.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// The configuration cannot be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

struct MeshReception {
    credentials: Arc<Credentials>,
    handler: Rc<dyn Handler>,
    joining: Option<Joining>,
    joiners: Cell<usize>,
    options: ServeOptions,
    draining: watch::Receiver<bool>,
    refusals: Rc<Refusals>,
}

impl Reception for MeshReception {
    async fn serve(&self, connection: Connection) {
        let protocol = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let protocol = protocol.and_then(|data| data.protocol);
        let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        let chain = chain.as_ref().map(|chain| chain.as_slice());
        let caller = admit(protocol.as_deref(), chain, &self.credentials.snapshot());
        let (options, draining) = (self.options.clone(), self.draining.clone());
        match caller {
            Ok(Caller::Member(peer)) => {
                task::spawn_local(close_when_revoked(connection.clone(), peer.serial, self.credentials.clone()));
                task::spawn_local(serve_datagrams(connection.clone(), peer.clone(), self.handler.clone()));
                serve(connection, Some(peer), self.handler.clone(), options, draining).await;
            }
            Ok(Caller::Joiner) => match self.seat() {
                Ok((joining, _seat)) => {
                    let gate = Rc::new(JoinGate::new(joining, connection.clone(), self.refusals.clone()));
                    let options = joining.options.serve_options(&options);
                    let served = serve(connection.clone(), None, gate, options, draining);
                    if task::within(joining.options.connection_timeout, served).await.is_none() {
                        connection.close(VarInt::from_u32(CloseCode::JoinOnly as u32), b"joining took too long");
                    }
                }
                Err(reason) => self.turn_away(&connection, &reason),
            },
            Err(reason) => self.turn_away(&connection, &reason),
        }
    }

    fn failed(&self, address: SocketAddr, error: &ConnectionError) {
        self.refusals.tell(address, error);
    }
}

impl MeshReception {
    /// A seat for one joiner, free again when it is dropped.
    fn seat(&self) -> Result<(&Joining, Seat<'_>), TurnedAway> {
        let joining = self.joining.as_ref().ok_or(TurnedAway::JoinsNobody)?;
        let joiners_max = joining.options.joiners_max;
        if joiners_max <= self.joiners.get() {
            return Err(TurnedAway::JoinersFull { joiners_max });
        }
        self.joiners.set(self.joiners.get() + 1);
        Ok((joining, Seat(&self.joiners)))
    }

    fn turn_away(&self, connection: &Connection, reason: &TurnedAway) {
        self.refusals.tell(connection.remote_address(), reason);
        connection.close(VarInt::from_u32(reason.code() as u32), reason.to_string().as_bytes());
    }
}

/// Tells the log who was refused and why.
#[derive(Debug, Default)]
pub(crate) struct Refusals(RefCell<RefusalLog>);

impl Refusals {
    pub(crate) fn tell(&self, address: SocketAddr, reason: &dyn Display) {
        if let Some(unwritten) = self.0.borrow_mut().permits(Instant::now()) {
            tracing::warn!(peer = %address, reason = %reason, unwritten, "peer refused");
        }
    }
}

struct Seat<'a>(&'a Cell<usize>);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Keeps strangers from filling the log.
#[derive(Debug, Default)]
struct RefusalLog {
    second: Option<Instant>,
    lines: u32,
    unwritten: u64,
}

impl RefusalLog {
    /// Whether one more line may be written; with how many were not since the last.
    fn permits(&mut self, now: Instant) -> Option<u64> {
        if self.second.is_none_or(|second| second + Duration::from_secs(1) <= now) {
            self.second = Some(now);
            self.lines = 0;
        }
        if self.lines == REFUSAL_LINES_PER_SECOND_MAX {
            self.unwritten += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_1_12_strangers_cannot_fill_the_log() {
        let mut log = RefusalLog::default();
        let start = Instant::now();
        for _ in 0..REFUSAL_LINES_PER_SECOND_MAX {
            assert_eq!(log.permits(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(log.permits(start + Duration::from_millis(999)), None);
        }
        assert_eq!(log.permits(start + Duration::from_secs(1)), Some(1000), "the next line says how many are missing");
        assert_eq!(log.permits(start + Duration::from_secs(1)), Some(0));
    }
}
