use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn member(name: &str, weight: u32) -> Member {
    Member::new(name, weight, false, true)
}

fn members(weights: &[u32]) -> Vec<Member> {
    weights
        .iter()
        .enumerate()
        .map(|(i, &w)| member(&format!("db{i}"), w))
        .collect()
}

fn idle(_: usize) -> Live {
    Live::default()
}

fn client(n: u32) -> Request {
    let address = Ipv4Addr::from(0x0a00_0000 + n);
    Request {
        client: Some(address.into()),
        random: 0,
    }
}

fn random(state: &mut u64) -> Request {
    *state = state.wrapping_add(1);
    Request {
        client: None,
        random: hash::mix(*state),
    }
}

const ALL: [Algorithm; 5] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConn,
    Algorithm::Random2,
    Algorithm::First,
    Algorithm::ClientHash,
];

#[test]
fn every_name_of_the_configuration_is_known() {
    let names = ["roundrobin", "leastconn", "random2", "first", "client-hash"];
    assert_eq!(names.map(|n| Algorithm::from_name(n).unwrap()), ALL);
    assert_eq!(Algorithm::from_name("source"), None);
}

#[test]
fn round_robin_gives_exact_shares() {
    let list = members(&[100, 1_000, 1_000]);
    let mut balancer = Balancer::new(Algorithm::RoundRobin, &list, 0);
    let mut count = [0; 3];
    for _ in 0..2_100 {
        count[balancer
            .pick(&list, idle, Request::default())
            .member()
            .unwrap()] += 1;
    }
    assert_eq!(count, [100, 1_000, 1_000]);
}

#[test]
fn round_robin_is_smooth() {
    let list = members(&[500, 100, 100]);
    let mut balancer = Balancer::new(Algorithm::RoundRobin, &list, 0);
    let picks: Vec<_> = (0..7)
        .map(|_| {
            balancer
                .pick(&list, idle, Request::default())
                .member()
                .unwrap()
        })
        .collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn workers_begin_on_different_servers() {
    let list = members(&[100; 8]);
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConn] {
        let mut first: Vec<_> = (0..8)
            .map(|worker| {
                Balancer::new(algorithm, &list, worker).pick(&list, idle, Request::default())
            })
            .filter_map(Choice::member)
            .collect();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

#[test]
fn a_reload_keeps_the_round() {
    let old = members(&[100, 100, 100]);
    let mut balancer = Balancer::new(Algorithm::RoundRobin, &old, 0);
    assert_eq!(
        balancer.pick(&old, idle, Request::default()),
        Choice::Member(0)
    );
    // db0 moved to the end and db3 is new; db0 has just been used, so it is not next.
    let new = [member("db3", 100), old[1], old[2], old[0]];
    balancer.rebuild(Algorithm::RoundRobin, &new);
    let mut picks: Vec<_> = (0..3)
        .filter_map(|_| balancer.pick(&new, idle, Request::default()).member())
        .collect();
    picks.sort_unstable();
    assert_eq!(picks, [0, 1, 2]);
}

#[test]
fn weight_zero_takes_nothing_and_lets_backups_in() {
    for algorithm in ALL {
        let mut list = members(&[0, 100]);
        let mut balancer = Balancer::new(algorithm, &list, 0);
        for n in 0..50 {
            assert_eq!(balancer.pick(&list, idle, client(n)), Choice::Member(1));
        }
        list[1].backup = true;
        assert_eq!(balancer.pick(&list, idle, client(1)), Choice::Member(1));
    }
}

#[test]
fn backups_wait_until_nobody_else_is_eligible() {
    for algorithm in ALL {
        let mut list = members(&[100, 100, 100]);
        list[0].backup = true;
        let mut balancer = Balancer::new(algorithm, &list, 0);
        for n in 0..50 {
            assert_ne!(balancer.pick(&list, idle, client(n)), Choice::Member(0));
        }
        list[1].eligible = false;
        for n in 0..50 {
            assert_eq!(balancer.pick(&list, idle, client(n)), Choice::Member(2));
        }
        list[2].eligible = false;
        assert_eq!(balancer.pick(&list, idle, client(1)), Choice::Member(0));
        list[0].eligible = false;
        assert_eq!(balancer.pick(&list, idle, client(1)), Choice::Nobody);
        assert_eq!(balancer.pick(&list, idle, client(1)).member(), None);
    }
}

#[test]
fn full_is_not_down_but_excluded_is() {
    for algorithm in ALL {
        let mut list = members(&[100, 100, 100]);
        list[2].backup = true;
        let mut balancer = Balancer::new(algorithm, &list, 0);
        let full = |i| Live {
            full: i < 2,
            ..Live::default()
        };
        assert_eq!(balancer.pick(&list, full, client(1)), Choice::Full);
        let one_full = |i| Live {
            full: i == 0,
            ..Live::default()
        };
        assert_eq!(balancer.pick(&list, one_full, client(1)), Choice::Member(1));
        let one_tried = |i| Live {
            excluded: i == 1,
            ..Live::default()
        };
        assert_eq!(
            balancer.pick(&list, one_tried, client(1)),
            Choice::Member(0)
        );
        let both_tried = |i| Live {
            excluded: i < 2,
            ..Live::default()
        };
        assert_eq!(
            balancer.pick(&list, both_tried, client(1)),
            Choice::Member(2)
        );
        let tried_and_full = |i| Live {
            excluded: i == 0,
            full: i == 1,
            load: 9,
        };
        assert_eq!(
            balancer.pick(&list, tried_and_full, client(1)),
            Choice::Full
        );
    }
}

#[test]
fn a_slot_lost_between_the_two_looks_means_full() {
    let list = members(&[100]);
    for algorithm in ALL {
        let looks = std::cell::Cell::new(0);
        let racing = |_| {
            looks.set(looks.get() + 1);
            Live {
                full: looks.get() > 1,
                ..Live::default()
            }
        };
        let mut balancer = Balancer::new(algorithm, &list, 0);
        assert_eq!(balancer.pick(&list, racing, client(1)), Choice::Full);
    }
}

#[test]
fn first_fills_in_order() {
    let list = members(&[100, 1, 100]);
    let mut balancer = Balancer::new(Algorithm::First, &list, 2);
    for filled in 0..3 {
        let live = |i| Live {
            full: i < filled,
            ..Live::default()
        };
        assert_eq!(
            balancer.pick(&list, live, Request::default()),
            Choice::Member(filled)
        );
    }
}

/// Sessions come and end at random; the load must settle in proportion to the weights.
fn settled_load(algorithm: Algorithm, weights: &[u32], sessions: usize) -> Vec<u32> {
    let list = members(weights);
    let mut balancer = Balancer::new(algorithm, &list, 0);
    let (mut load, mut running, mut seed) = (vec![0; list.len()], Vec::new(), 7);
    for _ in 0..sessions * 20 {
        if running.len() == sessions {
            let ended = random(&mut seed).random as usize % running.len();
            load[running.swap_remove(ended)] -= 1;
        }
        let live = |i: usize| Live {
            load: load[i],
            ..Live::default()
        };
        let index = balancer
            .pick(&list, live, random(&mut seed))
            .member()
            .unwrap();
        load[index] += 1;
        running.push(index);
    }
    load
}

#[test]
fn leastconn_keeps_the_load_in_proportion() {
    let load = settled_load(Algorithm::LeastConn, &[100, 1_000, 1_000], 210);
    assert!((9..=11).contains(&load[0]), "{load:?}");
    assert!(
        load[1].abs_diff(100) <= 1 && load[2].abs_diff(100) <= 1,
        "{load:?}"
    );
}

#[test]
fn random2_keeps_the_load_close_to_proportion() {
    let load = settled_load(Algorithm::Random2, &[100, 200, 300, 400], 1_000);
    for (index, &sessions) in load.iter().enumerate() {
        assert!(
            sessions.abs_diff(100 * (index as u32 + 1)) <= 15,
            "{load:?}"
        );
    }
}

#[test]
fn leastconn_ties_take_turns() {
    let list = members(&[100, 100, 100]);
    let mut balancer = Balancer::new(Algorithm::LeastConn, &list, 0);
    let picks: Vec<_> = (0..6)
        .filter_map(|_| balancer.pick(&list, idle, Request::default()).member())
        .collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
}

fn owners(list: &[Member], clients: u32) -> Vec<Choice> {
    let mut balancer = Balancer::new(Algorithm::ClientHash, list, 0);
    (0..clients)
        .map(|n| balancer.pick(list, idle, client(n)))
        .collect()
}

#[test]
fn client_hash_shares_follow_the_weights() {
    let list = members(&[100, 1_000, 1_000, 2_900]);
    let owned = owners(&list, 50_000);
    for (index, member) in list.iter().enumerate() {
        let count = owned
            .iter()
            .filter(|&&o| o == Choice::Member(index))
            .count() as f64;
        let expected = 50_000.0 * f64::from(member.weight()) / 5_000.0;
        assert!(
            (count - expected).abs() < 5.0 * expected.sqrt(),
            "{index}: {count} of {expected}"
        );
    }
}

#[test]
fn client_hash_moves_only_the_clients_of_the_member_that_leaves() {
    let mut list = members(&[100, 200, 300, 400]);
    let before = owners(&list, 10_000);
    list[2].eligible = false;
    let after = owners(&list, 10_000);
    for (old, new) in before.iter().zip(&after) {
        assert!(if *old == Choice::Member(2) {
            new != old
        } else {
            new == old
        });
    }
}

#[test]
fn client_hash_moves_only_to_the_member_that_gains_weight() {
    let light = members(&[100, 100, 100, 100]);
    let heavy = members(&[100, 100, 200, 100]);
    let (before, after) = (owners(&light, 10_000), owners(&heavy, 10_000));
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
    assert!(moved.clone().all(|(_, new)| *new == Choice::Member(2)));
    // From 1/4 to 2/5 of the clients.
    assert!(moved.count().abs_diff(1_500) < 200);
}

#[test]
fn client_hash_does_not_depend_on_order_or_listener() {
    let list = members(&[100, 100, 100]);
    let mut reversed = list.clone();
    reversed.reverse();
    let (a, b) = (owners(&list, 1_000), owners(&reversed, 1_000));
    assert!(a
        .iter()
        .zip(&b)
        .all(|(a, b)| a.member().unwrap() + b.member().unwrap() == 2));

    let mut balancer = Balancer::new(Algorithm::ClientHash, &list, 0);
    for n in 0..1_000 {
        let v4 = Ipv4Addr::from(0x0a00_0000 + n);
        let mapped = Request {
            client: Some(IpAddr::V6(v4.to_ipv6_mapped())),
            random: 0,
        };
        assert_eq!(
            balancer.pick(&list, idle, mapped),
            balancer.pick(&list, idle, client(n))
        );
    }
}

#[test]
fn client_hash_is_the_same_in_every_release() {
    // Frozen: a change here moves every user's clients at an upgrade.
    let list = members(&[100, 200, 300]);
    let mut balancer = Balancer::new(Algorithm::ClientHash, &list, 0);
    let six = Request {
        client: Some(Ipv6Addr::LOCALHOST.into()),
        random: 0,
    };
    let owned: Vec<_> = (0..16)
        .map(client)
        .chain([six])
        .filter_map(|request| balancer.pick(&list, idle, request).member())
        .collect();
    assert_eq!(owned, FROZEN);
}

const FROZEN: [usize; 17] = [2, 2, 2, 0, 1, 2, 0, 1, 2, 2, 2, 1, 1, 1, 2, 0, 1];

#[test]
fn rendezvous_cost_is_minus_log2() {
    let unit = (1_u64 << 40) as f64;
    for hash in [
        0_u64,
        1,
        2,
        0xffff,
        1 << 40,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ] {
        let exact = 64.0 - ((u128::from(hash) + 1) as f64).log2();
        let cost = hash::rendezvous_cost(hash) as f64 / unit;
        assert!((cost - exact).abs() < 1e-9, "{hash}: {cost} {exact}");
    }
}

fn any_member() -> impl Strategy<Value = (Member, Live)> {
    let weight = prop_oneof![Just(0_u32), 1..400_u32, Just(25_600), Just(MAX_WEIGHT)];
    let load = prop_oneof![0..20_u32, Just(u32::MAX)];
    (
        weight,
        any::<(bool, bool, bool)>(),
        prop::bool::weighted(0.8),
        load,
    )
        .prop_map(|(weight, (backup, full, excluded), eligible, load)| {
            (
                Member::new("", weight, backup, eligible),
                Live {
                    load,
                    full,
                    excluded,
                },
            )
        })
}

/// The rules of the module, written the slow way.
fn naive_candidates(list: &[Member], live: &[Live]) -> Result<Vec<usize>, Choice> {
    let present = |backup: bool| -> Vec<usize> {
        (0..list.len())
            .filter(|&i| {
                let m = &list[i];
                m.backup == backup && m.eligible && m.weight() > 0 && !live[i].excluded
            })
            .collect()
    };
    let tier = if present(false).is_empty() {
        present(true)
    } else {
        present(false)
    };
    if tier.is_empty() {
        return Err(Choice::Nobody);
    }
    let open: Vec<_> = tier.into_iter().filter(|&i| !live[i].full).collect();
    if open.is_empty() {
        Err(Choice::Full)
    } else {
        Ok(open)
    }
}

proptest! {
    #[test]
    fn every_algorithm_chooses_among_the_candidates(
        spec in prop::collection::vec(any_member(), 0..12), random: u64, address: u32,
    ) {
        let (mut list, live): (Vec<_>, Vec<_>) = spec.into_iter().unzip();
        for (index, member) in list.iter_mut().enumerate() {
            *member = Member::new(&index.to_string(), member.weight, member.backup, member.eligible);
        }
        let expected = naive_candidates(&list, &live);
        for client in [None, Some(Ipv4Addr::from(address).into())] {
            for algorithm in ALL {
                let mut balancer = Balancer::new(algorithm, &list, random as usize);
                for _ in 0..4 {
                    let choice = balancer.pick(&list, |i| live[i], Request { client, random });
                    match &expected {
                        Err(other) => prop_assert_eq!(choice, *other),
                        Ok(open) => {
                            let index = choice.member().unwrap();
                            prop_assert!(open.contains(&index));
                            if algorithm == Algorithm::First {
                                prop_assert_eq!(index, open[0]);
                            }
                            if algorithm == Algorithm::LeastConn {
                                let cost = |i: usize| (f64::from(live[i].load) + 1.0) / f64::from(list[i].weight());
                                prop_assert!(open.iter().all(|&i| cost(index) <= cost(i) * (1.0 + 1e-9)));
                            }
                        }
                    }
                }
            }
        }
    }

    /// At any moment everybody is less than one session per other member away from its exact share.
    #[test]
    fn round_robin_never_drifts(weights in prop::collection::vec(1..300_u32, 1..12), picks in 1..2_000_u32) {
        let list = members(&weights);
        let mut balancer = Balancer::new(Algorithm::RoundRobin, &list, 0);
        let mut count = vec![0_u32; list.len()];
        for _ in 0..picks {
            count[balancer.pick(&list, idle, Request::default()).member().unwrap()] += 1;
        }
        let total: u32 = weights.iter().sum();
        for (got, weight) in count.iter().zip(&weights) {
            let exact = f64::from(picks) * f64::from(*weight) / f64::from(total);
            prop_assert!((f64::from(*got) - exact).abs() < list.len().max(2) as f64 - 0.999_999);
        }
    }

    /// Members come, go and change weight at random; afterwards shares are right within one round.
    #[test]
    fn round_robin_recovers_from_any_history(
        history in prop::collection::vec((0..5_usize, 0..MAX_WEIGHT, any::<bool>()), 0..200),
    ) {
        let mut list = members(&[100, 100, 200, 300, 300]);
        let target = list.clone();
        let mut balancer = Balancer::new(Algorithm::RoundRobin, &list, 0);
        for (index, weight, eligible) in history {
            list[index].weight = weight;
            list[index].eligible = eligible;
            balancer.pick(&list, idle, Request::default());
        }
        for _ in 0..100 {
            balancer.pick(&target, idle, Request::default());
        }
        let mut count = [0_u32; 5];
        for _ in 0..100 {
            count[balancer.pick(&target, idle, Request::default()).member().unwrap()] += 1;
        }
        prop_assert_eq!(count, [10, 10, 20, 30, 30]);
    }
}
