//! What a certificate says of its node, read from the bytes that a peer sent.
//!
//! Promises: any bytes at all give an identity or an error, never a panic; a certificate that names two nodes, or names
//! one twice, is refused; who calls this after the chain was verified knows who speaks.
//! Does not: verify a signature, a chain or a date. TLS does, before it asks here.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::{Oid, oid},
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
    time::ASN1Time,
    x509::X509Name,
};

use super::{
    name::{NameError, NodeIdentity},
    roles::Roles,
};

/// Length of the longest serial number, in bytes (RFC 5280, 4.1.2.2).
const SERIAL_BYTES_MAX: usize = 20;

/// The subject's attribute in which the roles stand, as comma words: the organisational unit.
///
/// SPIFFE permits one URI in an X.509-SVID and tells verifiers to refuse a second, so roles as further URIs would shut
/// out every tool that speaks SPIFFE. A private extension would be shown as a hexadecimal dump. The subject is shown
/// readably by all: `openssl x509 -subject` prints `CN=mcp-shard-00, OU=storage,worker, UID=7`.
pub(super) const ROLES_ATTRIBUTE: &[u64] = &[2, 5, 4, 11];
/// The subject's attribute in which the node's number stands in decimal: the user id (RFC 4519, 2.39).
pub(super) const NODE_ID_ATTRIBUTE: &[u64] = &[0, 9, 2342, 19_200_300, 100, 1, 1];

const ROLES_OID: Oid<'static> = oid!(2.5.4.11);
const NODE_ID_OID: Oid<'static> = oid!(0.9.2342.19200300.100.1.1);

/// Who is on the other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its names, number and roles.
    pub identity: NodeIdentity,
    /// Number of its certificate, by which it can be revoked.
    pub serial: Serial,
    /// When the certificate starts to be valid.
    pub not_before: SystemTime,
    /// When the certificate stops being valid.
    pub not_after: SystemTime,
}

impl PeerIdentity {
    /// Reads a certificate.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let unreadable = |error: &dyn fmt::Display| CertificateError::Unreadable { detail: error.to_string() };
        let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|error| unreadable(&error))?;
        if !rest.is_empty() {
            return Err(unreadable(&"bytes behind its end"));
        }
        let names = certificate.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let uri = only(uris).map_err(|count| CertificateError::Uris { count })?;
        let subject = certificate.subject();
        let roles = attribute(subject, &ROLES_OID).map_err(|count| CertificateError::Roles { count })?;
        let id = attribute(subject, &NODE_ID_OID).ok().and_then(number).ok_or(CertificateError::NodeId)?;
        let validity = certificate.validity();
        Ok(Self {
            identity: NodeIdentity::from_spiffe_id(uri, id, Roles::from_certificate(roles))?,
            serial: Serial::from_big_endian(certificate.raw_serial()).ok_or(CertificateError::Serial)?,
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
        })
    }
}

/// Whether a certificate is due to be renewed: two thirds of its life are over (S6.1: 60 of 90 days), or its life has
/// not begun, which only a clock that was set back can show.
pub fn renew_due(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    let Ok(age) = now.duration_since(not_before) else { return true };
    let life = not_after.duration_since(not_before).unwrap_or_default();
    life.as_millis().saturating_mul(2) <= age.as_millis().saturating_mul(3)
}

/// The one item, or how many there are.
fn only<T>(items: impl Iterator<Item = T>) -> Result<T, usize> {
    let mut items = items;
    let first = items.next().ok_or(0_usize)?;
    match items.count() {
        0 => Ok(first),
        more => Err(1 + more),
    }
}

fn attribute<'a>(subject: &'a X509Name<'_>, oid: &Oid<'_>) -> Result<&'a str, usize> {
    let found = subject.iter_attributes().filter(|attribute| attribute.attr_type() == oid);
    only(found).and_then(|attribute| attribute.as_str().map_err(|_| 0))
}

/// A decimal number as we would print it.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let time = if time.timestamp() < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    time.unwrap_or(UNIX_EPOCH)
}

/// Why a certificate names no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate.
    #[error("the certificate cannot be read: {detail}")]
    Unreadable {
        /// What the parser says.
        detail: String,
    },
    /// A node has one identity.
    #[error("the certificate has {count} URIs among its names, a node has one; have it issued by a qmesh authority")]
    Uris {
        /// How many there are.
        count: usize,
    },
    /// The identity is not a node's.
    #[error("the certificate names no node: {0}")]
    Name(#[from] NameError),
    /// The subject must have one organisational unit.
    #[error(
        "the certificate's subject has {count} readable organisational units (OU), the roles stand in the only one"
    )]
    Roles {
        /// How many there are.
        count: usize,
    },
    /// The subject must have one user id.
    #[error(
        "the certificate's subject has no single user id (UID) that is a number, in which the node's number stands"
    )]
    NodeId,
    /// Not a positive number of at most twenty bytes.
    #[error("the certificate's serial number is not positive or longer than {SERIAL_BYTES_MAX} bytes")]
    Serial,
}

/// Number of a certificate, unique for its authority.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; SERIAL_BYTES_MAX]);

impl Serial {
    /// A serial number that nobody can foresee: 127 random bits.
    pub fn random() -> Result<Self, SerialError> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| SerialError::NoRandomness)?;
        // Positive, and never zero.
        random[0] = random[0] & 0x7f | 0x40;
        Self::from_big_endian(&random).ok_or(SerialError::NoRandomness)
    }

    /// The number in these bytes, the highest first; `None` when it is zero, negative (the highest bit is set, as in
    /// DER) or too long.
    pub fn from_big_endian(bytes: &[u8]) -> Option<Self> {
        if bytes.first().is_none_or(|first| 0x80 <= *first) {
            return None;
        }
        let digits = &bytes[bytes.iter().position(|&byte| byte != 0)?..];
        let start = SERIAL_BYTES_MAX.checked_sub(digits.len())?;
        let mut serial = [0; SERIAL_BYTES_MAX];
        serial[start..].copy_from_slice(digits);
        Some(Self(serial))
    }

    /// The number in twenty bytes, the highest first.
    pub fn to_big_endian(self) -> [u8; SERIAL_BYTES_MAX] {
        self.0
    }

    /// The bytes from the first that is not zero.
    pub(super) fn digits(&self) -> &[u8] {
        &self.0[self.0.iter().position(|&byte| byte != 0).unwrap_or(SERIAL_BYTES_MAX - 1)..]
    }
}

/// In hexadecimal, as `openssl x509 -serial` prints it.
impl fmt::Display for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits().iter().try_for_each(|byte| write!(formatter, "{byte:02X}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let refused = || SerialError::NotASerial;
        let mut digits = hexadecimal(text).ok_or_else(refused)?;
        // The text is a number, not DER: its highest bit is no sign.
        digits.insert(0, 0);
        Self::from_big_endian(&digits).ok_or_else(refused)
    }
}

/// Why there is no serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// Not of the form.
    #[error(
        "a serial number is 1 to {SERIAL_BYTES_MAX} bytes in hexadecimal and not zero, as openssl x509 -serial prints it"
    )]
    NotASerial,
    /// The operating system gives none.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}

/// Bytes from hexadecimal, with or without colons between them.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let mut digits: Vec<u8> = Vec::with_capacity(text.len());
    for character in text.trim().chars().filter(|&character| character != ':') {
        digits.push(u8::try_from(character.to_digit(16)?).ok()?);
    }
    if digits.is_empty() || 2 * SERIAL_BYTES_MAX < digits.len() {
        return None;
    }
    if !digits.len().is_multiple_of(2) {
        digits.insert(0, 0);
    }
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
