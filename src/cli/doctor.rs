//! `qmesh doctor`: would a node start here, and if not, what to do.
//!
//! Promises: 0 if nothing failed, 1 otherwise; nothing is left behind: ports are let go, files that were tried have no name.
//! Does not: compare speeds or wishes; that is `qmesh tune check`.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::output::Output;
use super::tune::{Unanswered, print_rows};
use crate::config::check::{self, Row, Verdict, exit_code};
use crate::config::{Host, Profile, probe};

/// Check whether a node can run here, and print what to do where it cannot.
#[derive(Debug, clap::Args)]
pub struct DoctorArguments {
    /// The data folder. It is not created.
    #[arg(long, value_name = "DIR", default_value = "qmesh-data")]
    data: PathBuf,
    /// A built-in tuning profile or a TOML file.
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    profile: String,
    /// Address of the HTTP door, to see whether it is free.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Address of the QUIC door, to see whether it is free.
    #[arg(long, value_name = "ADDRESS")]
    quic: Option<SocketAddr>,
}

/// Runs `qmesh doctor` and answers its exit code.
pub fn run(arguments: &DoctorArguments, output: Output) -> ExitCode {
    let mut stdout = io::stdout().lock();
    ExitCode::from(answer(arguments, output, &mut stdout).unwrap_or_else(|error| {
        eprintln!("qmesh: {error}");
        error.exit_code()
    }))
}

fn answer(arguments: &DoctorArguments, output: Output, sink: &mut dyn Write) -> Result<u8, Unanswered> {
    let profile = Profile::named_or_file(&arguments.profile)?;
    let rows = rows(&profile, &arguments.data, arguments.http, arguments.quic);
    print_rows(output, sink, &rows)?;
    Ok(exit_code(&rows))
}

/// Every row of `qmesh doctor`, read from this host now.
pub fn rows(profile: &Profile, data: &Path, http: Option<SocketAddr>, quic: Option<SocketAddr>) -> Vec<Row> {
    let host = Host::read(Some(data));
    let mut rows = vec![check::ring(profile, &host)];
    if let Some(found) = &host.data {
        rows.extend(check::data_rows(profile, &host, found));
    }
    if let Some(address) = http {
        rows.push(port("http port", "--http", address, TcpListener::bind(address).map(drop)));
    }
    if let Some(address) = quic {
        rows.push(port("quic port", "--quic", address, UdpSocket::bind(address).map(drop)));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rows.push(clock(now, probe::clock_synchronised()));
    rows.extend([check::memlock(profile, &host), check::nofile(profile, &host)]);
    rows.extend(check::buffers(profile, &host));
    rows
}

fn port(what: &'static str, option: &str, address: SocketAddr, attempt: io::Result<()>) -> Row {
    let wanted = format!("{address} free");
    let Err(error) = attempt else { return Row::ok(what, wanted, "free") };
    let (found, fix) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let number = address.port();
            (
                "in use".to_owned(),
                format!("find who has it with `ss -tulpn 'sport = :{number}'`, or choose another with {option}"),
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            ("not an address of this host".to_owned(), format!("choose one that `ip address` lists with {option}"))
        }
        io::ErrorKind::PermissionDenied => (
            "not permitted".to_owned(),
            format!("choose a port above 1023 with {option}, or grant CAP_NET_BIND_SERVICE"),
        ),
        _ => (error.to_string(), format!("choose another address with {option}")),
    };
    Row::ok(what, wanted, found).but(Verdict::Fail, fix)
}

/// No host's clock was rightly before this: 2026-01-01, in seconds since 1970.
const CLOCK_SECONDS_MIN: u64 = 1_767_225_600;
/// A clock this far ahead was never set: 2100-01-01, in seconds since 1970.
const CLOCK_SECONDS_MAX: u64 = 4_102_444_800;

/// Certificates and timestamps of vertices need a clock that is about right. A time service is a wish: without one, clocks
/// drift apart by seconds a month.
fn clock(now: Duration, synchronised: Option<bool>) -> Row {
    let seconds = now.as_secs();
    let year = 1970 + seconds / 31_556_952;
    let wanted = "set, kept by a time service";
    if !(CLOCK_SECONDS_MIN..CLOCK_SECONDS_MAX).contains(&seconds) {
        return Row::ok("clock", wanted, format!("in the year {year}"))
            .but(Verdict::Fail, "set the clock, then `timedatectl set-ntp true`");
    }
    match synchronised {
        Some(true) => Row::ok("clock", wanted, "set, kept by a time service"),
        Some(false) => Row::ok("clock", wanted, "set, no time service").but(Verdict::Warn, "timedatectl set-ntp true"),
        None => Row::ok("clock", wanted, "set, time service not exposed"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        doctor: DoctorArguments,
    }

    fn call(words: &[&str]) -> (u8, serde_json::Value) {
        let line = Line::try_parse_from(std::iter::once(&"doctor").chain(words)).unwrap();
        let mut sink = Vec::new();
        let code = answer(&line.doctor, Output::Json, &mut sink).unwrap();
        (code, serde_json::from_slice(&sink).unwrap())
    }

    fn row<'a>(rows: &'a serde_json::Value, what: &str) -> &'a serde_json::Value {
        rows.as_array().unwrap().iter().find(|row| row["what"] == what).unwrap()
    }

    #[test]
    fn s9_1_14_taken_ports_fail_and_are_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let http = tcp.local_addr().unwrap().to_string();
        let quic = udp.local_addr().unwrap().to_string();
        let words = ["--data", data, "--http", &http, "--quic", &quic];
        let (code, rows) = call(&words);
        assert_eq!(code, 1);
        for what in ["http port", "quic port"] {
            assert_eq!(row(&rows, what)["verdict"], "fail");
            assert_eq!(row(&rows, what)["found"], "in use");
        }
        drop((tcp, udp));
        for _ in 0..2 {
            let (_, rows) = call(&words);
            assert_eq!(row(&rows, "http port")["verdict"], "ok");
            assert_eq!(row(&rows, "quic port")["verdict"], "ok");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn s9_1_14_a_refused_port_says_why() {
        let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
        for (kind, expected) in [
            (io::ErrorKind::AddrInUse, "in use"),
            (io::ErrorKind::AddrNotAvailable, "not an address of this host"),
            (io::ErrorKind::PermissionDenied, "not permitted"),
        ] {
            let row = port("http port", "--http", address, Err(kind.into()));
            assert_eq!((row.found.as_str(), row.verdict), (expected, Verdict::Fail));
            assert!(row.fix.unwrap().contains("--http"));
        }
    }

    #[test]
    fn s9_1_14_the_clock_is_judged_at_its_edges() {
        for (seconds, synchronised, expected) in [
            (0, Some(true), Verdict::Fail),
            (CLOCK_SECONDS_MIN - 1, Some(true), Verdict::Fail),
            (CLOCK_SECONDS_MIN, Some(true), Verdict::Ok),
            (CLOCK_SECONDS_MIN, Some(false), Verdict::Warn),
            (CLOCK_SECONDS_MIN, None, Verdict::Ok),
            (CLOCK_SECONDS_MAX - 1, Some(true), Verdict::Ok),
            (CLOCK_SECONDS_MAX, None, Verdict::Fail),
        ] {
            assert_eq!(
                clock(Duration::from_secs(seconds), synchronised).verdict,
                expected,
                "{seconds} {synchronised:?}"
            );
        }
        assert_eq!(clock(Duration::ZERO, None).found, "in the year 1970");
    }

    #[test]
    fn s9_1_14_a_data_folder_that_cannot_be_made_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let (code, rows) = call(&["--data", file.to_str().unwrap()]);
        assert_eq!(code, 1);
        assert_eq!(row(&rows, "data folder")["verdict"], "fail");
        let (_, rows) = call(&["--data", folder.path().join("to/come").to_str().unwrap()]);
        assert_eq!(row(&rows, "data folder")["verdict"], "ok");
    }
}
