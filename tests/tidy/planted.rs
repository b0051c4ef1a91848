//! Violations planted on purpose: a rule that catches none of them would hold nothing.
//!
//! Promises: for every rule, texts it must catch with the line, and texts it must let pass.
//! Does not: touch the source of the house.

use super::rules;
use super::source::Source;

/// Checks that a rule finds violations on exactly these lines of a text.
#[track_caller]
fn check(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, lines: &[usize]) {
    let found: Vec<usize> = rule(&Source::new(path, text))
        .iter()
        .map(|violation| {
            let place = violation.strip_prefix(path).and_then(|rest| rest.strip_prefix(':')).expect("names its file");
            place.split(':').next().expect("names its line").parse().expect("names its line")
        })
        .collect();
    assert_eq!(found, lines, "{path}:\n{text}");
}

#[test]
fn s0_2_planted_imports_between_the_member_crates_are_caught() {
    let rule = rules::members_stay_apart;
    check(rule, "storage/src/log.rs", "use qmesh_net::Endpoint;", &[1]);
    check(rule, "storage/tests/log.rs", "\nfn a() { qmesh::run() }", &[2]);
    check(rule, "net/src/rpc.rs", "use {qmesh_storage as log};", &[1]);
    check(rule, "net/src/rpc.rs", "// qmesh_storage\nlet a = \"qmesh_storage\"; let qmesh_storage_like = 1;", &[]);
    check(rule, "src/shard/mod.rs", "use qmesh_storage::Log; use qmesh_net::Client;", &[]);
}

#[test]
fn s0_2_planted_runtimes_are_caught() {
    let rule = rules::runtime_stays_home;
    for text in [
        "tokio::spawn(a)",
        "use tokio::{net, task::spawn_local};",
        "use tokio::runtime;",
        "tokio::runtime::Builder::new_current_thread()",
        "let builder = Builder::new_current_thread();",
        "runtime.block_on(a)",
        "tokio_uring::start(a)",
        "use glommio::LocalExecutor;",
        "use io_uring::{IoUring};",
        "libc::syscall(libc::SYS_io_uring_enter)",
        "#[tokio::main] async fn main() {}",
    ] {
        check(rule, "src/shard/host.rs", &format!("//! A host.\n{text}"), &[2]);
        check(rule, "storage/src/log.rs", text, &[1]);
        check(rule, "src/config/probe.rs", text, &[1]);
        for home in ["src/runtime/mod.rs", "storage/src/io/uring.rs", "net/src/io/task.rs", "tests/refs.rs"] {
            check(rule, home, text, &[]);
        }
        check(rule, "storage/src/log.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}"), &[]);
        check(rule, "storage/src/log.rs", &format!("// {text}\n/* {text} */ let a = r#\"{text}\"#;"), &[]);
    }
    check(rule, "src/config/probe.rs", "libc::syscall(libc::SYS_io_uring_setup)", &[]);
    check(
        rule,
        "src/node/core.rs",
        "qmesh_storage::io::glommio::Disk::start(); let glommio = 1; tokio::sync::oneshot()",
        &[],
    );
    check(rule, "src/router/mod.rs", "tokio::task::yield_now().await", &[]);
    check(rule, "net/src/rpc/server.rs", "use crate::io::task; task::spawn_local(a)", &[]);
}

#[test]
fn s0_2_planted_impurities_are_caught() {
    let rule = rules::deciding_is_pure;
    for text in [
        "async fn a() {}",
        "use std::time::{Duration, Instant};",
        "std::time::SystemTime::now()",
        "use std::{collections::HashMap, fs::File};",
        "use std::net::UdpSocket;",
        "use std::net::{IpAddr, TcpStream};",
        "use std::sync::{Arc, Mutex};",
        "let lock: parking_lot::RwLock<u8>;",
        "use tokio::sync::mpsc;",
        "std::thread::current()",
        "rand::random()",
    ] {
        check(rule, "src/dag/walk/lca.rs", text, &[1]);
        check(rule, "src/control/steps.rs", text, &[1]);
        check(rule, "src/control/driver.rs", text, &[]);
        check(rule, "src/feed/mod.rs", text, &[]);
        check(rule, "src/dag/vertex.rs", &format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{text}\n}}\n"), &[]);
    }
    check(rule, "src/control/member.rs", "use std::net::{IpAddr, SocketAddr};", &[]);
    check(rule, "src/membership/gossip.rs", "use rand::{SeedableRng, rngs::SmallRng};", &[]);
    check(rule, "src/membership/gossip.rs", "use rand::{SeedableRng, rngs::SysRng};", &[1]);
    check(rule, "src/dag/vertex.rs", "use std::time::Duration; let operand = 1; /// Instant\nfn random() {}", &[]);
}

#[test]
fn s0_2_planted_looks_behind_the_router_are_caught() {
    let rule = rules::gateway_knows_no_cellar;
    check(rule, "src/gateway/http/mod.rs", "use crate::{router, shard::Host};", &[1]);
    check(rule, "src/gateway/mod.rs", "use super::shard::Host;", &[1]);
    check(rule, "src/gateway/quic/mod.rs", "use super::super::shard;", &[1]);
    check(rule, "src/gateway/quic/mod.rs", "fn a(record: qmesh_storage::Record) {}", &[1]);
    check(rule, "src/gateway/quic/mod.rs", "use super::shard; use crate::router::Router; let shard = 1;", &[]);
    check(rule, "src/router/mod.rs", "use qmesh_storage::Record;", &[]);
}

#[test]
fn s0_2_planted_looks_upwards_are_caught() {
    let rule = rules::rooms_look_down;
    check(rule, "src/limits.rs", "use crate::error::Reason;", &[1]);
    check(rule, "src/dag/vertex.rs", "use crate::{ids::VertexId,\n    feed::Feed};", &[2]);
    check(rule, "src/dag/walk/mod.rs", "use super::super::gateway::Door;", &[1]);
    check(rule, "src/error.rs", "use super::config;", &[1]);
    check(rule, "src/router/mod.rs", "fn a() { crate::node::up() }", &[1]);
    check(rule, "src/weather/mod.rs", "//! Rain.", &[1]);
    check(rule, "src/node/mod.rs", "use crate::{config, gateway, shard}; use super::router;", &[]);
    check(rule, "src/dag/walk/mod.rs", "use super::feed; use crate::dag::shape; use crate::limits;", &[]);
    check(rule, "src/dag/mod.rs", "#[cfg(test)]\nuse crate::node;\nuse crate::ids;", &[]);
    check(rule, "src/main.rs", "use qmesh::cli; use crate::anything;", &[]);
}

#[test]
fn s0_2_planted_unsafe_is_caught() {
    let rule = rules::unsafe_is_named;
    check(rule, "src/router/mod.rs", "// SAFETY: none.\nunsafe { a() }", &[2]);
    check(rule, "src/router/mod.rs", "unsafe { a() }", &[1, 1]);
    check(rule, "src/dag/archive.rs", "unsafe { a() }", &[1]);
    check(rule, "src/dag/archive.rs", "// SAFETY: checked above.\nunsafe { a() }", &[]);
    check(rule, "src/dag/archive.rs", "// SAFETY: far.\n\n\n\n\n\n\n\nunsafe { a() }", &[9]);
    check(rule, "src/router/mod.rs", "// unsafe\nlet a = \"unsafe\"; let unsafe_like = 1;", &[]);
}

#[test]
fn s0_2_planted_lengths_are_caught() {
    let rule = rules::length_has_a_reason;
    let lines = |first: &str, count: usize| format!("{first}\n{}", "a();\n".repeat(count - 1));
    check(rule, "src/a.rs", &lines("//! A.", 600), &[]);
    check(rule, "src/a.rs", &lines("//! A.", 601), &[1]);
    check(rule, "src/a.rs", &lines("//! Length: one table.", 601), &[]);
    check(rule, "src/a.rs", &lines("//! Length: ", 601), &[1]);
    check(rule, "src/a.rs", &lines("//! Length: one table.", 600), &[1]);
}

#[test]
fn s0_2_planted_files_without_a_header_are_caught() {
    let rule = rules::opens_with_a_header;
    check(rule, "src/a.rs", "use std::fs;", &[1]);
    check(rule, "src/a.rs", "", &[1]);
    check(rule, "src/a.rs", "//! \nfn a() {}", &[1]);
    check(rule, "src/a.rs", "//! What it is.\n", &[]);
}

#[test]
fn s0_2_planted_empty_names_are_caught() {
    let rule = rules::names_say_something;
    check(rule, "src/router/utils.rs", "//! A.", &[1]);
    check(rule, "src/helpers/mod.rs", "//! A.", &[1]);
    check(rule, "src/router/slot_manager.rs", "//! A.", &[1]);
    check(rule, "src/router/mod.rs", "//! A.\npub(crate) mod common;", &[2]);
    check(rule, "src/router/mod.rs", "//! A mod of utils.\nmod slots; let utils = 1;", &[]);
}

#[test]
fn s0_2_planted_tests_without_a_requirement_are_caught() {
    let rule = rules::tests_name_a_requirement;
    check(rule, "src/a.rs", "#[test]\nfn it_works() {}", &[2]);
    check(rule, "src/a.rs", "#[tokio::test(flavor = \"current_thread\")]\nasync fn works() {}", &[2]);
    check(rule, "src/a.rs", "#[test]\n#[should_panic]\nfn sx_1() {}", &[3]);
    check(rule, "src/a.rs", "proptest! {\n    #[test]\n    fn any(a in 0..1) {}\n}", &[3]);
    check(rule, "src/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn s1_1_a() {}", &[2]);
    check(rule, "src/a.rs", "#[test] fn works() {}", &[1]);
    check(rule, "src/a.rs", "#[test]\nfn s1_1_9_a() { fn inner() {} }\nfn helper() {}", &[]);
    check(rule, "src/a.rs", "#[test]\nfn s10_a() {}\n// #[test]\nfn free() {}", &[]);
}

#[test]
fn s0_2_planted_gaps_in_the_map_are_caught() {
    let rooms = ["storage", "src/dag", "src/node"].map(str::to_owned);
    for (map, count) in [
        ("## storage\n## src/dag\n### `src/node`: the root\n", 0),
        ("## storage\n## src/dag\n", 1),
        ("## storage\n## src/dag\n## src/node\n## src/node\n", 1),
        ("## storage\n## src/dag\n## src/node\n## src/gone\n", 1),
        ("# storage\nsrc/dag and ## src/node\n", 3),
    ] {
        assert_eq!(rules::map_shows_every_room(map, &rooms).len(), count, "{map}");
    }
}

#[test]
fn s0_2_planted_entries_at_the_top_are_caught() {
    let names = ["Cargo.toml", "src", ".ci", "target", "qmesh-data", "scripts", "docs"].map(str::to_owned);
    let found = rules::top_level_is_fixed(&names);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn s0_2_the_reader_of_source_sees_code_and_nothing_else() {
    let text = "let a = 'x'; let b: &'static str = \"\\\"y\"; // z\nlet c = br##\"w\"# v\"##; /* u /* t */ s */ let d = '\\'';\n";
    let source = Source::new("src/a.rs", text);
    for gone in ["x", "y", "z", "w", "v", "u", "t", "s"] {
        assert!(!rules::mentions(&source.code, gone), "{gone} in {}", source.code);
    }
    for there in ["a", "b", "static", "str", "c", "d"] {
        assert!(rules::mentions(&source.code, there), "{there} in {}", source.code);
    }
    assert_eq!(source.code.lines().count(), text.lines().count());
    let paths = |text: &str| -> Vec<String> {
        Source::new("src/a.rs", text).paths().into_iter().map(|(_, path)| path).collect()
    };
    assert_eq!(
        paths("use a::{b, c::{d, e as f}, *};"),
        ["use", "a::b", "a::c::d", "a::c::e", "as", "f", "a::*"].map(|path| {
            // Renames inside a group are read as members of it, which can only make a rule stricter.
            match path {
                "as" => "a::c::as".to_owned(),
                "f" => "a::c::f".to_owned(),
                other => other.to_owned(),
            }
        })
    );
    assert_eq!(paths("x :: y::<z::w>()"), ["x::y", "z::w"]);
}
