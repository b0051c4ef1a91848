//! Keys of issuers: which are used for what, and which are left out.

#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

/// A document with one Ed25519 key of that name, made from it.
pub(in crate::security) fn ed25519_document(name: &str) -> Vec<u8> {
    let pair = Ed25519KeyPair::from_seed_unchecked(blake3::hash(name.as_bytes()).as_bytes()).unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": name, "x": x }] }).to_string().into_bytes()
}

fn with(members: &[(&str, Value)]) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(&ed25519_document("a")).unwrap();
    for (name, value) in members {
        document["keys"][0][name] = value.clone();
    }
    document.to_string().into_bytes()
}

#[test]
fn s6_1_10_a_key_serves_its_own_algorithm_and_purpose_only() {
    let keys = KeySet::parse(&ed25519_document("a")).unwrap();
    assert!(keys.find(Some("a"), Algorithm::EdDsa).is_some());
    assert!(keys.find(Some("a"), Algorithm::Rs256).is_none());
    assert!(keys.find(Some("b"), Algorithm::EdDsa).is_none());
    assert!(keys.find(None, Algorithm::EdDsa).is_some(), "the only key of its kind needs no name");
    let check = |member: &str, value: Value, usable: bool| {
        let found = KeySet::parse(&with(&[(member, value.clone())]));
        assert_eq!(found.is_ok(), usable, "{member} = {value}");
    };
    check("use", json!("sig"), true);
    check("use", json!("enc"), false);
    check("alg", json!("EdDSA"), true);
    check("alg", json!("ES256"), false);
    check("alg", json!("HS256"), false);
    check("key_ops", json!(["verify"]), true);
    check("key_ops", json!(["encrypt"]), false);
    check("kty", json!("oct"), false);
    check("crv", json!("Ed448"), false);
    check("x", json!("!"), false);
}

#[test]
fn s6_1_10_keys_that_are_not_understood_do_not_hide_the_others() {
    let mut document: Value = serde_json::from_slice(&ed25519_document("a")).unwrap();
    let rows = document["keys"].as_array_mut().unwrap();
    rows.push(json!({ "kty": "AKP", "alg": "ML-DSA-65", "pub": "x" }));
    rows.push(json!(7));
    // An RSA key of 1024 bits.
    rows.push(json!({ "kty": "RSA", "kid": "short", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB" }));
    let keys = KeySet::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(keys.count(), 1);
    assert_eq!(KeySet::parse(b"{\"keys\":[]}").unwrap_err(), KeySetError::Empty);
    assert_eq!(KeySet::parse(b"[]").unwrap_err(), KeySetError::Malformed);
    let many = json!({ "keys": vec![document["keys"][0].clone(); ISSUER_KEYS_MAX + 1] }).to_string();
    assert_eq!(KeySet::parse(many.as_bytes()).unwrap_err(), KeySetError::TooLarge);
}

#[test]
fn s6_1_10_two_keys_of_a_kind_need_names() {
    let mut document: Value = serde_json::from_slice(&ed25519_document("a")).unwrap();
    let other: Value = serde_json::from_slice(&ed25519_document("b")).unwrap();
    document["keys"].as_array_mut().unwrap().push(other["keys"][0].clone());
    let keys = KeySet::parse(document.to_string().as_bytes()).unwrap();
    assert!(keys.find(None, Algorithm::EdDsa).is_none());
    assert!(keys.find(Some("b"), Algorithm::EdDsa).is_some());
}
