//! HTTPS: whom a client of the node's authority believes, and what the door does not speak.

use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;

use qmesh_net::identity::Authority;
use qmesh_net::tls::{Trust, https_client};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ProtocolVersion, StreamOwned};

use crate::house::{Node, parse_http};
use crate::http::{PATIENCE, connect};

/// Asks over TLS with this authority; what TLS or the door has against it.
fn ask(node: &Node, authority: &Path, name: &'static str) -> std::io::Result<(u16, ProtocolVersion)> {
    let config = https_client(&Trust::Authority(authority.to_owned())).unwrap();
    let connection = ClientConnection::new(config, ServerName::try_from(name).unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, connect(node));
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok((parse_http(&answer).0, stream.conn.protocol_version().unwrap()))
}

#[test]
fn s6_1_1_https_is_for_clients_of_its_authority_and_tls_1_3_only() {
    let node = Node::start_with(&["--tls"]);
    let authority = node.data().join("tls/ca.pem");
    for name in ["localhost", "127.0.0.1"] {
        assert_eq!(ask(&node, &authority, name).unwrap(), (200, ProtocolVersion::TLSv1_3), "{name}");
    }
    let refused = ask(&node, &authority, "other.example").unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");

    let folder = tempfile::tempdir().unwrap();
    let stranger = Authority::open_or_create(folder.path(), SystemTime::now()).unwrap();
    let refused = ask(&node, &stranger.certificate_path(), "localhost").unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");

    // In the clear there is no answer.
    let (code, body) = parse_http(&node.raw_http(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n", PATIENCE));
    assert_eq!(code, 0, "{body}");

    // A greeting that knows TLS 1.2 at most is answered with the alert "protocol version", which is fatal.
    let mut stream = connect(&node);
    stream.write_all(&greeting_of_tls_1_2()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let (alert, fatal, protocol_version) = (21, 2, 70);
    assert_eq!((answer[0], &answer[5..7]), (alert, &[fatal, protocol_version][..]), "{answer:?}");

    // The door serves on.
    assert_eq!(ask(&node, &authority, "localhost").unwrap().0, 200);
}

/// A ClientHello without the extension that names TLS 1.3.
fn greeting_of_tls_1_2() -> Vec<u8> {
    fn with_length(bytes: usize, content: &[u8]) -> Vec<u8> {
        let length = content.len().to_be_bytes();
        [&length[8 - bytes..], content].concat()
    }
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &with_length(2, content)].concat();
    let ecdhe_ecdsa_aes_128_gcm = [0xc0, 0x2b];
    let extensions = [
        // Groups: X25519, P-256. Signatures: ECDSA over P-256, Ed25519.
        extension(10, &with_length(2, &[0, 29, 0, 23])),
        extension(11, &with_length(1, &[0])),
        extension(13, &with_length(2, &[4, 3, 8, 7])),
        extension(23, &[]),
    ]
    .concat();
    let hello = [
        &[3, 3][..],
        &[7; 32],
        &with_length(1, &[]),
        &with_length(2, &ecdhe_ecdsa_aes_128_gcm),
        &with_length(1, &[0]),
        &with_length(2, &extensions),
    ]
    .concat();
    let handshake = [&[1][..], &with_length(3, &hello)].concat();
    [&[22, 3, 1][..], &with_length(2, &handshake)].concat()
}
