//! How the endpoints of all servers are, told to people and scrapers, and breakers that people close.
//!
//! Promises: what is told holds for the node, whichever core is asked. Does not: ask a server.

use serde_json::{Value, json};

use super::Upstreams;
use super::federation::Entry;
use super::pool::now;
use crate::error::{Reason, Refusal};

/// One figure of every server.
pub struct Figure {
    /// Its name.
    pub family: &'static str,
    /// The name of its lines.
    pub sample: &'static str,
    /// What OpenMetrics calls its kind.
    pub kind: &'static str,
    /// What it counts.
    pub about: &'static str,
    /// By the server's name.
    pub values: Vec<(String, u64)>,
}

impl Upstreams {
    /// How every endpoint of every server is, as this node sees it.
    pub(in crate::gateway) fn health_matrix(&self, node: &str) -> Value {
        let federation = self.current();
        let now = now();
        let rows = federation.entries.iter().flat_map(|entry| {
            entry.pool.report(now).into_iter().map(|mut row| {
                row["upstream"] = entry.upstream.name.clone().into();
                row
            })
        });
        json!({ "observer": node, "endpoints": rows.collect::<Vec<Value>>() })
    }

    /// The breakers that are not closed, or have failures that count.
    pub(in crate::gateway) fn breakers(&self) -> Value {
        let federation = self.current();
        let now = now();
        let rows = federation.entries.iter().flat_map(|entry| {
            entry.breakers.rows(&entry.pool, now).into_iter().map(|mut row| {
                row["upstream"] = entry.upstream.name.clone().into();
                row
            })
        });
        json!({ "breakers": rows.collect::<Vec<Value>>() })
    }

    /// Closes the breakers of an upstream, or of one of its tools.
    ///
    /// # Errors
    /// There is no such upstream.
    pub(in crate::gateway) fn reset_breakers(&self, wanted: &BreakerReset) -> Result<Value, Refusal> {
        let federation = self.current();
        let entry = federation.entries.iter().find(|entry| entry.upstream.name == wanted.upstream);
        let none = || {
            let told = format!("no upstream {:?}; `qmesh upstream ls` lists them", wanted.upstream);
            Refusal::new(Reason::NotFound, told)
        };
        let entry = entry.ok_or_else(none)?;
        Ok(json!({ "reset": entry.breakers.reset(wanted.tool.as_deref()) }))
    }

    /// Figures of all servers for a scraper: each of at most [`crate::config::upstream::UPSTREAMS_MAX`] has one line a figure.
    pub(in crate::gateway) fn figures(&self) -> Vec<Figure> {
        let (federation, now) = (self.current(), now());
        let figure = |family, sample, kind, about, of: fn(&Entry, u64) -> u64| Figure {
            family,
            sample,
            kind,
            about,
            values: federation.entries.iter().map(|entry| (entry.upstream.name.clone(), of(entry, now))).collect(),
        };
        let counter = |family, sample, about, of| figure(family, sample, "counter", about, of);
        let gauge = |family, about, of| figure(family, family, "gauge", about, of);
        vec![
            counter(
                "qmesh_upstream_calls",
                "qmesh_upstream_calls_total",
                "Calls sent to an upstream, retries included.",
                |entry, _| entry.pool.counts().0,
            ),
            counter(
                "qmesh_upstream_failures",
                "qmesh_upstream_failures_total",
                "Calls that failed there.",
                |entry, _| entry.pool.counts().1,
            ),
            counter(
                "qmesh_upstream_retries",
                "qmesh_upstream_retries_total",
                "Calls that went to another endpoint.",
                |entry, _| entry.pool.retried().0,
            ),
            counter(
                "qmesh_upstream_retries_refused",
                "qmesh_upstream_retries_refused_total",
                "Retries that the budget refused.",
                |entry, _| entry.pool.retried().1,
            ),
            gauge("qmesh_upstream_open", "Calls that are open.", |entry, _| entry.pool.counts().2 as u64),
            gauge("qmesh_upstream_endpoints", "Endpoints that are declared.", |entry, _| {
                entry.pool.endpoints.len() as u64
            }),
            gauge("qmesh_upstream_endpoints_well", "Endpoints that take calls.", |entry, now| {
                u64::from(entry.pool.well(now).count_ones())
            }),
        ]
    }
}

/// Which breakers to close.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerReset {
    /// The server.
    pub upstream: String,
    /// Its tool by the server's own name; all when it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
}
