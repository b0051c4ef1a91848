//! Connecting to a node, as a node or as somebody who wants to become one.
//!
//! Promises: a connection that is returned was let in by the other side, whose certificate was checked first; each
//! refusal of either side is an error that says what to do; a connection whose peer is revoked is closed.
//! Does not: reconnect, or choose whom to connect to.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt as _, pin_mut, select_biased};
use quinn::{Connection, VarInt};
use rustls::pki_types::CertificateDer;

use super::{
    Rejection, SERVER_NAME,
    credentials::Credentials,
    distrust::Distrust,
    verify::{Expect, Trusted, Verdict, member_client, pinned_client},
};
use crate::{
    identity::{Fingerprint, Serial},
    io::{
        endpoint::{ConnectError, dial},
        task,
    },
    rpc::client::{Client, ClientOptions},
    wire::{CloseCode, Lane, OPERATION_HELLO},
};

impl Client {
    /// Connects as a node to a node at `address`. Later handshakes of the same credentials use what they hold then.
    pub async fn connect_peer(
        credentials: &Arc<Credentials>,
        address: SocketAddr,
        expect: Expect,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        let (tls, verdict) = member_client(credentials, expect)?;
        let (endpoint, connection) = dial(address, SERVER_NAME, tls, &options.transport())
            .await
            .map_err(|error| explain(error, address, &verdict))?;
        let Trusted { peer, .. } = trusted(&verdict, address)?;
        // On the runtime of whoever connects; it ends with the connection.
        task::spawn(close_when_revoked(connection.clone(), peer.serial, credentials.clone()));
        let client = Self::new(endpoint, connection, Some(peer), options);
        greet(&client, address).await?;
        Ok(client)
    }

    /// Connects without a certificate to a control node whose authority has this fingerprint. All that may be called is
    /// [`OPERATION_JOIN`](crate::wire::OPERATION_JOIN).
    pub async fn connect_pinned(
        address: SocketAddr,
        fingerprint: Fingerprint,
        options: ClientOptions,
    ) -> Result<Pinned, ConnectError> {
        let (tls, verdict) = pinned_client(fingerprint)?;
        let (endpoint, connection) = dial(address, SERVER_NAME, tls, &options.transport())
            .await
            .map_err(|error| explain(error, address, &verdict))?;
        let Trusted { peer, authority } = trusted(&verdict, address)?;
        let authority = authority.ok_or_else(|| unverified(address))?;
        let client = Self::new(endpoint, connection, Some(peer), options);
        greet(&client, address).await?;
        Ok(Pinned { client, authority })
    }
}

/// A connection on which one can join.
pub struct Pinned {
    /// The connection.
    pub client: Client,
    /// The authority that the fingerprint names: what the joiner will trust.
    pub authority: CertificateDer<'static>,
}

/// Closes the connection when the certificate of its peer is revoked.
pub(crate) async fn close_when_revoked(connection: Connection, serial: Serial, credentials: Arc<Credentials>) {
    let revoked = credentials.revoked(serial).fuse();
    let closed = connection.closed().fuse();
    pin_mut!(revoked, closed);
    select_biased! {
        _ = closed => {}
        () = revoked => {
            let reason = Distrust::Revoked { serial };
            tracing::warn!(peer = %connection.remote_address(), %reason, "peer refused");
            connection.close(VarInt::from_u32(CloseCode::Revoked as u32), reason.to_string().as_bytes());
        }
    }
}

/// Waits until the other side has let us in. With TLS 1.3 a client has finished before the server looks at its
/// certificate, so without this the refusal would be found by the first call.
async fn greet(client: &Client, address: SocketAddr) -> Result<(), ConnectError> {
    let Err(error) = client.call(Lane::Control, OPERATION_HELLO, Bytes::new()).await else { return Ok(()) };
    Err(match client.close_reason() {
        Some(reason) => match Rejection::of(&reason) {
            Some(rejection) => ConnectError::Rejected { address, rejection, detail: reason.to_string() },
            None => ConnectError::Handshake(reason),
        },
        None => ConnectError::Greeting { address, detail: error.to_string() },
    })
}

fn explain(error: ConnectError, address: SocketAddr, verdict: &Verdict) -> ConnectError {
    match (verdict.get(), &error) {
        (Some(Err(distrust)), _) => ConnectError::Distrusted { address, distrust: distrust.clone() },
        (_, ConnectError::Handshake(reason)) => match Rejection::of(reason) {
            Some(rejection) => ConnectError::Rejected { address, rejection, detail: reason.to_string() },
            None => error,
        },
        _ => error,
    }
}

fn trusted(verdict: &Verdict, address: SocketAddr) -> Result<Trusted, ConnectError> {
    match verdict.get() {
        Some(Ok(trusted)) => Ok(trusted.clone()),
        Some(Err(distrust)) => Err(ConnectError::Distrusted { address, distrust: distrust.clone() }),
        None => Err(unverified(address)),
    }
}

/// TLS cannot have finished without the check; should it ever, nobody is believed.
fn unverified(address: SocketAddr) -> ConnectError {
    ConnectError::Distrusted { address, distrust: Distrust::Unusable { detail: "it was never checked".to_owned() } }
}
