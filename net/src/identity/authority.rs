//! A certificate authority in a folder, and the leaf certificates that it signs.
//!
//! Promises: keys are written once, whole and readable by their owner only; a leaf is replaced after two thirds of its
//! life or when its names change, and the authority stays, so that clients which trust it need nothing new; every
//! signature has a serial number of its own; who sends a signing request chooses nothing but the key.
//! Does not: keep time (the caller passes `now`), speak to another authority, or remember whom it signed.

use std::{
    fmt::Write as _,
    fs, io,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    certificate::{Fingerprint, NODE_ID_ATTRIBUTE, ROLES_ATTRIBUTE, Serial, SerialError, renew_due},
    leaf::{Leaf, private_key},
    name::NodeIdentity,
    request::{RequestError, RequestedKey},
};

/// Life of a leaf certificate (90 days, S6.1).
pub const LEAF_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Life of the authority's own certificate (ten years).
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(3_650 * 86_400);
/// How far a certificate's start lies in the past, for peers whose clocks are behind the signer's: a clock that is an hour ahead and one
/// that is an hour behind still believe each other, and so do those that are off by a time zone.
const CLOCK_SKEW: Duration = Duration::from_secs(86_400);

/// File of the authority's certificate: what a client is given to trust.
pub const AUTHORITY_CERTIFICATE_FILE: &str = "ca.pem";
const AUTHORITY_KEY_FILE: &str = "ca.key";
const LEAF_CERTIFICATE_FILE: &str = "node.pem";
const LEAF_KEY_FILE: &str = "node.key";

/// What a leaf certificate says about its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// DNS names under which the node is reached.
    pub dns: Vec<String>,
    /// Addresses under which the node is reached.
    pub addresses: Vec<IpAddr>,
    /// Who the node is among nodes.
    pub identity: NodeIdentity,
}

/// What an authority has signed for somebody else's key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf, then the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's number, by which it can be revoked.
    pub serial: Serial,
    /// When the leaf stops being valid.
    pub expires: SystemTime,
}

/// A certificate authority that lives in one folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Opens the authority in `folder`, or makes one there. A key without a certificate (a crash between the two
    /// writes) gets its certificate now; a certificate without a key is an error, since it cannot sign.
    pub fn open_or_create(folder: &Path, now: SystemTime) -> Result<Self, IdentityError> {
        fs::create_dir_all(folder).map_err(|source| IdentityError::io(folder, source))?;
        let certificate_path = folder.join(AUTHORITY_CERTIFICATE_FILE);
        let key_path = folder.join(AUTHORITY_KEY_FILE);
        let key_pem = read_optional(&key_path)?;
        let certificate_pem = read_optional(&certificate_path)?;
        if key_pem.is_none() && certificate_pem.is_some() {
            return Err(IdentityError::KeyMissing { path: key_path });
        }
        let key = match &key_pem {
            Some(pem) => parse_key(&key_path, pem)?,
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                write_whole(&key_path, &key.serialize_pem())?;
                key
            }
        };
        let parameters = authority_parameters(&key, now);
        let certificate = match certificate_pem {
            Some(pem) => parse_certificate(&certificate_path, &pem)?,
            None => {
                let certificate = parameters.self_signed(&key)?;
                write_whole(&certificate_path, &certificate.pem())?;
                certificate.der().clone()
            }
        };
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(parameters, key), certificate })
    }

    /// Path of the certificate that clients are given to trust.
    pub fn certificate_path(&self) -> PathBuf {
        self.folder.join(AUTHORITY_CERTIFICATE_FILE)
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What names the authority in a token or on a screen.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The node's leaf from `node.pem` and `node.key`; a new one is signed and written when there is none, its names
    /// differ, its authority differs, or two thirds of its life are over.
    pub fn node_leaf(&self, names: &Names, now: SystemTime) -> Result<Leaf, IdentityError> {
        if let Some(leaf) = self.stored_leaf(names, now)? {
            return Ok(leaf);
        }
        let (leaf, certificate_pem, key_pem) = self.sign(names, LEAF_LIFE, now)?;
        // The key goes first: a crash between the two leaves a certificate that the check below finds unfit.
        write_whole(&self.folder.join(LEAF_KEY_FILE), &key_pem)?;
        write_whole(&self.folder.join(LEAF_CERTIFICATE_FILE), &certificate_pem)?;
        Ok(leaf)
    }

    /// Signs a leaf for `names` that lives for `life` from `now`, and keeps nothing.
    pub fn issue_leaf(&self, names: &Names, life: Duration, now: SystemTime) -> Result<Leaf, IdentityError> {
        self.sign(names, life, now).map(|(leaf, _, _)| leaf)
    }

    /// Signs the key of a signing request (PKCS #10, DER) for a node of these names, and keeps nothing. Whether the
    /// asker may be that node is the caller's decision.
    pub fn sign_request(
        &self,
        request: &[u8],
        names: &Names,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, RequestError> {
        let key = RequestedKey::parse(request)?;
        let (certificate, serial) = self.certify(&key, names, life, now)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok(Issued { chain, serial, expires: now + life })
    }

    fn stored_leaf(&self, names: &Names, now: SystemTime) -> Result<Option<Leaf>, IdentityError> {
        let certificate_path = self.folder.join(LEAF_CERTIFICATE_FILE);
        let key_path = self.folder.join(LEAF_KEY_FILE);
        let (Some(certificate_pem), Some(key_pem)) = (read_optional(&certificate_path)?, read_optional(&key_path)?)
        else {
            return Ok(None);
        };
        let Ok(key) = KeyPair::from_pem(&key_pem) else { return Ok(None) };
        let Some(note) = Note::parse(&certificate_pem) else { return Ok(None) };
        let wanted = Note::of(names, &key, self.issuer.key(), note.issued_s, note.life_s);
        let starts = UNIX_EPOCH + Duration::from_secs(note.issued_s);
        let Some(expires) = starts.checked_add(Duration::from_secs(note.life_s)) else { return Ok(None) };
        if note != wanted || renew_due(starts, expires, now) {
            return Ok(None);
        }
        let leaf = parse_certificate(&certificate_path, &certificate_pem)?;
        Ok(Some(Leaf {
            chain: vec![leaf, self.certificate.clone()],
            key: private_key(&key),
            starts,
            expires,
            is_new: false,
        }))
    }

    fn sign(&self, names: &Names, life: Duration, now: SystemTime) -> Result<(Leaf, String, String), IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (certificate, _) = self.certify(&key, names, life, now)?;
        let note = Note::of(names, &key, self.issuer.key(), seconds(now), life.as_secs());
        let leaf = Leaf {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: private_key(&key),
            starts: now,
            expires: now + life,
            is_new: true,
        };
        Ok((leaf, note.text() + &certificate.pem(), key.serialize_pem()))
    }

    /// The one place in which a leaf is signed.
    fn certify(
        &self,
        key: &impl PublicKeyData,
        names: &Names,
        life: Duration,
        now: SystemTime,
    ) -> Result<(Certificate, Serial), IdentityError> {
        let identity = &names.identity;
        if identity.roles().is_empty() {
            return Err(IdentityError::NoRole);
        }
        let serial = Serial::random()?;
        let mut parameters = CertificateParams::new(names.dns.clone())?;
        parameters.subject_alt_names.extend(names.addresses.iter().map(|&address| SanType::IpAddress(address)));
        parameters.subject_alt_names.push(SanType::URI(identity.spiffe_id().as_str().try_into()?));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, identity.node());
        parameters.distinguished_name.push(DnType::from_oid(ROLES_ATTRIBUTE), identity.roles().to_string());
        parameters.distinguished_name.push(DnType::from_oid(NODE_ID_ATTRIBUTE), identity.id().to_string());
        parameters.serial_number = Some(SerialNumber::from_slice(serial.digits()));
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        set_life(&mut parameters, life, now);
        Ok((parameters.signed_by(key, &self.issuer)?, serial))
    }
}

/// What stands in plain words above the leaf's PEM block: enough to decide whether it still fits, without parsing
/// X.509. A lie there costs its owner a handshake, nothing more.
#[derive(PartialEq, Eq)]
struct Note {
    issued_s: u64,
    life_s: u64,
    names: String,
    key: String,
    authority: String,
}

impl Note {
    fn of(names: &Names, key: &KeyPair, authority: &KeyPair, issued_s: u64, life_s: u64) -> Self {
        let mut all = names.dns.clone();
        all.extend(names.addresses.iter().map(IpAddr::to_string));
        all.push(names.identity.spiffe_id());
        all.push(format!("id={}", names.identity.id()));
        all.push(format!("roles={}", names.identity.roles()));
        Self { issued_s, life_s, names: all.join(" "), key: hex(key), authority: hex(authority) }
    }

    fn text(&self) -> String {
        let Self { issued_s, life_s, names, key, authority } = self;
        format!("issued: {issued_s}\nlife: {life_s}\nnames: {names}\nkey: {key}\nauthority: {authority}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Some(Self {
            issued_s: value("issued")?.parse().ok()?,
            life_s: value("life")?.parse().ok()?,
            names: value("names")?.to_owned(),
            key: value("key")?.to_owned(),
            authority: value("authority")?.to_owned(),
        })
    }
}

/// Why an identity cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} cannot be read: {detail}; restore it, or remove the folder's *.pem and *.key to start anew")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The authority has a certificate and no key.
    #[error("{path} is missing beside its certificate; restore it, or remove the certificate to start anew")]
    KeyMissing {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A name cannot stand in a certificate, or signing failed.
    #[error("the certificate cannot be signed: {0}")]
    Signing(#[from] rcgen::Error),
    /// A node without a role may do nothing.
    #[error("a certificate needs at least one role, of {}", super::roles::Roles::ALL)]
    NoRole,
    /// No serial number can be had.
    #[error(transparent)]
    Serial(#[from] SerialError),
}

impl IdentityError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// The same for one key at any time, except for the dates, so that a reopened authority signs as it did.
fn authority_parameters(key: &KeyPair, now: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    // The key in the name keeps apart the authorities of two nodes in one trust store.
    parameters.distinguished_name.push(DnType::CommonName, format!("qmesh local authority {}", hex(key)));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut parameters, AUTHORITY_LIFE, now);
    parameters
}

fn set_life(parameters: &mut CertificateParams, life: Duration, now: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(seconds(now));
    parameters.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    parameters.not_after = epoch + now + life;
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The last eight bytes of the public point: enough to tell keys apart, not to find them.
fn hex(key: &KeyPair) -> String {
    let raw = key.public_key_raw();
    raw[raw.len().saturating_sub(8)..].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_key(path: &Path, pem: &str) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pem(pem).map_err(|error| unreadable(path, &error))
}

/// Reads the first certificate of a PEM text.
pub(crate) fn parse_certificate(path: &Path, pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(path, &error))
}

pub(super) fn unreadable(path: &Path, error: &impl ToString) -> IdentityError {
    IdentityError::Unreadable { path: path.to_owned(), detail: error.to_string() }
}

pub(super) fn read_optional(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(IdentityError::io(path, error)),
    }
}

/// Writes the file whole or not at all, readable by its owner only.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), IdentityError> {
    let staging = path.with_extension("new");
    let write = || {
        // A rest of an interrupted write is replaced, with the mode that a new file gets.
        match fs::remove_file(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staging)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&staging, path)
    };
    write().map_err(|source| IdentityError::io(path, source))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::identity::Roles;

    fn names() -> Names {
        Names {
            dns: vec!["localhost".to_owned()],
            addresses: vec![[127, 0, 0, 1].into()],
            identity: NodeIdentity::new("qmesh.local", "r1", "n1", 1, Roles::ALL).unwrap(),
        }
    }

    fn day(number: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + number * 86_400)
    }

    #[test]
    fn s6_1_2_a_leaf_is_kept_until_two_thirds_of_its_life() {
        fn check(at_day: u64, renewed: bool) {
            let folder = tempfile::tempdir().unwrap();
            let first = Authority::open_or_create(folder.path(), day(0)).unwrap().node_leaf(&names(), day(0)).unwrap();
            assert!(first.is_new);
            let authority = Authority::open_or_create(folder.path(), day(at_day)).unwrap();
            let second = authority.node_leaf(&names(), day(at_day)).unwrap();
            assert_eq!(second.is_new, renewed, "day {at_day}");
            assert_eq!(second.chain[0] != first.chain[0], renewed, "day {at_day}");
            assert_eq!(second.chain[1], first.chain[1], "the authority must not change");
            let expires = if renewed { day(at_day) } else { day(0) } + LEAF_LIFE;
            assert_eq!(second.expires, expires, "day {at_day}");
        }
        check(0, false);
        check(59, false);
        check(60, true);
        check(400, true);
    }

    #[test]
    fn s6_1_2_a_leaf_is_replaced_when_it_no_longer_fits() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), day(0)).unwrap();
        authority.node_leaf(&names(), day(0)).unwrap();
        assert!(!authority.node_leaf(&names(), day(1)).unwrap().is_new);
        let mut more = names();
        more.dns.push("node.example".to_owned());
        assert!(authority.node_leaf(&more, day(1)).unwrap().is_new, "other names");
        assert!(!authority.node_leaf(&more, day(1)).unwrap().is_new);
        let other_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        fs::write(folder.path().join("node.key"), other_key.serialize_pem()).unwrap();
        assert!(authority.node_leaf(&more, day(1)).unwrap().is_new, "a key that is not the certificate's");
        fs::write(folder.path().join("node.pem"), "nonsense").unwrap();
        assert!(authority.node_leaf(&more, day(1)).unwrap().is_new, "a damaged certificate");
        assert!(authority.node_leaf(&more, UNIX_EPOCH).unwrap().is_new, "signed in what is now the future");
    }

    #[test]
    fn s6_1_2_keys_are_readable_by_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), day(0)).unwrap();
        authority.node_leaf(&names(), day(0)).unwrap();
        for file in ["ca.key", "node.key"] {
            let mode = fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn s6_1_2_an_authority_survives_a_crash_between_its_two_files() {
        let folder = tempfile::tempdir().unwrap();
        Authority::open_or_create(folder.path(), day(0)).unwrap();
        fs::remove_file(folder.path().join("ca.pem")).unwrap();
        Authority::open_or_create(folder.path(), day(1)).unwrap().node_leaf(&names(), day(1)).unwrap();
        fs::remove_file(folder.path().join("ca.key")).unwrap();
        let error = Authority::open_or_create(folder.path(), day(2)).unwrap_err();
        assert!(matches!(error, IdentityError::KeyMissing { .. }), "{error}");
        fs::write(folder.path().join("ca.key"), "nonsense").unwrap();
        let error = Authority::open_or_create(folder.path(), day(2)).unwrap_err();
        assert!(matches!(error, IdentityError::Unreadable { .. }), "{error}");
    }
}
