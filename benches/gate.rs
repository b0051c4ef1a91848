//! What the pipeline costs a request: a token seen for the first time, a token remembered, a caller's rate.
//!
//! Limit, first sight: the signature's own check, the benches "gate/first/… alone" with the same library and message; the rest is
//! Base64 and JSON of some hundred bytes. Limit, remembered: one BLAKE3 of the token, the bench "gate/remembered/hash alone", and a
//! look-up. Limit, rate: reading the clock and one compare-and-swap. Aims: 60 us at first sight, 1 us remembered.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use qmesh::config::Gateway;
use qmesh::gateway::gate::{Gate, prepare};
use qmesh::gateway::rate::Key;
use qmesh::security::bearer::{Expected, verify};
use qmesh::security::keys::KeySet;
use serde_json::{Value, json};

#[allow(dead_code, clippy::unwrap_used, reason = "an issuer of the tests, of which the bench asks little")]
#[path = "../tests/auth/issuer.rs"]
mod issuer;
use issuer::{Issuer, RESOURCE, now_s};

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A way of signing: its name, its public key as a JWK, what signs, and how it is checked alone.
struct Way {
    name: &'static str,
    key: Value,
    signature: Sign,
    public: Vec<u8>,
    check: &'static dyn VerificationAlgorithm,
}

fn ways() -> [Way; 3] {
    let ed = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let point = ec.public_key().as_ref().to_vec();
    let (modulus, exponent) = {
        let public = rsa.public_key();
        (
            public.modulus().big_endian_without_leading_zero().to_vec(),
            public.exponent().big_endian_without_leading_zero().to_vec(),
        )
    };
    [
        Way {
            name: "EdDSA",
            key: json!({ "kty": "OKP", "crv": "Ed25519", "kid": "EdDSA", "x": encode(ed.public_key().as_ref()) }),
            public: ed.public_key().as_ref().to_vec(),
            signature: Box::new(move |message| ed.sign(message).as_ref().to_vec()),
            check: &ED25519,
        },
        Way {
            name: "ES256",
            key: json!({ "kty": "EC", "crv": "P-256", "kid": "ES256", "x": encode(&point[1..33]), "y": encode(&point[33..]) }),
            public: point,
            signature: Box::new(move |message| {
                ec.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
            }),
            check: &ECDSA_P256_SHA256_FIXED,
        },
        Way {
            name: "RS256",
            key: json!({ "kty": "RSA", "kid": "RS256", "n": encode(&modulus), "e": encode(&exponent) }),
            public: rsa.public_key().as_ref().to_vec(),
            signature: Box::new(move |message| {
                let mut signature = vec![0; rsa.public_modulus_len()];
                rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("a signature");
                signature
            }),
            check: &RSA_PKCS1_2048_8192_SHA256,
        },
    ]
}

fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "aud": RESOURCE, "sub": "0b4d2e8a-6f0e-4a52-9e63-6f3d1e2c9a77", "client_id": "a-program-with-a-name",
        "scope": "dag:read dag:write mcp:call", "iat": now_s(), "exp": now_s() + 600, "jti": "8RZ1c2Kq7GmXo4dYt0sLwU",
    })
}

fn first_sight(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gate/first");
    for way in ways() {
        let keys = KeySet::parse(json!({ "keys": [way.key] }).to_string().as_bytes()).expect("keys");
        let header = json!({ "alg": way.name, "kid": way.name, "typ": "at+jwt" });
        let message = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims("https://id").to_string().as_bytes())
        );
        let signature = (way.signature)(message.as_bytes());
        let token = format!("{message}.{}", encode(&signature));
        let expected =
            Expected { resource: RESOURCE.to_owned(), issuers: vec!["https://id".to_owned()], clock_skew_s: 30 };
        let public = UnparsedPublicKey::new(way.check, way.public);
        group.bench_function(format!("{} alone", way.name), |bencher| {
            bencher.iter(|| public.verify(black_box(message.as_bytes()), black_box(&signature)).expect("it verifies"));
        });
        group.bench_function(way.name, |bencher| {
            let now = now_s();
            bencher.iter(|| verify(black_box(&token), &expected, |_| Some(&keys), now).expect("it counts"));
        });
    }
}

fn remembered(criterion: &mut Criterion) {
    let issuer = Issuer::start();
    let text = format!(
        "[auth]\nresource = {RESOURCE:?}\nissuers = [{:?}]\n[limits]\nrequests_per_second = 10000000\nburst = 10000000\n",
        issuer.name()
    );
    let gateway = Gateway::parse("bench", &text).expect("a gateway file");
    let mut token = claims(&issuer.name());
    token["exp"] = json!(now_s() + 3600);
    let token = issuer::sign(&json!({ "alg": "EdDSA", "kid": "a", "typ": "at+jwt" }), &token);
    let (gate, key) = qmesh::runtime::run_plain(async {
        let (blueprint, drivers) = prepare(gateway).expect("authorities");
        qmesh::runtime::spawn(drivers.run());
        let gate = Gate::new(blueprint);
        let identity = gate.identity.as_ref().expect("it takes tokens");
        let principal = identity.authentication.verify(&token).await.expect("it counts");
        let key = Key::principal(principal.key);
        gate.limits.charge(key).await;
        (gate, key)
    })
    .expect("an event loop");
    let mut group = criterion.benchmark_group("gate/remembered");
    group.bench_function(format!("hash alone, {} B", token.len()), |bencher| {
        bencher.iter(|| blake3::hash(black_box(token.as_bytes())));
    });
    let authentication = &gate.identity.as_ref().expect("it takes tokens").authentication;
    group.bench_function("token", |bencher| {
        bencher.iter(|| authentication.remembered(black_box(&token)).expect("it is remembered"));
    });
    group.finish();
    let mut group = criterion.benchmark_group("gate/rate");
    group.bench_function("clock alone", |bencher| bencher.iter(|| black_box(Instant::now())));
    group.bench_function("charge", |bencher| {
        bencher.iter(|| gate.limits.charge(black_box(key)).now_or_never().expect("the bucket is at hand"));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = first_sight, remembered
}
criterion_main!(benches);
