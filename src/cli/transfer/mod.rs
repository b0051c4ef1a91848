//! `qmesh dag import car|ndjson` and `qmesh dag export`.
//!
//! Promises: what is imported is verified here before it is sent; what is exported is verified as it arrives, parents before
//! children; only what the node lacks is sent. Does not: carry refs.

mod car;
mod file;
#[cfg(test)]
mod fuzz;
mod ndjson;

use std::collections::HashSet;
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use self::file::{Input, Target};
use super::failure::{Failure, Outcome};
use super::session::Session;
use super::text::{bar, counter};
use crate::client::{ClientError, Node, PUT_BYTES_PER_CALL};
use crate::dag::archive::SealedVertex;
use crate::error::{Reason, Refusal};
use crate::gateway::quic::wire::{QueryFrame, QueryRequest};
use crate::ids::{ID_BYTES, VertexId};
use crate::limits::{PUT_BATCH_MAX, ROOTS_MAX};
use crate::router::PutOptions;

/// Batches on their way to the node at a time.
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Vertices of one batch.
const BATCH_VERTICES_MAX: usize = 2048;
/// Vertices asked for at a time in an export.
const FETCH_VERTICES: usize = 256;
/// Fetches of an export in flight at a time.
const FETCHES_IN_FLIGHT_MAX: usize = 8;

const _: () = assert!(BATCH_VERTICES_MAX <= PUT_BATCH_MAX);

/// `qmesh dag import car|ndjson …`
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The file; - reads standard input.
    file: PathBuf,
    /// Accept vertices whose parents are neither in the file nor at the node; they join the graph when their parents come.
    #[arg(long)]
    allow_missing_parents: bool,
}

/// `qmesh dag export …`
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// The form of the file.
    #[arg(long, value_enum)]
    format: FileFormat,
    /// Export this vertex and all it follows; may be given several times. All tips when left out.
    #[arg(long, value_name = "ID")]
    root: Vec<String>,
    /// The file to make; - writes to standard output.
    #[arg(short = 'O', long = "file", value_name = "FILE")]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    /// Content Addressable aRchive, version 1: what IPLD tools read. Without signatures.
    Car,
    /// A vertex a line, as JSON, with its signature.
    Ndjson,
}

/// Collects vertices into batches that fit a put.
#[derive(Default)]
pub struct Batcher {
    vertices: Vec<SealedVertex>,
    bytes: usize,
}

impl Batcher {
    /// Adds a vertex; the batch that is full, if one is.
    pub fn push(&mut self, vertex: SealedVertex) -> Option<Vec<SealedVertex>> {
        self.bytes += vertex.record().bytes().len();
        self.vertices.push(vertex);
        let full = BATCH_VERTICES_MAX <= self.vertices.len() || PUT_BYTES_PER_CALL <= self.bytes;
        if full { self.rest() } else { None }
    }

    /// What is left.
    pub fn rest(&mut self) -> Option<Vec<SealedVertex>> {
        self.bytes = 0;
        let rest = std::mem::take(&mut self.vertices);
        (!rest.is_empty()).then_some(rest)
    }
}

/// Sends those of `batch` that the node lacks; how many were looked at and how many were new. With `by_content` a vertex that
/// the node has under its id is not sent again even if this copy is signed.
///
/// # Errors
/// The first refusal, or what kept a request from being answered.
pub async fn send_new(node: &Node, batch: Vec<SealedVertex>, by_content: bool) -> Result<(u64, u64), ClientError> {
    let looked_at = batch.len() as u64;
    let ids: Vec<VertexId> = batch.iter().map(SealedVertex::id).collect();
    let here = node.has(&ids).await?;
    let lacking = batch.into_iter().zip(here).filter(|(_, here)| !by_content || !here).map(|(vertex, _)| vertex);
    let lacking: Vec<SealedVertex> = lacking.collect();
    if lacking.is_empty() {
        return Ok((looked_at, 0));
    }
    // Batches overtake each other, and a vertex may be taken before its parent.
    let outcomes = node.put(&lacking, PutOptions { allow_missing_parents: true }).await?;
    let mut new = 0;
    for outcome in outcomes {
        new += u64::from(!outcome?.existed);
    }
    Ok((looked_at, new))
}

/// Runs `qmesh dag import car`.
pub async fn import_car(session: &Session, arguments: ImportArguments) -> Outcome {
    let input = Input::open(&arguments.file)?;
    let mut reader = car::Reader::new(input).map_err(|error| in_file(&arguments, error))?;
    import(session, &arguments, move || reader.next().transpose()).await
}

/// Runs `qmesh dag import ndjson`.
pub async fn import_ndjson(session: &Session, arguments: ImportArguments) -> Outcome {
    let mut reader = ndjson::Reader::new(Input::open(&arguments.file)?);
    import(session, &arguments, move || reader.next().transpose()).await
}

async fn import(
    session: &Session,
    arguments: &ImportArguments,
    mut next: impl FnMut() -> Option<Result<SealedVertex, Refusal>>,
) -> Outcome {
    #[derive(Serialize)]
    struct Imported {
        vertices: u64,
        new: u64,
        seconds: f64,
    }
    let started = Instant::now();
    let node = session.node().await?;
    let progress = counter("vertices");
    let mut imported = Imported { vertices: 0, new: 0, seconds: 0.0 };
    let mut batcher = Batcher::default();
    let mut sending = FuturesUnordered::new();
    let (mut seen, mut outside) = (HashSet::new(), HashSet::new());
    loop {
        let batch = match next() {
            Some(vertex) => {
                let vertex = vertex.map_err(|error| in_file(arguments, error))?;
                seen.insert(vertex.id());
                outside.extend(vertex.parents().filter(|parent| !seen.contains(parent)));
                match batcher.push(vertex) {
                    Some(batch) => batch,
                    None => continue,
                }
            }
            None => match batcher.rest() {
                Some(batch) => batch,
                None => break,
            },
        };
        sending.push(send_new(node, batch, true));
        while BATCHES_IN_FLIGHT_MAX <= sending.len() {
            if let Some(done) = sending.next().await {
                let (vertices, new) = done?;
                imported.vertices += vertices;
                imported.new += new;
                progress.set_position(imported.vertices);
            }
        }
    }
    while let Some(done) = sending.next().await {
        let (vertices, new) = done?;
        imported.vertices += vertices;
        imported.new += new;
    }
    progress.finish_and_clear();
    imported.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    session.output().value(&mut io::stdout().lock(), &imported, |imported| {
        format!("{} vertices ({} new), {} s", imported.vertices, imported.new, imported.seconds)
    })?;
    if !arguments.allow_missing_parents {
        check_parents(node, outside.into_iter().filter(|parent| !seen.contains(parent)).collect()).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn check_parents(node: &Node, outside: Vec<VertexId>) -> Result<(), Failure> {
    let here = node.has(&outside).await?;
    let absent: Vec<&VertexId> = outside.iter().zip(here).filter(|(_, here)| !here).map(|(id, _)| id).collect();
    match absent.first() {
        None => Ok(()),
        Some(first) => {
            let detail = format!(
                "{} parents are neither in the file nor at the node, {first} for one; their children are stored and join the \
                 graph when the parents come (--allow-missing-parents accepts this)",
                absent.len()
            );
            Err(Failure::new(Reason::MissingParents, detail))
        }
    }
}

fn in_file(arguments: &ImportArguments, refusal: Refusal) -> Failure {
    Failure::new(refusal.reason, format!("{}: {}", arguments.file.display(), refusal.detail))
}

/// Runs `qmesh dag export`.
pub async fn export(session: &Session, arguments: ExportArguments) -> Outcome {
    #[derive(Serialize)]
    struct Exported {
        vertices: u64,
        bytes: u64,
        roots: u64,
    }
    let node = session.node().await?;
    let roots = roots(node, &arguments.root).await?;
    let ids = order(node, &roots).await?;
    let mut target = Target::make(&arguments.file)?;
    if arguments.format == FileFormat::Car {
        target.write(&car::header(&roots))?;
    }
    let progress = bar(ids.len() as u64, "vertices");
    progress.set_message("exporting");
    let fetches = ids.chunks(FETCH_VERTICES).map(|chunk| async move { (chunk, node.get_many(chunk).await) });
    let mut fetches = futures_util::stream::iter(fetches).buffered(FETCHES_IN_FLIGHT_MAX);
    let mut line = Vec::new();
    while let Some((chunk, vertices)) = fetches.next().await {
        for (id, vertex) in chunk.iter().zip(vertices?) {
            let vertex = vertex.ok_or_else(|| Failure::new(Reason::NotFound, format!("{id}: the node lost it")))?;
            line.clear();
            match arguments.format {
                FileFormat::Car => car::block(&vertex, &mut line),
                FileFormat::Ndjson => {
                    crate::gateway::json::vertex_into(&vertex, &mut line);
                    line.push(b'\n');
                }
            }
            target.write(&line)?;
        }
        progress.inc(chunk.len() as u64);
    }
    progress.finish_and_clear();
    let exported = Exported { vertices: ids.len() as u64, bytes: target.bytes(), roots: roots.len() as u64 };
    if target.finish()? {
        // The file went to standard output: the summary must not stand in it.
        return Ok(ExitCode::SUCCESS);
    }
    session.output().value(&mut io::stdout().lock(), &exported, |exported| {
        format!("{} vertices of {} roots, {} bytes", exported.vertices, exported.roots, exported.bytes)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn roots(node: &Node, texts: &[String]) -> Result<Vec<VertexId>, Failure> {
    let mut roots = Vec::with_capacity(texts.len());
    for text in texts {
        let id = node.resolve(text).await?;
        if !roots.contains(&id) {
            roots.push(id);
        }
    }
    if texts.is_empty() {
        let request = QueryRequest { verb: "tips".to_owned(), ..QueryRequest::default() };
        collect(node, &request, |id| roots.push(id)).await?;
    }
    Ok(roots)
}

/// Everything the roots follow and they themselves, parents first, each once.
async fn order(node: &Node, roots: &[VertexId]) -> Result<Vec<VertexId>, Failure> {
    let mut ids = Vec::new();
    let mut seen = HashSet::new();
    for chunk in roots.chunks(ROOTS_MAX) {
        let texts = chunk.iter().map(VertexId::to_string).collect();
        let request = QueryRequest { verb: "topo".to_owned(), ids: texts, ..QueryRequest::default() };
        collect(node, &request, |id| {
            if seen.insert(id) {
                ids.push(id);
            }
        })
        .await?;
    }
    Ok(ids)
}

async fn collect(node: &Node, request: &QueryRequest, mut each: impl FnMut(VertexId)) -> Result<(), Failure> {
    let mut answer = node.query(request).await?;
    while let Some(frame) = answer.next().await? {
        if let QueryFrame::Ids(packed) = frame {
            let (ids, _) = packed.as_chunks::<ID_BYTES>();
            ids.iter().for_each(|&id| each(VertexId(id)));
        }
    }
    Ok(())
}

/// One line within a limit, without its end; `None` at the end of the input.
fn line(input: &mut impl BufRead, line: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<()>> {
    use std::io::Read;
    line.clear();
    let count = input.take(bytes_max as u64 + 1).read_until(b'\n', line)?;
    if count == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if bytes_max < line.len() {
        let detail = format!("a line of more than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    Ok(Some(()))
}
