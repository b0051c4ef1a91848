//! Holds the rules of the house that a machine can hold, by reading the source as text.
//!
//! Promises: every rule is a function over (path, text), and `tidy/planted.rs` shows for each that it catches a violation.
//! Does not: replace the compiler or clippy, or judge what only a reader can.

#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::path::{Path, PathBuf};

use source::Source;

/// Folders that hold Rust of ours.
const FOLDERS: [&str; 5] = ["src", "storage", "net", "tests", "benches"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project, in the order of their paths.
fn sources() -> Vec<Source> {
    fn collect(folder: &Path, found: &mut Vec<Source>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.expect("folder can be listed").path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    collect(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("source is UTF-8");
                let relative = path.strip_prefix(root()).expect("below the root").to_str().expect("path is UTF-8");
                found.push(Source::new(relative, &text));
            }
        }
    }
    let mut found = Vec::new();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut found);
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(8 < found.len(), "the source was not found: {} files", found.len());
    found
}

fn hold(rule: fn(&Source) -> Vec<String>) {
    let violations: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn s0_2_the_member_crates_know_neither_each_other_nor_the_root() {
    hold(rules::members_stay_apart);
}

#[test]
fn s0_2_the_runtime_is_named_in_its_own_folders_only() {
    hold(rules::runtime_stays_home);
}

#[test]
fn s0_2_what_decides_is_pure() {
    hold(rules::deciding_is_pure);
}

#[test]
fn s0_2_the_gateway_knows_no_shard_and_no_log() {
    hold(rules::gateway_knows_no_cellar);
}

#[test]
fn s0_2_a_room_imports_only_what_stands_before_it() {
    hold(rules::rooms_look_down);
}

#[test]
fn s0_2_unsafe_lives_in_a_handful_of_named_files_each_block_with_its_reason() {
    hold(rules::unsafe_is_named);
    let sources = sources();
    for path in rules::UNSAFE_FILES {
        if let Some(source) = sources.iter().find(|source| source.path == path) {
            assert!(rules::mentions(&source.code, "unsafe"), "{path} needs its place in the list no more");
        }
    }
}

#[test]
fn s0_2_a_long_file_says_why() {
    hold(rules::length_has_a_reason);
}

#[test]
fn s0_2_every_file_opens_with_what_it_is() {
    hold(rules::opens_with_a_header);
}

#[test]
fn s0_2_names_of_modules_say_what_is_in_them() {
    hold(rules::names_say_something);
}

#[test]
fn s0_2_every_test_names_its_requirement_and_none_is_ignored() {
    hold(rules::tests_name_a_requirement);
}

#[test]
fn s0_2_the_map_has_a_heading_for_every_room() {
    let mut rooms: Vec<String> = ["storage", "net"].map(str::to_owned).to_vec();
    for entry in std::fs::read_dir(root().join("src")).expect("src can be listed") {
        let entry = entry.expect("src can be listed");
        if entry.path().is_dir() {
            rooms.push(format!("src/{}", entry.file_name().to_str().expect("names are UTF-8")));
        }
    }
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map is there");
    let violations = rules::map_shows_every_room(&map, &rooms);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn s0_2_the_top_level_stays_as_it_was_fixed() {
    let entries = std::fs::read_dir(root()).expect("the root can be listed");
    let names = entries.map(|entry| entry.expect("the root can be listed").file_name().to_string_lossy().into_owned());
    let violations = rules::top_level_is_fixed(&names.collect::<Vec<_>>());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}
