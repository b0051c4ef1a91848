//! The bytes of joining.
//!
//! Promises: fixed widths, little-endian, version first, reserved bytes zero and checked; every length is bounded before
//! it is believed, and nothing may stand behind the last field.
//! Does not: check a token, a signing request or a certificate.

use qmesh_net::identity::REQUEST_BYTES_MAX;
use rustls::pki_types::CertificateDer;

use super::token::{Secret, TokenId};
use crate::error::Refusal;

/// Version of both messages.
const VERSION: u8 = 1;
/// `version u8, reserved u8[3] = 0, request length u16, about length u16, token id [16], secret [16]`.
const REQUEST_HEAD_BYTES: usize = 40;
/// `version u8, certificates u8, reserved u16 = 0, about length u32`.
const ANSWER_HEAD_BYTES: usize = 8;
/// What the two rooms that run the cluster tell each other beside the token, in bytes.
pub const ABOUT_BYTES_MAX: usize = 8 << 10;
/// One certificate of an answer, in bytes.
const CERTIFICATE_BYTES_MAX: usize = 8 << 10;
/// Certificates of an answer: the leaf, its authority, and two more while an authority is being replaced.
const CERTIFICATES_MAX: usize = 4;

// A request of ours passes the bound that guards the operation, whose default is 16 KiB.
const _: () = assert!(REQUEST_HEAD_BYTES + REQUEST_BYTES_MAX + ABOUT_BYTES_MAX <= 16 << 10);

/// What a stranger sends to become a node.
#[derive(Debug)]
pub struct JoinRequest {
    /// Which token it was given.
    pub token: TokenId,
    /// By what it proves that.
    pub secret: Secret,
    /// Its signing request (PKCS #10, DER).
    pub request: Vec<u8>,
    /// What it says of itself; the meaning is the receiver's.
    pub about: Vec<u8>,
}

impl JoinRequest {
    /// The request as bytes.
    ///
    /// # Errors
    /// A refusal when a part is beyond its limit.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let request = bounded("signing request", &self.request, REQUEST_BYTES_MAX)?;
        let about = bounded("what a joiner says of itself", &self.about, ABOUT_BYTES_MAX)?;
        let mut bytes = vec![VERSION, 0, 0, 0];
        bytes.extend((request.len() as u16).to_le_bytes());
        bytes.extend((about.len() as u16).to_le_bytes());
        for part in [&self.token.0[..], &self.secret.0, request, about] {
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }

    /// Reads a request.
    ///
    /// # Errors
    /// A refusal that says which field is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = |what: &str| Refusal::bad_request(format!("a request to join {what}"));
        let (head, rest) = bytes
            .split_first_chunk::<REQUEST_HEAD_BYTES>()
            .ok_or_else(|| malformed("is shorter than its head of 40 bytes"))?;
        if head[0] != VERSION {
            return Err(malformed(&format!("is of version {}, this node speaks {VERSION}", head[0])));
        }
        if head[1..4] != [0; 3] {
            return Err(malformed("has reserved bytes that are not zero"));
        }
        let request_bytes = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let about_bytes = usize::from(u16::from_le_bytes([head[6], head[7]]));
        if REQUEST_BYTES_MAX < request_bytes {
            return Err(Refusal::limit("signing request", request_bytes, REQUEST_BYTES_MAX, "bytes"));
        }
        if ABOUT_BYTES_MAX < about_bytes {
            return Err(Refusal::limit("what a joiner says of itself", about_bytes, ABOUT_BYTES_MAX, "bytes"));
        }
        let (mut token, mut secret) = ([0; 16], [0; 16]);
        token.copy_from_slice(&head[8..24]);
        secret.copy_from_slice(&head[24..40]);
        if rest.len() != request_bytes + about_bytes {
            return Err(malformed("is not as long as its head says"));
        }
        let (request, about) = rest.split_at(request_bytes);
        Ok(Self { token: TokenId(token), secret: Secret(secret), request: request.to_vec(), about: about.to_vec() })
    }
}

/// What a stranger gets that becomes a node.
#[derive(Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Its certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// What it needs to know of the cluster; the meaning is the receiver's.
    pub about: Vec<u8>,
}

impl JoinAnswer {
    /// The answer as bytes.
    ///
    /// # Errors
    /// A refusal when a part is beyond its limit.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        if self.chain.is_empty() || CERTIFICATES_MAX < self.chain.len() {
            return Err(Refusal::limit("chain", self.chain.len(), CERTIFICATES_MAX, "certificates"));
        }
        let about = bounded("what a joiner is told of the cluster", &self.about, ABOUT_BYTES_MAX)?;
        let mut bytes = vec![VERSION, self.chain.len() as u8, 0, 0];
        bytes.extend((about.len() as u32).to_le_bytes());
        for certificate in &self.chain {
            let certificate = bounded("certificate", certificate, CERTIFICATE_BYTES_MAX)?;
            bytes.extend((certificate.len() as u16).to_le_bytes());
            bytes.extend_from_slice(certificate);
        }
        bytes.extend_from_slice(about);
        Ok(bytes)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// A refusal that says which field is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = |what: &str| Refusal::bad_request(format!("the answer to a join {what}"));
        let (head, mut rest) = bytes
            .split_first_chunk::<ANSWER_HEAD_BYTES>()
            .ok_or_else(|| malformed("is shorter than its head of 8 bytes"))?;
        if head[0] != VERSION || head[2..4] != [0; 2] {
            return Err(malformed("is of another version; use the same version of qmesh on both nodes"));
        }
        let count = usize::from(head[1]);
        if count == 0 || CERTIFICATES_MAX < count {
            return Err(malformed(&format!("has {count} certificates, not 1 to {CERTIFICATES_MAX}")));
        }
        let about_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let mut chain = Vec::with_capacity(count);
        for _ in 0..count {
            let (length, behind) = rest.split_first_chunk::<2>().ok_or_else(|| malformed("is cut off"))?;
            let length = usize::from(u16::from_le_bytes(*length));
            if CERTIFICATE_BYTES_MAX < length {
                return Err(malformed("has a certificate beyond the limit"));
            }
            let (certificate, behind) = behind.split_at_checked(length).ok_or_else(|| malformed("is cut off"))?;
            chain.push(CertificateDer::from(certificate.to_vec()));
            rest = behind;
        }
        if ABOUT_BYTES_MAX < about_bytes || rest.len() != about_bytes {
            return Err(malformed("is not as long as its head says"));
        }
        Ok(Self { chain, about: rest.to_vec() })
    }
}

fn bounded<'a>(what: &str, bytes: &'a [u8], bytes_max: usize) -> Result<&'a [u8], Refusal> {
    if bytes_max < bytes.len() {
        return Err(Refusal::limit(what, bytes.len(), bytes_max, "bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use proptest::prelude::*;
    use qmesh_net::peer::JoinOptions;

    use super::*;

    fn request() -> JoinRequest {
        let (request, about) = (vec![3; 200], vec![4; 50]);
        JoinRequest { token: TokenId([1; 16]), secret: Secret([2; 16]), request, about }
    }

    #[test]
    fn s6_1_4_the_bound_of_the_operation_lets_every_request_of_ours_pass() {
        let largest = JoinRequest { request: vec![0; REQUEST_BYTES_MAX], about: vec![0; ABOUT_BYTES_MAX], ..request() };
        assert!(largest.encode().unwrap().len() <= JoinOptions::default().request_bytes_max);
    }

    #[test]
    fn s6_1_4_joining_survives_the_wire() {
        let bytes = request().encode().unwrap();
        let read = JoinRequest::parse(&bytes).unwrap();
        assert_eq!((read.token, read.secret.0), (TokenId([1; 16]), [2; 16]));
        assert_eq!((read.request, read.about), (vec![3; 200], vec![4; 50]));
        let chain = vec![CertificateDer::from(vec![5; 700]), CertificateDer::from(vec![6; 500])];
        let answer = JoinAnswer { chain, about: vec![7; 20] };
        assert_eq!(JoinAnswer::parse(&answer.encode().unwrap()).unwrap(), answer);
    }

    #[test]
    fn s6_1_4_malformed_joining_is_refused_by_field() {
        fn check(change: impl FnOnce(&mut Vec<u8>), expected: &str) {
            let mut bytes = request().encode().unwrap();
            change(&mut bytes);
            let refused = JoinRequest::parse(&bytes).unwrap_err();
            assert!(refused.detail.contains(expected), "{refused}");
        }
        check(|bytes| bytes.truncate(39), "shorter than its head");
        check(|bytes| bytes[0] = 2, "version 2");
        check(|bytes| bytes[3] = 1, "reserved");
        check(|bytes| bytes[5] = 0xff, "signing request");
        check(|bytes| bytes[7] = 0xff, "says of itself");
        check(|bytes| bytes.push(0), "not as long");
        check(|bytes| bytes.truncate(bytes.len() - 1), "not as long");
        let oversize = JoinRequest { about: vec![0; ABOUT_BYTES_MAX + 1], ..request() };
        assert!(oversize.encode().is_err());
        let many = vec![CertificateDer::from(vec![1]); CERTIFICATES_MAX + 1];
        assert!(JoinAnswer { chain: many, about: Vec::new() }.encode().is_err());
        assert!(JoinAnswer { chain: Vec::new(), about: Vec::new() }.encode().is_err());
    }

    proptest! {
        #[test]
        fn s6_1_4_any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = JoinRequest::parse(&bytes);
            let _ = JoinAnswer::parse(&bytes);
            let mut versioned = bytes;
            if let Some(first) = versioned.first_mut() {
                *first = VERSION;
            }
            let _ = JoinRequest::parse(&versioned);
            let _ = JoinAnswer::parse(&versioned);
        }
    }
}
