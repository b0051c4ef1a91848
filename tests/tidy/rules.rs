//! The rules, each a function from a file to its violations.
//!
//! Promises: a violation names the file, the line and the rule in one sentence.
//! Does not: read files; the house and the planted violations are handed in alike.

use super::source::{Source, is_word};

/// Rooms of `src/` in the direction of knowledge, lowest first: a room imports only what stands before it.
const ROOMS: [&str; 23] = [
    "ids",
    "limits",
    "error",
    "config",
    "security",
    "telemetry",
    "runtime",
    "dag",
    "feed",
    "membership",
    "router",
    "transaction",
    "shard",
    "control",
    "pool",
    "edge",
    "registry",
    "federation",
    "gateway",
    "client",
    "node",
    "plan",
    "cli",
];

/// The only files with `unsafe`, each for one reason.
pub(crate) const UNSAFE_FILES: [&str; 7] = [
    // System calls that std does not offer.
    "src/config/probe.rs",
    // Archives are read in place after their checksum was checked.
    "src/dag/archive.rs",
    // Columns that readers follow while the writer grows them.
    "src/dag/skeleton/published.rs",
    // Pinning a thread to a CPU.
    "src/runtime/mod.rs",
    // A socket handed to the executor of a storage core, and what std does not ask the kernel.
    "storage/src/io/glommio.rs",
    // Buffers that the kernel fills.
    "storage/src/io/uring.rs",
    // Blocks aligned for O_DIRECT.
    "storage/src/wire.rs",
];

/// Lines of a file above which it must say why.
const LINES_MAX: usize = 600;

/// `storage/` and `net/` import neither each other nor the root.
pub(crate) fn members_stay_apart(source: &Source) -> Vec<String> {
    let strangers: &[&str] = match source.path.split('/').next() {
        Some("storage") => &["qmesh_net", "qmesh"],
        Some("net") => &["qmesh_storage", "qmesh"],
        _ => return Vec::new(),
    };
    let named = |(line, path): (usize, String)| {
        let first = path.split("::").next()?;
        strangers.contains(&first).then(|| violation(source, line, &format!("a member crate must not know {first}")))
    };
    source.paths().into_iter().filter_map(named).collect()
}

/// The async runtime is spawned on, pinned and built in three folders, so that changing it stays three folders.
pub(crate) fn runtime_stays_home(source: &Source) -> Vec<String> {
    const HOMES: [&str; 3] = ["src/runtime/", "storage/src/io/", "net/src/io/"];
    const CRATES: [&str; 5] = ["tokio_uring", "glommio", "io_uring", "compio", "monoio"];
    const PATHS: [&str; 4] = ["tokio::spawn", "tokio::task", "tokio::runtime", "tokio::main"];
    const WORDS: [&str; 3] = ["block_on", "new_current_thread", "new_multi_thread"];
    // Asking whether io_uring is permitted is a fact of the host, not a use of the runtime.
    const ASKS: [(&str, &str); 1] = [("src/config/probe.rs", "SYS_io_uring_setup")];
    if source.is_test() || HOMES.iter().any(|home| source.path.starts_with(home)) {
        return Vec::new();
    }
    let named = |(line, path): (usize, String)| {
        let mut segments = path.split("::");
        // A crate's name alone may be one of our modules' or an enum's; as the start of a path it is the crate.
        let crate_named = CRATES.contains(&segments.next()?) && path.contains("::");
        let path_named = PATHS.iter().any(|&named| path == named || path.starts_with(&format!("{named}::")));
        let word_named =
            path.split("::").any(|segment| WORDS.contains(&segment) || segment.starts_with("SYS_io_uring"));
        // Yielding is a turn of the loop one is on, whichever it is; nothing is spawned, pinned or built.
        let path_named = path_named && path != "tokio::task::yield_now";
        let asks = ASKS.iter().any(|&(file, word)| source.path == file && path.ends_with(word));
        ((crate_named || path_named || word_named) && !asks)
            .then(|| violation(source, line, &format!("{path} names the runtime outside {}", HOMES.join(", "))))
    };
    source.paths().into_iter().filter_map(named).collect()
}

/// Rooms that only decide and compute; a file `driver.rs`, or a folder `driver`, in one of them acts.
const PURE: [&str; 3] = ["src/dag/", "src/control/", "src/membership/"];

/// What decides and computes names no async, clock, socket, file, lock, thread or chance.
pub(crate) fn deciding_is_pure(source: &Source) -> Vec<String> {
    const WORDS: [&str; 13] = [
        "async",
        "await",
        "tokio",
        "Instant",
        "SystemTime",
        "Mutex",
        "RwLock",
        "Condvar",
        "rand",
        "getrandom",
        "println",
        "eprintln",
        "tracing",
    ];
    const PATHS: [&str; 6] = ["std::net", "std::fs", "std::thread", "std::process", "std::env", "std::io"];
    // An address is a word; only a socket is a deed.
    const ADDRESSES: [&str; 4] =
        ["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr", "std::net::SocketAddr"];
    // A generator from a seed is arithmetic; only where the seed comes from is chance.
    const SEEDED: [&str; 2] = ["rand::rngs::SmallRng", "rand::SeedableRng"];
    let Some(room) = PURE.into_iter().find(|room| source.path.starts_with(room)) else { return Vec::new() };
    if source.is_test() || source.path.ends_with("/driver.rs") || source.path.contains("/driver/") {
        return Vec::new();
    }
    let named = |(line, path): (usize, String)| {
        let word =
            path.split("::").find(|segment| WORDS.contains(segment)).filter(|_| !SEEDED.contains(&path.as_str()));
        let below = |named: &str| path == named || path.starts_with(&format!("{named}::"));
        let prefix = PATHS.into_iter().find(|named| below(named)).filter(|_| !ADDRESSES.into_iter().any(below));
        word.or(prefix).map(|found| violation(source, line, &format!("{room} is pure and must not name {found}")))
    };
    source.paths().into_iter().filter_map(named).collect()
}

/// The doors know the router and their languages, not what lies behind.
pub(crate) fn gateway_knows_no_cellar(source: &Source) -> Vec<String> {
    if source.room() != Some("gateway") || source.is_test() {
        return Vec::new();
    }
    let named = |(line, path): (usize, String)| {
        let behind = room_named(source, &path).is_some_and(|room| room == "shard") || path.starts_with("qmesh_storage");
        behind.then(|| violation(source, line, &format!("gateway must not know {path}")))
    };
    source.paths().into_iter().filter_map(named).collect()
}

/// A room imports only what stands before it in [`ROOMS`].
pub(crate) fn rooms_look_down(source: &Source) -> Vec<String> {
    let Some(room) = source.room().filter(|_| !source.is_test()) else { return Vec::new() };
    let Some(own) = ROOMS.iter().position(|&known| known == room) else {
        return vec![violation(source, 1, &format!("{room} has no place in the direction of knowledge"))];
    };
    let named = |(line, path): (usize, String)| {
        let other = room_named(source, &path)?;
        let place = ROOMS.iter().position(|&known| known == other)?;
        (own < place).then(|| violation(source, line, &format!("{room} must not know {other}, which stands after it")))
    };
    source.paths().into_iter().filter_map(named).collect()
}

/// The room that a path leads to: `crate::room`, or as many `super` as lead to the root.
fn room_named(source: &Source, path: &str) -> Option<String> {
    let mut segments: Vec<&str> = path.split("::").collect();
    if segments[0] == "self" {
        segments.remove(0);
    }
    let up = segments.iter().take_while(|&&segment| segment == "super").count();
    let below = match segments.first() {
        Some(&"crate") => 1,
        Some(&"super") if source.depth() <= up => up,
        _ => return None,
    };
    segments.get(below).map(|&room| room.to_owned())
}

/// `unsafe` lives in [`UNSAFE_FILES`], each block with its reason.
pub(crate) fn unsafe_is_named(source: &Source) -> Vec<String> {
    /// Lines above an `unsafe` in which its reason must stand: a statement that rustfmt has broken is no longer.
    const LINES_ABOVE: usize = 6;
    let lines: Vec<&str> = source.text.lines().collect();
    let mut violations = Vec::new();
    for (index, code) in source.code_with_tests.lines().enumerate() {
        if !mentions(code, "unsafe") {
            continue;
        }
        if !source.is_test() && !UNSAFE_FILES.contains(&source.path.as_str()) {
            violations.push(violation(source, index + 1, "unsafe outside the files that may have it"));
        }
        let above = &lines[index.saturating_sub(LINES_ABOVE)..=index];
        if !above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
            violations.push(violation(source, index + 1, "unsafe without its reason (SAFETY: …)"));
        }
    }
    violations
}

/// Whether a word stands in the code.
pub(crate) fn mentions(code: &str, word: &str) -> bool {
    let bytes = code.as_bytes();
    code.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).is_some_and(|before| is_word(bytes[before]));
        let after = bytes.get(at + word.len()).is_some_and(|&byte| is_word(byte));
        !before && !after
    })
}

/// A file over [`LINES_MAX`] lines has a line `//! Length: reason`.
pub(crate) fn length_has_a_reason(source: &Source) -> Vec<String> {
    let count = source.text.lines().count();
    let reason = source.text.lines().find_map(|line| line.strip_prefix("//! Length:"));
    match reason {
        None if LINES_MAX < count => {
            vec![violation(source, 1, &format!("{count} lines need a line `//! Length: reason`, or two files"))]
        }
        Some(reason) if reason.trim().is_empty() => vec![violation(source, 1, "the reason for the length is empty")],
        Some(_) if count <= LINES_MAX => vec![violation(source, 1, "the reason for the length is needed no more")],
        _ => Vec::new(),
    }
}

/// Every file says first what it is.
pub(crate) fn opens_with_a_header(source: &Source) -> Vec<String> {
    let mut lines = source.text.lines();
    match lines.next().and_then(|line| line.strip_prefix("//! ")) {
        Some(text) if !text.trim().is_empty() => Vec::new(),
        _ => vec![violation(source, 1, "the file does not open with a `//!` line that says what it is")],
    }
}

/// No module is named after nothing.
pub(crate) fn names_say_something(source: &Source) -> Vec<String> {
    const EMPTY: [&str; 10] =
        ["manager", "managers", "helper", "helpers", "util", "utils", "utility", "utilities", "common", "impls"];
    let empty = |name: &str| name.split('_').any(|word| EMPTY.contains(&word));
    let file = source.path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    let mut violations: Vec<String> =
        file.filter(|part| empty(part)).map(|part| violation(source, 1, &format!("{part} says nothing"))).collect();
    for (index, line) in source.code_with_tests.lines().enumerate() {
        let mut words = line.split(|byte: char| !byte.is_alphanumeric() && byte != '_').filter(|word| !word.is_empty());
        if words.any(|word| word == "mod")
            && let Some(name) = words.next().filter(|name| empty(name))
        {
            violations.push(violation(source, index + 1, &format!("mod {name} says nothing")));
        }
    }
    violations
}

/// Every test's name starts with the requirement it holds, `s<digit>_`; none is ignored.
pub(crate) fn tests_name_a_requirement(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    let mut waiting = false;
    for (index, line) in source.code_with_tests.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[ignore") {
            violations.push(violation(source, index + 1, "a test that is ignored holds nothing"));
        }
        waiting |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let Some((before, after)) = line.split_once("fn ") else { continue };
        if !waiting || before.bytes().next_back().is_some_and(is_word) {
            continue;
        }
        waiting = false;
        let name: String = after.chars().take_while(|&letter| letter.is_alphanumeric() || letter == '_').collect();
        let digits = name.strip_prefix('s').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        if digits == 0 || name.as_bytes().get(1 + digits) != Some(&b'_') {
            violations.push(violation(
                source,
                index + 1,
                &format!("test {name} does not start with a requirement, s<digit>_"),
            ));
        }
    }
    violations
}

/// The map has one heading a room.
pub(crate) fn map_shows_every_room(map: &str, rooms: &[String]) -> Vec<String> {
    let headings: Vec<String> = map
        .lines()
        .filter(|line| line.starts_with("## ") || line.starts_with("### "))
        .map(|line| line.trim_start_matches('#').trim().replace('`', ""))
        .collect();
    let mut violations = Vec::new();
    for room in rooms {
        let count = headings.iter().filter(|heading| heading.split([' ', ':', ',']).next() == Some(room)).count();
        if count != 1 {
            violations.push(format!("ARCHITECTURE.md: {count} headings for {room}, there must be one"));
        }
    }
    for heading in &headings {
        let named = heading.split([' ', ':', ',']).next().unwrap_or_default();
        if named.starts_with("src/") && !rooms.iter().any(|room| room == named) {
            violations.push(format!("ARCHITECTURE.md: a heading for {named}, which is not there"));
        }
    }
    violations
}

/// The top level: what a person sees first stays small. Dot-files are free; `target` and `qmesh-data` are made by running.
pub(crate) fn top_level_is_fixed(names: &[String]) -> Vec<String> {
    const FIXED: [&str; 17] = [
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "src",
        "storage",
        "net",
        "benches",
        "tuning",
        "tests",
        "target",
    ];
    names
        .iter()
        .filter(|name| !name.starts_with('.') && !FIXED.contains(&name.as_str()) && *name != "qmesh-data")
        .map(|name| format!("{name}: the top level has no such entry"))
        .collect()
}

fn violation(source: &Source, line: usize, rule: &str) -> String {
    format!("{}:{line}: {rule}", source.path)
}
