//! A Rust file as the rules see it: code without comments, literals and test modules, and the paths it names.
//!
//! Promises: what is blanked out keeps its lines, so that a violation names the line a reader will open.
//! Does not: parse Rust. It knows comments, literals, braces and paths, which is all the rules need.

/// One file.
pub(crate) struct Source {
    /// Path below the root, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// Without comments and literals; test modules included.
    pub(crate) code_with_tests: String,
    /// Without comments, literals and what stands under `#[cfg(test)]`.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code_with_tests = blank_comments_and_literals(text);
        let code = blank_test_items(&code_with_tests);
        Self { path: path.to_owned(), text: text.to_owned(), code_with_tests, code }
    }

    /// Whether the whole file is test or bench: rules about production code do not hold there.
    pub(crate) fn is_test(&self) -> bool {
        let mut folders = self.path.split('/');
        let name = folders.next_back().unwrap_or_default();
        folders.any(|folder| folder == "tests" || folder == "benches")
            || name == "tests.rs"
            || name.ends_with("_tests.rs")
    }

    /// The room of `src/` this file belongs to; `None` for `lib.rs`, `main.rs` and files outside `src/`.
    pub(crate) fn room(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (room != "lib" && room != "main").then_some(room)
    }

    /// How many `super` lead from this file's module to the root of its crate.
    pub(crate) fn depth(&self) -> usize {
        let below = self.path.split_once("src/").map_or("", |(_, below)| below);
        let folders = below.matches('/').count();
        folders + usize::from(!["mod.rs", "lib.rs", "main.rs"].contains(&below.rsplit('/').next().unwrap_or_default()))
    }

    /// Every path in the production code with its line, groups spelled out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
    pub(crate) fn paths(&self) -> Vec<(usize, String)> {
        let mut scan = Scan { code: self.code.as_bytes(), at: 0, line: 1, found: Vec::new() };
        while scan.at < scan.code.len() {
            if is_word(scan.code[scan.at]) {
                scan.path("");
            } else {
                scan.step();
            }
        }
        scan.found
    }
}

struct Scan<'a> {
    code: &'a [u8],
    at: usize,
    line: usize,
    found: Vec<(usize, String)>,
}

impl Scan<'_> {
    fn step(&mut self) {
        self.line += usize::from(self.code[self.at] == b'\n');
        self.at += 1;
    }

    fn blanks(&mut self) {
        while self.at < self.code.len() && self.code[self.at].is_ascii_whitespace() {
            self.step();
        }
    }

    /// Reads one path, or a group of them, that follows `prefix`.
    fn path(&mut self, prefix: &str) {
        let start = self.at;
        while self.at < self.code.len() && is_word(self.code[self.at]) {
            self.at += 1;
        }
        let line = self.line;
        let path = format!("{prefix}{}", String::from_utf8_lossy(&self.code[start..self.at]));
        let (after_word, line_after_word) = (self.at, self.line);
        self.blanks();
        if self.code[self.at..].starts_with(b"::") {
            self.at += 2;
            self.blanks();
            match self.code.get(self.at) {
                Some(&byte) if is_word(byte) => return self.path(&format!("{path}::")),
                Some(b'{') => return self.group(&format!("{path}::")),
                Some(b'*') => {
                    self.at += 1;
                    return self.found.push((line, format!("{path}::*")));
                }
                // A turbofish ends the path; what stands in it is read as paths of its own.
                _ => return self.found.push((line, path)),
            }
        }
        (self.at, self.line) = (after_word, line_after_word);
        self.found.push((line, path));
    }

    fn group(&mut self, prefix: &str) {
        self.at += 1;
        loop {
            self.blanks();
            match self.code.get(self.at) {
                None => return,
                Some(b'}') => {
                    self.at += 1;
                    return;
                }
                Some(&byte) if is_word(byte) => self.path(prefix),
                Some(b'*') => {
                    self.found.push((self.line, format!("{prefix}*")));
                    self.at += 1;
                }
                Some(_) => self.step(),
            }
        }
    }
}

/// Whether a byte may stand in a word. Bytes above ASCII count, so that no word is cut.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || 0x80 <= byte
}

/// Blanks out comments and the content of string and character literals.
fn blank_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let starts_word = at == 0 || !is_word(bytes[at - 1]);
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => position(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' | b'b' | b'c' if starts_word => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => match character_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn position(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    (from..bytes.len()).find(|&at| bytes[at..].starts_with(what))
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// End of `r"…"`, `r#"…"#`, `br"…"`; `None` where no raw string starts. Plain `b"…"` is met at its quote.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + usize::from(bytes[start] != b'r');
    (bytes.get(at) == Some(&b'r')).then_some(())?;
    at += 1;
    let hashes = bytes[at..].iter().take_while(|&&byte| byte == b'#').count();
    at += hashes;
    (bytes.get(at) == Some(&b'"')).then_some(())?;
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    Some(position(bytes, at + 1, &close).map_or(bytes.len(), |end| end + close.len()))
}

/// End of a character literal; `None` where the quote starts a lifetime.
fn character_end(bytes: &[u8], start: usize) -> Option<usize> {
    if bytes.get(start + 1) == Some(&b'\\') {
        return position(bytes, start + 3, b"'").map(|end| end + 1);
    }
    let width = std::str::from_utf8(bytes.get(start + 1..)?).ok()?.chars().next()?.len_utf8();
    (bytes.get(start + 1 + width) == Some(&b'\'')).then_some(start + 2 + width)
}

/// Blanks out each item under `#[cfg(test)]`: to the end of its block, or to its semicolon.
fn blank_test_items(code: &str) -> String {
    const MARK: &[u8] = b"#[cfg(test)]";
    let mut bytes = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(start) = position(&bytes, from, MARK) {
        let mut at = start + MARK.len();
        let mut depth = 0_usize;
        while at < bytes.len() {
            match bytes[at] {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && matches!(bytes[at - 1], b'}' | b';') {
                break;
            }
        }
        for byte in &mut bytes[start..at] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = at;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
