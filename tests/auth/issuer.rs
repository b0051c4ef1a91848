//! An issuer of access tokens in the test's own process: discovery, keys, and whatever token a scene wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// What the nodes of these tests are called.
pub(crate) const RESOURCE: &str = "https://dag.example.org/mcp";

/// A running issuer.
pub(crate) struct Issuer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    keys: Vec<String>,
    answers: bool,
    fetches: usize,
    refused: usize,
}

impl Issuer {
    /// An issuer with one key, `a`.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { keys: vec!["a".to_owned()], answers: true, fetches: 0, refused: 0 }));
        let shared = state.clone();
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, address, &shared);
            }
        });
        Self { address, state }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        name(self.address)
    }

    /// From now on it answers, or closes every connection.
    pub(crate) fn answers(&self, answers: bool) {
        self.state.lock().unwrap().answers = answers;
    }

    /// Has these keys only.
    pub(crate) fn has_keys(&self, keys: &[&str]) {
        self.state.lock().unwrap().keys = keys.iter().map(|&key| key.to_owned()).collect();
    }

    /// How often its keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.state.lock().unwrap().fetches
    }

    /// How often it closed a connection without an answer.
    pub(crate) fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// What a token of it says when nothing else is asked for.
    pub(crate) fn claims(&self, scope: &str) -> Value {
        json!({ "iss": self.name(), "aud": RESOURCE, "sub": "alice", "exp": now_s() + 600, "scope": scope })
    }

    /// A good token.
    pub(crate) fn token(&self, scope: &str) -> String {
        sign(&json!({ "alg": "EdDSA", "kid": "a", "typ": "at+jwt" }), &self.claims(scope))
    }

    /// A token with one claim changed.
    pub(crate) fn token_with(&self, claim: &str, value: Value) -> String {
        let mut claims = self.claims("dag:read dag:write admin");
        claims[claim] = value;
        sign(&json!({ "alg": "EdDSA", "kid": "a" }), &claims)
    }
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn name(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn pair(key: &str) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(blake3::hash(key.as_bytes()).as_bytes()).unwrap()
}

/// A token signed with the key that its head names.
pub(crate) fn sign(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = pair(header["kid"].as_str().unwrap()).sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn serve(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else { return };
    // A head ends with an empty line.
    for line in lines.map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
    }
    let mut state = state.lock().unwrap();
    if !state.answers {
        state.refused += 1;
        return;
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match path {
        "/.well-known/openid-configuration" => {
            ("200 OK", json!({ "issuer": name(address), "jwks_uri": format!("{}/keys", name(address)) }))
        }
        "/keys" => {
            state.fetches += 1;
            let keys = state.keys.iter().map(|key| {
                let x = URL_SAFE_NO_PAD.encode(pair(key).public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key, "x": x })
            });
            ("200 OK", json!({ "keys": keys.collect::<Vec<_>>() }))
        }
        _ => ("404 Not Found", Value::Null),
    };
    let body = body.to_string();
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    // A client that is gone does not mind.
    let _ = stream.write_all(answer.as_bytes());
}
