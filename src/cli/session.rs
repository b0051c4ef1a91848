//! What the commands that speak to a node share: the options before the verb, and one connection.
//!
//! Promises: a command connects when it first needs the node, and says goodbye when it ends.
//! Does not: read the answer.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::sync::OnceCell;

use super::failure::{Failure, Outcome};
use super::output::Output;
use crate::client::{ADDRESS_DEFAULT, ConnectOptions, Node};
use crate::limits::REQUEST_TIMEOUT_MS;

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The node: HOST:PORT, quic://HOST:PORT, http://HOST:PORT or https://HOST:PORT.
    #[arg(long, global = true, env = "QMESH_NODE", value_name = "ADDR", default_value = ADDRESS_DEFAULT, help_heading = "Everywhere")]
    pub node: String,
    /// The authority to trust (tls/ca.pem in the node's data directory); needed for a node that is not on this machine.
    #[arg(long, global = true, env = "QMESH_CA", value_name = "FILE", help_heading = "Everywhere")]
    pub ca: Option<PathBuf>,
    /// The form of the answer.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table, help_heading = "Everywhere")]
    pub output: Output,
    /// Time for one request: 500ms, 30s, 5m.
    #[arg(long, global = true, value_name = "TIME", value_parser = duration, default_value_t = TimeOut(Duration::from_millis(REQUEST_TIMEOUT_MS)), help_heading = "Everywhere")]
    pub timeout: TimeOut,
}

/// A time that prints as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOut(pub Duration);

impl std::fmt::Display for TimeOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_millis();
        if ms.is_multiple_of(1000) { write!(f, "{}s", ms / 1000) } else { write!(f, "{ms}ms") }
    }
}

/// One command's options and connection.
pub struct Session {
    /// The options.
    pub global: Global,
    node: OnceCell<Node>,
}

impl Session {
    /// The node, connected by the first call.
    ///
    /// # Errors
    /// Unreachable, untrusted, not an address.
    pub async fn node(&self) -> Result<&Node, Failure> {
        let connect = || async {
            let options = ConnectOptions { authority: self.global.ca.clone(), timeout: self.global.timeout.0 };
            Node::connect(&self.global.node, &options).await
        };
        Ok(self.node.get_or_try_init(connect).await?)
    }

    /// The form of the answer.
    pub fn output(&self) -> Output {
        self.global.output
    }
}

/// Runs a command that speaks to a node, on an event loop of its own.
pub fn run(global: Global, command: impl AsyncFnOnce(&Session) -> Outcome) -> ExitCode {
    let output = global.output;
    let session = Session { global, node: OnceCell::new() };
    let ended = crate::runtime::run_plain(async {
        let outcome = command(&session).await;
        if let Some(node) = session.node.into_inner() {
            node.farewell().await;
        }
        outcome
    });
    match ended {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => failure.report(output),
        Err(error) => Failure::internal(format!("no event loop: {error}")).report(output),
    }
}

/// Parses 500ms, 30s, 5m or bare seconds.
fn duration(text: &str) -> Result<TimeOut, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let wanted = || "a time is a number and ms, s or m, like 500ms, 30s or 5m, and not zero".to_owned();
    let number: u32 = digits.parse().map_err(|_| wanted())?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        _ => return Err(wanted()),
    };
    match u64::from(number) * unit_ms {
        0 => Err(wanted()),
        ms => Ok(TimeOut(Duration::from_millis(ms))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_times_are_read_with_their_unit() {
        let check = |text: &str, ms: Option<u64>| {
            assert_eq!(duration(text).ok(), ms.map(|ms| TimeOut(Duration::from_millis(ms))), "input {text:?}");
        };
        check("500ms", Some(500));
        check("30s", Some(30_000));
        check("5m", Some(300_000));
        check("7", Some(7_000));
        check("0s", None);
        check("s", None);
        check("1h", None);
        check("-1s", None);
        assert_eq!(TimeOut(Duration::from_millis(1500)).to_string(), "1500ms");
        assert_eq!(TimeOut(Duration::from_millis(2000)).to_string(), "2s");
    }
}
