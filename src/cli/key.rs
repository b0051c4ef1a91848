//! Signing keys: `qmesh key generate`, and reading what it wrote.
//!
//! Promises: a secret key is written once, readable by its owner only; an existing file is never overwritten.
//! Does not: print a secret.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::failure::{Failure, Outcome};
use super::output::Output;
use crate::dag::signature::{Algorithm, SigningKey};
use crate::ids::hex;

const PEM_HEAD: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_TAIL: &str = "-----END PRIVATE KEY-----";
const PEM_COLUMNS: usize = 64;
/// A key file, in bytes: an ML-DSA-65 key with its expanded form in PEM is about 6 KiB.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

/// `qmesh key …`
#[derive(Debug, Args)]
pub struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a signing key (PKCS#8 in PEM) and print its public key.
    #[command(
        after_help = "Example: qmesh key generate --algorithm ml-dsa-65 me.key && qmesh dag put --kind note --sign me.key note.txt"
    )]
    Generate {
        /// ed25519, or ml-dsa-65 for signatures that outlast quantum computers.
        #[arg(long, value_enum, default_value_t = KeyAlgorithm::Ed25519)]
        algorithm: KeyAlgorithm,
        /// The file to make.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyAlgorithm {
    Ed25519,
    #[value(name = "ml-dsa-65")]
    MlDsa65,
}

/// Runs `qmesh key …`.
///
/// # Errors
/// An existing file, a file that cannot be written.
pub fn run(arguments: &KeyArguments, output: Output) -> Outcome {
    #[derive(Serialize)]
    struct Made<'a> {
        file: &'a Path,
        algorithm: &'a str,
        public_key: String,
    }
    let KeyCommand::Generate { algorithm, file } = &arguments.command;
    let algorithm = match algorithm {
        KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
        KeyAlgorithm::MlDsa65 => Algorithm::MlDsa65,
    };
    let key = SigningKey::generate(algorithm).map_err(Failure::internal)?;
    let pem = pem(&key.to_pkcs8().map_err(Failure::internal)?);
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(file);
    let written = made.and_then(|mut made| made.write_all(pem.as_bytes()).and_then(|()| made.sync_all()));
    written.map_err(|error| Failure::file(file, &error))?;
    let made = Made { file, algorithm: algorithm.name(), public_key: hex(key.public_key()) };
    output.value(&mut std::io::stdout().lock(), &made, |made| made.public_key.clone())?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a key that `key generate` wrote, or any PKCS#8 key of the two algorithms in PEM or DER.
///
/// # Errors
/// A file that cannot be read or holds no such key.
pub fn read(path: &Path) -> Result<SigningKey, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file(path, &error))?;
    let document = unpem(&bytes).unwrap_or(bytes);
    SigningKey::from_pkcs8(&document).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn pem(document: &[u8]) -> String {
    let text = BASE64.encode(document);
    let mut pem = format!("{PEM_HEAD}\n");
    for at in (0..text.len()).step_by(PEM_COLUMNS) {
        pem.push_str(&text[at..text.len().min(at + PEM_COLUMNS)]);
        pem.push('\n');
    }
    pem.push_str(PEM_TAIL);
    pem.push('\n');
    pem
}

fn unpem(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, rest) = text.split_once(PEM_HEAD)?;
    let (body, _) = rest.split_once(PEM_TAIL)?;
    BASE64.decode(body.split_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn s1_1_8_a_generated_key_is_private_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, algorithm) in [("e", KeyAlgorithm::Ed25519), ("m", KeyAlgorithm::MlDsa65)] {
            let file = folder.path().join(name);
            let arguments = || KeyArguments { command: KeyCommand::Generate { algorithm, file: file.clone() } };
            assert!(run(&arguments(), Output::Json).is_ok());
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let key = read(&file).unwrap();
            let id = crate::ids::VertexId([3; 32]);
            key.sign(&id).unwrap().view().verify(&id).unwrap();
            let again = run(&arguments(), Output::Json);
            assert!(matches!(again, Err(Failure::Refused(refusal)) if refusal.reason.exit_code() == 4));
        }
    }

    #[test]
    fn s1_1_8_what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        for text in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&file, text).unwrap();
            assert!(read(&file).is_err(), "{text:?}");
        }
        let absent = read(&folder.path().join("absent"));
        assert!(matches!(absent, Err(Failure::Refused(refusal)) if refusal.reason.exit_code() == 5));
    }
}
