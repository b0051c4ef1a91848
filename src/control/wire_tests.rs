//! The bytes: pinned, bounded, and safe from strangers.

use super::scene_tests::{
    HOUR_MS, Scene, addresses, bootstrap, config, fact, issue, name, redeem, serial, shard, storage_only, token,
};
use crate::control::wire::{
    COMMAND_BYTES_MAX, CONTROL_WIRE_VERSION, OUTCOME_BYTES_MAX, STATE_BYTES_MAX, WireError, decode_command,
    decode_outcome, decode_state, encode_command, encode_outcome, encode_state,
};
use crate::control::{
    Action, Address, Addresses, Bootstrap, CERTIFICATES_MAX, Cluster, Command, GroupConfig, Member, MemberState, Name,
    Placement, REQUESTS_KEPT_MAX, Refused, Roles, State, TOKENS_MAX,
};
use crate::ids::{Epoch, LogIndex, NodeId, ShardId, hex};

/// One of every action, in the order of their numbers.
fn every_action() -> Vec<Action> {
    vec![
        Action::Bootstrap(bootstrap(3)),
        issue(2, storage_only()),
        Action::WithdrawToken { token: token(2) },
        redeem(2),
        Action::MemberUpdate { node: NodeId(2), addresses: addresses("n2") },
        Action::CertificateIssued { node: NodeId(2), certificate: fact(2) },
        Action::Renew { node: NodeId(2), replaces: serial(2), certificate: fact(3) },
        Action::Revoke { serial: serial(2) },
        Action::Drain { node: NodeId(2) },
        Action::Undrain { node: NodeId(2) },
        Action::Remove { node: NodeId(2), force: true },
        Action::SetReplication { factor: 5, pair_votes: false },
        Action::Promote { shard: ShardId(3), node: NodeId(300) },
        Action::Report { group: shard(1), config: config(&[1, 2, 3], &[4]), at: LogIndex(500) },
        Action::AskRenewal { node: NodeId(2) },
    ]
}

/// splitmix64: enough chance for a fuzz test, and the same on every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[test]
fn s1_1_2_the_layout_of_this_version_does_not_change_unseen() {
    let mut scene = Scene::empty();
    let mut all = Vec::new();
    for action in every_action() {
        all.extend(encode_command(&scene.command(action)));
    }
    let drain = scene.command(Action::Drain { node: NodeId(300) });
    assert_eq!(
        hex(&encode_command(&drain)),
        concat!("01000100", "10000000000000000000000000000000", "80a0f1c2b134", "08", "ac02"),
        "version, kind, request, time, action 8, node 300"
    );
    // Another hash here means another layout: raise CONTROL_WIRE_VERSION, or STATE_WIRE_VERSION for the one of a state.
    assert_eq!(hex(&blake3::hash(&all).as_bytes()[..16]), "64bcb6b52d989fba8053f2629ede20be");
    let scene = Scene::with_members(4);
    assert_eq!(hex(&blake3::hash(&encode_state(&scene.state)).as_bytes()[..16]), "fd18f46e8eb99d671952d3e49cc80ec2");
}

#[test]
fn s1_1_2_the_head_is_checked_before_the_value() {
    let mut scene = Scene::empty();
    let good = encode_command(&scene.command(every_action().remove(0)));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        decode_command(&bytes)
    };
    assert!(decode_command(&good).is_ok());
    assert_eq!(with(0, 2), Err(WireError::Version(2)));
    assert_eq!(with(1, 1), Err(WireError::Version(0x0100 + CONTROL_WIRE_VERSION)));
    assert_eq!(with(2, 2), Err(WireError::Kind { found: 2, wanted: 1 }));
    assert_eq!(with(3, 1), Err(WireError::Value));
    for bytes in 0..4 {
        assert_eq!(decode_command(&good[..bytes]), Err(WireError::Short { bytes }));
    }
    assert_eq!(decode_command(&[&good[..], &[0]].concat()), Err(WireError::Value), "something follows");
    assert_eq!(decode_command(&good[..good.len() - 1]), Err(WireError::Value), "something is missing");
    let long = vec![1; COMMAND_BYTES_MAX + 1];
    let (bytes, bytes_max) = (long.len(), COMMAND_BYTES_MAX);
    assert_eq!(decode_command(&long), Err(WireError::Long { bytes, bytes_max }));
}

#[test]
fn s1_1_2_a_state_that_no_state_machine_wrote_is_refused() {
    let good = Scene::with_members(4).state;
    assert_eq!(decode_state(&encode_state(&good)), Ok(good.clone()));
    type Break = fn(&mut Cluster);
    let breaks: [(&str, Break); 20] = [
        ("slots", |cluster| cluster.slot_count = 12),
        ("shards", |cluster| cluster.shard_count = 17),
        ("factor", |cluster| cluster.policy.replication_factor = 0),
        ("epoch", |cluster| cluster.epoch = Epoch(0)),
        ("epoch's end", |cluster| cluster.epoch = Epoch(u64::MAX)),
        ("ids", |cluster| cluster.node_next = NodeId(4)),
        ("ids' end", |cluster| cluster.node_next = NodeId(u64::MAX)),
        ("no members", |cluster| cluster.members.clear()),
        ("a role of none", |cluster| each_member(cluster, |member| member.roles = Roles::default())),
        ("one name", |cluster| each_member(cluster, |member| member.name = name("n1"))),
        ("too many", |cluster| {
            let copies: Vec<_> = (5..9).map(|node| (NodeId(node), cluster.members[&NodeId(1)].clone())).collect();
            cluster.node_next = NodeId(9);
            cluster.members.extend(copies.into_iter().map(|(node, mut member)| {
                member.name = name(&format!("n{}", node.0));
                (node, member)
            }));
        }),
        ("a copy on a joining member", |cluster| each_member(cluster, |member| member.state = MemberState::Joining)),
        ("an owner who never was", |cluster| {
            cluster.certificates.values_mut().for_each(|record| record.owner = NodeId(9));
        }),
        ("a group without a wish", |cluster| drop(cluster.wished.remove(&shard(3)))),
        ("a group that stands not", |cluster| drop(cluster.standing.remove(&shard(3)))),
        ("an even vote", |cluster| {
            each_wish(cluster, |wish| {
                let _ = wish.config.voters.pop_first();
            })
        }),
        ("no vote", |cluster| each_wish(cluster, |wish| wish.config.voters.clear())),
        ("a primary without a vote", |cluster| each_wish(cluster, |wish| wish.primary = Some(NodeId(9)))),
        ("a promoted learner", |cluster| {
            let learner = *cluster.wished[&shard(0)].config.learners.first().expect("a learner");
            cluster.promoted.insert(ShardId(0), learner);
        }),
        ("a voter that learns", |cluster| {
            let standing = cluster.standing.get_mut(&shard(0)).expect("it stands");
            standing.config.learners.clone_from(&standing.config.voters);
        }),
    ];
    for (what, harm) in breaks {
        let mut state = good.clone();
        harm(state.cluster.as_mut().expect("a cluster"));
        let decoded = decode_state(&encode_state(&state));
        assert!(matches!(decoded, Err(WireError::Broken(_))), "{what}: {decoded:?}");
    }
    for applied in [LogIndex(0), LogIndex(u64::MAX)] {
        let state = State { applied, ..good.clone() };
        assert!(matches!(decode_state(&encode_state(&state)), Err(WireError::Broken(_))), "{applied:?}");
    }
}

fn each_member(cluster: &mut Cluster, harm: impl Fn(&mut Member)) {
    cluster.members.values_mut().for_each(harm);
}

fn each_wish(cluster: &mut Cluster, harm: impl Fn(&mut Placement)) {
    cluster.wished.values_mut().for_each(harm);
}

#[test]
fn s1_1_2_a_command_an_outcome_and_a_state_at_their_limits_fit() {
    let label = |letter: &str| letter.repeat(63).parse::<Name>().expect("a name");
    let domain = || [label("a"), label("b"), label("c")].map(String::from).join(".") + "." + &"d".repeat(61);
    let address = || format!("{}:65535", domain()).parse::<Address>().expect("an address");
    let widest = || Addresses { mesh: address(), http: Some(address()), quic: Some(address()) };
    let mut scene = Scene::empty();
    let formed = Bootstrap {
        cluster_name: label("a"),
        domain: domain().parse().expect("a domain"),
        shard_count: 64,
        slot_count: 16_384,
        name: label("n"),
        region: label("r"),
        addresses: widest(),
        ..bootstrap(5)
    };
    let command = scene.command(Action::Bootstrap(formed));
    assert!(encode_command(&command).len() <= COMMAND_BYTES_MAX);
    scene.apply(&command).expect("accepted");
    let report = Action::Report {
        group: shard(63),
        config: GroupConfig::new((0..7).map(|at| NodeId(u64::MAX - at)), (7..14).map(|at| NodeId(u64::MAX - at))),
        at: LogIndex(u64::MAX),
    };
    assert!(encode_command(&scene.command(report)).len() <= COMMAND_BYTES_MAX);
    // Members come and go until every table is full.
    let mut number = 1u64;
    for round in 0..40u8 {
        for place in 0..6u8 {
            let id = round.wrapping_mul(6).wrapping_add(place).wrapping_add(2);
            if scene.cluster().tokens().len() < TOKENS_MAX {
                scene.accept(issue(id, crate::control::Roles::all()));
            }
            let named = match redeem(id) {
                Action::RedeemToken { token, secret_hash, csr_digest, .. } => Action::RedeemToken {
                    token,
                    secret_hash,
                    csr_digest,
                    name: format!("{}{place}", "n".repeat(62)).parse().expect("a name"),
                    addresses: widest(),
                },
                other => other,
            };
            let Ok(accepted) = scene.ask(named) else { continue };
            let crate::control::Change::Redeemed { node, .. } = accepted.change else { panic!("no member came") };
            number += 1;
            let _ = scene.ask(Action::CertificateIssued { node, certificate: fact(number) });
            scene.accept(Action::MemberUpdate { node, addresses: widest() });
        }
        if round < 39 {
            for node in scene.cluster().members().map(|(node, _)| node).filter(|node| node.0 != 1).collect::<Vec<_>>() {
                let _ = scene.ask(Action::Drain { node });
                let _ = scene.ask(Action::Remove { node, force: true });
            }
        }
        scene.now_ms += HOUR_MS / 64;
    }
    while scene.cluster().certificates().len() < CERTIFICATES_MAX {
        number += 1;
        let replaces = scene.cluster().member(NodeId(1)).expect("it is here").certificate.expect("it has one").serial;
        scene.accept(Action::Renew { node: NodeId(1), replaces, certificate: fact(number) });
    }
    let mut bytes_most = 0;
    for shard in 0..REQUESTS_KEPT_MAX as u16 {
        let draining = scene.ask(if shard % 2 == 0 {
            Action::Drain { node: NodeId(1) }
        } else {
            Action::Undrain { node: NodeId(1) }
        });
        let bytes = encode_outcome(&draining);
        bytes_most = bytes_most.max(bytes.len());
        assert_eq!(decode_outcome(&bytes), Ok(draining));
    }
    assert!(bytes_most <= OUTCOME_BYTES_MAX / 2, "an outcome has {bytes_most} bytes");
    let bytes = encode_state(&scene.state);
    assert!(bytes.len() <= STATE_BYTES_MAX / 4, "a full state has {} bytes", bytes.len());
    assert_eq!(decode_state(&bytes), Ok(scene.state));
}

#[test]
fn s1_1_2_strangers_bytes_never_panic_and_what_reads_is_whole() {
    let mut scene = Scene::with_members(5);
    let _ = scene.ask(Action::Drain { node: NodeId(9) });
    let mut seeds: Vec<Vec<u8>> =
        every_action().into_iter().map(|action| encode_command(&scene.command(action))).collect();
    seeds.push(encode_outcome(&Err(Refused::TokenUsed(NodeId(3)))));
    seeds.push(encode_outcome(&Ok(scene.accept(Action::Drain { node: NodeId(2) }))));
    seeds.push(encode_state(&scene.state));
    let mut chance = Chance(20_261_127);
    let (mut commands, mut states) = (0, 0);
    for _ in 0..60_000 {
        let mut bytes = seeds[chance.below(seeds.len())].clone();
        for _ in 0..=chance.below(4) {
            match chance.below(5) {
                0 => bytes.truncate(chance.below(bytes.len() + 1)),
                1 => bytes.extend((0..chance.below(9)).map(|_| chance.0 as u8)),
                2 if !bytes.is_empty() => {
                    let at = chance.below(bytes.len());
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)];
                }
                3 if !bytes.is_empty() => {
                    let (from, to) = (chance.below(bytes.len()), chance.below(bytes.len()));
                    bytes.swap(from, to);
                }
                _ if !bytes.is_empty() => {
                    let at = chance.below(bytes.len());
                    bytes[at] ^= 1 << chance.below(8);
                }
                _ => {}
            }
        }
        // What reads can be used: applied, written, shown.
        if let Ok(command) = decode_command(&bytes) {
            commands += 1;
            read_command_is_usable(&scene.state, &command);
        }
        if let Ok(outcome) = decode_outcome(&bytes) {
            let _ = outcome.as_ref().map_err(ToString::to_string);
            let _ = outcome.map(|accepted| accepted.warnings.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
        if let Ok(state) = decode_state(&bytes) {
            states += 1;
            assert_eq!(decode_state(&encode_state(&state)), Ok(state));
        }
    }
    assert!(100 < commands && 100 < states, "{commands} commands and {states} states read: the test tests nothing");
}

fn read_command_is_usable(state: &State, command: &Command) {
    assert_eq!(decode_command(&encode_command(command)).as_ref(), Ok(command));
    let mut state = state.clone();
    let outcome = state.apply(LogIndex(state.applied().0 + 1), command);
    assert_eq!(state.check(), Ok(()), "{command:?} → {outcome:?}");
}
