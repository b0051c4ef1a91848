//! What a node, or a person at a node, asks of the control plane, and what it answers: JSON, because it is rare and a person may
//! have to read it.
//!
//! Promises: an ask that is not of this form is refused with the field that is wrong. Does not: travel.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Action, Addresses, Command, Name, Outcome, Roles};
use crate::error::{Reason, Refusal};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Carry out a command, or tell what it would do.
    Command {
        /// The command.
        command: Box<Command>,
        /// Only tell.
        dry_run: bool,
    },
    /// A token with which one node can join.
    IssueToken {
        /// What the node will be.
        roles: Roles,
        /// Where it will stand.
        region: Name,
        /// For how long it can be used, in milliseconds.
        life_ms: u64,
    },
    /// The next certificate of a node.
    Renew {
        /// The node.
        node: u64,
        /// Its signing request (PKCS #10, DER).
        request: Vec<u8>,
    },
    /// The state as the control plane's primary has it.
    State,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// Of a command.
    Outcome {
        /// What became of it.
        outcome: Outcome,
        /// With a dry run: what would change, a line each.
        differences: Vec<String>,
    },
    /// Of a token's issue.
    Token {
        /// The token; it holds a secret.
        token: String,
        /// Until when it can be used, in milliseconds since 1970-01-01 UTC.
        expires_ms: u64,
    },
    /// Of a renewal: the leaf and its authority (DER).
    Chain {
        /// The certificates.
        chain: Vec<Vec<u8>>,
    },
    /// The state, as [`super::wire::encode_state`] writes it.
    State {
        /// Its bytes.
        state: Vec<u8>,
    },
}

/// What a joiner says of itself beside its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinerSays {
    /// What it wants to be called.
    pub name: Name,
    /// Where it will be reached.
    pub addresses: Addresses,
}

/// What a joiner is told beside its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinerTold {
    /// Its number.
    pub node: u64,
    /// The cluster, in hexadecimal.
    pub cluster: String,
    /// What people call the cluster.
    pub cluster_name: String,
    /// The trust domain.
    pub domain: String,
    /// Its region.
    pub region: String,
    /// Its roles, as comma words.
    pub roles: String,
    /// Slots of the cluster.
    pub slots: u16,
    /// Shards of the cluster.
    pub shards: u16,
    /// Where members with the role control are reached.
    pub contacts: Vec<String>,
    /// The authority's key (PKCS #8, PEM), for a node with the role control: it may have to sign.
    pub authority_key: Option<String>,
}

impl Ask {
    /// A command that is not tried only.
    pub fn command(request: [u8; 16], now_ms: u64, action: Action) -> Self {
        let command = Command { request: super::RequestId(request), now_ms, action };
        Self::Command { command: Box::new(command), dry_run: false }
    }

    /// The ask as bytes.
    ///
    /// # Errors
    /// Internal.
    pub fn encode(&self) -> Result<Bytes, Refusal> {
        to_json(self)
    }

    /// Reads an ask.
    ///
    /// # Errors
    /// BadRequest.
    pub fn parse(json: &[u8]) -> Result<Self, Refusal> {
        from_json("a question to the control plane", json)
    }
}

impl Answer {
    /// The answer as bytes.
    ///
    /// # Errors
    /// Internal.
    pub fn encode(&self) -> Result<Bytes, Refusal> {
        to_json(self)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// BadRequest.
    pub fn parse(json: &[u8]) -> Result<Self, Refusal> {
        from_json("an answer of the control plane", json)
    }
}

/// JSON of a value.
///
/// # Errors
/// Internal.
pub fn to_json(value: &impl Serialize) -> Result<Bytes, Refusal> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Refusal::new(Reason::Internal, error.to_string()))
}

/// A value from JSON.
///
/// # Errors
/// BadRequest, with `what` and the place.
pub fn from_json<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(json).map_err(|error| Refusal::bad_request(format!("{what}: {error}")))
}
