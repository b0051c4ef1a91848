//! Servers that speak Streamable HTTP.
//!
//! Promises: connections are kept and used again; a server with sessions gets one a core, made when first needed and made anew once
//! when the server forgot it; an answer that is too large is refused before it is kept.
//! Does not: retry what may have been carried out.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tokio::time::timeout;

use super::envelope::{Kind, Message, aged, completed, request};
use super::link::{Broken, Exchange, LEGACY, MODERN, Messages, Reply, Spoken};
use crate::runtime::LocalExecutor;

/// Bytes of one answer that is no stream.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Time for a connection, TLS included (S5.1: 30 s is for the whole; a server that does not take a connection is told sooner).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may lie unused (S5.1: 300 s).
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Connections kept unused for one server, a core (S5.1: 100).
const IDLE_CONNECTIONS_MAX: usize = 100;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// A server and the connections of one core to it.
pub(crate) struct HttpLink {
    uri: Uri,
    headers: HeaderMap,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    session: RefCell<Option<Rc<Session>>>,
    /// Held while a session is made: those who wait for it find it made.
    making: tokio::sync::Mutex<()>,
}

/// A session at a server.
pub(crate) struct Session {
    /// The server's name for it; some have none.
    pub(crate) id: Option<HeaderValue>,
}

impl HttpLink {
    /// A way to `url`.
    ///
    /// # Errors
    /// What is wrong with the address, a header or the authority's file.
    pub(crate) fn new(
        url: &str,
        headers: &[(String, String)],
        authority: Option<&std::path::Path>,
    ) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let mut fixed = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header's name"))?;
            let mut value: HeaderValue =
                value.parse().map_err(|_| format!("the value of the header {name} has characters that it may not"))?;
            value.set_sensitive(true);
            fixed.append(name, value);
        }
        let mut roots = rustls::RootCertStore::empty();
        match authority {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                use rustls::pki_types::{CertificateDer, pem::PemObject};
                let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| told(&error))? {
                    roots.add(certificate.map_err(|error| told(&error))?).map_err(|error| told(&error))?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(LocalExecutor)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Ok(Self { uri, headers: fixed, client, session: RefCell::new(None), making: tokio::sync::Mutex::new(()) })
    }

    /// Sends a request and takes what comes first.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn send(&self, spoken: Spoken, exchange: &Exchange) -> Result<Reply, Broken> {
        match spoken {
            Spoken::Modern => self.send_modern(exchange).await,
            Spoken::Legacy(version) => {
                let body = aged(&exchange.body).map_err(Broken::Unsupported)?;
                if let Some(session) = &exchange.session {
                    // The client's own: only the client can open another.
                    return self.send_in(session, version, body).await;
                }
                let session = self.session(version).await?;
                match self.send_in(&session, version, body.clone()).await {
                    // What a forgotten session asked was not carried out, so it may be asked again in a new one.
                    Err(Broken::SessionLost) => {
                        self.forget(&session);
                        let session = self.session(version).await?;
                        self.send_in(&session, version, body).await
                    }
                    reply => reply,
                }
            }
        }
    }

    async fn send_modern(&self, exchange: &Exchange) -> Result<Reply, Broken> {
        let mut request = self.post(exchange.body.clone(), MODERN);
        let headers = request.headers_mut();
        let text = |value: &str| {
            HeaderValue::from_str(value)
                .map_err(|_| Broken::Unsupported("a method that no header can carry".to_owned()))
        };
        headers.insert(METHOD, text(&exchange.method)?);
        if let Some(name) = &exchange.name {
            headers.insert(NAME, mirrored(name));
        }
        for (name, value) in &exchange.mirrored {
            headers.append(name.clone(), value.clone());
        }
        self.take(request).await
    }

    async fn send_in(&self, session: &Session, version: &str, body: Bytes) -> Result<Reply, Broken> {
        let reply = self.take(self.post_in(session, version, body)).await?;
        match reply {
            Reply::Whole(status, message) => Ok(Reply::Whole(status, completed(&message).map_err(Broken::Garbage)?)),
            Reply::Stream(messages) => Ok(Reply::Stream(messages)),
        }
    }

    /// The answer to a request as it came: what to do with it is told by status and type.
    async fn take(&self, request: Request<Full<Bytes>>) -> Result<Reply, Broken> {
        let in_session = request.headers().contains_key(SESSION);
        let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(Broken::Denied(status.as_u16())),
            StatusCode::TOO_MANY_REQUESTS => return Err(Broken::Busy(retry_after(response.headers()))),
            StatusCode::NOT_FOUND if in_session => return Err(Broken::SessionLost),
            _ if status.is_server_error() => return Err(Broken::Failed(status.as_u16())),
            _ => {}
        }
        match media_type(response.headers()).as_str() {
            "text/event-stream" => Ok(Reply::Stream(Messages::events(response.into_body()))),
            "application/json" => {
                let message = whole(response.into_body()).await?;
                Message::read(&message).map_err(Broken::Garbage)?;
                Ok(Reply::Whole(status.as_u16(), message))
            }
            other => Err(Broken::Garbage(format!("HTTP {} with {other:?}", status.as_u16()))),
        }
    }

    /// Posts a message of an earlier era in no session, and takes what comes first.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn post_as_is(&self, version: Option<&str>, body: Bytes) -> Result<Reply, Broken> {
        let mut request = self.post(body, version.unwrap_or_default());
        if version.is_none() {
            request.headers_mut().remove(VERSION);
        }
        self.take(request).await
    }

    fn post(&self, body: Bytes, version: &str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Ok(version) = HeaderValue::from_str(version) {
            headers.insert(VERSION, version);
        }
        request
    }

    fn post_in(&self, session: &Session, version: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = self.post(body, version);
        if let Some(id) = &session.id {
            request.headers_mut().insert(SESSION, id.clone());
        }
        request
    }

    /// Answers what a server asked in a session.
    pub(crate) async fn answer_in_session(&self, spoken: Spoken, body: Bytes) -> Result<(), Broken> {
        let Spoken::Legacy(version) = spoken else { return Ok(()) };
        let session = self.session(version).await?;
        let request = self.post_in(&session, version, body);
        self.client.request(request).await.map_err(|error| unreachable(&error))?;
        Ok(())
    }

    /// Opens the session that this core's calls share, and says which revision it has.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn initialize(&self) -> Result<(&'static str, Bytes), Broken> {
        let (session, version, answer) = self.open_session(&json!({})).await?;
        *self.session.borrow_mut() = Some(Rc::new(session));
        Ok((version, answer))
    }

    /// Opens a session for a client that can do `capabilities`, and says which revision it has.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn open_session(
        &self,
        capabilities: &serde_json::Value,
    ) -> Result<(Session, &'static str, Bytes), Broken> {
        let params = json!({
            "protocolVersion": LEGACY[0],
            "capabilities": capabilities,
            "clientInfo": { "name": "qmesh", "version": env!("CARGO_PKG_VERSION") },
        });
        let mut asked = self.post(request(0, "initialize", &params), LEGACY[0]);
        // The first request of a session has no revision yet.
        asked.headers_mut().remove(VERSION);
        let response = self.at_once(asked).await?;
        let status = response.status();
        let id = response.headers().get(SESSION).cloned();
        if !status.is_success() {
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Broken::Denied(status.as_u16()),
                _ if status.is_server_error() => Broken::Failed(status.as_u16()),
                _ => Broken::Garbage(format!("HTTP {} to initialize", status.as_u16())),
            });
        }
        let reply = if is_stream(response.headers()) {
            Reply::Stream(Messages::events(response.into_body()))
        } else {
            Reply::Whole(200, whole(response.into_body()).await?)
        };
        let (_, answer) =
            timeout(CONNECT_TIMEOUT, reply.answer()).await.map_err(|_| Broken::Timeout(CONNECT_TIMEOUT))??;
        let version = initialized_version(&answer)?;
        let session = Session { id };
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
        self.at_once(self.post_in(&session, version, Bytes::from(told))).await?;
        Ok((session, version, answer))
    }

    /// A request that is answered soon or not at all.
    async fn at_once(&self, request: Request<Full<Bytes>>) -> Result<hyper::Response<Incoming>, Broken> {
        let response = timeout(CONNECT_TIMEOUT, self.client.request(request)).await;
        response.map_err(|_| Broken::Timeout(CONNECT_TIMEOUT))?.map_err(|error| unreachable(&error))
    }

    /// Posts an answer of a client in its session.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn post_answer(&self, session: &Session, version: &str, body: Bytes) -> Result<(), Broken> {
        let response = self.at_once(self.post_in(session, version, body)).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Err(Broken::SessionLost),
            status if status.is_success() => Ok(()),
            status => Err(Broken::Failed(status.as_u16())),
        }
    }

    /// What a server tells a session by itself; `None` when it tells nothing.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn told_in(&self, session: &Session, version: &str) -> Result<Option<Messages>, Broken> {
        let mut request = self.post_in(session, version, Bytes::new());
        *request.method_mut() = Method::GET;
        request.headers_mut().remove(CONTENT_TYPE);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let response = self.at_once(request).await?;
        let stream = response.status().is_success() && is_stream(response.headers());
        Ok(stream.then(|| Messages::events(response.into_body())))
    }

    /// Ends a session.
    pub(crate) async fn end(&self, session: &Session, version: &str) {
        let mut request = self.post_in(session, version, Bytes::new());
        *request.method_mut() = Method::DELETE;
        // A server that does not end sessions lets them expire.
        let _ = self.at_once(request).await;
    }

    async fn session(&self, version: &str) -> Result<Rc<Session>, Broken> {
        let there = || self.session.borrow().clone();
        if let Some(session) = there() {
            return Ok(session);
        }
        let _making = self.making.lock().await;
        if let Some(session) = there() {
            return Ok(session);
        }
        let (found, _) = self.initialize().await?;
        if found != version {
            tracing::info!(url = %self.uri, found, version, "the server answers another revision than before");
        }
        there().ok_or(Broken::SessionLost)
    }

    fn forget(&self, session: &Rc<Session>) {
        let mut current = self.session.borrow_mut();
        if current.as_ref().is_some_and(|current| Rc::ptr_eq(current, session)) {
            *current = None;
        }
    }
}

/// The revision of an answer to `initialize`.
///
/// # Errors
/// Garbage: none that the gateway speaks.
pub(crate) fn initialized_version(answer: &[u8]) -> Result<&'static str, Broken> {
    #[derive(serde::Deserialize)]
    struct Initialized {
        #[serde(rename = "protocolVersion")]
        version: String,
    }
    let message = Message::read(answer).map_err(Broken::Garbage)?;
    let Some(result) = message.result else {
        return Err(Broken::Garbage(format!(
            "initialize was refused: {}",
            message.error.map_or("", |error| error.get())
        )));
    };
    let Initialized { version } =
        serde_json::from_str(result.get()).map_err(|error| Broken::Garbage(format!("initialize: {error}")))?;
    let known = LEGACY.into_iter().find(|known| *known == version);
    known.ok_or_else(|| Broken::Garbage(format!("it speaks {version}, the gateway {MODERN}, {}", LEGACY.join(", "))))
}

/// The refusal that a server of a session gets when it asks what this gateway cannot pass on.
pub(crate) fn cannot_ask(message: &[u8]) -> Option<Bytes> {
    let read = Message::read(message).ok()?;
    if read.kind() != Kind::Request {
        return None;
    }
    let id = read.id?;
    let method = read.method.as_deref().unwrap_or_default();
    if method == "ping" {
        return Some(Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}", id.get())));
    }
    let told = format!("this gateway passes no {method} on to its clients");
    let error = json!({ "code": -32601, "message": told });
    Some(Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{error}}}", id.get())))
}

/// A name as a header's value: as it is, or in base64 where it has characters that a header may not.
pub(crate) fn mirrored(name: &str) -> HeaderValue {
    use base64::Engine;
    let plain = name.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) && !name.starts_with("=?") && name.trim() == name;
    if plain && let Ok(value) = HeaderValue::from_str(name) {
        return value;
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(name);
    HeaderValue::from_str(&format!("=?base64?{encoded}?=")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

async fn whole(mut body: Incoming) -> Result<Bytes, Broken> {
    let too_large = || Broken::Garbage(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
    if ANSWER_BYTES_MAX < usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Broken::Unreachable(format!("the answer broke off: {error}")))?;
        let Ok(bytes) = frame.into_data() else { continue };
        if first.is_empty() && rest.is_empty() {
            first = bytes;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        if ANSWER_BYTES_MAX < rest.len() + bytes.len() {
            return Err(too_large());
        }
        rest.extend_from_slice(&bytes);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_stream(headers: &HeaderMap) -> bool {
    media_type(headers) == "text/event-stream"
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The sentence of the innermost cause, which is the one that helps.
fn unreachable(error: &dyn std::error::Error) -> Broken {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        told = inner.to_string();
        cause = inner.source();
    }
    Broken::Unreachable(told)
}
