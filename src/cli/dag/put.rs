//! `qmesh dag put`.
//!
//! Promises: only the id on standard output. Does not: split content; what is larger than a vertex is refused with the limit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::key;
use crate::cli::session::Session;
use crate::cli::text::pair;
use crate::dag::archive::SealedVertex;
use crate::dag::vertex::{NAMESPACE_DEFAULT, Vertex};
use crate::error::Refusal;
use crate::gateway::now_ms;
use crate::ids::Token;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::router::PutOptions;

/// `qmesh dag put …`
#[derive(Debug, Args)]
pub(super) struct PutArguments {
    /// What it is, in your words: a-z 0-9 . _ / -
    #[arg(long)]
    kind: String,
    /// What it follows: CID, hex, git:HASH or ref:NAME; may be given several times.
    #[arg(long, value_name = "ID")]
    parent: Vec<String>,
    /// A label; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// The family it belongs to.
    #[arg(long, default_value = NAMESPACE_DEFAULT)]
    namespace: String,
    /// Who made it, in your words.
    #[arg(long)]
    author: Option<String>,
    /// When it was made, in milliseconds since 1970; now when left out.
    #[arg(long, value_name = "MS")]
    timestamp_ms: Option<u64>,
    /// Sign it with this key (`qmesh key generate`).
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
    /// Accept parents that the node does not have yet; the vertex joins the graph when they have come.
    #[arg(long)]
    allow_missing_parents: bool,
    /// The content; - reads standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
struct Put {
    id: String,
    hex: String,
    existed: bool,
    token: String,
}

/// Runs `qmesh dag put`.
pub(super) async fn run(session: &Session, arguments: PutArguments) -> Outcome {
    let mut labels = BTreeMap::new();
    for (key, value) in arguments.label {
        if labels.insert(key.clone(), value).is_some() {
            return Err(Failure::usage(format!("label {key:?} is given twice")));
        }
    }
    let payload = payload(&arguments.file)?;
    let signing = arguments.sign.as_deref().map(key::read).transpose()?;
    let node = session.node().await?;
    let mut parents = Vec::with_capacity(arguments.parent.len());
    for parent in &arguments.parent {
        parents.push(node.resolve(parent).await?);
    }
    let vertex = Vertex {
        namespace: arguments.namespace,
        kind: arguments.kind,
        author: arguments.author,
        timestamp_ms: arguments.timestamp_ms.unwrap_or_else(now_ms),
        parents,
        labels,
        payload,
    };
    let signature = signing.map(|key| key.sign(&vertex.id())).transpose().map_err(Failure::internal)?;
    let sealed = SealedVertex::seal(&vertex, signature).map_err(Refusal::from)?;
    let options = PutOptions { allow_missing_parents: arguments.allow_missing_parents };
    let mut outcomes = node.put(std::slice::from_ref(&sealed), options).await?;
    let receipt = outcomes.pop().ok_or_else(|| Failure::internal("a put without an outcome"))??;
    let put = Put {
        id: sealed.id().to_string(),
        hex: sealed.id().hex(),
        existed: receipt.existed,
        token: Token { shard: receipt.shard, index: receipt.index }.to_string(),
    };
    session.output().value(&mut io::stdout().lock(), &put, |put| put.id.clone())?;
    Ok(ExitCode::SUCCESS)
}

/// The content, and never more of a file than shows that it is too large.
fn payload(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    let bytes_max = PAYLOAD_BYTES_MAX as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(bytes_max).read_to_end(&mut payload)
    } else {
        File::open(path).and_then(|file| file.take(bytes_max).read_to_end(&mut payload))
    };
    read.map_err(|error| Failure::file(path, &error))?;
    if PAYLOAD_BYTES_MAX < payload.len() {
        let detail =
            format!("payload: more than {PAYLOAD_BYTES_MAX} bytes; split it into vertices that name each other");
        return Err(Failure::new(crate::error::Reason::LimitExceeded, detail));
    }
    Ok(payload)
}
