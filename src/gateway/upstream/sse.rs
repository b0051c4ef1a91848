//! Server-sent events, as far as MCP uses them: the data of each event is one message.
//!
//! Promises: any cut of the bytes gives the same messages; a message beyond [`MESSAGE_BYTES_MAX`] is refused before it is kept.
//! Does not: resume.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes of one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Takes bytes and gives messages.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_return: bool,
    ready: VecDeque<Bytes>,
}

/// A message is longer than [`MESSAGE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Events {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`TooLong`]; the stream is of no use any more.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (piece, end) = (&rest[..at], rest[at]);
            // A return and a feed are one end of a line, also when the bytes were cut between them.
            let second_half = end == b'\n' && self.after_return && piece.is_empty();
            self.after_return = end == b'\r';
            rest = &rest[at + 1..];
            if !second_half {
                self.keep(piece)?;
                self.line_ended()?;
            }
        }
        if !rest.is_empty() {
            self.after_return = false;
            self.keep(rest)?;
        }
        Ok(())
    }

    /// The next whole message.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    fn keep(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        if MESSAGE_BYTES_MAX < self.line.len() + piece.len() {
            return Err(TooLong);
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    fn line_ended(&mut self) -> Result<(), TooLong> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) && !self.data.is_empty() {
                self.ready.push_back(Bytes::from(std::mem::take(&mut self.data)));
            }
            return Ok(());
        }
        let Some(value) = line.strip_prefix(b"data").and_then(|rest| match rest {
            [] => Some(rest),
            [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
            _ => None,
        }) else {
            // Comments, names, ids and retry times say nothing that we use.
            return Ok(());
        };
        if MESSAGE_BYTES_MAX < self.data.len() + value.len() {
            return Err(TooLong);
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut events = Events::default();
        let mut found = Vec::new();
        for piece in pieces {
            events.push(piece).unwrap();
            while let Some(message) = events.pop() {
                found.push(String::from_utf8(message.to_vec()).unwrap());
            }
        }
        found
    }

    #[test]
    fn s3_1_1_events_are_the_same_however_the_bytes_are_cut() {
        let stream = b": hello\r\nid: 1\r\nevent: message\r\ndata: {\"a\":1}\r\n\r\ndata:{\"b\"\ndata: :2}\n\n\n\rdata\n\ndata: last\r\rretry: 1\n";
        let whole = read(&[stream]);
        assert_eq!(whole, ["{\"a\":1}", "{\"b\"\n:2}", "last"]);
        for size in 1..stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(read(&pieces), whole, "pieces of {size}");
        }
    }

    #[test]
    fn s3_1_1_a_message_without_end_is_refused() {
        let mut events = Events::default();
        let piece = [b'x'; 1 << 16];
        let refused = (0..=MESSAGE_BYTES_MAX / piece.len()).any(|_| events.push(&piece) == Err(TooLong));
        assert!(refused);
        let mut events = Events::default();
        let line: Vec<u8> = [b"data: ", &piece[..], b"\n"].concat();
        let refused = (0..=MESSAGE_BYTES_MAX / piece.len()).any(|_| events.push(&line) == Err(TooLong));
        assert!(refused);
    }
}
