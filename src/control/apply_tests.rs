//! Every command, what it does, and every way in which it is refused.

use super::scene_tests::{
    HOUR_MS, NOW_MS, Scene, addresses, bootstrap, config, fact, issue, name, redeem, serial, shard, storage_only, token,
};
use crate::control::{
    Action, CERTIFICATES_MAX, CertificateFact, Change, Difference, Group, MemberState, REQUESTS_KEPT_MAX, Redirect,
    Refused, Roles, State, TOKENS_MAX, Wanted, Warning, preview, redirect,
};
use crate::ids::{Epoch, LogIndex, NodeId, ShardId};

/// In the scene as it stands, the action is refused so, and changes nothing but what is remembered of requests.
fn refused(scene: &Scene, action: Action, expected: Refused) {
    let mut scene = scene.clone();
    let before = scene.state.cluster().cloned();
    assert_eq!(scene.ask(action.clone()), Err(expected), "{action:?}");
    assert_eq!(scene.state.cluster().cloned(), before, "{action:?} was refused and changed something");
}

/// In the scene as it stands, the action does this, and the epoch grows or not.
fn does(scene: &mut Scene, action: Action, expected: Change, grows: bool) {
    let before = scene.state.epoch();
    let accepted = scene.accept(action.clone());
    assert_eq!(accepted.change, expected, "{action:?}");
    assert_eq!(accepted.epoch, scene.state.epoch(), "{action:?}");
    assert_eq!(accepted.epoch.0, before.0 + u64::from(grows), "{action:?}: epoch");
}

#[test]
fn s1_1_2_a_cluster_is_formed_once() {
    let mut scene = Scene::empty();
    refused(&scene, Action::Drain { node: NodeId(1) }, Refused::NotBootstrapped);
    for (slot_count, shard_count) in [(0, 1), (12, 4), (16, 0), (16, 17), (32_768, 4), (16_384, 65)] {
        refused(
            &scene,
            Action::Bootstrap(crate::control::Bootstrap { slot_count, shard_count, ..bootstrap(3) }),
            Refused::Counts,
        );
    }
    for factor in [0, 6] {
        refused(&scene, Action::Bootstrap(bootstrap(factor)), Refused::ReplicationFactor);
    }
    let roles = storage_only();
    refused(&scene, Action::Bootstrap(crate::control::Bootstrap { roles, ..bootstrap(3) }), Refused::Roles);
    let certificate = CertificateFact { expires_ms: NOW_MS, ..fact(1) };
    refused(
        &scene,
        Action::Bootstrap(crate::control::Bootstrap { certificate, ..bootstrap(3) }),
        Refused::CertificateLifetime,
    );

    does(&mut scene, Action::Bootstrap(bootstrap(3)), Change::Bootstrapped { node: NodeId(1) }, true);
    assert_eq!(scene.state.epoch(), Epoch(1));
    for group in scene.cluster().groups().collect::<Vec<_>>() {
        assert_eq!(scene.cluster().wished(group).expect("a wish").config, config(&[1], &[]), "{group}");
        assert_eq!(scene.cluster().wished(group).expect("a wish").primary, Some(NodeId(1)), "{group}");
        assert_eq!(scene.cluster().standing(group).expect("it stands").config, config(&[1], &[]), "{group}");
    }
    refused(&scene, Action::Bootstrap(bootstrap(3)), Refused::AlreadyBootstrapped);
}

#[test]
fn s1_1_2_a_repeated_request_has_the_outcome_it_had() {
    let mut scene = Scene::alone();
    let command = scene.command(issue(2, Roles::all()));
    let first = scene.apply(&command);
    // Another proposer, later, with its own clock.
    let again = crate::control::Command { now_ms: NOW_MS + HOUR_MS, ..command.clone() };
    assert_eq!(scene.apply(&again), first);
    assert_eq!(scene.cluster().tokens().len(), 1);
    let other = crate::control::Command { action: issue(3, Roles::all()), ..command.clone() };
    assert_eq!(scene.apply(&other), Err(Refused::RequestReused));
    assert_eq!(scene.apply(&command), first, "a misused id does not spoil the request");

    let refusal = scene.command(Action::Drain { node: NodeId(9) });
    assert_eq!(scene.apply(&refusal), Err(Refused::UnknownNode(NodeId(9))));
    assert_eq!(scene.apply(&refusal), Err(Refused::UnknownNode(NodeId(9))));

    for _ in 0..REQUESTS_KEPT_MAX {
        let _ = scene.ask(Action::Drain { node: NodeId(9) });
    }
    assert_eq!(scene.apply(&command), Err(Refused::TokenExists), "what is forgotten is a new request");
}

#[test]
#[should_panic(expected = "out of order")]
fn s1_1_2_a_command_applied_twice_at_one_index_is_a_defect() {
    let mut scene = Scene::alone();
    let command = scene.command(issue(2, Roles::all()));
    let _ = scene.state.apply(LogIndex(1), &command);
}

#[test]
fn s6_1_4_a_token_is_issued_within_its_bounds() {
    let mut scene = Scene::alone();
    does(&mut scene, issue(2, Roles::all()), Change::TokenIssued, false);
    refused(&scene, issue(2, Roles::all()), Refused::TokenExists);
    refused(&scene, issue(3, Roles::default()), Refused::Roles);
    for expires_ms in [0, NOW_MS, NOW_MS + 7 * 24 * HOUR_MS + 1, u64::MAX] {
        let Action::IssueToken { token, secret_hash, roles, region, .. } = issue(3, Roles::all()) else { panic!() };
        refused(&scene, Action::IssueToken { token, secret_hash, roles, region, expires_ms }, Refused::TokenLifetime);
    }
    for number in 3..=TOKENS_MAX as u8 + 1 {
        scene.accept(issue(number, Roles::all()));
    }
    refused(&scene, issue(99, Roles::all()), Refused::TokensFull);
    let mut later = scene.clone();
    later.now_ms += 2 * HOUR_MS;
    let Action::IssueToken { token, secret_hash, roles, region, .. } = issue(99, Roles::all()) else { panic!() };
    let expires_ms = later.now_ms + HOUR_MS;
    later.accept(Action::IssueToken { token, secret_hash, roles, region, expires_ms });
    assert_eq!(later.cluster().tokens().len(), 1, "expired tokens are forgotten");
    does(&mut scene, Action::WithdrawToken { token: super::scene_tests::token(2) }, Change::TokenWithdrawn, false);
    refused(&scene, Action::WithdrawToken { token: super::scene_tests::token(2) }, Refused::TokenUnknown);
    refused(&scene, redeem(2), Refused::TokenUnknown);
}

#[test]
fn s6_1_4_a_token_is_redeemed_by_one_node_which_may_ask_again() {
    let mut scene = Scene::alone();
    scene.accept(issue(2, storage_only()));
    let redeemed = Change::Redeemed { node: NodeId(2), region: name("eu"), roles: storage_only() };
    let with = |secret: u8, csr: u8| Action::RedeemToken {
        token: token(2),
        secret_hash: [secret; 32],
        csr_digest: [csr; 32],
        name: name("n2"),
        addresses: addresses("n2"),
    };
    refused(&scene, with(3, 2), Refused::TokenUnknown);
    refused(&scene, redeem(3), Refused::TokenUnknown);
    let mut late = scene.clone();
    late.now_ms = NOW_MS + HOUR_MS;
    refused(&late, with(2, 2), Refused::TokenExpired);
    late.now_ms += HOUR_MS;
    refused(&late, with(2, 2), Refused::TokenUnknown);

    does(&mut scene, with(2, 2), redeemed.clone(), true);
    assert_eq!(scene.cluster().member(NodeId(2)).expect("it came").state, MemberState::Joining);
    assert_eq!(scene.learners(shard(0)), [] as [u64; 0], "a joining member holds no copy");
    // The answer was lost: the same key asks under another request, even past the token's end.
    scene.now_ms += HOUR_MS - 1;
    does(&mut scene, with(2, 2), redeemed, false);
    refused(&scene, with(2, 3), Refused::TokenUsed(NodeId(2)));
    refused(&scene, with(3, 2), Refused::TokenUnknown);
    scene.accept(Action::Remove { node: NodeId(2), force: false });
    let state = scene.cluster().member(NodeId(2)).expect("it is still listed").state;
    refused(&scene, with(2, 2), Refused::NodeState { node: NodeId(2), state, wanted: Wanted::Here });
    scene.now_ms += 1;
    refused(&scene, with(2, 2), Refused::TokenUnknown);
}

#[test]
fn s6_1_4_names_are_unique_members_bounded_and_ids_never_given_again() {
    let mut scene = Scene::with_members(7);
    scene.accept(issue(8, Roles::all()));
    refused(&scene, redeem(8), Refused::MembersFull);
    scene.accept(Action::Drain { node: NodeId(7) });
    scene.stand();
    scene.accept(Action::Remove { node: NodeId(7), force: false });
    let named = |action: Action, text: &str| match action {
        Action::RedeemToken { token, secret_hash, csr_digest, addresses, .. } => {
            Action::RedeemToken { token, secret_hash, csr_digest, addresses, name: name(text) }
        }
        other => other,
    };
    scene.accept(issue(9, Roles::all()));
    refused(&scene, named(redeem(9), "n6"), Refused::NameTaken { name: name("n6"), node: NodeId(6) });
    let Change::Redeemed { node, .. } = scene.accept(redeem(8)).change else { panic!("no member came") };
    assert_eq!(node, NodeId(8));
    scene.accept(Action::Remove { node, force: false });
    // The name of a removed member is free, its id is not.
    let Change::Redeemed { node, .. } = scene.accept(named(redeem(9), "n8")).change else { panic!("no member came") };
    assert_eq!(node, NodeId(9));
}

#[test]
fn s6_1_4_a_joining_member_becomes_active_when_it_speaks_under_its_certificate() {
    let mut scene = Scene::alone();
    scene.accept(issue(2, Roles::all()));
    scene.accept(redeem(2));
    let node = NodeId(2);
    let speaks = |host: &str| Action::MemberUpdate { node, addresses: addresses(host) };
    let joining = MemberState::Joining;
    refused(&scene, speaks("n2"), Refused::NodeState { node, state: joining, wanted: Wanted::Certified });
    for action in [Action::Drain { node }, Action::Undrain { node }] {
        let wanted = if action == (Action::Drain { node }) { Wanted::Active } else { Wanted::Draining };
        refused(&scene, action, Refused::NodeState { node, state: joining, wanted });
    }
    let renew = Action::Renew { node, replaces: serial(2), certificate: fact(3) };
    refused(&scene, renew, Refused::NodeState { node, state: joining, wanted: Wanted::Standing });

    does(&mut scene, Action::CertificateIssued { node, certificate: fact(2) }, Change::CertificateRecorded, false);
    // Its answer was lost too; the first certificate stays known until it expires.
    does(&mut scene, Action::CertificateIssued { node, certificate: fact(3) }, Change::CertificateRecorded, false);
    does(&mut scene, speaks("n2"), Change::Updated { activated: true }, true);
    assert_eq!(scene.learners(shard(0)).len() + scene.voters(shard(0)).len(), 2);
    does(&mut scene, speaks("n2"), Change::Unchanged, false);
    does(&mut scene, speaks("elsewhere"), Change::Updated { activated: false }, true);
    refused(
        &scene,
        Action::MemberUpdate { node: NodeId(3), addresses: addresses("n3") },
        Refused::UnknownNode(NodeId(3)),
    );
}

#[test]
fn s6_1_4_certificates_are_renewed_revoked_bounded_and_forgotten() {
    let mut scene = Scene::with_members(2);
    let node = NodeId(2);
    let renew = |from: u64, to: u64| Action::Renew { node, replaces: serial(from), certificate: fact(to) };
    refused(&scene, Action::CertificateIssued { node, certificate: fact(3) }, Refused::CertificateStands(node));
    refused(&scene, renew(1, 3), Refused::NotRenewable(node));
    refused(&scene, renew(2, 1), Refused::SerialExists(serial(1)));
    let ends = |expires_ms: u64| Action::Renew {
        node,
        replaces: serial(2),
        certificate: CertificateFact { serial: serial(3), expires_ms },
    };
    for expires_ms in [0, NOW_MS, NOW_MS + 91 * 24 * HOUR_MS + 1, u64::MAX] {
        refused(&scene, ends(expires_ms), Refused::CertificateLifetime);
    }
    // Asked for, it is wished until it is there; asking again changes nothing, and routers need not hear of it.
    does(&mut scene, Action::AskRenewal { node }, Change::RenewalAsked, false);
    does(&mut scene, Action::AskRenewal { node }, Change::Unchanged, false);
    assert!(scene.cluster().is_renewal_asked(node));
    does(&mut scene, renew(2, 3), Change::CertificateRecorded, false);
    assert!(!scene.cluster().is_renewal_asked(node));
    refused(&scene, Action::AskRenewal { node: NodeId(9) }, Refused::UnknownNode(NodeId(9)));
    refused(&scene, renew(2, 4), Refused::NotRenewable(node));

    refused(&scene, Action::Revoke { serial: serial(4) }, Refused::SerialUnknown(serial(4)));
    does(&mut scene, Action::Revoke { serial: serial(2) }, Change::Revoked { owner: node, current: false }, false);
    does(&mut scene, Action::Revoke { serial: serial(2) }, Change::Unchanged, false);
    does(&mut scene, Action::Revoke { serial: serial(3) }, Change::Revoked { owner: node, current: true }, false);
    assert_eq!(scene.cluster().revoked().collect::<Vec<_>>(), [serial(2), serial(3)]);
    refused(&scene, renew(3, 4), Refused::NotRenewable(node));
    refused(&scene, Action::AskRenewal { node }, Refused::NotRenewable(node));
    does(&mut scene, Action::CertificateIssued { node, certificate: fact(4) }, Change::CertificateRecorded, false);

    let mut full = scene.clone();
    let issued = full.cluster().certificates().len() as u64;
    for number in 0..CERTIFICATES_MAX as u64 - issued {
        full.accept(renew(4 + number, 5 + number));
    }
    refused(&full, renew(CERTIFICATES_MAX as u64, 9999), Refused::CertificatesFull);

    // Revoked serials outlive the certificates by a week.
    scene.now_ms = fact(0).expires_ms + 7 * 24 * HOUR_MS - 1;
    scene.accept(Action::Revoke { serial: serial(4) });
    assert_eq!(scene.cluster().revoked().count(), 3);
    scene.now_ms += 1;
    scene.accept(Action::CertificateIssued {
        node,
        certificate: CertificateFact { serial: serial(5), expires_ms: scene.now_ms + HOUR_MS },
    });
    assert_eq!(scene.cluster().certificates().map(|(serial, _)| serial).collect::<Vec<_>>(), [serial(5)]);
}

#[test]
fn s1_2_9_a_draining_member_gives_up_its_offices_and_comes_back() {
    let mut scene = Scene::with_members(5);
    let drained = NodeId(scene.voters(shard(0))[0]);
    does(&mut scene, Action::Drain { node: drained }, Change::Drained, true);
    for group in scene.cluster().groups().collect::<Vec<_>>() {
        assert!(!scene.voters(group).contains(&drained.0), "{group}");
        assert!(scene.learners(group).contains(&drained.0), "{group}: it still holds its copy");
        assert_ne!(scene.cluster().wished(group).expect("a wish").primary, Some(drained), "{group}");
    }
    let draining = MemberState::Draining;
    refused(
        &scene,
        Action::Drain { node: drained },
        Refused::NodeState { node: drained, state: draining, wanted: Wanted::Active },
    );
    does(&mut scene, Action::Undrain { node: drained }, Change::Undrained, true);
    refused(
        &scene,
        Action::Undrain { node: drained },
        Refused::NodeState { node: drained, state: MemberState::Active, wanted: Wanted::Draining },
    );
}

#[test]
fn s1_2_9_a_draining_member_keeps_its_vote_where_too_few_others_could() {
    let mut scene = Scene::with_members(3);
    let accepted = scene.accept(Action::Drain { node: NodeId(2) });
    for group in scene.cluster().groups().collect::<Vec<_>>() {
        assert_eq!(scene.voters(group), [1, 2, 3], "{group}");
        assert_ne!(scene.cluster().wished(group).expect("a wish").primary, Some(NodeId(2)), "{group}");
        assert!(accepted.warnings.contains(&Warning::KeepsVote { node: NodeId(2), group }), "{group}");
    }
    let mut alone = Scene::alone();
    alone.join(2, storage_only());
    refused(
        &alone,
        Action::Drain { node: NodeId(1) },
        Refused::NothingToTakeOver { node: NodeId(1), group: Group::Control },
    );
    alone.accept(Action::Drain { node: NodeId(2) });
    let lonely = Refused::NothingToTakeOver { node: NodeId(1), group: Group::Control };
    refused(&alone, Action::Drain { node: NodeId(1) }, lonely);
}

#[test]
fn s1_2_9_a_removal_that_would_lose_a_majority_is_refused_whatever_the_force() {
    let lost = |node: u64, group: Group, voters: u8, remaining: u8| Refused::MajorityLost {
        node: NodeId(node),
        group,
        voters,
        remaining,
    };
    let remove = |node: u64, force: bool| Action::Remove { node: NodeId(node), force };

    let alone = Scene::alone();
    for force in [false, true] {
        refused(&alone, remove(1, force), Refused::NothingToTakeOver { node: NodeId(1), group: Group::Control });
    }

    // Two members: one votes, and it must hand its vote over before it can go.
    let mut two = Scene::with_members(2);
    let votes = two.voters(Group::Control)[0];
    let learns = two.learners(Group::Control)[0];
    refused(&two, remove(votes, false), Refused::DrainFirst(NodeId(votes)));
    refused(&two, remove(votes, true), lost(votes, Group::Control, 1, 0));
    two.accept(Action::Drain { node: NodeId(votes) });
    assert_eq!(two.voters(Group::Control), [learns]);
    refused(&two, remove(votes, false), lost(votes, Group::Control, 1, 0));
    two.stand();
    does(&mut two, remove(votes, false), Change::Removed { revoked_count: 1 }, true);
    refused(&two, remove(learns, true), Refused::NothingToTakeOver { node: NodeId(learns), group: Group::Control });

    // Three voters: one may go, dead or drained; a second only when the groups have let the first go.
    let mut three = Scene::with_members(3);
    refused(&three, remove(2, false), Refused::DrainFirst(NodeId(2)));
    does(&mut three, remove(2, true), Change::Removed { revoked_count: 1 }, true);
    assert_eq!(three.voters(shard(0)).len(), 1);
    refused(&three, remove(3, true), lost(3, Group::Control, 3, 1));
    let removed = three.cluster().member(NodeId(2)).expect("it is still listed").state;
    refused(&three, remove(2, true), Refused::NodeState { node: NodeId(2), state: removed, wanted: Wanted::Here });
    refused(
        &three,
        Action::Drain { node: NodeId(2) },
        Refused::NodeState { node: NodeId(2), state: removed, wanted: Wanted::Active },
    );
    refused(&three, remove(4, true), Refused::UnknownNode(NodeId(4)));
    assert!(three.cluster().revoked().eq([serial(2)]));
}

#[test]
fn s1_2_5_replication_is_one_to_five_and_says_what_it_means() {
    let set = |factor: u8, pair_votes: bool| Action::SetReplication { factor, pair_votes };
    let mut scene = Scene::with_members(2);
    for factor in [0, 6, 255] {
        refused(&scene, set(factor, false), Refused::ReplicationFactor);
    }
    does(&mut scene, set(3, false), Change::Unchanged, false);
    let one = scene.accept(set(2, false));
    assert_eq!(
        one.warnings,
        [Warning::OneOfTwoVotes, Warning::EvenFactor { wished: 2, votes: 1 }, Warning::ControlFragile { votes: 1 }]
    );
    let pair = scene.accept(set(2, true));
    assert_eq!(pair.warnings, [Warning::PairVotes, Warning::ControlFragile { votes: 1 }]);
    assert_eq!(scene.voters(shard(3)), [1, 2]);
    assert_eq!(scene.voters(Group::Control).len(), 1, "the control group is never a pair");
    // A pair does not survive a drain as a pair.
    let mut drained = scene.clone();
    drained.accept(Action::Drain { node: NodeId(1) });
    assert_eq!(drained.voters(shard(0)), [2]);

    let three = Scene::with_members(3).accept(set(5, false)).warnings;
    assert_eq!(three, [Warning::FewCopies { copies: 3, wished: 5 }]);
    let six = Scene::with_members(6).accept(set(4, false)).warnings;
    assert_eq!(six, [Warning::EvenFactor { wished: 4, votes: 3 }]);
}

#[test]
fn s1_2_9_a_promotion_is_a_wish_for_one_of_the_voters() {
    let mut scene = Scene::with_members(4);
    let wished = |scene: &Scene| scene.cluster().wished(shard(2)).expect("a wish").primary.expect("a primary");
    let other = scene.voters(shard(2)).into_iter().map(NodeId).find(|&node| node != wished(&scene)).expect("another");
    let learner = NodeId(scene.learners(shard(2))[0]);
    let promote = |shard: u16, node: NodeId| Action::Promote { shard: ShardId(shard), node };
    refused(&scene, promote(4, other), Refused::UnknownShard(ShardId(4)));
    refused(&scene, promote(2, learner), Refused::NotVoter { node: learner, shard: ShardId(2) });
    refused(&scene, promote(2, NodeId(9)), Refused::UnknownNode(NodeId(9)));
    does(&mut scene, promote(2, other), Change::Preferred, true);
    assert_eq!(wished(&scene), other);
    does(&mut scene, promote(2, other), Change::Unchanged, false);
    // A drain ends the wish.
    scene.accept(Action::Drain { node: other });
    assert_ne!(wished(&scene), other);
    refused(&scene, promote(2, other), Refused::NotVoter { node: other, shard: ShardId(2) });
}

#[test]
fn s1_1_2_a_report_is_noted_unless_an_older_one() {
    let mut scene = Scene::alone();
    scene.join(2, Roles::all());
    let report = |at: u64, voters: &[u64], learners: &[u64]| Action::Report {
        group: shard(1),
        config: config(voters, learners),
        at: LogIndex(at),
    };
    does(&mut scene, report(5, &[1], &[2]), Change::Reported, false);
    does(&mut scene, report(5, &[2], &[1]), Change::Unchanged, false);
    does(&mut scene, report(4, &[2], &[1]), Change::Unchanged, false);
    let standing = scene.cluster().standing(shard(1)).expect("it stands");
    assert_eq!((standing.config.clone(), standing.at), (config(&[1], &[2]), LogIndex(5)));
    for broken in [report(9, &[], &[1]), report(9, &[1], &[1]), report(9, &[3], &[]), report(9, &[0], &[])] {
        refused(&scene, broken, Refused::Report(shard(1)));
    }
    let elsewhere = Action::Report { group: shard(4), config: config(&[1], &[]), at: LogIndex(9) };
    refused(&scene, elsewhere, Refused::Report(shard(4)));
}

#[test]
fn s3_1_4_a_request_with_another_epoch_learns_the_one_here() {
    let scene = Scene::with_members(3);
    let epoch = scene.state.epoch();
    let check = |asked: u64, expected| assert_eq!(redirect(Epoch(asked), &scene.state), expected, "epoch {asked}");
    check(epoch.0, Redirect::Current);
    check(epoch.0 - 1, Redirect::Stale { epoch });
    check(0, Redirect::Stale { epoch });
    check(epoch.0 + 1, Redirect::Behind { epoch });
    assert_eq!(redirect(Epoch(0), &State::default()), Redirect::Current);
}

#[test]
fn s1_2_9_a_preview_says_what_would_change_and_changes_nothing() {
    let mut scene = Scene::with_members(3);
    let command = scene.command(Action::Remove { node: NodeId(3), force: true });
    let before = scene.state.clone();
    let seen = preview(&scene.state, &command);
    assert_eq!(scene.state, before);
    let (from, to) = (before.epoch(), Epoch(before.epoch().0 + 1));
    let node = NodeId(3);
    assert_eq!(seen.differences[0], Difference::Epoch { from, to });
    assert_eq!(seen.differences[1], Difference::MemberChanged { node, from: "active", to: "removed" });
    let stays = |group: Group| {
        let mut after = scene.clone();
        after.apply(&command).expect("accepted");
        after.voters(group)[0]
    };
    for group in scene.cluster().groups().collect::<Vec<_>>() {
        let removed: Vec<NodeId> = [1, 2, 3].into_iter().filter(|&node| node != stays(group)).map(NodeId).collect();
        assert!(seen.differences.contains(&Difference::Voters { group, added: vec![], removed }), "{group}");
    }
    assert!(seen.differences.contains(&Difference::CertificateRevoked(serial(3))));
    assert_eq!(scene.apply(&command), seen.outcome);

    let refused = scene.command(Action::Drain { node: NodeId(9) });
    let seen = preview(&scene.state, &refused);
    assert_eq!((seen.outcome, seen.differences), (Err(Refused::UnknownNode(NodeId(9))), vec![]));
    let mut empty = Scene::empty();
    let command = empty.command(Action::Bootstrap(bootstrap(3)));
    let formed = vec![Difference::Epoch { from: Epoch(0), to: Epoch(1) }, Difference::MemberAdded(NodeId(1))];
    assert_eq!(preview(&empty.state, &command).differences, formed);
}

#[test]
fn s1_1_2_words_are_checked_where_they_enter() {
    use crate::control::{Address, Domain, Name, Role};
    let names = [
        ("a", true),
        ("mcp-eu-01", true),
        ("", false),
        ("-a", false),
        ("a-", false),
        ("A", false),
        ("a.b", false),
        ("ü", false),
    ];
    for (text, fits) in names {
        assert_eq!(text.parse::<Name>().is_ok(), fits, "name {text:?}");
    }
    assert!("a".repeat(63).parse::<Name>().is_ok() && "a".repeat(64).parse::<Name>().is_err());
    for (text, fits) in [("qudag.net", true), ("localhost", true), ("a..b", false), ("", false), (".", false)] {
        assert_eq!(text.parse::<Domain>().is_ok(), fits, "domain {text:?}");
    }
    assert!(vec!["a"; 127].join(".").parse::<Domain>().is_ok() && vec!["a"; 128].join(".").parse::<Domain>().is_err());
    let places = [
        ("127.0.0.1:7000", true),
        ("[::1]:7000", true),
        ("n1.qudag.net:65535", true),
        ("n1", false),
        ("n1:0", false),
        ("n1:65536", false),
        ("n1:07", false),
        ("n1:+7", false),
        ("::1:7000", false),
        ("[::1:7000", false),
        ("[n1]:7000", false),
        (":7000", false),
        ("n1 :7000", false),
    ];
    for (text, fits) in places {
        assert_eq!(text.parse::<Address>().is_ok(), fits, "address {text:?}");
    }
    for role in Role::ALL {
        assert_eq!(role.name().parse(), Ok(role));
    }
    assert!(Roles::try_from(1 << 11).is_err());
    assert_eq!(storage_only().to_string(), "storage");
    assert_eq!(Roles::all().iter().count(), 11);
}
