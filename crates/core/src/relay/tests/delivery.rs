//! No close destroys bytes that somebody was entitled to read.

use super::*;

#[test]
fn a_slow_reader_does_not_make_its_server_late() {
    let stuck = Unsent {
        to_server: false,
        to_client: true,
    };
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 4);
    relay.server_bytes(b"\x01\0\0\x01\x01", 5);
    relay.client_eof();
    assert!(matches!(
        relay.decide(6, &RULES, stuck),
        Action::SendToServer(_)
    ));
    // The server is not read meanwhile, so its FIN cannot be seen.
    assert_eq!(relay.decide(5_000, &RULES, stuck), Action::Wait(None));
    relay.server_bytes(b"more", 5_001);
    assert_eq!(wait(&mut relay, 5_001), Some(6_001));
}

#[test]
fn a_reply_that_flows_to_a_client_is_not_abandoned() {
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 4);
    relay.client_eof();
    assert!(matches!(decide(&mut relay, 5), Action::SendToServer(_)));
    assert_eq!(wait(&mut relay, 5), Some(30_005));
    assert_eq!(relay.server_bytes(b"row", 20_000), ServerBytes::Forward);
    assert_eq!(wait(&mut relay, 20_000), Some(50_000));
    relay.client_lost();
    decide(&mut relay, 20_001);
    assert_eq!(wait(&mut relay, 20_001), Some(30_005));
}

#[test]
fn a_reply_reaches_the_client_that_said_quit_before_it() {
    // With its FIN: nothing is closed while the reply is due.
    let mut relay = logged_in();
    relay.client_bytes(&[QUERY, QUIT].concat(), 4);
    relay.client_eof();
    assert_eq!(wait(&mut relay, 5), Some(30_005));
    assert_eq!(wait(&mut relay, 1_000), Some(30_005));
    assert_eq!(relay.server_bytes(b"row", 1_001), ServerBytes::Forward);

    // In the middle of the reply, without a FIN: the time counts from the last bytes.
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 4);
    relay.server_bytes(b"row", 5);
    relay.client_bytes(QUIT, 6);
    assert_eq!(decide(&mut relay, 6), Action::AskClientRtt);
    relay.client_rtt(0);
    assert_eq!(wait(&mut relay, 6), Some(11));
    relay.server_bytes(b"row", 10);
    assert_eq!(wait(&mut relay, 10), Some(15));
}

#[test]
fn a_reply_behind_the_clients_fin_is_not_destroyed_by_an_rst() {
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 4);
    relay.client_eof();
    assert!(matches!(decide(&mut relay, 5), Action::SendToServer(_)));
    assert_eq!(relay.server_bytes(b"rows", 6), ServerBytes::Forward);
    relay.server_eof();
    assert!(matches!(decide(&mut relay, 7), Action::CloseServer(_)));
    assert_eq!(
        decide(&mut relay, 7),
        Action::CloseClient(ClientClose::Linger2)
    );
}

#[test]
fn closes_at_once_wait_for_our_quit_and_for_a_reply_that_is_due() {
    for to_server in [ToServer::Linger2, ToServer::ResetNow, ToServer::Fin] {
        let rules = Rules { to_server, ..RULES };
        let stuck = Unsent {
            to_server: true,
            to_client: false,
        };
        let mut relay = logged_in();
        relay.client_eof();
        assert_eq!(
            relay.decide(10, &rules, Unsent::default()),
            Action::SendToServer(QUIT.to_vec())
        );
        assert_eq!(relay.decide(10, &rules, stuck), Action::Wait(Some(1_010)));
        assert!(matches!(
            relay.decide(11, &rules, Unsent::default()),
            Action::CloseServer(_)
        ));

        let mut relay = logged_in();
        relay.client_bytes(&[QUERY, QUIT].concat(), 10);
        let waits = relay.decide(10, &rules, Unsent::default());
        assert_eq!(waits, Action::Wait(Some(30_010)));
        relay.client_lost();
        relay.decide(11, &rules, Unsent::default());
        let gone = relay.decide(11, &rules, Unsent::default());
        if to_server == ToServer::Linger2 {
            assert_eq!(gone, Action::Wait(Some(30_010)));
        } else {
            assert!(matches!(gone, Action::CloseServer(_)));
        }
    }
}

#[test]
fn bytes_on_their_way_when_the_clients_fin_comes_are_not_destroyed_by_an_rst() {
    let mut relay = logged_in();
    relay.client_eof();
    relay.client_is_owed();
    assert_eq!(decide(&mut relay, 5), Action::SendToServer(QUIT.to_vec()));
    relay.server_eof();
    assert_eq!(
        decide(&mut relay, 6),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert_eq!(
        decide(&mut relay, 6),
        Action::CloseClient(ClientClose::Linger2)
    );
    assert_eq!(decide(&mut relay, 6), Action::Done);
}

#[test]
fn a_reply_behind_the_clients_quit_is_not_destroyed_by_an_rst() {
    let mut relay = logged_in();
    relay.client_bytes(&[QUERY, QUIT].concat(), 4);
    assert_eq!(relay.server_bytes(b"rows", 6), ServerBytes::Forward);
    relay.server_eof();
    relay.client_eof();
    assert!(matches!(decide(&mut relay, 7), Action::CloseServer(_)));
    assert_eq!(
        decide(&mut relay, 7),
        Action::CloseClient(ClientClose::Linger2)
    );
}

#[test]
fn bytes_that_were_stuck_when_the_client_left_are_not_destroyed() {
    let stuck = Unsent {
        to_server: false,
        to_client: true,
    };
    let mut relay = logged_in();
    relay.client_bytes(QUIT, 10);
    relay.client_eof();
    relay.decide(10, &RULES, stuck);
    relay.server_eof();
    assert!(matches!(decide(&mut relay, 11), Action::CloseServer(_)));
    assert_eq!(
        decide(&mut relay, 11),
        Action::CloseClient(ClientClose::Linger2)
    );
}

#[test]
fn closes_at_once_wait_while_a_client_reads_slowly() {
    let stuck = Unsent {
        to_server: false,
        to_client: true,
    };
    let rules = Rules {
        to_server: ToServer::Linger2,
        ..RULES
    };
    let mut relay = logged_in();
    relay.client_bytes(QUIT, 10);
    assert_eq!(relay.decide(10, &rules, stuck), Action::Wait(None));
    assert_eq!(
        relay.decide(500, &rules, Unsent::default()),
        Action::CloseServer(ServerClose::Linger2)
    );
}
