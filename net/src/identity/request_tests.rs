//! Scenes with signing requests, modest and greedy.
//!
//! Promises: whatever a request wishes for, the certificate says what the authority decided; a greedy request is told so.
//! Does not: send them anywhere.

#![expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ED25519, SanType};

use super::*;
use crate::identity::{Authority, LEAF_LIFE, Names, NodeIdentity, Role, Roles};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path(), now()).unwrap();
    (folder, authority)
}

fn names(roles: Roles) -> Names {
    let identity = NodeIdentity::new("qmesh.local", "eu", "n9", 9, roles).unwrap();
    Names { dns: Vec::new(), addresses: Vec::new(), identity }
}

#[test]
fn s6_1_2_a_request_is_signed_for_the_names_that_the_authority_chose() {
    let (_folder, authority) = authority();
    let roles = Roles::of(&[Role::Worker]);
    let request = SigningRequest::new().unwrap();
    let issued = authority.sign_request(request.der(), &names(roles), LEAF_LIFE, now()).unwrap();
    assert_eq!(issued.expires, now() + LEAF_LIFE);
    let leaf = request.into_leaf(issued.chain).unwrap();
    let peer = leaf.identity().unwrap();
    assert_eq!(peer.identity, names(roles).identity);
    assert_eq!(peer.serial, issued.serial);
    assert_eq!(leaf.chain[1], *authority.certificate());
    // The same request again: another serial number.
    let request = SigningRequest::new().unwrap();
    let first = authority.sign_request(request.der(), &names(roles), LEAF_LIFE, now()).unwrap();
    let second = authority.sign_request(request.der(), &names(roles), LEAF_LIFE, now()).unwrap();
    assert_ne!(first.serial, second.serial);
    // Somebody else's answer does not fit the key.
    let refused = SigningRequest::new().unwrap().into_leaf(second.chain);
    assert!(matches!(refused, Err(RequestError::OtherKey)), "{refused:?}");
    let refused = SigningRequest::new().unwrap().into_leaf(Vec::new());
    assert!(matches!(refused, Err(RequestError::NoCertificate)), "{refused:?}");
    let refused = authority.sign_request(request.der(), &names(Roles::NONE), LEAF_LIFE, now());
    assert!(matches!(refused, Err(RequestError::Identity(IdentityError::NoRole))), "{refused:?}");
}

#[test]
fn s6_1_4_a_request_that_wishes_for_more_than_a_key_is_refused() {
    fn check(change: impl FnOnce(&mut CertificateParams), expected: &str) {
        let (_folder, authority) = authority();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        change(&mut parameters);
        let request = parameters.serialize_request(&key).unwrap();
        let refused = authority.sign_request(request.der(), &names(Roles::ALL), LEAF_LIFE, now()).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
    let uri = "spiffe://qmesh.local/region/eu/node/leader";
    let uri = SanType::URI(uri.try_into().unwrap());
    check(|wishes| wishes.subject_alt_names = vec![uri], "extensions");
    check(|wishes| wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "extensions");
    check(|wishes| wishes.is_ca = IsCa::ExplicitNoCa, "extensions");
    check(|wishes| wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign], "extensions");
    check(|wishes| wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any], "extensions");
    check(|wishes| wishes.distinguished_name.push(DnType::OrganizationalUnitName, "control"), "subject");
}

#[test]
fn s6_1_4_a_request_proves_that_its_key_is_held() {
    let (_folder, authority) = authority();
    let sign = |der: &[u8]| authority.sign_request(der, &names(Roles::ALL), LEAF_LIFE, now());
    let honest = SigningRequest::new().unwrap();
    // Another's key in our request: the last byte of the point lies well before the signature.
    let (ours, other) = (honest.key.public_key_raw(), SigningRequest::new().unwrap());
    let at = honest.der().windows(ours.len()).position(|window| window == ours).unwrap();
    let mut stolen = honest.der().to_vec();
    stolen[at..at + ours.len()].copy_from_slice(other.key.public_key_raw());
    assert!(matches!(sign(&stolen), Err(RequestError::Unproven)));
    let mut behind = honest.der().to_vec();
    behind.push(0);
    assert!(matches!(sign(&behind), Err(RequestError::Unreadable { .. })));
    assert!(matches!(sign(&[0x30; REQUEST_BYTES_MAX + 1]), Err(RequestError::TooLarge { .. })));
    assert!(matches!(sign(b""), Err(RequestError::Unreadable { .. })));
    let other_kind = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let request = parameters.serialize_request(&other_kind).unwrap();
    assert!(matches!(sign(request.der()), Err(RequestError::KeyKind)));
}

#[test]
fn s6_1_2_a_leaf_is_kept_with_its_key_in_one_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, authority) = authority();
    let request = SigningRequest::new().unwrap();
    let issued = authority.sign_request(request.der(), &names(Roles::ALL), LEAF_LIFE, now()).unwrap();
    let leaf = request.into_leaf(issued.chain).unwrap();
    let path = folder.path().join("identity.pem");
    assert!(Leaf::read(&path).unwrap().is_none());
    leaf.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let read = Leaf::read(&path).unwrap().unwrap();
    assert_eq!((&read.chain, &read.key), (&leaf.chain, &leaf.key));
    assert_eq!((read.starts, read.expires, read.is_new), (leaf.starts, leaf.expires, false));
    // A key that is not the certificate's, and no certificate at all.
    let stranger = authority.issue_leaf(&names(Roles::ALL), LEAF_LIFE, now()).unwrap();
    Leaf { key: stranger.key, ..read }.write(&path).unwrap();
    assert!(matches!(Leaf::read(&path), Err(IdentityError::Unreadable { .. })));
    std::fs::write(&path, "nonsense").unwrap();
    assert!(matches!(Leaf::read(&path), Err(IdentityError::Unreadable { .. })));
}

proptest! {
    #[test]
    fn s6_1_4_hostile_requests_are_errors(at in any::<prop::sample::Index>(), byte in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..300)) {
        thread_local! {
            static HONEST: Vec<u8> = SigningRequest::new().unwrap().der().to_vec();
        }
        prop_assert!(RequestedKey::parse(&rest).is_err());
        let mut damaged = HONEST.with(Clone::clone);
        let at = at.index(damaged.len());
        prop_assume!(damaged[at] != byte);
        damaged[at] = byte;
        // A change anywhere but in the encoding of lengths breaks the signature; none may panic.
        let _ = RequestedKey::parse(&damaged);
    }
}
