use super::deciding::{CLIENT_FIN_MAX_MS, CONNECT_GRACE_MS};
use super::*;

mod before_login;
mod delivery;

const RULES: Rules = Rules {
    to_server: ToServer::EofReset,
    to_client: ToClient::FinReset,
    deadline_ms: 1_000,
    abandon_bytes: 1 << 20,
    abandon_ms: 30_000,
    tls_hold_ms: 200,
    connect_ms: 3_000,
    login_ms: 10_000,
    idle_ms: None,
};
/// MariaDB 10.11.14's greeting, as recorded in crates/proto/tests/wire.
const GREETING: &[u8] = b"\x5a\0\0\0\x0a5.5.5-10.11.14-MariaDB\0\x08\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0abcdefghijkl\0mysql_native_password\0";
/// Capabilities PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH, user "app", no password.
const LOGIN: &[u8] = b"\x3b\0\0\x01\0\x82\x08\0\0\0\0\x01\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0app\0\0mysql_native_password\0\0";
const OK: &[u8] = b"\x07\0\0\x02\0\0\0\x02\0\0\0";
const QUERY: &[u8] = b"\x09\0\0\0\x03SELECT 1";
const QUIT: &[u8] = b"\x01\0\0\0\x01";

fn greeting() -> Vec<u8> {
    let mut bytes = GREETING.to_vec();
    bytes[0] = (bytes.len() - 4) as u8;
    bytes
}

fn login() -> Vec<u8> {
    let mut bytes = LOGIN.to_vec();
    bytes[0] = (bytes.len() - 4) as u8;
    bytes
}

fn wait(relay: &mut Relay, now: Ms) -> Option<Ms> {
    match relay.decide(now, &RULES, Unsent::default()) {
        Action::Wait(at) => at,
        other => panic!("expected to wait, got {other:?}"),
    }
}

fn decide(relay: &mut Relay, now: Ms) -> Action {
    relay.decide(now, &RULES, Unsent::default())
}

fn greeted() -> Relay {
    let mut relay = Relay::new(0);
    relay.connecting(0);
    relay.connected(1);
    assert_eq!(relay.server_bytes(&greeting()[..9], 1), ServerBytes::Hold);
    assert!(!relay.reads_client());
    assert_eq!(
        relay.server_bytes(&greeting()[9..], 1),
        ServerBytes::Forward
    );
    assert!(relay.reads_client());
    relay
}

fn logged_in() -> Relay {
    let mut relay = greeted();
    relay.client_bytes(&login(), 2);
    assert_eq!(relay.server_bytes(OK, 3), ServerBytes::Forward);
    assert_eq!(relay.phase(), Phase::Command);
    relay
}

#[test]
fn quit_then_both_fins_then_both_resets() {
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 4);
    assert_eq!(relay.phase(), Phase::Query);
    relay.server_bytes(b"\x01\0\0\x01\x01", 5);
    relay.client_bytes(QUIT, 6);
    relay.client_eof();
    assert_eq!(
        wait(&mut relay, 6),
        Some(6 + CLIENT_FIN_MAX_MS).min(Some(1_006))
    );
    relay.server_eof();
    assert_eq!(
        decide(&mut relay, 7),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert_eq!(
        decide(&mut relay, 7),
        Action::CloseClient(ClientClose::FinReset)
    );
    assert_eq!(decide(&mut relay, 7), Action::Done);
    assert_eq!(
        (relay.cause(), relay.end_phase()),
        (Cause::Quit, Phase::Command)
    );
    assert_eq!(relay.commands(), 1);
}

#[test]
fn a_client_that_waits_for_our_fin_loses_five_milliseconds() {
    let mut relay = logged_in();
    relay.client_bytes(QUIT, 10);
    assert_eq!(decide(&mut relay, 10), Action::AskClientRtt);
    relay.client_rtt(0);
    assert_eq!(wait(&mut relay, 10), Some(15));
    assert_eq!(
        decide(&mut relay, 15),
        Action::CloseClient(ClientClose::Linger2)
    );
}

#[test]
fn a_slow_path_gives_the_client_time_but_not_past_the_servers_fin() {
    let mut relay = logged_in();
    relay.client_bytes(QUIT, 10);
    assert_eq!(decide(&mut relay, 10), Action::AskClientRtt);
    relay.client_rtt(50);
    assert_eq!(wait(&mut relay, 10), Some(210));
    relay.server_eof();
    assert_eq!(
        decide(&mut relay, 20),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert_eq!(wait(&mut relay, 20), Some(25));
}

#[test]
fn a_silent_server_is_reset_only_when_it_has_acknowledged_all() {
    for (unacknowledged, close) in [(0, ServerClose::LateReset), (5, ServerClose::LateLinger2)] {
        let mut relay = logged_in();
        relay.client_bytes(QUIT, 10);
        relay.client_eof();
        wait(&mut relay, 10);
        assert_eq!(
            decide(&mut relay, 260),
            Action::CloseClient(ClientClose::FinReset)
        );
        assert_eq!(decide(&mut relay, 1_010), Action::AskUnacknowledged);
        relay.overdue(unacknowledged);
        assert_eq!(decide(&mut relay, 1_010), Action::CloseServer(close));
        assert_eq!(decide(&mut relay, 1_010), Action::Done);
    }
}

#[test]
fn a_client_that_just_leaves_gets_a_quit_from_us() {
    let mut relay = logged_in();
    relay.client_eof();
    assert_eq!(decide(&mut relay, 10), Action::SendToServer(QUIT.to_vec()));
    assert_eq!(wait(&mut relay, 10), Some(1_010));
    relay.server_eof();
    assert_eq!(
        decide(&mut relay, 11),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert_eq!(
        decide(&mut relay, 11),
        Action::CloseClient(ClientClose::FinReset)
    );
    assert_eq!(
        (relay.cause(), relay.end_phase()),
        (Cause::ClientEof, Phase::Command)
    );
}

#[test]
fn our_quit_goes_behind_the_clients_bytes() {
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 4);
    relay.client_eof();
    let stuck = Unsent {
        to_server: true,
        to_client: false,
    };
    assert!(matches!(
        relay.decide(10, &RULES, stuck),
        Action::Wait(Some(1_010))
    ));
    assert_eq!(decide(&mut relay, 20), Action::SendToServer(QUIT.to_vec()));
    // The reply is pending: the long limits hold.
    assert_eq!(wait(&mut relay, 20), Some(30_020));
    assert_eq!(
        decide(&mut relay, 30_020),
        Action::CloseServer(ServerClose::Abandoned)
    );
}

#[test]
fn an_abandoned_result_is_read_up_to_its_limit() {
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 4);
    relay.client_lost();
    assert_eq!(
        decide(&mut relay, 5),
        Action::CloseClient(ClientClose::Lost)
    );
    assert_eq!(decide(&mut relay, 5), Action::SendToServer(QUIT.to_vec()));
    let chunk = vec![0; 1 << 19];
    for _ in 0..2 {
        assert_eq!(relay.server_bytes(&chunk, 6), ServerBytes::Discard);
        wait(&mut relay, 6);
    }
    relay.server_bytes(b"x", 6);
    assert_eq!(
        decide(&mut relay, 6),
        Action::CloseServer(ServerClose::Abandoned)
    );
    assert_eq!(
        (relay.cause(), relay.end_phase()),
        (Cause::ClientReset, Phase::Query)
    );
}

#[test]
fn half_a_packet_cannot_be_followed_by_a_quit() {
    let mut relay = logged_in();
    relay.client_bytes(&QUERY[..7], 4);
    relay.client_eof();
    assert_eq!(decide(&mut relay, 5), Action::CloseServer(ServerClose::Cut));
}

#[test]
fn tls_hides_quit_so_the_clients_fin_is_held_back() {
    let mut relay = greeted();
    relay.client_bytes(
        b"\x20\0\0\x01\0\x8a\x08\0\0\0\0\x01\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        2,
    );
    assert_eq!(relay.phase(), Phase::Tls);
    relay.client_bytes(b"\x16\x03\x01 opaque", 3);
    relay.client_eof();
    assert_eq!(wait(&mut relay, 10), Some(210));
    relay.server_eof();
    assert_eq!(
        decide(&mut relay, 11),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert_eq!(
        decide(&mut relay, 11),
        Action::CloseClient(ClientClose::FinReset)
    );
    assert_eq!(relay.cause(), Cause::Quit);

    let mut relay = greeted();
    relay.client_bytes(
        b"\x20\0\0\x01\0\x8a\x08\0\0\0\0\x01\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        2,
    );
    relay.client_eof();
    wait(&mut relay, 10);
    assert_eq!(
        decide(&mut relay, 210),
        Action::CloseServer(ServerClose::Linger2)
    );
    assert_eq!(relay.cause(), Cause::ClientEof);
}

#[test]
fn a_server_that_closes_first_is_passed_on() {
    let mut relay = logged_in();
    relay.server_eof();
    let stuck = Unsent {
        to_server: false,
        to_client: true,
    };
    assert_eq!(
        relay.decide(10, &RULES, stuck),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert!(matches!(
        relay.decide(500, &RULES, stuck),
        Action::Wait(None)
    ));
    assert_eq!(
        decide(&mut relay, 500),
        Action::CloseClient(ClientClose::Linger2)
    );
    assert_eq!(
        (relay.cause(), relay.end_phase()),
        (Cause::ServerEof, Phase::Command)
    );
}

#[test]
fn maint_waits_for_a_boundary_and_kill_does_not() {
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 100);
    relay.cut(Cause::Killed, true);
    assert_eq!(wait(&mut relay, 500), None);
    relay.server_bytes(b"\x01\0\0\x01\x01", 600);
    assert_eq!(wait(&mut relay, 600), Some(620));
    assert_eq!(decide(&mut relay, 620), Action::SendToServer(QUIT.to_vec()));
    relay.server_eof();
    assert_eq!(
        decide(&mut relay, 621),
        Action::CloseServer(ServerClose::EofReset)
    );
    assert_eq!(wait(&mut relay, 621), Some(626));
    assert_eq!(
        decide(&mut relay, 626),
        Action::CloseClient(ClientClose::Linger2)
    );
    assert_eq!(relay.cause(), Cause::Killed);

    let mut relay = logged_in();
    relay.client_bytes(QUERY, 100);
    relay.cut(Cause::Killed, false);
    assert_eq!(decide(&mut relay, 101), Action::SendToServer(QUIT.to_vec()));
}

#[test]
fn idle_and_login_have_their_limits() {
    let rules = Rules {
        idle_ms: Some(5_000),
        ..RULES
    };
    let mut relay = logged_in();
    assert_eq!(
        relay.decide(10, &rules, Unsent::default()),
        Action::Wait(Some(5_003))
    );
    assert!(matches!(
        relay.decide(5_003, &rules, Unsent::default()),
        Action::SendToServer(_)
    ));
    assert_eq!(relay.cause(), Cause::IdleTimeout);

    let mut relay = greeted();
    assert_eq!(wait(&mut relay, 2), Some(10_001));
    assert!(matches!(
        decide(&mut relay, 10_001),
        Action::SendToServer(_)
    ));
    assert_eq!(
        (relay.cause(), relay.end_phase()),
        (Cause::LoginTimeout, Phase::Login)
    );
}

#[test]
fn every_close_kind_towards_the_server_does_what_it_says() {
    for (to_server, close) in [
        (ToServer::ResetNow, ServerClose::ResetNow),
        (ToServer::Fin, ServerClose::Fin),
        (ToServer::Linger2, ServerClose::Linger2),
    ] {
        let rules = Rules { to_server, ..RULES };
        let mut relay = logged_in();
        relay.client_bytes(QUIT, 10);
        assert_eq!(
            relay.decide(10, &rules, Unsent::default()),
            Action::CloseServer(close)
        );
    }
    let rules = Rules {
        to_server: ToServer::Eof,
        ..RULES
    };
    let mut relay = logged_in();
    relay.client_bytes(QUIT, 10);
    relay.client_eof();
    assert!(matches!(
        relay.decide(10, &rules, Unsent::default()),
        Action::Wait(_)
    ));
    relay.server_eof();
    assert_eq!(
        relay.decide(11, &rules, Unsent::default()),
        Action::CloseServer(ServerClose::EofFin)
    );
}

#[test]
fn nothing_of_the_client_follows_our_own_quit_or_login() {
    let mut relay = logged_in();
    relay.cut(Cause::Killed, false);
    assert_eq!(decide(&mut relay, 10), Action::SendToServer(QUIT.to_vec()));
    assert!(!relay.reads_client());
    assert!(relay.drains_client());

    let mut relay = greeted();
    relay.cut(Cause::LoginTimeout, false);
    assert!(matches!(decide(&mut relay, 10), Action::SendToServer(_)));
    assert!(!relay.reads_client());

    // Behind its own QUIT more may come: then it was none.
    let mut relay = logged_in();
    relay.client_bytes(QUIT, 10);
    decide(&mut relay, 10);
    assert!(relay.reads_client());
}

#[test]
fn a_cut_ends_a_client_that_waits_or_does_not_read() {
    // It waits for a reply: its server is drained without it.
    let mut relay = logged_in();
    relay.client_bytes(QUERY, 100);
    relay.cut(Cause::Killed, false);
    assert_eq!(decide(&mut relay, 101), Action::SendToServer(QUIT.to_vec()));
    assert_eq!(wait(&mut relay, 101), Some(1_101));
    assert_eq!(
        decide(&mut relay, 1_101),
        Action::CloseClient(ClientClose::Linger2)
    );
    assert_eq!(wait(&mut relay, 1_101), Some(30_101));
    assert_eq!(relay.server_bytes(b"late", 1_102), ServerBytes::Discard);

    // It does not read: the server is gone, the bytes are not taken.
    let stuck = Unsent {
        to_server: false,
        to_client: true,
    };
    let mut relay = logged_in();
    relay.cut(Cause::Killed, false);
    assert!(matches!(
        relay.decide(10, &RULES, stuck),
        Action::SendToServer(_)
    ));
    relay.server_eof();
    assert!(matches!(
        relay.decide(11, &RULES, stuck),
        Action::CloseServer(_)
    ));
    assert_eq!(relay.decide(11, &RULES, stuck), Action::Wait(Some(1_010)));
    assert_eq!(
        relay.decide(1_010, &RULES, stuck),
        Action::CloseClient(ClientClose::Linger2)
    );
    assert_eq!(relay.decide(1_010, &RULES, stuck), Action::Done);
}

#[test]
fn a_quit_in_two_pieces_is_no_query() {
    let mut relay = logged_in();
    relay.client_bytes(&QUIT[..4], 4);
    relay.client_bytes(&QUIT[4..], 5);
    relay.client_eof();
    wait(&mut relay, 5);
    assert_eq!(
        (relay.cause(), relay.end_phase()),
        (Cause::Quit, Phase::Command)
    );
}

#[test]
fn a_quit_that_was_none_leaves_no_trace() {
    let mut relay = logged_in();
    relay.client_bytes(QUIT, 10);
    assert_eq!(decide(&mut relay, 10), Action::AskClientRtt);
    relay.client_rtt(0);
    wait(&mut relay, 10);
    relay.client_bytes(b"\0\0\0\x01", 11);
    assert_eq!(wait(&mut relay, 11), None);
    assert!(!relay.is_closing());
    relay.server_bytes(OK, 12);
    relay.client_eof();
    assert_eq!(decide(&mut relay, 50), Action::SendToServer(QUIT.to_vec()));
    assert_eq!(wait(&mut relay, 50), Some(1_050));
    assert_eq!(relay.cause(), Cause::ClientEof);
}
