//! An MCP door of a node, for who passes messages on to it one by one, in whichever era they are.
//!
//! Promises: a message of the modern era gets the headers that mirror it; one of an earlier era is posted in the session that its
//! `initialize` opened. Does not: change a message.

use std::cell::RefCell;
use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use super::envelope::{Kind, Message};
use super::http::HttpLink;
use super::link::{Broken, Exchange, Reply, Spoken};

/// A door, and what the client of an earlier era agreed with it.
pub struct Door {
    link: HttpLink,
    version: RefCell<Option<String>>,
}

impl Door {
    /// The door at `url`, certified by `authority` where it speaks TLS, and shown `access_token` where it wants one.
    ///
    /// # Errors
    /// What is wrong with the address or the file.
    pub fn new(url: &str, authority: Option<&Path>, access_token: Option<&str>) -> Result<Self, String> {
        let bearer = access_token.map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        Ok(Self { link: HttpLink::new(url, bearer.as_slice(), authority)?, version: RefCell::default() })
    }

    /// Sends a message and hands every message that comes back to `say`.
    ///
    /// # Errors
    /// Why no answer came.
    pub async fn pass(&self, line: &Bytes, say: &mut dyn FnMut(Bytes)) -> Result<(), String> {
        let told = |broken: Broken| broken.to_string();
        let reply = self.send(line).await.map_err(told)?;
        let mut messages = match reply {
            Reply::Whole(_, message) => {
                self.keep_version(&message);
                say(message);
                return Ok(());
            }
            Reply::Stream(messages) => messages,
        };
        while let Some(message) = messages.next().await.map_err(told)? {
            let last = Message::read(&message)?.kind() == Kind::Answer;
            say(message);
            if last {
                return Ok(());
            }
        }
        Err("the door's stream ended without an answer".to_owned())
    }

    async fn send(&self, line: &Bytes) -> Result<Reply, Broken> {
        let message: Value = serde_json::from_slice(line).map_err(|error| Broken::Unsupported(error.to_string()))?;
        let params = &message["params"];
        let modern = params["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
        if !modern {
            let version = self.version.borrow().clone();
            return self.link.post_as_is(version.as_deref(), line.clone()).await;
        }
        let method = message["method"].as_str().unwrap_or_default();
        let member = match method {
            "tools/call" | "prompts/get" => "name",
            "resources/read" => "uri",
            _ => "taskId",
        };
        let mut mirrored = Vec::new();
        // What the node's own tools mirror. Tools of servers behind it that mirror arguments refuse calls over this transport.
        for (tool, argument, header) in crate::gateway::mcp::MIRRORED {
            if params["name"] == tool
                && let Some(value) = params["arguments"][argument].as_str()
                && let Ok(header) = header.parse()
            {
                mirrored.push((header, super::http::mirrored(value)));
            }
        }
        let exchange = Exchange {
            method: method.to_owned(),
            name: params[member].as_str().map(str::to_owned),
            body: line.clone(),
            mirrored,
            session: None,
        };
        self.link.send(Spoken::Modern, &exchange).await
    }

    fn keep_version(&self, answer: &Bytes) {
        let Ok(message) = Message::read(answer) else { return };
        let Some(result) = message.result else { return };
        if let Ok(result) = serde_json::from_str::<Value>(result.get())
            && let Some(version) = result["protocolVersion"].as_str()
        {
            *self.version.borrow_mut() = Some(version.to_owned());
        }
    }
}
