//! Prints the frames of a graph answer in the form that was asked for.
//!
//! Promises: what is printed of a frame leaves the memory with it; JSON is one valid value however long the answer is.
//! Does not: ask the node.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::failure::{EXIT_CHECK_FAILED, Failure, Outcome};
use crate::cli::output::Output;
use crate::cli::text::time_text;
use crate::gateway::quic::wire::{QueryFrame, Summary};
use crate::ids::{ID_BYTES, VertexId};

/// Bytes collected before they are written.
const SINK_BYTES: usize = 64 << 10;

/// How a vertex is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// CIDs, one a line.
    Id,
    /// Ids in hexadecimal, one a line.
    Hex,
    /// Git hashes, one a line; what did not come from git is left out.
    Git,
    /// Columns, or JSON objects.
    #[default]
    Table,
}

/// What the node is asked to send for a format.
pub(super) fn projection(format: Format) -> u8 {
    match format {
        Format::Id | Format::Hex => 0,
        Format::Git => 1,
        Format::Table => 2,
    }
}

/// Prints one answer.
pub(super) struct Printer<W: Write = BufWriter<StdoutLock<'static>>> {
    sink: W,
    output: Output,
    format: Format,
    verb: String,
    /// The part of a diff that is printed now.
    part: Option<u8>,
    /// JSON: an array is open, and whether it has an item.
    array: Option<bool>,
    begun: bool,
    headed: bool,
    yes: Option<bool>,
    is_terminal: bool,
}

impl Printer {
    /// A printer to standard output.
    pub(super) fn new(output: Output, format: Format, verb: &str) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let sink = BufWriter::with_capacity(SINK_BYTES, stdout.lock());
        Self::to(sink, output, format, verb, is_terminal)
    }
}

impl<W: Write> Printer<W> {
    fn to(sink: W, output: Output, format: Format, verb: &str, is_terminal: bool) -> Self {
        let verb = verb.to_owned();
        let (part, array) = (None, None);
        Self { sink, output, format, verb, part, array, begun: false, headed: false, yes: None, is_terminal }
    }

    /// Prints a frame.
    ///
    /// # Errors
    /// Standard output's.
    pub(super) fn frame(&mut self, frame: QueryFrame) -> Result<(), Failure> {
        match frame {
            QueryFrame::Ids(packed) => {
                let (ids, _) = packed.as_chunks::<ID_BYTES>();
                for id in ids {
                    let id = VertexId(*id);
                    match self.format {
                        Format::Hex => self.text(&id.hex())?,
                        _ => self.text(&id.to_string())?,
                    }
                }
            }
            QueryFrame::Git(lines) if self.output == Output::Table && self.part.is_none() => {
                self.sink.write_all(lines.as_bytes())?;
                if !lines.is_empty() && !lines.ends_with('\n') {
                    self.sink.write_all(b"\n")?;
                }
            }
            QueryFrame::Git(lines) => {
                for line in lines.lines() {
                    self.text(line)?;
                }
            }
            QueryFrame::Summaries(rows) => {
                for row in rows {
                    self.row(&row)?;
                }
            }
            QueryFrame::Bool(yes) => self.verdict(yes)?,
            QueryFrame::NoPath => self.no_path()?,
            QueryFrame::Part(part) => self.begin_part(part)?,
            QueryFrame::End { cursor } => self.end(&cursor)?,
        }
        Ok(())
    }

    /// Ends the answer. Its exit code is 1 for "no".
    ///
    /// # Errors
    /// Standard output's.
    pub(super) fn finish(mut self) -> Outcome {
        self.close(None)?;
        self.sink.flush()?;
        Ok(if self.yes == Some(false) { ExitCode::from(EXIT_CHECK_FAILED) } else { ExitCode::SUCCESS })
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        match self.output {
            Output::Table => writeln!(self.sink, "{}{text}", self.mark()),
            Output::Json | Output::Ndjson => self.item(&text),
        }
    }

    fn row(&mut self, row: &Summary) -> io::Result<()> {
        if self.output != Output::Table {
            return self.item(row);
        }
        if self.is_terminal && !self.headed {
            let indent = if self.part.is_some() { "  " } else { "" };
            let (id, generation, time) = ("ID", "GENERATION", "TIME");
            writeln!(self.sink, "{indent}{id:<59}  {generation:>10}  {time:<24}  {:<16}  GIT", "KIND")?;
        }
        self.headed = true;
        let (mark, id, git) = (self.mark(), VertexId(row.id).to_string(), row.git.as_deref().unwrap_or("-"));
        let time = time_text(row.timestamp_ms);
        writeln!(self.sink, "{mark}{id}  {:>10}  {time:<24}  {:<16}  {git}", row.generation, row.kind)
    }

    /// What stands before a line of a diff, as in `git log --left-right`.
    fn mark(&self) -> &'static str {
        match self.part {
            None => "",
            Some(0) => "< ",
            Some(1) => "> ",
            Some(_) => "= ",
        }
    }

    fn item<T: Serialize + ?Sized>(&mut self, item: &T) -> io::Result<()> {
        if self.output == Output::Ndjson {
            if let Some(part) = self.part {
                write!(self.sink, "{{\"part\":\"{}\",\"vertex\":", part_name(part))?;
                serde_json::to_writer(&mut self.sink, item)?;
                return self.sink.write_all(b"}\n");
            }
            serde_json::to_writer(&mut self.sink, item)?;
            return self.sink.write_all(b"\n");
        }
        self.open_array(self.part.map_or("vertices", part_name))?;
        if self.array == Some(true) {
            self.sink.write_all(b",")?;
        }
        self.array = Some(true);
        self.sink.write_all(b"\n")?;
        serde_json::to_writer(&mut self.sink, item)
            .map_err(|error| io::Error::new(error.io_error_kind().unwrap_or(io::ErrorKind::InvalidData), error))
    }

    fn open_array(&mut self, key: &str) -> io::Result<()> {
        if self.array.is_none() {
            self.key(key)?;
            self.sink.write_all(b"[")?;
            self.array = Some(false);
        }
        Ok(())
    }

    fn key(&mut self, key: &str) -> io::Result<()> {
        write!(self.sink, "{}\"{key}\":", if self.begun { "," } else { "{" })?;
        self.begun = true;
        Ok(())
    }

    fn close_array(&mut self) -> io::Result<()> {
        if self.array.take().is_some() {
            self.sink.write_all(b"]")?;
        }
        Ok(())
    }

    fn begin_part(&mut self, part: u8) -> io::Result<()> {
        self.part = Some(part);
        if self.output == Output::Json {
            self.close_array()?;
            self.open_array(part_name(part))?;
        }
        Ok(())
    }

    fn verdict(&mut self, yes: bool) -> io::Result<()> {
        self.yes = Some(yes);
        match self.output {
            // Scripts ask the exit code, as of `git merge-base --is-ancestor`; a person likes a word.
            Output::Table if self.is_terminal => writeln!(self.sink, "{}", if yes { "yes" } else { "no" }),
            Output::Table => Ok(()),
            Output::Json | Output::Ndjson => {
                self.key("is_ancestor")?;
                write!(self.sink, "{yes}")
            }
        }
    }

    fn no_path(&mut self) -> io::Result<()> {
        self.yes = Some(false);
        match self.output {
            Output::Table => eprintln!("qmesh: neither is an ancestor of the other"),
            Output::Json | Output::Ndjson => {
                self.key("vertices")?;
                self.sink.write_all(b"null")?;
            }
        }
        Ok(())
    }

    fn end(&mut self, cursor: &str) -> io::Result<()> {
        if cursor.is_empty() {
            return Ok(());
        }
        match self.output {
            Output::Json => self.close(Some(cursor)),
            Output::Table | Output::Ndjson => {
                eprintln!("qmesh: more with --cursor {cursor}");
                Ok(())
            }
        }
    }

    /// Closes what is open in JSON.
    fn close(&mut self, cursor: Option<&str>) -> io::Result<()> {
        match self.output {
            Output::Table => return Ok(()),
            Output::Ndjson if !self.begun => return Ok(()),
            Output::Json if !self.begun && self.verb != "is-ancestor" && self.verb != "diff" => {
                self.open_array("vertices")?;
            }
            Output::Json | Output::Ndjson => {}
        }
        self.close_array()?;
        if let Some(cursor) = cursor {
            self.key("cursor")?;
            serde_json::to_writer(&mut self.sink, cursor)?;
        }
        if self.begun {
            self.sink.write_all(b"}\n")?;
            // Nothing follows the end of an answer.
            self.begun = false;
            self.output = Output::Table;
        }
        Ok(())
    }
}

fn part_name(part: u8) -> &'static str {
    match part {
        0 => "only_a",
        1 => "only_b",
        _ => "bases",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;

    fn summary(byte: u8) -> Summary {
        Summary {
            id: [byte; 32],
            generation: 1,
            timestamp_ms: 0,
            kind: "note".to_owned(),
            namespace: "default".to_owned(),
            git: None,
        }
    }

    fn print(output: Output, format: Format, verb: &str, frames: Vec<QueryFrame>) -> (String, ExitCode) {
        let mut sink = Vec::new();
        let mut printer = Printer::to(&mut sink, output, format, verb, false);
        for frame in frames {
            printer.frame(frame).unwrap();
        }
        let code = printer.finish().unwrap();
        (String::from_utf8(sink).unwrap(), code)
    }

    fn end() -> QueryFrame {
        QueryFrame::End { cursor: String::new() }
    }

    #[test]
    fn s0_2_lines_are_printed_one_a_vertex() {
        let ids = QueryFrame::Ids([[1; 32], [2; 32]].concat());
        let (text, _) = print(Output::Table, Format::Hex, "ancestors", vec![ids.clone(), end()]);
        assert_eq!(text, format!("{}\n{}\n", "01".repeat(32), "02".repeat(32)));
        let (text, _) = print(Output::Table, Format::Id, "ancestors", vec![ids, end()]);
        assert_eq!(text.lines().map(str::len).collect::<Vec<_>>(), [59, 59]);
        let git = QueryFrame::Git("aa\nbb".to_owned());
        assert_eq!(print(Output::Table, Format::Git, "lca", vec![git.clone(), git, end()]).0, "aa\nbb\naa\nbb\n");
        let (text, _) = print(Output::Table, Format::Table, "topo", vec![QueryFrame::Summaries(vec![summary(1)])]);
        assert!(text.contains("1970-01-01T00:00:00Z") && text.contains("note"), "{text}");
    }

    #[test]
    fn s0_2_json_is_one_value_whatever_the_answer() {
        let check = |verb: &str, frames: Vec<QueryFrame>, wanted: serde_json::Value| {
            let (text, _) = print(Output::Json, Format::Id, verb, frames);
            let value: serde_json::Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(value, wanted);
        };
        let id = |byte: u8| VertexId([byte; 32]).to_string();
        check("ancestors", vec![end()], serde_json::json!({"vertices": []}));
        let two = vec![QueryFrame::Ids(vec![1; 32]), QueryFrame::Ids(vec![2; 32]), end()];
        check("ancestors", two, serde_json::json!({"vertices": [id(1), id(2)]}));
        let page = vec![QueryFrame::Ids(vec![1; 32]), QueryFrame::End { cursor: "next".to_owned() }];
        check("ancestors", page, serde_json::json!({"vertices": [id(1)], "cursor": "next"}));
        check("is-ancestor", vec![QueryFrame::Bool(true), end()], serde_json::json!({"is_ancestor": true}));
        check("path", vec![QueryFrame::NoPath, end()], serde_json::json!({"vertices": null}));
        let diff = vec![
            QueryFrame::Part(0),
            QueryFrame::Ids(vec![1; 32]),
            QueryFrame::Part(1),
            QueryFrame::Part(2),
            QueryFrame::Ids(vec![3; 32]),
            end(),
        ];
        let wanted = serde_json::json!({"only_a": [id(1)], "only_b": [], "bases": [id(3)]});
        check("diff", diff.clone(), wanted);
        let (text, _) = print(Output::Ndjson, Format::Id, "diff", diff.clone());
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{text}");
        let (text, _) = print(Output::Table, Format::Id, "diff", diff);
        assert_eq!(text, format!("< {}\n= {}\n", id(1), id(3)));
    }

    #[test]
    fn s0_2_no_is_an_exit_code() {
        let code = |verb: &str, frame| format!("{:?}", print(Output::Table, Format::Git, verb, vec![frame, end()]).1);
        let (yes, no) = (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code("is-ancestor", QueryFrame::Bool(true)), yes);
        assert_eq!(code("is-ancestor", QueryFrame::Bool(false)), no);
        assert_eq!(code("path", QueryFrame::NoPath), no);
    }
}
