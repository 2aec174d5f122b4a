//! Until the server has said OK: attempts, refusals, clients that leave early.

use super::*;

#[test]
fn a_client_that_leaves_before_its_login_does_not_count_against_us() {
    let mut relay = greeted();
    relay.client_eof();
    let Action::SendToServer(bytes) = decide(&mut relay, 5) else {
        panic!("no login of our own")
    };
    assert!(bytes.windows(16).any(|w| w == b"portside-refused"));
    assert_eq!(wait(&mut relay, 5), Some(10_005));
    assert_eq!(
        relay.server_bytes(b"\x05\0\0\x02\xff\x15\x04no", 6),
        ServerBytes::Discard
    );
    wait(&mut relay, 6);
    relay.server_eof();
    assert_eq!(
        decide(&mut relay, 7),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert_eq!(
        decide(&mut relay, 7),
        Action::CloseClient(ClientClose::FinReset)
    );
    assert!(relay.left_before_login());
}

#[test]
fn attempts_fail_by_time_and_by_loss_until_the_greeting_is_out() {
    let mut relay = Relay::new(0);
    relay.connecting(0);
    assert_eq!(wait(&mut relay, 1), Some(3_000));
    assert_eq!(
        decide(&mut relay, 3_000),
        Action::AttemptFailed(Cause::ConnectTimeout)
    );
    relay.attempt_over(3_000);
    relay.connecting(3_000);
    relay.server_lost();
    assert_eq!(
        decide(&mut relay, 3_001),
        Action::AttemptFailed(Cause::ConnectFailed)
    );
    relay.attempt_over(3_001);
    relay.connecting(3_001);
    relay.connected(3_002);
    assert_eq!(wait(&mut relay, 3_002), Some(13_002));
    assert_eq!(
        decide(&mut relay, 13_002),
        Action::AttemptFailed(Cause::NoGreeting)
    );
    relay.attempt_over(13_002);
    relay.refuse(Cause::ConnectTimeout, 13_002);
    let stuck = Unsent {
        to_server: false,
        to_client: true,
    };
    assert!(matches!(
        relay.decide(13_002, &RULES, stuck),
        Action::Wait(None)
    ));
    assert_eq!(wait(&mut relay, 13_002), Some(14_002));
    relay.client_eof();
    assert_eq!(
        decide(&mut relay, 13_003),
        Action::CloseClient(ClientClose::FinReset)
    );
    assert_eq!(decide(&mut relay, 13_003), Action::Done);
    assert_eq!(relay.cause(), Cause::ConnectTimeout);
}

#[test]
fn errors_and_garbage_in_place_of_a_greeting_are_told() {
    let mut relay = Relay::new(0);
    relay.connecting(0);
    relay.connected(0);
    assert_eq!(
        relay.server_bytes(b"\x0a\0\0\0\xff\x10\x04Too man", 1),
        ServerBytes::Refused {
            errno: 1040,
            message: "Too man".into()
        }
    );
    relay.attempt_over(1);
    relay.connecting(1);
    relay.connected(1);
    assert_eq!(
        relay.server_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n", 2),
        ServerBytes::Garbage
    );
}

#[test]
fn half_a_greeting_keeps_nobody() {
    let held = Unsent {
        to_server: false,
        to_client: true,
    };
    let mut relay = Relay::new(0);
    relay.connecting(0);
    relay.connected(1);
    relay.server_bytes(&greeting()[..9], 1);
    relay.client_eof();
    assert_eq!(relay.decide(2, &RULES, held), Action::Wait(Some(1_002)));
    assert_eq!(
        relay.decide(1_002, &RULES, held),
        Action::CloseServer(ServerClose::Cut)
    );
    assert_eq!(
        relay.decide(1_002, &RULES, held),
        Action::CloseClient(ClientClose::FinReset)
    );
    assert_eq!(relay.decide(1_002, &RULES, held), Action::Done);
}

#[test]
fn a_client_that_leaves_before_the_greeting_costs_our_address_nothing() {
    for lost in [false, true] {
        let mut relay = Relay::new(0);
        relay.connecting(0);
        if lost {
            relay.client_lost();
            let gone = Action::CloseClient(ClientClose::Lost);
            assert_eq!(decide(&mut relay, 0), gone);
        } else {
            relay.client_eof();
        }
        // Perhaps established already, and we do not know it yet.
        assert_eq!(wait(&mut relay, 0), Some(CONNECT_GRACE_MS));
        relay.connected(1);
        assert_eq!(wait(&mut relay, 1), Some(1_000));
        relay.server_bytes(&greeting(), 2);
        let Action::SendToServer(bytes) = decide(&mut relay, 2) else {
            panic!("no login of ours");
        };
        assert!(bytes.windows(16).any(|w| w == b"portside-refused"));
        relay.server_bytes(b"\x09\0\0\x02\xff\x15\x04#28000", 3);
        relay.server_eof();
        let closed = Action::CloseServer(ServerClose::EofReset);
        assert_eq!(decide(&mut relay, 3), closed);
        assert_eq!(relay.end_phase(), Phase::Connect);
    }
}

#[test]
fn a_connect_that_hangs_is_given_up_when_its_client_has_left() {
    let mut relay = Relay::new(0);
    relay.connecting(0);
    relay.client_eof();
    assert_eq!(wait(&mut relay, 5), Some(5 + CONNECT_GRACE_MS));
    let lost = Action::CloseServer(ServerClose::Lost);
    assert_eq!(decide(&mut relay, 5 + CONNECT_GRACE_MS), lost);
}

#[test]
fn an_err_in_place_of_a_greeting_sends_nobody_elsewhere_who_has_left() {
    let mut relay = Relay::new(0);
    relay.connecting(0);
    relay.connected(1);
    relay.client_eof();
    wait(&mut relay, 1);
    let err = b"\x07\0\0\0\xff\x10\x04full";
    assert_eq!(relay.server_bytes(err, 2), ServerBytes::Discard);
    relay.server_eof();
    let closed = Action::CloseServer(ServerClose::EofReset);
    assert_eq!(decide(&mut relay, 2), closed);
}

#[test]
fn a_login_left_behind_is_ended_in_the_form_it_agreed_on() {
    let mut relay = greeted();
    let mut login = login();
    login[4] |= 0x20; // CLIENT_COMPRESS
    relay.client_bytes(&login, 2);
    relay.client_lost();
    decide(&mut relay, 3);
    wait(&mut relay, 3);
    assert_eq!(relay.server_bytes(OK, 4), ServerBytes::Discard);
    assert_eq!(
        decide(&mut relay, 4),
        Action::SendToServer(b"\x05\0\0\0\0\0\0\x01\0\0\0\x01".to_vec())
    );
}

#[test]
fn a_client_that_leaves_within_the_servers_ok_still_gets_a_quit() {
    let mut relay = greeted();
    relay.client_bytes(&login(), 2);
    assert_eq!(relay.server_bytes(&OK[..3], 3), ServerBytes::Forward);
    relay.client_eof();
    assert_eq!(wait(&mut relay, 3), Some(1_003));
    assert_eq!(relay.server_bytes(&OK[3..], 4), ServerBytes::Forward);
    assert_eq!(decide(&mut relay, 4), Action::SendToServer(QUIT.to_vec()));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_switch_is_answered_for() {
    let mut relay = greeted();
    relay.client_bytes(&login(), 2);
    let switch = b"\x2c\0\0\x02\xfemysql_native_password\0aaaaaaaaaaaaaaaaaaaa\0";
    assert_eq!(relay.server_bytes(switch, 3), ServerBytes::Forward);
    relay.client_eof();
    let answer = Action::SendToServer(vec![0, 0, 0, 3]);
    assert_eq!(decide(&mut relay, 4), answer);
    wait(&mut relay, 4);
    let denied = b"\x05\0\0\x04\xff\x15\x04no";
    assert_eq!(relay.server_bytes(denied, 5), ServerBytes::Discard);
    relay.server_eof();
    let close = Action::CloseServer(ServerClose::EofReset);
    assert_eq!(decide(&mut relay, 6), close);
}

#[test]
fn a_client_that_answered_a_switch_and_left_is_not_answered_for() {
    let mut relay = greeted();
    relay.client_bytes(&login(), 2);
    let switch = b"\x2c\0\0\x02\xfemysql_native_password\0aaaaaaaaaaaaaaaaaaaa\0";
    relay.server_bytes(switch, 3);
    relay.client_bytes(b"\x04\0\0\x03abcd", 4);
    relay.client_eof();
    wait(&mut relay, 5);
}
