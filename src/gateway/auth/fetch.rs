//! Documents of an issuer, fetched over HTTP.
//!
//! Promises: over TLS, unless the issuer is a process of this machine; no redirect is followed, since it could lead anywhere; a
//! document has a bounded size and time. Does not: keep connections, or read what it fetched.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use qmesh_net::tls::{TlsError, Trust, https_client};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::gateway::is_loopback_host;
use crate::limits::{ISSUER_DOCUMENT_BYTES_MAX, ISSUER_TIMEOUT_MS};

/// Fetches documents.
#[derive(Clone)]
pub(super) struct Fetcher {
    tls: Arc<rustls::ClientConfig>,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0:?} is not an https:// URI")]
    Uri(String),
    #[error("not reached: {0}")]
    Unreachable(String),
    #[error("no answer within {ISSUER_TIMEOUT_MS} ms")]
    Timeout,
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the answer broke off, or is longer than {ISSUER_DOCUMENT_BYTES_MAX} bytes")]
    Body,
}

impl Fetcher {
    /// One that believes the host's own authorities, and the one in `ca`.
    pub(super) fn new(ca: Option<std::path::PathBuf>) -> Result<Self, TlsError> {
        Ok(Self { tls: https_client(&Trust::Host(ca))? })
    }

    /// The document at `uri`.
    pub(super) async fn get(&self, uri: &str) -> Result<Bytes, FetchError> {
        let wrong = || FetchError::Uri(uri.to_owned());
        let parsed: Uri = uri.parse().map_err(|_| wrong())?;
        let host = parsed.host().ok_or_else(wrong)?.to_owned();
        let https = parsed.scheme_str() == Some("https");
        let local = parsed.scheme_str() == Some("http") && is_loopback_host(&host);
        if !(https || local) {
            return Err(wrong());
        }
        let fetching = async {
            let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = parsed.port_u16().unwrap_or(if https { 443 } else { 80 });
            let socket = TcpStream::connect((name.as_str(), port)).await.map_err(unreachable)?;
            if !https {
                return ask(socket, &parsed).await;
            }
            let name = name.try_into().map_err(|_| wrong())?;
            let socket = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, socket).await;
            ask(socket.map_err(unreachable)?, &parsed).await
        };
        timeout(Duration::from_millis(ISSUER_TIMEOUT_MS), fetching).await.map_err(|_| FetchError::Timeout)?
    }
}

fn unreachable(error: impl ToString) -> FetchError {
    FetchError::Unreachable(error.to_string())
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(socket: S, uri: &Uri) -> Result<Bytes, FetchError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(unreachable)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(unreachable)?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), ISSUER_DOCUMENT_BYTES_MAX).collect().await;
        Ok(body.map_err(|_| FetchError::Body)?.to_bytes())
    };
    match select(pin!(asking), pin!(connection)).await {
        Either::Left((told, _)) => told,
        // The connection may end in the same turn in which the answer became whole.
        Either::Right((_, asking)) => asking.await,
    }
}
