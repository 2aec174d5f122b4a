//! What a client is told of itself (its id, its KILL), and of the warnings that are its own.

use portside_proto::command::com;

use super::prepared::{answered, execute, mariadb, mariadb_session, prepare, sent, short};
use super::*;

/// The session's id is 7.
const CALL: &str = "CAST(7 AS UNSIGNED)";

fn refused(what: Step) -> u16 {
    match what {
        Step::Say(bytes) | Step::End(_, bytes) => u16::from_le_bytes([bytes[5], bytes[6]]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_id_is_the_greetings_in_queries_and_prepared_statements() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let text = "SELECT CONNECTION_ID(), 1";
    let wanted = format!("SELECT {CALL} AS `CONNECTION_ID()`, 1");
    let bytes = command(com::QUERY, text.as_bytes());
    assert_eq!(step(&mut session, &bytes, None), (0, Step::Attach));
    let out = sent(&mut session, &mut conn, &bytes);
    assert_eq!(out, command(com::QUERY, wanted.as_bytes()));
    answered(&mut session, &mut conn, &ok(1, 2), 1);
    assert!(!session.is_pinned());
    // With query attributes in front of the text.
    let flags = u64::from(capability::QUERY_ATTRIBUTES);
    let mut other = with_flags(&[server(Plugin::Native.name())], flags, false);
    let bytes = command(com::QUERY, &[b"\0\x01", text.as_bytes()].concat());
    let out = sent(&mut other, &mut conn, &bytes);
    let with = [b"\0\x01", wanted.as_bytes()].concat();
    assert_eq!(out, command(com::QUERY, &with));
    answered(&mut other, &mut conn, &ok(1, 2), 1);
    let prepare = command(com::STMT_PREPARE, text.as_bytes());
    let out = sent(&mut session, &mut conn, &prepare);
    assert_eq!(out, command(com::STMT_PREPARE, wanted.as_bytes()));
}

#[test]
fn an_id_that_cannot_be_told_is_refused() {
    for number in [com::QUERY, com::STMT_PREPARE] {
        let bytes = command(number, b"SELECT CONNECTION_ID() + a FROM t");
        let (taken, what) = step(&mut logged_in(), &bytes, None);
        assert_eq!((taken, refused(what)), (bytes.len(), 1235));
    }
}

#[test]
fn a_kill_of_oneself_is_answered_as_the_servers_do() {
    for (is_mariadb, number) in [(false, 1317), (true, 1927)] {
        for bytes in [
            command(com::QUERY, b"KILL 7"),
            command(com::QUERY, b"KILL CONNECTION CONNECTION_ID()"),
            command(com::PROCESS_KILL, &[7, 0, 0, 0]),
        ] {
            let mut session = if is_mariadb {
                mariadb_session()
            } else {
                logged_in()
            };
            let (_, what) = step(&mut session, &bytes, None);
            assert!(matches!(what, Step::End(Cause::Killed, _)), "{what:?}");
            assert_eq!(refused(what), number);
        }
    }
    // The query that is killed is this one: the server's own answer, and it remembers the error.
    for text in ["KILL QUERY 7", "kill query connection_id()"] {
        let (mut session, mut conn) = (logged_in(), ready(&LOOK));
        let bytes = command(com::QUERY, text.as_bytes());
        let out = sent(&mut session, &mut conn, &bytes);
        assert_eq!(out, command(com::QUERY, b"KILL QUERY CONNECTION_ID()"));
        let reply = err(1, 1317, *b"70100", "Query execution was interrupted");
        answered(&mut session, &mut conn, &reply, 1);
        assert_eq!(session.pin(), Some(Pin::Warnings));
    }
}

#[test]
fn a_statement_that_nobody_prepared_is_the_servers_error() {
    for bytes in [
        execute(5, None),
        short(com::STMT_FETCH, 5, &[1, 0, 0, 0]),
        short(com::STMT_RESET, 5, &[]),
    ] {
        let (mut session, mut conn) = (logged_in(), ready(&LOOK));
        assert_eq!(step(&mut session, &bytes, None), (0, Step::Attach));
        let out = sent(&mut session, &mut conn, &bytes);
        // Servers have no statement 0; what has the number 5 there is a stranger's.
        assert_eq!(out[5..9], [0; 4]);
        let reply = err(1, 1243, *b"HY000", "Unknown prepared statement handler (0)");
        answered(&mut session, &mut conn, &reply, 1);
        assert_eq!(session.pin(), Some(Pin::Warnings));
    }
}

#[test]
fn commands_that_count_earlier_warnings_find_no_strangers_there() {
    let commands = [
        command(com::INIT_DB, b"shop"),
        execute(5, None),
        short(com::STMT_RESET, 5, &[]),
    ];
    for bytes in commands {
        let (mut session, mut conn) = (logged_in(), ready(&LOOK));
        let mut stranger = logged_in();
        sent(&mut stranger, &mut conn, &command(com::QUERY, b"SELECT"));
        answered(&mut stranger, &mut conn, &err(1, 1064, *b"42000", ""), 1);
        step(&mut session, &bytes, None);
        assert!(session.want().no_diagnostics);
        assert!(!conn.prepare(&session.want()).is_empty());
        // With its own to show it keeps them.
        let (mut session, mut conn) = (logged_in(), ready(&LOOK));
        sent(&mut session, &mut conn, &command(com::QUERY, b"SELECT"));
        answered(&mut session, &mut conn, &err(1, 1064, *b"42000", ""), 1);
        step(&mut session, &bytes, None);
        assert!(!session.want().no_diagnostics);
    }
}

#[test]
fn an_error_added_to_forgotten_warnings_does_not_show_them_whole() {
    for (is_query, number) in [(false, 1235), (true, 0)] {
        let (mut session, mut conn) = (logged_in(), ready(&LOOK));
        sent(&mut session, &mut conn, &command(com::QUERY, b"SELECT"));
        answered(&mut session, &mut conn, &err(1, 1064, *b"42000", ""), 1);
        session.let_go();
        let mut conn = ready(&LOOK);
        let bytes = if is_query {
            command(com::QUERY, b"SELEC")
        } else {
            command(com::INIT_DB, b"nowhere")
        };
        sent(&mut session, &mut conn, &bytes);
        answered(&mut session, &mut conn, &err(1, 1049, *b"42000", ""), 1);
        let show = command(com::QUERY, b"SHOW WARNINGS");
        match step(&mut session, &show, Some(&mut conn)).1 {
            Step::Forward => assert_eq!(number, 0),
            what => assert_eq!(refused(what), number),
        }
    }
}

#[test]
fn a_kept_connection_shows_no_warnings_of_its_last_user() {
    for (text, is_own) in [
        ("SHOW WARNINGS", false),
        ("SHOW WARNINGS", true),
        // What cannot be read may ask for them as well.
        ("EXECUTE IMMEDIATE 'SHOW WARNINGS'", false),
        ("CALL p()", false),
        ("SELECT f()", false),
        ("RESIGNAL", false),
    ] {
        let show = command(com::QUERY, text.as_bytes());
        let (mut session, mut conn) = (mariadb_session(), mariadb());
        let mut stranger = mariadb_session();
        sent(&mut stranger, &mut conn, &command(com::QUERY, b"SELECT"));
        answered(&mut stranger, &mut conn, &err(1, 1064, *b"42000", ""), 1);
        // MariaDB keeps them: no table.
        query(&mut session, &mut conn, "BEGIN", 3);
        if is_own {
            sent(&mut session, &mut conn, &command(com::QUERY, b"SELECT"));
            answered(&mut session, &mut conn, &err(1, 1064, *b"42000", ""), 1);
        }
        let (_, what) = step(&mut session, &show, Some(&mut conn));
        if is_own {
            assert_eq!(what, Step::Forward);
            continue;
        }
        assert_eq!(what, Step::Attach);
        assert!(!conn.bring(&session.want()).is_empty());
        assert_eq!(conn.feed(&mut &ok(1, 3)[..]), Event::Ready);
        let (_, what) = step(&mut session, &show, Some(&mut conn));
        assert_eq!(what, Step::Forward);
    }
}

#[test]
fn statements_come_along_to_where_warnings_are_asked_for() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    prepare(&mut session, &mut first, "SELECT ?", 70, 1);
    // It pins, and may ask for warnings.
    let doubtful = command(com::QUERY, b"SELECT 1 /*!50000 + 1 */, 2");
    assert_eq!(step(&mut session, &doubtful, None), (0, Step::Attach));
    session.attached((2, other.uses()));
    let bytes = other.prepare(&session.want());
    let clear = command(com::QUERY, b"DO (SELECT 1 FROM (SELECT 1) d)");
    assert!(bytes.ends_with(&clear) && bytes.len() > clear.len());
}

#[test]
fn a_use_that_failed_keeps_no_connection_of_another_schema() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let mut stranger = logged_in();
    query(&mut stranger, &mut conn, "SET autocommit = 0", 0);
    conn.set_schema(b"beside");
    conn.left(stranger.take_traces());
    conn.clean([0; 20]);
    assert_eq!(
        conn.feed(&mut &[ok(1, 2), ok(1, 2)].concat()[..]),
        Event::Ready
    );
    assert_eq!(conn.status(), 2);
    sent(&mut session, &mut conn, &command(com::INIT_DB, b"nowhere"));
    answered(&mut session, &mut conn, &err(1, 1049, *b"42000", ""), 1);
    assert!(!session.is_pinned());
}

#[test]
fn opening_a_cursor_tells_no_found_rows() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let id = prepare(&mut session, &mut conn, "SELECT 1", 70, 0);
    let open = short(com::STMT_EXECUTE, id, &[1, 1, 0, 0, 0]);
    sent(&mut session, &mut conn, &open);
    let opened = [
        &[1, 0, 0, 1, 1][..],
        &[4, 0, 0, 2, 3, b'd', b'e', b'f'],
        &[5, 0, 0, 3, 0xfe, 0, 0, 0x42, 0],
    ];
    answered(&mut session, &mut conn, &opened.concat(), 1);
    let ask = command(com::QUERY, b"SELECT FOUND_ROWS()");
    let (_, what) = step(&mut session, &ask, Some(&mut conn));
    assert_eq!(refused(what), 1235);
}
