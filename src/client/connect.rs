//! From an address to a connection: finds the QUIC door and shakes hands.
//!
//! Promises: a certificate is left unchecked only on loopback; a node that is not there is an error within seconds, at once
//! on loopback. Does not: ask the node anything but where its QUIC door is.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use qmesh_net::io::endpoint::ConnectError;
use qmesh_net::rpc::client::{Client, ClientOptions};
use qmesh_net::tls::{Trust, https_client};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::address::{Address, Door};
use super::{ClientError, ConnectOptions};

/// An answer of the HTTP door, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Time for a handshake on this machine before it is looked whether anybody listens, in milliseconds.
const LOOPBACK_PATIENCE_MS: u64 = 100;
/// Time for TCP, TLS and `GET /version`, in milliseconds, unless the caller's own is shorter.
const DISCOVERY_TIMEOUT_MS: u64 = 5_000;

/// Where the QUIC door is and whom to believe there: enough to connect again.
#[derive(Clone, Debug)]
pub(super) struct Target {
    address: SocketAddr,
    /// The name that the node's certificate must bear.
    server_name: String,
    trust: Trust,
    options: ClientOptions,
}

impl Target {
    /// A new connection to the same door.
    pub(super) async fn connect(&self) -> Result<Client, ClientError> {
        let unreachable = |error: ConnectError| match error {
            ConnectError::NotLoopback { address } => ClientError::Untrusted { address },
            error => ClientError::Unreachable { address: self.address.to_string(), detail: error.to_string() },
        };
        let connecting = pin!(Client::connect(self.address, &self.server_name, &self.trust, self.options.clone()));
        if !self.address.ip().to_canonical().is_loopback() {
            return connecting.await.map_err(unreachable);
        }
        let patience = pin!(tokio::time::sleep(Duration::from_millis(LOOPBACK_PATIENCE_MS)));
        match select(connecting, patience).await {
            Either::Left((connected, _)) => connected.map_err(unreachable),
            Either::Right(((), connecting)) => {
                if nobody_listens(self.address) {
                    let detail = "nobody listens on this UDP port".to_owned();
                    return Err(ClientError::Unreachable { address: self.address.to_string(), detail });
                }
                connecting.await.map_err(unreachable)
            }
        }
    }
}

/// Connects to the node at `address`.
pub(super) async fn connect(address: &Address, options: &ConnectOptions) -> Result<(Target, Client), ClientError> {
    let ip = resolve(address).await?;
    let trust = trust(SocketAddr::new(ip, address.port), options)?;
    let mut transport = ClientOptions { call_timeout: options.timeout, ..ClientOptions::default() };
    transport.transport.handshake_timeout = transport.transport.handshake_timeout.min(options.timeout);
    let target = |address_quic: SocketAddr| Target {
        address: address_quic,
        server_name: address.host.clone(),
        trust: trust.clone(),
        options: transport.clone(),
    };
    let here = SocketAddr::new(ip, address.port);
    match address.door {
        Door::Quic => {
            let target = target(here);
            let client = target.connect().await?;
            Ok((target, client))
        }
        Door::Http | Door::Https => {
            let target = target(discover(address, here, &trust, options).await?);
            let client = target.connect().await?;
            Ok((target, client))
        }
        Door::Any => either(address, here, &trust, options, target).await,
    }
}

/// Shakes hands with the UDP port while the TCP port is asked where the QUIC door is: whichever knows first.
async fn either(
    address: &Address,
    here: SocketAddr,
    trust: &Trust,
    options: &ConnectOptions,
    target: impl Fn(SocketAddr) -> Target,
) -> Result<(Target, Client), ClientError> {
    let straight = target(here);
    let connecting = pin!(straight.connect());
    let asking = pin!(discover(address, here, trust, options));
    let elsewhere = match select(connecting, asking).await {
        Either::Left((Ok(client), _)) => {
            return Ok((straight.clone(), client));
        }
        // No QUIC here: the HTTP door of a node that has its QUIC door on another port, or nothing at all.
        Either::Left((Err(error), asking)) => match asking.await {
            Ok(told) if told != here => told,
            _ => return Err(error),
        },
        Either::Right((Ok(told), _)) if told != here => told,
        Either::Right((_, connecting)) => {
            let client = connecting.await?;
            return Ok((straight.clone(), client));
        }
    };
    let target = target(elsewhere);
    let client = target.connect().await?;
    Ok((target, client))
}

async fn resolve(address: &Address) -> Result<IpAddr, ClientError> {
    if let Some(ip) = address.ip() {
        return Ok(ip);
    }
    let unreachable = |detail: String| ClientError::Unreachable { address: address.to_string(), detail };
    let mut found = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let first = found.next().ok_or_else(|| unreachable("the name has no address".to_owned()))?;
    Ok(first.ip())
}

fn trust(address: SocketAddr, options: &ConnectOptions) -> Result<Trust, ClientError> {
    let trust = options.authority.clone().map_or(Trust::LoopbackOnly, Trust::Authority);
    if trust.permits(address.ip()) { Ok(trust) } else { Err(ClientError::Untrusted { address }) }
}

/// Asks the HTTP door for the node's QUIC address.
async fn discover(
    address: &Address,
    here: SocketAddr,
    trust: &Trust,
    options: &ConnectOptions,
) -> Result<SocketAddr, ClientError> {
    #[derive(serde::Deserialize)]
    struct Version {
        quic: SocketAddr,
    }
    let limit = options.timeout.min(Duration::from_millis(DISCOVERY_TIMEOUT_MS));
    let unreachable = |detail: String| ClientError::Unreachable { address: address.to_string(), detail };
    let question = Question { path: "/version", access_token: None };
    let (status, body) = ask(address, here, trust, limit, &question).await?;
    if !status.is_success() {
        return Err(unreachable(format!("GET /version answered {status}")));
    }
    let told: Version =
        serde_json::from_slice(&body).map_err(|_| unreachable("what answers there is not a qmesh node".to_owned()))?;
    // A node that listens on every address is where its HTTP door was found.
    let told = told.quic;
    Ok(if told.ip().is_unspecified() { SocketAddr::new(here.ip(), told.port()) } else { told })
}

/// What is asked of an HTTP door.
pub(super) struct Question<'a> {
    /// The path with its query.
    pub(super) path: &'a str,
    /// Shown to the node.
    pub(super) access_token: Option<&'a str>,
}

/// Asks the HTTP door at `address` one question.
pub(super) async fn get(
    address: &Address,
    options: &ConnectOptions,
    question: &Question<'_>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let here = SocketAddr::new(resolve(address).await?, address.port);
    ask(address, here, &trust(here, options)?, options.timeout, question).await
}

async fn ask(
    address: &Address,
    here: SocketAddr,
    trust: &Trust,
    limit: Duration,
    question: &Question<'_>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let unreachable = |detail: String| ClientError::Unreachable { address: address.to_string(), detail };
    let told = async {
        let stream = TcpStream::connect(here).await.map_err(|error| unreachable(error.to_string()))?;
        drop(stream.set_nodelay(true));
        if address.door != Door::Https {
            return exchange(stream, address, question).await.map_err(unreachable);
        }
        let config = https_client(trust).map_err(|error| unreachable(error.to_string()))?;
        let name =
            address.host.clone().try_into().map_err(|_| unreachable("the name fits no certificate".to_owned()))?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        exchange(stream, address, question).await.map_err(unreachable)
    };
    tokio::time::timeout(limit, told).await.map_err(|_| ClientError::Timeout { limit })?
}

async fn exchange<S>(stream: S, address: &Address, question: &Question<'_>) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let host = format!("{}:{}", address.host, address.port);
    let mut request = Request::get(question.path).header("host", host).header("connection", "close");
    if let Some(token) = question.access_token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let asking = async {
        let response: Response<Incoming> = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    let (asking, connection) = (pin!(asking), pin!(connection));
    match select(asking, connection).await {
        Either::Left((told, _)) => told,
        // The connection may end in the same turn in which the answer became whole.
        Either::Right((_, asking)) => asking.await,
    }
}

/// Whether the kernel says that no process has this UDP port. The one byte sent is no QUIC packet, so a node drops it.
fn nobody_listens(address: SocketAddr) -> bool {
    let probe = || -> io::Result<()> {
        let local: IpAddr = match address.ip() {
            IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(address)?;
        socket.send(&[0])?;
        // On loopback the refusal is there before `send` returns.
        socket.set_nonblocking(true)?;
        socket.recv(&mut [0; 1]).map(drop)
    };
    probe().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;

    #[test]
    fn s0_2_a_free_udp_port_is_told_from_a_taken_one() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(!nobody_listens(address));
        drop(taken);
        assert!(nobody_listens(address));
    }

    #[test]
    fn s6_1_1_an_address_elsewhere_wants_an_authority() {
        let options = ConnectOptions::default();
        let address = "192.0.2.1:7420".parse().unwrap();
        let error = trust(address, &options).unwrap_err();
        assert!(matches!(error, ClientError::Untrusted { .. }));
        assert!(error.to_string().contains("--ca"), "{error}");
        let options = ConnectOptions { authority: Some("ca.pem".into()), ..options };
        assert!(trust(address, &options).is_ok());
    }
}
