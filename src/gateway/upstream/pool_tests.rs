//! The choice of endpoints and what puts one out, at times that the tests say.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

use super::*;

fn pool(count: usize, change: impl Fn(&mut Pooling)) -> Pool {
    let mut rule = Pooling::default();
    change(&mut rule);
    let urls: Vec<String> = (0..count).map(|at| format!("http://10.0.0.{at}/mcp")).collect();
    Pool::new(rule, &urls, 100)
}

/// How often each of them is chosen, out of that many times.
fn chosen(pool: &Pool, times: u64, now: u64, key: impl Fn(u64) -> Option<u64>) -> Vec<u64> {
    let mut counts = vec![0; pool.endpoints.len()];
    let mut turns = Turns::new(7);
    for number in 0..times {
        counts[pool.choose(0, key(number), &[], &mut turns, now).unwrap().0] += 1;
    }
    counts
}

fn fail(pool: &Pool, at: usize, failed: u64, calls: u64, now: u64) {
    for number in 0..calls {
        pool.ended(at, if number < calls - failed { Outcome::Well } else { Outcome::Failed }, now);
    }
}

#[test]
fn s4_1_2_round_robin_gives_each_its_turn_and_a_slow_one_a_quarter() {
    let pool = pool(3, |_| {});
    assert_eq!(chosen(&pool, 300, 1, |_| None), [100, 100, 100]);
    for at in 0..3 {
        pool.answered(at, Duration::from_millis(if at == 0 { 900 } else { 20 }), 1);
    }
    assert_eq!(chosen(&pool, 90, 1, |_| None), [10, 40, 40], "S4.1-8: degraded, not ejected");
    for at in 1..3 {
        (0..20).for_each(|_| pool.answered(at, Duration::from_millis(800), 1));
    }
    assert_eq!(chosen(&pool, 90, 1, |_| None), [30, 30, 30], "where all are slow, none is an outlier");
}

#[test]
fn s4_1_3_the_least_loaded_of_two_is_chosen_and_a_cold_one_is_not_flooded() {
    let pool = pool(2, |rule| rule.balance = Balance::LeastLoaded);
    pool.answered(0, Duration::from_millis(10), 1);
    let mut counts = [0; 2];
    let mut turns = Turns::new(1);
    for _ in 0..20 {
        let (at, _) = pool.choose(0, None, &[], &mut turns, 1).unwrap();
        pool.begin(at, false, 1);
        counts[at] += 1;
    }
    assert_eq!(counts, [10, 10], "calls in flight keep the two even");
    pool.answered(1, Duration::from_millis(100), 1);
    assert_eq!(chosen(&pool, 10, 1, |_| None), [10, 0], "ten times the latency");
}

#[test]
fn s4_1_4_a_key_keeps_its_endpoint_but_for_those_of_one_that_went_and_the_load_is_bounded() {
    let pool = pool(5, |rule| rule.balance = Balance::Hash);
    let mut turns = Turns::new(1);
    let mut place = |pool: &Pool, key: u64| pool.choose(0, Some(mix(key)), &[], &mut turns, 1).unwrap().0;
    let before: Vec<usize> = (0..1000).map(|key| place(&pool, key)).collect();
    assert!((0..5).all(|at| 120 < before.iter().filter(|&&one| one == at).count()), "spread: {before:?}");
    (0..3).for_each(|_| pool.checked(2, false, 1));
    for (key, &at) in before.iter().enumerate() {
        let after = place(&pool, key as u64);
        assert!(if at == 2 { after != 2 } else { after == at }, "only the keys of the one that went move");
    }
    for _ in 0..40 {
        let at = place(&pool, 1);
        pool.begin(at, false, 1);
    }
    let most = pool.endpoints.iter().map(|endpoint| endpoint.open.load(Relaxed)).max().unwrap();
    assert!(most <= 13, "one key, 40 calls, 4 endpoints, a quarter more than the even share: {most}");
}

#[test]
fn s4_1_6_three_bad_checks_put_one_out_two_good_ones_bring_it_back_slowly() {
    let pool = pool(2, |_| {});
    (0..2).for_each(|_| pool.checked(0, false, 1));
    assert_eq!(pool.well(1), 0b11);
    pool.checked(0, false, 1);
    assert_eq!(pool.well(1), 0b10);
    pool.checked(0, true, 2);
    pool.checked(0, false, 2);
    pool.checked(0, true, 3);
    assert_eq!(pool.well(3), 0b10, "one good check in a row is not two");
    pool.checked(0, true, 4);
    assert_eq!(pool.well(4), 0b11);
    assert_eq!((pool.weight(0, 4), pool.weight(0, 5004), pool.weight(0, 10_004)), (10, 55, 100));
    (0..3).for_each(|_| (0..2).for_each(|at| pool.checked(at, false, 5)));
    let choice = pool.choose(0, None, &[], &mut Turns::new(1), 5);
    assert_eq!(choice.unwrap().1, "all are out", "where all are out, all are tried");
}

#[test]
fn s4_1_7_five_percent_of_twenty_calls_eject_and_the_floor_holds() {
    let pool = pool(4, |_| {});
    fail(&pool, 0, 1, 19, 1);
    assert_eq!(pool.well(1), 0b1111, "too few to conclude");
    fail(&pool, 0, 1, 1, 1);
    assert_eq!(pool.well(1), 0b1110);
    for _ in 0..100 {
        pool.ended(1, Outcome::Neither, 1);
    }
    assert_eq!(pool.well(1), 0b1110, "busy and not allowed never count");
    fail(&pool, 1, 20, 20, 1);
    fail(&pool, 2, 20, 20, 1);
    fail(&pool, 3, 20, 20, 1);
    assert_eq!(pool.well(1), 0b1100, "half of them stay in");
    assert_eq!(pool.well(30_000), 0b1100);
    assert_eq!(pool.well(30_001), 0b1111, "the time is over");
    assert_eq!(pool.weight(0, 30_001), 10);
    fail(&pool, 0, 20, 20, 40_000);
    assert_eq!(pool.well(99_999) & 1, 0, "twice as long the second time");
    assert_eq!(pool.well(100_000) & 1, 1);
}

#[test]
fn s4_1_7_a_single_endpoint_is_never_ejected() {
    let pool = pool(1, |_| {});
    fail(&pool, 0, 100, 100, 1);
    assert_eq!(pool.well(1), 1);
}

#[test]
fn s4_1_9_an_open_breaker_leads_to_another_endpoint_and_all_open_say_when() {
    let pool = pool(2, |_| {});
    let rule = &pool.rule.breaker;
    let breakers = [Breaker::new(rule), Breaker::new(rule)];
    (0..10).for_each(|_| breakers[0].failed(rule, 1));
    let mut turns = Turns::new(1);
    for _ in 0..4 {
        assert_eq!(pool.choose(0, None, &breakers, &mut turns, 1).unwrap().0, 1);
    }
    assert_eq!(pool.choose(0b10, None, &breakers, &mut turns, 1), Err(30_000));
    (0..10).for_each(|_| breakers[1].failed(rule, 1001));
    assert_eq!(pool.choose(0, None, &breakers, &mut turns, 1001), Err(29_000), "the sooner of the two");
}

#[test]
fn s3_1_4_retries_are_a_fifth_of_the_calls_and_a_few_more() {
    let pool = pool(2, |_| {});
    (0..100).for_each(|_| pool.begin(0, false, 1));
    let granted = (0..100).filter(|_| pool.may_retry(1)).count();
    assert_eq!(granted, 30, "20 of 100 calls, and one a second for ten seconds");
    assert_eq!(pool.retried(), (30, 70));
    assert!(pool.may_retry(20_000), "what is older is forgotten");
}

#[test]
fn s4_1_9_what_is_shown_of_an_address_has_no_secret() {
    assert_eq!(shown("https://user:word@host:8443/mcp?token=secret"), "https://host:8443/mcp");
}
