//! The tool about the node itself.
//!
//! Promises: the summary asks no other core. Does not: change anything.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Outcome, arguments, written};
use crate::gateway::Context;
use crate::router::message::CoreStats;

/// `node_status`
pub(super) async fn status(context: &Context, raw: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        #[serde(default)]
        view: Shown,
    }
    #[derive(Default, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Shown {
        #[default]
        Summary,
        Shards,
    }
    let Arguments { view } = arguments(raw)?;
    let cores = match view {
        Shown::Summary => None,
        Shown::Shards => Some(context.router.stats().await?),
    };
    Ok(written(&Status { cores, ..Status::now(context) }))
}

/// What the node says of itself.
#[derive(Serialize)]
pub(in crate::gateway::mcp) struct Status<'a> {
    version: &'a str,
    node: &'a str,
    uptime_ms: u64,
    vertices: u64,
    edges: u64,
    tips: u64,
    staged: u64,
    generation_max: u64,
    shard_count: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<Vec<CoreStats>>,
}

impl<'a> Status<'a> {
    /// Without the figures of the cores.
    pub(in crate::gateway::mcp) fn now(context: &'a Context) -> Self {
        let counts = context.router.skeleton().counts();
        Self {
            version: context.facts.version,
            node: &context.facts.node,
            uptime_ms: context.facts.started.elapsed().map_or(0, |uptime| uptime.as_millis() as u64),
            vertices: counts.vertices.into(),
            edges: counts.edges.into(),
            tips: counts.tips.into(),
            staged: counts.staged,
            generation_max: counts.generation_max.into(),
            shard_count: context.router.table().shard_count(),
            cores: None,
        }
    }
}
