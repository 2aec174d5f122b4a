//! Prepared statements: whose id, which connection, which types, and what binds them.

use portside_proto::command::{com, status};
use portside_proto::statement::LAST_PREPARED;

use super::*;

const INT: [u8; 2] = [8, 0];
const DOUBLE: [u8; 2] = [5, 0];

/// The reply to a PREPARE: this id, so many parameters, no columns.
fn prepared(id: u32, parameters: u16, definition: &[u8]) -> Vec<u8> {
    let mut payload = vec![0];
    payload.extend(id.to_le_bytes());
    payload.extend([0, 0]);
    payload.extend(parameters.to_le_bytes());
    payload.extend([0, 0, 0]);
    let packet = |sequence: u8, payload: &[u8]| {
        let mut bytes = vec![payload.len() as u8, 0, 0, sequence];
        bytes.extend_from_slice(payload);
        bytes
    };
    let mut bytes = packet(1, &payload);
    for n in 0..parameters {
        bytes.extend(packet(2 + n as u8, definition));
    }
    if parameters > 0 {
        bytes.extend(packet(2 + parameters as u8, &[0xfe, 0, 0, 2, 0]));
    }
    bytes
}

const DEFINITION: &[u8] = b"\x03def";

/// Prepares a text; gives the id that the client sees.
pub(super) fn prepare(
    session: &mut Session,
    conn: &mut Conn,
    text: &str,
    id: u32,
    parameters: u16,
) -> u32 {
    let bytes = command(com::STMT_PREPARE, text.as_bytes());
    assert_eq!(step(session, &bytes, Some(conn)).1, Step::Forward, "{text}");
    let mut reply = prepared(id, parameters, DEFINITION);
    let outcome = conn.relay(&mut &reply[..]).unwrap().unwrap();
    conn.dress(&mut reply);
    session.replied(&outcome, conn, 1);
    u32::from_le_bytes(reply[5..9].try_into().unwrap())
}

/// EXECUTE with one number as its parameter.
pub(super) fn execute(id: u32, types: Option<[u8; 2]>) -> Vec<u8> {
    let mut argument = id.to_le_bytes().to_vec();
    argument.extend([0, 1, 0, 0, 0, 0, u8::from(types.is_some())]);
    argument.extend(types.into_iter().flatten());
    argument.extend(5_u64.to_le_bytes());
    command(com::STMT_EXECUTE, &argument)
}

pub(super) fn short(number: u8, id: u32, more: &[u8]) -> Vec<u8> {
    command(number, &[&id.to_le_bytes()[..], more].concat())
}

/// Steps with this connection; what the server gets.
pub(super) fn sent(session: &mut Session, conn: &mut Conn, bytes: &[u8]) -> Vec<u8> {
    match step(session, bytes, Some(conn)) {
        (taken, Step::Forward) => {
            let mut out = bytes[..taken].to_vec();
            session.address(&mut out);
            out
        }
        (_, Step::Instead(out)) => out,
        (_, other) => panic!("{other:?}"),
    }
}

pub(super) fn answered(session: &mut Session, conn: &mut Conn, reply: &[u8], name: u64) {
    let outcome = conn.relay(&mut &reply[..]).unwrap().unwrap();
    session.replied(&outcome, conn, name);
}

/// Runs an EXECUTE that succeeds; what the server got.
fn run(session: &mut Session, conn: &mut Conn, bytes: &[u8]) -> Vec<u8> {
    let out = sent(session, conn, bytes);
    answered(session, conn, &ok(1, 2), 1);
    out
}

/// Prepares the connection for the command at hand, with a server that gives this id.
fn lend(session: &mut Session, conn: &mut Conn, id: u32, definition: &[u8]) -> Event {
    session.attached((1, conn.uses()));
    let bytes = conn.prepare(&session.want());
    assert!(!bytes.is_empty());
    conn.feed(&mut &prepared(id, 1, definition)[..])
}

/// The server's answer to an id that it does not have.
fn unknown() -> Vec<u8> {
    err(1, 1243, *b"HY000", "Unknown prepared statement handler")
}

/// The error in an ERR packet.
fn errno_of(step: Step) -> u16 {
    match step {
        Step::Say(bytes) if bytes.get(4) == Some(&0xff) => u16::from_le_bytes([bytes[5], bytes[6]]),
        other => panic!("{other:?}"),
    }
}

pub(super) fn mariadb_session() -> Session {
    let mut server = (*server(Plugin::Native.name())).clone();
    server.is_mariadb = true;
    log_in(&[Arc::new(server)])
}

pub(super) fn mariadb() -> Conn {
    ready_of("5.5.5-10.11.6-MariaDB", &LOOK)
}

#[test]
fn ids_are_the_sessions_own_and_a_free_statement_does_not_pin() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    assert_eq!(prepare(&mut session, &mut conn, "SELECT ?", 70, 1), 1);
    assert_eq!(prepare(&mut session, &mut conn, "SELECT 1", 71, 0), 2);
    assert!(!session.is_pinned());
    let out = run(&mut session, &mut conn, &execute(1, Some(INT)));
    assert_eq!(out, execute(70, Some(INT)));
    // Closed here alone: the connection keeps it for the next that prepares this text.
    let close = short(com::STMT_CLOSE, 1, &[]);
    assert_eq!(step(&mut session, &close, None), (9, Step::Say(vec![])));
    let (_, what) = step(&mut session, &execute(1, Some(INT)), Some(&mut conn));
    assert_eq!(what, Step::Forward);
    answered(&mut session, &mut conn, &unknown(), 1);
    assert_eq!(run(&mut session, &mut conn, &execute(2, None))[5], 71);
}

#[test]
fn elsewhere_it_is_prepared_again_and_gets_its_types_once() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    let id = prepare(&mut session, &mut first, "SELECT ?", 70, 1);
    // Its first execution rather runs where it is.
    assert_eq!(
        step(&mut session, &execute(id, Some(INT)), None).1,
        Step::Attach
    );
    let home = session.want().home.unwrap();
    assert_eq!((home.id, home.is_needed), (1, false));
    run(&mut session, &mut first, &execute(id, Some(INT)));
    let again = execute(id, None);
    assert_eq!(step(&mut session, &again, None), (0, Step::Attach));
    assert_eq!(session.want().home, None);
    assert!(other.distance(&session.want()) > first.distance(&session.want()));
    assert_eq!(lend(&mut session, &mut other, 5, DEFINITION), Event::Ready);
    assert_eq!(other.take_reprepares(), 1);
    assert_eq!(
        sent(&mut session, &mut other, &again),
        execute(5, Some(INT))
    );
    answered(
        &mut session,
        &mut other,
        &err(1, 1062, *b"23000", "twice"),
        2,
    );
    // After an error the server may not know them.
    assert_eq!(run(&mut session, &mut other, &again), execute(5, Some(INT)));
    assert_eq!(run(&mut session, &mut other, &again), execute(5, None));
    // Another session with the same text finds it there.
    let mut next = logged_in();
    let its = prepare(&mut next, &mut first, "SELECT ?", 71, 1);
    assert_eq!(
        step(&mut next, &execute(its, Some(INT)), None).1,
        Step::Attach
    );
    assert!(other.prepare(&next.want()).is_empty());
    assert_eq!(
        run(&mut next, &mut other, &execute(its, Some(INT))),
        execute(5, Some(INT))
    );
}

#[test]
fn what_has_changed_is_for_the_client_to_prepare_again() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    let id = prepare(&mut session, &mut first, "SELECT ?", 70, 1);
    step(&mut session, &execute(id, Some(INT)), None);
    let event = lend(&mut session, &mut other, 5, b"\x03abc");
    let Event::Failed(Failure::Step(error)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(error.errno, 1615);
    assert!(error
        .message
        .starts_with("Prepared statement needs to be re-prepared"));
    session.not_attached(error.errno, error.state, &error.message);
    assert!(other.is_ready() && !other.has_traces());
    // What was prepared for nothing is closed with the next that is sent.
    let bytes = other.prepare(&logged_in().want());
    assert_eq!(bytes, short(com::STMT_CLOSE, 5, &[]));
    // An error of the server is the client's.
    step(&mut session, &execute(id, Some(INT)), None);
    other.prepare(&session.want());
    let event = other.feed(&mut &err(1, 1146, *b"42S02", "no table")[..]);
    assert!(matches!(event, Event::Failed(Failure::Step(e)) if e.errno == 1146));
}

#[test]
fn a_session_that_keeps_its_connection_has_the_statement_brought() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    let id = prepare(&mut session, &mut first, "SELECT ?", 70, 1);
    query(&mut session, &mut other, "BEGIN", 3);
    let bytes = execute(id, Some(INT));
    assert_eq!(
        step(&mut session, &bytes, Some(&mut other)),
        (0, Step::Attach)
    );
    let sent = other.bring(&session.want());
    assert_eq!(sent, command(com::STMT_PREPARE, b"SELECT ?"));
    assert_eq!(
        other.feed(&mut &prepared(9, 1, DEFINITION)[..]),
        Event::Ready
    );
    assert_eq!(run(&mut session, &mut other, &bytes), execute(9, Some(INT)));
}

#[test]
fn what_changes_the_session_takes_its_statements_along_first() {
    for text in ["USE shop", "SET NAMES latin1", "SET @a = 1", "CALL p()"] {
        let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
        let id = prepare(&mut session, &mut first, "SELECT ?", 70, 1);
        let lost = prepare(&mut session, &mut first, "SELECT ? + 1", 71, 1);
        let bytes = command(com::QUERY, text.as_bytes());
        assert_eq!(
            step(&mut session, &bytes, None),
            (0, Step::Attach),
            "{text}"
        );
        assert_eq!(lend(&mut session, &mut other, 8, DEFINITION), Event::Wait);
        let no = err(1, 1146, *b"42S02", "no table");
        assert_eq!(other.feed(&mut &no[..]), Event::Ready);
        // Once more, and then it is given up.
        assert_eq!(
            step(&mut session, &bytes, Some(&mut other)),
            (0, Step::Attach)
        );
        other.bring(&session.want());
        assert_eq!(other.feed(&mut &no[..]), Event::Ready);
        query(&mut session, &mut other, text, 2);
        assert!(session.is_pinned());
        assert_eq!(run(&mut session, &mut other, &execute(id, Some(INT)))[5], 8);
        let (_, what) = step(&mut session, &execute(lost, Some(INT)), Some(&mut other));
        assert_eq!(errno_of(what), 1615);
    }
}

#[test]
fn more_come_along_than_a_connection_keeps() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    for n in 0..200 {
        prepare(
            &mut session,
            &mut first,
            &format!("SELECT {n}"),
            1000 + n,
            0,
        );
    }
    step(&mut session, &command(com::QUERY, b"USE shop"), None);
    session.attached((2, 0));
    other.prepare(&session.want());
    let replies: Vec<u8> = (0..200).flat_map(|n| prepared(n, 0, DEFINITION)).collect();
    assert_eq!(other.feed(&mut &replies[..]), Event::Ready);
    query(&mut session, &mut other, "USE shop", 2);
    for n in 0..200_u32 {
        assert_eq!(
            run(&mut session, &mut other, &execute(n + 1, None))[5..7],
            n.to_le_bytes()[..2]
        );
    }
}

#[test]
fn what_asks_for_the_last_statement_brings_nothing() {
    let (mut session, mut first, mut other) = (logged_in(), ready(&LOOK), ready(&LOOK));
    let id = prepare(&mut session, &mut first, "SELECT ?", 70, 1);
    query(&mut session, &mut other, "SELECT 1", 2);
    let set = command(com::QUERY, b"SET @a = ROW_COUNT()");
    assert_eq!(step(&mut session, &set, None), (0, Step::Attach));
    assert!(other.prepare(&session.want()).is_empty());
    query(&mut session, &mut other, "SET @a = ROW_COUNT()", 2);
    let (_, what) = step(&mut session, &execute(id, Some(INT)), Some(&mut other));
    assert_eq!(errno_of(what), 1615);
}

#[test]
fn long_data_binds_until_it_is_executed() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let id = prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
    let data = short(com::STMT_SEND_LONG_DATA, id, b"\0\0abc");
    assert_eq!(sent(&mut session, &mut conn, &data)[5], 70);
    assert_eq!(session.pin(), Some(Pin::Statements));
    assert!(!conn.is_busy());
    assert_eq!(run(&mut session, &mut conn, &execute(id, Some(INT)))[5], 70);
    assert!(!session.is_pinned());
    assert_eq!(run(&mut session, &mut conn, &execute(id, None))[5], 70);
    // A reset takes it back as well.
    sent(&mut session, &mut conn, &data);
    run(&mut session, &mut conn, &short(com::STMT_RESET, id, &[]));
    assert!(!session.is_pinned());
}

#[test]
fn types_that_mysql_has_not_taken_are_not_put_in_later() {
    for (is_mariadb, number, puts_in) in [
        (false, 1210, false),
        (false, 1062, true),
        (true, 1210, true),
    ] {
        let (mut session, mut conn) = if is_mariadb {
            (mariadb_session(), mariadb())
        } else {
            (logged_in(), ready(&LOOK))
        };
        let id = prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
        let data = short(com::STMT_SEND_LONG_DATA, id, b"\0\0abc");
        sent(&mut session, &mut conn, &data);
        sent(&mut session, &mut conn, &execute(id, Some(INT)));
        let reply = err(1, number, *b"HY000", "Incorrect arguments");
        answered(&mut session, &mut conn, &reply, 1);
        let out = sent(&mut session, &mut conn, &execute(id, None));
        let wanted = execute(70, puts_in.then_some(INT));
        assert_eq!(out, wanted, "{is_mariadb} {number}");
    }
}

#[test]
fn long_data_of_more_than_a_mib_has_no_reply_either() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let id = prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
    let mut data = vec![0, 0, 0x20, 0, com::STMT_SEND_LONG_DATA, id as u8];
    data.resize(4 + 0x20_0000, 0);
    let out = sent(&mut session, &mut conn, &data[..1000]);
    assert_eq!(out[5], 70);
    let rest = &data[1000..];
    let (taken, what) = step(&mut session, rest, Some(&mut conn));
    assert_eq!((taken, what), (rest.len(), Step::Forward));
    assert_eq!(
        step(&mut session, &[], Some(&mut conn)).1,
        Step::Say(vec![])
    );
    assert_eq!(run(&mut session, &mut conn, &execute(id, Some(INT)))[5], 70);
}

#[test]
fn cursors_bulk_and_the_last_statement_bind() {
    let bulk = |id: u32| short(0xfa, id, &[0x80, 0, 8, 0]);
    let cursor = |id: u32| {
        let mut bytes = execute(id, Some(INT));
        bytes[9] = 1;
        bytes
    };
    for make in [&bulk as &dyn Fn(u32) -> Vec<u8>, &cursor] {
        let (mut session, mut conn) = (mariadb_session(), mariadb());
        let id = prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
        assert_eq!(run(&mut session, &mut conn, &make(id))[5], 70);
        assert_eq!(session.pin(), Some(Pin::Statements));
        run(&mut session, &mut conn, &short(com::STMT_RESET, id, &[]));
        assert_eq!(session.pin(), Some(Pin::Statements));
        let close = short(com::STMT_CLOSE, id, &[]);
        assert_eq!(sent(&mut session, &mut conn, &close)[5], 70);
        assert!(!session.is_pinned() && conn.is_ready());
    }
    // The last one: known to MariaDB alone.
    let (mut session, mut conn) = (mariadb_session(), mariadb());
    prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
    let last = execute(LAST_PREPARED, Some(INT));
    assert_eq!(run(&mut session, &mut conn, &last)[5], 70);
    assert_eq!(session.pin(), Some(Pin::Statements));
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
    assert_eq!(sent(&mut session, &mut conn, &last)[5..9], [0; 4]);
}

#[test]
fn a_bulk_execution_without_types_relies_on_those_of_before() {
    let (mut session, mut first, mut other) = (mariadb_session(), mariadb(), mariadb());
    let id = prepare(&mut session, &mut first, "SELECT ?", 70, 1);
    run(&mut session, &mut first, &execute(id, Some(INT)));
    let bulk = short(0xfa, id, &[0, 0, 1, 2]);
    step(&mut session, &bulk, None);
    assert!(session.want().home.unwrap().is_needed);
    let (_, what) = step(&mut session, &bulk, Some(&mut other));
    assert_eq!(errno_of(what), 1615);
    assert_eq!(run(&mut session, &mut first, &bulk)[5], 70);
}

#[test]
fn other_types_bind_where_the_server_remembers_them() {
    for forgets in [false, true] {
        let (mut session, mut first, mut other) = if forgets {
            (mariadb_session(), mariadb(), mariadb())
        } else {
            (logged_in(), ready(&LOOK), ready(&LOOK))
        };
        let id = prepare(&mut session, &mut first, "SELECT ?", 70, 1);
        let (int, double) = (execute(id, Some(INT)), execute(id, Some(DOUBLE)));
        run(&mut session, &mut first, &double);
        step(&mut session, &int, None);
        assert_eq!(session.want().home.is_some_and(|h| h.is_needed), !forgets);
        if !forgets {
            // No other connection has this history, and none can be given it.
            session.attached((2, 0));
            assert!(other.prepare(&session.want()).is_empty());
            assert_eq!(errno_of(step(&mut session, &int, Some(&mut other)).1), 1615);
        }
        assert_eq!(run(&mut session, &mut first, &int), execute(70, Some(INT)));
        assert_eq!(session.is_pinned(), !forgets);
        assert_eq!(
            run(&mut session, &mut first, &execute(id, None)),
            execute(70, None)
        );
    }
}

#[test]
fn without_types_nothing_is_executed_with_those_of_others() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let id = prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
    run(&mut session, &mut conn, &execute(id, Some(INT)));
    let mut next = logged_in();
    let its = prepare(&mut next, &mut conn, "SELECT ?", 71, 1);
    assert_eq!(errno_of(step(&mut next, &execute(its, None), None).1), 1210);
}

#[test]
fn what_cannot_move_is_bound_from_the_start() {
    let long = format!("SELECT '{}'", "x".repeat(17 * 1024));
    for (text, pin) in [
        ("SHOW WARNINGS", Pin::Statements),
        ("SELECT ROW_COUNT()", Pin::Statements),
        ("SELECT FOUND_ROWS()", Pin::Statements),
        (&long, Pin::Statements),
        ("SELECT @a", Pin::UserVariable),
        ("USE shop", Pin::Statement),
    ] {
        let (mut session, mut conn) = (logged_in(), ready(&LOOK));
        prepare(&mut session, &mut conn, text, 70, 0);
        assert_eq!(session.pin(), Some(pin), "{text}");
    }
    // Servers that are not alike define columns differently.
    let mixed = [
        server(""),
        Arc::new(Server {
            version: "10.11".to_owned(),
            ..(*server("")).clone()
        }),
    ];
    let (mut session, mut conn) = (log_in(&mixed), ready(&LOOK));
    prepare(&mut session, &mut conn, "SELECT 1", 70, 0);
    assert_eq!(session.pin(), Some(Pin::Statements));
}

#[test]
fn a_session_has_room_for_so_many_texts() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    for n in 0..1024 {
        prepare(&mut session, &mut conn, &format!("SELECT {n}"), 100 + n, 0);
    }
    assert!(!session.is_pinned());
    let last = prepare(&mut session, &mut conn, "SELECT 5000", 5000, 0);
    assert_eq!(session.pin(), Some(Pin::Statements));
    sent(&mut session, &mut conn, &short(com::STMT_CLOSE, last, &[]));
    assert!(!session.is_pinned());
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    for n in 0..5 {
        assert!(!session.is_pinned(), "{n}");
        let text = format!("SELECT {n}, '{}'", "x".repeat(15 * 1024));
        prepare(&mut session, &mut conn, &text, 100 + n, 0);
    }
    assert_eq!(session.pin(), Some(Pin::Statements));
}

#[test]
fn what_a_statement_leaves_is_left_by_each_execution() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let text = "SELECT SQL_CALC_FOUND_ROWS 1";
    let id = prepare(&mut session, &mut conn, text, 70, 0);
    query(&mut session, &mut conn, "SELECT 1", 2);
    assert!(!session.is_pinned());
    run(&mut session, &mut conn, &execute(id, None));
    assert_eq!(session.pin(), Some(Pin::FoundRows));
    let id = prepare(&mut session, &mut conn, "SELECT LAST_INSERT_ID()", 71, 0);
    assert!(!session.is_pinned());
    run(&mut session, &mut conn, &execute(id, None));
    assert_eq!(session.pin(), Some(Pin::InsertId));
}

#[test]
fn a_reset_takes_all_statements() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
    let reset = command(com::RESET_CONNECTION, &[]);
    // MySQL with another global character set: passed on.
    assert_eq!(step(&mut session, &reset, Some(&mut conn)).1, Step::Forward);
    answered(&mut session, &mut conn, &ok(1, status::AUTOCOMMIT), 1);
    let out = sent(&mut session, &mut conn, &execute(1, Some(INT)));
    assert_eq!(out[5..9], [0; 4]);
    answered(&mut session, &mut conn, &unknown(), 1);
    conn.left(Left::Traces);
    conn.clean([0; 20]);
    assert_eq!(
        conn.feed(&mut &[ok(1, 2), ok(1, 2)].concat()[..]),
        Event::Ready
    );
}

#[test]
fn a_server_with_too_many_gets_its_own_back() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    prepare(&mut session, &mut conn, "SELECT ?", 70, 1);
    let bytes = command(com::STMT_PREPARE, b"SELECT 2");
    step(&mut session, &bytes, Some(&mut conn));
    answered(
        &mut session,
        &mut conn,
        &err(1, 1461, *b"42000", "too many"),
        1,
    );
    let bytes = conn.prepare(&logged_in().want());
    assert_eq!(bytes, short(com::STMT_CLOSE, 70, &[]));
}

proptest::proptest! {
    #[test]
    fn no_statement_makes_it_panic(
        number in proptest::sample::select(vec![0x17_u8, 0x18, 0x19, 0x1a, 0x1c, 0xfa]),
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        is_ours in proptest::prelude::any::<bool>(),
    ) {
        let (mut session, mut conn) = (logged_in(), ready(&LOOK));
        let id = prepare(&mut session, &mut conn, "SELECT ?, ?", 70, 2);
        let mut argument = bytes;
        if is_ours {
            argument.splice(0..0, id.to_le_bytes());
        }
        let bytes = command(number, &argument);
        for _ in 0..3 {
            let (taken, what) = step(&mut session, &bytes, Some(&mut conn));
            if what == Step::Forward {
                session.address(&mut bytes.clone()[..taken]);
            }
            if conn.is_busy() {
                answered(&mut session, &mut conn, &err(1, 1, *b"HY000", "no"), 1);
            }
        }
    }
}
