//! `qmesh tune`: holds a tuning profile against this host, explains its keys, lists the profiles.
//!
//! Promises: `tune check` ends with 0 if nothing failed and 1 otherwise; a profile that cannot be read or a key that does not
//! exist ends with 2 and one line on stderr.
//! Does not: change the host. Every fix is printed for the operator to run.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::output::Output;
use crate::config::check::{Row, check, exit_code};
use crate::config::{Host, KEYS, Key, Profile, SHIPPED, TuningError};

/// Exit code of a command that was called wrongly.
pub(super) const EXIT_USAGE: u8 = 2;
/// Exit code of a command that could not print its answer.
pub(super) const EXIT_UNPRINTED: u8 = 1;

/// Tuning profiles: how a node drives the machine it runs on.
#[derive(Debug, clap::Args)]
pub struct TuneArguments {
    #[command(subcommand)]
    command: TuneCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TuneCommand {
    /// Compare this host with what a profile wants of it, and print what to change.
    Check {
        /// A built-in profile or a TOML file.
        #[arg(long, value_name = "NAME|FILE", default_value = "default")]
        profile: String,
        /// The data folder, to look at its file system too. It is not created.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Explain a key, a section or every key.
    Explain {
        /// A key such as storage.segment_mib, or a section such as storage.
        key: Option<String>,
    },
    /// List the built-in profiles, or print one as TOML to start one's own from.
    Profiles {
        /// The profile to print.
        name: Option<String>,
    },
}

/// Runs `qmesh tune` and answers its exit code.
pub fn run(arguments: &TuneArguments, output: Output) -> ExitCode {
    let mut stdout = io::stdout().lock();
    ExitCode::from(answer(arguments, output, &mut stdout, &|data| Host::read(data)).unwrap_or_else(|error| {
        eprintln!("qmesh: {error}");
        error.exit_code()
    }))
}

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error(transparent)]
    Profile(#[from] TuningError),
    #[error("no key or section {key:?}{}; `qmesh tune explain` lists them all", .nearest.map_or_else(String::new, |nearest| format!(" (did you mean {nearest:?}?)")))]
    Key { key: String, nearest: Option<&'static str> },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl Unanswered {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Profile(_) | Self::Key { .. } => EXIT_USAGE,
            Self::Print(_) => EXIT_UNPRINTED,
        }
    }
}

fn answer(
    arguments: &TuneArguments,
    output: Output,
    sink: &mut dyn Write,
    host: &dyn Fn(Option<&Path>) -> Host,
) -> Result<u8, Unanswered> {
    match &arguments.command {
        TuneCommand::Check { profile, data } => {
            let profile = Profile::named_or_file(profile)?;
            let rows = check(&profile, &host(data.as_deref()));
            print_rows(output, sink, &rows)?;
            Ok(exit_code(&rows))
        }
        TuneCommand::Explain { key } => explain(key.as_deref(), output, sink),
        TuneCommand::Profiles { name: Some(name) } => {
            Profile::named(name)?;
            let text = SHIPPED.iter().find(|shipped| shipped.name == name).map_or("", |shipped| shipped.text);
            output.value(sink, &text, |text| text.trim_end().to_owned())?;
            Ok(0)
        }
        TuneCommand::Profiles { name: None } => profiles(output, sink),
    }
}

/// Prints checked rows: as a table with the fixes below it, so that they can be copied whole, or as JSON.
pub(super) fn print_rows(output: Output, sink: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    output.list(sink, &["what", "wanted", "found", "verdict"], rows, |row| {
        vec![row.what.to_owned(), row.wanted.clone(), row.found.clone(), row.verdict.word().to_owned()]
    })?;
    if output != Output::Table {
        return Ok(());
    }
    let mut fixes = String::new();
    for row in rows {
        if let Some(fix) = &row.fix {
            fixes.push_str(&format!("\n{} {}: {fix}", row.verdict.word(), row.what));
        }
    }
    if fixes.is_empty() { Ok(()) } else { output.value(sink, &fixes, Clone::clone) }
}

/// A key as it is printed.
#[derive(Serialize)]
struct Explained {
    key: &'static str,
    default: &'static str,
    allowed: String,
    unit: &'static str,
    effect: &'static str,
}

impl From<&Key> for Explained {
    fn from(key: &Key) -> Self {
        Self { key: key.path, default: key.default, allowed: key.allowed(), unit: key.unit, effect: key.effect }
    }
}

fn explain(asked: Option<&str>, output: Output, sink: &mut dyn Write) -> Result<u8, Unanswered> {
    if let Some(key) = asked.and_then(Key::find) {
        output.value(sink, &Explained::from(key), |key| {
            let unit = if key.unit.is_empty() { String::new() } else { format!(" {}", key.unit) };
            let Explained { key, default, allowed, effect, .. } = key;
            format!("{key}\n  {effect}\n  default: {default}{unit}\n  allowed: {allowed}{unit}")
        })?;
        return Ok(0);
    }
    let section = asked.map(|section| format!("{section}."));
    let keys: Vec<Explained> = KEYS
        .iter()
        .filter(|key| section.as_ref().is_none_or(|section| key.path.starts_with(section.as_str())))
        .map(Explained::from)
        .collect();
    if let (Some(key), true) = (asked, keys.is_empty()) {
        return Err(Unanswered::Key { key: key.to_owned(), nearest: Key::nearest(key) });
    }
    output.list(sink, &["key", "default", "unit", "effect"], &keys, |key| {
        [key.key, key.default, key.unit, key.effect].map(str::to_owned).to_vec()
    })?;
    Ok(0)
}

/// A built-in profile as it is listed, with all its values for programs.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    purpose: &'static str,
    values: Profile,
}

fn profiles(output: Output, sink: &mut dyn Write) -> Result<u8, Unanswered> {
    let mut listed = Vec::with_capacity(SHIPPED.len());
    for shipped in SHIPPED {
        listed.push(Listed { name: shipped.name, purpose: shipped.purpose, values: Profile::named(shipped.name)? });
    }
    output.list(sink, &["name", "purpose"], &listed, |shipped| {
        vec![shipped.name.to_owned(), shipped.purpose.to_owned()]
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use clap::Parser;

    use super::*;
    use crate::config::check::tests::host;
    use crate::config::host::RingPermission;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        tune: TuneArguments,
    }

    fn call(words: &str, output: Output, host: &Host) -> (Result<u8, String>, String) {
        let line = Line::try_parse_from(std::iter::once("tune").chain(words.split_whitespace())).unwrap();
        let mut sink = Vec::new();
        let code = answer(&line.tune, output, &mut sink, &|_| host.clone()).map_err(|error| error.to_string());
        (code, String::from_utf8(sink).unwrap())
    }

    #[test]
    fn s8_4_check_ends_with_one_where_a_row_failed_and_prints_the_fix() {
        let denied = Host { ring: RingPermission::DisabledBySysctl, ..host() };
        for (words, host, expected) in [
            ("check", &host(), 0),
            ("check", &denied, 0),
            ("check --profile latency", &denied, 1),
            ("check --profile latency", &host(), 0),
        ] {
            let (code, text) = call(words, Output::Table, host);
            assert_eq!(code, Ok(expected), "{words}");
            assert!(text.starts_with("WHAT"), "{text}");
            assert_eq!(text.contains("sysctl -w kernel.io_uring_disabled=0"), host == &denied, "{text}");
        }
        let (_, text) = call("check --profile latency", Output::Json, &denied);
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(rows[0]["what"], "io_uring");
        assert_eq!(rows[0]["verdict"], "fail");
        assert_eq!(rows.as_array().unwrap().len(), 13);
        let (_, lines) = call("check", Output::Ndjson, &denied);
        assert_eq!(lines.lines().count(), 13);
    }

    #[test]
    fn s8_4_a_profile_that_does_not_exist_is_named_with_its_neighbour() {
        let (code, text) = call("check --profile latncy", Output::Table, &host());
        assert!(code.unwrap_err().contains("did you mean \"latency\"?"));
        assert_eq!(text, "");
    }

    #[test]
    fn s8_4_explain_answers_for_a_key_a_section_and_all() {
        let (code, text) = call("explain storage.segment_mib", Output::Table, &host());
        assert_eq!(code, Ok(0));
        let key = Key::find("storage.segment_mib").unwrap();
        assert_eq!(
            text,
            format!("storage.segment_mib\n  {}\n  default: 64 MiB\n  allowed: 8 to 4096 MiB\n", key.effect)
        );
        for (words, expected) in [("explain", KEYS.len()), ("explain cpu", 3), ("explain limits", 2)] {
            let (code, text) = call(words, Output::Ndjson, &host());
            assert_eq!((code, text.lines().count()), (Ok(0), expected), "{words}");
        }
        let (code, _) = call("explain storage.segment_mb", Output::Table, &host());
        let refused = code.unwrap_err();
        assert!(refused.contains("did you mean \"storage.segment_mib\"?"), "{refused}");
    }

    #[test]
    fn s8_4_a_printed_profile_is_a_profile() {
        for shipped in SHIPPED {
            let (code, text) = call(&format!("profiles {}", shipped.name), Output::Table, &host());
            assert_eq!(code, Ok(0));
            assert_eq!(Profile::parse(shipped.name, &text).unwrap(), Profile::named(shipped.name).unwrap());
        }
        let (code, text) = call("profiles", Output::Json, &host());
        assert_eq!(code, Ok(0));
        let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(listed[0]["name"], "default");
        assert_eq!(listed[0]["values"]["storage"]["segment_mib"], 64);
        assert!(call("profiles lptop", Output::Table, &host()).0.unwrap_err().contains("laptop"));
    }
}
