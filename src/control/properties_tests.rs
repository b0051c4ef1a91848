//! Any sequence of commands keeps what the state promises.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::scene_tests::{HOUR_MS, Scene, addresses, bootstrap, name, nodes, serial, token};
use crate::control::{
    Action, CertificateFact, Change, Command, Group, GroupConfig, MemberState, Role, Roles, State, placement, preview,
    wire,
};
use crate::ids::{LogIndex, NodeId, ShardId};

/// What is drawn: an action, how long after the last it is proposed, and whether an earlier command is repeated instead.
#[derive(Clone, Debug)]
struct Draw {
    action: Action,
    later_ms: u64,
    repeat: Option<prop::sample::Index>,
}

fn node() -> impl Strategy<Value = NodeId> {
    (0..12u64).prop_map(NodeId)
}

fn roles() -> impl Strategy<Value = Roles> {
    prop_oneof![
        4 => Just(Roles::all()),
        1 => Just([Role::Storage].into_iter().collect()),
        1 => Just([Role::Control].into_iter().collect()),
        1 => Just(Roles::default()),
    ]
}

fn group() -> impl Strategy<Value = Group> {
    prop_oneof![Just(Group::Control), (0..5u16).prop_map(|shard| Group::Shard(ShardId(shard)))]
}

/// Ends are drawn relative to the start of the scene, so that some are past.
fn certificate() -> impl Strategy<Value = CertificateFact> {
    (0..24u64, 1..2000u64).prop_map(|(number, hours)| CertificateFact {
        serial: serial(number),
        expires_ms: super::scene_tests::NOW_MS + hours * HOUR_MS,
    })
}

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        1 => (0..7u8).prop_map(|factor| Action::Bootstrap(bootstrap(factor))),
        6 => (0..16u8, roles(), 1..200u64).prop_map(|(number, roles, hours)| Action::IssueToken {
            token: token(number),
            secret_hash: [number; 32],
            roles,
            region: name("eu"),
            expires_ms: super::scene_tests::NOW_MS + hours * HOUR_MS,
        }),
        1 => (0..16u8).prop_map(|number| Action::WithdrawToken { token: token(number) }),
        6 => (0..16u8, 0..3u8, 0..10u8).prop_map(|(number, key, called)| Action::RedeemToken {
            token: token(number),
            secret_hash: [number; 32],
            csr_digest: [key; 32],
            name: name(&format!("n{called}")),
            addresses: addresses(&format!("n{called}")),
        }),
        6 => (node(), 0..4u8).prop_map(|(node, host)| Action::MemberUpdate { node, addresses: addresses(&format!("h{host}")) }),
        6 => (node(), certificate()).prop_map(|(node, certificate)| Action::CertificateIssued { node, certificate }),
        2 => (node(), 0..24u64, certificate())
            .prop_map(|(node, from, certificate)| Action::Renew { node, replaces: serial(from), certificate }),
        3 => node().prop_map(|node| Action::AskRenewal { node }),
        1 => (0..24u64).prop_map(|number| Action::Revoke { serial: serial(number) }),
        3 => node().prop_map(|node| Action::Drain { node }),
        2 => node().prop_map(|node| Action::Undrain { node }),
        3 => (node(), any::<bool>()).prop_map(|(node, force)| Action::Remove { node, force }),
        2 => (0..7u8, any::<bool>()).prop_map(|(factor, pair_votes)| Action::SetReplication { factor, pair_votes }),
        2 => (0..5u16, node()).prop_map(|(shard, node)| Action::Promote { shard: ShardId(shard), node }),
        4 => (group(), prop::collection::vec(0..3u8, 9), 0..40u64).prop_map(|(group, parts, at)| {
            let of = |wanted: u8| {
                (1..=9u64).zip(parts.clone()).filter(move |(_, part)| *part == wanted).map(|(node, _)| NodeId(node))
            };
            Action::Report { group, config: GroupConfig::new(of(1), of(2)), at: LogIndex(at) }
        }),
    ]
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let later = prop_oneof![3 => Just(0), 3 => 0..HOUR_MS, 1 => 0..100 * HOUR_MS];
    let repeat = prop::option::weighted(0.1, any::<prop::sample::Index>());
    let draw = (actions(), later, repeat).prop_map(|(action, later_ms, repeat)| Draw { action, later_ms, repeat });
    prop::collection::vec(draw, 0..120)
}

/// The commands of a drawn history; the first usually forms a cluster, so that the others mean something.
fn commands(draws: &[Draw]) -> Vec<Command> {
    let mut scene = Scene::empty();
    let mut commands = vec![scene.command(Action::Bootstrap(bootstrap(3)))];
    for draw in draws {
        scene.now_ms += draw.later_ms;
        let command = match &draw.repeat {
            Some(index) => Command { now_ms: scene.now_ms, ..index.get(&commands).clone() },
            None => scene.command(draw.action.clone()),
        };
        commands.push(command);
    }
    commands
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s1_1_2_any_commands_keep_what_the_state_promises(draws in draws()) {
        let mut state = State::default();
        let mut given: BTreeSet<NodeId> = BTreeSet::new();
        let mut used: BTreeMap<([u8; 16], [u8; 32]), NodeId> = BTreeMap::new();
        for (at, command) in commands(&draws).iter().enumerate() {
            let before = state.clone();
            let seen = preview(&state, command);
            let outcome = state.apply(LogIndex(at as u64 + 1), command);
            prop_assert_eq!(&seen.outcome, &outcome);
            prop_assert_eq!(state.check(), Ok(()));
            if outcome.is_err() {
                prop_assert_eq!(state.cluster(), before.cluster());
            }
            let Some(cluster) = state.cluster() else { continue };

            // The epoch never goes back, and grows by one when a router could see a difference.
            let grew = cluster.epoch().0 - before.epoch().0;
            prop_assert!(grew <= 1);
            if let Some(earlier) = before.cluster() {
                let visible = |of: &crate::control::Cluster| {
                    let members: Vec<_> = of.members().map(|(node, member)| (node, member.state, member.addresses.clone())).collect();
                    let wishes: Vec<_> = of.groups().map(|group| of.wished(group).cloned()).collect();
                    (members, wishes, of.policy())
                };
                prop_assert_eq!(grew == 1, visible(earlier) != visible(cluster));
            }

            // An id is given once, a token used by one.
            for (node, _) in cluster.members() {
                let known = before.cluster().is_some_and(|before| before.member(node).is_some());
                prop_assert!(known || given.insert(node), "{node} was given twice");
            }
            if let (Action::RedeemToken { token, csr_digest, .. }, Ok(accepted)) = (&command.action, &outcome)
                && let Change::Redeemed { node, .. } = accepted.change
            {
                let user = *used.entry((token.0, *csr_digest)).or_insert(node);
                let fresh = cluster.members().any(|(known, _)| known == node);
                prop_assert!(user == node || fresh);
                let others = used.iter().filter(|((id, digest), user)| *id == token.0 && digest != csr_digest && **user == node);
                prop_assert_eq!(others.count(), 0, "one use, two keys");
            }

            // Votes: odd but for a pair, on members that may, and the placement is its own answer.
            for group in cluster.groups() {
                let wish = cluster.wished(group).expect("every group has a wish");
                let role = if group == Group::Control { Role::Control } else { Role::Storage };
                let votes = wish.config.voters.len();
                prop_assert!(votes % 2 == 1 || (votes == 2 && cluster.policy().pair_votes && group != Group::Control));
                prop_assert!(wish.primary.is_some_and(|node| wish.config.voters.contains(&node)));
                for node in wish.config.nodes() {
                    let member = cluster.member(node).expect("a copy is on a member");
                    // Every member may follow the control group; what else has a copy has the role for it.
                    let follows = group == Group::Control && wish.config.learners.contains(&node);
                    prop_assert!(follows || member.roles.has(role));
                    prop_assert!(matches!(member.state, MemberState::Active | MemberState::Draining));
                }
            }
            for (group, wish) in placement(&state) {
                prop_assert_eq!(cluster.wished(group), Some(&wish));
            }
        }
    }

    #[test]
    fn s1_1_2_the_same_commands_give_the_same_state_also_over_a_snapshot(draws in draws(), cut in any::<prop::sample::Index>()) {
        let commands = commands(&draws);
        let cut = cut.index(commands.len());
        let (mut whole, mut parts) = (State::default(), State::default());
        for (at, command) in commands.iter().enumerate() {
            let index = LogIndex(at as u64 + 1);
            let read = wire::decode_command(&wire::encode_command(command));
            prop_assert_eq!(read.as_ref(), Ok(command));
            if at == cut {
                parts = wire::decode_state(&wire::encode_state(&parts)).expect("a state reads back");
            }
            let outcome = whole.apply(index, command);
            prop_assert_eq!(&parts.apply(index, command), &outcome);
            prop_assert_eq!(wire::decode_outcome(&wire::encode_outcome(&outcome)), Ok(outcome));
        }
        prop_assert_eq!(&whole, &parts);
        let bytes = wire::encode_state(&whole);
        prop_assert_eq!(&wire::encode_state(&parts), &bytes);
        prop_assert_eq!(wire::decode_state(&bytes), Ok(whole));
    }

    #[test]
    fn s1_2_9_a_removal_always_leaves_a_majority_of_what_stands(draws in draws()) {
        let mut state = State::default();
        for (at, command) in commands(&draws).iter().enumerate() {
            let outcome = state.apply(LogIndex(at as u64 + 1), command);
            let Some(cluster) = state.cluster() else { continue };
            if let (Action::Remove { node, .. }, Ok(accepted)) = (&command.action, &outcome)
                && matches!(accepted.change, Change::Removed { .. })
            {
                for group in cluster.groups() {
                    let standing = &cluster.standing(group).expect("every group stands").config;
                    let here = |node: &&NodeId| cluster.member(**node).is_some_and(|member| !member.state.is_removed());
                    let left = standing.voters.iter().filter(here).count();
                    let touched = nodes(&[node.0]).iter().any(|node| standing.voters.contains(node));
                    let repeated = cluster.member(*node).is_none();
                    prop_assert!(!touched || repeated || standing.majority() <= left || standing.voters.len() == left);
                }
            }
        }
    }
}
