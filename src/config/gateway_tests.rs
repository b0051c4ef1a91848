//! The gateway's file: what it means, and what is refused.

#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use super::*;

const SMALLEST: &str = "[auth]\nresource = \"https://dag.example.org/mcp\"\nissuers = [\"https://id.example.org\"]\n";

fn refused(text: &str) -> String {
    Gateway::parse("g.toml", text).unwrap_err().to_string()
}

#[test]
fn s6_1_9_a_file_that_says_little_gets_the_seeds_numbers() {
    let gateway = Gateway::parse("g.toml", SMALLEST).unwrap();
    let auth = gateway.auth.unwrap();
    assert!(auth.required, "who names issuers means them");
    assert_eq!((auth.clock_skew, auth.scopes), (Duration::from_secs(30), ScopeNames::default()));
    assert_eq!(gateway.limits.requests, Rate { per_second: 1000, burst: 5000 });
    assert_eq!(Gateway::parse("g.toml", "").unwrap(), Gateway::default());
}

#[test]
fn s3_2_3_a_tool_has_its_own_rate_and_takes_what_it_does_not_say_from_all() {
    let text = "[limits]\nrequests_per_second = 10\nburst = 20\n[[limits.tool]]\nname = \"dag_put\"\nburst = 3\n";
    let limits = Gateway::parse("g.toml", text).unwrap().limits;
    assert_eq!(limits.requests, Rate { per_second: 10, burst: 20 });
    assert_eq!(limits.tools, [("dag_put".to_owned(), Rate { per_second: 10, burst: 3 })]);
}

#[test]
fn s8_4_an_unknown_key_is_refused_with_the_nearest() {
    for (text, expected) in [
        ("[ingres]\n", "g.toml: unknown key \"ingres\" (did you mean \"ingress\"?)"),
        ("[limits]\nbrust = 1\n", "g.toml: unknown key \"limits.brust\" (did you mean \"limits.burst\"?)"),
        (
            "[[limits.tool]]\nnames = \"x\"\n",
            "g.toml: unknown key \"limits.tool.names\" (did you mean \"limits.tool.name\"?)",
        ),
        ("colour = 1\n", "g.toml: unknown key \"colour\""),
    ] {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn s6_1_9_values_that_would_weaken_the_door_are_refused_by_name() {
    for (text, key) in [
        (SMALLEST.replace("https://id", "http://id"), "auth.issuers"),
        (SMALLEST.replace("https://id.example.org", "https://id.example.org/#x"), "auth.issuers"),
        (SMALLEST.replace("https://dag", "http://dag"), "auth.resource"),
        (SMALLEST.replace("/mcp", "/elsewhere"), "auth.resource"),
        (SMALLEST.replace("https://dag", "https://user@dag"), "auth.resource"),
        ("[auth]\nresource = \"https://dag.example.org\"\n".to_owned(), "auth.issuers"),
        (format!("{SMALLEST}clock_skew_s = 3000\n"), "auth.clock_skew_s"),
        (format!("{SMALLEST}[auth.scopes]\nread = \"two words\"\n"), "auth.scopes.read"),
        ("[limits]\nburst = 0\n".to_owned(), "limits.burst"),
        ("[ingress]\nhosts = [\"https://dag.example.org\"]\n".to_owned(), "ingress.hosts"),
        ("[ingress]\norigins = [\"*\"]\n".to_owned(), "ingress.origins"),
    ] {
        let told = refused(&text);
        assert!(told.starts_with(&format!("g.toml: {key} = ")), "{text}: {told}");
    }
    let local = SMALLEST.replace("https://id.example.org", "http://127.0.0.1:8080");
    assert!(Gateway::parse("g.toml", &local).is_ok(), "nobody is between two processes of one machine");
}
