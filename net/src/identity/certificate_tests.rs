//! Scenes with certificates, honest and hostile.
//!
//! Promises: what an authority of ours signs is read back whole; what others may send is an error that says why.
//! Does not: check signatures, which TLS does.

#![expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]

use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

use super::*;
use crate::identity::{Authority, LEAF_LIFE, Names, Role};

const DAY: Duration = Duration::from_secs(86_400);

fn at_day(number: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000) + DAY * number
}

fn issued(roles: Roles) -> CertificateDer<'static> {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path(), at_day(0)).unwrap();
    let names = Names {
        dns: vec!["n.example".to_owned()],
        addresses: vec![[10, 0, 0, 1].into()],
        identity: NodeIdentity::new("qmesh.local", "eu", "mcp-shard-00", 7, roles).unwrap(),
    };
    authority.issue_leaf(&names, LEAF_LIFE, at_day(0)).unwrap().chain[0].clone()
}

#[test]
fn s6_1_4_a_certificate_says_who_its_node_is_and_what_it_may_be() {
    let roles = Roles::of(&[Role::Storage, Role::Worker]);
    let certificate = issued(roles);
    let peer = PeerIdentity::parse(&certificate).unwrap();
    assert_eq!(peer.identity, NodeIdentity::new("qmesh.local", "eu", "mcp-shard-00", 7, roles).unwrap());
    assert_eq!(peer.identity.spiffe_id(), "spiffe://qmesh.local/region/eu/node/mcp-shard-00");
    assert_eq!(peer.not_after, at_day(90));
    assert!(peer.not_before < at_day(0));
    // The form that other tools show: one URI, the roles and the number in the subject.
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=mcp-shard-00, OU=storage,worker, uid=7");
    assert_eq!(parsed.raw_serial_as_string().replace(':', "").to_uppercase(), peer.serial.to_string());
}

#[test]
fn s6_1_2_two_thirds_of_a_life_make_a_renewal_due() {
    fn check(age_days: u32, expected: bool) {
        assert_eq!(renew_due(at_day(10), at_day(100), at_day(10) + DAY * age_days), expected, "day {age_days}");
    }
    check(0, false);
    check(59, false);
    check(60, true);
    check(89, true);
    check(1000, true);
    assert!(!renew_due(at_day(10), at_day(100), at_day(10) + DAY * 60 - Duration::from_millis(1)));
    assert!(renew_due(at_day(10), at_day(100), at_day(9)), "signed in what is now the future");
    assert!(renew_due(at_day(10), at_day(9), at_day(10)), "a life that ends before it begins");
}

fn crafted(change: impl FnOnce(&mut CertificateParams)) -> Result<PeerIdentity, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut parameters = CertificateParams::default();
    let uri = "spiffe://qmesh.local/region/eu/node/n1";
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationalUnitName, "storage");
    parameters.distinguished_name.push(DnType::from_oid(NODE_ID_ATTRIBUTE), "7");
    change(&mut parameters);
    PeerIdentity::parse(parameters.self_signed(&key).unwrap().der())
}

#[test]
fn s6_1_4_a_certificate_that_names_no_node_or_two_is_refused() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let node_id = DnType::from_oid(NODE_ID_ATTRIBUTE);
    assert!(crafted(|_| {}).is_ok());
    let refused = crafted(|parameters| parameters.subject_alt_names.clear());
    assert_eq!(refused, Err(CertificateError::Uris { count: 0 }));
    let second = uri("spiffe://qmesh.local/region/eu/node/n2");
    let refused = crafted(|parameters| parameters.subject_alt_names.push(second));
    assert_eq!(refused, Err(CertificateError::Uris { count: 2 }));
    let refused = crafted(|parameters| parameters.subject_alt_names = vec![uri("https://n1.example/")]);
    assert!(matches!(refused, Err(CertificateError::Name(NameError::NotSpiffe { .. }))), "{refused:?}");
    let refused = crafted(|parameters| {
        parameters.distinguished_name.remove(DnType::OrganizationalUnitName);
    });
    assert_eq!(refused, Err(CertificateError::Roles { count: 0 }));
    for number in ["", "+7", "07", "-1", "seven", "18446744073709551616"] {
        let refused = crafted(|parameters| parameters.distinguished_name.push(node_id.clone(), number));
        assert_eq!(refused, Err(CertificateError::NodeId), "{number:?}");
    }
    let wide = DnValue::BmpString("7".try_into().unwrap());
    let refused = crafted(|parameters| parameters.distinguished_name.push(node_id, wide));
    assert_eq!(refused, Err(CertificateError::NodeId));
    let garbage = PeerIdentity::parse(&CertificateDer::from(b"-----BEGIN CERTIFICATE-----".to_vec()));
    assert!(matches!(garbage, Err(CertificateError::Unreadable { .. })));
}

#[test]
fn s6_1_2_serial_numbers_are_read_as_openssl_prints_them() {
    fn check(text: &str, expected: Option<&str>) {
        let read = text.parse::<Serial>().ok().map(|serial| serial.to_string());
        assert_eq!(read.as_deref(), expected, "{text:?}");
    }
    check("01", Some("01"));
    check("1", Some("01"));
    check("0a:FF", Some("0AFF"));
    check("FF", Some("FF"));
    check(&"7f".repeat(20), Some(&"7F".repeat(20)));
    check(&"7f".repeat(21), None);
    check("00", None);
    check("", None);
    check("0x01", None);
    check("no", None);
    assert_eq!(Serial::from_big_endian(&[0x80]), None, "negative in DER");
    assert_eq!(Serial::from_big_endian(&[0, 0x80]).map(|serial| serial.to_string()), Some("80".to_owned()));
    let (first, second) = (Serial::random().unwrap(), Serial::random().unwrap());
    assert_ne!(first, second);
    assert_eq!(first.digits().len(), 16);
    assert_eq!(first.to_string().parse(), Ok(first));
}

proptest! {
    #[test]
    fn s6_1_4_hostile_certificates_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = PeerIdentity::parse(&CertificateDer::from(bytes));
    }

    #[test]
    fn s6_1_4_damaged_certificates_do_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        thread_local! {
            static HONEST: Vec<u8> = issued(Roles::ALL).to_vec();
        }
        let honest = HONEST.with(Clone::clone);
        let mut damaged = honest.clone();
        damaged[at.index(honest.len())] = byte;
        let _ = PeerIdentity::parse(&CertificateDer::from(damaged.clone()));
        damaged.truncate(cut.index(honest.len()));
        prop_assert!(PeerIdentity::parse(&CertificateDer::from(damaged)).is_err());
    }
}
