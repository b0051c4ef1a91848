//! Torn tails are cut, damage is refused: at every kind of byte of a frame, with and without hints, on and off line.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod scene;

use qmesh_storage::io::Disk;
use qmesh_storage::io::glommio::GlommioDisk;
use qmesh_storage::io::memory::{Faults, MemoryDisk};
use qmesh_storage::io::threads::ThreadDisk;
use qmesh_storage::{LogOptions, OpenError, Opened, ReadError, inspect};
use scene::{drive, number, on_core, open, record, small, until};
use std::path::{Path, PathBuf};
use std::rc::Rc;

const DIRECTORY: &str = "/log";
const BLOCK: usize = 4096;
const BODY_BYTES: usize = 100;

fn segment(sequence: u32) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{sequence:08}.seg"))
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 32 << 10, ..small() }
}

/// Three entries of one record, each durable before the next is written: frames at blocks 1, 2 and 3.
fn three(close: bool) -> MemoryDisk {
    let memory = MemoryDisk::new(7, Faults::default());
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &options()).await.unwrap();
        drive(driver);
        for number in 0..3 {
            log.append(0, 1, &record(number, BODY_BYTES)).unwrap();
            until("a commit", || memo.committed.borrow().len() as u64 == number + 1).await;
        }
        if close {
            log.close().await.unwrap();
        }
    });
    memory.crash();
    memory
}

/// Opens and answers what was found and which records; the log is let go again.
fn reopen(memory: &MemoryDisk) -> Result<(Opened, Vec<u64>), OpenError> {
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    let opened = on_core(async {
        let (_, _, opened, memo) = open(&disk, Path::new(DIRECTORY), &options()).await?;
        let numbers = memo.replayed.borrow().iter().map(|seen| number(&seen.key)).collect();
        Ok((opened, numbers))
    });
    memory.crash();
    opened
}

/// Every byte of heads, record head and body, and some of the padding.
fn bytes_of_a_frame() -> impl Iterator<Item = usize> {
    (0..112 + 48 + BODY_BYTES + 20).chain((300..BLOCK).step_by(61)).chain([BLOCK - 1])
}

#[test]
fn s1_1_9_a_flipped_bit_in_the_last_frame_is_a_torn_tail() {
    for at in bytes_of_a_frame() {
        let memory = three(false);
        memory.flip(&segment(1), (3 * BLOCK + at) * 8 + at % 8);
        let (opened, numbers) = reopen(&memory).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        assert_eq!(numbers, [0, 1], "byte {at}");
        let cut = opened.cut.expect("a cut");
        assert_eq!((cut.segment, cut.offset, cut.bytes), (1, 3 * BLOCK as u32, BLOCK as u64), "byte {at}");
        let (opened, numbers) = reopen(&memory).unwrap();
        assert_eq!((opened.cut, numbers), (None, vec![0, 1]), "byte {at}: cut once and for all");
    }
}

#[test]
fn s1_1_9_a_flipped_bit_below_the_durable_mark_is_refused() {
    for at in bytes_of_a_frame() {
        let memory = three(false);
        memory.flip(&segment(1), (2 * BLOCK + at) * 8 + at % 8);
        let before = memory.content(&segment(1));
        match reopen(&memory) {
            Err(OpenError::Corrupt { segment: 1, offset, what }) => {
                assert_eq!(offset, 2 * BLOCK as u64, "byte {at}");
                assert!(what.contains("was durable"), "byte {at}: {what}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
        assert!(before == memory.content(&segment(1)), "byte {at}: nothing is cut");
    }
}

#[test]
fn s1_1_9_a_flipped_bit_in_a_segment_head_is_refused() {
    for at in (0..64).chain([100, BLOCK - 1]) {
        let memory = three(false);
        memory.flip(&segment(1), at * 8 + at % 8);
        assert!(matches!(reopen(&memory), Err(OpenError::Corrupt { segment: 1, offset: 0, .. })), "byte {at}");
    }
}

#[test]
fn s1_1_9_a_closed_log_knows_that_its_last_frame_was_durable() {
    let memory = three(true);
    memory.flip(&segment(1), (3 * BLOCK + 130) * 8);
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    on_core(async {
        // The hint covers the frame, so the open does not look at it; a read does.
        let (log, _, opened, memo) = open(&disk, Path::new(DIRECTORY), &options()).await.unwrap();
        assert_eq!(opened.bytes_scanned, 0);
        let location = memo.replayed.borrow()[2].location;
        assert!(matches!(log.read(location).await, Err(ReadError::Damaged { .. })));
    });
    memory.crash();
    on_core(disk.remove(&segment(1).with_extension("hint"))).unwrap();
    assert!(
        matches!(reopen(&memory), Err(OpenError::Corrupt { segment: 1, offset, .. }) if offset == 3 * BLOCK as u64)
    );
}

#[test]
fn s1_1_9_a_cut_short_last_frame_is_a_torn_tail_at_every_sector() {
    for sectors in 0..8 {
        let memory = three(false);
        let mut bytes = memory.content(&segment(1)).unwrap();
        // Zeros from the sector on: for this small frame only the first two sectors hold anything.
        bytes[3 * BLOCK + sectors * 512..4 * BLOCK].fill(0);
        memory.put(&segment(1), bytes);
        let (opened, numbers) = reopen(&memory).unwrap();
        let whole = 112 + 48 + BODY_BYTES < sectors * 512;
        assert_eq!(numbers.len(), if whole { 3 } else { 2 }, "{sectors} sectors");
        assert_eq!(opened.cut.is_some(), !whole && sectors != 0, "{sectors} sectors");
    }
}

#[test]
fn s1_1_9_a_frame_from_elsewhere_is_not_replayed() {
    let other = three(false).content(&segment(1)).unwrap();
    for (what, from) in [("another offset", 2 * BLOCK), ("another log", 3 * BLOCK)] {
        let memory = three(false);
        let mut bytes = memory.content(&segment(1)).unwrap();
        let mut frame = other[from..from + BLOCK].to_vec();
        if what == "another log" {
            frame[8] ^= 1;
        }
        bytes[4 * BLOCK..5 * BLOCK].copy_from_slice(&frame);
        memory.put(&segment(1), bytes);
        let (opened, numbers) = reopen(&memory).unwrap();
        assert_eq!(numbers, [0, 1, 2], "{what}");
        assert!(opened.cut.is_some(), "{what}");
        assert_eq!(reopen(&memory).unwrap().0.cut, None, "{what}");
    }
    // A whole segment of an earlier use under a new name.
    let memory = three(false);
    memory.put(&segment(2), other);
    assert!(matches!(reopen(&memory), Err(OpenError::Corrupt { segment: 2, offset: 0, .. })));
}

#[test]
fn s1_1_9_a_torn_round_takes_the_later_round_with_it() {
    let memory = MemoryDisk::new(7, Faults::default());
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &options()).await.unwrap();
        drive(driver);
        until("a segment ahead", || log.stats().segments_ahead == 1).await;
        log.append(0, 1, &record(0, BODY_BYTES)).unwrap();
        until("a commit", || memo.committed.borrow().len() == 1).await;
        memory.with_faults(|faults| faults.sync_turns.extend([10_000, 1]));
        log.append(0, 1, &record(1, BODY_BYTES)).unwrap();
        until("a round in flight", || log.stats().rounds_in_flight == 1).await;
        log.append(0, 1, &record(2, 5000)).unwrap();
        until("the later sync", || log.stats().syncs == 2).await;
        assert_eq!(memo.committed.borrow().len(), 1);
    });
    memory.kill();
    // The first of the two rounds never reached the disk, the second did.
    let mut bytes = memory.content(&segment(1)).unwrap();
    assert!(bytes[3 * BLOCK..4 * BLOCK].iter().any(|&byte| byte != 0), "the later round is on the disk");
    bytes[2 * BLOCK..3 * BLOCK].fill(0);
    memory.put(&segment(1), bytes);
    let (opened, numbers) = reopen(&memory).unwrap();
    assert_eq!(numbers, [0]);
    assert_eq!(opened.cut.unwrap().offset, 2 * BLOCK as u32);
    on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &options()).await.unwrap();
        drive(driver);
        assert_eq!(log.append(0, 2, &record(3, BODY_BYTES)).unwrap(), 2);
        until("a commit", || memo.committed.borrow().len() == 1).await;
    });
    memory.crash();
    assert_eq!(reopen(&memory).unwrap().1, [0, 3], "the round that was cut never comes back");
}

/// Some segments, closed.
async fn many(disk: &Rc<dyn Disk>, directory: &Path, close: bool) {
    let (log, driver, _, memo) = open(disk, directory, &options()).await.unwrap();
    drive(driver);
    for number in 0..40 {
        while log.append((number % 2) as u16, 1, &record(number, 2000)).is_err() {
            scene::turn().await;
        }
        until("a commit", || number < memo.committed.borrow().iter().map(|entry| entry.3.len() as u64).sum()).await;
    }
    if close {
        log.close().await.unwrap();
    } else {
        until("seals", || log.stats().segments <= log.stats().segments_sealed + 1).await;
    }
}

fn many_in_memory(close: bool) -> MemoryDisk {
    let memory = MemoryDisk::new(7, Faults::default());
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    on_core(many(&disk, Path::new(DIRECTORY), close));
    memory.crash();
    memory
}

#[test]
fn s1_1_9_a_missing_or_damaged_hint_is_made_again() {
    for damaged in [false, true] {
        let memory = many_in_memory(true);
        let hint = segment(2).with_extension("hint");
        if damaged {
            memory.flip(&hint, 1000);
        } else {
            on_core(memory.remove(&hint)).unwrap();
        }
        let (opened, numbers) = reopen(&memory).unwrap();
        assert_eq!(numbers, (0..40).collect::<Vec<_>>());
        assert_eq!((opened.hints_rebuilt, opened.cut), (1, None));
        assert!(0 < opened.bytes_scanned);
        assert_eq!(reopen(&memory).unwrap().0.hints_rebuilt, 0);
    }
}

#[test]
fn s1_1_9_damage_in_a_sealed_segment_without_hint_is_refused() {
    let memory = many_in_memory(true);
    on_core(memory.remove(&segment(2).with_extension("hint"))).unwrap();
    memory.flip(&segment(2), (BLOCK + 200) * 8);
    assert!(matches!(reopen(&memory), Err(OpenError::Corrupt { segment: 2, offset, .. }) if offset == BLOCK as u64));
}

#[test]
fn s1_1_9_a_missing_or_damaged_seal_costs_a_scan() {
    for damaged in [false, true] {
        let memory = many_in_memory(false);
        let seal = segment(2).with_extension("seal");
        if damaged {
            memory.flip(&seal, 500);
        } else {
            on_core(memory.remove(&seal)).unwrap();
        }
        on_core(memory.remove(&segment(2).with_extension("hint"))).unwrap();
        assert_eq!(reopen(&memory).unwrap().1, (0..40).collect::<Vec<_>>());
    }
}

#[test]
fn s1_1_9_a_missing_segment_is_refused() {
    for missing in [1, 2] {
        let memory = many_in_memory(true);
        on_core(memory.remove(&segment(missing))).unwrap();
        let refused = reopen(&memory);
        assert!(matches!(refused, Err(OpenError::Corrupt { segment, .. }) if segment == missing), "{refused:?}");
    }
}

#[test]
fn s1_1_9_a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for disk in [
        Rc::new(ThreadDisk::start(1, false).unwrap()) as Rc<dyn Disk>,
        Rc::new(GlommioDisk::start(None).unwrap()),
        Rc::new(MemoryDisk::new(1, Faults::default())),
    ] {
        on_core(async {
            let (log, driver, ..) = open(&disk, directory.path(), &options()).await.unwrap();
            drive(driver);
            let second = open(&disk, directory.path(), &options()).await;
            assert!(matches!(second, Err(OpenError::Locked { .. })));
            log.close().await.unwrap();
            assert!(open(&disk, directory.path(), &options()).await.is_ok(), "a closed log may be opened again");
        });
    }
}

#[test]
fn s1_1_9_a_scrub_finds_what_was_damaged() {
    let memory = many_in_memory(true);
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    on_core(async {
        let (log, ..) = open(&disk, Path::new(DIRECTORY), &options()).await.unwrap();
        let clean = log.scrub(u64::MAX, &mut |_, _| ()).await;
        assert_eq!(clean.damages, []);
        assert!(1 < clean.segments && 20 < clean.records, "{clean:?}");
        memory.flip(&segment(2), (2 * BLOCK + 300) * 8);
        let mut told = 0;
        let found = log.scrub(u64::MAX, &mut |done, total| told = done * 100 / total).await;
        assert_eq!(
            found.damages.iter().map(|damage| (damage.segment, damage.offset)).collect::<Vec<_>>(),
            [(2, 2 * BLOCK as u64)]
        );
        assert_eq!((found.frames, told), (clean.frames - 1, 100));
        let stats = log.stats();
        assert_eq!((stats.scrubs, stats.scrub_bytes), (2, clean.bytes + found.bytes));
        assert_eq!(stats.scrub_damages, 1);
    });
}

#[test]
fn s1_1_9_offline_inspection_tells_what_is_missing_once() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Rc<dyn Disk> = Rc::new(ThreadDisk::start(1, false).unwrap());
    on_core(many(&disk, directory.path(), true));
    let inspect = || {
        let report = inspect::integrity(directory.path(), &mut |_, _, _| Ok(()), &mut |_, _| ()).unwrap();
        report.damages.into_iter().map(|damage| (damage.segment, damage.what)).collect::<Vec<_>>()
    };
    assert_eq!(inspect(), []);
    let path = |name: &str| directory.path().join(name);
    // A name is a stranger's: four thousand million missing segments are one sentence.
    std::fs::write(path("4294967295.seg"), []).unwrap();
    let found = inspect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].1.contains("to 4294967294 are missing"), "{found:?}");
    std::fs::remove_file(path("4294967295.seg")).unwrap();
    std::fs::rename(path("00000002.seg"), path("kept")).unwrap();
    assert!(inspect().contains(&(2, "the segment's file is missing".to_owned())));
    std::fs::rename(path("kept"), path("00000002.seg")).unwrap();
    // What the open refuses: a seal whose segment is gone.
    std::fs::write(path("00000099.seal"), []).unwrap();
    assert!(inspect().contains(&(99, "the segment's seal is here, its file is missing".to_owned())));
    assert!(matches!(on_core(open(&disk, directory.path(), &options())), Err(OpenError::Corrupt { segment: 99, .. })));
}

#[test]
fn s1_1_9_offline_inspection_tells_torn_from_damaged() {
    let disks: [Rc<dyn Disk>; 2] =
        [Rc::new(ThreadDisk::start(1, false).unwrap()), Rc::new(GlommioDisk::start(None).unwrap())];
    disks.iter().for_each(tells_torn_from_damaged);
}

fn tells_torn_from_damaged(disk: &Rc<dyn Disk>) {
    let directory = tempfile::tempdir().unwrap();
    on_core(many(disk, directory.path(), false));
    let inspect = || {
        let mut last = (0, 0);
        let report =
            inspect::integrity(directory.path(), &mut |_, _, _| Ok(()), &mut |done, total| last = (done, total));
        assert_eq!(last.0, last.1, "progress reaches its end");
        report.unwrap()
    };
    let clean = inspect();
    assert_eq!(
        (clean.records, &clean.damages[..], &clean.torn_tail, &clean.rebuildable[..]),
        (40, &[][..], &None, &[][..])
    );

    let path = |sequence: u32| directory.path().join(format!("{sequence:08}.seg"));
    let flip = |sequence: u32, byte: usize| {
        let mut bytes = std::fs::read(path(sequence)).unwrap();
        bytes[byte] ^= 4;
        std::fs::write(path(sequence), bytes).unwrap();
    };
    flip(2, BLOCK + 100);
    let damaged = inspect();
    assert!(damaged.damages.iter().any(|damage| (damage.segment, damage.offset) == (2, BLOCK as u64)), "{damaged:?}");
    assert_eq!(damaged.torn_tail, None);
    let report = inspect::segment(&path(2)).unwrap();
    assert!(
        matches!(report.state, inspect::State::Stopped { offset, damaged: true, .. } if offset == BLOCK as u64),
        "{report:?}"
    );
    flip(2, BLOCK + 100);

    // The last frame of all, which nothing after it proves.
    let last = (1..).take_while(|&sequence| path(sequence).exists());
    let report = last
        .map(|sequence| inspect::segment(&path(sequence)).unwrap())
        .filter(|report| !report.frames.is_empty())
        .last();
    let report = report.unwrap();
    let at = report.frames.last().unwrap().placement.at;
    flip(at.segment, at.offset as usize + 100);
    let torn = inspect();
    assert_eq!(torn.damages, []);
    assert_eq!(torn.torn_tail.map(|tail| (tail.segment, tail.offset)), Some((at.segment, u64::from(at.offset))));
    flip(at.segment, at.offset as usize + 100);

    let refused = inspect::integrity(
        directory.path(),
        &mut |_, key, _| if number(key) == 7 { Err("no".into()) } else { Ok(()) },
        &mut |_, _| (),
    );
    assert_eq!(refused.unwrap().damages.len(), 1, "the caller's check counts");
}
