//! What a crash test needs: notes of what was acknowledged, and the check that it is still there.
//!
//! Promises: an id is noted only after its put was answered durable, and the note is in the file before the next put of the same
//! slot begins. Does not: crash anything.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use super::{Load, Payloads, connect, put_one};
use crate::cli::failure::{EXIT_CHECK_FAILED, Failure, Outcome};
use crate::cli::session::Session;
use crate::ids::VertexId;

/// Ids read back in one request.
const VERIFY_BATCH: usize = 512;

pub(super) async fn append(session: &Session, load: &Load, file: &Path) -> Outcome {
    let nodes = connect(session, load).await?;
    let notes = OpenOptions::new().create(true).append(true).open(file);
    let notes = Rc::new(notes.map_err(|error| Failure::file(file, &error))?);
    let payloads = Rc::new(Payloads::new(load.size));
    let until = Instant::now() + load.plan().measured;
    let tasks = (0..u64::from(load.in_flight)).map(|task| {
        let (node, payloads, notes) = (nodes[task as usize % nodes.len()].clone(), payloads.clone(), notes.clone());
        let in_flight = u64::from(load.in_flight);
        async move {
            let mut number = task;
            while Instant::now() < until {
                let Ok(vertex) = payloads.vertex(number) else { return };
                // The node is gone, or full: what was noted so far is what counts.
                if put_one(&node, &vertex).await.is_err() {
                    return;
                }
                if (&*notes).write_all(format!("{}\n", vertex.id().hex()).as_bytes()).is_err() {
                    return;
                }
                number += in_flight;
            }
        }
    });
    futures_util::future::join_all(tasks).await;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn verify(session: &Session, file: &Path) -> Outcome {
    let node = session.node().await?;
    let notes = std::fs::File::open(file).map_err(|error| Failure::file(file, &error))?;
    let mut ids: Vec<VertexId> = Vec::new();
    for line in BufReader::new(notes).lines() {
        let line = line.map_err(|error| Failure::file(file, &error))?;
        // The writer may have been killed inside its last line.
        ids.extend(line.parse::<VertexId>().ok());
    }
    let mut lost = 0usize;
    for chunk in ids.chunks(VERIFY_BATCH) {
        // The client verifies the hash of every vertex it is given.
        for (id, found) in chunk.iter().zip(node.get_many(chunk).await?) {
            if found.is_none() {
                lost += 1;
                eprintln!("qmesh: acknowledged and gone: {id}");
            }
        }
    }
    println!("{} acknowledged, {lost} lost", ids.len());
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHECK_FAILED) })
}
