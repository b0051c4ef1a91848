//! The acceptor of one core: connections in, requests to the table, answers out.
//!
//! Promises: a core has a bounded number of connections, each with a bounded head, bounded streams and bounded patience; one
//! more is told so; a browser page of another site cannot reach the node under a name that is not its own; a door that drains
//! takes no more, finishes what it has within [`DRAIN_TIMEOUT`], and returns.
//! Does not: route (see `route`), nor decide who may ask (see `pipeline`).

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use qmesh_net::io::endpoint::Endpoint;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::arriving::Arriving;
use super::body::discard;
use super::coding::Taste;
use super::metrics::{self, Counters};
use super::pace::{LOOK_INTERVAL_MS, Pace, Paced, Verdict};
use super::route::{Action, ROUTES, UNMATCHED, dispatch};
use super::{Problem, Response};
use super::{cors, http3};
use crate::config::gateway::{Ingress, is_loopback_host};
use crate::error::{Reason, Refusal};
use crate::gateway::{Context, DRAIN_TIMEOUT};
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEAD_TIMEOUT_MS, HTTP2_STREAMS_MAX};
use crate::runtime::{LocalExecutor, spawn};

/// Quiet time before the first keep-alive probe, and between two (S5.1: 60 s).
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Probes without an answer before a peer is given up (S5.1: 3).
const KEEP_ALIVE_PROBES: u32 = 3;
/// Time that sent bytes may wait for the peer's acknowledgement or its window.
const UNSENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after the operating system gave no connection: it has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Refused clients of a core that are heard out at a time.
const REFUSALS_HEARD_MAX: usize = 64;
/// How long one is.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a client may remember that HTTP/3 is here, in seconds.
const ALT_SVC_S: u32 = 86_400;
/// Bytes of one HTTP/2 frame.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;
/// Bytes that a peer may have on the way to us on one HTTP/2 stream.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes that a peer may have on the way to us on one HTTP/2 connection.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const _: () = assert!(HTTP2_STREAM_WINDOW_BYTES <= HTTP2_CONNECTION_WINDOW_BYTES);

/// Serves HTTP on `listener` until the node drains.
pub async fn serve(
    listener: std::net::TcpListener,
    tls: Option<Arc<ServerConfig>>,
    http3: Option<Endpoint>,
    context: Context,
) {
    let decisions = context.gate.as_ref().map(|gate| gate.decisions.clone());
    let counters = metrics::open_door(&context.facts, context.router.core(), decisions);
    let door = Rc::new(Door {
        tls: tls.map(TlsAcceptor::from),
        builder: builder(),
        alt_svc: http3.as_ref().and_then(|endpoint| {
            let value = format!("h3=\":{}\"; ma={ALT_SVC_S}", endpoint.address().port());
            HeaderValue::from_str(&value).ok()
        }),
        loopback: context.facts.http.ip().is_loopback(),
        tally: Arc::new(Tally { open: AtomicUsize::new(0), closed: Notify::new(), counters: counters.clone() }),
        counters,
        context,
    });
    let listening = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let listener = match listening {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the HTTP door does not open");
            return;
        }
    };
    let http3 = async {
        if let Some(endpoint) = http3 {
            http3::serve(endpoint, door.clone()).await;
        }
    };
    futures_util::join!(http3, serve_tcp(listener, &door));
}

async fn serve_tcp(listener: TcpListener, door: &Rc<Door>) {
    let accept = accept(listener, door);
    let draining = door.context.drain_asked();
    tokio::select! {
        () = accept => {}
        () = draining => {}
    }
    // The listener is closed. What is open finishes, or is cut with the process.
    let all_closed = async {
        while 0 < door.tally.open.load(Relaxed) {
            door.tally.closed.notified().await;
        }
    };
    if timeout(DRAIN_TIMEOUT, all_closed).await.is_err() {
        tracing::warn!(open = door.tally.open.load(Relaxed), "HTTP connections were cut at the end of the drain");
    }
}

pub(super) struct Door {
    pub(super) context: Context,
    tls: Option<TlsAcceptor>,
    builder: Builder<LocalExecutor>,
    loopback: bool,
    alt_svc: Option<HeaderValue>,
    pub(super) tally: Arc<Tally>,
    pub(super) counters: Arc<Counters>,
}

impl Door {
    /// Whether there is no room for another connection.
    pub(super) fn is_full(&self) -> bool {
        self.context.facts.http_connections_max <= self.tally.open.load(Relaxed)
    }
}

/// The connections of a core's door.
pub(super) struct Tally {
    open: AtomicUsize,
    closed: Notify,
    counters: Arc<Counters>,
}

fn builder() -> Builder<LocalExecutor> {
    let mut builder = Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        // A client that has said all may close its half and still read its answer.
        .half_close(true)
        // The pace watches heads; hyper's own timer would cut connections that are merely idle.
        .header_read_timeout(None)
        .max_buf_size(HTTP_HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_header_list_size(HTTP_HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

async fn accept(listener: TcpListener, door: &Rc<Door>) {
    let refusals = Rc::new(Cell::new(0));
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        door.counters.accepted.add(1);
        if door.is_full() {
            door.counters.refused.add(1);
            refuse(socket, &refusals);
            continue;
        }
        let (door, open) = (door.clone(), Open::new(&door.tally));
        spawn(async move { connection(socket, open, &door).await });
    }
}

/// A connection that counts. When it is dropped, it does no longer.
pub(super) struct Open(Arc<Tally>);

impl Open {
    pub(super) fn new(tally: &Arc<Tally>) -> Self {
        tally.open.store(tally.open.load(Relaxed) + 1, Relaxed);
        tally.counters.open.add(1);
        Self(tally.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.store(self.0.open.load(Relaxed) - 1, Relaxed);
        self.0.counters.open.less();
        self.0.closed.notify_one();
    }
}

/// Tells a client beyond the bound so. A close beside a request that was not read is a reset, which may overtake the sentence, so
/// some are heard out; beyond those the sentence is left to its luck.
fn refuse(socket: TcpStream, refusals: &Rc<Cell<usize>>) {
    let refusal = Refusal::overloaded("the core's table of HTTP connections");
    let document = Problem::from(refusal).document().to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{document}",
        document.len()
    );
    // A client that does not take it is refused all the same: the sentence fits into the socket's buffer.
    drop(socket.try_write(answer.as_bytes()));
    if refusals.get() == REFUSALS_HEARD_MAX {
        return;
    }
    refusals.set(refusals.get() + 1);
    let refusals = refusals.clone();
    spawn(async move {
        let mut socket = socket;
        drop(timeout(REFUSAL_TIMEOUT, hear_out(&mut socket)).await);
        refusals.set(refusals.get() - 1);
    });
}

/// Ends our half, and reads what a client sends until it has ended its own, at most a request's head.
async fn hear_out(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.shutdown().await?;
    let (mut piece, mut left) = ([0; 1024], HTTP_HEAD_BYTES_MAX);
    while let count @ 1.. = socket.read(&mut piece).await? {
        left = left.saturating_sub(count);
        if left == 0 {
            break;
        }
    }
    Ok(())
}

async fn connection(socket: TcpStream, open: Open, door: &Rc<Door>) {
    tune(&socket);
    // A socket that has no peer any more has nobody to answer either.
    let peer = socket.peer_addr().map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical());
    match &door.tls {
        None => speak(socket, open, peer, door).await,
        Some(tls) => match timeout(Duration::from_millis(HTTP_HEAD_TIMEOUT_MS), tls.accept(socket)).await {
            Ok(Ok(socket)) => speak(socket, open, peer, door).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
            Err(_) => door.counters.cut.add(1),
        },
    }
}

fn tune(socket: &TcpStream) {
    let reference = SockRef::from(socket);
    let keep_alive =
        TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE).with_retries(KEEP_ALIVE_PROBES);
    let tuned = socket
        .set_nodelay(true)
        .and_then(|()| reference.set_tcp_keepalive(&keep_alive))
        // A reader that stops holds the bytes of its answer no longer than this.
        .and_then(|()| reference.set_tcp_user_timeout(Some(UNSENT_TIMEOUT)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket keeps its defaults");
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: S,
    open: Open,
    peer: IpAddr,
    door: &Rc<Door>,
) {
    let pace = Pace::new(Instant::now());
    let socket = TokioIo::new(Paced::new(socket, pace.clone(), open));
    let service = service_fn(|request| answer_paced(door.clone(), peer, pace.clone(), request));
    let mut connection = std::pin::pin!(door.builder.serve_connection_with_upgrades(socket, service));
    let mut draining = std::pin::pin!(door.context.drain_asked());
    let mut drains = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP connection ended");
                }
                return;
            }
            () = &mut draining, if !drains => {
                drains = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(Duration::from_millis(LOOK_INTERVAL_MS)) => {
                match pace.verdict(Instant::now()) {
                    None => {}
                    Some(Verdict::HeadTooSlow) => {
                        door.counters.cut.add(1);
                        return;
                    }
                    Some(Verdict::Idle) => return,
                }
            }
        }
    }
}

/// An answer over HTTP/1.1 or 2.
async fn answer_paced(
    door: Rc<Door>,
    peer: IpAddr,
    pace: Arc<Pace>,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let multiplexed = request.version() == Version::HTTP_2;
    let open = pace.request(multiplexed);
    let (mut parts, body) = answer(&door, peer, request.map(Arriving::Hyper)).await.into_parts();
    if parts.status == StatusCode::REQUEST_TIMEOUT && !multiplexed {
        // What the client still sends of this request would be read as the next one.
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(alt_svc) = &door.alt_svc {
        parts.headers.insert(header::ALT_SVC, alt_svc.clone());
    }
    Ok(Response::from_parts(parts, body.holding(open)))
}

/// The answer to a request, whichever way it came, counted and coded.
pub(super) async fn answer(door: &Rc<Door>, peer: IpAddr, request: Request<Arriving>) -> Response {
    let begun = Instant::now();
    let names = Names {
        local: door.loopback || peer.is_loopback(),
        ingress: door.context.gate.as_ref().map(|gate| &gate.gateway.ingress),
    };
    let taste = Taste::of(request.method(), request.headers(), request.uri().query());
    let page = cors::listed(names.ingress, request.headers());
    let asks_before = page.is_some() && cors::is_preflight(request.method(), request.headers());
    let (mut response, row) = match check_caller(&names, &request) {
        // A browser sends no token with this question, and nothing is done for it.
        Ok(()) if asks_before => {
            discard(request.into_body());
            (cors::preflight(), UNMATCHED)
        }
        Ok(()) => dispatch(door.context.clone(), peer, request).await,
        Err(problem) => {
            discard(request.into_body());
            (problem.into_response(), UNMATCHED)
        }
    };
    if let Some(page) = page {
        cors::let_read(&mut response, page);
    }
    door.counters.request(row, response.status(), begun.elapsed());
    let exact = ROUTES.get(row).is_some_and(|route| matches!(route.action, Action::RefGet | Action::RefSet));
    taste.apply(response, exact, &door.counters)
}

/// The names under which a caller may reach the node.
struct Names<'a> {
    /// Those of this machine: the door or its caller is on the loopback address.
    local: bool,
    /// Those of the gateway's file.
    ingress: Option<&'a Ingress>,
}

/// Refuses what a page of another site could have sent: the node answers only to its own names (otherwise a name that is
/// rebound to its address would make the browser a door to it).
fn check_caller(names: &Names<'_>, request: &Request<Arriving>) -> Result<(), Problem> {
    // Who probes a node from its own network names it by an address, and learns no more than that it lives.
    if !names.local && matches!(request.uri().path(), "/livez" | "/readyz") {
        return Ok(());
    }
    let host = request.uri().authority().map(Authority::as_str);
    check_names(names, host, request.headers())
}

fn check_names(names: &Names<'_>, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = hosts.next().map(|host| host.to_str());
    if hosts.next().is_some() {
        return Err(Refusal::bad_request("more than one Host header").into());
    }
    let host = match (authority, named) {
        (Some(authority), _) => authority,
        (None, Some(Ok(host))) => host,
        (None, _) => return Err(Refusal::bad_request("a request needs a Host header").into()),
    };
    let known = |host: &str| names.ingress.is_some_and(|ingress| ingress.hosts.iter().any(|own| is_named(host, own)));
    if !(names.local && is_loopback(host) || known(host)) {
        let own = if names.local { "its loopback address and the hosts" } else { "the hosts" };
        let detail =
            format!("this node answers under {own} of its gateway file only ([ingress] hosts), not as {host:?}");
        return Err(Refusal::new(Reason::Denied, detail).into());
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let local = names.local && origin.split_once("://").is_some_and(|(_, host)| is_loopback(host));
        let listed = names.ingress.is_some_and(|ingress| ingress.origins.iter().any(|known| known == origin));
        if !local && !listed {
            let detail = "pages of other sites may not reach this node (Origin), unless [ingress] origins lists them";
            return Err(Refusal::new(Reason::Denied, detail).into());
        }
    }
    Ok(())
}

/// Whether a host is the one that was listed: on any port, unless one was listed too.
fn is_named(host: &str, own: &str) -> bool {
    let (Ok(host), Ok(own)) = (host.parse::<Authority>(), own.parse::<Authority>()) else { return false };
    let port = own.port_u16().is_none_or(|port| host.port_u16() == Some(port));
    port && !host.as_str().contains('@') && host.host().trim_end_matches('.').eq_ignore_ascii_case(own.host())
}

/// Whether `host`, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    // A user before an @ is nobody we know, and a way to hide the host.
    if authority.as_str().contains('@') {
        return false;
    }
    is_loopback_host(authority.host())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s3_2_5_only_loopback_names_reach_a_loopback_node() {
        let check = |host: &str, expected: bool| assert_eq!(is_loopback(host), expected, "{host:?}");
        for host in [
            "localhost",
            "LOCALHOST:7420",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:7420",
            "[::ffff:127.0.0.1]",
            "a.localhost",
        ] {
            check(host, true);
        }
        for host in [
            "example.org",
            "127.0.0.1.example.org",
            "localhost.example.org",
            "10.0.0.1",
            "[::2]",
            "",
            "a@localhost",
            "0.0.0.0",
        ] {
            check(host, false);
        }
    }

    #[test]
    fn s3_2_5_a_foreign_origin_is_denied_and_a_missing_host_is_wrong() {
        let check = |pairs: &[(&'static str, &str)], expected: Option<StatusCode>| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            let names = Names { local: true, ingress: None };
            let found = check_names(&names, None, &headers).err().map(|problem| problem.status);
            assert_eq!(found, expected, "{pairs:?}");
        };
        check(&[("host", "localhost")], None);
        check(&[("host", "localhost"), ("origin", "http://localhost:3000")], None);
        check(&[("host", "localhost"), ("origin", "https://evil.example")], Some(StatusCode::FORBIDDEN));
        check(&[("host", "localhost"), ("origin", "null")], Some(StatusCode::FORBIDDEN));
        check(&[("host", "evil.example")], Some(StatusCode::FORBIDDEN));
        check(&[], Some(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn s6_1_9_beyond_loopback_only_listed_hosts_and_origins_are_answered() {
        let ingress = Ingress {
            hosts: vec!["dag.example.org".to_owned(), "10.0.0.5:443".to_owned()],
            origins: vec!["https://app.example.org".to_owned()],
        };
        let check = |local: bool, host: &str, origin: Option<&str>, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            let names = Names { local, ingress: Some(&ingress) };
            assert_eq!(check_names(&names, None, &headers).is_ok(), expected, "{host} {origin:?}");
        };
        check(false, "dag.example.org", None, true);
        check(false, "DAG.example.org:8443", None, true);
        check(false, "dag.example.org.", None, true);
        check(false, "10.0.0.5:443", None, true);
        check(false, "10.0.0.5", None, false);
        check(false, "localhost", None, false);
        check(true, "localhost", None, true);
        check(false, "evil.example", None, false);
        check(false, "x@dag.example.org", None, false);
        check(false, "dag.example.org", Some("https://app.example.org"), true);
        check(false, "dag.example.org", Some("http://app.example.org"), false);
        check(false, "dag.example.org", Some("https://evil.example"), false);
        check(false, "dag.example.org", Some("http://localhost"), false);
        check(true, "localhost", Some("http://localhost:3000"), true);
    }
}
