//! The superblock: the first file of a data directory, which says what the rest is.
//!
//! Promises: written once, whole and synced, before any log exists; a directory of another version, or with logs but no
//! superblock, is refused with what to do. Does not: change. Slots, shards and logs of a directory are fixed when it is made.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::hex;

/// Version of the data directory's layout.
pub const DIRECTORY_VERSION: u32 = 1;
const FILE: &str = "superblock.toml";

/// What the data directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Superblock {
    /// Version of the layout; first, so that any build can read it.
    pub version: u32,
    /// 128 random bits in hexadecimal.
    pub node: String,
    /// Slots, a power of two.
    pub slots: u16,
    /// Shards.
    pub shards: u16,
    /// Logs.
    pub logs: u16,
    /// BLAKE3 of the lines before, in hexadecimal.
    pub check: String,
}

/// What is fixed when a directory is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Slots, a power of two.
    pub slots: u16,
    /// Shards, at most as many as slots.
    pub shards: u16,
    /// Logs, at most as many as shards.
    pub logs: u16,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SuperblockError {
    /// The operating system's.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The file is not readable as a superblock.
    #[error("{path} is damaged ({what}); restore it from a copy, it never changes after the first start")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Made by another version of qmesh.
    #[error("{path} is of layout version {version}; this build reads version {DIRECTORY_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Logs without a superblock.
    #[error("{path} holds logs but no {FILE}; restore it from a copy, or name an empty directory with --data")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
}

impl Superblock {
    /// Reads the superblock of `directory`, or makes directory and superblock with those counts. The flag says whether it was made.
    ///
    /// # Errors
    /// [`SuperblockError`].
    pub fn open_or_create(directory: &Path, counts: Counts, random: [u8; 16]) -> Result<(Self, bool), SuperblockError> {
        let path = directory.join(FILE);
        let failed = |error| SuperblockError::Io { path: path.clone(), error };
        match fs::read_to_string(&path) {
            Ok(text) => return Self::parse(&path, &text).map(|superblock| (superblock, false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        fs::create_dir_all(directory).map_err(failed)?;
        let holds_logs = fs::read_dir(directory)
            .map_err(failed)?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("log-"));
        if holds_logs {
            return Err(SuperblockError::Missing { path: directory.to_owned() });
        }
        let mut superblock = Self {
            version: DIRECTORY_VERSION,
            node: hex(&random),
            slots: counts.slots,
            shards: counts.shards,
            logs: counts.logs,
            check: String::new(),
        };
        superblock.check = superblock.checksum();
        let text = toml::to_string(&superblock)
            .map_err(|error| SuperblockError::Damaged { path: path.clone(), what: error.to_string() })?;
        let partial = directory.join("superblock.tmp");
        let write = || -> io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(failed)?;
        Ok((superblock, true))
    }

    /// Reads the superblock of `directory` and makes nothing.
    ///
    /// # Errors
    /// [`SuperblockError`].
    pub fn read(directory: &Path) -> Result<Self, SuperblockError> {
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| SuperblockError::Io { path: path.clone(), error })?;
        Self::parse(&path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SuperblockError> {
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        let damaged = |what: String| SuperblockError::Damaged { path: path.to_owned(), what };
        let VersionOnly { version } = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
        if version != DIRECTORY_VERSION {
            return Err(SuperblockError::Version { path: path.to_owned(), version });
        }
        let superblock: Self = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
        if superblock.check != superblock.checksum() {
            return Err(damaged("its check does not match".to_owned()));
        }
        let counts = superblock.slots.is_power_of_two()
            && (1..=superblock.slots).contains(&superblock.shards)
            && (1..=superblock.shards).contains(&superblock.logs);
        if counts { Ok(superblock) } else { Err(damaged("its counts do not fit together".to_owned())) }
    }

    fn checksum(&self) -> String {
        let Self { version, node, slots, shards, logs, .. } = self;
        let text = format!("{version} {node} {slots} {shards} {logs}");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    fn counts(logs: u16) -> Counts {
        Counts { slots: 16, shards: 4, logs }
    }

    #[test]
    fn s1_1_9_superblock_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("data");
        let (made, fresh) = Superblock::open_or_create(&directory, counts(2), [7; 16]).unwrap();
        assert!(fresh);
        let (read, fresh) = Superblock::open_or_create(&directory, counts(4), [8; 16]).unwrap();
        assert!(!fresh);
        assert_eq!(read, made);
    }

    #[test]
    fn s1_1_9_superblock_of_strangers_is_refused_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (made, _) = Superblock::open_or_create(folder.path(), counts(2), [7; 16]).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let check = |text: String, wanted: &str| {
            fs::write(&path, text).unwrap();
            let error = Superblock::open_or_create(folder.path(), counts(2), [7; 16]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error:?} should say {wanted:?}");
        };
        check(good.replace("version = 1", "version = 9"), "layout version 9");
        check(good.replace(&made.node, &"0".repeat(32)), "check does not match");
        check(good.replace("slots", "slotz"), "damaged");
        check(String::new(), "damaged");
        fs::remove_file(&path).unwrap();
        fs::create_dir(folder.path().join("log-00")).unwrap();
        let error = Superblock::open_or_create(folder.path(), counts(2), [7; 16]).unwrap_err().to_string();
        assert!(error.contains("no superblock.toml"), "{error}");
    }
}
