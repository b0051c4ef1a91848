//! What every disk on a real filesystem owes the log: damage is told, a torn tail is cut, a copy of the files at any moment opens.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod scene;

use qmesh_storage::io::Disk;
use qmesh_storage::io::glommio::GlommioDisk;
use qmesh_storage::io::threads::ThreadDisk;
use qmesh_storage::io::uring::{self, UringDisk};
use qmesh_storage::{LogOptions, OpenError};
use scene::{drive, number, open, record, small, turn, until};
use std::path::Path;
use std::rc::Rc;

const BLOCK: u64 = 4096;
const RECORDS: u64 = 40;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 32 << 10, ..small() }
}

/// Runs a scene on every disk there is, each with a folder of its own.
fn on_every_disk(scene: impl AsyncFn(Rc<dyn Disk>, &Path)) {
    uring::builder().start(async {
        let disks: [(&str, Rc<dyn Disk>); 5] = [
            ("threads", Rc::new(ThreadDisk::start(2, false).unwrap())),
            ("threads, direct", Rc::new(ThreadDisk::start(2, true).unwrap())),
            ("uring", Rc::new(UringDisk::start(false).unwrap())),
            ("uring, direct", Rc::new(UringDisk::start(true).unwrap())),
            ("glommio", Rc::new(GlommioDisk::start(None).unwrap())),
        ];
        for (name, disk) in disks {
            println!("{name}");
            let directory = tempfile::tempdir().unwrap();
            scene(disk, &directory.path().join("log")).await;
        }
    });
}

/// Appends one record an entry, each durable before the next, and leaves the log as it is when its full segments are sealed.
async fn fill(disk: &Rc<dyn Disk>, directory: &Path) {
    let (log, driver, _, memo) = open(disk, directory, &options()).await.unwrap();
    drive(driver);
    for number in 0..RECORDS {
        while log.append((number % 2) as u16, 1, &record(number, 2000)).is_err() {
            turn().await;
        }
        until("a commit", || number < memo.committed.borrow().len() as u64).await;
    }
    until("seals", || log.stats().segments <= log.stats().segments_sealed + 1).await;
}

/// The files as they are now, without the lock: what another machine would find after a power cut that loses no written sector.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with("LOCK") {
            match std::fs::copy(entry.path(), to.join(entry.file_name())) {
                // A segment that was being prepared got its name meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

async fn numbers(disk: &Rc<dyn Disk>, directory: &Path) -> Result<(Vec<u64>, bool), OpenError> {
    let (_, _, opened, memo) = open(disk, directory, &options()).await?;
    let numbers = memo.replayed.borrow().iter().map(|seen| number(&seen.key)).collect();
    Ok((numbers, opened.cut.is_some()))
}

#[test]
fn s1_1_9_every_disk_tells_damage_from_a_torn_tail() {
    on_every_disk(async |disk, directory| {
        fill(&disk, directory).await;
        let copy = directory.with_extension("damaged");
        copied(directory, &copy);
        std::fs::remove_file(copy.join("00000002.hint")).unwrap();
        flip(&copy.join("00000002.seg"), BLOCK + 200);
        let refused = numbers(&disk, &copy).await;
        assert!(matches!(refused, Err(OpenError::Corrupt { segment: 2, offset: BLOCK, .. })), "{refused:?}");

        // The last frame of all, which nothing after it proves.
        let copy = directory.with_extension("torn");
        copied(directory, &copy);
        let last = (1..).map(|sequence| copy.join(format!("{sequence:08}.seg"))).take_while(|path| path.exists());
        let reports = last.map(|path| (qmesh_storage::inspect::segment(&path).unwrap(), path));
        let (report, path) = reports.filter(|(report, _)| !report.frames.is_empty()).last().unwrap();
        flip(&path, u64::from(report.frames.last().unwrap().placement.at.offset) + 100);
        assert_eq!(numbers(&disk, &copy).await.unwrap(), ((0..RECORDS - 1).collect(), true));
        assert_eq!(numbers(&disk, &copy).await.unwrap(), ((0..RECORDS - 1).collect(), false), "cut once and for all");
    });
}

#[test]
fn s1_1_9_every_disk_opens_to_all_that_was_reported_after_a_stop_at_any_moment() {
    on_every_disk(async |disk, directory| {
        let (log, driver, _, memo) = open(&disk, directory, &options()).await.unwrap();
        drive(driver);
        let mut taken = 0;
        for moment in 0..12 {
            let until = taken + 1 + moment * 3 % 7;
            while taken < until {
                match log.append((taken % 3) as u16, 1, &record(taken, (taken * 311 % 2500) as usize)) {
                    Ok(_) => taken += 1,
                    Err(_) => turn().await,
                }
            }
            for _ in 0..moment * 5 {
                turn().await;
            }
            // The loop stands still, the device need not: what was reported before the copy is in it, whatever else is.
            let reported: usize = memo.committed.borrow().iter().map(|entry| entry.3.len()).sum();
            let copy = directory.with_extension(moment.to_string());
            copied(directory, &copy);
            let (found, _) = numbers(&disk, &copy).await.unwrap();
            let mut found_sorted = found.clone();
            found_sorted.sort_unstable();
            found_sorted.dedup();
            assert!(reported <= found.len() && found.len() as u64 <= taken, "{reported} {} {taken}", found.len());
            assert_eq!(found_sorted.len(), found.len(), "nothing twice");
        }
        log.close().await.unwrap();
        assert_eq!(numbers(&disk, directory).await.unwrap().0.len() as u64, taken);
    });
}

#[test]
fn s1_1_9_every_disk_says_that_a_file_is_not_there_and_where_one_ends() {
    on_every_disk(async |disk, directory| {
        disk.list(directory).await.unwrap();
        let path = directory.join("file");
        assert_eq!(disk.open(&path).await.err().unwrap().kind(), std::io::ErrorKind::NotFound);
        let mut head = qmesh_storage::AlignedBuffer::new();
        head.resize(BLOCK as usize, 7);
        disk.prepare(&path, head.clone(), 4 * BLOCK, Default::default()).await.unwrap();
        let file = disk.open(&path).await.unwrap();
        assert_eq!(file.bytes(), 4 * BLOCK);
        // More at once than the storage thread runs.
        let reads = (0..400).map(|number| file.read_at(number % 4 * BLOCK, BLOCK as usize));
        for (number, read) in futures_util::future::join_all(reads).await.into_iter().enumerate() {
            assert_eq!(read.unwrap()[0], if number % 4 == 0 { 7 } else { 0 });
        }
        let past = file.read_at(3 * BLOCK, 2 * BLOCK as usize).await;
        assert_eq!(past.err().unwrap().kind(), std::io::ErrorKind::UnexpectedEof);
        let (written, head) = file.write_at(head, 2 * BLOCK).await;
        written.unwrap();
        file.sync_data().await.unwrap();
        assert_eq!(file.read_at(2 * BLOCK, BLOCK as usize).await.unwrap()[..], head[..]);
        // An answer that nobody waits for is no harm, and neither is a file that was let go meanwhile.
        drop(file.read_at(0, BLOCK as usize));
        let late = file.write_at(head, 0);
        drop(file);
        late.await.0.unwrap();
    });
}
