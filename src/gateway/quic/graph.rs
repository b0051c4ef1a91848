//! Questions about the graph, and watching it, over a mesh stream.
//!
//! Promises: an answer leaves while the walk goes on and no faster than its reader takes; a reader that is gone ends the walk.

use std::fmt::Write;

use bytes::Bytes;
use qmesh_net::rpc::server::Replies;
use tokio::sync::broadcast::error::RecvError;

use super::wire::{Projection, QueryFrame, QueryRequest, RefLogRow, Summary, WatchFrame, WatchRequest};
use super::{archive, internal, malformed, unarchive};
use crate::dag::query::Answer;
use crate::dag::ref_record::RefRecord;
use crate::dag::refs::Position;
use crate::dag::skeleton::{Number, View};
use crate::dag::walk::Step;
use crate::error::Refusal;
use crate::gateway::query;
use crate::gateway::{Context, json};
use crate::ids::hex;

/// Vertices of one frame of summaries.
const SUMMARIES_PER_FRAME: usize = 512;
/// Vertices of one frame of ids or hashes.
const IDS_PER_FRAME: usize = 8192;
/// New vertices that one look of a watcher takes.
const WATCH_VERTICES_PER_FRAME: u32 = 512;

/// Answers a question in frames.
pub(super) async fn query(context: &Context, body: &[u8], id: u64, replies: &Replies) -> Result<Bytes, Refusal> {
    let request = unarchive!(QueryRequest, body).map_err(malformed)?;
    let projection = match request.projection {
        0 => Projection::Ids,
        1 => Projection::Git,
        2 => Projection::Summaries,
        other => return Err(Refusal::bad_request(format!("projection {other} is none of 0, 1, 2"))),
    };
    let router = &context.router;
    let token = query::token(&request)?;
    let question = query::parse(router, &request).await?;
    let mut machine = router.machine(question, token).await?;
    let mut slice = Vec::new();
    loop {
        let step = router.step(&mut machine, &mut slice);
        if step == Step::Done || IDS_PER_FRAME <= slice.len() {
            send(&router.skeleton().view(), &slice, projection, id, replies).await?;
            slice.clear();
        }
        if step == Step::Done || replies.is_closed() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let cursor = match router.finish(machine, Vec::new()) {
        Answer::Vertices { cursor, .. } => cursor,
        Answer::Bool(yes) => {
            part(&QueryFrame::Bool(yes), id, replies)?;
            None
        }
        Answer::Path(None) => {
            part(&QueryFrame::NoPath, id, replies)?;
            None
        }
        Answer::Path(Some(path)) => {
            send(&router.skeleton().view(), &path, projection, id, replies).await?;
            None
        }
        Answer::Diff { only_a, only_b, bases } => {
            for (number, list) in [only_a, only_b, bases].iter().enumerate() {
                part(&QueryFrame::Part(number as u8), id, replies)?;
                send(&router.skeleton().view(), list, projection, id, replies).await?;
            }
            None
        }
    };
    let cursor = cursor.map_or_else(String::new, |cursor| cursor.to_string());
    archive!(&QueryFrame::End { cursor }).map_err(internal)
}

async fn send(
    view: &View<'_>,
    numbers: &[Number],
    projection: Projection,
    id: u64,
    replies: &Replies,
) -> Result<(), Refusal> {
    let per_frame = if projection == Projection::Summaries { SUMMARIES_PER_FRAME } else { IDS_PER_FRAME };
    for chunk in numbers.chunks(per_frame) {
        let frame = match projection {
            Projection::Ids => QueryFrame::Ids(chunk.iter().flat_map(|&number| view.id(number).0).collect()),
            Projection::Git => {
                let mut lines = String::with_capacity(chunk.len() * 41);
                for hash in chunk.iter().filter_map(|&number| view.git(number)) {
                    // Writing into a string does not fail.
                    let _ = writeln!(lines, "{}", hex(&hash));
                }
                QueryFrame::Git(lines)
            }
            Projection::Summaries => {
                QueryFrame::Summaries(chunk.iter().map(|&number| json::summary(view, number)).collect())
            }
        };
        part(&frame, id, replies)?;
        if !replies.room().await {
            return Ok(());
        }
    }
    Ok(())
}

fn part(frame: &QueryFrame, id: u64, replies: &Replies) -> Result<(), Refusal> {
    replies.part(id, archive!(frame).map_err(internal)?);
    Ok(())
}

/// Tells of new vertices and moves of refs until the watcher is gone or the node drains.
pub(super) async fn watch(context: &Context, body: &[u8], id: u64, replies: &Replies) -> Result<Bytes, Refusal> {
    let request = unarchive!(WatchRequest, body).map_err(malformed)?;
    let router = &context.router;
    let mut refs = router.watch_refs();
    let mut seen = router.skeleton().view().len();
    // Told before anything happens, so that the watcher knows from when on it misses nothing.
    tell(&WatchFrame::Vertices(Vec::new()), id, replies)?;
    loop {
        let progress = router.progress().changed();
        let view = router.skeleton().view();
        if seen < view.len() {
            let until = view.len().min(seen + WATCH_VERTICES_PER_FRAME);
            let wanted = (seen..until).map(|number| json::summary(&view, Number(number)));
            let summaries: Vec<Summary> = wanted.filter(|summary| fits(summary, &request)).collect();
            seen = until;
            if !summaries.is_empty() {
                tell(&WatchFrame::Vertices(summaries), id, replies)?;
                if !replies.room().await {
                    return Ok(Bytes::new());
                }
            }
            continue;
        }
        tokio::select! {
            () = progress => {}
            moved = refs.recv(), if request.refs => match moved {
                Ok(record) => tell(&moved_frame(&record), id, replies)?,
                Err(RecvError::Lagged(count)) => tell(&WatchFrame::Missed(count), id, replies)?,
                Err(RecvError::Closed) => return Ok(Bytes::new()),
            },
            () = context.drain_asked() => return Ok(Bytes::new()),
            () = tokio::time::sleep(WATCH_LOOK) => {}
        }
        if replies.is_closed() {
            return Ok(Bytes::new());
        }
    }
}

/// How often a watcher looks whether its client is still there when nothing happens.
const WATCH_LOOK: std::time::Duration = std::time::Duration::from_millis(500);

fn fits(summary: &Summary, request: &WatchRequest) -> bool {
    (request.namespace.is_empty() || request.namespace == summary.namespace)
        && (request.kind.is_empty() || request.kind == summary.kind)
}

fn moved_frame(record: &RefRecord) -> WatchFrame {
    let position = Position { at: record.to, version: record.version };
    WatchFrame::Ref {
        row: json::ref_row(&record.name, Some(&position)),
        change: RefLogRow {
            version: record.version,
            from: record.from.map(|id| id.to_string()),
            to: record.to.map(|id| id.to_string()),
            actor: record.actor.clone(),
            reason: record.reason.clone(),
            timestamp_ms: record.timestamp_ms,
        },
    }
}

fn tell(frame: &WatchFrame, id: u64, replies: &Replies) -> Result<(), Refusal> {
    replies.part(id, archive!(frame).map_err(internal)?);
    Ok(())
}
