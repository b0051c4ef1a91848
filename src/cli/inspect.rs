//! `qmesh inspect …`: a data directory read without a node.
//!
//! Promises: reads only; every vertex is checked against its id and signature, every ref move against its form; exit 1 when
//! anything that was durable is damaged. Does not: repair.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use qmesh_storage::inspect::{self, IntegrityReport, State};
use qmesh_storage::{Record, RecordError};
use serde::Serialize;

use super::failure::{EXIT_CHECK_FAILED, Failure, Outcome};
use super::output::Output;
use super::text::bar;
use crate::control::driver::plane::RECORD_KIND_COMMAND;
use crate::dag::archive::{RECORD_KIND_VERTEX, Scratch, SealedVertex};
use crate::dag::ref_record::{RECORD_KIND_REF, RefRecord};
use crate::error::Reason;
use crate::ids::hex;
use crate::node::superblock::{Superblock, SuperblockError};
use crate::shard::raft::wire::RECORD_KIND_MEMBERSHIP;

/// Folders of logs in a data directory begin with this.
const LOG_FOLDER: &str = "log-";

/// `qmesh inspect …`
#[derive(Debug, Args)]
pub struct InspectArguments {
    #[command(subcommand)]
    command: InspectCommand,
}

#[derive(Debug, Subcommand)]
enum InspectCommand {
    /// The frames of one segment file, and how they end.
    #[command(after_help = "Example: qmesh inspect segment qmesh-data/log-00/00000001.seg")]
    Segment {
        /// The file.
        file: PathBuf,
    },
    /// Read every log of a data directory and check every sum, id and signature; exit 1 on damage.
    #[command(after_help = "Example: qmesh inspect integrity qmesh-data")]
    Integrity {
        /// The data directory, or one log's folder. Best while no node runs on it.
        directory: PathBuf,
    },
    /// What a data directory says of itself.
    #[command(after_help = "Example: qmesh inspect superblock qmesh-data -o json")]
    Superblock {
        /// The data directory.
        directory: PathBuf,
    },
}

/// Runs `qmesh inspect …`.
///
/// # Errors
/// Files that cannot be read.
pub fn run(arguments: &InspectArguments, output: Output) -> Outcome {
    match &arguments.command {
        InspectCommand::Segment { file } => segment(file, output),
        InspectCommand::Integrity { directory } => integrity(directory, output),
        InspectCommand::Superblock { directory } => superblock(directory, output),
    }
}

#[derive(Serialize)]
struct FrameRow {
    offset: u64,
    number: u64,
    shard: u16,
    term: u64,
    index: u64,
    records: u32,
    bytes: u32,
}

fn segment(file: &Path, output: Output) -> Outcome {
    #[derive(Serialize)]
    struct Segment {
        log: String,
        sequence: u32,
        segment_bytes: u32,
        sealed: bool,
        ends: String,
        damaged: bool,
        frames: Vec<FrameRow>,
    }
    let report = inspect::segment(file).map_err(|error| Failure::file(file, &error))?;
    let frames = report.frames.iter().map(|frame| FrameRow {
        offset: u64::from(frame.placement.at.offset),
        number: frame.placement.number,
        shard: frame.entry.shard,
        term: frame.entry.term,
        index: frame.entry.index,
        records: frame.entry.record_count,
        bytes: frame.entry.payload_bytes,
    });
    let (ends, damaged) = match &report.state {
        State::Clean { end } => (format!("clean at {end}"), false),
        State::Stopped { offset, what, damaged: true } => (format!("DAMAGED at {offset}: {what}"), true),
        State::Stopped { offset, what, damaged: false } => (format!("torn tail at {offset}: {what}"), false),
    };
    let segment = Segment {
        log: hex(&report.header.log),
        sequence: report.header.sequence,
        segment_bytes: report.header.segment_bytes,
        sealed: report.sealed,
        ends,
        damaged,
        frames: frames.collect(),
    };
    output.value(&mut io::stdout().lock(), &segment, |segment| {
        let headers = ["offset", "number", "shard", "term", "index", "records", "bytes"];
        let rows = segment.frames.iter().map(|frame| {
            let FrameRow { offset, number, shard, term, index, records, bytes } = frame;
            vec![
                offset.to_string(),
                number.to_string(),
                shard.to_string(),
                term.to_string(),
                index.to_string(),
                records.to_string(),
                bytes.to_string(),
            ]
        });
        let Segment { log, sequence, segment_bytes, sealed, ends, .. } = segment;
        let table = super::output::table(&headers, rows);
        format!("log {log}, segment {sequence} of {segment_bytes} bytes, sealed: {sealed}, {ends}\n{table}")
    })?;
    Ok(exit(!damaged))
}

#[derive(Default, Serialize)]
struct Integrity {
    ok: bool,
    logs: u64,
    segments: u64,
    frames: u64,
    records: u64,
    vertices: u64,
    signed: u64,
    ref_moves: u64,
    bytes: u64,
    damages: Vec<Finding>,
    torn_tails: Vec<Finding>,
    rebuildable: Vec<String>,
}

#[derive(Serialize)]
struct Finding {
    log: String,
    segment: u32,
    offset: u64,
    what: String,
}

fn integrity(directory: &Path, output: Output) -> Outcome {
    let mut whole = Integrity::default();
    for folder in logs(directory)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let progress = bar(0, "bytes");
        progress.set_message(name.clone());
        let mut scratch = Scratch::default();
        let mut verify = |kind: u8, key: &[u8; 32], body: &[u8]| whole.check(&mut scratch, kind, key, body);
        let report = inspect::integrity(&folder, &mut verify, &mut |done, total| {
            progress.set_length(total);
            progress.set_position(done);
        });
        progress.finish_and_clear();
        whole.add(&name, report.map_err(|error| Failure::file(&folder, &error))?);
    }
    whole.ok = whole.damages.is_empty();
    output.value(&mut io::stdout().lock(), &whole, Integrity::described)?;
    Ok(exit(whole.ok))
}

impl Integrity {
    fn check(&mut self, scratch: &mut Scratch, kind: u8, key: &[u8; 32], body: &[u8]) -> Result<(), String> {
        let record = Record::build::<RecordError>(kind, key, body.len(), |mut buffer| {
            buffer.extend_from_slice(body);
            Ok(buffer)
        });
        let record = record.map_err(|error| error.to_string())?;
        match kind {
            RECORD_KIND_VERTEX => {
                let vertex = SealedVertex::verify_with(record, scratch).map_err(|error| error.to_string())?;
                self.vertices += 1;
                self.signed += u64::from(vertex.signature().is_some());
            }
            RECORD_KIND_REF => {
                RefRecord::from_record(&record).map_err(|error| error.to_string())?;
                self.ref_moves += 1;
            }
            RECORD_KIND_MEMBERSHIP => {
                if !crate::shard::raft::wire::is_membership(&record) {
                    return Err("the members of a group are not readable".to_owned());
                }
            }
            RECORD_KIND_COMMAND => {
                crate::control::wire::decode_command(record.body()).map_err(|error| error.to_string())?;
            }
            other => return Err(format!("a record of kind {other}, which this build does not know")),
        }
        Ok(())
    }

    fn add(&mut self, log: &str, report: IntegrityReport) {
        let finding = |damage: qmesh_storage::Damage| Finding {
            log: log.to_owned(),
            segment: damage.segment,
            offset: damage.offset,
            what: damage.what,
        };
        self.logs += 1;
        self.segments += report.segments;
        self.frames += report.frames;
        self.records += report.records;
        self.bytes += report.bytes;
        self.damages.extend(report.damages.into_iter().map(finding));
        self.torn_tails.extend(report.torn_tail.map(finding));
        self.rebuildable.extend(report.rebuildable.into_iter().map(|what| format!("{log}: {what}")));
    }

    fn described(&self) -> String {
        let Self { logs, segments, frames, records, vertices, signed, ref_moves, bytes, .. } = self;
        let mut text = format!(
            "{logs} logs, {segments} segments, {frames} frames, {records} records ({vertices} vertices, {signed} of them \
             signed, {ref_moves} ref moves), {bytes} bytes read"
        );
        let mut add = |word: &str, found: &Finding| {
            let Finding { log, segment, offset, what } = found;
            text.push_str(&format!("\n{word}: {log} segment {segment} at {offset}: {what}"));
        };
        self.damages.iter().for_each(|found| add("DAMAGED", found));
        self.torn_tails.iter().for_each(|found| add("torn tail, never acknowledged; the next start cuts it", found));
        for what in &self.rebuildable {
            text.push_str(&format!("\nmissing, the next start makes it again: {what}"));
        }
        text.push_str(if self.ok { "\nok" } else { "\nnot ok: restore the damaged log from a copy" });
        text
    }
}

/// The folders of the logs of a data directory, or the directory itself when it is a log's.
fn logs(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: io::Error| Failure::file(directory, &error);
    let (mut folders, mut is_log) = (Vec::new(), false);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        is_log |= name.ends_with(".seg");
        if name.starts_with(LOG_FOLDER) && entry.path().is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    if is_log {
        return Ok(vec![directory.to_owned()]);
    }
    if folders.is_empty() {
        let detail = format!("{}: neither a data directory nor a log's folder", directory.display());
        return Err(Failure::new(Reason::NotFound, detail));
    }
    // A directory with a superblock says how many logs it has: one that is gone must not pass unseen.
    let superblock = Superblock::read(directory).map_err(|error| Failure::new(Reason::Corrupt, error.to_string()))?;
    if folders.len() != usize::from(superblock.logs) {
        let detail =
            format!("{}: {} logs, the superblock says {}", directory.display(), folders.len(), superblock.logs);
        return Err(Failure::new(Reason::Corrupt, detail));
    }
    Ok(folders)
}

fn superblock(directory: &Path, output: Output) -> Outcome {
    let superblock = Superblock::read(directory).map_err(|error| {
        let reason = match &error {
            SuperblockError::Io { .. } => Reason::NotFound,
            _ => Reason::Corrupt,
        };
        Failure::new(reason, error.to_string())
    })?;
    output.value(&mut io::stdout().lock(), &superblock, |superblock| {
        let Superblock { version, node, slots, shards, logs, check } = superblock;
        format!("version  {version}\nnode     {node}\nslots    {slots}\nshards   {shards}\nlogs     {logs}\ncheck    {check}")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn exit(ok: bool) -> ExitCode {
    if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHECK_FAILED) }
}
