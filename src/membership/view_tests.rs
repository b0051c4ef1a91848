//! The steering table: what counts, what changes, who gets how much.

use crate::ids::NodeId;
use crate::membership::{
    Change, Health, LOAD_STALE_MS, Life, Load, Sign, View, WEIGHT_FULL, WEIGHT_LEAST, WEIGHT_UNKNOWN,
};

const OWN: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const UNHEARD_MS: u64 = 5000;

fn life(generation: u64, incarnation: u16) -> Life {
    Life { generation, incarnation }
}

/// Three members; this one is node 1.
fn three() -> View {
    let mut view = View::new(0, OWN, UNHEARD_MS);
    assert_eq!(
        view.set_roster(0, [OWN, A, B]),
        [A, B].map(|node| Change { node, from: None, to: Some(Health::Suspect) })
    );
    view
}

#[test]
fn s5_1_9_the_newer_life_counts_and_within_one_the_worse() {
    use Health::{Down, Healthy, Suspect};
    use Sign::{Alive, Dead};
    // What is known, what is heard, what is then known; `None`: nothing changes.
    let table: [(Life, Sign, Life, Sign, Option<Health>); 14] = [
        (life(5, 0), Alive, life(5, 0), Alive, None),
        (life(5, 0), Alive, life(5, 0), Sign::Suspect, Some(Suspect)),
        (life(5, 1), Alive, life(5, 0), Sign::Suspect, None),
        (life(5, 0), Sign::Suspect, life(5, 0), Alive, None),
        (life(5, 0), Sign::Suspect, life(5, 1), Alive, Some(Healthy)),
        (life(5, 0), Alive, life(5, 0), Dead, Some(Down)),
        (life(5, 9), Alive, life(5, 0), Dead, Some(Down)),
        (life(5, 0), Sign::Suspect, life(5, 0), Dead, Some(Down)),
        (life(5, 0), Dead, life(5, 9), Alive, None),
        (life(5, 0), Dead, life(6, 0), Alive, Some(Healthy)),
        (life(5, 0), Dead, life(6, 0), Sign::Suspect, Some(Suspect)),
        (life(5, 0), Dead, life(4, 9), Alive, None),
        (life(5, 0), Alive, life(4, 9), Dead, None),
        (life(5, 3), Alive, life(6, 0), Dead, Some(Down)),
    ];
    for (known, sign, heard, next, expected) in table {
        let mut view = three();
        view.hear(10, A, known, sign);
        let from = view.peer(A).expect("it is in the roster").health;
        let change = view.hear(20, A, heard, next);
        let expected_change = expected.map(|to| Change { node: A, from: Some(from), to: Some(to) });
        assert_eq!(change, expected_change, "{sign:?} in {known:?}, then {next:?} in {heard:?}");
        let peer = view.peer(A).expect("it is in the roster");
        assert_eq!(peer.health, expected.unwrap_or(from));
        let since_ms = if expected.is_some() {
            20
        } else if from == Suspect {
            0
        } else {
            10
        };
        assert_eq!(peer.since_ms, since_ms, "{sign:?} in {known:?}, then {next:?} in {heard:?}");
    }
}

#[test]
fn s5_1_9_who_was_never_heard_of_is_suspect_then_down_then_welcome() {
    let mut view = three();
    assert_eq!(view.deadline(), Some(UNHEARD_MS));
    view.hear(10, B, life(1, 0), Sign::Alive);
    assert_eq!(view.expire(UNHEARD_MS - 1), []);
    let down = Change { node: A, from: Some(Health::Suspect), to: Some(Health::Down) };
    assert_eq!(view.expire(UNHEARD_MS), [down]);
    assert_eq!(view.deadline(), None);
    let up = Change { node: A, from: Some(Health::Down), to: Some(Health::Healthy) };
    assert_eq!(view.hear(9000, A, life(1, 0), Sign::Alive), Some(up));
}

#[test]
fn s5_1_9_the_roster_alone_adds_and_forgets() {
    let mut view = three();
    view.hear(10, A, life(1, 0), Sign::Alive);
    assert_eq!(view.hear(10, NodeId(9), life(1, 0), Sign::Alive), None, "a stranger");
    assert_eq!(view.hear(10, OWN, life(1, 0), Sign::Dead), None, "this node knows better");
    view.report(10, NodeId(9), Load::default());
    let changes = view.set_roster(20, [A, NodeId(4)]);
    let came = Change { node: NodeId(4), from: None, to: Some(Health::Suspect) };
    assert_eq!(changes, [came, Change { node: B, from: Some(Health::Suspect), to: None }]);
    assert_eq!(view.set_roster(30, [A, NodeId(4), A]), []);
    assert_eq!(view.peer(A).expect("it stays").health, Health::Healthy);
    assert_eq!(view.peers().map(|(node, _)| node.0).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(view.peer(OWN).expect("it stays").health, Health::Healthy);
}

#[test]
fn s4_1_1_the_weight_of_a_healthy_member_is_what_its_scarcest_resource_leaves() {
    let idle = Load::default();
    let table = [
        (Some(idle), WEIGHT_FULL),
        (Some(Load { cpu_permille: 400, ..idle }), 600),
        (Some(Load { cpu_permille: 1000, ..idle }), WEIGHT_LEAST),
        (Some(Load { cpu_permille: u16::MAX, ..idle }), WEIGHT_LEAST),
        (Some(Load { inbox_depth: 4096, ..idle }), 750),
        (Some(Load { inbox_depth: u32::MAX, ..idle }), WEIGHT_LEAST),
        (Some(Load { commit_latency_us: 2_000, ..idle }), WEIGHT_FULL),
        (Some(Load { commit_latency_us: 8_000, ..idle }), 250),
        (Some(Load { commit_latency_us: u32::MAX, ..idle }), WEIGHT_LEAST),
        (Some(Load { cpu_permille: 100, inbox_depth: 8192, commit_latency_us: 2_500, ..idle }), 500),
        (None, WEIGHT_UNKNOWN),
    ];
    for (load, weight) in table {
        let mut view = three();
        view.hear(0, A, life(1, 0), Sign::Alive);
        if let Some(load) = load {
            view.report(100, A, load);
        }
        assert_eq!(view.weights(100, &[A]), [weight], "{load:?}");
        assert_eq!(view.weights(100 + LOAD_STALE_MS, &[A]), [WEIGHT_UNKNOWN], "an old report says nothing: {load:?}");
    }
}

#[test]
fn s4_1_1_suspicion_steers_and_never_leaves_nobody() {
    let mut view = three();
    let choice = [A, B];
    let stranger = NodeId(9);
    assert_eq!(view.weights(0, &choice), [WEIGHT_LEAST; 2], "all are suspect");
    view.hear(0, A, life(1, 0), Sign::Alive);
    assert_eq!(view.weights(0, &choice), [WEIGHT_UNKNOWN, 0], "one answers");
    assert_eq!(view.weights(0, &[B]), [WEIGHT_LEAST], "only the suspect could serve it");
    view.hear(0, A, life(1, 0), Sign::Dead);
    assert_eq!(view.weights(0, &choice), [0, WEIGHT_LEAST], "one may still contradict");
    view.hear(0, B, life(1, 0), Sign::Dead);
    assert_eq!(view.weights(0, &choice), [WEIGHT_LEAST; 2], "perhaps this node is the one cut off");
    assert_eq!(view.weights(0, &[stranger, B]), [0, WEIGHT_LEAST]);
    assert_eq!(view.weights(0, &[stranger]), [WEIGHT_LEAST]);
    assert_eq!(view.weights(0, &[]), [] as [u32; 0]);
}

#[test]
fn s5_1_9_who_is_suspected_is_tried_behind_those_who_answer_and_before_the_dead() {
    let node = |number| NodeId(number);
    let life = Life { generation: 1, incarnation: 0 };
    let mut view = View::new(0, node(1), 5000);
    view.set_roster(0, (2..=6).map(node));
    for (number, sign) in [(2, Sign::Dead), (3, Sign::Suspect), (4, Sign::Alive), (5, Sign::Alive)] {
        view.hear(1, node(number), life, sign);
    }
    view.report(1, node(4), Load { cpu_permille: 900, ..Load::default() });
    view.report(1, node(5), Load { cpu_permille: 100, ..Load::default() });
    // 6 was never heard of, which is suspect; a stranger is tried last.
    let order = view.in_order(2, [9, 2, 3, 4, 5, 6].map(node));
    assert_eq!(order, [5, 4, 3, 6, 2, 9].map(node));
}
