//! How a command ends: its exit code, and the sentence that says what to do.
//!
//! Promises: 0 ok, 1 failed check, 2 usage, 3 unreachable, 4 conflict, 5 not found, 6 denied, 7 limit, 8 timeout; a reader that
//! went away (`| head`) ends a command quietly. Does not: print answers.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::output::Output;
use crate::client::ClientError;
use crate::error::{Reason, Refusal};

/// Exit code of a check that said no.
pub const EXIT_CHECK_FAILED: u8 = 1;

/// Why a command stopped.
#[derive(Debug)]
pub enum Failure {
    /// With a reason and a sentence.
    Refused(Refusal),
    /// Whoever read the answer has enough.
    ReaderGone,
}

/// What a command returns when it did its work.
pub type Outcome = Result<ExitCode, Failure>;

impl Failure {
    /// A failure of one of the stable reasons.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Refused(Refusal::new(reason, detail))
    }

    /// Wrong use of the command.
    pub fn usage(detail: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, detail)
    }

    /// What the operating system said of a file.
    pub fn file(path: &Path, error: &io::Error) -> Self {
        Self::new(reason_of(error), format!("{}: {error}", path.display()))
    }

    /// Something of ours that cannot happen did.
    pub fn internal(error: impl Display) -> Self {
        Self::new(Reason::Internal, error.to_string())
    }

    /// Prints the sentence on standard error and returns the exit code.
    pub fn report(&self, output: Output) -> ExitCode {
        #[derive(Serialize)]
        struct Problem<'a> {
            reason: &'a str,
            detail: &'a str,
            exit_code: u8,
            retry_after_ms: u32,
        }
        match self {
            Self::ReaderGone => ExitCode::SUCCESS,
            Self::Refused(refusal) => {
                let exit_code = refusal.reason.exit_code();
                if output == Output::Table {
                    eprintln!("qmesh: {}", refusal.detail);
                } else {
                    let problem = Problem {
                        reason: refusal.reason.code(),
                        detail: &refusal.detail,
                        exit_code,
                        retry_after_ms: refusal.retry_after_ms,
                    };
                    eprintln!("{}", serde_json::to_string(&problem).unwrap_or_default());
                }
                ExitCode::from(exit_code)
            }
        }
    }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::NotFound => Reason::NotFound,
        io::ErrorKind::PermissionDenied => Reason::Denied,
        io::ErrorKind::StorageFull => Reason::DiskFull,
        io::ErrorKind::AlreadyExists => Reason::Conflict,
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Reason::BadRequest,
        _ => Reason::Internal,
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Refused(error.refusal())
    }
}

/// Errors of standard output; files are reported with their path by [`Failure::file`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::new(reason_of(&error), format!("standard output: {error}")),
        }
    }
}
