//! SETs that follow a session, and those that it finds done already.

use super::*;

#[test]
fn settings_follow_the_session_to_other_connections() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    query(&mut session, &mut first, "SET NAMES utf8mb4", 2);
    query(&mut session, &mut first, "USE shop", 2);
    assert_eq!(first.prepare(&session.want()), []);
    let bytes = other.prepare(&session.want());
    let want = [
        command(com::QUERY, b"SET NAMES utf8mb4"),
        command(com::INIT_DB, b"shop"),
    ]
    .concat();
    assert_eq!(bytes, want);
    let replies = [ok(1, 2), ok(1, 2)].concat();
    let mut rest = &replies[..];
    assert_eq!(other.feed(&mut rest), Event::Ready);
    assert_eq!(other.prepare(&session.want()), []);
    // A session without settings gets it back to the starting state first.
    let fresh = logged_in();
    assert!(other.is_unfit(&fresh.want()));
    let bytes = other.prepare(&fresh.want());
    assert!(bytes.starts_with(&command(com::RESET_CONNECTION, &[])));
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("@@character_set_client='utf8mb4'") && text.contains("@@wait_timeout=28800")
    );
}

#[test]
fn a_setting_that_failed_pins_since_half_of_it_may_hold() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let bytes = command(com::QUERY, b"SET sql_mode='', no_such=1");
    step(&mut session, &bytes, Some(&mut conn));
    let error = err(1, 1193, *b"HY000", "Unknown system variable");
    let outcome = conn.relay(&mut &error[..]).unwrap().unwrap();
    session.replied(&outcome, &mut conn, 1);
    assert_eq!(session.pin(), Some(Pin::Setting));
    session.let_go();
    // Only the wait for SHOW WARNINGS may be given up, and it is not the only reason.
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    step(&mut session, &bytes, Some(&mut conn));
    let outcome = Outcome {
        error: Some(1193),
        ..Outcome::default()
    };
    conn.relay(&mut &error[..]).unwrap();
    session.replied(&outcome, &mut conn, 1);
    assert!(!session.only_waits() && session.take_traces() == Left::Traces);
}

/// A connection on which another session has run `SET NAMES utf8mb4`, and a new session that is about to.
fn second_of_an_application() -> (Session, Conn) {
    let mut conn = ready(&LOOK);
    query(&mut logged_in(), &mut conn, "SET NAMES utf8mb4", 2);
    let mut session = logged_in();
    let set = command(com::QUERY, b"SET NAMES utf8mb4");
    assert_eq!(step(&mut session, &set, None).1, Step::Attach);
    (session, conn)
}

#[test]
fn the_next_session_of_an_application_needs_no_reset() {
    let (mut session, mut conn) = second_of_an_application();
    assert_eq!(conn.distance(&session.want()), 0);
    assert_eq!(conn.prepare(&session.want()), []);
    query(&mut session, &mut conn, "SET NAMES utf8mb4", 2);
    assert!(!session.is_pinned());
    assert_eq!(conn.prepare(&session.want()), []);
    // Another SET first, or none: from the starting state.
    for text in ["SET NAMES latin1", "SELECT 1"] {
        let mut other = logged_in();
        step(&mut other, &command(com::QUERY, text.as_bytes()), None);
        assert!(
            conn.is_unfit(&other.want()) || conn.distance(&other.want()) > 0,
            "{text}"
        );
    }
}

#[test]
fn a_set_that_was_right_before_and_fails_now_ends_the_session() {
    let (mut session, mut conn) = second_of_an_application();
    let set = command(com::QUERY, b"SET NAMES utf8mb4");
    step(&mut session, &set, Some(&mut conn));
    let error = err(1, 1115, *b"42000", "Unknown character set");
    let outcome = conn.relay(&mut &error[..]).unwrap().unwrap();
    session.replied(&outcome, &mut conn, 1);
    let (_, next) = step(
        &mut session,
        &command(com::QUERY, b"SELECT 1"),
        Some(&mut conn),
    );
    let Step::End(Cause::ServerEof, bytes) = next else {
        panic!("it goes on with another session's character set: {next:?}");
    };
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("a SET failed that had been right before"),
        "{text}"
    );
}

#[test]
fn a_schema_that_is_not_ascii_stays_where_it_was_chosen() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    query(&mut session, &mut conn, "USE `d\u{e4}`", 2);
    assert!(!session.is_pinned());
    query(&mut session, &mut conn, "SET NAMES latin1", 2);
    assert_eq!(session.pin(), Some(Pin::Setting));
}

#[test]
fn a_use_does_not_need_the_schema_before_it() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    query(&mut session, &mut first, "USE gone", 2);
    let text = command(com::QUERY, b"USE shop");
    assert_eq!(step(&mut session, &text, None).1, Step::Attach);
    assert_eq!(other.prepare(&session.want()), []);
    // It fails: this connection is not where the session is.
    assert_eq!(step(&mut session, &text, Some(&mut other)).1, Step::Forward);
    let error = err(1, 1049, *b"42000", "Unknown database");
    let outcome = other.relay(&mut &error[..]).unwrap().unwrap();
    session.replied(&outcome, &mut other, 2);
    assert!(!session.is_pinned());
    step(&mut session, &command(com::QUERY, b"SELECT 1"), None);
    assert_eq!(
        other.prepare(&session.want()),
        command(com::INIT_DB, b"gone")
    );
}

#[test]
fn a_look_that_is_not_as_asked_for_is_no_look() {
    let mode = |mode| {
        let mut look = LOOK;
        look[4] = mode;
        let mut conn = ready(&look);
        String::from_utf8_lossy(&conn.clean([0; 20])).into_owned()
    };
    // Names of MariaDB's modes have digits, too.
    assert!(mode("DB2,MYSQL323").contains("@@sql_mode='DB2,MYSQL323'"));
    let class = Class {
        capabilities: 0,
        collation: 45,
        is_mariadb: None,
    };
    for look in [&LOOK[..9], &["utf8mb4"; 10]] {
        let mut conn = Conn::new(&user(), class, [0; 20], Transport::Plain);
        conn.feed(&mut &greeting_packet(99, "9.9.9-test", &SALT)[..]);
        conn.feed(&mut &ok(2, 2)[..]);
        let event = conn.feed(&mut &row(look)[..]);
        assert!(matches!(event, Event::Failed(_)), "{event:?}");
    }
}
