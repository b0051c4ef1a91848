//! The door for strangers with a token: hands what they bring to the core that has the control plane.
//!
//! Promises: nothing a stranger sends is looked at here but its length, which the endpoint has bounded.
//! Does not: decide.

use std::sync::Arc;

use qmesh_net::rpc::server::{Handler, Replies, Request};
use tokio::sync::oneshot;

use crate::error::{Reason, Refusal};
use crate::ids::ShardId;
use crate::router::Shared;
use crate::router::message::Message;
use crate::router::peers::OP_JOIN;

/// The door of one core.
pub(super) struct JoinDoor {
    /// What every core knows.
    pub(super) shared: Arc<Shared>,
}

impl Handler for JoinDoor {
    fn requests(&self, batch: Vec<Request>, replies: &Replies) {
        for request in batch {
            let (reply, answer) = oneshot::channel();
            let message = Message::Mesh { operation: OP_JOIN, shard: ShardId::CONTROL, body: request.body, reply };
            // A full inbox drops the message and with it the reply, which is answered below.
            drop(self.shared.inboxes[0].push(message));
            let (id, replies) = (request.id, replies.clone());
            crate::runtime::spawn(async move {
                let busy = || Err(Refusal::new(Reason::Unavailable, "the node is busy or shutting down; try again"));
                match answer.await.unwrap_or_else(|_| busy()) {
                    Ok(body) => replies.answer(id, 0, body),
                    Err(refusal) => {
                        tracing::warn!(peer = %replies.peer(), reason = %refusal.detail, "joiner refused");
                        replies.answer(id, refusal.reason.wire(), refusal.detail.into_bytes().into());
                    }
                }
            });
        }
    }
}
