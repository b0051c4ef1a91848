//! `qmesh dag …`: vertices and questions about them.
//!
//! Promises: wherever an id is wanted, a CID, 64 hex digits, git:HASH and ref:NAME are accepted.
//! Does not: compute answers; the node does.

mod print;
mod put;
mod query;
mod read;
mod watch;

use clap::{Args, Subcommand};
use std::process::ExitCode;

use super::session::{self, Global};
use super::{import_git, transfer, viz};

/// `qmesh dag …`
#[derive(Debug, Args)]
pub struct DagArguments {
    #[command(subcommand)]
    command: DagCommand,
}

#[derive(Debug, Subcommand)]
enum DagCommand {
    /// Store a vertex and print its id.
    #[command(
        after_help = "Examples:\n  echo hello | qmesh dag put --kind note -\n  qmesh dag put --kind note --parent git:HASH --label lang=en --sign me.key note.txt"
    )]
    Put(put::PutArguments),
    /// Show a vertex, or write its payload.
    #[command(after_help = "Examples:\n  qmesh dag get git:HASH\n  qmesh dag get ID --payload > file")]
    Get(read::GetArguments),
    /// Say which vertices the node has; exit 1 when one is absent.
    #[command(after_help = "Example: qmesh dag has ID git:HASH")]
    Has(read::HasArguments),
    /// What a vertex follows.
    #[command(after_help = "Example: qmesh dag parents git:HASH --format git")]
    Parents(query::NeighbourArguments),
    /// What follows a vertex.
    #[command(after_help = "Example: qmesh dag children ref:git/project/refs/tags/v1")]
    Children(query::NeighbourArguments),
    /// A vertex and everything it follows, as `git rev-list` lists it: the vertex itself is included.
    #[command(
        after_help = "Examples:\n  qmesh dag ancestors git:HASH --format git\n  qmesh dag ancestors ref:git/project/HEAD --limit 20 --order time"
    )]
    Ancestors(query::WalkArguments),
    /// A vertex and everything that follows it: the vertex itself is included.
    #[command(after_help = "Example: qmesh dag descendants git:HASH --depth 3")]
    Descendants(query::WalkArguments),
    /// A shortest chain between two vertices; exit 1 when there is none.
    #[command(after_help = "Example: qmesh dag path git:A git:B --format git")]
    Path(query::PairArguments),
    /// Lowest common ancestors, all of them, as `git merge-base --all` prints them.
    #[command(after_help = "Example: qmesh dag lca git:A git:B --format git")]
    Lca(query::ManyArguments),
    /// Exit 0 when A is an ancestor of B (or B itself), 1 when not.
    #[command(after_help = "Example: qmesh dag is-ancestor git:A git:B && echo merged")]
    IsAncestor(query::PairArguments),
    /// What B has and A has not, as `git rev-list A..B` lists it.
    #[command(after_help = "Example: qmesh dag range git:A..git:B --format git")]
    Range(query::RangeArguments),
    /// Vertices and all they follow, parents before children.
    #[command(after_help = "Example: qmesh dag topo ref:git/project/HEAD --format git")]
    Topo(query::WalkArguments),
    /// Vertices that nothing follows yet.
    #[command(after_help = "Example: qmesh dag tips --namespace git")]
    Tips(query::TipsArguments),
    /// What only A has (<), what only B has (>), and where they part (=).
    #[command(after_help = "Example: qmesh dag diff git:A git:B --format git")]
    Diff(query::PairArguments),
    /// Fetch vertices and check content against id and signature here; exit 1 when one does not hold.
    #[command(after_help = "Examples:\n  qmesh dag verify ID\n  qmesh dag verify git:HASH --ancestors")]
    Verify(read::VerifyArguments),
    /// Follow new vertices and moves of refs as they come.
    #[command(after_help = "Example: qmesh dag watch --refs -o ndjson")]
    Watch(watch::WatchArguments),
    /// Draw the history of vertices as text for dot or mermaid, or as SVG.
    #[command(
        after_help = "Examples:\n  qmesh dag viz ref:git/project/HEAD --as svg > history.svg\n  qmesh dag viz --limit 50 | dot -Tpng > tips.png"
    )]
    Viz(viz::VizArguments),
    /// Bring in a git repository, a CAR or NDJSON file.
    Import(ImportArguments),
    /// Write vertices and all they follow to a CAR or NDJSON file.
    #[command(
        after_help = "Examples:\n  qmesh dag export --format car --root ref:main -O dag.car\n  qmesh dag export --format ndjson -O - | gzip > dag.ndjson.gz\n\nCAR holds the content only: signatures stand beside a vertex, not in it, and are left out. NDJSON keeps them."
    )]
    Export(transfer::ExportArguments),
}

#[derive(Debug, Args)]
struct ImportArguments {
    #[command(subcommand)]
    source: ImportSource,
}

#[derive(Debug, Subcommand)]
enum ImportSource {
    /// Every commit of a git repository becomes a vertex, every ref a ref; running it again sends only what is new.
    #[command(
        after_help = "Examples:\n  qmesh dag import git .\n  qmesh dag import git /srv/project.git --name project\n\nAfterwards git:HASH is accepted wherever an id is, and --format git prints git hashes."
    )]
    Git(import_git::GitArguments),
    /// The vertices of a CAR v1 file.
    #[command(after_help = "Example: qmesh dag import car dag.car")]
    Car(transfer::ImportArguments),
    /// A vertex a line, as `dag export --format ndjson` or `dag get -o ndjson` writes them.
    #[command(after_help = "Example: qmesh dag import ndjson - < dag.ndjson")]
    Ndjson(transfer::ImportArguments),
}

/// Runs `qmesh dag …`.
pub fn run(arguments: DagArguments, global: Global) -> ExitCode {
    session::run(global, async |session| match arguments.command {
        DagCommand::Put(arguments) => put::run(session, arguments).await,
        DagCommand::Get(arguments) => read::get(session, arguments).await,
        DagCommand::Has(arguments) => read::has(session, arguments).await,
        DagCommand::Verify(arguments) => read::verify(session, arguments).await,
        DagCommand::Parents(arguments) => query::neighbours(session, "parents", arguments).await,
        DagCommand::Children(arguments) => query::neighbours(session, "children", arguments).await,
        DagCommand::Ancestors(arguments) => query::walk(session, "ancestors", arguments).await,
        DagCommand::Descendants(arguments) => query::walk(session, "descendants", arguments).await,
        DagCommand::Topo(arguments) => query::walk(session, "topo", arguments).await,
        DagCommand::Path(arguments) => query::pair(session, "path", arguments).await,
        DagCommand::IsAncestor(arguments) => query::pair(session, "is-ancestor", arguments).await,
        DagCommand::Diff(arguments) => query::pair(session, "diff", arguments).await,
        DagCommand::Lca(arguments) => query::lca(session, arguments).await,
        DagCommand::Range(arguments) => query::range(session, arguments).await,
        DagCommand::Tips(arguments) => query::tips(session, arguments).await,
        DagCommand::Watch(arguments) => watch::run(session, arguments).await,
        DagCommand::Viz(arguments) => viz::run(session, arguments).await,
        DagCommand::Import(arguments) => match arguments.source {
            ImportSource::Git(arguments) => import_git::run(session, arguments).await,
            ImportSource::Car(arguments) => transfer::import_car(session, arguments).await,
            ImportSource::Ndjson(arguments) => transfer::import_ndjson(session, arguments).await,
        },
        DagCommand::Export(arguments) => transfer::export(session, arguments).await,
    })
}
