//! What an operator carries from a cluster to a machine that is to join it.
//!
//! Promises: one word that survives copying, pasting, line ends and a change of case; a typo is told as a typo before
//! anything is sent; the secret is in no message of ours, and the issuer keeps only a hash of it.
//! Does not: expire, count uses, or say what the joiner becomes. The issuer keeps that beside the record.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD_NOCASE;
use qmesh_net::identity::Fingerprint;

/// What every token of this version begins with.
const PREFIX: &str = "qmj1-";
/// What every token of any version begins with.
const FAMILY: &str = "qmj";
const ID_BYTES: usize = 16;
const SECRET_BYTES: usize = 16;
const CHECK_BYTES: usize = 4;
const BODY_BYTES: usize = 32 + ID_BYTES + SECRET_BYTES;
/// Characters behind the prefix: five bits each.
const TEXT_CHARACTERS: usize = ((BODY_BYTES + CHECK_BYTES) * 8).div_ceil(5);

const CHECK_CONTEXT: &str = "qmesh 2026 join token: checksum of its text";
const SECRET_CONTEXT: &str = "qmesh 2026 join token: what the issuer keeps of the secret";

/// Names a token; no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; ID_BYTES]);

/// Shown in hexadecimal.
impl fmt::Display for TokenId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Proves that a joiner was given the token. Never printed but in the token itself.
#[derive(Clone, Copy)]
pub struct Secret(pub(super) [u8; SECRET_BYTES]);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// A token: whom the joiner is to believe, and by what it is believed.
#[derive(Clone, Copy, Debug)]
pub struct JoinToken {
    /// The authority of the cluster.
    pub authority: Fingerprint,
    /// Its name at the issuer.
    pub id: TokenId,
    /// Its secret.
    pub secret: Secret,
}

/// What the issuer keeps of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its name.
    pub id: TokenId,
    /// A hash of name and secret. The secret has 128 random bits, so a fast hash is enough.
    pub secret_hash: [u8; 32],
}

impl JoinToken {
    /// A new token for the cluster of this authority.
    ///
    /// # Errors
    /// [`TokenError::NoRandomness`] when the operating system gives no random bytes.
    pub fn generate(authority: Fingerprint) -> Result<Self, TokenError> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        for part in [&mut id[..], &mut secret[..]] {
            aws_lc_rs::rand::fill(part).map_err(|_| TokenError::NoRandomness)?;
        }
        Ok(Self { authority, id: TokenId(id), secret: Secret(secret) })
    }

    /// What to keep of it.
    pub fn record(&self) -> TokenRecord {
        TokenRecord { id: self.id, secret_hash: *secret_hash(self.id, self.secret).as_bytes() }
    }

    /// The token as one word. It holds the secret: for the operator's eyes, not for a log.
    pub fn reveal(&self) -> String {
        let body = [&self.authority.0[..], &self.id.0, &self.secret.0].concat();
        let whole = [&body[..], &check_bytes(&body)].concat();
        format!("{PREFIX}{}", BASE32_NOPAD_NOCASE.encode(&whole).to_ascii_lowercase())
    }
}

impl TokenRecord {
    /// Whether the secret is the token's. Takes as long for a wrong one as for the right one.
    pub fn matches(&self, secret: Secret) -> bool {
        secret_hash(self.id, secret) == self.secret_hash
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        // A terminal that wraps a long word puts line ends and spaces into the copy.
        let text: String = text.split_whitespace().collect::<String>().to_ascii_lowercase();
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| if text.starts_with(FAMILY) { TokenError::Version } else { TokenError::NotAToken })?;
        if body.chars().count() != TEXT_CHARACTERS {
            return Err(TokenError::Length { characters: body.chars().count() });
        }
        let whole = BASE32_NOPAD_NOCASE.decode(body.as_bytes()).map_err(|_| TokenError::Typo)?;
        let (body, check) = whole.split_at_checked(BODY_BYTES).ok_or(TokenError::Typo)?;
        if check != check_bytes(body) {
            return Err(TokenError::Typo);
        }
        let part = |from: usize| body[from..].first_chunk().copied().ok_or(TokenError::Typo);
        let authority = body.first_chunk().copied().ok_or(TokenError::Typo)?;
        Ok(Self { authority: Fingerprint(authority), id: TokenId(part(32)?), secret: Secret(part(32 + ID_BYTES)?) })
    }
}

fn secret_hash(id: TokenId, secret: Secret) -> blake3::Hash {
    blake3::Hasher::new_derive_key(SECRET_CONTEXT).update(&id.0).update(&secret.0).finalize()
}

fn check_bytes(body: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::derive_key(CHECK_CONTEXT, body);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Why a text is no token. Never holds a part of the text, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else altogether.
    #[error("this is no join token; one begins with {PREFIX} and is created on a control node")]
    NotAToken,
    /// Of another version.
    #[error("the join token is of another version than {PREFIX}…; create it with the same version of qmesh that joins")]
    Version,
    /// Cut off, or with something else behind it.
    #[error("the join token has {characters} characters behind {PREFIX} and needs {TEXT_CHARACTERS}; copy it whole")]
    Length {
        /// How many there are.
        characters: usize,
    },
    /// A wrong character, or two that have changed places.
    #[error("the join token has a typo in it; copy it again from where it was created")]
    Typo,
    /// The operating system gives none.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken { authority: Fingerprint([7; 32]), id: TokenId([8; 16]), secret: Secret([9; 16]) }
    }

    fn same(left: &JoinToken, right: &JoinToken) -> bool {
        (left.authority, left.id, left.secret.0) == (right.authority, right.id, right.secret.0)
    }

    #[test]
    fn s6_1_4_a_token_survives_what_people_do_to_it() {
        let text = token().reveal();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{text}");
        assert_eq!(text.len(), PREFIX.len() + TEXT_CHARACTERS);
        let (first, second) = text.split_at(60);
        for copied in [text.clone(), text.to_uppercase(), format!("  {text}\r\n"), format!("{first}\n  {second}")] {
            assert!(same(&copied.parse().unwrap(), &token()), "{copied:?}");
        }
    }

    #[test]
    fn s6_1_4_what_is_no_token_is_told_apart_from_a_typo() {
        fn check(text: &str, expected: TokenError) {
            assert_eq!(text.parse::<JoinToken>().err(), Some(expected), "{text:?}");
        }
        let text = token().reveal();
        check("", TokenError::NotAToken);
        check("hello", TokenError::NotAToken);
        check("qmj2-aaaa", TokenError::Version);
        check("qmj1", TokenError::Version);
        check("qmj1-", TokenError::Length { characters: 0 });
        check(&text[..text.len() - 1], TokenError::Length { characters: TEXT_CHARACTERS - 1 });
        check(&format!("{text}a"), TokenError::Length { characters: TEXT_CHARACTERS + 1 });
        check(
            &text.replacen(|letter: char| letter.is_ascii_digit(), "1", usize::MAX).replace("qmj1-", ""),
            TokenError::NotAToken,
        );
        check(&format!("qmj1-{}", "1".repeat(TEXT_CHARACTERS)), TokenError::Typo);
        check(&format!("qmj1-{}", "ü".repeat(TEXT_CHARACTERS)), TokenError::Typo);
    }

    #[test]
    fn s6_1_4_each_changed_or_swapped_character_is_found() {
        let token = JoinToken::generate(Fingerprint([3; 32])).unwrap();
        let text = token.reveal();
        for at in PREFIX.len()..text.len() {
            let mut changed: Vec<char> = text.chars().collect();
            changed[at] = if changed[at] == 'a' { 'b' } else { 'a' };
            let changed: String = changed.into_iter().collect();
            assert_eq!(changed.parse::<JoinToken>().err(), Some(TokenError::Typo), "character {at}");
            let mut swapped: Vec<char> = text.chars().collect();
            if at + 1 < swapped.len() && swapped[at] != swapped[at + 1] {
                swapped.swap(at, at + 1);
                let swapped: String = swapped.into_iter().collect();
                assert_eq!(swapped.parse::<JoinToken>().err(), Some(TokenError::Typo), "characters {at} and the next");
            }
        }
    }

    #[test]
    fn s6_1_4_the_issuer_knows_a_secret_by_its_hash_and_nobody_prints_it() {
        let (first, second) =
            (JoinToken::generate(Fingerprint([3; 32])).unwrap(), JoinToken::generate(Fingerprint([3; 32])).unwrap());
        assert!(first.record().matches(first.secret));
        assert!(!first.record().matches(second.secret));
        let other_name = TokenRecord { id: second.id, ..first.record() };
        assert!(!other_name.matches(first.secret), "the hash belongs to the name");
        assert!(!first.record().secret_hash.windows(16).any(|window| window == first.secret.0));
        assert!(format!("{:?}", token()).contains("Secret(…)"));
        assert!(!format!("{:?}", token()).contains("9, 9"));
    }

    proptest! {
        #[test]
        fn s6_1_4_any_text_is_a_token_or_an_error(text in ".{0,200}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("{PREFIX}{text}").parse::<JoinToken>();
        }
    }
}
