//! A log's directory after something happened to it: flipped, blanked, swapped, cut, missing and foreign pieces of every file.
//!
//! The log opens to a prefix of what was appended or refuses; what opens can be read, written and opened again; an offline look
//! sees what the open refuses. When checksums were mended, nothing is promised but an answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use qmesh_storage::io::Disk;
use qmesh_storage::io::memory::{Faults, MemoryDisk};
use qmesh_storage::{BLOCK_BYTES, LogOptions, OpenError, inspect};

use super::drive::{Random, fuzz_from};
use super::log_frames::{mend_frame, mend_hint, mend_seal};
use super::mutate::mutate;
use super::scene::{drive, number, on_core, open, record, small, turn, until};

const DIRECTORY: &str = "/log";
/// An offline look took a whole frame with a broken record for a torn tail, which the open refuses; the scene held a hint with
/// false numbers and right sums against an offline look that does not read it.
const FAILED_ONCE: [u64; 2] = [0x4e0c_fba4_1cdb_fca5, 0x4aff_3c49_6f14_40d8];

/// The files of a log.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 32 << 10, ..small() }
}

/// A log with several segments, and the numbers of its records in their order.
pub(crate) fn log_of(seed: u64, closed: bool) -> (Files, Vec<u64>) {
    let memory = MemoryDisk::new(seed, Faults::default());
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    let numbers = on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &options()).await.unwrap();
        drive(driver);
        for number in 0..60u64 {
            while log
                .append((number % 3) as u16, 1 + number / 30, &record(number, number as usize * 53 % 1500))
                .is_err()
            {
                turn().await;
            }
            if number % 4 == seed % 4 {
                until("a commit", || log.stats().bytes_waiting == 0 && log.stats().rounds_in_flight == 0).await;
            }
        }
        if closed {
            log.close().await.unwrap();
        } else {
            until("the rest", || memo.committed.borrow().iter().map(|entry| entry.3.len()).sum::<usize>() == 60).await;
        }
        // In log order, which is that of the entries.
        let (_, _, _, memo) = reopened(&memory).await.unwrap();
        memo.replayed.borrow().iter().map(|seen| number(&seen.key)).collect()
    });
    (files_of(&memory), numbers)
}

/// Opens a copy, so that the original stays as it is.
async fn reopened(
    memory: &MemoryDisk,
) -> Result<(qmesh_storage::Log, qmesh_storage::Driver, qmesh_storage::Opened, Rc<super::scene::Memo>), OpenError> {
    let copy: Rc<dyn Disk> = Rc::new(disk_of(&files_of(memory)));
    open(&copy, Path::new(DIRECTORY), &options()).await
}

fn files_of(memory: &MemoryDisk) -> Files {
    memory.paths().into_iter().filter_map(|path| Some((path.clone(), memory.content(&path)?))).collect()
}

fn disk_of(files: &Files) -> MemoryDisk {
    let memory = MemoryDisk::new(99, Faults::default());
    for (path, bytes) in files {
        memory.put(path, bytes.clone());
    }
    memory
}

/// Whose checksums were mended, so that nothing can be promised of the content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mended {
    /// A hint's or a seal's, which the open believes and an offline look does not need.
    Companion,
    /// A frame's.
    Frame,
}

/// Does something to the directory.
fn happen(random: &mut Random, files: &mut Files, foreign: &Files) -> Option<Mended> {
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    if paths.is_empty() {
        return None;
    }
    let path = random.pick(&paths).clone();
    let is = |extension: &str| path.extension().is_some_and(|found| found == extension);
    let bytes = files.get_mut(&path).expect("a path of the directory");
    let blocks = bytes.len() / BLOCK_BYTES;
    let block = |random: &mut Random| random.below(blocks) * BLOCK_BYTES;
    match random.below(12) {
        0 if !bytes.is_empty() => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        1 if 0 < blocks => {
            let at = block(random);
            let end = (at + BLOCK_BYTES * (1 + random.below(4))).min(bytes.len());
            bytes[at..end].fill(0);
        }
        2 if 0 < blocks => {
            let at = block(random);
            let garbage = random.bytes(BLOCK_BYTES);
            bytes[at..at + BLOCK_BYTES].copy_from_slice(&garbage);
        }
        // Two blocks, or half a block, change places: misdirected writes.
        3 if 1 < blocks => {
            let (from, to) = (block(random), block(random));
            let piece = bytes[from..from + BLOCK_BYTES].to_vec();
            bytes[to..to + BLOCK_BYTES].copy_from_slice(&piece);
        }
        // A torn block: some of its sectors never came.
        4 if 0 < blocks => {
            let at = block(random) + 512 * random.below(8);
            let end = at / BLOCK_BYTES * BLOCK_BYTES + BLOCK_BYTES;
            bytes[at..end].fill(0);
        }
        5 => {
            files.remove(&path);
        }
        6 => {
            let length = random.below(bytes.len() + 1);
            bytes.truncate(length);
        }
        7 => {
            let content = bytes.clone();
            files.insert(random.pick(&paths).clone(), content);
        }
        // The same file of another log.
        8 => {
            if let Some(other) = foreign.get(&path) {
                files.insert(path, other.clone());
            }
        }
        9 => {
            let names =
                ["x.tmp", "00000009.seg", "00000009.seal", "00000099.hint", "4294967295.seg", "+0000001.seg", "LOCK"];
            let content = bytes.clone();
            files.insert(Path::new(DIRECTORY).join(random.pick(&names)), content);
        }
        10 if is("hint") || is("seal") => {
            mutate(random, bytes, &[], &[]);
            if is("hint") {
                mend_hint(bytes)
            } else {
                mend_seal(bytes)
            }
            return Some(Mended::Companion);
        }
        // A frame whose sums are right and whose content is not.
        11 if is("seg") && 1 < blocks => {
            let at = BLOCK_BYTES * (1 + random.below(blocks - 1));
            let mut frame = bytes[at..].to_vec();
            let changed = random.below(176);
            frame[changed] = random.next() as u8;
            mend_frame(&mut frame);
            bytes[at..].copy_from_slice(&frame);
            return Some(Mended::Frame);
        }
        _ => {}
    }
    None
}

#[test]
fn s1_1_9_fuzz_log_directories() {
    let scenes = [log_of(1, true), log_of(2, false), log_of(3, false)];
    let (foreign, _) = log_of(4, true);
    let (mut opened_count, mut refused_count) = (0, 0);
    fuzz_from("log directories", &FAILED_ONCE, |random| {
        let (files, appended) = random.pick(&scenes);
        let mut files = files.clone();
        let mut happened = Vec::new();
        for _ in 0..=random.below(3) {
            happened.push(happen(random, &mut files, &foreign));
        }
        let mended = happened.iter().any(Option::is_some);
        let memory = disk_of(&files);
        let disk: Rc<dyn Disk> = Rc::new(memory.clone());
        let offline = random.one_in(8).then(|| look(&files));
        let found = on_core(async {
            let (log, driver, opened, memo) = open(&disk, Path::new(DIRECTORY), &options()).await?;
            let replayed = memo.replayed.borrow().clone();
            let numbers: Vec<u64> = replayed.iter().map(|seen| number(&seen.key)).collect();
            assert_eq!(opened.records, replayed.len() as u64);
            assert!(mended || appended.starts_with(&numbers), "no prefix: {numbers:?} of {appended:?}");
            for seen in &replayed {
                // A record elsewhere is whole where a write was misdirected; who reads it by its key sees that it is another.
                drop(log.read(seen.location).await);
            }
            // What opened is a log: it takes a record, closes, and opens to the same and one more.
            drive(driver);
            let tail = opened.shards.iter().find(|tail| tail.shard == 0).map_or(1, |tail| tail.term);
            let mut patience = 100_000;
            while log.append(0, tail, &record(1000, 100)).is_err() && 0 < patience {
                patience -= 1;
                turn().await;
            }
            assert!(0 < patience, "an opened log takes no record");
            log.close().await.unwrap();
            Ok((numbers, opened))
        });
        match found {
            Ok((numbers, opened)) => {
                opened_count += 1;
                on_core(async {
                    let again = open(&disk, Path::new(DIRECTORY), &options()).await;
                    let (_, _, again, memo) = again.unwrap_or_else(|error| panic!("opened once, then {error}"));
                    let more: Vec<u64> = memo.replayed.borrow().iter().map(|seen| number(&seen.key)).collect();
                    assert_eq!(again.cut, None, "cut once and for all: {opened:?}");
                    assert_eq!(more.strip_suffix(&[1000]), Some(&numbers[..]));
                });
            }
            Err(OpenError::Corrupt { what, .. }) => {
                refused_count += 1;
                let segments = |files: &Files| -> Files {
                    let is_segment = |path: &PathBuf| path.extension().is_some_and(|found| found == "seg");
                    files.iter().filter(|(path, _)| is_segment(path)).map(|(p, b)| (p.clone(), b.clone())).collect()
                };
                assert!(
                    segments(&files) == segments(&files_of(&memory)),
                    "refused ({what}), and a segment was changed"
                );
                if let Some(damages) = offline
                    && !happened.contains(&Some(Mended::Companion))
                {
                    assert!(0 < damages, "refused ({what}), and an offline look finds nothing");
                }
            }
            Err(OpenError::Locked { .. }) => panic!("nobody has it"),
            Err(OpenError::Io { .. } | OpenError::Options(_)) => {}
        }
    });
    assert!(0 < opened_count && 0 < refused_count || opened_count + refused_count < 20);
}

/// What an offline look at the same files finds damaged.
fn look(files: &Files) -> usize {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        std::fs::write(folder.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    let report = inspect::integrity(folder.path(), &mut |_, _, _| Ok(()), &mut |_, _| ()).unwrap();
    for path in files.keys().filter(|path| path.extension().is_some_and(|found| found == "seg")) {
        drop(inspect::segment(&folder.path().join(path.file_name().unwrap())));
    }
    report.damages.len()
}
