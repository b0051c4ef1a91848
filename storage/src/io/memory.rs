//! A disk in memory with seeded faults, for tests: what a power cut, a lying device or a full disk may do, repeatably.
//!
//! Promises: the same seed and the same calls give the same disk; a sync that answered makes exactly those sectors durable whose
//! writes had been answered before it was asked; a crash keeps or loses each other sector by itself.
//! Does not: lose directory entries (the backends sync the directory before they answer).

use super::{Disk, DiskFile, LocalFuture, Lock};
use crate::buffer::{AlignedBuffer, zeroed};
use crate::pace::Pace;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A device writes this much whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The write with this number (from 0, counted over all files) fails.
    pub write_fails_at: Option<u64>,
    /// The sync with this number fails.
    pub sync_fails_at: Option<u64>,
    /// Syncs answer, and make nothing durable.
    pub sync_lies: bool,
    /// Files may take this much in all, in bytes.
    pub space_bytes: Option<u64>,
    /// An operation takes up to this many turns of the executor.
    pub turns_max: u32,
    /// The next syncs take exactly so many turns, in order of asking.
    pub sync_turns: VecDeque<u32>,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk(Rc<RefCell<State>>);

struct State {
    files: BTreeMap<PathBuf, Content>,
    locks: BTreeSet<PathBuf>,
    /// Changes at a crash: futures and locks of the life before no longer touch anything.
    life: u64,
    random: u64,
    faults: Faults,
    writes: u64,
    syncs: u64,
    in_flight: BTreeMap<u64, Write>,
    in_flight_next: u64,
}

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
}

struct Write {
    path: PathBuf,
    offset: usize,
    bytes: Vec<u8>,
}

struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    bytes: u64,
}

struct MemoryGuard {
    disk: MemoryDisk,
    path: PathBuf,
    life: u64,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(State {
            files: BTreeMap::new(),
            locks: BTreeSet::new(),
            life: 0,
            random: seed,
            faults,
            writes: 0,
            syncs: 0,
            in_flight: BTreeMap::new(),
            in_flight_next: 0,
        })))
    }

    /// Changes what goes wrong from now on.
    pub fn with_faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut self.0.borrow_mut().faults)
    }

    /// The power goes: of every sector that was written and not made durable, the old or the new content stays, by the seed.
    /// Locks are free afterwards; futures of before have no effect any more.
    pub fn crash(&self) {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        state.life += 1;
        state.locks.clear();
        for write in std::mem::take(&mut state.in_flight).into_values() {
            if let Some(content) = state.files.get_mut(&write.path) {
                for (number, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                    if random(&mut state.random) & 1 == 0 {
                        let at = write.offset + number * SECTOR_BYTES;
                        content.current[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
        // One crash in three loses everything, one keeps everything, one mixes: the mixed ones alone would seldom lose whole rounds.
        let mode = random(&mut state.random) % 3;
        for content in state.files.values_mut() {
            content.durable.resize(content.current.len(), 0);
            for (new, old) in content.current.chunks_mut(SECTOR_BYTES).zip(content.durable.chunks(SECTOR_BYTES)) {
                if new == old {
                    continue;
                }
                let lost = match mode {
                    0 => true,
                    1 => false,
                    _ => random(&mut state.random) & 1 == 0,
                };
                if lost {
                    new.copy_from_slice(old);
                }
            }
            content.durable.clone_from(&content.current);
        }
    }

    /// The process dies and the machine goes on: what was written stays readable, and still is not durable. Of the writes that
    /// had not answered, each is done or not, by the seed.
    pub fn kill(&self) {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        state.life += 1;
        state.locks.clear();
        for write in std::mem::take(&mut state.in_flight).into_values() {
            if random(&mut state.random) & 1 == 0
                && let Some(content) = state.files.get_mut(&write.path)
            {
                content.current[write.offset..write.offset + write.bytes.len()].copy_from_slice(&write.bytes);
            }
        }
    }

    /// The current content of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        self.0.borrow().files.get(path).map(|content| content.current.clone())
    }

    /// Puts a file, durable, without faults.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let content = Content { durable: bytes.clone(), current: bytes };
        self.0.borrow_mut().files.insert(path.to_owned(), content);
    }

    /// Turns one bit of a file over, durable.
    pub fn flip(&self, path: &Path, bit: usize) {
        let mut state = self.0.borrow_mut();
        let content = state.files.get_mut(path).expect("a file to flip a bit of");
        content.current[bit / 8] ^= 1 << (bit % 8);
        content.durable[bit / 8] ^= 1 << (bit % 8);
    }

    /// Paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.borrow().files.keys().cloned().collect()
    }

    fn turns(&self) -> Turns {
        let mut state = self.0.borrow_mut();
        let turns_max = u64::from(state.faults.turns_max);
        let turns = if turns_max == 0 { 0 } else { random(&mut state.random) % (turns_max + 1) };
        Turns { left: turns as u32 }
    }

    /// Runs `work` after a few turns, unless the power went in between: then the operation never answers.
    fn later<T: 'static>(&self, turns: Turns, work: impl FnOnce(&mut State) -> T + 'static) -> LocalFuture<T> {
        let (disk, life) = (self.clone(), self.0.borrow().life);
        Box::pin(async move {
            turns.await;
            if disk.0.borrow().life != life {
                std::future::pending::<()>().await;
            }
            work(&mut disk.0.borrow_mut())
        })
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|content| content.current.len() as u64).sum()
    }

    fn room_for(&self, bytes: u64) -> io::Result<()> {
        match self.faults.space_bytes {
            Some(space) if space < self.used() + bytes => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn content(&mut self, path: &Path) -> io::Result<&mut Content> {
        self.files.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> LocalFuture<io::Result<Rc<dyn DiskFile>>> {
        let (disk, path) = (self.clone(), path.to_owned());
        self.later(self.turns(), move |state| {
            let bytes = state.content(&path)?.current.len() as u64;
            Ok(Rc::new(MemoryFile { disk, path, bytes }) as Rc<dyn DiskFile>)
        })
    }

    fn list(&self, directory: &Path) -> LocalFuture<io::Result<Vec<String>>> {
        let directory = directory.to_owned();
        self.later(self.turns(), move |state| {
            let inside = state.files.keys().filter(|path| path.parent() == Some(&directory));
            Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
        })
    }

    fn prepare(&self, path: &Path, head: AlignedBuffer, bytes: u64, _pace: Arc<Pace>) -> LocalFuture<io::Result<()>> {
        let path = path.to_owned();
        self.later(self.turns(), move |state| {
            state.room_for(bytes)?;
            let mut made = head.to_vec();
            made.resize(bytes as usize, 0);
            state.files.insert(path, Content { durable: made.clone(), current: made });
            Ok(())
        })
    }

    fn replace(&self, path: &Path, content: Vec<u8>) -> LocalFuture<io::Result<()>> {
        let path = path.to_owned();
        self.later(self.turns(), move |state| {
            state.room_for(content.len() as u64)?;
            state.files.insert(path, Content { durable: content.clone(), current: content });
            Ok(())
        })
    }

    fn load(&self, path: &Path) -> LocalFuture<io::Result<Vec<u8>>> {
        let path = path.to_owned();
        self.later(self.turns(), move |state| Ok(state.content(&path)?.current.clone()))
    }

    fn digest(&self, path: &Path, bytes: u64, _pace: Arc<Pace>) -> LocalFuture<io::Result<[u8; 32]>> {
        let path = path.to_owned();
        self.later(self.turns(), move |state| {
            let content = &state.content(&path)?.current;
            let used = content.get(..bytes as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(*blake3::hash(used).as_bytes())
        })
    }

    fn remove(&self, path: &Path) -> LocalFuture<io::Result<()>> {
        let path = path.to_owned();
        self.later(self.turns(), move |state| {
            state.files.remove(&path);
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> LocalFuture<io::Result<Lock>> {
        let (disk, path) = (self.clone(), path.to_owned());
        self.later(self.turns(), move |state| {
            if !state.locks.insert(path.clone()) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let guard = MemoryGuard { path, life: state.life, disk };
            Ok(Lock::new(Box::new(guard)))
        })
    }

    fn pause(&self, _: Duration) -> LocalFuture<()> {
        self.later(self.turns(), |_| ())
    }

    fn identity(&self) -> [u8; 16] {
        let mut state = self.0.borrow_mut();
        let (low, high) = (random(&mut state.random), random(&mut state.random));
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> LocalFuture<(io::Result<()>, AlignedBuffer)> {
        let turns = self.disk.turns();
        let (number, path) = {
            let mut state = self.disk.0.borrow_mut();
            let number = state.in_flight_next;
            state.in_flight_next += 1;
            let write = Write { path: self.path.clone(), offset: offset as usize, bytes: buffer.to_vec() };
            state.in_flight.insert(number, write);
            (number, self.path.clone())
        };
        self.disk.later(turns, move |state| {
            let Some(write) = state.in_flight.remove(&number) else { unreachable!("a write that was taken twice") };
            let count = state.writes;
            state.writes += 1;
            if state.faults.write_fails_at == Some(count) {
                return (Err(io::Error::other("the write fails by order")), buffer);
            }
            let written = state.content(&path).and_then(|content| {
                let end = write.offset + write.bytes.len();
                let place = content.current.get_mut(write.offset..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                place.copy_from_slice(&write.bytes);
                Ok(())
            });
            (written, buffer)
        })
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalFuture<io::Result<AlignedBuffer>> {
        let path = self.path.clone();
        self.disk.later(self.disk.turns(), move |state| {
            let content = &state.content(&path)?.current;
            let place = content.get(offset as usize..offset as usize + bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut buffer = zeroed(bytes);
            buffer.copy_from_slice(place);
            Ok(buffer)
        })
    }

    fn sync_data(&self) -> LocalFuture<io::Result<()>> {
        let path = self.path.clone();
        let mut turns = self.disk.turns();
        let asked = {
            let mut state = self.disk.0.borrow_mut();
            if let Some(exactly) = state.faults.sync_turns.pop_front() {
                turns.left = exactly;
            }
            state.content(&path).map(|content| {
                content.durable.resize(content.current.len(), 0);
                let sectors = content.current.chunks(SECTOR_BYTES).zip(content.durable.chunks(SECTOR_BYTES));
                let dirty = sectors.enumerate().filter(|(_, (new, old))| new != old);
                dirty.map(|(number, (new, _))| (number * SECTOR_BYTES, new.to_vec())).collect::<Vec<_>>()
            })
        };
        self.disk.later(turns, move |state| {
            let count = state.syncs;
            state.syncs += 1;
            if state.faults.sync_fails_at == Some(count) {
                return Err(io::Error::other("the sync fails by order"));
            }
            let asked = asked?;
            if !state.faults.sync_lies {
                let content = state.content(&path)?;
                for (at, sector) in asked {
                    content.durable[at..at + sector.len()].copy_from_slice(&sector);
                }
            }
            Ok(())
        })
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        let mut state = self.disk.0.borrow_mut();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

/// Lets the executor turn a few times.
struct Turns {
    left: u32,
}

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.left == 0 {
            return Poll::Ready(());
        }
        self.left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// SplitMix64: small, seeded, good enough to choose sectors.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
