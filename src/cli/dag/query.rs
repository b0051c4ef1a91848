//! The commands that ask about the graph: each is one question to the node, and its answer printed as it comes.
//!
//! Promises: one round trip; texts such as git:HASH are resolved by the node. Does not: hold an answer in memory.

use clap::Args;

use super::print::{Format, Printer, projection};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::cli::text::pair as label;
use crate::gateway::quic::wire::QueryRequest;

/// Which vertices an answer shows, and how.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Shape {
    /// id: CIDs. hex: ids in hexadecimal. git: git hashes of what was imported from git. table: columns.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Vertices of this answer, at most; the cursor of the next page goes to standard error.
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Continue behind the page that ended with this cursor.
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    cursor: String,
    /// Not older than this token, as a write returned it.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    token: String,
}

/// Which vertices of a walk are shown.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Filters {
    /// Only this namespace.
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// Only this kind.
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    /// Only vertices with this label; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Only vertices of this time or later, in milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    since_ms: Option<u64>,
    /// Only vertices of this time or earlier, in milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    until_ms: Option<u64>,
    /// Only vertices of this generation or later.
    #[arg(long, value_name = "N")]
    since_generation: Option<u32>,
    /// Only vertices of this generation or earlier.
    #[arg(long, value_name = "N")]
    until_generation: Option<u32>,
}

/// One vertex.
#[derive(Debug, Args)]
pub(super) struct NeighbourArguments {
    /// CID, hex, git:HASH or ref:NAME.
    id: String,
    #[command(flatten)]
    shape: Shape,
}

/// Vertices to start from, and which of those reached are shown.
#[derive(Debug, Args)]
pub(super) struct WalkArguments {
    /// CID, hex, git:HASH or ref:NAME.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Edges from the start, at most.
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
    /// bfs: nearest first. topo: children before parents going up. time: newest first.
    #[arg(long, value_parser = ["bfs", "topo", "time"])]
    order: Option<String>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    shape: Shape,
}

/// Two vertices.
#[derive(Debug, Args)]
pub(super) struct PairArguments {
    /// CID, hex, git:HASH or ref:NAME.
    a: String,
    /// CID, hex, git:HASH or ref:NAME.
    b: String,
    #[command(flatten)]
    shape: Shape,
}

/// Two vertices or more.
#[derive(Debug, Args)]
pub(super) struct ManyArguments {
    /// CID, hex, git:HASH or ref:NAME; two or more.
    #[arg(required = true, num_args = 2.., value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    shape: Shape,
}

/// A range.
#[derive(Debug, Args)]
pub(super) struct RangeArguments {
    /// Two ids with two dots between them.
    #[arg(value_name = "A..B")]
    range: String,
    /// bfs, topo or time.
    #[arg(long, value_parser = ["bfs", "topo", "time"])]
    order: Option<String>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    shape: Shape,
}

/// Tips.
#[derive(Debug, Args)]
pub(super) struct TipsArguments {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    shape: Shape,
}

/// parents, children.
pub(super) async fn neighbours(session: &Session, verb: &str, arguments: NeighbourArguments) -> Outcome {
    ask(session, request(verb, vec![arguments.id], Filters::default()), arguments.shape).await
}

/// ancestors, descendants, topo.
pub(super) async fn walk(session: &Session, verb: &str, arguments: WalkArguments) -> Outcome {
    let request = QueryRequest {
        depth: arguments.depth,
        order: arguments.order.unwrap_or_default(),
        ..request(verb, arguments.ids, arguments.filters)
    };
    ask(session, request, arguments.shape).await
}

/// path, is-ancestor, diff.
pub(super) async fn pair(session: &Session, verb: &str, arguments: PairArguments) -> Outcome {
    ask(session, request(verb, vec![arguments.a, arguments.b], Filters::default()), arguments.shape).await
}

/// lca.
pub(super) async fn lca(session: &Session, arguments: ManyArguments) -> Outcome {
    ask(session, request("lca", arguments.ids, Filters::default()), arguments.shape).await
}

/// range.
pub(super) async fn range(session: &Session, arguments: RangeArguments) -> Outcome {
    let (without, with) = two_ends(&arguments.range)?;
    let request = QueryRequest {
        exclude: vec![without.to_owned()],
        order: arguments.order.unwrap_or_default(),
        ..request("range", vec![with.to_owned()], arguments.filters)
    };
    ask(session, request, arguments.shape).await
}

/// tips.
pub(super) async fn tips(session: &Session, arguments: TipsArguments) -> Outcome {
    ask(session, request("tips", Vec::new(), arguments.filters), arguments.shape).await
}

fn request(verb: &str, ids: Vec<String>, filters: Filters) -> QueryRequest {
    QueryRequest {
        verb: verb.to_owned(),
        ids,
        namespace: filters.namespace,
        kind: filters.kind,
        labels: filters.label,
        since_ms: filters.since_ms,
        until_ms: filters.until_ms,
        since_generation: filters.since_generation,
        until_generation: filters.until_generation,
        ..QueryRequest::default()
    }
}

async fn ask(session: &Session, mut request: QueryRequest, shape: Shape) -> Outcome {
    request.limit = shape.limit;
    request.cursor = shape.cursor;
    request.token = shape.token;
    request.projection = projection(shape.format);
    let mut answer = session.node().await?.query(&request).await?;
    let mut printer = Printer::new(session.output(), shape.format, &request.verb);
    while let Some(frame) = answer.next().await? {
        printer.frame(frame)?;
    }
    printer.finish()
}

/// The two ends of `A..B`. Ids and git hashes have no dots, and a ref's name cannot have two in a row.
fn two_ends(range: &str) -> Result<(&str, &str), Failure> {
    match range.split_once("..") {
        Some((without, with)) if !without.is_empty() && !with.is_empty() && !with.starts_with('.') => {
            Ok((without, with))
        }
        _ => Err(Failure::usage(format!("{range:?} is no range; write A..B, like git:HASH..git:HASH"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_a_range_has_two_ends() {
        let ends = |text| two_ends(text).ok();
        assert_eq!(ends("git:a..git:b"), Some(("git:a", "git:b")));
        assert_eq!(ends("ref:v1.0..ref:v1.1"), Some(("ref:v1.0", "ref:v1.1")));
        for text in ["a", "a..", "..b", "a...b", ""] {
            assert_eq!(ends(text), None, "{text}");
        }
    }
}
