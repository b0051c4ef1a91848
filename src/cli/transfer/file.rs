//! The file of an import or export: a path, or standard input and output for `-`.
//!
//! Promises: an export to a path appears whole or not at all. Does not: know formats.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;

/// Bytes read or written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What is imported.
pub(super) struct Input(Box<dyn BufRead>);

impl Input {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self(Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin()))));
        }
        let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
        Ok(Self(Box::new(BufReader::with_capacity(BUFFER_BYTES, file))))
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

/// Where an export goes.
pub(super) struct Target {
    sink: Sink,
    bytes: u64,
}

enum Sink {
    Stdout(BufWriter<io::Stdout>),
    /// Written beside the path and renamed at the end.
    File {
        writer: BufWriter<File>,
        partial: PathBuf,
        path: PathBuf,
    },
}

impl Target {
    pub(super) fn make(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let sink = Sink::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()));
            return Ok(Self { sink, bytes: 0 });
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let file = File::create(&partial).map_err(|error| Failure::file(&partial, &error))?;
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { sink: Sink::File { writer, partial, path: path.to_owned() }, bytes: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes += bytes.len() as u64;
        match &mut self.sink {
            Sink::Stdout(writer) => Ok(writer.write_all(bytes)?),
            Sink::File { writer, partial, .. } => {
                writer.write_all(bytes).map_err(|error| Failure::file(partial, &error))
            }
        }
    }

    /// Bytes written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the file; whether it was standard output.
    pub(super) fn finish(mut self) -> Result<bool, Failure> {
        match &mut self.sink {
            Sink::Stdout(writer) => {
                writer.flush()?;
                Ok(true)
            }
            Sink::File { writer, partial, path } => {
                let ended = writer.flush().and_then(|()| writer.get_ref().sync_all());
                let ended = ended.and_then(|()| fs::rename(&*partial, &*path));
                ended.map_err(|error| Failure::file(path, &error))?;
                Ok(false)
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Sink::File { partial, .. } = &self.sink {
            // Gone already when the export succeeded.
            drop(fs::remove_file(partial));
        }
    }
}
