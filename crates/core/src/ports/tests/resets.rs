//! A path that eats resets: noticed early, and lived with.

use super::*;

#[test]
fn the_first_tuples_are_reused_at_once() {
    let ledger = ledger(&spec(1, 1, 100, 0), 1);
    let mut ports = Vec::new();
    for now_ms in 0..u64::from(CANARIES) + 3 {
        let lease = take(&ledger, 0, now_ms).unwrap();
        ports.push(lease.port());
        give(&ledger, 0, lease, Closed::ServerFirst, now_ms);
    }
    let (tried, others) = ports.split_at(CANARIES as usize + 1);
    assert!(tried.iter().all(|port| *port == tried[0]), "{ports:?}");
    assert!(
        !others.contains(&tried[0]) && others[0] != others[1],
        "{ports:?}"
    );
}

/// A ledger whose first three reuses met a connection that the server still had open, and when.
fn on_a_path_that_eats_resets() -> (Ledger, u64) {
    let ledger = ledger(&spec(1, 1, 100, 0), 1);
    for now_ms in 0..3 {
        assert!(!ledger.resets_lost(now_ms));
        let lease = take(&ledger, 0, now_ms).unwrap();
        give(&ledger, 0, lease, Closed::ServerFirst, now_ms);
        let reused = take(&ledger, 0, now_ms).unwrap();
        assert!(reused.is_reused());
        give(&ledger, 0, reused, Closed::OpenAtServer, now_ms);
    }
    (ledger, 2)
}

#[test]
fn lost_resets_are_noticed_by_the_third_reuse() {
    let (ledger, now_ms) = on_a_path_that_eats_resets();
    assert!(ledger.resets_lost(now_ms));
    assert!(ledger.resets_lost(now_ms + 299_999));
    assert!(!ledger.resets_lost(now_ms + 300_000));
    // Then the first ones are tried out at once, as at the start.
    let lease = take(&ledger, 0, 400_000).unwrap();
    let port = lease.port();
    give(&ledger, 0, lease, Closed::ServerFirst, 400_000);
    assert_eq!(take(&ledger, 0, 400_000).map(|l| l.port()), Some(port));
}

#[test]
fn while_resets_are_lost_what_was_reset_waits_and_what_had_our_fin_does_not() {
    let (ledger, now_ms) = on_a_path_that_eats_resets();
    let leases = take_all(&ledger, 0, now_ms);
    assert_eq!(leases.len(), 97, "three wait, open at the server");
    for (number, lease) in leases.into_iter().enumerate() {
        let how = [Closed::ServerFirst, Closed::Reset, Closed::ServerFirstFin];
        give(&ledger, 0, lease, how[number % 3], now_ms);
    }
    let again = take_all(&ledger, 0, now_ms + 10);
    assert_eq!(again.len(), 32, "every third");
    assert_eq!(ledger.stats()[0].time_wait, 68);
    assert_eq!(take_all(&ledger, 0, now_ms + TIME_WAIT_MS + 200).len(), 68);
}

#[test]
fn what_rested_after_a_reset_waits_once_resets_are_lost() {
    let ledger = ledger(&spec(1, 1, 100, 2), 2);
    ledger.canaries.store(0, Ordering::Relaxed);
    let leases = take_all(&ledger, 0, 1_000);
    assert_eq!(leases.len(), 98);
    for lease in leases {
        give(&ledger, 1, lease, Closed::ServerFirst, 1_000);
    }
    for _ in 0..3 {
        let mut lease = take(&ledger, 0, 1_500).unwrap();
        lease.mark_old_connection_answered();
        give(&ledger, 0, lease, Closed::NotConnected, 1_500);
    }
    assert!(ledger.resets_lost(1_500));
    let row = ledger.stats()[0];
    assert_eq!((row.time_wait, row.resting, row.reserved), (95, 3, 2));
    assert!(take_all(&ledger, 1, 30_000).len() <= 3);
    assert_eq!(take_all(&ledger, 0, 61_200).len(), 95);
}
