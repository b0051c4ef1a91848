//! What the process says of itself: log lines on standard error.
//!
//! Promises: one line an event, with its time, level, place and fields, so that it can be searched; `QMESH_LOG` chooses what is said
//! (`warn`, `info`, `qmesh=debug,openraft=info`, …), `QMESH_LOG_FORM=json` its form. Does not: rotate or ship logs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is said when nobody chose: ours from info on, the engines' from warn on.
const FILTER_DEFAULT: &str =
    "info,openraft=error,quinn=warn,quinn_proto=warn,quinn_udp=error,rustls=warn,hyper=warn,h2=warn";

/// Begins to write log lines. What the environment says and cannot be read is told in the first of them.
pub fn start() {
    let said = std::env::var("QMESH_LOG").ok();
    let parsed = said.as_deref().map(EnvFilter::try_new);
    let (filter, unreadable) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(FILTER_DEFAULT), Some(error)),
        None => (EnvFilter::new(FILTER_DEFAULT), None),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process keeps the first.
    let _ = match std::env::var("QMESH_LOG_FORM").as_deref() {
        Ok("json") => lines.json().try_init(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    if let Some(error) = unreadable {
        tracing::warn!(%error, "QMESH_LOG is not a filter; the default is used");
    }
}
