//! The answering side of consensus: what another replica asks of this one.
//!
//! Promises: a request that cannot be read is refused and changes nothing; entries that this replica's disk has no room for are
//! refused before openraft sees them, so that a full disk is an answer and not the end of the group.
//! Does not: know who asks; the door of the mesh has checked that.

use bytes::Bytes;
use openraft::raft::TransferLeaderError;
use qmesh_storage::AppendError;

use super::{Group, wire};
use crate::error::{Reason, Refusal};
use crate::router::peers::{OP_RAFT_APPEND, OP_RAFT_PRE_VOTE, OP_RAFT_TRANSFER, OP_RAFT_VOTE};

impl Group {
    /// Answers a request of another replica.
    ///
    /// # Errors
    /// BadRequest, DiskFull, Overloaded; Unavailable when the group has ended.
    pub async fn serve(&self, operation: u16, body: &Bytes) -> Result<Bytes, Refusal> {
        match operation {
            OP_RAFT_APPEND => self.serve_append(body).await,
            OP_RAFT_VOTE => {
                let answer = self.raft.vote(wire::parse_vote(body)?).await;
                answer.map(|answer| wire::vote_answer(&answer)).map_err(ended)
            }
            OP_RAFT_PRE_VOTE => {
                let answer = self.raft.pre_vote(wire::parse_vote(body)?).await;
                answer.map(|answer| wire::vote_answer(&answer)).map_err(ended)
            }
            OP_RAFT_TRANSFER => {
                let answer = self.raft.handle_transfer_leader(wire::parse_transfer(body)?).await;
                let outcome = match answer.map_err(ended)? {
                    Ok(()) => 0,
                    Err(TransferLeaderError::VoteChanged { .. }) => 1,
                    Err(TransferLeaderError::LogNotFlushed { .. }) => 2,
                };
                Ok(wire::transfer_answer(outcome))
            }
            other => Err(Refusal::bad_request(format!("no operation {other:#06x} between replicas"))),
        }
    }

    async fn serve_append(&self, body: &Bytes) -> Result<Bytes, Refusal> {
        // A body that is kept as entries must not keep its neighbours in the buffer that it came in.
        let request = wire::parse_append(body)?;
        self.office.claimed(wire::stamp(body)?, &request);
        if !request.entries.is_empty() {
            self.store.has_room(body.len()).map_err(|error| match error {
                AppendError::DiskFull => Refusal::new(Reason::DiskFull, "the replica's disk is full"),
                AppendError::Busy { retry_after_ms } => {
                    Refusal { retry_after_ms, ..Refusal::overloaded("the replica's queue of bytes not yet written") }
                }
                error => Refusal::new(Reason::Unavailable, error.to_string()),
            })?;
        }
        let answer = self.raft.append_entries(request).await;
        answer.map(|answer| wire::append_answer(&answer, self.office.stamp())).map_err(ended)
    }
}

fn ended(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::Unavailable, format!("the replica has ended: {error}"))
}

impl From<wire::Malformed> for Refusal {
    fn from(error: wire::Malformed) -> Self {
        Self::bad_request(error.to_string())
    }
}
