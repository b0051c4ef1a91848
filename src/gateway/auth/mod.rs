//! Who asks: from a request's head to a verified principal.
//!
//! Promises: a token counts only in the Authorization header; one that was verified is remembered by its hash on this core, in
//! a bounded table, and never longer than it lasts or its issuer's keys stay the same. Verifying waits for an issuer only when
//! its keys may have changed. Does not: forward a token, or decide what its scopes permit (see `pipeline`).

pub mod challenge;
mod fetch;
pub mod issuers;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{AUTHORIZATION, HeaderMap};
use quick_cache::unsync::Cache;

use crate::config::gateway::Auth;
use crate::limits::VERIFIED_TOKENS_PER_CORE_MAX;
use crate::security::bearer::{BearerError, Expected, Principal, verify};
use issuers::{Issuers, Published};

/// What a request shows of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<'h> {
    /// Nothing.
    Nothing,
    /// A bearer token.
    Token(&'h str),
    /// Something that is not taken, and why.
    Wrong(&'static str),
}

/// What a request's head shows of who asks.
pub fn shown<'h>(headers: &'h HeaderMap, query: Option<&str>) -> Shown<'h> {
    // Addresses are kept in logs and histories, where no token may be.
    if query.is_some_and(|query| query.split('&').any(|piece| piece.starts_with("access_token="))) {
        return Shown::Wrong("a token must not be in the query: send it as Authorization: Bearer");
    }
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Shown::Nothing };
    if values.next().is_some() {
        return Shown::Wrong("more than one Authorization header");
    }
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Shown::Token(token.trim()),
        _ => Shown::Wrong("only Authorization: Bearer TOKEN is taken"),
    }
}

/// Authentication on one core.
pub struct Authentication {
    expected: Expected,
    issuers: Issuers,
    known: Rc<RefCell<Arc<Published>>>,
    verified: RefCell<Cache<[u8; 32], Verified>>,
}

#[derive(Clone)]
struct Verified {
    principal: Arc<Principal>,
    /// Of the keys it was verified with.
    version: u64,
}

impl Authentication {
    /// Authentication on this core, which follows the issuers' keys from now on.
    pub fn new(auth: &Auth, mut issuers: Issuers) -> Self {
        let known = Rc::new(RefCell::new(issuers.now()));
        let (mut follower, follows) = (issuers.clone(), Rc::downgrade(&known));
        crate::runtime::spawn(async move {
            while follower.changed().await {
                let Some(known) = follows.upgrade() else { return };
                let now = follower.now();
                known.replace(now);
            }
        });
        Self {
            expected: Expected {
                resource: auth.resource.clone(),
                issuers: auth.issuers.clone(),
                clock_skew_s: auth.clock_skew.as_secs(),
            },
            issuers,
            known,
            verified: RefCell::new(Cache::new(VERIFIED_TOKENS_PER_CORE_MAX)),
        }
    }

    /// The principal of a token that was verified before and still counts.
    pub fn remembered(&self, token: &str) -> Option<Arc<Principal>> {
        let verified = self.verified.borrow();
        let found = verified.get(blake3::hash(token.as_bytes()).as_bytes())?;
        let current = found.version == self.known.borrow().version;
        (current && now_s() < found.principal.expires_s).then(|| found.principal.clone())
    }

    /// Verifies a token, and remembers it.
    ///
    /// # Errors
    /// [`BearerError`].
    pub async fn verify(&self, token: &str) -> Result<Arc<Principal>, BearerError> {
        let mut known = self.known.borrow().clone();
        let mut outcome = self.verify_with(token, &known);
        let mut issuers = self.issuers.clone();
        // The keys may be here and this core not have seen it yet; otherwise the issuer may have new ones.
        for asks in [false, true] {
            let Err(BearerError::Key { issuer } | BearerError::KeysUnknown { issuer }) = outcome else { break };
            if asks {
                // Even when nothing new is expected: a fetch may have ended since we looked.
                issuers.refetched(issuer).await;
            }
            known = issuers.now();
            self.known.replace(known.clone());
            outcome = self.verify_with(token, &known);
        }
        let principal = Arc::new(outcome?);
        let verified = Verified { principal: principal.clone(), version: known.version };
        self.verified.borrow_mut().insert(*blake3::hash(token.as_bytes()).as_bytes(), verified);
        Ok(principal)
    }

    fn verify_with(&self, token: &str, known: &Published) -> Result<Principal, BearerError> {
        verify(token, &self.expected, |issuer| known.issuers[issuer].keys.as_deref(), now_s())
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn s6_1_9_a_token_counts_in_its_header_only() {
        let check = |values: &[&str], query: Option<&str>, wanted: Option<Option<&str>>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            let found = match shown(&headers, query) {
                Shown::Nothing => Some(None),
                Shown::Token(token) => Some(Some(token)),
                Shown::Wrong(_) => None,
            };
            assert_eq!(found, wanted, "{values:?} {query:?}");
        };
        check(&[], None, Some(None));
        check(&["Bearer a.b.c"], None, Some(Some("a.b.c")));
        check(&["bEARER a.b.c"], Some("limit=1"), Some(Some("a.b.c")));
        check(&["Bearer a.b.c"], Some("limit=1&access_token=x"), None);
        check(&[], Some("access_token=x"), None);
        check(&["Basic eA=="], None, None);
        check(&["Bearer"], None, None);
        check(&["Bearer a", "Bearer b"], None, None);
    }
}
