//! Refs: names, compare-and-set, the table, the record of a move.
//!
//! Promises: a ref moves only as decided, its version never goes back, and a record of strangers is refused or read
//! whole.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use qmesh::dag::ref_record::{RECORD_KIND_REF, RefRecord, RefRecordError};
use qmesh::dag::refs::{Expect, Position, RefError, RefMove, RefName, RefTable};
use qmesh::error::{Reason, Refusal};
use qmesh::ids::{LogIndex, VertexId};
use qmesh::limits::{REF_NAME_BYTES_MAX, REFLOG_ENTRIES_MAX, REFS_PER_SHARD_MAX};
use qmesh_storage::{Record, RecordError};

const A: VertexId = VertexId([0xa; 32]);
const B: VertexId = VertexId([0xb; 32]);

fn name(text: &str) -> RefName {
    text.parse().unwrap()
}

fn wanted(text: &str, expect: Expect, to: Option<VertexId>) -> RefMove {
    RefMove { name: name(text), expect, to, actor: "ada".into(), reason: "because".into(), timestamp_ms: 7 }
}

fn apply(table: &mut RefTable, index: u64, text: &str, expect: Expect, to: Option<VertexId>) -> Result<(), RefError> {
    let record = table.decide(&wanted(text, expect, to))?;
    let again = RefRecord::from_record(&record.to_record()).unwrap();
    assert_eq!(again, record, "what is logged is what was decided");
    assert!(table.apply(LogIndex(index), again));
    Ok(())
}

#[test]
fn s2_2_1_ref_names_follow_git() {
    for good in
        ["HEAD", "main", "refs/heads/main", "refs/heads/größe", "a.b/c-d_e", "refs/tags/v1.0", "@/x", "a@b", "-", "{}"]
    {
        assert_eq!(name(good).as_str(), good);
    }
    let check = |text: &str, rule: &str| match text.parse::<RefName>() {
        Err(RefError::Name(_, found)) => assert!(found.contains(rule), "{text:?}: {found}"),
        other => panic!("{text:?}: {other:?}"),
    };
    check("", "empty");
    check("@", "single @");
    check("a..b", "two dots");
    check("a@{1}", "@{");
    check("a.", "ends with a dot");
    for text in ["/a", "a/", "a//b"] {
        check(text, "segment between slashes");
    }
    for text in [".a", "a/.b"] {
        check(text, "begins with a dot");
    }
    for text in ["a.lock", "a.lock/b"] {
        check(text, ".lock");
    }
    for forbidden in " ~^:?*[\\\0\n\u{7f}".chars() {
        check(&format!("a{forbidden}b"), "not allowed");
    }
    assert!("x".repeat(REF_NAME_BYTES_MAX).parse::<RefName>().is_ok());
    let long = "x".repeat(REF_NAME_BYTES_MAX + 1).parse::<RefName>().unwrap_err();
    assert_eq!(long.to_string(), "ref name: 513 bytes, at most 512 bytes");
    assert_eq!(Refusal::from(long).reason, Reason::LimitExceeded);
    assert_eq!(name("main").key(), *blake3::hash(b"main").as_bytes());
    assert_eq!(name("main").slot(16), VertexId(name("main").key()).slot(16));
}

#[test]
fn s2_2_1_a_ref_moves_only_from_where_it_is_expected() {
    let mut table = RefTable::default();
    let conflict = |found| Err(RefError::Conflict { name: name("main"), found });
    assert_eq!(apply(&mut table, 1, "main", Expect::At(A), Some(B)), conflict(None));
    assert_eq!(apply(&mut table, 1, "main", Expect::Any, None), conflict(None), "nothing to delete");
    assert_eq!(apply(&mut table, 1, "main", Expect::Absent, Some(A)), Ok(()));
    assert_eq!(apply(&mut table, 2, "main", Expect::Absent, Some(B)), conflict(Some(A)));
    assert_eq!(apply(&mut table, 2, "main", Expect::At(B), Some(B)), conflict(Some(A)));
    assert_eq!(apply(&mut table, 2, "main", Expect::At(A), Some(B)), Ok(()));
    assert_eq!(apply(&mut table, 3, "main", Expect::Any, Some(A)), Ok(()));
    assert_eq!(table.get(&name("main")), Some(A));
    assert_eq!(table.get(&name("other")), None);
    let refusal = Refusal::from(apply(&mut table, 4, "main", Expect::Absent, Some(B)).unwrap_err());
    assert_eq!((refusal.reason, refusal.detail), (Reason::Conflict, format!("ref main is at {A}")));
}

#[test]
fn s2_2_1_a_deleted_ref_keeps_its_log_and_its_version() {
    let mut table = RefTable::default();
    apply(&mut table, 1, "main", Expect::Any, Some(A)).unwrap();
    apply(&mut table, 5, "main", Expect::At(A), None).unwrap();
    assert_eq!((table.get(&name("main")), table.len()), (None, 1));
    assert_eq!(table.list("", None, 10).count(), 0, "a deleted ref is not listed");
    assert_eq!(table.position(&name("main")), Position { at: None, version: 2 });
    apply(&mut table, 9, "main", Expect::Absent, Some(B)).unwrap();
    assert_eq!(table.position(&name("main")), Position { at: Some(B), version: 3 });
    let moves: Vec<_> = table.log(&name("main"), 10).map(|e| (e.index.0, e.version, e.from, e.to)).collect();
    assert_eq!(moves, [(9, 3, None, Some(B)), (5, 2, Some(A), None), (1, 1, None, Some(A))]);
    assert_eq!(table.log(&name("main"), 1).count(), 1);
    let last = table.state(&name("main")).unwrap().log().next().unwrap();
    assert_eq!((&*last.actor, &*last.reason, last.timestamp_ms), ("ada", "because", 7));
}

#[test]
fn s2_2_1_a_replayed_move_changes_nothing() {
    let mut table = RefTable::default();
    let first = table.decide(&wanted("main", Expect::Any, Some(A))).unwrap();
    assert!(table.apply(LogIndex(1), first.clone()));
    apply(&mut table, 2, "main", Expect::At(A), Some(B)).unwrap();
    let before = table.clone();
    assert!(!table.apply(LogIndex(1), first));
    assert_eq!(table, before);
}

#[test]
fn s2_2_1_the_log_of_a_ref_is_bounded() {
    let mut table = RefTable::default();
    let moves = REFLOG_ENTRIES_MAX as u64 + 10;
    for index in 1..=moves {
        apply(&mut table, index, "main", Expect::Any, Some(A)).unwrap();
    }
    let log: Vec<_> = table.log(&name("main"), usize::MAX).map(|entry| entry.version).collect();
    assert_eq!(log, (11..=moves).rev().collect::<Vec<_>>());
    assert_eq!(table.position(&name("main")).version, moves);
}

#[test]
fn s2_2_1_bounds_of_moves_and_tables_are_said() {
    let table = RefTable::default();
    let long = RefMove { reason: "r".repeat(1025), ..wanted("main", Expect::Any, Some(A)) };
    assert_eq!(table.decide(&long).unwrap_err().to_string(), "reason of the move: 1025 bytes, at most 1024 bytes");
    let long = RefMove { actor: "a".repeat(257), ..wanted("main", Expect::Any, Some(A)) };
    assert_eq!(table.decide(&long).unwrap_err().to_string(), "actor of the move: 257 bytes, at most 256 bytes");
    assert_eq!(table.check_room(REFS_PER_SHARD_MAX - 1), Ok(()));
    assert_eq!(
        table.check_room(REFS_PER_SHARD_MAX).unwrap_err().to_string(),
        "refs of the shard: 1048577 refs, at most 1048576 refs"
    );
}

#[test]
fn s2_2_1_refs_are_listed_in_pages() {
    let mut table = RefTable::default();
    for (index, text) in ["refs/heads/a", "refs/heads/b", "refs/heads/c", "refs/tags/1", "HEAD"].into_iter().enumerate()
    {
        apply(&mut table, index as u64, text, Expect::Any, Some(A)).unwrap();
    }
    let check = |prefix: &str, after: Option<&str>, limit: usize, expected: &[&str]| {
        let after = after.map(name);
        let found: Vec<_> = table.list(prefix, after.as_ref(), limit).map(|(name, ..)| name.as_str()).collect();
        assert_eq!(found, expected, "{prefix:?} {after:?} {limit}");
    };
    check("", None, 10, &["HEAD", "refs/heads/a", "refs/heads/b", "refs/heads/c", "refs/tags/1"]);
    check("refs/heads/", None, 2, &["refs/heads/a", "refs/heads/b"]);
    check("refs/heads/", Some("refs/heads/b"), 2, &["refs/heads/c"]);
    check("refs/tags/", Some("HEAD"), 2, &["refs/tags/1"]);
    check("refs/heads/", Some("refs/tags/1"), 2, &[]);
    check("nothing", None, 2, &[]);
    check("", None, 0, &[]);
}

#[test]
fn s1_1_9_a_ref_record_that_lies_is_refused() {
    let decided = RefTable::default().decide(&wanted("main", Expect::Any, Some(A))).unwrap();
    let good = decided.to_record();
    let key = name("main").key();
    let build = |kind: u8, key: &[u8; 32], body: &[u8]| {
        Record::build::<RecordError>(kind, key, body.len(), |mut buffer| {
            buffer.extend_from_slice(body);
            Ok(buffer)
        })
        .unwrap()
    };
    let check = |record: Record, expected: RefRecordError| assert_eq!(RefRecord::from_record(&record), Err(expected));
    check(build(1, &key, good.body()), RefRecordError::RecordKind { kind: 1 });
    check(build(RECORD_KIND_REF, &[0; 32], good.body()), RefRecordError::Key(name("main")));
    let archive = |why| RefRecordError::Archive(why);
    check(build(RECORD_KIND_REF, &key, b""), archive("its parts do not fit together"));
    let padded = [&[0; 8][..], good.body()].concat();
    check(build(RECORD_KIND_REF, &key, &padded), archive("it is longer or shorter than its parts"));
    let root = good.body().len() - 112;
    let bent = |at: usize, value: u8| {
        let mut body = good.body().to_vec();
        body[root + at] = value;
        build(RECORD_KIND_REF, &key, &body)
    };
    check(bent(0, 9), RefRecordError::Version(9));
    check(bent(2, 0), archive("an id that is not there is not zero"));
    check(bent(2, 6), archive("no decision makes such a move"));
    check(bent(8, 0), archive("no decision makes such a move"));
    check(bent(3, 1), archive("reserved bytes are not zero"));

    for bit in 0..good.body().len() * 8 {
        let mut body = good.body().to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        // The texts of the move may change: nothing but the record's checksum covers them. What is read is always
        // whole.
        if let Ok(read) = RefRecord::from_record(&build(RECORD_KIND_REF, &key, &body)) {
            assert_eq!(read.name, decided.name, "bit {bit}");
            assert_eq!(RefRecord::from_record(&read.to_record()), Ok(read), "bit {bit}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn s2_2_1_a_table_is_a_map_with_compare_and_set(
        moves in proptest::collection::vec((0..4u8, 0..3u8, 0..4u8, 0..4u8), 0..60),
    ) {
        let mut table = RefTable::default();
        let mut oracle: BTreeMap<String, VertexId> = BTreeMap::new();
        let mut versions: BTreeMap<String, u64> = BTreeMap::new();
        let mut records = Vec::new();
        for (index, (which, expect, at, to)) in moves.into_iter().enumerate() {
            let text = format!("ref{which}");
            let id = |n: u8| VertexId([n; 32]);
            let expect = [Expect::Any, Expect::Absent, Expect::At(id(at))][usize::from(expect)];
            let to = (to > 0).then_some(id(to));
            let here = oracle.get(&text).copied();
            let allowed = match expect {
                Expect::Any => true,
                Expect::Absent => here.is_none(),
                Expect::At(at) => here == Some(at),
            } && (here.is_some() || to.is_some());
            let decided = table.decide(&wanted(&text, expect, to));
            prop_assert_eq!(decided.is_ok(), allowed);
            if let Ok(record) = decided {
                prop_assert_eq!(record.from, here);
                records.push((LogIndex(index as u64 + 1), record.clone()));
                prop_assert!(table.apply(LogIndex(index as u64 + 1), record));
                match to {
                    Some(to) => drop(oracle.insert(text.clone(), to)),
                    None => drop(oracle.remove(&text)),
                }
                *versions.entry(text).or_default() += 1;
            }
        }
        let listed: Vec<_> = table.list("", None, usize::MAX).map(|(name, at, _)| (name.to_string(), at)).collect();
        prop_assert_eq!(listed, oracle.into_iter().collect::<Vec<_>>());
        for (text, version) in versions {
            prop_assert_eq!(table.position(&name(&text)).version, version);
        }
        let mut replayed = RefTable::default();
        for (index, record) in records {
            replayed.apply(index, RefRecord::from_record(&record.to_record()).unwrap());
        }
        prop_assert_eq!(replayed, table);
    }
}
