//! A read that goes out behind the steps of its preparation.

use super::*;

const SELECT: &str = "SELECT a FROM t";

/// A session with a schema and a setting whose read meets a connection that has neither, and the read sent behind the steps.
fn sent() -> (Session, Conn) {
    let (mut session, mut first) = (logged_in(), ready(&LOOK));
    query(&mut session, &mut first, "SET NAMES utf8mb4", 2);
    query(&mut session, &mut first, "USE shop", 2);
    let read = command(com::QUERY, SELECT.as_bytes());
    assert_eq!(step(&mut session, &read, None), (0, Step::Attach));
    let mut conn = ready(&LOOK);
    assert!(!conn.prepare(&session.want()).is_empty() && session.may_ride(&conn));
    let (taken, what) = step(&mut session, &read, Some(&mut conn));
    assert_eq!((taken, what), (read.len(), Step::Forward));
    assert!(conn.is_busy() && conn.is_preparing() && session.is_running());
    (session, conn)
}

#[test]
fn its_reply_is_found_behind_those_of_the_steps_however_they_are_cut() {
    let steps = [ok(1, 2), ok(1, 2)].concat();
    let all = [steps.clone(), row(&["1"])].concat();
    for cut in 1..all.len() {
        let (mut session, mut conn) = sent();
        let mut outcome = None;
        let mut own = 0;
        for mut piece in [&all[..cut], &all[cut..]] {
            if conn.is_preparing() {
                let before = piece.len();
                let event = conn.feed(&mut piece);
                own += before - piece.len();
                assert!(matches!(event, Event::Wait | Event::Ready));
            }
            if !conn.is_preparing() {
                outcome = conn.relay(&mut piece).unwrap().or(outcome);
            }
            assert!(piece.is_empty());
        }
        assert_eq!(own, steps.len());
        session.replied(&outcome.unwrap(), &mut conn, 1);
        assert!(conn.is_ready() && session.is_idle() && !session.is_pinned());
        assert_eq!(conn.schema(), Some(&b"shop"[..]));
        assert_eq!(conn.prepare(&session.want()), []);
    }
}

#[test]
fn a_step_that_fails_is_its_answer_once_its_own_is_over() {
    let (mut session, mut conn) = sent();
    let failed = [ok(1, 2), err(1, 1049, *b"42000", "Unknown database 'shop'")].concat();
    let all = [failed, row(&["a stranger's"])].concat();
    let (most, last) = all.split_at(all.len() - 3);
    assert_eq!(conn.feed(&mut &most[..]), Event::Wait);
    assert!(conn.is_busy() && conn.is_preparing());
    match conn.feed(&mut &last[..]) {
        Event::Failed(Failure::Step(error)) => assert_eq!(error.errno, 1049),
        other => panic!("{other:?}"),
    }
    assert!(conn.is_ready());
    let (bytes, is_over) = session.not_attached(1049, *b"42000", "Unknown database 'shop'");
    assert_eq!(bytes, err(1, 1049, *b"42000", "Unknown database 'shop'"));
    assert!(!is_over && session.is_idle() && !session.is_pinned());
    // No server knows of it.
    let what = step(&mut session, &command(com::QUERY, b"SHOW WARNINGS"), None).1;
    assert!(matches!(what, Step::Say(bytes) if bytes[5..7] == 1235_u16.to_le_bytes()));
}

#[test]
fn nothing_but_a_read_rides() {
    for text in ["INSERT INTO t VALUES (1)", "SELECT @a", "SHOW WARNINGS"] {
        let mut session = logged_in();
        query(&mut session, &mut ready(&LOOK), "USE shop", 2);
        step(&mut session, &command(com::QUERY, text.as_bytes()), None);
        let mut conn = ready(&LOOK);
        assert!(!conn.prepare(&session.want()).is_empty());
        assert!(!session.may_ride(&conn), "{text}");
    }
}
