//! `qmesh cluster renew`: the next certificate of a node, or of all, now.
//!
//! Promises: ends well only when every node that was asked speaks with another certificate than before. Does not: close connections;
//! those that stand go on with the certificate that they were made with, which stays good until its own end.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Change, commanded, named, state};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::control::{Action, MemberState, Serial};
use crate::error::Reason;
use crate::ids::NodeId;

/// Time between two looks at what the cluster knows.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Row {
    node: u64,
    name: String,
    /// The serial of the certificate that was replaced, in hexadecimal.
    before: String,
    /// The serial of the one that it speaks with now; the same in a dry run.
    now: String,
    expires_ms: u64,
}

pub(super) async fn run(session: &Session, member: Option<&str>, change: Change) -> Outcome {
    let before = certificates(session).await?;
    let asked: Vec<NodeId> = match member {
        Some(member) => vec![named(session, member).await?],
        None => before.keys().copied().collect(),
    };
    for &node in &asked {
        commanded(session, Action::AskRenewal { node }, change.dry_run).await?;
    }
    let now = if change.dry_run { before.clone() } else { renewed(session, &asked, &before).await? };
    let rows = asked.iter().filter_map(|node| {
        let (was, is) = (before.get(node)?, now.get(node)?);
        let (before, now) = (was.serial.to_string(), is.serial.to_string());
        Some(Row { node: node.0, name: is.name.clone(), before, now, expires_ms: is.expires_ms })
    });
    let rows: Vec<Row> = rows.collect();
    session.output().list(&mut io::stdout().lock(), &["node", "name", "before", "now", "expires"], &rows, |row| {
        let expires = crate::cli::text::time_text(row.expires_ms);
        vec![row.node.to_string(), row.name.clone(), row.before.clone(), row.now.clone(), expires]
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until every one of `asked` has another certificate than `before`.
async fn renewed(
    session: &Session,
    asked: &[NodeId],
    before: &BTreeMap<NodeId, Known>,
) -> Result<BTreeMap<NodeId, Known>, Failure> {
    let until = Instant::now() + session.global.timeout.0;
    loop {
        let now = certificates(session).await?;
        let serial = |known: &BTreeMap<NodeId, Known>, node: &NodeId| known.get(node).map(|known| known.serial);
        let Some(waits) = asked.iter().find(|node| serial(&now, node) == serial(before, node)) else { return Ok(now) };
        if until <= Instant::now() {
            let detail = format!(
                "{waits} has not got its next certificate; it gets it when it is up and reaches the control group"
            );
            return Err(Failure::new(Reason::Timeout, detail));
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Clone)]
struct Known {
    name: String,
    serial: Serial,
    expires_ms: u64,
}

/// The certificates of the members that take part.
async fn certificates(session: &Session) -> Result<BTreeMap<NodeId, Known>, Failure> {
    let state = state(session).await?;
    let members = state.cluster().into_iter().flat_map(|cluster| cluster.members());
    let members = members.filter(|(_, member)| matches!(member.state, MemberState::Active | MemberState::Draining));
    let known = members.filter_map(|(node, member)| {
        let certificate = member.certificate?;
        let (name, serial, expires_ms) = (member.name.to_string(), certificate.serial, certificate.expires_ms);
        Some((node, Known { name, serial, expires_ms }))
    });
    Ok(known.collect())
}
