//! Blocking work on files, for threads that may block.
//!
//! Promises: what it makes visible under a name was synced before. Does not: run on a core's loop.

use crate::buffer::{AlignedBuffer, BLOCK_BYTES, zeroed};
use crate::pace::Pace;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes written or read by one call.
const PIECE_BYTES: usize = 1 << 20;

/// A held lock; dropping it gives it back.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Box<dyn std::any::Any>);

impl Lock {
    /// Holds `guard` until it is dropped.
    pub fn new(guard: Box<dyn std::any::Any>) -> Self {
        Self(guard)
    }
}

/// Random bytes from the seeds that the standard library takes from the system.
pub fn identity() -> [u8; 16] {
    let mut bytes = [0; 16];
    for half in bytes.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    bytes
}

/// Opens for reading and writing; falls back to the page cache where the filesystem refuses O_DIRECT.
pub(super) fn open(path: &Path, direct: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    with_direct(&mut options, path, direct)
}

fn with_direct(options: &mut OpenOptions, path: &Path, direct: bool) -> io::Result<File> {
    if direct {
        match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            opened => return opened,
        }
    }
    options.open(path)
}

pub(super) fn list(directory: &Path) -> io::Result<Vec<String>> {
    if !directory.is_dir() {
        std::fs::create_dir_all(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

pub(super) fn prepare(path: &Path, head: &AlignedBuffer, bytes: u64, direct: bool, pace: &Pace) -> io::Result<()> {
    let temporary = temporary_name(path);
    let made = fill(&temporary, head, bytes, direct, pace).and_then(|()| publish(&temporary, path));
    if made.is_err() {
        // The half-made file holds space that a full disk needs back; the error that is returned is the first one.
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

fn fill(path: &Path, head: &AlignedBuffer, bytes: u64, direct: bool, pace: &Pace) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = with_direct(&mut options, path, direct)?;
    file.write_all_at(head, 0)?;
    let zeros = zeroed(PIECE_BYTES);
    let mut at = head.len() as u64;
    while at < bytes {
        let piece = (bytes - at).min(PIECE_BYTES as u64);
        pace.take(piece);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
    }
    file.sync_all()
}

pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    let write = || {
        let file = File::create(&temporary)?;
        file.write_all_at(content, 0)?;
        file.sync_all()
    };
    let made = write().and_then(|()| publish(&temporary, path));
    if made.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn digest(path: &Path, bytes: u64, direct: bool, pace: &Pace) -> io::Result<[u8; 32]> {
    let mut file = open(path, direct)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = zeroed(PIECE_BYTES);
    let mut left = bytes;
    while 0 < left {
        let take = left.min(PIECE_BYTES as u64) as usize;
        pace.take(take as u64);
        file.read_exact(&mut piece[..take.next_multiple_of(BLOCK_BYTES)])?;
        hasher.update(&piece[..take]);
        left -= take as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

pub(super) fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}
