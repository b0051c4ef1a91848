//! `qmesh dag viz`: draws a piece of the DAG.
//!
//! Promises: at most [`VERTICES_DRAWN_MAX`] vertices, and a word when there were more; the same piece gives the same drawing.
//! Does not: start another program; SVG is laid out here, dot and mermaid are text for theirs.

mod layout;
mod render;

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::failure::{Failure, Outcome};
use super::session::Session;
use super::text::time_text;
use crate::dag::archive::SealedVertex;
use crate::gateway::json::text_of;
use crate::gateway::quic::wire::{QueryFrame, QueryRequest};
use crate::ids::{ID_BYTES, VertexId};
use crate::limits::ROOTS_MAX;

/// Vertices of one drawing: beyond that nobody sees anything.
pub const VERTICES_DRAWN_MAX: u32 = 500;
const VERTICES_DRAWN_DEFAULT: u32 = 100;
/// Characters of a box's second line.
const TITLE_CHARACTERS: usize = 26;
/// Characters of an id in a box: the end of a CID tells ids apart, its front is the same for all.
const ID_CHARACTERS: usize = 12;

/// `qmesh dag viz …`
#[derive(Debug, Args)]
pub struct VizArguments {
    /// Draw these vertices and what they follow: CID, hex, git:HASH or ref:NAME. All tips when left out.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The form of the drawing.
    #[arg(long = "as", value_enum, default_value_t = Form::Dot)]
    form: Form,
    /// Edges from the start, at most.
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
    /// Vertices, at most.
    #[arg(long, value_name = "N", default_value_t = VERTICES_DRAWN_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(VERTICES_DRAWN_MAX)))]
    limit: u32,
    /// Tips of this namespace only.
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// For Graphviz.
    Dot,
    /// For Markdown that draws mermaid.
    Mermaid,
    /// A picture.
    Svg,
}

/// A piece of the DAG, ready to be drawn.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    boxes: Vec<Box>,
    /// From a child to its parent, by their places in `boxes`.
    edges: Vec<(usize, usize)>,
}

/// One vertex in the drawing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Box {
    /// Its short name.
    name: String,
    /// What it is about.
    title: String,
    /// Id and time in full, for who points at it.
    detail: String,
    /// Whether it has parents that are not drawn.
    goes_on: bool,
}

/// Runs `qmesh dag viz`.
pub async fn run(session: &Session, arguments: VizArguments) -> Outcome {
    let node = session.node().await?;
    let mut starts = arguments.ids;
    if starts.is_empty() {
        let request = QueryRequest {
            verb: "tips".to_owned(),
            namespace: arguments.namespace,
            limit: Some(ROOTS_MAX as u32),
            ..QueryRequest::default()
        };
        starts = collect(session, &request).await?.iter().map(VertexId::to_string).collect();
    }
    let mut ids = Vec::new();
    if !starts.is_empty() {
        let request = QueryRequest {
            verb: "ancestors".to_owned(),
            ids: starts,
            depth: arguments.depth,
            limit: Some(arguments.limit),
            order: "bfs".to_owned(),
            ..QueryRequest::default()
        };
        ids = collect(session, &request).await?;
    }
    let vertices: Vec<SealedVertex> = node.get_many(&ids).await?.into_iter().flatten().collect();
    let piece = Piece::of(&vertices);
    let drawing = match arguments.form {
        Form::Dot => render::dot(&piece),
        Form::Mermaid => render::mermaid(&piece),
        Form::Svg => render::svg(&piece, &layout::place(&piece)),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(drawing.as_bytes())?;
    stdout.flush()?;
    if piece.boxes.iter().any(|one| one.goes_on) {
        eprintln!("qmesh: {} vertices drawn, dashed ones go on; --limit and --depth draw more", piece.boxes.len());
    }
    Ok(ExitCode::SUCCESS)
}

async fn collect(session: &Session, request: &QueryRequest) -> Result<Vec<VertexId>, Failure> {
    let mut ids = Vec::new();
    let mut answer = session.node().await?.query(request).await?;
    while let Some(frame) = answer.next().await? {
        if let QueryFrame::Ids(packed) = frame {
            ids.extend(packed.as_chunks::<ID_BYTES>().0.iter().map(|&id| VertexId(id)));
        }
    }
    Ok(ids)
}

impl Piece {
    fn of(vertices: &[SealedVertex]) -> Self {
        let places: HashMap<VertexId, usize> =
            vertices.iter().enumerate().map(|(at, vertex)| (vertex.id(), at)).collect();
        let mut piece = Self::default();
        for (at, vertex) in vertices.iter().enumerate() {
            let mut goes_on = false;
            for parent in vertex.parents() {
                match places.get(&parent) {
                    Some(&parent) => piece.edges.push((at, parent)),
                    None => goes_on = true,
                }
            }
            piece.boxes.push(described(vertex, goes_on));
        }
        piece
    }
}

fn described(vertex: &SealedVertex, goes_on: bool) -> Box {
    let id = vertex.id().to_string();
    let name = match vertex.label("git") {
        Some(hash) => hash.chars().take(ID_CHARACTERS).collect(),
        None => format!("…{}", &id[id.len() - ID_CHARACTERS..]),
    };
    let text = text_of(vertex.payload()).and_then(|text| text.lines().next()).unwrap_or_default().trim();
    let about = if text.is_empty() { vertex.kind() } else { text };
    let mut title: String = about.chars().take(TITLE_CHARACTERS).collect();
    if TITLE_CHARACTERS < about.chars().count() {
        title.pop();
        title.push('…');
    }
    let detail = format!("{id} · {} · {}", vertex.kind(), time_text(vertex.timestamp_ms()));
    Box { name, title, detail, goes_on }
}
