//! The issuers' keys: fetched by one core, read by all.
//!
//! Promises: off the path of requests; one fetch at a time for each issuer, whoever asks and how many; what was learned is
//! published to every core at once, and never in parts. Does not: decide when to fetch ([`Keyring`] does), or verify anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use qmesh_net::tls::TlsError;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::fetch::{FetchError, Fetcher};
use crate::config::gateway::Auth;
use crate::limits::ISSUER_WAIT_MS;
use crate::security::keyring::Keyring;
use crate::security::keys::{KeySet, KeySetError};

/// Cores that ask for one issuer's keys before its driver has looked. One is enough: the others wait for the same fetch.
const ASKS_MAX: usize = 1;

/// What is known of all issuers.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Grows whenever any issuer's keys differ: what was verified under another number is verified again.
    pub version: u64,
    /// By the issuers' places in the configuration.
    pub issuers: Vec<Issuer>,
}

/// What is known of one issuer.
#[derive(Clone, Debug, Default)]
pub struct Issuer {
    /// Its keys, while they are believed.
    pub keys: Option<Arc<KeySet>>,
    /// Fetches that ended, one way or the other.
    fetches: u64,
    /// When the last one did.
    fetched_at: Option<Instant>,
}

/// A core's view of the issuers.
#[derive(Clone)]
pub struct Issuers {
    published: watch::Receiver<Arc<Published>>,
    asks: Arc<[mpsc::Sender<()>]>,
    refetch: Duration,
}

impl Issuers {
    /// What is known now.
    pub fn now(&mut self) -> Arc<Published> {
        self.published.borrow_and_update().clone()
    }

    /// Waits for a change; false when there will be none.
    pub async fn changed(&mut self) -> bool {
        self.published.changed().await.is_ok()
    }

    /// Has an issuer asked for a key that is not here, and waits a bounded while for its answer; not when it was asked lately, so that
    /// nothing newer than what is known can be expected.
    pub async fn refetched(&mut self, issuer: usize) {
        let known = self.now();
        let Some(before) = known.issuers.get(issuer) else { return };
        if before.fetched_at.is_some_and(|fetched| fetched.elapsed() < self.refetch) {
            return;
        }
        // Full means that it is asked for already.
        let _ = self.asks[issuer].try_send(());
        let answered = self.published.wait_for(|now| now.issuers[issuer].fetches != before.fetches);
        // Whoever asked looks again, whatever came of it.
        let _ = timeout(Duration::from_millis(ISSUER_WAIT_MS), answered).await;
    }
}

/// Fetches. One core runs it.
pub struct Driver {
    fetcher: Fetcher,
    issuers: Vec<(String, Keyring, mpsc::Receiver<()>)>,
    publish: watch::Sender<Arc<Published>>,
}

/// The issuers of a configuration: what each core has, and what one core runs.
///
/// # Errors
/// TLS, when the authorities cannot be read.
pub fn issuers(auth: &Auth) -> Result<(Issuers, Driver), TlsError> {
    let now = Instant::now();
    let (asks, rings): (Vec<_>, Vec<_>) = auth
        .issuers
        .iter()
        .map(|issuer| {
            let (ask, asked) = mpsc::channel(ASKS_MAX);
            (ask, (issuer.clone(), Keyring::new(now, auth.jwks_stale, auth.jwks_refetch), asked))
        })
        .unzip();
    let nothing = Published { version: 0, issuers: vec![Issuer::default(); rings.len()] };
    let (publish, published) = watch::channel(Arc::new(nothing));
    let driver = Driver { fetcher: Fetcher::new(auth.ca.clone())?, issuers: rings, publish };
    Ok((Issuers { published, asks: asks.into(), refetch: auth.jwks_refetch }, driver))
}

impl Driver {
    /// Fetches until the core ends.
    pub async fn run(self) {
        let Self { fetcher, issuers, publish } = self;
        let keep = |(place, (issuer, ring, asked))| keep(place, issuer, ring, asked, &fetcher, &publish);
        join_all(issuers.into_iter().enumerate().map(keep)).await;
    }
}

async fn keep(
    place: usize,
    issuer: String,
    mut ring: Keyring,
    mut asked: mpsc::Receiver<()>,
    fetcher: &Fetcher,
    publish: &watch::Sender<Arc<Published>>,
) {
    loop {
        let due = ring.expire(Instant::now());
        if due {
            let fetched = fetch(fetcher, &issuer).await;
            let now = Instant::now();
            match fetched {
                Ok(keys) => {
                    tracing::debug!(issuer, keys = keys.count(), "keys of an issuer");
                    ring.heard(now, keys);
                }
                Err(error) => {
                    tracing::warn!(issuer, %error, believed = ring.keys().is_some(), "an issuer gives no keys");
                    ring.failed(now);
                }
            }
        }
        publish.send_modify(|published| {
            let published = Arc::make_mut(published);
            let known = &mut published.issuers[place];
            known.fetches += u64::from(due);
            known.fetched_at = if due { Some(Instant::now()) } else { known.fetched_at };
            if known.keys.as_ref() != ring.keys() {
                known.keys = ring.keys().cloned();
                published.version += 1;
            }
        });
        tokio::select! {
            () = sleep_until(ring.deadline().into()) => {}
            ask = asked.recv() => match ask {
                Some(()) => drop(ring.miss(Instant::now())),
                None => return,
            },
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum IssuerError {
    #[error("{uri}: {error}")]
    Fetch { uri: String, error: FetchError },
    #[error("{uri}: not a discovery document with issuer and jwks_uri")]
    Discovery { uri: String },
    #[error("{uri}: describes the issuer {found:?}")]
    Other { uri: String, found: String },
    #[error("{uri}: {error}")]
    Keys { uri: String, error: KeySetError },
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Asks an issuer where its keys are, and for them. It is asked both each time, so that it may move them.
async fn fetch(fetcher: &Fetcher, issuer: &str) -> Result<KeySet, IssuerError> {
    let get =
        async |uri: &str| fetcher.get(uri).await.map_err(|error| IssuerError::Fetch { uri: uri.to_owned(), error });
    let (openid, oauth) = places(issuer);
    let (uri, document) = match get(&openid).await {
        Ok(document) => (openid, document),
        // Not every authorisation server speaks OpenID Connect.
        Err(IssuerError::Fetch { error: FetchError::Status(_), .. }) => {
            let document = get(&oauth).await?;
            (oauth, document)
        }
        Err(error) => return Err(error),
    };
    let Ok(discovery) = serde_json::from_slice::<Discovery>(&document) else {
        return Err(IssuerError::Discovery { uri });
    };
    if discovery.issuer != issuer {
        return Err(IssuerError::Other { uri, found: discovery.issuer });
    }
    let document = get(&discovery.jwks_uri).await?;
    KeySet::parse(&document).map_err(|error| IssuerError::Keys { uri: discovery.jwks_uri, error })
}

/// Where an issuer describes itself: OpenID Connect Discovery appends to its path, RFC 8414 inserts before it.
fn places(issuer: &str) -> (String, String) {
    let bare = issuer.strip_suffix('/').unwrap_or(issuer);
    let openid = format!("{bare}/.well-known/openid-configuration");
    let path_at = bare.find("://").and_then(|at| bare[at + 3..].find('/').map(|slash| at + 3 + slash));
    let (origin, path) = bare.split_at(path_at.unwrap_or(bare.len()));
    (openid, format!("{origin}/.well-known/oauth-authorization-server{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_1_9_an_issuer_describes_itself_where_the_standards_say() {
        for (issuer, openid, oauth) in [
            (
                "https://a.example",
                "https://a.example/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server",
            ),
            (
                "https://a.example/realms/x/",
                "https://a.example/realms/x/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server/realms/x",
            ),
        ] {
            assert_eq!(places(issuer), (openid.to_owned(), oauth.to_owned()));
        }
    }
}
