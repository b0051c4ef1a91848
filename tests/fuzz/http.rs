//! A client that sends any bytes and reads answers strictly: what HTTP says is due must come, whole and well-formed.
//!
//! Promises: an answer that does not come, or is not one, ends the case. Does not: make requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without a byte there is nothing more to wait for where nothing must come.
const QUIET: Duration = Duration::from_millis(300);
/// Bytes of an answer that are read before the client has seen enough of a stream.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether another request may follow.
    pub(crate) open: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the door is open");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes as far as they are taken: a door that has answered may close before it has read all.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    pub(crate) fn end(&mut self) {
        let _ = self.stream.get_mut().shutdown(std::net::Shutdown::Write);
    }

    /// The next answer; `None` when the door closed instead of beginning one.
    pub(crate) fn answer(&mut self, method: &str) -> Option<Answer> {
        loop {
            let (status, headers) = self.head()?;
            // An interim answer, such as 100 Continue.
            if (100..200).contains(&status) {
                continue;
            }
            return Some(self.rest(method, status, headers));
        }
    }

    /// Everything that comes until the door closes, `enough` bytes are there, or nothing comes for [`QUIET`].
    pub(crate) fn drain(&mut self, enough: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.get_mut().set_read_timeout(Some(QUIET)).unwrap();
        let _ = (&mut self.stream).take(enough as u64).read_to_end(&mut bytes);
        bytes
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => {
                let text = String::from_utf8(line).expect("the head of an answer is text");
                Some(text.strip_suffix("\r\n").expect("a line of a head ends").to_owned())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    fn head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let mut words = first.split(' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "{first}");
        let status = words.next().and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {first}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line().expect("the head of an answer ends");
            if line.is_empty() {
                return Some((status, headers));
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn rest(&mut self, method: &str, status: u16, headers: Vec<(String, String)>) -> Answer {
        let mut answer = Answer { status, headers, body: Vec::new(), open: true };
        if answer.header("connection").eq_ignore_ascii_case("close") {
            answer.open = false;
        }
        if method == "HEAD" || matches!(status, 204 | 304) {
            return answer;
        }
        if answer.header("content-type").starts_with("text/event-stream") {
            // It goes on as long as somebody listens; its first line is enough.
            answer.open = false;
            let mut first = [0; 1];
            self.stream.read_exact(&mut first).expect("a stream of events begins");
            return answer;
        }
        if answer.header("transfer-encoding") == "chunked" {
            loop {
                let line = self.line().expect("a chunk begins");
                let length = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("no chunk: {line}"));
                let from = answer.body.len();
                assert!(from + length <= ANSWER_BYTES_MAX, "an answer without end");
                answer.body.resize(from + length, 0);
                self.stream.read_exact(&mut answer.body[from..]).expect("a chunk is whole");
                assert_eq!(self.line().as_deref(), Some(""), "a chunk ends");
                if length == 0 {
                    return answer;
                }
            }
        }
        let length = answer.header("content-length").parse::<usize>();
        let length = length.unwrap_or_else(|_| panic!("an answer without a length: {:?}", answer.headers));
        answer.body.resize(length, 0);
        self.stream.read_exact(&mut answer.body).expect("an answer is whole");
        answer
    }
}

/// The bytes of a request.
pub(crate) fn request(method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// Reads an answer's head byte by byte, so that what follows stays where it is.
pub(crate) fn skip_head(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a head") == 1 {
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
}
