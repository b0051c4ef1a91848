//! Joining a cluster with a token, from the joiner's side.
//!
//! Promises: the secret is told only to a control node whose authority the token names; the key never leaves this node;
//! what comes back is for that key and of that authority.
//! Does not: keep anything. The caller writes the leaf down before it uses it.

use std::net::SocketAddr;

use qmesh_net::identity::{Fingerprint, IdentityError, Leaf, RequestError, SigningRequest};
use qmesh_net::io::endpoint::ConnectError;
use qmesh_net::peer::Pinned;
use qmesh_net::rpc::client::{CallError, Client, ClientOptions};
use qmesh_net::wire::{Lane, OPERATION_JOIN};
use rustls::pki_types::CertificateDer;

use super::token::JoinToken;
use super::wire::{JoinAnswer, JoinRequest};
use crate::error::{Reason, Refusal};

/// Bytes of another node's words that an error shows.
const DETAIL_BYTES_MAX: usize = 1024;

/// What a node has once it has joined.
#[derive(Debug)]
pub struct Joined {
    /// Its key and certificate.
    pub leaf: Leaf,
    /// The authority of the cluster, which it trusts from now on.
    pub authority: CertificateDer<'static>,
    /// What the cluster told it.
    pub about: Vec<u8>,
}

/// Joins the cluster of which `address` is a control node. `about` is what the cluster is told of this node.
///
/// # Errors
/// [`JoinError`]; nothing has changed then, except that an attempt of the token may be used up.
pub async fn join(
    address: SocketAddr,
    token: &JoinToken,
    about: Vec<u8>,
    options: ClientOptions,
) -> Result<Joined, JoinError> {
    let Pinned { client, authority } = Client::connect_pinned(address, token.authority, options).await?;
    let request = SigningRequest::new()?;
    let asked = JoinRequest { token: token.id, secret: token.secret, request: request.der().to_vec(), about };
    let body = asked.encode().map_err(JoinError::Refused)?;
    let answer = match client.call(Lane::Control, OPERATION_JOIN, body).await {
        Ok(answer) => JoinAnswer::parse(&answer).map_err(JoinError::Answer)?,
        Err(CallError::Refused { status, body }) => return Err(JoinError::Refused(refusal(status, &body))),
        Err(error) => return Err(JoinError::Lost(error)),
    };
    client.close().await;
    let expected = token.authority;
    if !answer.chain.get(1).is_some_and(|authority| Fingerprint::of(authority) == expected) {
        return Err(JoinError::OtherAuthority { expected });
    }
    Ok(Joined { leaf: request.into_leaf(answer.chain)?, authority, about: answer.about })
}

/// A refusal as the issuer answers it: the status is the reason's number, the body its sentence.
fn refusal(status: u8, body: &[u8]) -> Refusal {
    let words = String::from_utf8_lossy(&body[..body.len().min(DETAIL_BYTES_MAX)]);
    Refusal::new(Reason::from_wire(status).unwrap_or(Reason::Internal), words)
}

/// Why a node has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no control node of the token's cluster at the address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The cluster does not take it.
    #[error("the cluster refuses: {0}")]
    Refused(#[source] Refusal),
    /// The connection ended before the answer came.
    #[error("no answer to the join: {0}; look whether the node is a member before you try again")]
    Lost(#[source] CallError),
    /// The answer cannot be read.
    #[error(transparent)]
    Answer(Refusal),
    /// The certificate that came back is of another authority than the token's.
    #[error("the certificate that came back is not of the authority {expected} for which the token is")]
    OtherAuthority {
        /// The token's authority.
        expected: Fingerprint,
    },
    /// The certificate that came back does not fit.
    #[error(transparent)]
    Certificate(#[from] RequestError),
    /// No key can be made.
    #[error(transparent)]
    Key(#[from] IdentityError),
}
