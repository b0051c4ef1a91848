//! A stream of vertices in, a stream of results out.
//!
//! Promises: a result comes back for every line, in the order of the lines, while later lines are still being sent; a line
//! that is wrong costs that line alone; what is held is bounded whatever the length of the stream. A vertex may name an earlier
//! line as its parent. Does not: put all or nothing.

use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::poll;

use super::Problem;
use super::Response;
use super::answer::Lines;
use super::body::{Gone, Reader};
use super::problem::document_of;
use super::route::Call;
use super::vertices::{from_json, is_archive, put_options, receipt_json, verify_one};
use crate::dag::archive::SealedVertex;
use crate::error::Refusal;
use crate::limits::{HTTP_BODY_BYTES_MAX, NDJSON_LINE_BYTES_MAX, PUT_BATCH_MAX};
use crate::router::{PutOptions, Router};

/// Vertices that are put together.
const GROUP_VERTICES_MAX: usize = 512;
/// Bytes of them after which they are put, full or not.
const GROUP_BYTES_MAX: usize = 2 << 20;
const _: () = assert!(GROUP_VERTICES_MAX <= PUT_BATCH_MAX);
const _: () =
    assert!(crate::dag::RECORD_BYTES_MAX <= NDJSON_LINE_BYTES_MAX && NDJSON_LINE_BYTES_MAX <= HTTP_BODY_BYTES_MAX);

pub(super) fn put(call: Call) -> Result<Response, Problem> {
    let options = put_options(&call)?;
    let form = if is_archive(&call)? { Form::Records } else { Form::Lines };
    let (lines, response) = Lines::new();
    let batch = Batch { router: call.context.router, options, form, lines, group: Vec::new(), group_bytes: 0, line: 0 };
    crate::runtime::spawn(async move {
        // A client that went away has what was put before; it may send the same again.
        let (Ok(()) | Err(Gone)) = batch.run(call.body).await;
    });
    Ok(response)
}

/// What the stream is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A JSON document a line.
    Lines,
    /// Records, one behind the other.
    Records,
}

struct Batch {
    router: Router,
    options: PutOptions,
    form: Form,
    lines: Lines,
    /// What was read and is not yet put, with the number of its line.
    group: Vec<(u64, Result<SealedVertex, Refusal>)>,
    group_bytes: usize,
    line: u64,
}

impl Batch {
    async fn run(mut self, mut reader: Reader) -> Result<(), Gone> {
        let (mut held, mut searched) = (BytesMut::new(), 0);
        loop {
            let piece = {
                let mut next = std::pin::pin!(reader.next());
                match poll!(&mut next) {
                    Poll::Ready(piece) => piece,
                    // The client pauses: what it has sent is answered now.
                    Poll::Pending => {
                        self.put_group().await?;
                        self.lines.flush().await?;
                        next.await
                    }
                }
            };
            match piece {
                Ok(Some(piece)) => held.extend_from_slice(&piece),
                Ok(None) => break,
                Err(refusal) => return self.fail(&refusal).await,
            }
            loop {
                match cut(self.form, &mut held, &mut searched) {
                    Ok(Some(unit)) => self.take(unit).await?,
                    Ok(None) => break,
                    Err(refusal) => {
                        reader.discard();
                        return self.fail(&refusal).await;
                    }
                }
            }
        }
        if !held.is_empty() {
            match self.form {
                Form::Lines => self.take(held.split().freeze()).await?,
                Form::Records => {
                    let detail = format!("the stream ends within a record, {} bytes into it", held.len());
                    return self.fail(&Refusal::bad_request(detail)).await;
                }
            }
        }
        self.put_group().await?;
        self.lines.flush().await
    }

    /// Reads one line or record into the group.
    async fn take(&mut self, unit: Bytes) -> Result<(), Gone> {
        self.line += 1;
        if unit.trim_ascii().is_empty() {
            return Ok(());
        }
        let vertex = match self.form {
            Form::Lines => from_json(&self.router, &unit).await,
            Form::Records => verify_one(&unit),
        };
        self.group.push((self.line, vertex));
        self.group_bytes += unit.len();
        if GROUP_VERTICES_MAX <= self.group.len() || GROUP_BYTES_MAX <= self.group_bytes {
            self.put_group().await?;
        }
        Ok(())
    }

    /// Makes the group durable and writes its results.
    async fn put_group(&mut self) -> Result<(), Gone> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        if group.is_empty() {
            return Ok(());
        }
        let vertices: Vec<SealedVertex> = group.iter().filter_map(|(_, vertex)| vertex.clone().ok()).collect();
        let mut outcomes = self.router.put_all(vertices, self.options).await.into_iter();
        for (line, vertex) in &group {
            let outcome = match vertex {
                Err(refusal) => Err(refusal.clone()),
                Ok(vertex) => match outcomes.next() {
                    Some(Ok(receipt)) => Ok(receipt_json(&self.router, vertex, receipt)),
                    Some(Err(refusal)) => Err(refusal),
                    None => Err(Refusal::new(crate::error::Reason::Internal, "the put was not answered")),
                },
            };
            let mut result = match outcome {
                Ok(receipt) => receipt,
                Err(refusal) => serde_json::json!({ "error": document_of(&refusal) }),
            };
            result["line"] = (*line).into();
            self.lines.line(&result);
            self.lines.breathe().await?;
        }
        Ok(())
    }

    /// Answers what came before, and then why it stopped.
    async fn fail(mut self, refusal: &Refusal) -> Result<(), Gone> {
        self.put_group().await?;
        self.lines.fail(refusal).await
    }
}

/// The next whole line or record of what is held; `None` when more must come. `searched` bytes of it have no end of a line, so
/// that a long line is searched once, however many pieces it comes in.
fn cut(form: Form, held: &mut BytesMut, searched: &mut usize) -> Result<Option<Bytes>, Refusal> {
    match form {
        Form::Lines => {
            let end = held[*searched..].iter().position(|&byte| byte == b'\n').map(|end| *searched + end);
            let length = end.unwrap_or(held.len());
            *searched = if end.is_some() { 0 } else { length };
            if NDJSON_LINE_BYTES_MAX < length {
                return Err(Refusal::limit("a line of a batch", length, NDJSON_LINE_BYTES_MAX, "bytes"));
            }
            Ok(end.map(|end| {
                let line = held.split_to(end).freeze();
                held.advance(1);
                line
            }))
        }
        Form::Records => {
            if held.len() < crate::dag::record::RECORD_HEADER_BYTES {
                return Ok(None);
            }
            let length = crate::dag::record::length(held).map_err(|error| Refusal::bad_request(error.to_string()))?;
            Ok((length <= held.len()).then(|| held.split_to(length).freeze()))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::*;
    use crate::dag::vertex::Vertex;
    use crate::error::Reason;

    #[test]
    fn s3_2_11_lines_are_cut_wherever_the_pieces_end() {
        let text = b"{}\n\n  \n{\"a\":1}\nrest";
        for piece_bytes in 1..text.len() {
            let (mut held, mut searched) = (BytesMut::new(), 0);
            let mut lines = Vec::new();
            for piece in text.chunks(piece_bytes) {
                held.extend_from_slice(piece);
                while let Some(line) = cut(Form::Lines, &mut held, &mut searched).unwrap() {
                    lines.push(line);
                }
            }
            assert_eq!(lines, [&b"{}"[..], b"", b"  ", b"{\"a\":1}"], "pieces of {piece_bytes}");
            assert_eq!(&held[..], b"rest");
        }
    }

    #[test]
    fn s3_2_11_a_line_without_end_is_refused_at_its_bound() {
        let mut held = BytesMut::from(&vec![b'x'; NDJSON_LINE_BYTES_MAX][..]);
        let mut searched = 0;
        assert_eq!(cut(Form::Lines, &mut held, &mut searched), Ok(None));
        held.extend_from_slice(b"y");
        assert_eq!(cut(Form::Lines, &mut held, &mut searched).unwrap_err().reason, Reason::LimitExceeded);
        held.extend_from_slice(b"\n");
        assert_eq!(cut(Form::Lines, &mut held, &mut 0).unwrap_err().reason, Reason::LimitExceeded);
    }

    #[test]
    fn s3_2_11_records_are_cut_where_they_end_and_strange_bytes_refused() {
        let vertex = Vertex {
            namespace: "default".to_owned(),
            kind: "note".to_owned(),
            author: None,
            timestamp_ms: 1,
            parents: Vec::new(),
            labels: Default::default(),
            payload: vec![7; 1000],
        };
        let sealed = SealedVertex::seal(&vertex, None).unwrap();
        let record = sealed.record().bytes();
        let mut held = BytesMut::new();
        held.extend_from_slice(record);
        held.extend_from_slice(&record[..100]);
        let first = cut(Form::Records, &mut held, &mut 0).unwrap().unwrap();
        assert_eq!(verify_one(&first).unwrap(), sealed);
        assert_eq!(cut(Form::Records, &mut held, &mut 0), Ok(None));
        let mut strange = BytesMut::from(&[0xff; 128][..]);
        assert_eq!(cut(Form::Records, &mut strange, &mut 0).unwrap_err().reason, Reason::BadRequest);
    }
}
