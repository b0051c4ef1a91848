//! The forms of an answer: a table for people, JSON and NDJSON for programs.
//!
//! Promises: the same answer in every form; a reader that goes away (`| head`) is no error.
//! Does not: colour, page or guess a form from the terminal, so that a script sees what a person saw.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// The form of an answer, `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Columns for a person.
    #[default]
    Table,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Ndjson,
}

impl Output {
    /// Whether the answer is for a program.
    pub fn is_json(self) -> bool {
        self != Self::Table
    }

    /// Prints a list: a table with a line an item, one JSON array, or one JSON value a line.
    pub fn list<T: Serialize>(
        self,
        sink: &mut dyn Write,
        headers: &[&str],
        items: &[T],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> io::Result<()> {
        forgive_broken_pipe(match self {
            Self::Table => writeln!(sink, "{}", table(headers, items.iter().map(cells))),
            Self::Json => json(sink, items),
            Self::Ndjson => items.iter().try_for_each(|item| json_line(sink, item)),
        })
    }

    /// Prints one value: as this text for a person, or as JSON.
    pub fn value<T: Serialize>(
        self,
        sink: &mut dyn Write,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        forgive_broken_pipe(match self {
            Self::Table => writeln!(sink, "{}", text(value)),
            Self::Json => json(sink, value),
            Self::Ndjson => json_line(sink, value),
        })
    }
}

/// A plain table without lines, as wide as its content or as the terminal, whichever is less. Trailing blanks are cut, so that
/// it can be pasted.
pub fn table(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(columns) = crate::config::probe::terminal_columns() {
        table.set_width(columns);
    }
    table.set_header(headers.iter().map(|header| header.to_uppercase()));
    table.add_rows(rows);
    table.lines().map(|line| line.trim().to_owned() + "\n").collect::<String>().trim_end().to_owned()
}

fn json<T: Serialize + ?Sized>(sink: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *sink, value)?;
    writeln!(sink)
}

fn json_line<T: Serialize>(sink: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *sink, value)?;
    writeln!(sink)
}

fn forgive_broken_pipe(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[derive(Serialize)]
    struct Item {
        name: &'static str,
        count: u32,
    }

    const ITEMS: [Item; 2] = [Item { name: "first", count: 1 }, Item { name: "second", count: 20 }];

    fn check(output: Output, expected: &str) {
        let mut sink = Vec::new();
        output
            .list(&mut sink, &["name", "count"], &ITEMS, |item| vec![item.name.to_owned(), item.count.to_string()])
            .unwrap();
        assert_eq!(String::from_utf8(sink).unwrap(), expected, "{output:?}");
    }

    #[test]
    fn s0_2_a_list_is_printed_in_the_form_asked_for() {
        check(Output::Table, "NAME    COUNT\nfirst   1\nsecond  20\n");
        check(Output::Ndjson, "{\"name\":\"first\",\"count\":1}\n{\"name\":\"second\",\"count\":20}\n");
        let mut sink = Vec::new();
        Output::Json.list(&mut sink, &[], &ITEMS, |_| Vec::new()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&sink).unwrap();
        assert_eq!(value[1]["count"], 20);
    }

    #[test]
    fn s0_2_a_value_is_text_for_people_and_json_for_programs() {
        for (output, expected) in [(Output::Table, "first!\n"), (Output::Ndjson, "{\"name\":\"first\",\"count\":1}\n")]
        {
            let mut sink = Vec::new();
            output.value(&mut sink, &ITEMS[0], |item| format!("{}!", item.name)).unwrap();
            assert_eq!(String::from_utf8(sink).unwrap(), expected);
        }
    }

    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn s0_2_a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
        for output in [Output::Table, Output::Json, Output::Ndjson] {
            assert!(output.value(&mut Closed(io::ErrorKind::BrokenPipe), &1, u32::to_string).is_ok(), "{output:?}");
            assert!(output.value(&mut Closed(io::ErrorKind::StorageFull), &1, u32::to_string).is_err(), "{output:?}");
        }
    }
}
