//! `qmesh gen completions|man`.
//!
//! Promises: both are made from the commands themselves. Does not: install anything.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, Subcommand};
use clap_complete::Shell;

use super::failure::{Failure, Outcome};

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
    }
    Ok(ExitCode::SUCCESS)
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
