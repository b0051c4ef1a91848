//! Brings the groups of a core to what the control plane wishes: only a group's own primary acts, one step at a time.
//!
//! Promises: asks the group for nothing that [`next_membership_step`] would not; reports what stands when it differs from what the
//! control plane believes. Does not: appoint; an office is handed over by its holder.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::control::{
    Action, Group as GroupName, GroupConfig, Progress, State, Step, next_membership_step, next_transfer,
};
use crate::ids::{LogIndex, NodeId, ShardId};
use crate::shard::raft::{Group, GroupView};

/// Time between two looks at a group whose wish is not reached.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Time that a node gets to take an office that was handed to it, before it is handed anew.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(2);
/// Entries that a replica may be behind and still count as caught up.
const CAUGHT_UP_ENTRIES: u64 = 256;

/// How a report reaches the control plane.
pub type Report = Rc<dyn Fn(Action) -> std::pin::Pin<Box<dyn Future<Output = bool>>>>;

/// Follows one group for ever.
pub async fn reconcile(group: Rc<Group>, states: watch::Receiver<Arc<State>>, report: Report) {
    let name = if group.shard() == ShardId::CONTROL { GroupName::Control } else { GroupName::Shard(group.shard()) };
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if !group.is_ready_primary() {
            continue;
        }
        let state = states.borrow().clone();
        let Some(cluster) = state.cluster() else { continue };
        let Some(wished) = cluster.wished(name) else { continue };
        let view = group.view();
        let current = config(&view);
        let mut progress = progress(&view, &current, &wished.config);
        // Who was removed is believed no more, whatever it answered a moment ago: a majority that needs it would never be one.
        let is_removed = |node: NodeId| cluster.member(node).is_none_or(|member| member.state.is_removed());
        progress.live.retain(|&node| node.0 == view.node || !is_removed(node));
        if let Some(at) = view.membership_at
            && cluster.standing(name).is_none_or(|standing| standing.config != current)
            && !view.is_joint
        {
            let action = Action::Report { group: name, config: current.clone(), at: LogIndex(at) };
            if !report(action).await {
                tracing::debug!(shard = view.shard, "the control plane did not take a report; it is told again");
            }
        }
        let step = next_membership_step(&current, &wished.config, &progress);
        let done = match step {
            None => match next_transfer(&current, wished, &progress) {
                None => continue,
                Some(to) => hand_over(&group, to).await,
            },
            Some(Step::AddLearner(node)) => group.add_learner(node).await,
            Some(Step::Promote { voters }) => group.set_voters(numbers(&voters), true).await,
            Some(Step::DemoteVoter(node)) => {
                let mut voters = current.voters.clone();
                voters.remove(&node);
                group.set_voters(numbers(&voters), true).await
            }
            Some(Step::RemoveLearner(node)) => group.remove_learner(node).await,
            Some(Step::TransferLeadership { to }) => hand_over(&group, to).await,
        };
        match done {
            Ok(()) => {
                tracing::info!(shard = view.shard, ?current, wished = ?wished.config, "a step towards the wished members")
            }
            Err(error) => tracing::debug!(shard = view.shard, error, "a step towards the wished members was not taken"),
        }
    }
}

/// Hands the office over and gives the other time to take it.
async fn hand_over(group: &Group, to: NodeId) -> Result<(), String> {
    let done = group.transfer(to).await;
    tokio::time::sleep(HAND_OVER_PAUSE).await;
    done
}

fn config(view: &GroupView) -> GroupConfig {
    GroupConfig::new(view.voters.iter().map(|&node| NodeId(node)), view.learners.iter().map(|&node| NodeId(node)))
}

fn progress(view: &GroupView, current: &GroupConfig, wished: &GroupConfig) -> Progress {
    let caught_up = view.matched.iter().filter(|(_, matched)| view.last <= **matched + CAUGHT_UP_ENTRIES);
    let own = NodeId(view.node);
    let mut live: BTreeSet<NodeId> = view.live.iter().map(|&node| NodeId(node)).collect();
    live.insert(own);
    // A node that is to be added is not asked yet whether it lives: adding it is how one finds out.
    let absent = |node: &NodeId| !current.nodes().any(|present| present == *node);
    live.extend(wished.nodes().filter(absent));
    let mut caught_up: BTreeSet<NodeId> = caught_up.map(|(&node, _)| NodeId(node)).collect();
    caught_up.insert(own);
    Progress { leader: view.primary.map(NodeId), live, caught_up }
}

fn numbers(nodes: &BTreeSet<NodeId>) -> BTreeSet<u64> {
    nodes.iter().map(|node| node.0).collect()
}
