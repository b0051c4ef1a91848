//! Opens a log: proves what is there, replays it, cuts a torn tail, refuses damage.
//!
//! Promises (P2): what is replayed is a prefix of what was appended, and holds everything that was ever reported. A place that
//! was durable and is not valid any more is answered with `Corrupt` and nothing is changed. What is cut is blank and synced
//! before the first append. Does not: repair; a replica has the good bytes.

use crate::book::{Book, follow};
use crate::buffer::{AlignedBuffer, zeroed};
use crate::driver::{self, Active, Driver, Start, capacity};
use crate::gather::{Bounds, Gather, Last, Space};
use crate::io::{Disk, DiskFile};
use crate::log::{
    Core, EntryPlace, Files, Location, Log, LogOptions, LogStats, Observer, Phase, Replayed, ReplayedEntry, State,
};
use crate::record::Record;
use crate::scan::{self, Expected};
use crate::signal::Signal;
use crate::wire::hint::{Cover, Group, Hint, Item, Items};
use crate::wire::seal::Seal;
use crate::wire::{
    self, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Position, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// A segment takes at least and at most so many bytes.
pub const SEGMENT_BYTES_MIN: u64 = 32 << 10;
/// See [`SEGMENT_BYTES_MIN`].
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// One read or one zeroing write of the recovery, in bytes.
const PIECE_BYTES: usize = 4 << 20;
/// The first segment.
const SEGMENT_FIRST: u32 = 1;
/// The first frame.
const NUMBER_FIRST: u64 = 1;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The last entry of each shard, by shard.
    pub shards: Vec<ShardTail>,
    /// Segments with frames.
    pub segments: u64,
    /// Records replayed.
    pub records: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes that were scanned because no hint covered them.
    pub bytes_scanned: u64,
    /// Hints of sealed segments that were missing or damaged and were made again.
    pub hints_rebuilt: u64,
    /// A torn tail that was cut.
    pub cut: Option<Cut>,
}

/// The last entry of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardTail {
    /// The shard.
    pub shard: u16,
    /// Term of its last entry.
    pub term: u64,
    /// Index of its last entry.
    pub index: u64,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the valid frames end.
    pub segment: u32,
    /// Offset in the segment, in bytes.
    pub offset: u32,
    /// Blocks that were made blank, in bytes.
    pub bytes: u64,
    /// What was wrong with the first frame that was cut.
    pub what: String,
}

/// Why a log does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is locked: another process has this log open", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// Bytes that were durable are damaged. Nothing was changed.
    #[error(
        "segment {segment} is damaged at offset {offset}: {what}. Nothing was cut. Restore the segment from a replica, or \
         start this node empty under a new id and let it catch up"
    )]
    Corrupt {
        /// Sequence of the segment.
        segment: u32,
        /// Offset in the segment, in bytes.
        offset: u64,
        /// What does not match.
        what: String,
    },
    /// The options contradict each other.
    #[error("log options: {0}")]
    Options(String),
}

struct Opening<'a> {
    core: Core,
    opened: Opened,
    lasts: BTreeMap<u16, Last>,
    next_number: u64,
    /// End of the last valid frame.
    end: Position,
    /// The first place that is not valid, with what is wrong there.
    broken: Option<(Position, String)>,
    /// Everything below was durable once.
    proof: Position,
    unsealed: Vec<Unsealed>,
    closed_at_end: bool,
    progress: &'a mut dyn FnMut(u64, u64),
}

/// A segment without a seal.
struct Unsealed {
    book: Book,
    file: Rc<dyn DiskFile>,
    dirty: Vec<(usize, usize)>,
}

pub(crate) async fn open(
    disk: Rc<dyn Disk>,
    directory: &Path,
    options: LogOptions,
    observer: Rc<dyn Observer>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Log, Driver, Opened), OpenError> {
    check_options(&options)?;
    let io = |error| OpenError::Io { path: directory.to_owned(), error };
    let names = disk.list(directory).await.map_err(io)?;
    let lock_path = directory.join("LOCK");
    let lock = disk.lock(&lock_path).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: lock_path.clone() },
        _ => OpenError::Io { path: lock_path.clone(), error },
    })?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(&directory.join(name)).await.map_err(io)?;
    }
    // The list from before the lock may be old: another process may have closed in between.
    let names = disk.list(directory).await.map_err(io)?;
    let mut sequences: Vec<u32> = names.iter().filter_map(|name| wire::segment_sequence(name)).collect();
    sequences.sort_unstable();
    for (sequence, expected) in sequences.iter().zip(SEGMENT_FIRST..) {
        if *sequence != expected {
            let what = "the segment's file is missing".to_owned();
            return Err(OpenError::Corrupt { segment: expected, offset: 0, what });
        }
    }
    let last = sequences.last().copied().unwrap_or(0);
    let sealed_beyond = names.iter().filter_map(|name| wire::sealed_sequence(name)).max();
    if let Some(sealed) = sealed_beyond.filter(|&sealed| last < sealed) {
        let what = "the segment's seal is here, its file is missing".to_owned();
        return Err(OpenError::Corrupt { segment: sealed, offset: 0, what });
    }
    let name = match sequences.first() {
        Some(&first) => log_name(&*disk, directory, first).await?,
        None => disk.identity(),
    };
    let bounds = Bounds {
        frame_bytes_max: FRAME_BYTES_MAX.min((capacity(options.segment_bytes) as usize) - SEGMENT_HEADER_BYTES),
        round_bytes_max: options.round_bytes_max,
        backlog_bytes_max: options.backlog_bytes_max,
    };
    let state = State {
        gather: Gather::new(bounds, BTreeMap::new()),
        space: Space::default(),
        phase: Phase::Serving,
        durable: Position::default(),
        stats: LogStats::default(),
        files: Files::default(),
        closers: Vec::new(),
        lock: Some(lock),
    };
    let core = Core {
        options,
        disk,
        directory: directory.to_owned(),
        observer,
        name,
        state: RefCell::new(state),
        work: Signal::default(),
        pace: Arc::default(),
    };
    let mut opening = Opening {
        core,
        opened: Opened::default(),
        lasts: BTreeMap::new(),
        next_number: NUMBER_FIRST,
        end: Position { segment: SEGMENT_FIRST, offset: SEGMENT_HEADER_BYTES as u32 },
        broken: None,
        proof: Position::default(),
        unsealed: Vec::new(),
        closed_at_end: false,
        progress,
    };
    for sequence in SEGMENT_FIRST..=last {
        opening.segment(sequence, last).await?;
    }
    opening.judge()?;
    opening.cut().await?;
    let (core, opened, start) = opening.finish(bounds, last).await?;
    let core = Rc::new(core);
    let driver = Driver::new(core.clone(), start);
    Ok((Log(core), driver, opened))
}

fn check_options(options: &LogOptions) -> Result<(), OpenError> {
    let bytes = options.segment_bytes;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(4096) {
        let range = format!("between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}");
        return Err(OpenError::Options(format!("segment_bytes {bytes}: a multiple of 4096 {range}")));
    }
    let least = FRAME_BYTES_MAX.min(bytes as usize);
    if options.round_bytes_max < least || options.backlog_bytes_max < options.round_bytes_max {
        return Err(OpenError::Options(format!(
            "round_bytes_max {} at least {least}, and at most backlog_bytes_max {}",
            options.round_bytes_max, options.backlog_bytes_max
        )));
    }
    Ok(())
}

async fn log_name(disk: &dyn Disk, directory: &Path, first: u32) -> Result<[u8; 16], OpenError> {
    let path = directory.join(wire::segment_name(first));
    let io = |error| OpenError::Io { path: path.clone(), error };
    let file = disk.open(&path).await.map_err(io)?;
    let head = file.read_at(0, SEGMENT_HEADER_BYTES).await.map_err(io)?;
    let header = SegmentHeader::parse(&head).map_err(|error| corrupt(first, 0, error))?;
    Ok(header.log)
}

fn corrupt(segment: u32, offset: u32, what: impl ToString) -> OpenError {
    OpenError::Corrupt { segment, offset: u64::from(offset), what: what.to_string() }
}

impl Opening<'_> {
    async fn segment(&mut self, sequence: u32, last: u32) -> Result<(), OpenError> {
        let path = self.core.path(&wire::segment_name(sequence));
        let io = |error| OpenError::Io { path: path.clone(), error };
        let file = self.core.disk.open(&path).await.map_err(io)?;
        let head = file.read_at(0, SEGMENT_HEADER_BYTES).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(sequence, 0, "the file is cut short"),
            _ => OpenError::Io { path: path.clone(), error },
        })?;
        let header = SegmentHeader::parse(&head).map_err(|error| corrupt(sequence, 0, error))?;
        if header.sequence != sequence || header.log != self.core.name {
            return Err(corrupt(sequence, 0, "the segment belongs to another log or place"));
        }
        if u64::from(header.segment_bytes) != file.bytes() {
            return Err(corrupt(
                sequence,
                0,
                format!("{} bytes, its head says {}", file.bytes(), header.segment_bytes),
            ));
        }
        match self.seal(sequence).await {
            Some(seal) => self.sealed(&seal, &file).await?,
            None => self.unsealed(sequence, file).await?,
        }
        let total = u64::from(last) * u64::from(header.segment_bytes);
        (self.progress)(u64::from(sequence) * u64::from(header.segment_bytes), total);
        Ok(())
    }

    /// The segment's seal; one that is missing or damaged only costs a scan.
    async fn seal(&self, sequence: u32) -> Option<Seal> {
        let file = self.core.disk.load(&self.core.path(&wire::seal_name(sequence))).await.ok()?;
        match Seal::parse(&file) {
            Ok(seal) if seal.log == self.core.name && seal.segment == sequence => Some(seal),
            outcome => {
                tracing::warn!(sequence, error = ?outcome.err(), "a seal is damaged; the segment is scanned");
                None
            }
        }
    }

    async fn sealed(&mut self, seal: &Seal, file: &Rc<dyn DiskFile>) -> Result<(), OpenError> {
        self.proof = self.proof.max(Position { segment: seal.segment, offset: seal.end });
        if self.broken.is_some() {
            return Ok(());
        }
        if seal.first_number != self.next_number {
            let what = format!("frames below number {} are missing before segment {}", seal.first_number, seal.segment);
            self.broken = Some((self.end, what));
            return Ok(());
        }
        let hint_file = self.core.disk.load(&self.core.path(&wire::hint_name(seal.segment))).await.unwrap_or_default();
        let intact = *blake3::hash(&hint_file).as_bytes() == seal.hint;
        if intact && let Ok(hint) = Hint::parse(&hint_file) {
            self.replay_hint(&hint)?;
        } else {
            self.rebuild(seal, file).await?;
        }
        self.next_number = seal.next_number;
        self.end = Position { segment: seal.segment, offset: seal.end };
        self.count(seal.end);
        self.closed_at_end = false;
        Ok(())
    }

    /// Scans a sealed segment whose hint is missing or damaged, and makes the hint again.
    async fn rebuild(&mut self, seal: &Seal, file: &Rc<dyn DiskFile>) -> Result<(), OpenError> {
        tracing::warn!(segment = seal.segment, "the hint of a sealed segment is missing or damaged; it is made again");
        let bytes = self.load(seal.segment, file).await?;
        let mut book = Book::new(seal.segment, seal.first_number);
        self.scan(&mut book, &bytes)?;
        if book.end != seal.end || book.next_number != seal.next_number || self.broken.is_some() {
            let what = self.broken.take().map_or("frames are missing".to_owned(), |(_, what)| what);
            return Err(corrupt(seal.segment, book.end, what));
        }
        if blake3::hash(&bytes[..seal.end as usize]).as_bytes() != &seal.content {
            return Err(corrupt(seal.segment, 0, "the content does not match its seal"));
        }
        self.opened.hints_rebuilt += 1;
        if let Err(error) = driver::seal(&self.core, &book).await {
            tracing::warn!(segment = seal.segment, %error, "the hint was not written");
        }
        Ok(())
    }

    async fn unsealed(&mut self, sequence: u32, file: Rc<dyn DiskFile>) -> Result<(), OpenError> {
        let hint_file = self.core.disk.load(&self.core.path(&wire::hint_name(sequence))).await.unwrap_or_default();
        let hint = Hint::parse(&hint_file).ok().filter(|hint| {
            let Cover { log, segment, end, .. } = hint.cover;
            log == self.core.name && segment == sequence && u64::from(end) <= file.bytes()
        });
        let bytes = self.load(sequence, &file).await?;
        let mut book = Book::new(sequence, self.next_number);
        if let Some(hint) = &hint {
            let cover = Position { segment: sequence, offset: hint.cover.end };
            if SEGMENT_HEADER_BYTES < cover.offset as usize {
                self.proof = self.proof.max(cover);
            }
            if self.broken.is_none() && self.next_number <= hint.cover.next_number {
                self.replay_hint(hint)?;
                book = Book::resume(self.next_number, hint);
                self.end = if self.next_number < hint.cover.next_number { cover } else { self.end };
                self.next_number = hint.cover.next_number;
                self.closed_at_end = closes(&bytes, &self.core.name, &book);
            }
        }
        if self.broken.is_none() {
            self.scan(&mut book, &bytes)?;
        } else {
            let expected = self.expected(&book);
            self.proof = self.proof.max(scan::proof(&bytes, &expected, SEGMENT_HEADER_BYTES).unwrap_or_default());
        }
        if SEGMENT_HEADER_BYTES < book.end as usize {
            self.count(book.end);
        }
        let dirty = scan::dirty(&bytes, book.end as usize, PIECE_BYTES);
        self.unsealed.push(Unsealed { book, file, dirty });
        Ok(())
    }

    fn count(&mut self, end: u32) {
        self.opened.segments += 1;
        self.opened.bytes += u64::from(end);
    }

    fn expected(&self, book: &Book) -> Expected {
        Expected { log: self.core.name, segment: book.segment, from: book.end, number: book.next_number }
    }

    /// Replays the frames behind the book's end; where they stop being valid, the log is broken.
    fn scan(&mut self, book: &mut Book, bytes: &Bytes) -> Result<(), OpenError> {
        let expected = self.expected(book);
        let walk = scan::walk(bytes, &expected);
        for frame in &walk.frames {
            self.replay_frame(book, bytes, frame)?;
        }
        self.opened.bytes_scanned += u64::from(walk.end - expected.from);
        self.next_number = book.next_number;
        if !walk.frames.is_empty() {
            self.end = Position { segment: book.segment, offset: book.end };
        }
        if let Some(what) = walk.stopped {
            let at = Position { segment: book.segment, offset: walk.end };
            self.broken = Some((at, what.to_string()));
            self.proof = self.proof.max(walk.proof.unwrap_or_default());
        }
        Ok(())
    }

    fn replay_frame(&mut self, book: &mut Book, bytes: &Bytes, frame: &FrameHeader) -> Result<(), OpenError> {
        let at = frame.placement.at;
        if frame.placement.kind == FrameKind::Close {
            book.enter(frame.frame_bytes, None);
            self.closed_at_end = true;
            return Ok(());
        }
        self.closed_at_end = false;
        let entry = &frame.entry;
        let group = Group {
            shard: entry.shard,
            term: entry.term,
            index: entry.index,
            frame_offset: at.offset,
            frame_bytes: frame.frame_bytes,
            committed: entry.committed,
        };
        follow(&mut self.lasts, &group).map_err(|what| corrupt(at.segment, at.offset, what))?;
        self.entry(&group, at.segment);
        let payload_at = at.offset as usize + FRAME_HEADER_BYTES;
        let payload = bytes.slice(payload_at..payload_at + entry.payload_bytes as usize);
        let records = Record::parse_all(&payload, entry.record_count as usize);
        let mut items = Items::default();
        let mut offset = FRAME_HEADER_BYTES as u32;
        for record in records.map_err(|error| corrupt(at.segment, at.offset, error))? {
            let hint = self.core.observer.describe(&record);
            let item = Item { offset, kind: record.kind(), key: record.key(), hint: &hint };
            items.push(item);
            self.replay(&group, at, item);
            offset += record.bytes().len() as u32;
        }
        book.enter(frame.frame_bytes, Some((&group, &items)));
        Ok(())
    }

    fn replay_hint(&mut self, hint: &Hint<'_>) -> Result<(), OpenError> {
        let segment = hint.cover.segment;
        let mut outcome = Ok(());
        hint.for_each_group(|group, _| {
            if outcome.is_ok() {
                outcome = follow(&mut self.lasts, group).map_err(|what| corrupt(segment, group.frame_offset, what));
            }
        });
        outcome?;
        hint.for_each(|group, item| match item {
            None => self.entry(group, segment),
            Some(item) => self.replay(group, Position { segment, offset: group.frame_offset }, item),
        });
        Ok(())
    }

    fn entry(&self, group: &Group, segment: u32) {
        let frame = Location::of(Position { segment, offset: group.frame_offset }, 0);
        self.core.observer.entry(ReplayedEntry {
            shard: group.shard,
            term: group.term,
            index: group.index,
            committed: group.committed,
            place: EntryPlace { frame, frame_bytes: group.frame_bytes },
        });
    }

    fn replay(&mut self, group: &Group, frame: Position, item: Item<'_>) {
        self.opened.records += 1;
        self.core.observer.replay(Replayed {
            shard: group.shard,
            term: group.term,
            index: group.index,
            location: Location::of(frame, item.offset),
            kind: item.kind,
            key: item.key,
            hint: item.hint,
        });
    }

    async fn load(&self, segment: u32, file: &Rc<dyn DiskFile>) -> Result<Bytes, OpenError> {
        let bytes = file.bytes() as usize;
        let mut whole = AlignedBuffer::with_capacity(bytes);
        while whole.len() < bytes {
            let piece = file.read_at(whole.len() as u64, PIECE_BYTES.min(bytes - whole.len())).await;
            let path = self.core.path(&wire::segment_name(segment));
            whole.extend_from_slice(&piece.map_err(|error| OpenError::Io { path, error })?);
        }
        Ok(Bytes::from_owner(whole))
    }

    /// Torn or damaged: a place that was durable once can only be damaged.
    fn judge(&mut self) -> Result<(), OpenError> {
        if self.broken.is_none() && self.end < self.proof {
            self.broken = Some((self.end, "frames that were durable are missing".to_owned()));
        }
        match &self.broken {
            Some((at, what)) if self.end < self.proof => {
                let proof = self.proof;
                let what =
                    format!("{what}; everything below segment {}, offset {} was durable", proof.segment, proof.offset);
                Err(corrupt(at.segment, at.offset, what))
            }
            _ => Ok(()),
        }
    }

    /// Makes the torn tail blank, durably, so that no frame of it can come back behind new ones. Also syncs what is kept: a
    /// process that died may have left it in the page cache only.
    async fn cut(&mut self) -> Result<(), OpenError> {
        let mut cut_bytes = 0;
        for unsealed in &self.unsealed {
            let path = self.core.path(&wire::segment_name(unsealed.book.segment));
            let io = |error| OpenError::Io { path: path.clone(), error };
            for &(offset, bytes) in &unsealed.dirty {
                let (written, _) = unsealed.file.write_at(zeroed(bytes), offset as u64).await;
                written.map_err(io)?;
                cut_bytes += bytes as u64;
            }
            unsealed.file.sync_data().await.map_err(io)?;
        }
        if let Some((_, what)) = self.broken.take() {
            let Position { segment, offset } = self.end;
            tracing::warn!(segment, offset, bytes = cut_bytes, what, "a torn tail was cut");
            self.opened.cut = Some(Cut { segment, offset, bytes: cut_bytes, what });
        }
        Ok(())
    }

    /// Hands over to the driver: the segment with the last frame is the active one, what comes behind it is ahead.
    async fn finish(self, bounds: Bounds, last: u32) -> Result<(Core, Opened, Start), OpenError> {
        let Self { core, mut opened, lasts, end, unsealed, next_number, closed_at_end, .. } = self;
        let tail = |(&shard, last): (&u16, &Last)| ShardTail { shard, term: last.term, index: last.index };
        opened.shards = lasts.iter().map(tail).collect();
        let mut complete = VecDeque::new();
        let mut active = None;
        let mut ahead = VecDeque::new();
        for Unsealed { mut book, file, .. } in unsealed {
            if book.segment < end.segment {
                complete.push_back(book);
            } else if book.segment == end.segment {
                book.end = end.offset;
                active = Some(Active { book, file });
            } else if active.is_none() {
                // The segment before is sealed and full: this one is next.
                active = Some(Active { book: Book::new(book.segment, next_number), file });
            } else if file.bytes() == core.options.segment_bytes {
                ahead.push_back((book.segment, file));
            } else {
                return Err(OpenError::Options(format!(
                    "segment_bytes {}: segment {} was written ahead with {} bytes; open with that size once more",
                    core.options.segment_bytes,
                    book.segment,
                    file.bytes()
                )));
            }
        }
        let active = match active {
            Some(active) => active,
            None => {
                let path = core.path(&wire::segment_name(last + 1));
                let file = driver::prepare(&core, last + 1).await.map_err(|error| OpenError::Io { path, error })?;
                Active { book: Book::new(last + 1, next_number), file }
            }
        };
        {
            let mut state = core.state.borrow_mut();
            state.gather = Gather::new(bounds, lasts);
            state.durable = end;
            state.files.put(active.book.segment, active.file.clone());
            state.stats.segments = opened.segments.max(1);
            state.stats.bytes = opened.bytes;
            state.stats.records = opened.records;
        }
        Ok((core, opened, Start { active, ahead, complete, closed_at_end }))
    }
}

/// Whether the last frame that the book's hint covers is a close frame.
fn closes(bytes: &Bytes, log: &[u8; 16], book: &Book) -> bool {
    let Some(at) = (book.end as usize).checked_sub(wire::CLOSE_FRAME_BYTES) else { return false };
    let position = Position { segment: book.segment, offset: at as u32 };
    wire::parse_frame(&bytes[at..], log, position).is_ok_and(|frame| frame.placement.kind == FrameKind::Close)
}
