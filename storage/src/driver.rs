//! The commit loop: takes rounds, writes and syncs them, reports them in order, keeps segments ahead and seals the full ones.
//!
//! Promises: a round is reported only when it and every earlier one are durable; a lonely record waits for nobody; after a failed
//! write or sync nothing more is reported. Does not: end the process; it returns [`Failed`] and the caller does.

use crate::book::Book;
use crate::buffer::AlignedBuffer;
use crate::gather::Round;
use crate::io::{DiskFile, LocalFuture};
use crate::log::{Committed, Core, EntryPlace, Location, Phase, State};
use crate::wire::hint::Group;
use crate::wire::{self, CLOSE_FRAME_BYTES, FrameKind, Placement, Position, SEGMENT_HEADER_BYTES, SegmentHeader};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// A small frame is copied behind its neighbour, so that a round of many shards is one write, in bytes.
const FRAME_BYTES_COPIED_MAX: usize = 64 << 10;

/// A write or a sync of a round failed: nobody knows what is on the disk, so the process has to end; recovery is the repair.
#[derive(Debug, thiserror::Error)]
#[error("{what} of segment {segment} failed: {error}; the process must end, the next start recovers the log")]
pub struct Failed {
    /// The segment.
    pub segment: u32,
    /// What failed.
    pub what: &'static str,
    /// What the disk said.
    pub error: io::Error,
}

/// The log's commit loop, to be spawned on the log's own thread.
pub struct Driver {
    core: Rc<Core>,
    active: Active,
    /// Segments written ahead, the next one first.
    ahead: VecDeque<(u32, Rc<dyn DiskFile>)>,
    /// Full segments that wait for their seal.
    complete: VecDeque<Book>,
    flights: VecDeque<Flight>,
    rounds: FuturesUnordered<LocalFuture<Landed>>,
    chores: FuturesUnordered<LocalFuture<Chore>>,
    round_number: u64,
    preparing: bool,
    sealing: bool,
    prepare_failed: Option<Instant>,
    /// Someone wanted to write since the last preparation failed.
    wanted: bool,
    /// The last frame of the log is a close frame.
    closed_at_end: bool,
}

/// The segment that fills.
pub(crate) struct Active {
    pub(crate) book: Book,
    pub(crate) file: Rc<dyn DiskFile>,
}

/// What recovery hands to the driver.
pub(crate) struct Start {
    pub(crate) active: Active,
    pub(crate) ahead: VecDeque<(u32, Rc<dyn DiskFile>)>,
    pub(crate) complete: VecDeque<Book>,
    pub(crate) closed_at_end: bool,
}

/// A round that is written and synced, or waits for an earlier one.
struct Flight {
    number: u64,
    bytes: usize,
    end: Position,
    entries: Vec<Entry>,
    landed: bool,
}

struct Entry {
    shard: u16,
    term: u64,
    index: u64,
    frame: Location,
    frame_bytes: u32,
    locations: Vec<Location>,
}

struct Landed {
    number: u64,
    outcome: Result<(), Failed>,
    buffers: Vec<AlignedBuffer>,
    syncs: u64,
    sync_us: u64,
}

/// One write of a round.
struct Piece {
    segment: u32,
    file: Rc<dyn DiskFile>,
    offset: u32,
    buffer: AlignedBuffer,
}

enum Chore {
    Prepared(u32, io::Result<Rc<dyn DiskFile>>),
    Sealed(u32, io::Result<()>),
}

enum Event {
    Landed(Landed),
    Chore(Chore),
    Work,
}

impl Driver {
    pub(crate) fn new(core: Rc<Core>, start: Start) -> Self {
        let driver = Self {
            core,
            active: start.active,
            ahead: start.ahead,
            complete: start.complete,
            flights: VecDeque::new(),
            rounds: FuturesUnordered::new(),
            chores: FuturesUnordered::new(),
            round_number: 0,
            preparing: false,
            sealing: false,
            prepare_failed: None,
            wanted: false,
            closed_at_end: start.closed_at_end,
        };
        driver.tell_space();
        driver
    }

    /// Commits until the log is closed.
    ///
    /// # Errors
    /// [`Failed`]: the caller must end the process.
    pub async fn run(mut self) -> Result<(), Failed> {
        let outcome = self.commit().await;
        let closers = {
            let mut state = self.core.state.borrow_mut();
            state.phase = if outcome.is_ok() { Phase::Closed } else { Phase::Failed };
            state.lock = None;
            std::mem::take(&mut state.closers)
        };
        closers.into_iter().for_each(std::task::Waker::wake);
        outcome
    }

    async fn commit(&mut self) -> Result<(), Failed> {
        loop {
            self.start_rounds();
            self.start_chores();
            let closing = self.core.state.borrow().phase == Phase::Closing;
            self.core.pace.hurry(closing || self.ahead.is_empty());
            if closing && self.flights.is_empty() && self.chores.is_empty() {
                return self.close().await;
            }
            match self.event().await {
                Event::Landed(landed) => self.land(landed)?,
                Event::Chore(chore) => self.finish_chore(chore),
                Event::Work => self.wanted = true,
            }
        }
    }

    async fn event(&mut self) -> Event {
        poll_fn(|context| {
            if let Poll::Ready(Some(landed)) = self.rounds.poll_next_unpin(context) {
                return Poll::Ready(Event::Landed(landed));
            }
            if let Poll::Ready(Some(chore)) = self.chores.poll_next_unpin(context) {
                return Poll::Ready(Event::Chore(chore));
            }
            self.core.work.poll(context).map(|()| Event::Work)
        })
        .await
    }

    /// Takes rounds while none is in flight, or while enough waits to be worth a second one.
    fn start_rounds(&mut self) {
        let options = &self.core.options;
        let (eager, in_flight_max) = (options.round_bytes_eager.max(1), options.rounds_in_flight_max.max(1));
        loop {
            let round = {
                let mut state = self.core.state.borrow_mut();
                let waiting = state.gather.waiting_bytes();
                let in_flight = self.rounds.len();
                if waiting == 0 || in_flight_max <= in_flight || (0 < in_flight && waiting < eager) {
                    return;
                }
                let Some(round) = state.gather.take() else { return };
                state.stats.rounds_in_flight += 1;
                round
            };
            self.start_round(round);
            self.tell_space();
        }
    }

    fn start_round(&mut self, round: Round) {
        let number = self.round_number;
        self.round_number += 1;
        let durable = self.core.state.borrow().durable;
        let bytes = round.bytes;
        let mut entries = Vec::with_capacity(round.frames.len());
        let mut pieces: Vec<Piece> = Vec::with_capacity(round.frames.len());
        for mut frame in round.frames {
            let frame_bytes = frame.bytes() as u32;
            self.make_room(frame_bytes);
            let book = &mut self.active.book;
            let at = Position { segment: book.segment, offset: book.end };
            let head = frame.head();
            let placement = Placement { kind: FrameKind::Entry, at, number: book.next_number, durable };
            wire::finish_frame(&mut frame.buffer, &self.core.name, &placement, &head);
            let group = Group {
                shard: frame.shard,
                term: frame.term,
                index: frame.index,
                frame_offset: at.offset,
                frame_bytes,
                committed: head.committed,
            };
            book.enter(frame_bytes, Some((&group, &frame.items)));
            entries.push(Entry {
                shard: frame.shard,
                term: frame.term,
                index: frame.index,
                frame: Location::of(at, 0),
                frame_bytes,
                locations: frame.offsets.iter().map(|&offset| Location::of(at, offset)).collect(),
            });
            match pieces.last_mut() {
                Some(piece) if piece.segment == at.segment && frame.buffer.len() <= FRAME_BYTES_COPIED_MAX => {
                    piece.buffer.extend_from_slice(&frame.buffer);
                    self.core.state.borrow_mut().gather.give_back(frame.buffer);
                }
                _ => pieces.push(Piece {
                    segment: at.segment,
                    file: self.active.file.clone(),
                    offset: at.offset,
                    buffer: frame.buffer,
                }),
            }
        }
        self.closed_at_end = false;
        let end = Position { segment: self.active.book.segment, offset: self.active.book.end };
        self.flights.push_back(Flight { number, bytes, end, entries, landed: false });
        self.rounds.push(Box::pin(fly(number, pieces)));
    }

    /// Goes on to the next segment when the frame does not fit; admission made sure that there is one.
    fn make_room(&mut self, frame_bytes: u32) {
        let capacity = capacity(self.core.options.segment_bytes);
        if u64::from(self.active.book.end) + u64::from(frame_bytes) <= capacity {
            return;
        }
        let (segment, file) = self.ahead.pop_front().expect("admission takes no record without prepared space");
        let book = Book::new(segment, self.active.book.next_number);
        let full = std::mem::replace(&mut self.active, Active { book, file });
        self.complete.push_back(full.book);
        let mut state = self.core.state.borrow_mut();
        state.files.put(segment, self.active.file.clone());
        state.stats.segments += 1;
        state.stats.bytes += SEGMENT_HEADER_BYTES as u64;
    }

    /// Admission decides by what this says.
    fn tell_space(&self) {
        let segment_bytes = self.core.options.segment_bytes;
        let room = |used: u32| capacity(segment_bytes).saturating_sub(u64::from(used)) as usize;
        let mut state = self.core.state.borrow_mut();
        state.space.active_left = room(self.active.book.end);
        state.space.ahead.clear();
        state.space.ahead.resize(self.ahead.len(), room(SEGMENT_HEADER_BYTES as u32));
        state.space.full = self.prepare_failed.is_some();
    }

    /// A round is on the disk: report it and all that waited for it.
    fn land(&mut self, landed: Landed) -> Result<(), Failed> {
        {
            let mut state = self.core.state.borrow_mut();
            let State { gather, stats, .. } = &mut *state;
            stats.rounds_in_flight -= 1;
            stats.syncs += landed.syncs;
            stats.sync_us_total += landed.sync_us;
            stats.sync_us_max = stats.sync_us_max.max(landed.sync_us);
            landed.buffers.into_iter().for_each(|buffer| gather.give_back(buffer));
        }
        landed.outcome?;
        let flight = self.flights.iter_mut().find(|flight| flight.number == landed.number);
        flight.expect("a round lands once").landed = true;
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.landed) {
            {
                let mut state = self.core.state.borrow_mut();
                assert!(state.durable < flight.end, "the durable position went back");
                state.durable = flight.end;
                state.gather.landed(flight.bytes);
                let records: u64 = flight.entries.iter().map(|entry| entry.locations.len() as u64).sum();
                state.stats.rounds += 1;
                state.stats.records += records;
                state.stats.records_committed += records;
                state.stats.bytes += flight.bytes as u64;
                state.stats.bytes_committed += flight.bytes as u64;
                self.core.pace.earn(flight.bytes as u64);
            }
            for entry in &flight.entries {
                let Entry { shard, term, index, frame, frame_bytes, ref locations } = *entry;
                let place = EntryPlace { frame, frame_bytes };
                let entry = Committed { shard, term, index, place, locations };
                self.core.observer.committed(entry);
            }
        }
        Ok(())
    }

    fn start_chores(&mut self) {
        let options = &self.core.options;
        let serving = self.core.state.borrow().phase == Phase::Serving;
        let retry = Duration::from_millis(options.prepare_retry_ms);
        let waited = self.prepare_failed.is_none_or(|since| self.wanted && retry <= since.elapsed());
        if serving && !self.preparing && self.ahead.len() < options.segments_ahead.max(1) && waited {
            self.preparing = true;
            let next = self.ahead.back().map_or(self.active.book.segment, |(segment, _)| *segment) + 1;
            let core = self.core.clone();
            self.chores.push(Box::pin(async move { Chore::Prepared(next, prepare(&core, next).await) }));
        }
        let durable = self.core.state.borrow().durable;
        let sealable = |book: &mut Book| Position { segment: book.segment, offset: book.end } <= durable;
        if !self.sealing
            && let Some(book) = self.complete.pop_front_if(sealable)
        {
            self.sealing = true;
            let core = self.core.clone();
            self.chores.push(Box::pin(async move { Chore::Sealed(book.segment, seal(&core, &book).await) }));
        }
    }

    fn finish_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Prepared(segment, Ok(file)) => {
                self.preparing = false;
                self.prepare_failed = None;
                self.ahead.push_back((segment, file));
            }
            Chore::Prepared(segment, Err(error)) => {
                self.preparing = false;
                self.wanted = false;
                if self.prepare_failed.replace(Instant::now()).is_none() {
                    tracing::warn!(segment, %error, "no room for another segment; writes will be refused when this one is full");
                }
            }
            Chore::Sealed(segment, outcome) => {
                self.sealing = false;
                match outcome {
                    Ok(()) => self.core.state.borrow_mut().stats.segments_sealed += 1,
                    // Not lost: an unsealed segment is scanned and sealed at the next open.
                    Err(error) => tracing::warn!(segment, %error, "a segment was not sealed"),
                }
            }
        }
        self.tell_space();
    }

    /// Writes the close frame, and the hint of the active segment.
    async fn close(&mut self) -> Result<(), Failed> {
        if !self.closed_at_end && 1 < self.active.book.next_number {
            let book = &self.active.book;
            let segment = book.segment;
            let at = Position { segment, offset: book.end };
            let durable = self.core.state.borrow().durable;
            let placement = Placement { kind: FrameKind::Close, at, number: book.next_number, durable };
            let buffer = wire::close_frame(&self.core.name, &placement);
            let file = self.active.file.clone();
            let (written, _) = file.write_at(buffer, u64::from(at.offset)).await;
            written.map_err(|error| Failed { segment, what: "closing write", error })?;
            file.sync_data().await.map_err(|error| Failed { segment, what: "closing sync", error })?;
            self.active.book.enter(CLOSE_FRAME_BYTES as u32, None);
            self.closed_at_end = true;
        }
        let book = &self.active.book;
        let hint = self.core.path(&wire::hint_name(book.segment));
        if let Err(error) = self.core.disk.replace(&hint, book.hint_file(self.core.name)).await {
            tracing::warn!(segment = book.segment, %error, "no hint was written; the next open scans the last segment");
        }
        Ok(())
    }
}

/// Bytes of a segment that frames of entries may take, from its start; the last block is for a close frame.
pub(crate) const fn capacity(segment_bytes: u64) -> u64 {
    segment_bytes - CLOSE_FRAME_BYTES as u64
}

async fn fly(number: u64, pieces: Vec<Piece>) -> Landed {
    let mut files: Vec<(u32, Rc<dyn DiskFile>)> = Vec::with_capacity(2);
    for piece in &pieces {
        if files.last().is_none_or(|(segment, _)| *segment != piece.segment) {
            files.push((piece.segment, piece.file.clone()));
        }
    }
    let writes = pieces.into_iter().map(|piece| async move {
        let (written, buffer) = piece.file.write_at(piece.buffer, u64::from(piece.offset)).await;
        (written.map_err(|error| Failed { segment: piece.segment, what: "write", error }), buffer)
    });
    let (written, buffers): (Vec<_>, Vec<_>) = join_all(writes).await.into_iter().unzip();
    let mut outcome: Result<(), Failed> = written.into_iter().collect();
    let (mut syncs, mut sync_us) = (0, 0);
    if outcome.is_ok() {
        let started = Instant::now();
        syncs = files.len() as u64;
        let synced = files.iter().map(|(segment, file)| async move {
            file.sync_data().await.map_err(|error| Failed { segment: *segment, what: "sync", error })
        });
        outcome = join_all(synced).await.into_iter().collect();
        sync_us = started.elapsed().as_micros() as u64;
    }
    Landed { number, outcome, buffers, syncs, sync_us }
}

pub(crate) async fn prepare(core: &Core, sequence: u32) -> io::Result<Rc<dyn DiskFile>> {
    let segment_bytes = core.options.segment_bytes;
    let head = SegmentHeader { log: core.name, sequence, segment_bytes: segment_bytes as u32 }.encode();
    let path = core.path(&wire::segment_name(sequence));
    core.disk.prepare(&path, head, segment_bytes, core.pace.clone()).await?;
    core.disk.open(&path).await
}

pub(crate) async fn seal(core: &Core, book: &Book) -> io::Result<()> {
    let hint = book.hint_file(core.name);
    let hint_sum = *blake3::hash(&hint).as_bytes();
    core.disk.replace(&core.path(&wire::hint_name(book.segment)), hint).await?;
    let content =
        core.disk.digest(&core.path(&wire::segment_name(book.segment)), u64::from(book.end), core.pace.clone()).await?;
    let seal = book.seal(core.name, content, hint_sum).encode();
    core.disk.replace(&core.path(&wire::seal_name(book.segment)), seal).await
}
