//! Questions about the MCP servers behind a node.

use std::time::Instant;

use bytes::Bytes;
use qmesh_net::wire::Lane;

use super::{ClientError, Node, Repeat};
use crate::gateway::quic::wire::OP_UPSTREAMS;
use crate::gateway::upstream::BreakerReset;

impl Node {
    /// What the node knows of the MCP servers behind it.
    ///
    /// # Errors
    /// What kept the request from being answered.
    pub async fn upstreams(&self) -> Result<serde_json::Value, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let body = self.call(Lane::PointRead, OP_UPSTREAMS, Bytes::new(), Repeat::Always, deadline).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Closes breakers of an MCP server behind the node.
    ///
    /// # Errors
    /// What kept the request from being answered.
    pub async fn reset_breakers(&self, wanted: &BreakerReset) -> Result<serde_json::Value, ClientError> {
        let asked = serde_json::to_vec(wanted).map_err(|error| ClientError::Broken(error.to_string()))?;
        let deadline = Instant::now() + self.timeout;
        let body = self.call(Lane::Control, OP_UPSTREAMS, asked.into(), Repeat::Always, deadline).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Broken(error.to_string()))
    }
}
