//! Where the HTTP door may listen, and under which names it answers there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use qmesh_net::tls::{Trust, https_client};

use super::*;

/// What a node says that does not start on every address.
fn refused(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut all = vec!["--http", "0.0.0.0:0", "--quic", "127.0.0.1:0"];
    all.extend(arguments);
    match Node::start_in(&folder.path().join("data"), &all) {
        Ok(_) => panic!("it started with {arguments:?}"),
        Err(told) => told,
    }
}

#[test]
fn s6_1_9_beyond_loopback_the_door_wants_tls_tokens_and_names() {
    let told = refused(&[]);
    for lack in ["--tls", "[auth]", "[ingress] hosts"] {
        assert!(told.contains(lack), "{lack}: {told}");
    }
    let issuer = Issuer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, format!("[ingress]\nhosts = [\"dag.example.org\"]\n{}required = false\n", auth(&issuer)))
        .unwrap();
    let told = refused(&["--tls", "--gateway", path.to_str().unwrap()]);
    assert!(told.contains("required = true") && !told.contains("--tls;"), "{told}");
    std::fs::write(&path, "[ingress]\nhost = [\"dag.example.org\"]\n").unwrap();
    let told = refused(&["--tls", "--gateway", path.to_str().unwrap()]);
    assert!(told.contains("did you mean") && told.contains("ingress.hosts"), "{told}");
    let quic = tempfile::tempdir().unwrap();
    let told =
        Node::start_in(&quic.path().join("data"), &["--http", "127.0.0.1:0", "--quic", "0.0.0.0:0"]).err().unwrap();
    assert!(told.contains("the QUIC door knows no client"), "{told}");
}

#[test]
fn s6_1_9_beyond_loopback_the_door_answers_under_its_names_and_its_certificate_has_them() {
    let issuer = Issuer::start();
    let text = format!(
        "[ingress]\nhosts = [\"dag.example.org\", \"127.0.0.2\"]\norigins = [\"https://app.example.org\"]\n{}",
        auth(&issuer)
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    let arguments = ["--http", "0.0.0.0:0", "--quic", "127.0.0.1:0", "--tls", "--gateway", path.to_str().unwrap()];
    let node = Node::start_in(&folder.path().join("data"), &arguments).unwrap();
    let token = issuer.token("dag:read");
    let ask = |host: &str, path: &str, origin: Option<&str>, token: Option<&str>| {
        let config = https_client(&Trust::Authority(node.data().join("tls/ca.pem"))).unwrap();
        let name = host.to_owned().try_into().unwrap();
        let session = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", node.http().port())).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, socket);
        let origin = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{origin}{bearer}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The door may close without TLS's goodbye.
        let _ = stream.read_to_end(&mut answer);
        house::parse_http(&answer).0
    };
    let token = Some(token.as_str());
    assert_eq!(ask("dag.example.org", TIPS, None, token), 200);
    assert_eq!(ask("127.0.0.2", TIPS, None, token), 200);
    assert_eq!(ask("localhost", TIPS, None, token), 200, "who is on this machine may say so");
    assert_eq!(ask("dag.example.org", TIPS, None, None), 401);
    assert_eq!(ask("dag.example.org", TIPS, Some("https://app.example.org"), token), 200);
    assert_eq!(ask("dag.example.org", TIPS, Some("https://evil.example"), token), 403);
    assert_eq!(ask("dag.example.org", "/livez", None, None), 200);
}

#[test]
fn s6_1_9_pages_of_listed_origins_may_read_answers_and_their_browsers_may_ask_before() {
    let issuer = Issuer::start();
    let (node, _folder) =
        node_with(&format!("[ingress]\norigins = [\"https://app.example.org\"]\n{}", auth(&issuer)), &[]);
    let ours = ("Origin", "https://app.example.org");
    let before = [ours, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")];
    let allowed = call(&node, "OPTIONS", "/mcp", &before, b"");
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (204, Some(ours.1)));
    assert!(allowed.header("access-control-allow-headers").is_some_and(|names| names.contains("authorization")));
    assert!(allowed.header("access-control-allow-methods").is_some_and(|names| names.contains("POST")));
    // What is refused can be read too: the page learns where tokens come from.
    let refused = call(&node, "GET", TIPS, &[ours], b"");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some(ours.1)));
    assert!(refused.header("access-control-expose-headers").is_some_and(|names| names.contains("www-authenticate")));
    assert!(refused.head.iter().any(|(name, value)| name == "vary" && value == "Origin"));
    // Other pages get nothing, those of this machine included, and neither does a question that is none.
    let evil = [("Origin", "https://evil.example"), before[1]];
    let denied = call(&node, "OPTIONS", "/mcp", &evil, b"");
    assert_eq!((denied.status, denied.header("access-control-allow-origin")), (403, None));
    let local = [("Origin", "http://localhost:3000"), before[1]];
    assert_eq!(call(&node, "OPTIONS", "/mcp", &local, b"").header("access-control-allow-origin"), None);
    assert_ne!(call(&node, "OPTIONS", "/mcp", &[ours], b"").status, 204);
    assert_eq!(get(&node, "/livez").header("access-control-allow-origin"), None);
}
