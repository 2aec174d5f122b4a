//! Connections that change or go under a session, and what KILL is answered.

use super::*;

#[test]
fn a_server_that_offers_less_than_the_class_gets_no_login() {
    let mut class = Class {
        capabilities: 1 << 60,
        collation: 45,
        is_mariadb: None,
    };
    let greeting = greeting_packet(99, "9.9.9-test", &SALT);
    let mut conn = Conn::new(&user(), class, [0; 20], Transport::Plain);
    match conn.feed(&mut &greeting[..]) {
        Event::Failed(Failure::Unfit(known)) => {
            assert_eq!(known.version, "9.9.9-test");
            assert!(!class.fits(known.capabilities, known.is_mariadb));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(conn.feed(&mut &greeting[..]), Event::Wait);
    class.capabilities = 0;
    let mut conn = Conn::new(&user(), class, [0; 20], Transport::Plain);
    assert!(matches!(conn.feed(&mut &greeting[..]), Event::Send(_)));
}

#[test]
fn an_account_without_places_is_like_a_server_without() {
    for (number, is_full) in [(1040, true), (1203, true), (1226, true), (1045, false)] {
        let class = Class::default();
        let mut conn = Conn::new(&user(), class, [0; 20], Transport::Plain);
        conn.feed(&mut &greeting_packet(99, "9.9.9-test", &SALT)[..]);
        let refusal = err(2, number, *b"42000", "no");
        match conn.feed(&mut &refusal[..]) {
            Event::Failed(Failure::Refused { errno, .. }) => assert!(is_full && errno == number),
            Event::Failed(Failure::Denied(_)) => assert!(!is_full, "{number}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn state_that_is_lost_between_two_commands_ends_the_session_at_the_next() {
    for (text, flags, end) in [
        ("BEGIN", status::IN_TRANS, "; the transaction is lost"),
        ("SET @a = 1", 0, "; the session's state is lost"),
    ] {
        for next in [command(com::QUERY, b"SELECT 1"), command(com::PING, b"")] {
            let (mut session, mut conn) = (logged_in(), ready(&LOOK));
            query(&mut session, &mut conn, text, flags | status::AUTOCOMMIT);
            session.bereave("server db1: gone");
            let said = format!("portside: server db1: gone{end}");
            let last = Step::End(Cause::ServerEof, err(1, 1053, *b"08S01", &said));
            assert_eq!(step(&mut session, &next, None).1, last);
        }
    }
}

#[test]
fn a_session_without_state_or_that_leaves_notices_nothing() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    query(&mut session, &mut conn, "SELECT 1", status::AUTOCOMMIT);
    session.bereave("server db1: gone");
    let next = command(com::QUERY, b"SELECT 1");
    assert_eq!(step(&mut session, &next, None), (0, Step::Attach));
    query(&mut session, &mut conn, "BEGIN", status::IN_TRANS);
    session.bereave("server db1: gone");
    let quit = step(&mut session, &command(com::QUIT, b""), None).1;
    assert_eq!(quit, Step::End(Cause::Quit, Vec::new()));
}

#[test]
fn kill_is_answered_as_a_server_would() {
    let mut session = logged_in();
    assert_eq!(session.killed(9, Killed::Yes), ok(1, status::AUTOCOMMIT));
    for (what, number) in [(Killed::Unknown, 1094_u16), (Killed::NotOwner, 1095)] {
        let said = session.killed(9, what);
        assert_eq!(said[5..7], number.to_le_bytes());
        assert!(String::from_utf8_lossy(&said).contains("thread"));
    }
}

#[test]
fn mysql_keeps_diagnostics_over_commands_that_run_no_statement() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let failed = command(com::QUERY, b"SELECT * FROM nix");
    step(&mut session, &failed, Some(&mut conn));
    let error = err(1, 1146, *b"42S02", "no such table");
    let outcome = conn.relay(&mut &error[..]).unwrap().unwrap();
    session.replied(&outcome, &mut conn, 1);
    // The text of a status, which takes nothing away: a stranger must not read the error.
    step(
        &mut session,
        &command(com::STATISTICS, &[]),
        Some(&mut conn),
    );
    let outcome = conn
        .relay(&mut &b"\x06\x00\x00\x01Uptime"[..])
        .unwrap()
        .unwrap();
    session.replied(&outcome, &mut conn, 1);
    assert_eq!(session.pin(), Some(Pin::Warnings));
}

#[test]
fn limits_are_what_a_server_tells() {
    let none = Limits::default();
    let both = Limits {
        connections: Some(151),
        prepared: Some(16382),
    };
    let unknown = err(1, 1193, *b"HY000", "Unknown system variable");
    for (answer, limits) in [
        (row(&["151", "16382"]), both),
        (
            row(&["151", "many"]),
            Limits {
                prepared: None,
                ..both
            },
        ),
        (
            row(&["151"]),
            Limits {
                prepared: None,
                ..both
            },
        ),
        (unknown, none),
        (vec![0, 0, 0, 1], none),
    ] {
        for cut in 0..answer.len() {
            let (question, mut asked) = ready(&LOOK).ask_limits();
            assert!(question.ends_with(b"SELECT @@max_connections, @@max_prepared_stmt_count"));
            let (mut first, mut rest) = answer.split_at(cut);
            let told = asked.feed(&mut first).or_else(|| asked.feed(&mut rest));
            assert_eq!(told, Some(limits), "{cut} of {answer:?}");
        }
    }
}
