//! Profiles that are read, and profiles that are refused with the words a person needs.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
use super::*;

fn paths(value: &serde_json::Value) -> Vec<String> {
    let sections = value.as_object().unwrap();
    sections
        .iter()
        .flat_map(|(section, fields)| fields.as_object().unwrap().keys().map(move |field| format!("{section}.{field}")))
        .collect()
}

#[test]
fn s8_4_every_field_has_a_key_and_every_key_a_field() {
    let profile = serde_json::to_value(Profile::named("default").unwrap()).unwrap();
    let mut fields = paths(&profile);
    let mut keys: Vec<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    fields.sort();
    keys.sort();
    assert_eq!(fields, keys);
    keys.dedup();
    assert_eq!(keys.len(), KEYS.len(), "a key stands twice");
}

#[test]
fn s8_4_every_key_is_documented_with_its_unit() {
    for key in KEYS {
        assert!(30 < key.effect.len(), "{}", key.path);
        assert!(key.effect.ends_with('.'), "{}", key.path);
        let counts = !matches!(key.kind, Kind::Flag | Kind::Choice(_));
        assert_eq!(counts, !key.unit.is_empty(), "{}", key.path);
        assert_eq!(counts, key.range.0 < key.range.1, "{}", key.path);
    }
}

/// A shipped file is read by people: every key stands in it, under a comment that says what `tune explain` says.
#[test]
fn s8_4_every_shipped_profile_lists_and_explains_every_key() {
    for shipped in SHIPPED {
        let profile = Profile::named(shipped.name).unwrap();
        assert_eq!(profile.name, shipped.name);
        let table: toml::Table = shipped.text.parse().unwrap();
        let mut comment = String::new();
        let mut section = String::new();
        let mut explained = Vec::new();
        for line in shipped.text.lines() {
            if let Some(text) = line.strip_prefix('#') {
                comment.push_str(text);
            } else if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
            } else if let Some((field, _)) = line.split_once(" = ") {
                let key = Key::find(&format!("{section}.{field}")).unwrap();
                assert!(comment.trim().starts_with(key.effect), "{} {}: {comment}", shipped.name, key.path);
                assert!(comment.contains(key.unit), "{} {}", shipped.name, key.path);
                assert!(table[&section].get(field).is_some());
                explained.push(key.path);
            }
            if !line.starts_with('#') {
                comment.clear();
            }
        }
        assert_eq!(explained, KEYS.iter().map(|key| key.path).collect::<Vec<_>>(), "{}", shipped.name);
    }
}

#[test]
fn s8_4_the_default_of_every_key_is_the_default_profile() {
    let empty = Profile::parse("default", "").unwrap();
    assert_eq!(empty, Profile::named("default").unwrap());
}

#[test]
fn s8_4_keys_that_a_file_does_not_name_keep_their_default() {
    let profile = Profile::parse("own.toml", "[storage]\nsegment_mib = 128\ncache_mib = 100\n").unwrap();
    let mut expected = Profile::named("default").unwrap();
    expected.name = "own.toml".to_owned();
    expected.storage.segment_mib = 128;
    expected.storage.cache_mib = Share::Mebibytes(100);
    assert_eq!(profile, expected);
}

fn refusal(text: &str) -> String {
    Profile::parse("own.toml", text).unwrap_err().to_string()
}

#[test]
fn s8_4_a_refused_profile_names_key_value_and_range() {
    for (text, expected) in [
        (
            "[storage]\nsegment_mb = 64",
            "own.toml: unknown key \"storage.segment_mb\" (did you mean \"storage.segment_mib\"?)",
        ),
        (
            "[net]\nsegment_mib = 64",
            "own.toml: unknown key \"net.segment_mib\" (did you mean \"storage.segment_mib\"?)",
        ),
        ("segment_mib = 64", "own.toml: unknown key \"segment_mib\" (did you mean \"storage.segment_mib\"?)"),
        ("[disk]\na = 1", "own.toml: unknown key \"[disk]\""),
        ("[storag]\na = 1", "own.toml: unknown key \"[storag]\" (did you mean \"storage\"?)"),
        ("[cpu]\ncolour = 1", "own.toml: unknown key \"cpu.colour\""),
        ("[storage]\nsegment_mib = 7", "own.toml: storage.segment_mib = 7: must be 8 to 4096 (MiB)"),
        ("[storage]\nsegment_mib = 4097", "own.toml: storage.segment_mib = 4097: must be 8 to 4096 (MiB)"),
        ("[storage]\nsegment_mib = -1", "own.toml: storage.segment_mib = -1: must be 8 to 4096 (MiB)"),
        ("[storage]\nsegment_mib = \"64\"", "own.toml: storage.segment_mib = \"64\": must be 8 to 4096 (MiB)"),
        ("[cpu]\ncores = 0", "own.toml: cpu.cores = 0: must be \"auto\" or 1 to 1024 (cores)"),
        ("[cpu]\npin = 1", "own.toml: cpu.pin = 1: must be true or false"),
        (
            "[storage]\nfallback = \"epoll\"",
            "own.toml: storage.fallback = \"epoll\": must be \"refuse\" or \"threads\"",
        ),
        (
            "[storage]\ncache_mib = \"99%\"",
            "own.toml: storage.cache_mib = \"99%\": must be 1 to 4194304, or \"1%\" to \"80%\" of the memory (MiB)",
        ),
        (
            "[storage]\nround_mib_max = 2\nround_eager_kib = 2049",
            "own.toml: storage.round_eager_kib = 2049 must be at most storage.round_mib_max = 2",
        ),
        (
            "[storage]\nbacklog_mib_max = 7",
            "own.toml: storage.round_mib_max = 8 must be at most storage.backlog_mib_max = 7",
        ),
        ("[storage]\nsegment_mib = 8", "own.toml: storage.round_mib_max = 8 must be less than storage.segment_mib = 8"),
        (
            "[storage]\nbackend = \"glommio\"\ndirect = false",
            "own.toml: storage.backend = \"glommio\" needs storage.direct = true: it knows no page cache",
        ),
        ("[net]\nkeep_alive_s = 300", "own.toml: net.keep_alive_s = 300 must be less than net.idle_timeout_s = 300"),
    ] {
        assert_eq!(refusal(text), expected, "{text}");
    }
    assert!(refusal("[cpu").starts_with("own.toml: TOML parse error at line 1"));
    assert!(refusal("[cpu.cores]\na = 1").starts_with("own.toml: cpu.cores = "));
    assert!(refusal(&"#".repeat(PROFILE_BYTES_MAX + 1)).contains("larger than 65536 bytes"));
}

#[test]
fn s8_4_the_edges_of_every_range_are_accepted_and_the_next_number_is_not() {
    // Bounds that depend on each other are widened, so that the key under test decides alone.
    let parse = |key: &Key, number: u64| {
        let (section, field) = key.path.split_once('.').unwrap();
        let table: toml::Table = format!("[{section}]\n{field} = {number}").parse().unwrap();
        Profile::from_values("edge", &table)
    };
    for key in KEYS.iter().filter(|key| !key.unit.is_empty()) {
        let (least, most) = key.range;
        assert!(parse(key, least).is_ok(), "{} {least}", key.path);
        assert!(parse(key, most).is_ok(), "{} {most}", key.path);
        assert!(parse(key, most + 1).is_err(), "{} {}", key.path, most + 1);
        assert!(least == 0 || parse(key, least - 1).is_err(), "{} {}", key.path, least - 1);
    }
}

#[test]
fn s8_4_profiles_are_found_by_name_or_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.toml");
    std::fs::write(&path, "[cpu]\ncores = 3\n").unwrap();
    let own = Profile::named_or_file(path.to_str().unwrap()).unwrap();
    assert_eq!(own.cpu.cores, Cores::Number(3));
    assert_eq!(Profile::named_or_file("laptop").unwrap(), Profile::named("laptop").unwrap());
    let unknown = Profile::named_or_file("latencie").unwrap_err().to_string();
    assert!(unknown.contains("did you mean \"latency\"?"), "{unknown}");
    assert!(unknown.contains("nvme-dedicated"), "{unknown}");
    assert!(matches!(Profile::load(&folder.path().join("none.toml")), Err(TuningError::Unreadable { .. })));
    let large = folder.path().join("large.toml");
    std::fs::write(&large, "#".repeat(PROFILE_BYTES_MAX * 2)).unwrap();
    assert!(matches!(Profile::load(&large), Err(TuningError::TooLarge { .. })));
}
