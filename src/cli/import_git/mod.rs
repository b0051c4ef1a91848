//! `qmesh dag import git`: a repository's history into the DAG.
//!
//! Every commit is read and named here, which costs microseconds; the node is asked which it has, and only the rest is sent.
//! Promises: running it twice sends nothing the second time; a ref moves after the commits it needs are durable; refs that
//! vanished from the repository stay where they were. Does not: bring trees or files, or run git.

mod commit;
mod history;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::mpsc;

use self::commit::Commit;
use self::history::{HistoryError, Repository};
use super::failure::{Failure, Outcome};
use super::session::Session;
use super::text::{bar, counter};
use super::transfer::{BATCHES_IN_FLIGHT_MAX, Batcher, send_new};
use crate::client::Node;
use crate::dag::archive::{Scratch, SealedVertex};
use crate::dag::refs::RefName;
use crate::error::{Reason, Refusal};
use crate::gateway::quic::wire::{RefAnswer, RefRequest};
use crate::ids::VertexId;
use crate::limits::PAGE_MAX;

/// Refs moved at a time.
const REF_MOVES_IN_FLIGHT_MAX: usize = 64;
/// Commits between two updates of the progress bar.
const PROGRESS_STEP: u64 = 1024;

/// `qmesh dag import git …`
#[derive(Debug, Args)]
pub struct GitArguments {
    /// The repository: a work tree, a bare repository or a .git folder.
    path: PathBuf,
    /// Refs are stored as git/NAME/…; the name of the repository's folder when left out.
    #[arg(long)]
    name: Option<String>,
    /// Namespace of the vertices. Another namespace makes other ids.
    #[arg(long, default_value = "git")]
    namespace: String,
}

#[derive(Debug, Serialize)]
struct Summary {
    repository: String,
    commits: u64,
    new: u64,
    refs: u64,
    refs_moved: u64,
    refs_skipped: u64,
    seconds: f64,
}

/// What the reading thread tells.
enum Told {
    /// Commits to expect.
    Commits(u64),
    /// Vertices, parents first.
    Batch(Vec<SealedVertex>),
    /// Every ref and the vertex of its commit; how many refs lead to no commit.
    Refs(Vec<(String, VertexId)>, usize),
}

/// Runs `qmesh dag import git`.
pub async fn run(session: &Session, arguments: GitArguments) -> Outcome {
    let started = Instant::now();
    let repository = Repository::open(&arguments.path).map_err(refused)?;
    let name = sanitized(arguments.name.unwrap_or_else(|| repository.name()));
    // Fail on a wrong name before anything is sent.
    name_of_ref(&name, "HEAD")?;
    let node = session.node().await?;
    let (sender, mut told) = mpsc::channel(BATCHES_IN_FLIGHT_MAX);
    let found = counter("commits");
    found.set_message("reading");
    let (path, namespace, reading_bar) = (arguments.path, arguments.namespace, found.clone());
    // Reading is blocking work: on a thread of its own it overlaps with sending. An open repository cannot change threads.
    drop(repository);
    let reader = std::thread::Builder::new().name("read-git".to_owned()).spawn(move || {
        let outcome = Repository::open(&path)
            .map_err(refused)
            .and_then(|repository| read(&repository, &namespace, &reading_bar, &sender));
        // A receiver that is gone has failed already, with its own reason.
        if let Err(failure) = outcome {
            drop(sender.blocking_send(Err(failure)));
        }
    });
    reader.map_err(|error| Failure::internal(format!("no thread to read the repository: {error}")))?;

    let mut summary =
        Summary { repository: name.clone(), commits: 0, new: 0, refs: 0, refs_moved: 0, refs_skipped: 0, seconds: 0.0 };
    let mut sending = FuturesUnordered::new();
    let mut sent_bar: Option<ProgressBar> = None;
    let mut tips = Vec::new();
    while let Some(next) = told.recv().await {
        match next? {
            Told::Commits(commits) => {
                found.finish_and_clear();
                summary.commits = commits;
                let bar = bar(commits, "commits");
                bar.set_message("sending");
                sent_bar = Some(bar);
            }
            Told::Batch(batch) => sending.push(send_new(node, batch, true)),
            Told::Refs(refs, skipped) => {
                summary.refs = refs.len() as u64;
                summary.refs_skipped = skipped as u64;
                tips = refs;
            }
        }
        while BATCHES_IN_FLIGHT_MAX <= sending.len() {
            if let Some(done) = sending.next().await {
                summary.new += count(&sent_bar, done?);
            }
        }
    }
    while let Some(done) = sending.next().await {
        summary.new += count(&sent_bar, done?);
    }
    if let Some(bar) = sent_bar {
        bar.finish_and_clear();
    }
    summary.refs_moved = move_refs(node, &name, &tips).await?;
    summary.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    session.output().value(&mut std::io::stdout().lock(), &summary, |summary| {
        let Summary { repository, commits, new, refs, refs_moved, refs_skipped, seconds } = summary;
        let skipped =
            if *refs_skipped == 0 { String::new() } else { format!(", {refs_skipped} refs lead to no commit") };
        format!("{repository}: {commits} commits ({new} new), {refs} refs ({refs_moved} moved){skipped}, {seconds} s")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn count(bar: &Option<ProgressBar>, (checked, new): (u64, u64)) -> u64 {
    if let Some(bar) = bar {
        bar.inc(checked);
    }
    new
}

/// Reads the repository and tells what it finds, parents first. Ends early when nobody listens any more.
fn read(
    repository: &Repository,
    namespace: &str,
    found: &ProgressBar,
    told: &mpsc::Sender<Result<Told, Failure>>,
) -> Result<(), Failure> {
    let (tips, skipped) = repository.tips().map_err(refused)?;
    let starts: Vec<_> = tips.iter().map(|tip| tip.commit).collect();
    let mut history = repository
        .history(&starts, |commits| {
            if commits.is_multiple_of(PROGRESS_STEP) {
                found.set_position(commits);
            }
        })
        .map_err(refused)?;
    if told.blocking_send(Ok(Told::Commits(history.len() as u64))).is_err() {
        return Ok(());
    }
    let mut ids = vec![VertexId([0; 32]); history.len()];
    let mut by_commit = HashMap::with_capacity(starts.len());
    let wanted: std::collections::HashSet<_> = starts.iter().copied().collect();
    let mut scratch = Scratch::default();
    let mut batcher = Batcher::default();
    for turn in 0..history.len() {
        let entry = history.entry(turn);
        let (number, id, shallow) = (entry.number, entry.id, entry.shallow);
        let parents: Vec<VertexId> = entry.parents.iter().map(|&parent| ids[parent as usize]).collect();
        let object = repository.object(&mut history, number).map_err(refused)?;
        let hash = id.to_string();
        let commit = Commit::parse(&object, repository.hash_digits())
            .map_err(|error| refused(HistoryError::Commit { hash: hash.clone(), error }))?;
        let vertex = commit.vertex(&hash, &parents, shallow, namespace);
        let sealed = SealedVertex::seal_with(&vertex, None, &mut scratch).map_err(|error| {
            let refusal = Refusal::from(error);
            Failure::new(refusal.reason, format!("commit {hash}: {}", refusal.detail))
        })?;
        ids[number as usize] = sealed.id();
        if wanted.contains(&id) {
            by_commit.insert(id, sealed.id());
        }
        if let Some(batch) = batcher.push(sealed)
            && told.blocking_send(Ok(Told::Batch(batch))).is_err()
        {
            return Ok(());
        }
    }
    if let Some(batch) = batcher.rest()
        && told.blocking_send(Ok(Told::Batch(batch))).is_err()
    {
        return Ok(());
    }
    let refs = tips.into_iter().filter_map(|tip| Some((tip.name, *by_commit.get(&tip.commit)?))).collect();
    drop(told.blocking_send(Ok(Told::Refs(refs, skipped))));
    Ok(())
}

/// Moves the refs that are not where the repository has them; returns how many.
async fn move_refs(node: &Node, repository: &str, tips: &[(String, VertexId)]) -> Result<u64, Failure> {
    let prefix = format!("git/{repository}/");
    let mut here: HashMap<String, String> = HashMap::new();
    let mut after = String::new();
    loop {
        let request =
            RefRequest::List { prefix: prefix.clone(), after, limit: PAGE_MAX as u32, consistency: String::new() };
        let RefAnswer::List { rows, .. } = node.refs(&request).await? else {
            return Err(Failure::internal("the node answered a list of refs with something else"));
        };
        let full = rows.len() == PAGE_MAX;
        after = rows.last().map(|row| row.name.clone()).unwrap_or_default();
        here.extend(rows.into_iter().filter_map(|row| Some((row.name, row.at?))));
        if !full {
            break;
        }
    }
    let mut moves = Vec::new();
    for (name, id) in tips {
        let name = name_of_ref(repository, name)?;
        let to = id.to_string();
        if here.get(&name) != Some(&to) {
            moves.push(RefRequest::Set {
                name,
                to: Some(to),
                expect: 0,
                expect_at: String::new(),
                actor: "qmesh dag import git".to_owned(),
                reason: String::new(),
            });
        }
    }
    let mut moving = futures_util::stream::iter(moves.iter().map(|request| node.refs(request)))
        .buffer_unordered(REF_MOVES_IN_FLIGHT_MAX);
    let mut moved = 0;
    while let Some(answer) = moving.next().await {
        answer?;
        moved += 1;
    }
    Ok(moved)
}

fn name_of_ref(repository: &str, name: &str) -> Result<String, Failure> {
    let name = format!("git/{repository}/{name}");
    match name.parse::<RefName>() {
        Ok(_) => Ok(name),
        Err(error) => Err(Failure::usage(format!("{error}; choose another --name"))),
    }
}

/// The name with what refs may not have replaced.
fn sanitized(name: String) -> String {
    let allowed = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.' | '/');
    let name: String = name.chars().map(|letter| if allowed(letter) { letter } else { '-' }).collect();
    let name = name.trim_matches(|letter| matches!(letter, '.' | '/'));
    if name.is_empty() { "repository".to_owned() } else { name.to_owned() }
}

fn refused(error: HistoryError) -> Failure {
    let reason = match &error {
        HistoryError::Open { .. } | HistoryError::Missing { .. } => Reason::NotFound,
        HistoryError::Object { .. } | HistoryError::Commit { .. } | HistoryError::Refs { .. } => Reason::Corrupt,
    };
    Failure::new(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_any_folder_name_becomes_the_name_of_refs() {
        for (folder, name) in [("linux", "linux"), ("my project", "my-project"), (".dot", "dot"), ("", "repository")] {
            assert_eq!(sanitized(folder.to_owned()), name);
            assert!(name_of_ref(name, "refs/heads/main").is_ok(), "{name}");
        }
    }
}
