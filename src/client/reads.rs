//! Reads at the age that a caller takes.
//!
//! Promises: a vertex is verified by its id, however old the replica is. Does not: choose among nodes.

use std::time::Instant;

use qmesh_net::wire::Lane;
use qmesh_storage::Record;

use super::{ClientError, Node, Repeat, aligned};
use crate::dag::archive::{Scratch, SealedVertex};
use crate::gateway::quic::wire::{FreshnessRow, OP_READ, ReadAnswer, ReadRequest, archive, unarchive};
use crate::ids::VertexId;
use crate::router::consistency::Consistency;

impl Node {
    /// Reads one vertex of which "not here" may be as old as `consistency` says.
    ///
    /// # Errors
    /// As [`Node::get`].
    pub async fn get_with(
        &self,
        id: VertexId,
        consistency: Consistency,
    ) -> Result<(Option<SealedVertex>, FreshnessRow), ClientError> {
        let request = ReadRequest { id: id.0, consistency: consistency.to_string() };
        let body = archive!(&request).map_err(|error| ClientError::Broken(error.to_string()))?;
        let deadline = Instant::now() + self.timeout;
        let answer = self.call(Lane::PointRead, OP_READ, body, Repeat::Always, deadline).await?;
        let answer =
            unarchive!(ReadAnswer, &aligned(answer)).map_err(|error| ClientError::Broken(error.to_string()))?;
        let Some(record) = answer.record else { return Ok((None, answer.freshness)) };
        let record = Record::parse(&record.into()).map_err(|error| ClientError::Broken(error.to_string()))?;
        let vertex = SealedVertex::verify_with(record, &mut Scratch::default());
        let vertex = vertex.map_err(|error| ClientError::Unverified(error.to_string()))?;
        if vertex.id() != id {
            return Err(ClientError::Unverified(format!("{} instead of {id}", vertex.id())));
        }
        Ok((Some(vertex), answer.freshness))
    }
}
