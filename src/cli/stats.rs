//! `qmesh stats`.
//!
//! Promises: every figure that the node tells, in its own words. Does not: compute any.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use serde_json::Value;

use super::session::{self, Global};

/// Runs `qmesh stats`.
pub fn run(global: Global) -> ExitCode {
    session::run(global, async |session| {
        let figures = session.node().await?.stats().await?;
        session.output().value(&mut io::stdout().lock(), &figures, |figures| {
            let mut text = String::new();
            outline(figures, 0, &mut text);
            text.trim_end().to_owned()
        })?;
        Ok(ExitCode::SUCCESS)
    })
}

/// JSON as an indented outline, a figure a line.
fn outline(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let line = |name: &str, value: &Value, out: &mut String| {
        // Writing into a String does not fail.
        match value {
            Value::Object(_) | Value::Array(_) => {
                let _ = writeln!(out, "{indent}{name}:");
                outline(value, depth + 1, out);
            }
            Value::String(text) => {
                let _ = writeln!(out, "{indent}{name:<24} {text}");
            }
            other => {
                let _ = writeln!(out, "{indent}{name:<24} {other}");
            }
        }
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| line(name, value, out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| line(&format!("[{at}]"), item, out)),
        other => {
            let _ = writeln!(out, "{indent}{other}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_figures_are_an_outline_for_people() {
        let mut text = String::new();
        outline(&serde_json::json!({"cores": [{"core": 0}], "version": "1"}), 0, &mut text);
        assert_eq!(text, "cores:\n  [0]:\n    core                     0\nversion                  1\n");
    }
}
