//! Sessions of the relay in a simulated world: no sockets, no clock, one seed per world.
//!
//! A world is a client, a MySQL server, an engine and the pipes between them, each with habits drawn from
//! the seed (`sim/*.rs`). What may never happen is checked at each action of the relay
//! (`sim/engine.rs`) and when both connections are closed (here).
//!
//! 256 seeds per run. `PORTSIDE_SIM_SEED=n` replays one of them with a trace
//! (`PORTSIDE_SIM_SESSION=n`: one session of it); `PORTSIDE_SIM_SEEDS=n` runs
//! that many (a sweep at night).

#[path = "sim/client.rs"]
mod client;
#[path = "sim/engine.rs"]
mod engine;
#[path = "sim/pipe.rs"]
mod pipe;
#[path = "sim/server.rs"]
mod server;

use std::panic::{catch_unwind, AssertUnwindSafe};

use portside_core::reason::{Cause, ClientClose, Phase, ServerClose};
use portside_core::relay::{Rules, ToClient, ToServer};
use portside_proto::quit;

use client::{Client, Leave, Wire};
use engine::{Connect, Session};
use pipe::{Link, Ms, Rng};
use server::Habits;

/// Sessions per seed: a seed of many short lives finds more than one of a single life.
const SESSIONS: u64 = 24;
/// No session lives longer: the sum of every limit and habit, rounded up.
const LIFE_MAX: Ms = 200_000;
/// From the relay's knowledge of the end: what a client that reads slowly may add to the limits.
const SLOW_READER: Ms = 10_000;

#[test]
fn no_seed_breaks_a_rule_of_closing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("PORTSIDE_SIM_SEED") {
        let only = number("PORTSIDE_SIM_SESSION");
        (0..SESSIONS)
            .filter(|index| only.is_none_or(|only| only == *index))
            .for_each(|index| run(seed, index, true));
        return;
    }
    let mut broken: Vec<u64> = Vec::new();
    for seed in 0..number("PORTSIDE_SIM_SEEDS").unwrap_or(256) {
        for index in 0..SESSIONS {
            if catch_unwind(AssertUnwindSafe(|| run(seed, index, false))).is_err() {
                eprintln!("seed {seed}, session {index} breaks a rule");
                broken.push(seed);
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} sessions break a rule; replay the first: PORTSIDE_SIM_SEED={}",
        broken.len(),
        broken[0]
    );
}

fn run(seed: u64, index: u64, tracing: bool) {
    let mut session = draw(Rng::new(seed * SESSIONS + index));
    session.tracing = tracing;
    if tracing {
        let (client, habits) = (&session.client, session.habits);
        eprintln!(
            "-- session {index}: {:?} {:?} {habits:?} {:?}",
            client.leave, client.wire, session.rules
        );
    }
    while !session.is_done {
        let goes_on = session.step() || session.is_done;
        assert!(goes_on, "the session waits for nothing and never ends");
        assert!(session.now < LIFE_MAX, "the session never ends");
    }
    while session.step() {}
    check(&session);
}

fn draw(mut rng: Rng) -> Session {
    let rules = Rules {
        to_server: rng.pick(&[
            ToServer::EofReset,
            ToServer::EofReset,
            ToServer::EofReset,
            ToServer::EofReset,
            ToServer::Eof,
            ToServer::Linger2,
            ToServer::ResetNow,
            ToServer::Fin,
        ]),
        to_client: rng.pick(&[ToClient::FinReset, ToClient::FinReset, ToClient::Fin]),
        deadline_ms: rng.pick(&[100, 1_000]),
        abandon_bytes: rng.pick(&[1_000, 1 << 20]),
        abandon_ms: rng.pick(&[300, 2_000, 30_000]),
        tls_hold_ms: rng.pick(&[50, 200]),
        connect_ms: rng.pick(&[100, 3_000]),
        login_ms: rng.pick(&[300, 10_000]),
        idle_ms: rng.pick(&[None, None, Some(500), Some(5_000)]),
    };
    let leave = rng.pick(Leave::ALL);
    let wire = rng.pick(&[Wire::Plain, Wire::Plain, Wire::Compressed, Wire::Tls]);
    let client = Client::new(leave, wire, &mut rng);
    let client_link = Link::new(&mut rng);
    let habits = Habits::any(&mut rng);
    let connect = Connect {
        takes: (!rng.chance(2)).then(|| rng.pick(&[0, 0, 1, 20])),
        succeeds: !rng.chance(3),
    };
    let mut cuts = Vec::new();
    if rng.chance(15) {
        let at = rng.range(0, 400);
        let cause = rng.pick(&[Cause::Killed, Cause::Drained]);
        if rng.chance(50) {
            cuts.push((at, cause, true));
            cuts.push((at + 2_000, cause, false));
        } else {
            cuts.push((at, cause, false));
        }
    }
    let rtt = rng.pick(&[0, 0, 1, 20, 100]);
    Session::new(rng, rules, client, client_link, habits, connect, cuts, rtt)
}

fn check(session: &Session) {
    let relay = &session.relay;
    assert_eq!(session.client_closes, 1, "closes of the client");
    let connections = u32::from(relay.server_close() != ServerClose::None);
    assert_eq!(session.server_closes, connections, "closes of the server");
    assert_ne!(relay.cause(), Cause::Internal);
    let closing_at = session.closing_at.expect("an end has a beginning");
    let rules = &session.rules;
    let limits = 2 * rules.deadline_ms
        + rules.abandon_ms
        + rules.login_ms
        + rules.tls_hold_ms
        + 1_000
        + SLOW_READER
        + session.client.paused;
    let took = session.done_at - closing_at;
    // A client that reads nothing is its kernel's affair (TCP_USER_TIMEOUT): here it resets at some time.
    let is_stuck = session.client.leave == Leave::StopsReading;
    assert!(
        took <= limits || (is_stuck && relay.client_close() == ClientClose::Lost),
        "{took} ms from {:?} to the end, limits add up to {limits}",
        relay.cause()
    );
    what_the_server_saw(session);
    what_the_client_saw(session);
    a_good_end_is_called_good(session);
    a_waiting_client_loses_nothing(session);
}

/// The client's own bytes in order, and ours only behind a whole command of it, and nothing behind ours.
fn what_the_server_saw(session: &Session) {
    let Some((server, _)) = session.server.as_ref() else {
        return;
    };
    if let Some(complaint) = &server.complaint {
        panic!("the server cannot make sense of it: {complaint}");
    }
    let mut allowed = session.client.sent[..session.from_client].to_vec();
    for (place, bytes) in &session.own {
        assert_eq!(*place, session.from_client, "client bytes behind our own");
        assert!(
            !is_quit(bytes) || at_boundary(session) || session.own.len() > 1,
            "QUIT in the middle of a packet"
        );
        allowed.extend(bytes);
    }
    assert!(allowed.starts_with(&server.received));
    if quit_is_due(session, server) {
        assert!(server.quit_received, "the server never got its QUIT");
    }
}

fn is_quit(bytes: &[u8]) -> bool {
    bytes == quit::QUIT || bytes == quit::QUIT_COMPRESSED
}

fn at_boundary(session: &Session) -> bool {
    session.client.boundaries.contains(&session.from_client)
}

/// The client left behind a whole command, in sight, and the server was there to hear of it.
fn quit_is_due(session: &Session, server: &server::Server) -> bool {
    let close = session.relay.server_close();
    let client_was_done = at_boundary(session) && session.relay.phase() >= Phase::Command;
    (client_was_done || session.own.iter().any(|(_, bytes)| is_quit(bytes)))
        && session.client.wire != Wire::Tls
        && !server.closed_first
        && !session.cut_off_at_close
        // These may destroy a QUIT under way, and say so in their text.
        && !matches!(close, ServerClose::ResetNow | ServerClose::Abandoned)
}

fn what_the_client_saw(session: &Session) {
    let Some((server, _)) = session.server.as_ref() else {
        return;
    };
    let (client, relay) = (&session.client, &session.relay);
    let is_whole = matches!(
        relay.server_close(),
        ServerClose::EofReset | ServerClose::EofFin
    ) && matches!(relay.cause(), Cause::Quit | Cause::ClientEof)
        && relay.end_phase() >= Phase::Command
        && session.is_left_alone
        && !session.left_in_reply
        && !session.quit_in_reply
        && client.wire != Wire::Tls
        && !server.closed_first;
    if is_whole && client.reads_to_the_end() && relay.client_close() != ClientClose::Lost {
        assert_eq!(
            client.received,
            server.sent + session.own_to_client,
            "bytes that the client would have read"
        );
    }
}

fn a_good_end_is_called_good(session: &Session) {
    let (client, relay) = (&session.client, &session.relay);
    let Some((server, _)) = session.server.as_ref() else {
        return;
    };
    let said_quit = client.leave.quits_in_order() && relay.quit_seen();
    if !said_quit || server.closed_first || client.has_unanswered {
        return;
    }
    if matches!(
        relay.cause(),
        Cause::Quit | Cause::ClientEof | Cause::ClientReset
    ) {
        assert_eq!(relay.cause(), Cause::Quit);
        assert_eq!(relay.end_phase(), Phase::Command);
    }
}

/// A client that waits for our FIN after QUIT loses max(5 ms, 4 RTT), or the server's EOF + 5 ms.
fn a_waiting_client_loses_nothing(session: &Session) {
    let (client, relay) = (&session.client, &session.relay);
    let waits = client.leave == Leave::QuitWait && !client.has_unanswered;
    if !waits || relay.cause() != Cause::Quit || relay.client_close() != ClientClose::Linger2 {
        return;
    }
    let closed_at = session.client_closed_at.expect("it is closed");
    let since = session.only_fin_missing_at;
    let own = since + (4 * session.rtt).clamp(5, 250);
    let after_server = session
        .server_closed_at
        .map_or(Ms::MAX, |at| at.max(since) + 5);
    let limit = own.min(after_server) + 1;
    assert!(
        closed_at <= limit,
        "it waited until {closed_at}, not {limit}"
    );
}

#[test]
fn the_worlds_are_as_varied_as_they_claim() {
    let (mut servers, mut clients, mut causes) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..128 * SESSIONS {
        let mut session = draw(Rng::new(index));
        while !session.is_done && session.step() {}
        servers.push(session.relay.server_close());
        clients.push(session.relay.client_close());
        causes.push(session.relay.cause());
    }
    for close in ServerClose::ALL {
        assert!(servers.contains(close), "no world ended with {close:?}");
    }
    for close in ClientClose::ALL {
        assert!(clients.contains(close), "no world ended with {close:?}");
    }
    let expected = [
        Cause::Quit,
        Cause::ClientEof,
        Cause::ClientReset,
        Cause::ServerEof,
        Cause::ServerReset,
        Cause::ConnectFailed,
        Cause::ConnectTimeout,
        Cause::NoGreeting,
        Cause::Refused,
        Cause::LoginTimeout,
        Cause::IdleTimeout,
        Cause::Killed,
        Cause::Drained,
    ];
    for cause in expected {
        assert!(causes.contains(&cause), "no world ended with {cause:?}");
    }
}
