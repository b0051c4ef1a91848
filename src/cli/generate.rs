//! `qmesh gen completions|man|systemd`.
//!
//! Promises: the first two are made from the commands themselves; the unit asks for the limits that the node's profile needs, and for
//! nothing that io_uring cannot do without. Does not: install anything.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Command, Subcommand};
use clap_complete::Shell;

use super::failure::{Failure, Outcome};
use crate::config::Profile;

/// Time for a node to drain before it is killed: its doors, twice, its offices and its logs.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// `qmesh gen …`
#[derive(Debug, Args)]
pub struct GenerateArguments {
    #[command(subcommand)]
    command: GenerateCommand,
}

#[derive(Debug, Subcommand)]
enum GenerateCommand {
    /// Print a shell's completions.
    #[command(after_help = "Example: qmesh gen completions bash > ~/.local/share/bash-completion/completions/qmesh")]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write a man page for every command into a folder.
    #[command(after_help = "Example: qmesh gen man ~/.local/share/man/man1")]
    Man {
        /// The folder; made when it is not there.
        folder: PathBuf,
    },
    /// Print a unit that runs a node under systemd.
    #[command(
        after_help = "Example:\n  qmesh gen systemd --data /var/lib/qmesh | sudo tee /etc/systemd/system/qmesh.service\n  sudo useradd --system --home-dir /var/lib/qmesh --create-home qmesh\n  sudo systemctl enable --now qmesh"
    )]
    Systemd(UnitArguments),
}

/// What a unit says.
#[derive(Debug, Args)]
struct UnitArguments {
    /// The data directory; the unit may write there and nowhere else.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/qmesh")]
    data: PathBuf,
    /// The binary; this one when it is not said.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The tuning profile, or a file with one.
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    tuning: String,
    /// The user that it runs as.
    #[arg(long, default_value = "qmesh")]
    user: String,
}

/// Runs `qmesh gen …` for the commands of `root`.
///
/// # Errors
/// A folder or standard output that cannot be written.
pub fn run(arguments: GenerateArguments, mut root: Command) -> Outcome {
    match arguments.command {
        GenerateCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut root, "qmesh", &mut script);
            io::stdout().lock().write_all(&script)?;
        }
        GenerateCommand::Man { folder } => {
            fs::create_dir_all(&folder).map_err(|error| Failure::file(&folder, &error))?;
            // Building gives every command its full name, qmesh-dag-put, which the page and the file bear.
            root.build();
            pages(&root, &folder)?;
        }
        GenerateCommand::Systemd(arguments) => io::stdout().lock().write_all(unit(&arguments)?.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The unit.
///
/// # Errors
/// Usage: a path that is not absolute or that systemd would not read as one word.
fn unit(arguments: &UnitArguments) -> Result<String, Failure> {
    let word = |what: &str, text: &str| {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || "/._-+@".contains(letter);
        if text.is_empty() || !text.chars().all(is_word) {
            return Err(Failure::usage(format!("{what} {text:?}: letters, digits and / . _ - + @ only")));
        }
        Ok(text.to_owned())
    };
    let path = |what: &str, path: &Path| match path.to_str() {
        Some(text) if path.is_absolute() => word(what, text),
        _ => Err(Failure::usage(format!("{what} {}: name it from / on", path.display()))),
    };
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?,
    };
    let (binary, data) = (path("--binary", &binary)?, path("--data", &arguments.data)?);
    let (tuning, user) = (word("--tuning", &arguments.tuning)?, word("--user", &arguments.user)?);
    let profile = Profile::named_or_file(&arguments.tuning).map_err(|error| Failure::usage(error.to_string()))?;
    let (memlock_mib, nofile) = (profile.limits.memlock_mib, profile.limits.nofile);
    Ok(format!(
        "[Unit]
Description=qmesh node
Wants=network-online.target
After=network-online.target
# A node that cannot start says why; a restart every two seconds for ever would only bury it.
StartLimitIntervalSec=60
StartLimitBurst=10

[Service]
Type=exec
User={user}
Group={user}
ExecStart={binary} up --data {data} --tuning {tuning}
# SIGTERM drains: what was taken is answered, offices are handed over, the log is closed.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={stop_s}
# A failed write or sync ends the node (exit 74); recovery is the repair.
Restart=on-failure
RestartSec=2
LimitMEMLOCK={memlock_mib}M
LimitNOFILE={nofile}
OOMScoreAdjust=-500

# What it may touch. io_uring needs its three system calls and nothing else that is shut here.
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={data}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service io_uring_setup io_uring_enter io_uring_register
UMask=0077

[Install]
WantedBy=multi-user.target
",
        stop_s = STOP_LIMIT.as_secs(),
    ))
}

/// A page for `command` and for each below it.
fn pages(command: &Command, folder: &Path) -> Result<(), Failure> {
    let man = clap_mangen::Man::new(command.clone());
    let path = folder.join(man.get_filename());
    let mut page = Vec::new();
    man.render(&mut page)?;
    fs::write(&path, page).map_err(|error| Failure::file(&path, &error))?;
    command.get_subcommands().filter(|below| below.get_name() != "help").try_for_each(|below| pages(below, folder))
}
