//! A real node that targets throw things at, and the question whether it is still well.
//!
//! Promises: a node that died, panicked anywhere, or does not keep what it acknowledged fails the target; so does one that does
//! not end by itself, or whose log is not whole afterwards.

use std::process::Command;

use serde_json::json;

use super::house::{Node, QMESH};
use super::http::{Connection, request};

pub(crate) struct Stand {
    pub(crate) node: Node,
    puts: u64,
}

impl Stand {
    pub(crate) fn new() -> Self {
        Self { node: Node::start(), puts: 0 }
    }

    /// Puts a vertex that never was and reads it back, over a connection of its own.
    pub(crate) fn is_well(&mut self) {
        assert_eq!(self.node.panics(), [""; 0], "the node panicked");
        self.puts += 1;
        let payload = format!("still well {}", self.puts);
        let vertex = json!({ "kind": "note", "namespace": "well", "timestamp_ms": self.puts, "payload": payload });
        let mut connection = Connection::open(self.node.http());
        let put = self.ask(&mut connection, "POST", "/api/v1/dag/vertices", vertex.to_string().as_bytes());
        assert_eq!(put.0, 201, "{}", put.1);
        let id = put.1["id"].as_str().expect("an id").to_owned();
        let got = self.ask(&mut connection, "GET", &format!("/api/v1/dag/vertices/{id}"), b"");
        assert_eq!((got.0, &got.1["payload"]), (200, &json!(payload)));
    }

    fn ask(&self, connection: &mut Connection, method: &str, target: &str, body: &[u8]) -> (u16, serde_json::Value) {
        let headers = [("Host", self.node.http().to_string()), ("Content-Length", body.len().to_string())];
        connection.send(&request(method, target, &headers.map(|(name, value)| (name.to_owned(), value)), body));
        let answer = connection.answer(method).expect("an answer");
        (answer.status, serde_json::from_slice(&answer.body).expect("JSON"))
    }

    /// Ends the node and looks at what it left.
    pub(crate) fn end(mut self) {
        self.is_well();
        let data = self.node.data().to_owned();
        // Kept until the log was looked at.
        let folder = self.node.keep_folder();
        assert_eq!(self.node.stop(), Some(0));
        let inspected = Command::new(QMESH).args(["inspect", "integrity"]).arg(&data).output().unwrap();
        assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stdout));
        drop(folder);
    }
}
