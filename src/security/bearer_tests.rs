//! Tokens, good and bad, at the moments at which they turn.

#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const RESOURCE: &str = "https://dag.example.org/mcp";
const ISSUER: &str = "https://id.example.org";

struct Issuer {
    ed25519: Ed25519KeyPair,
    p256: EcdsaKeyPair,
    rsa: RsaKeyPair,
    keys: KeySet,
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn issuer() -> Issuer {
    let ed25519 = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let point = p256.public_key().as_ref();
    let public = rsa.public_key();
    let document = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(ed25519.public_key().as_ref()) },
        { "kty": "EC", "crv": "P-256", "kid": "ec", "x": encode(&point[1..33]), "y": encode(&point[33..]) },
        { "kty": "RSA", "kid": "rsa", "n": encode(public.modulus().big_endian_without_leading_zero()),
          "e": encode(public.exponent().big_endian_without_leading_zero()) },
    ]});
    let keys = KeySet::parse(document.to_string().as_bytes()).unwrap();
    Issuer { ed25519, p256, rsa, keys }
}

impl Issuer {
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let bytes = message.as_bytes();
        let signature = match header["alg"].as_str().unwrap() {
            "ES256" => self.p256.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec(),
            "RS256" => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature).unwrap();
                signature
            }
            "none" => Vec::new(),
            _ => self.ed25519.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", encode(&signature))
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": RESOURCE, "sub": "alice", "client_id": "cli", "scope": "dag:write dag:read dag:read",
        "exp": NOW + 60, "nbf": NOW - 5,
    })
}

fn expected() -> Expected {
    Expected { resource: RESOURCE.to_owned(), issuers: vec![ISSUER.to_owned()], clock_skew_s: 30 }
}

fn check(token: &str, keys: &KeySet) -> Result<Principal, BearerError> {
    verify(token, &expected(), |_| Some(keys), NOW)
}

#[test]
fn s6_1_10_tokens_of_the_three_algorithms_name_their_principal() {
    let issuer = issuer();
    for (alg, kid) in [("EdDSA", "ed"), ("ES256", "ec"), ("RS256", "rsa")] {
        let token = issuer.sign(&json!({ "alg": alg, "kid": kid, "typ": "at+jwt" }), &claims());
        let principal = check(&token, &issuer.keys).unwrap();
        assert_eq!((&*principal.subject, principal.client.as_deref()), ("alice", Some("cli")), "{alg}");
        assert_eq!(principal.scopes.iter().map(|scope| &**scope).collect::<Vec<_>>(), ["dag:read", "dag:write"]);
        assert_eq!(principal.expires_s, NOW + 60 + 30);
        // Every bit of head, claims and signature counts.
        for at in [2, token.len() / 2, token.len() - 3] {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            assert!(check(std::str::from_utf8(&altered).unwrap(), &issuer.keys).is_err(), "{alg} at {at}");
        }
    }
}

#[test]
fn s6_1_10_other_algorithms_and_keys_of_another_kind_are_refused() {
    let issuer = issuer();
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    for (alg, kid, error) in [
        ("none", "ed", BearerError::Algorithm),
        ("None", "ed", BearerError::Algorithm),
        ("HS256", "rsa", BearerError::Algorithm),
        ("RS512", "rsa", BearerError::Algorithm),
        ("PS256", "rsa", BearerError::Algorithm),
        ("ES384", "ec", BearerError::Algorithm),
        ("EdDSA", "rsa", BearerError::Key { issuer: 0 }),
        ("RS256", "ec", BearerError::Key { issuer: 0 }),
        ("ES256", "ed", BearerError::Key { issuer: 0 }),
        ("EdDSA", "elsewhere", BearerError::Key { issuer: 0 }),
    ] {
        let token = issuer.sign(&header(alg, kid), &claims());
        assert_eq!(check(&token, &issuer.keys).unwrap_err(), error, "{alg} with {kid}");
    }
    // The public key as the secret of an HMAC is the oldest trick.
    let unsigned = issuer.sign(&header("none", "ed"), &claims());
    assert_eq!(check(unsigned.trim_end_matches('.'), &issuer.keys).unwrap_err(), BearerError::Malformed);
}

#[test]
fn s6_1_10_each_claim_is_checked_at_the_moment_it_turns() {
    let issuer = issuer();
    let check = |member: &str, value: Value, wanted: Result<(), BearerError>| {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(member)),
            value => claims[member] = value,
        }
        let token = issuer.sign(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims);
        let found = check(&token, &issuer.keys).map(|_| ());
        assert_eq!(found, wanted, "{member}: {claims}");
    };
    check("exp", json!(NOW - 29), Ok(()));
    check("exp", json!(NOW - 30), Err(BearerError::Expired));
    check("exp", Value::Null, Err(BearerError::Malformed));
    check("exp", json!("soon"), Err(BearerError::Malformed));
    check("nbf", json!(NOW + 30), Ok(()));
    check("nbf", json!(NOW + 31), Err(BearerError::NotYet));
    check("aud", json!(["https://other.example", RESOURCE]), Ok(()));
    check("aud", json!(format!("{RESOURCE}/")), Ok(()));
    check("aud", json!("https://dag.example.org"), Err(BearerError::Audience));
    check("aud", json!("https://other.example"), Err(BearerError::Audience));
    check("aud", json!([]), Err(BearerError::Audience));
    check("aud", Value::Null, Err(BearerError::Malformed));
    check("iss", json!(format!("{ISSUER}/")), Err(BearerError::Issuer));
    check("iss", json!("https://evil.example"), Err(BearerError::Issuer));
    check("cnf", json!({ "jkt": "x" }), Err(BearerError::Bound));
    check("sub", Value::Null, Ok(()));
    check("sub", json!(""), Err(BearerError::Malformed));
    check("scope", Value::Null, Ok(()));
    check("scp", json!(["a", "b"]), Ok(()));
}

#[test]
fn s6_1_10_heads_that_demand_more_are_refused() {
    let issuer = issuer();
    for (header, wanted) in [
        (json!({ "alg": "EdDSA", "kid": "ed", "crit": ["exp"] }), Err(BearerError::Critical)),
        (json!({ "alg": "EdDSA", "kid": "ed", "typ": "dpop+jwt" }), Err(BearerError::Critical)),
        (json!({ "alg": "EdDSA", "kid": "ed", "typ": "jwt" }), Ok(())),
        (json!({ "alg": "EdDSA" }), Ok(())),
    ] {
        let token = issuer.sign(&header, &claims());
        assert_eq!(check(&token, &issuer.keys).map(|_| ()), wanted, "{header}");
    }
    for token in ["", ".", "..", "a.b.c", "a.b.c.d", "e30.e30.", &"x".repeat(ACCESS_TOKEN_BYTES_MAX)] {
        assert_eq!(check(token, &issuer.keys).unwrap_err(), BearerError::Malformed, "{token:.20}");
    }
    let long = "x".repeat(ACCESS_TOKEN_BYTES_MAX + 1);
    assert_eq!(check(&long, &issuer.keys).unwrap_err(), BearerError::TooLarge);
    let token = issuer.sign(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims());
    assert_eq!(verify(&token, &expected(), |_| None, NOW).unwrap_err(), BearerError::KeysUnknown { issuer: 0 });
}

#[test]
fn s6_1_11_two_principals_have_two_keys() {
    assert_ne!(principal_key("https://a", "bc"), principal_key("https://ab", "c"));
    assert_eq!(principal_key("https://a", "b"), principal_key("https://a", "b"));
}
