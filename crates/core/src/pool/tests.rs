mod hostile;
mod prepared;

use std::sync::Arc;

use portside_proto::command::{capability, com, extended, status};
use portside_proto::handshake::offer::{command, ok};
use portside_proto::handshake::server::greeting_packet;
use portside_proto::handshake::{Announce, ClientLogin, Plugin, Secret, Step as LoginStep};
use portside_proto::reply::Outcome;
use portside_proto::single::err;

use super::*;
use crate::reason::{Cause, Pin};

mod life;
mod own;
mod riding;
mod settings;
mod tls;
mod translated;

const SALT: [u8; 20] = *b"abcdefghijklmnopqrst";
const NONCE: [u8; 32] = *b"abcdefghijklmnopqrstuvwxyz012345";

fn server(plugin: &str) -> Arc<Server> {
    Arc::new(Server {
        version: "9.9.9-test".to_owned(),
        is_mariadb: false,
        capabilities: u32::MAX.into(),
        collation: 45,
        plugin: plugin.to_owned(),
    })
}

fn user() -> Arc<User> {
    Arc::new(User {
        name: "app".to_owned(),
        secret: Secret::password("secret"),
        schema: None,
        server_user: "app".to_owned(),
        server_password: None,
        learnt: Learnt::default(),
    })
}

fn step(session: &mut Session, input: &[u8], conn: Option<&mut Conn>) -> (usize, Step) {
    let find = |name: &[u8]| Some((user(), name != b"app"));
    let context = Context {
        client: &"10.0.0.1",
        find: &find,
        is_limited: &|_| false,
        nonce: &|| NONCE,
        public_key: None,
        open: &|_, _| Vec::new(),
        may_hash: &|| true,
    };
    session.step(input, conn, &context)
}

/// What a client with this password answers to the greeting.
fn answer(greeting: &[u8], name: &str, password: &str, schema: Option<&str>) -> Vec<u8> {
    let mut login = ClientLogin::new(name, password, schema);
    match login.feed(&mut &greeting[..]) {
        Ok(Some(LoginStep::Send(bytes))) => bytes,
        other => panic!("{other:?}"),
    }
}

fn logged_in() -> Session {
    log_in(&[server(Plugin::Native.name())])
}

fn log_in(servers: &[Arc<Server>]) -> Session {
    let (mut session, greeting) = Session::new(7, NONCE, servers, Channel::PLAIN, None).unwrap();
    let login = answer(&greeting, "app", "secret", None);
    assert_eq!(step(&mut session, &login, None), (login.len(), Step::Admit));
    assert_eq!(session.admitted(), ok(2, status::AUTOCOMMIT));
    assert!(session.is_logged_in());
    session
}

fn row(values: &[&str]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 1, values.len() as u8];
    for n in 0..values.len() {
        bytes.extend([17, 0, 0, 2 + n as u8, 3, b'd', b'e', b'f', 12]);
        bytes.extend([45, 0, 0, 0, 0, 0, 253, 0, 0, 0, 0, 0]);
    }
    bytes.extend([5, 0, 0, 90, 0xfe, 0, 0, 2, 0]);
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|v| std::iter::once(v.len() as u8).chain(v.bytes()))
        .collect();
    bytes.extend([payload.len() as u8, 0, 0, 91]);
    bytes.extend(payload);
    bytes.extend([5, 0, 0, 92, 0xfe, 0, 0, 2, 0]);
    bytes
}

const LOOK: [&str; 10] = [
    "utf8mb4",
    "utf8mb4",
    "utf8mb4_general_ci",
    "28800",
    "",
    "1",
    "latin1",
    "latin1_swedish_ci",
    "latin1",
    "",
];

/// A connection that has logged in to a server whose first look gives this.
fn ready(look: &[&str]) -> Conn {
    ready_of("9.9.9-test", look)
}

fn ready_of(version: &str, look: &[&str]) -> Conn {
    let class = Class {
        capabilities: 0,
        collation: 45,
        is_mariadb: None,
    };
    let mut conn = Conn::new(&user(), class, [0; 20], Transport::Plain);
    let greeting = greeting_packet(99, version, &SALT);
    assert!(matches!(conn.feed(&mut &greeting[..]), Event::Send(_)));
    assert!(matches!(conn.feed(&mut &ok(2, 2)[..]), Event::Send(_)));
    assert_eq!(conn.feed(&mut &row(look)[..]), Event::Ready);
    conn
}

/// Runs a query that the server answers with an OK of these flags.
fn query(session: &mut Session, conn: &mut Conn, text: &str, flags: u16) {
    let bytes = command(com::QUERY, text.as_bytes());
    let (taken, what) = step(session, &bytes, Some(conn));
    assert_eq!((taken, what), (bytes.len(), Step::Forward), "{text}");
    let outcome = conn.relay(&mut &ok(1, flags)[..]).unwrap().unwrap();
    session.replied(&outcome, conn, 1);
}

#[test]
fn both_methods_let_the_right_password_in_and_no_other() {
    for plugin in [Plugin::Native, Plugin::Sha2] {
        for (name, password, is_right) in [
            ("app", "secret", true),
            ("app", "wrong", false),
            ("nobody", "secret", false),
            ("nobody", "?", false),
            ("app", "", false),
        ] {
            let (mut session, greeting) =
                Session::new(7, NONCE, &[server(plugin.name())], Channel::PLAIN, None).unwrap();
            let login = answer(&greeting, name, password, None);
            let (_, what) = step(&mut session, &login, None);
            assert_eq!(session.awaits_admission(), is_right, "{name} {password}");
            if !is_right {
                let Step::Denied(bytes, _) = what else {
                    panic!("{what:?}");
                };
                let using = if password.is_empty() { "NO" } else { "YES" };
                let text =
                    format!("Access denied for user '{name}'@'10.0.0.1' (using password: {using})");
                assert_eq!(bytes, err(2, 1045, *b"28000", &text));
            }
        }
    }
}

#[test]
fn nobody_is_greeted_before_a_server_is_known() {
    assert!(Session::new(7, NONCE, &[], Channel::PLAIN, None).is_none());
}

#[test]
fn the_greeting_offers_what_all_servers_have() {
    let few = Server {
        capabilities: u64::from(!capability::DEPRECATE_EOF),
        ..(*server("")).clone()
    };
    let (_, greeting) =
        Session::new(7, NONCE, &[server(""), Arc::new(few)], Channel::PLAIN, None).unwrap();
    let mut login = ClientLogin::new("a", "b", None);
    login.feed(&mut &greeting[..]).unwrap();
    let offered = login.greeting().unwrap().capabilities;
    assert_eq!(offered & capability::DEPRECATE_EOF, 0);
    assert_ne!(offered & capability::SESSION_TRACK, 0);
    for never in [
        capability::SSL,
        capability::COMPRESS,
        capability::LOCAL_FILES,
        // But to clients of MariaDB.
        capability::NO_SCHEMA,
    ] {
        assert_eq!(offered & never, 0);
    }
}

#[test]
fn where_both_families_serve_a_session_belongs_to_one() {
    let named = |version: &str, is_mariadb| {
        Arc::new(Server {
            version: version.to_owned(),
            is_mariadb,
            ..(*server("")).clone()
        })
    };
    let servers = [named("9.7.0", false), named("11.4.2-MariaDB", true)];
    for (id, is_mariadb) in [(4, false), (5, true), (6, false)] {
        let (mut session, greeting) =
            Session::new(id, NONCE, &servers, Channel::PLAIN, None).unwrap();
        let login = answer(&greeting, "app", "secret", None);
        step(&mut session, &login, None);
        let class = session.class();
        assert!(class.fits(u64::MAX, is_mariadb) && !class.fits(u64::MAX, !is_mariadb));
        assert!(class.of_family(!is_mariadb) != class);
    }
}

#[test]
fn a_schema_is_confirmed_by_a_server_before_the_login_is_answered() {
    let (mut session, greeting) =
        Session::new(7, NONCE, &[server("")], Channel::PLAIN, None).unwrap();
    let login = answer(&greeting, "app", "secret", Some("shop"));
    assert_eq!(step(&mut session, &login, None).1, Step::Admit);
    assert_eq!(session.admitted(), []);
    assert_eq!(step(&mut session, &[], None), (0, Step::Attach));
    assert_eq!(session.want().schema, Some(&b"shop"[..]));
    let mut conn = ready(&LOOK);
    assert_eq!(
        conn.prepare(&session.want()),
        command(com::INIT_DB, b"shop")
    );
    let unknown = err(1, 1049, *b"42000", "Unknown database 'shop'");
    let Event::Failed(Failure::Step(error)) = conn.feed(&mut &unknown[..]) else {
        panic!();
    };
    assert!(conn.is_ready() && !conn.has_traces());
    let (bytes, is_over) = session.not_attached(error.errno, error.state, &error.message);
    assert_eq!(bytes, err(2, 1049, *b"42000", "Unknown database 'shop'"));
    assert!(is_over);
}

#[test]
fn a_plain_query_shares_and_a_transaction_keeps_its_connection() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let ping = command(com::PING, &[]);
    assert_eq!(step(&mut session, &ping, None), (5, Step::Say(ok(1, 2))));
    let bytes = command(com::QUERY, b"SELECT 1");
    assert_eq!(step(&mut session, &bytes, None), (0, Step::Attach));
    query(&mut session, &mut conn, "SELECT 1", 2);
    assert!(!session.is_pinned());
    query(&mut session, &mut conn, "BEGIN", 3);
    assert_eq!(session.pin(), Some(Pin::Transaction));
    query(&mut session, &mut conn, "COMMIT", 2);
    assert!(!session.is_pinned() && session.take_traces() == Left::Nothing);
    query(&mut session, &mut conn, "SET autocommit = 0", 0);
    assert_eq!(session.pin(), Some(Pin::Autocommit));
    assert_eq!(session.take_traces(), Left::Traces);
    assert_eq!(
        step(&mut session, &command(com::QUIT, &[]), None).1,
        Step::End(Cause::Quit, vec![])
    );
}

#[test]
fn a_ping_goes_to_the_connection_that_the_session_keeps() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let ping = command(com::PING, &[]);
    // An insert of two rows: ROW_COUNT() may follow, and a server sets it to 0 by a ping.
    let bytes = command(com::QUERY, b"INSERT INTO t VALUES (1), (2)");
    assert_eq!(step(&mut session, &bytes, Some(&mut conn)).1, Step::Forward);
    let changed = [7, 0, 0, 1, 0, 2, 0, 2, 0, 0, 0];
    let outcome = conn.relay(&mut &changed[..]).unwrap().unwrap();
    session.replied(&outcome, &mut conn, 1);
    assert_eq!(session.pin(), Some(Pin::RowCount));
    assert_eq!(step(&mut session, &ping, Some(&mut conn)).1, Step::Forward);
    let outcome = conn.relay(&mut &ok(1, 2)[..]).unwrap().unwrap();
    session.replied(&outcome, &mut conn, 1);
    assert_eq!(session.pin(), Some(Pin::RowCount));
    // Without a connection it is answered here, and then only the server could know ROW_COUNT().
    session.let_go();
    assert_eq!(
        step(&mut session, &ping, None),
        (5, Step::Say(ok(1, status::AUTOCOMMIT)))
    );
    let asked = command(com::QUERY, b"SELECT ROW_COUNT()");
    let (_, what) = step(&mut session, &asked, None);
    assert!(matches!(what, Step::Say(text) if text.windows(12).any(|w| w == b"after a ping")));
}

#[test]
fn warnings_are_kept_for_the_next_statement_and_not_for_ever() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let show = command(com::QUERY, b"SHOW WARNINGS");
    step(&mut session, &show, None);
    assert!(session.want().no_diagnostics);
    session.not_attached(1040, *b"08004", "no");
    query(&mut session, &mut conn, "SELECT 1", 2);
    let outcome = Outcome {
        warnings: 1,
        status: Some(2),
        ..Outcome::default()
    };
    session.replied(&outcome, &mut conn, 1);
    assert!(session.only_waits());
    session.let_go();
    assert!(!session.is_pinned());
    let (_, what) = step(&mut session, &show, Some(&mut conn));
    assert!(
        matches!(what, Step::Say(bytes) if String::from_utf8_lossy(&bytes).contains("not known any more"))
    );
}

#[test]
fn what_a_reset_does_not_undo_spoils_the_connection() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    query(&mut session, &mut conn, "SET ROLE admin", 2);
    conn.left(session.take_traces());
    assert!(conn.is_spoiled());
    // With init_connect a reset is not the login's state again.
    let mut look = LOOK;
    look[9] = "SET autocommit = 0";
    let (mut session, mut conn) = (logged_in(), ready(&look));
    query(&mut session, &mut conn, "SET NAMES latin1", 2);
    assert!(conn.is_unfit(&logged_in().want()) && !conn.is_unfit(&session.want()));
    query(&mut session, &mut conn, "SET @a = 1", 2);
    conn.left(session.take_traces());
    assert!(conn.is_spoiled());
}

/// Cleans it by a second login.
fn logs_in_again(conn: &mut Conn, look: &[&str]) {
    let login = conn.clean([0; 20]);
    assert_eq!(login.get(4), Some(&com::CHANGE_USER));
    assert!(String::from_utf8_lossy(&login).contains("app\0\x14"));
    assert!(!conn.is_ready());
    assert!(matches!(conn.feed(&mut &ok(1, 2)[..]), Event::Send(_)));
    assert_eq!(conn.feed(&mut &row(look)[..]), Event::Ready);
    assert!(!conn.has_traces() && conn.schema().is_none());
    assert!(!conn.is_unfit(&logged_in().want()));
}

#[test]
fn a_server_without_reset_logs_in_again_and_again() {
    let mut conn = ready_of("5.6.51", &LOOK);
    for _ in 0..2 {
        conn.set_schema(b"shop");
        conn.left(Left::Traces);
        logs_in_again(&mut conn, &LOOK);
    }
    conn.left(Left::Traces);
    conn.clean([0; 20]);
    let refused = err(1, 1045, *b"28000", "Access denied");
    assert!(matches!(
        conn.feed(&mut &refused[..]),
        Event::Failed(Failure::Denied(_))
    ));
}

#[test]
fn text_that_cannot_be_read_pins_from_the_first_statement() {
    let mut look = LOOK;
    look[4] = "NO_BACKSLASH_ESCAPES";
    let (mut session, mut conn) = (logged_in(), ready(&look));
    query(&mut session, &mut conn, "SELECT 1", 2);
    assert_eq!(session.pin(), Some(Pin::Unreadable));
}

#[test]
fn commands_that_are_not_for_a_pool_get_an_err() {
    let mut session = logged_in();
    for (number, errno) in [
        (com::BINLOG_DUMP, 1235_u16),
        (com::BINLOG_DUMP_GTID, 1235),
        (com::REGISTER_SLAVE, 1235),
        (0x07, 1047),
        (0xff, 1047),
    ] {
        let bytes = command(number, &[1, 0, 0, 0, 0]);
        let (taken, what) = step(&mut session, &bytes, None);
        let Step::Say(reply) = what else {
            panic!("{number}: {what:?}");
        };
        assert_eq!(
            (taken, reply[4], &reply[5..7]),
            (bytes.len(), 0xff, &errno.to_le_bytes()[..])
        );
    }
    let kill = command(com::QUERY, b"KILL QUERY 5");
    assert_eq!(
        step(&mut session, &kill, None).1,
        Step::Kill { id: 5, query: true }
    );
}

#[test]
fn malformed_packets_end_the_session_with_a_reason() {
    let fresh = || {
        Session::new(7, NONCE, &[server("")], Channel::PLAIN, None)
            .unwrap()
            .0
    };
    for bytes in [&[5, 0, 0, 1, 0, 0, 0, 0, 0][..], &[0xff, 0xff, 0xff, 1, 0]] {
        let (_, what) = step(&mut fresh(), bytes, None);
        assert!(matches!(what, Step::End(Cause::ProtocolError, text) if !text.is_empty()));
    }
    for bytes in [&[0, 0, 0, 0][..], &[1, 0, 0, 9, com::PING]] {
        let (_, what) = step(&mut logged_in(), bytes, None);
        assert!(matches!(what, Step::End(Cause::ProtocolError, text) if !text.is_empty()));
    }
    assert_eq!(step(&mut logged_in(), &[5, 0, 0], None), (0, Step::More));
}

#[test]
fn a_long_command_is_passed_on_in_pieces_and_pins() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    let mut bytes = vec![0xff, 0xff, 0xff, 0, com::QUERY];
    bytes.resize(1000, b'x');
    assert_eq!(step(&mut session, &bytes, None), (0, Step::Attach));
    assert_eq!(
        step(&mut session, &bytes, Some(&mut conn)),
        (1000, Step::Forward)
    );
    let rest = vec![b'x'; 0xff_ffff + 4 - 1000];
    assert_eq!(
        step(&mut session, &rest, Some(&mut conn)),
        (rest.len(), Step::Forward)
    );
    // The packet that ends it, empty here.
    assert_eq!(
        step(&mut session, &[0, 0], Some(&mut conn)),
        (0, Step::More)
    );
    assert_eq!(
        step(&mut session, &[0, 0, 0, 1], Some(&mut conn)),
        (4, Step::Forward)
    );
    assert_eq!(step(&mut session, &[], Some(&mut conn)), (0, Step::Await));
    assert_eq!(session.pin(), Some(Pin::Long));
}

/// A session that has logged in with these flags, to a service of such servers.
fn with_flags(servers: &[Arc<Server>], flags: u64, local_infile: bool) -> Session {
    let channel = Channel {
        local_infile,
        ..Channel::PLAIN
    };
    let (mut session, greeting) = Session::new(7, NONCE, servers, channel, None).unwrap();
    let mut login = ClientLogin::new("app", "secret", None).announcing(Announce {
        capabilities: flags,
        collation: 45,
        seed: [0; 20],
        transport: Transport::Plain,
        attributes: &[],
    });
    let Ok(Some(LoginStep::Send(bytes))) = login.feed(&mut &greeting[..]) else {
        panic!("the client does not log in");
    };
    assert_eq!(step(&mut session, &bytes, None).1, Step::Admit);
    session.admitted();
    session
}

#[test]
fn only_a_service_of_mariadb_alone_looks_like_mariadb() {
    let with = |capabilities| {
        Arc::new(Server {
            capabilities,
            ..(*server("")).clone()
        })
    };
    let mysql = with(u64::from(u32::MAX));
    let mariadb = with(!u64::from(capability::LONG_PASSWORD));
    let wanted = extended::PROGRESS | extended::BULK | extended::METADATA;
    for (servers, expected) in [
        (vec![Arc::clone(&mariadb)], wanted),
        (vec![Arc::clone(&mariadb), Arc::clone(&mysql)], 0),
        (vec![mysql], 0),
    ] {
        let session = with_flags(&servers, CHOICE, false);
        let upper = session.class().capabilities >> 32 << 32;
        assert_eq!(upper & !extended::BULK_UNIT_RESULTS, expected);
        assert!(!session.class().has(capability::LOCAL_FILES));
    }
}

#[test]
fn the_text_is_looked_for_behind_query_attributes() {
    let flags = u64::from(capability::QUERY_ATTRIBUTES);
    let mut session = with_flags(&[server("")], flags, false);
    let ask = |session: &mut Session, argument: &[u8]| {
        let bytes = command(com::QUERY, argument);
        step(session, &bytes, None).1
    };
    assert_eq!(
        ask(&mut session, b"\x00\x01KILL QUERY 5"),
        Step::Kill { id: 5, query: true }
    );
    // The text of an attribute is no statement.
    let hidden = b"\x01\x01\x00\x01\xfe\x00\x01n\x0cKILL QUERY 5SELECT 1";
    assert_eq!(ask(&mut session, hidden), Step::Attach);
    session.not_attached(1040, *b"08004", "no");
    let Step::Say(reply) = ask(&mut session, b"SELECT 1") else {
        panic!("taken for a query");
    };
    let text = "portside: malformed packet: query attributes";
    assert_eq!(reply, err(1, 1835, *b"HY000", text));
}

#[test]
fn a_file_goes_only_to_a_server_that_was_told_to_ask() {
    let flags = u64::from(capability::LOCAL_FILES);
    let mut session = with_flags(&[server("")], flags, true);
    assert!(session.class().has(capability::LOCAL_FILES));
    let mut conn = ready(&LOOK);
    let mut load = |text: &str, name: &[u8]| {
        let bytes = command(com::QUERY, text.as_bytes());
        assert_eq!(step(&mut session, &bytes, Some(&mut conn)).1, Step::Forward);
        let may = session.may_send(name);
        if may {
            send_file(&mut session, &mut conn);
        }
        let outcome = conn.relay(&mut &ok(6, 2)[..]).unwrap().unwrap();
        session.replied(&outcome, &mut conn, 1);
        may
    };
    let text = "LOAD DATA LOCAL INFILE '/a' INTO TABLE t";
    assert!(load(text, b"/a"));
    assert!(!load(text, b"/etc/passwd"));
    assert!(!load(&format!("SELECT \"{text}\""), b"/a"));
}

/// A packet in two pieces, one of 16 MiB whose continuation is empty, the end.
fn send_file(session: &mut Session, conn: &mut Conn) {
    for (piece, taken, next) in [
        (&b"\x03\0\0"[..], 0, Step::More),
        (b"\x03\0\0\x02a", 5, Step::Forward),
        (b"bc", 2, Step::Forward),
        (b"\xff\xff\xff\x03", 4, Step::Forward),
    ] {
        assert_eq!(step(session, piece, Some(conn)), (taken, next));
    }
    let long = vec![b'x'; 0xff_ffff];
    assert_eq!(step(session, &long, Some(conn)).0, long.len());
    assert!(session.is_sending() && session.reads());
    for (sequence, goes_on) in [(4, true), (5, false)] {
        let taken = step(session, &[0, 0, 0, sequence, 9], Some(conn));
        assert_eq!(taken, (4, Step::Forward));
        assert_eq!(session.is_sending(), goes_on);
    }
}
