//! How often one caller may ask, on all cores together.

use std::io::Write;
use std::net::TcpStream;

use super::*;

/// Requests answered with 200 and with 429 on one connection until `ends`.
fn hammer(node: &Node, token: &str, ends: Instant) -> (u32, u32) {
    let mut stream: TcpStream = http::connect(node);
    let request = format!("GET /version HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n", node.http());
    let (mut passed, mut limited) = (0, 0);
    while Instant::now() < ends {
        stream.write_all(request.as_bytes()).unwrap();
        match http::read_answer(&mut stream, false).status {
            200 => passed += 1,
            429 => limited += 1,
            status => panic!("{status}"),
        }
    }
    (passed, limited)
}

#[test]
fn s3_2_3_two_cores_together_let_through_the_rate_of_one_caller() {
    const RATE: u32 = 500;
    const BURST: u32 = 100;
    const SECONDS: u32 = 4;
    let issuer = Issuer::start();
    let limits = format!("[limits]\nrequests_per_second = {RATE}\nburst = {BURST}\n");
    let (node, _folder) = node_with(&(auth(&issuer) + &limits), &[]);
    let token = issuer.token("dag:read");
    let begun = Instant::now();
    let ends = begun + Duration::from_secs(u64::from(SECONDS));
    // Enough connections that both cores have some.
    let counts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| hammer(&node, &token, ends))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let took = begun.elapsed().as_secs_f64();
    let passed: u32 = counts.iter().map(|(passed, _)| passed).sum();
    let limited: u32 = counts.iter().map(|(_, limited)| limited).sum();
    let wanted = f64::from(BURST) + f64::from(RATE) * took;
    let error = (f64::from(passed) / wanted - 1.0) * 100.0;
    eprintln!("{passed} passed and {limited} did not in {took:.2} s: {error:+.2} % of {wanted:.0}");
    assert!(0 < limited, "the clients asked no faster than they may");
    assert!(error.abs() < 3.0, "{passed} of {wanted:.0} passed, {error:+.2} %");
}

#[test]
fn s3_2_3_a_refused_request_says_when_to_come_back() {
    let issuer = Issuer::start();
    let (node, _folder) = node_with(&(auth(&issuer) + "[limits]\nrequests_per_second = 1\nburst = 2\n"), &[]);
    let (alice, bob) = (issuer.token("dag:read"), issuer.token_with("sub", json!("bob")));
    let first = read(&node, &alice);
    assert_eq!((first.status, first.header("ratelimit")), (200, Some("\"default\";r=1;t=1")));
    assert_eq!(first.header("ratelimit-policy"), Some("\"default\";q=2;w=2"));
    assert_eq!(read(&node, &alice).status, 200);
    let refused = read(&node, &alice);
    let problem = refused.is_problem(429, "rate_limited");
    let wait = problem["retryAfterMs"].as_u64().unwrap();
    assert!((1..=1000).contains(&wait), "{problem}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit"), Some("\"default\";r=0;t=2"));
    assert_eq!(read(&node, &bob).status, 200, "another principal has a rate of its own");
    // Refusals for want of a token count for the address, so that guessing is bounded too.
    let statuses: Vec<u16> = (0..8).map(|_| get(&node, TIPS).status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(get(&node, "/livez").status, 200);
}

#[test]
fn s3_2_3_over_mcp_a_refused_call_is_a_json_rpc_error_and_a_tool_has_its_own_rate() {
    let issuer = Issuer::start();
    let limits = "[limits]\nburst = 100\n[[limits.tool]]\nname = \"dag_tips\"\nrequests_per_second = 1\nburst = 1\n";
    let (node, _folder) = node_with(&(auth(&issuer) + limits), &[]);
    let token = issuer.token("dag:read");
    let tips = |named: &str| call_tool(&node, &token, named, "dag_tips", &json!({}));
    assert!(tips("dag_tips").json()["result"].is_object());
    let refused = tips("dag_tips").json();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(7), &json!(-31001)), "{refused}");
    assert_eq!(refused["error"]["data"]["reason"], "rate_limited");
    assert!(0 < refused["error"]["data"]["retryAfterMs"].as_u64().unwrap());
    // A header that names another tool does not lead around it.
    let lying = tips("node_status").json();
    assert_eq!(lying["error"]["code"], -31001, "{lying}");
    let other = call_tool(&node, &token, "node_status", "node_status", &json!({}));
    assert!(other.json()["result"].is_object(), "the other tools go on: {}", other.text());
}

#[test]
fn s3_2_3_without_a_gateway_file_nobody_is_counted() {
    let node = Node::start();
    let answer = get(&node, TIPS);
    assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
}
