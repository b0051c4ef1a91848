//! Access tokens that an issuer signed: what they must say, and whom they name.
//!
//! Promises: pure, the caller brings the time; EdDSA, ES256 and RS256 only, each with a key of its own kind; whatever is not
//! known to be harmless is refused: another type of token, critical extensions, tokens bound to a key that nobody showed.
//! A token says nothing to us before its signature was checked, but which issuer's keys to try.
//! Does not: fetch keys (see [`super::keyring`] for when), or decide what a scope permits.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::keys::{Algorithm, KeySet};
use crate::limits::ACCESS_TOKEN_BYTES_MAX;

/// Who asks, as a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who says so.
    pub issuer: Box<str>,
    /// Who it is at that issuer; of a client without a user, the client.
    pub subject: Box<str>,
    /// The program that asks, where the issuer tells.
    pub client: Option<Box<str>>,
    /// What it may do, in the issuer's words.
    pub scopes: Box<[Box<str>]>,
    /// When the token ends, the permitted difference of clocks included, in seconds since 1970.
    pub expires_s: u64,
    /// Issuer and subject as one number, for tables.
    pub key: u128,
}

/// What a token must say here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The audience: this node.
    pub resource: String,
    /// Whose tokens are taken.
    pub issuers: Vec<String>,
    /// How far clocks may differ, in seconds.
    pub clock_skew_s: u64,
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// Longer than any.
    #[error("the token is longer than {ACCESS_TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    /// Not a signed token of the compact form, or a claim is missing or of the wrong form.
    #[error("this is not an access token of the form that this node takes, a signed JWT with iss, aud and exp")]
    Malformed,
    /// Unsigned, or signed in a way that is not taken.
    #[error("the token is not signed with EdDSA, ES256 or RS256")]
    Algorithm,
    /// It demands what this node does not do.
    #[error("the token has critical extensions, or is of another type than an access token")]
    Critical,
    /// Nobody we know.
    #[error("the token's issuer is not one that this node takes")]
    Issuer,
    /// None of the issuer's keys is the one.
    #[error("the issuer has no such key")]
    Key {
        /// Which issuer, by its place in the list.
        issuer: usize,
    },
    /// The issuer's keys are not known, since it could not be asked.
    #[error("the issuer's keys are not known: it could not be asked lately")]
    KeysUnknown {
        /// Which issuer, by its place in the list.
        issuer: usize,
    },
    /// Altered, or signed by somebody else.
    #[error("the signature does not verify")]
    Signature,
    /// Meant for somebody else.
    #[error("the token is for another audience than this node")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// Good only together with a key, which was not shown.
    #[error("the token is bound to a key (cnf), and this node takes bearer tokens only")]
    Bound,
}

impl BearerError {
    /// Every word, in the order of metrics.
    pub const CODES: [&'static str; 12] = [
        "too_large",
        "malformed",
        "algorithm",
        "critical",
        "issuer",
        "key",
        "keys_unknown",
        "signature",
        "audience",
        "expired",
        "not_yet",
        "bound",
    ];

    /// The stable word for it.
    pub fn code(self) -> &'static str {
        Self::CODES[match self {
            Self::TooLarge => 0,
            Self::Malformed => 1,
            Self::Algorithm => 2,
            Self::Critical => 3,
            Self::Issuer => 4,
            Self::Key { .. } => 5,
            Self::KeysUnknown { .. } => 6,
            Self::Signature => 7,
            Self::Audience => 8,
            Self::Expired => 9,
            Self::NotYet => 10,
            Self::Bound => 11,
        }]
    }
}

/// Verifies a token at `now_s`, in seconds since 1970; `keys` has those of each issuer.
///
/// # Errors
/// [`BearerError`].
pub fn verify<'k>(
    token: &str,
    expected: &Expected,
    keys: impl FnOnce(usize) -> Option<&'k KeySet>,
    now_s: u64,
) -> Result<Principal, BearerError> {
    if ACCESS_TOKEN_BYTES_MAX < token.len() {
        return Err(BearerError::TooLarge);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(BearerError::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(BearerError::Malformed)?;
    let header: Header = part(header)?;
    let algorithm = Algorithm::named(&header.alg).ok_or(BearerError::Algorithm)?;
    if header.crit.is_some() || header.typ.is_some_and(|typ| !is_access_token(&typ)) {
        return Err(BearerError::Critical);
    }
    let claims: Claims = part(claims)?;
    let issuer = expected.issuers.iter().position(|known| *known == claims.iss).ok_or(BearerError::Issuer)?;
    let keys = keys(issuer).ok_or(BearerError::KeysUnknown { issuer })?;
    let key = keys.find(header.kid.as_deref(), algorithm).ok_or(BearerError::Key { issuer })?;
    let verified = crypto::verify(signature, message.as_bytes(), key, algorithm.into());
    if !verified.unwrap_or(false) {
        return Err(BearerError::Signature);
    }
    claims.principal(expected, now_s)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<IgnoredAny>,
}

/// RFC 9068 names the type; many issuers write the one of any JWT, or none.
fn is_access_token(typ: &str) -> bool {
    ["JWT", "at+jwt", "application/at+jwt"].iter().any(|known| known.eq_ignore_ascii_case(typ))
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Words,
    exp: f64,
    nbf: Option<f64>,
    sub: Option<String>,
    client_id: Option<String>,
    azp: Option<String>,
    scope: Option<Words>,
    scp: Option<Words>,
    cnf: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn all(&self) -> &[String] {
        match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }
}

impl Claims {
    fn principal(self, expected: &Expected, now_s: u64) -> Result<Principal, BearerError> {
        // The canonical URI has no slash at its end, but some clients ask for a token with one.
        let bare = |text: &str| text.strip_suffix('/').unwrap_or(text).to_owned();
        let resource = bare(&expected.resource);
        if !self.aud.all().iter().any(|audience| bare(audience) == resource) {
            return Err(BearerError::Audience);
        }
        if self.cnf.is_some() {
            return Err(BearerError::Bound);
        }
        let (now, skew) = (now_s as f64, expected.clock_skew_s as f64);
        // Written so that what is not a number fails too.
        let running = now < self.exp + skew;
        if !running {
            return Err(BearerError::Expired);
        }
        if self.nbf.is_some_and(|from| now + skew < from) {
            return Err(BearerError::NotYet);
        }
        let client = self.client_id.or(self.azp);
        let subject = self.sub.or_else(|| client.clone()).filter(|subject| !subject.is_empty());
        let subject = subject.ok_or(BearerError::Malformed)?;
        let words = [self.scope, self.scp];
        let words = words.iter().flatten().flat_map(Words::all).flat_map(|words| words.split_ascii_whitespace());
        let mut scopes: Vec<Box<str>> = words.map(Box::from).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Ok(Principal {
            key: principal_key(&self.iss, &subject),
            issuer: self.iss.into(),
            subject: subject.into(),
            client: client.map(Into::into),
            scopes: scopes.into(),
            expires_s: (self.exp + skew) as u64,
        })
    }
}

/// Issuer and subject as one number; the length between them keeps two pairs from being one.
fn principal_key(issuer: &str, subject: &str) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(issuer.len() as u64).to_le_bytes()).update(issuer.as_bytes()).update(subject.as_bytes());
    let mut key = [0; 16];
    hasher.finalize_xof().fill(&mut key);
    u128::from_le_bytes(key)
}

fn part<T: DeserializeOwned>(text: &str) -> Result<T, BearerError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BearerError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| BearerError::Malformed)
}

#[cfg(test)]
#[path = "bearer_tests.rs"]
mod tests;
