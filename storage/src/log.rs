//! The log of one core: append, read, close, and what the room above must bring.
//!
//! Promises: a handle is cheap and stays on its core; `append` copies the record once and never waits; a record is reported to
//! the observer only when it and everything before it are durable. Does not: cache; the room above has a cache.

use crate::buffer::{BLOCK_BYTES, blocks_up};
use crate::driver::Driver;
use crate::entry::Entry;
use crate::gather::{Gather, Space};
use crate::io::{Disk, DiskFile, Lock};
use crate::pace::Pace;
use crate::record::{self, RECORD_ALIGN, RECORD_HEADER_BYTES, Record, RecordError};
use crate::signal::Signal;
use crate::wire::{self, Position, WireError};
use bytes::Bytes;
use rkyv::util::AlignedVec;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// Bytes of the first read of a record; a longer one takes a second read.
const READ_BYTES_EXPECTED: usize = 2 * BLOCK_BYTES;
/// Segment files kept open for reads.
const FILES_OPEN_MAX: usize = 512;
/// Records are addressed in units of so many bytes.
const UNIT_BYTES: u32 = RECORD_ALIGN as u32;

/// How the log is driven.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment, in bytes: a multiple of 4096 between 32 KiB and 1 GiB.
    pub segment_bytes: u64,
    /// A round takes at most so many bytes.
    pub round_bytes_max: usize,
    /// Rounds that may be written and synced at the same time.
    pub rounds_in_flight_max: usize,
    /// While a round is in flight the next starts only when so many bytes wait.
    pub round_bytes_eager: usize,
    /// Bytes that may wait or be in flight; beyond that an append is answered with `Busy`.
    pub backlog_bytes_max: usize,
    /// Segments that are kept written ahead of use.
    pub segments_ahead: usize,
    /// Read and write past the page cache (O_DIRECT). The disk is asked for it when it is made; here for the record.
    pub direct: bool,
    /// After a failed preparation of a segment the next attempt waits so long, in milliseconds.
    pub prepare_retry_ms: u64,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Sequence of the segment.
    pub segment: u32,
    /// Offset in the segment, in units of 16 bytes.
    pub unit: u32,
}

/// Where the frame of an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPlace {
    /// Its first byte.
    pub frame: Location,
    /// Its bytes, padding included.
    pub frame_bytes: u32,
}

/// What the log tells the room above; called on the log's own thread, must not block.
pub trait Observer {
    /// The hint of a record: what a replay shall know without the body, at most 65535 bytes.
    fn describe(&self, record: &Record) -> Vec<u8>;
    /// At open: an entry, before its records. One whose index is not behind the shard's last one replaces everything from that
    /// index on.
    fn entry(&self, _entry: ReplayedEntry) {}
    /// At open: every record of every entry, in log order.
    fn replay(&self, item: Replayed<'_>);
    /// An entry is durable, and so is everything before it.
    fn committed(&self, entry: Committed<'_>);
}

/// An entry found at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayedEntry {
    /// The shard.
    pub shard: u16,
    /// The term.
    pub term: u64,
    /// The index in the shard.
    pub index: u64,
    /// Entries of the shard up to this index were committed when this one was proposed; 0 where nobody said.
    pub committed: u64,
    /// Where it stands.
    pub place: EntryPlace,
}

/// A record found at open.
#[derive(Clone, Copy, Debug)]
pub struct Replayed<'a> {
    /// The shard of its entry.
    pub shard: u16,
    /// The term of its entry.
    pub term: u64,
    /// The index of its entry.
    pub index: u64,
    /// Where it stands.
    pub location: Location,
    /// The record's kind.
    pub kind: u8,
    /// The record's key.
    pub key: &'a [u8; 32],
    /// What [`Observer::describe`] said.
    pub hint: &'a [u8],
}

/// An entry that became durable.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// The shard.
    pub shard: u16,
    /// The term.
    pub term: u64,
    /// The index in the shard.
    pub index: u64,
    /// Where its frame stands.
    pub place: EntryPlace,
    /// One for each record, in append order.
    pub locations: &'a [Location],
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much waits for the disk.
    #[error("the log is busy, try again in {retry_after_ms} ms")]
    Busy {
        /// When to come back, in milliseconds.
        retry_after_ms: u32,
    },
    /// No room for another segment. Clears by itself when there is room again.
    #[error("the disk is full; writes are refused until there is room, reads go on")]
    DiskFull,
    /// The log was closed, or its driver failed.
    #[error("the log is closed")]
    Closed,
    /// Larger than a frame may be with these segments.
    #[error("record of {bytes} bytes, a frame takes {bytes_max} bytes")]
    TooLarge {
        /// Bytes of the record.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// Why a record was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The location lies outside the log.
    #[error("no record at segment {segment}, unit {unit}")]
    NoSuchPlace {
        /// Sequence of the segment.
        segment: u32,
        /// Offset in units of 16 bytes.
        unit: u32,
    },
    /// The disk failed.
    #[error("reading segment {segment}: {error}")]
    Io {
        /// Sequence of the segment.
        segment: u32,
        /// What the disk said.
        error: io::Error,
    },
    /// The bytes are damaged: fetch the record from a replica.
    #[error("segment {segment}, unit {unit} is damaged ({error}): fetch the record from a replica")]
    Damaged {
        /// Sequence of the segment.
        segment: u32,
        /// Offset in units of 16 bytes.
        unit: u32,
        /// What does not match.
        error: RecordError,
    },
    /// The frame of an entry is damaged.
    #[error("segment {segment}, unit {unit} is damaged ({error}): fetch the entry from a replica")]
    DamagedEntry {
        /// Sequence of the segment.
        segment: u32,
        /// Offset in units of 16 bytes.
        unit: u32,
        /// What does not match.
        error: WireError,
    },
}

/// Why a log did not close well.
#[derive(Debug, thiserror::Error)]
#[error("the log did not close: its driver failed or was dropped")]
pub struct CloseError;

/// Sums since the log was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segments that hold frames.
    pub segments: u64,
    /// Segments written ahead.
    pub segments_ahead: u64,
    /// Bytes that frames and heads take in all segments.
    pub bytes: u64,
    /// Records in the log.
    pub records: u64,
    /// Rounds that became durable.
    pub rounds: u64,
    /// Records that became durable.
    pub records_committed: u64,
    /// Bytes of the rounds that became durable.
    pub bytes_committed: u64,
    /// Syncs that were answered.
    pub syncs: u64,
    /// Time of all syncs, in microseconds.
    pub sync_us_total: u64,
    /// The slowest sync, in microseconds.
    pub sync_us_max: u64,
    /// Rounds that are being written or synced now.
    pub rounds_in_flight: u64,
    /// Bytes that wait for a round.
    pub bytes_waiting: u64,
    /// Segments sealed since the log was opened.
    pub segments_sealed: u64,
    /// Scrubs that came to their end since the log was opened.
    pub scrubs: u64,
    /// Bytes that they read.
    pub scrub_bytes: u64,
    /// Damaged places that the last of them found.
    pub scrub_damages: u64,
    /// Whether the disk has no room for another segment.
    pub disk_full: bool,
}

/// The log. A handle; clones are the same log.
#[derive(Clone)]
pub struct Log(pub(crate) Rc<Core>);

pub(crate) struct Core {
    pub(crate) options: LogOptions,
    pub(crate) disk: Rc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) observer: Rc<dyn Observer>,
    pub(crate) name: [u8; 16],
    pub(crate) state: RefCell<State>,
    pub(crate) work: Signal,
    pub(crate) pace: Arc<Pace>,
}

pub(crate) struct State {
    pub(crate) gather: Gather,
    pub(crate) space: Space,
    pub(crate) phase: Phase,
    /// Everything below is durable.
    pub(crate) durable: Position,
    pub(crate) stats: LogStats,
    pub(crate) files: Files,
    pub(crate) closers: Vec<Waker>,
    pub(crate) lock: Option<Lock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Closing,
    Closed,
    Failed,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            round_bytes_max: 8 << 20,
            rounds_in_flight_max: 2,
            round_bytes_eager: 32 << 10,
            backlog_bytes_max: 64 << 20,
            segments_ahead: 1,
            direct: true,
            prepare_retry_ms: 1000,
        }
    }
}

impl Location {
    /// The offset in the segment, in bytes.
    pub fn offset(self) -> u64 {
        u64::from(self.unit) * u64::from(UNIT_BYTES)
    }

    pub(crate) fn of(frame: Position, offset: u32) -> Self {
        Self { segment: frame.segment, unit: (frame.offset + offset) / UNIT_BYTES }
    }
}

impl Log {
    /// Opens the log in `directory`, which holds nothing else, or makes it: replays every record to `observer`, cuts a torn tail.
    /// The caller spawns [`Driver::run`] on this thread; nothing becomes durable without it.
    ///
    /// # Errors
    /// [`OpenError`](crate::OpenError); nothing was cut when it is `Corrupt`.
    pub async fn open(
        disk: Rc<dyn Disk>,
        directory: &Path,
        options: LogOptions,
        observer: Rc<dyn Observer>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, Driver, crate::Opened), crate::OpenError> {
        crate::open::open(disk, directory, options, observer, progress).await
    }

    /// Takes a record into the round that fills, and answers the index of the entry that will hold it.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was taken then.
    ///
    /// # Panics
    /// When `term` is lower than that of the shard's last entry.
    pub fn append(&self, shard: u16, term: u64, record: &Record) -> Result<u64, AppendError> {
        let core = &*self.0;
        let hint = core.observer.describe(record);
        let taken = {
            let mut state = core.state.borrow_mut();
            let State { gather, space, phase, .. } = &mut *state;
            if *phase != Phase::Serving {
                return Err(AppendError::Closed);
            }
            gather.push(space, shard, term, record, &hint)
        };
        // A full disk is tried again when someone wants to write, so the driver is woken for a refusal too.
        core.work.raise();
        taken
    }

    /// Takes an entry that was ordered elsewhere, as it is, into a frame of its own. Its index follows the shard's last one, or
    /// replaces everything from that index on.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was taken then.
    ///
    /// # Panics
    /// When the index leaves a gap.
    pub fn append_entry(&self, entry: &Entry) -> Result<(), AppendError> {
        let core = &*self.0;
        let taken = {
            let mut state = core.state.borrow_mut();
            let State { gather, space, phase, .. } = &mut *state;
            if *phase != Phase::Serving {
                return Err(AppendError::Closed);
            }
            let hints = entry.records().map(|record| {
                let hint = core.observer.describe(&record);
                (record, hint)
            });
            gather.push_entry(space, entry, hints)
        };
        core.work.raise();
        taken
    }

    /// Whether an entry of `bytes` would be taken now.
    ///
    /// # Errors
    /// What [`Log::append_entry`] would answer.
    pub fn has_room(&self, bytes: usize) -> Result<(), AppendError> {
        let state = self.0.state.borrow();
        if state.phase != Phase::Serving {
            return Err(AppendError::Closed);
        }
        let room = state.gather.has_room(&state.space, bytes);
        drop(state);
        if room.is_err() {
            // A full disk is tried again when someone wants to write.
            self.0.work.raise();
        }
        room
    }

    /// Reads an entry back and checks every checksum of its frame.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_entry(&self, place: EntryPlace) -> Result<Entry, ReadError> {
        let core = &*self.0;
        let Location { segment, unit } = place.frame;
        let io = |error| ReadError::Io { segment, error };
        let file = core.file(segment).await.map_err(io)?;
        let at = Position { segment, offset: place.frame.offset() as u32 };
        let bytes = file.read_at(place.frame.offset(), place.frame_bytes as usize).await.map_err(io)?;
        let bytes = Bytes::from_owner(bytes);
        Entry::of_frame(&bytes, &core.name, at).map_err(|error| ReadError::DamagedEntry { segment, unit, error })
    }

    /// Reads a record and checks its checksum.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, location: Location) -> Result<Record, ReadError> {
        let core = &*self.0;
        let Location { segment, unit } = location;
        let io = |error| ReadError::Io { segment, error };
        let damaged = |error| ReadError::Damaged { segment, unit, error };
        let file = core.file(segment).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::NoSuchPlace { segment, unit },
            _ => io(error),
        })?;
        let first = location.offset() / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let skip = (location.offset() - first) as usize;
        if file.bytes() <= location.offset() {
            return Err(ReadError::NoSuchPlace { segment, unit });
        }
        let left = (file.bytes() - first) as usize;
        let mut window = file.read_at(first, READ_BYTES_EXPECTED.min(left)).await.map_err(io)?;
        let known = RECORD_HEADER_BYTES.min(window.len() - skip);
        let length = record::length(&window[skip..skip + known]).map_err(damaged)?;
        if window.len() < skip + length {
            let wanted = blocks_up(skip + length);
            if left < wanted {
                return Err(damaged(RecordError::Short { bytes: left - skip, wanted: length }));
            }
            window = file.read_at(first, wanted).await.map_err(io)?;
        }
        // A copy of its own, so that a small record that is kept does not keep its blocks.
        let mut copy = AlignedVec::<RECORD_ALIGN>::with_capacity(length);
        copy.extend_from_slice(&window[skip..skip + length]);
        Record::parse(&Bytes::from_owner(copy)).map_err(damaged)
    }

    /// Figures of now.
    pub fn stats(&self) -> LogStats {
        let state = self.0.state.borrow();
        LogStats {
            segments_ahead: state.space.ahead.len() as u64,
            bytes_waiting: state.gather.waiting_bytes() as u64,
            disk_full: state.space.full,
            ..state.stats
        }
    }

    /// Refuses new appends, waits until everything taken is durable, and writes what makes the next open short.
    ///
    /// # Errors
    /// [`CloseError`] when the driver failed.
    pub async fn close(&self) -> Result<(), CloseError> {
        let core = &self.0;
        {
            let mut state = core.state.borrow_mut();
            if state.phase == Phase::Serving {
                state.phase = Phase::Closing;
            }
        }
        core.work.raise();
        poll_fn(|context| {
            let mut state = core.state.borrow_mut();
            match state.phase {
                Phase::Closed => Poll::Ready(Ok(())),
                Phase::Failed => Poll::Ready(Err(CloseError)),
                Phase::Serving | Phase::Closing => {
                    state.closers.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Core {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The file of a segment, opened when it is not yet.
    pub(crate) async fn file(&self, segment: u32) -> io::Result<Rc<dyn DiskFile>> {
        let known = self.state.borrow().files.get(segment);
        if let Some(file) = known {
            return Ok(file);
        }
        let file = self.disk.open(&self.path(&wire::segment_name(segment))).await?;
        self.state.borrow_mut().files.put(segment, file.clone());
        Ok(file)
    }
}

/// Open segment files, the oldest opened goes first.
#[derive(Default)]
pub(crate) struct Files(VecDeque<(u32, Rc<dyn DiskFile>)>);

impl Files {
    fn get(&self, segment: u32) -> Option<Rc<dyn DiskFile>> {
        // Newest first: that is where most reads of a young log go, and the list is short.
        self.0.iter().rev().find(|(sequence, _)| *sequence == segment).map(|(_, file)| file.clone())
    }

    pub(crate) fn put(&mut self, segment: u32, file: Rc<dyn DiskFile>) {
        if self.0.len() == FILES_OPEN_MAX {
            self.0.pop_front();
        }
        self.0.push_back((segment, file));
    }
}
