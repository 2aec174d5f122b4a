//! Connections of another kind: for which commands they serve, and what their client sees.

use super::*;

const EOF: u64 = capability::DEPRECATE_EOF as u64;

/// A class that differs from the connection's in these flags.
fn other(conn: &Conn, flags: u64) -> Class {
    let class = conn.class();
    Class {
        capabilities: class.capabilities ^ flags,
        ..class
    }
}

/// A session at this query, before it has a connection.
fn about_to(text: &str) -> Session {
    let mut session = logged_in();
    let bytes = command(com::QUERY, text.as_bytes());
    assert_eq!(step(&mut session, &bytes, None), (0, Step::Attach));
    session
}

#[test]
fn only_classes_that_differ_in_one_flag_are_near() {
    let tracking = u64::from(capability::SESSION_TRACK);
    let base = Class {
        capabilities: u64::from(capability::FOUND_ROWS),
        collation: 45,
        is_mariadb: Some(true),
    };
    let with = |flags| Class {
        capabilities: base.capabilities | flags,
        ..base
    };
    assert!(base.is_near(with(EOF)) && with(EOF).is_near(base));
    assert!(!base.is_near(base) && !base.is_near(with(EOF | tracking)));
    for flag in [
        tracking,
        u64::from(capability::LOCAL_FILES),
        extended::PROGRESS,
    ] {
        assert!(!with(flag).is_near(with(flag | EOF)));
    }
    let elsewhere = Class {
        collation: 8,
        ..with(EOF)
    };
    assert!(!base.is_near(elsewhere) && !base.is_near(with(EOF).of_family(false)));
}

#[test]
fn a_connection_of_another_kind_serves_reads_alone() {
    let conn = ready(&LOOK);
    for (text, serves) in [("SELECT a FROM t", true), ("DELETE FROM t", false)] {
        let session = about_to(text);
        assert!(conn.serves(conn.class(), &session.want()));
        assert_eq!(conn.serves(other(&conn, EOF), &session.want()), serves);
    }
    // The schema of a login is asked by Portside itself.
    let (mut session, greeting) = greeted();
    let login = answer(&greeting, "app", "secret", Some("shop"));
    step(&mut session, &login, None);
    session.admitted();
    assert!(conn.serves(other(&conn, EOF), &session.want()));
    // Where a read pins for good, by the login's mode or since autocommit is off.
    let session = about_to("SELECT 1");
    for (at, value) in [(4, "ANSI_QUOTES"), (5, "0")] {
        let mut look = LOOK;
        look[at] = value;
        let conn = ready(&look);
        assert!(!conn.serves(other(&conn, EOF), &session.want()));
    }
}

fn greeted() -> (Session, Vec<u8>) {
    let servers = [server(Plugin::Native.name())];
    Session::new(7, NONCE, &servers, Channel::PLAIN, None).unwrap()
}

#[test]
fn its_client_sees_replies_in_its_own_form() {
    let (mut session, mut conn) = (logged_in(), ready(&LOOK));
    conn.lent_to(other(&conn, EOF));
    let bytes = command(com::QUERY, b"SELECT 'x'");
    assert_eq!(step(&mut session, &bytes, Some(&mut conn)).1, Step::Forward);
    let column = b"\x04\0\0\x02\x03def";
    let mut reply = [
        &b"\x01\0\0\x01\x01"[..],
        column,
        b"\x05\0\0\x03\xfe\0\0\x02\0",
    ]
    .concat();
    reply.extend(b"\x02\0\0\x04\x01x\x05\0\0\x05\xfe\x01\0\x22\0");
    let (mut seen, mut translated) = (Vec::<u8>::new(), Vec::new());
    for mut piece in reply.chunks(7).map(<[u8]>::to_vec) {
        let (result, said, is_more) = conn.pass_on(&mut piece, &mut translated);
        seen.extend(said);
        assert!(!is_more);
        if let Some(outcome) = result.unwrap() {
            session.replied(&outcome, &mut conn, 1);
        }
    }
    let end = b"\x07\0\0\x04\xfe\0\0\x22\0\x01\0";
    let want = [&b"\x01\0\0\x01\x01"[..], column, b"\x02\0\0\x03\x01x", end].concat();
    assert_eq!(seen, want);
    assert_eq!(session.pin(), Some(Pin::Warnings));
    // It stays for what asks for the warning, and goes before anything else.
    for (next, what) in [
        (command(com::QUERY, b"SHOW WARNINGS"), Step::Forward),
        (command(com::PING, &[]), Step::Forward),
        (command(com::QUERY, b"SELECT 1"), Step::Forward),
        (command(com::QUERY, b"BEGIN"), Step::Attach),
        (command(com::STMT_PREPARE, b"SELECT 1"), Step::Attach),
        (command(com::INIT_DB, b"shop"), Step::Attach),
    ] {
        let (mut again, mut conn) = (logged_in(), ready(&LOOK));
        conn.lent_to(other(&conn, EOF));
        step(&mut again, &bytes, Some(&mut conn));
        let outcome = conn.relay(&mut &reply[..]).unwrap().unwrap();
        again.replied(&outcome, &mut conn, 1);
        assert_eq!(step(&mut again, &next, Some(&mut conn)).1, what);
        assert_eq!(again.outgrows(&conn), what == Step::Attach);
    }
}
