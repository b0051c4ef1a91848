//! NDJSON: a vertex a line, in the JSON form of the doors.
//!
//! Promises: an id that stands in a line must be the id of its content; an error names the line.
//! Does not: resolve git:HASH or ref:NAME, since a file means the same at every node.

use std::io::BufRead;

use serde_json::{Map, Value};

use crate::dag::archive::SealedVertex;
use crate::error::{Reason, Refusal};
use crate::gateway::json::{VertexIn, seal};
use crate::gateway::now_ms;
use crate::ids::VertexId;
use crate::limits::NDJSON_LINE_BYTES_MAX;

/// Reads vertices from lines.
pub(super) struct Reader<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, line: Vec::new(), number: 0 }
    }

    /// The next vertex; empty lines are skipped.
    pub(super) fn next(&mut self) -> Result<Option<SealedVertex>, Refusal> {
        loop {
            self.number += 1;
            let read = super::line(&mut self.input, &mut self.line, NDJSON_LINE_BYTES_MAX);
            match read.map_err(|error| self.refused(Refusal::bad_request(error.to_string())))? {
                None => return Ok(None),
                Some(()) if self.line.trim_ascii().is_empty() => {}
                Some(()) => return vertex(&self.line).map(Some).map_err(|refusal| self.refused(refusal)),
            }
        }
    }

    fn refused(&self, refusal: Refusal) -> Refusal {
        Refusal { detail: format!("line {}: {}", self.number, refusal.detail), ..refusal }
    }
}

fn vertex(line: &[u8]) -> Result<SealedVertex, Refusal> {
    let malformed = |error: serde_json::Error| Refusal::bad_request(error.to_string());
    let mut fields: Map<String, Value> = serde_json::from_slice(line).map_err(malformed)?;
    let claimed = fields.remove("id");
    // What else the printed form says of the id.
    fields.remove("hex");
    let described: VertexIn = serde_json::from_value(Value::Object(fields)).map_err(malformed)?;
    let id = |text: &str| text.parse::<VertexId>().map_err(|error| Refusal::bad_request(format!("{text}: {error}")));
    let parents = described.parents.iter().map(|parent| id(parent)).collect::<Result<_, _>>()?;
    let sealed = seal(described, parents, now_ms())?;
    if let Some(claimed) = claimed {
        let claimed = id(claimed.as_str().unwrap_or_default())?;
        if claimed != sealed.id() {
            let detail = format!("the content has the id {}, not {claimed}", sealed.id());
            return Err(Refusal::new(Reason::Unverified, detail));
        }
    }
    Ok(sealed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;
    use crate::dag::signature::{Algorithm, SigningKey};
    use crate::dag::vertex::Vertex;
    use crate::gateway::json::vertex_into;

    #[test]
    fn s1_1_8_ndjson_keeps_vertices_and_their_signatures() {
        let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
        let mut file = Vec::new();
        let mut vertices = Vec::new();
        for payload in [&b"text"[..], b"\x00\xff", b""] {
            let vertex = Vertex {
                namespace: "n".to_owned(),
                kind: "k".to_owned(),
                author: None,
                timestamp_ms: 5,
                parents: vertices.iter().map(SealedVertex::id).collect(),
                labels: [("a".to_owned(), "b".to_owned())].into(),
                payload: payload.to_vec(),
            };
            let sealed = SealedVertex::seal(&vertex, Some(key.sign(&vertex.id()).unwrap())).unwrap();
            vertex_into(&sealed, &mut file);
            file.extend_from_slice(b"\n\n");
            vertices.push(sealed);
        }
        let mut reader = Reader::new(&file[..]);
        for vertex in &vertices {
            assert_eq!(reader.next().unwrap().as_ref(), Some(vertex));
        }
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn s1_1_8_ndjson_that_lies_is_refused_with_its_line() {
        let check = |text: &str, reason: Reason, part: &str| {
            let refusal = Reader::new(format!("\n{text}\n").as_bytes()).next().unwrap_err();
            assert!(refusal.detail.starts_with("line 2: "), "{}", refusal.detail);
            assert!(refusal.detail.contains(part), "{text}: {}", refusal.detail);
            assert_eq!(refusal.reason, reason);
        };
        check("{", Reason::BadRequest, "EOF");
        check("[]", Reason::BadRequest, "map");
        check(r#"{"kind":"a","parents":["ref:main"]}"#, Reason::BadRequest, "ref:main");
        let id = VertexId([1; 32]);
        check(&format!(r#"{{"id":"{id}","kind":"a"}}"#), Reason::Unverified, "not bafyr");
        let long = " ".repeat(NDJSON_LINE_BYTES_MAX + 1);
        check(&long, Reason::BadRequest, "more than");
    }
}
