//! Ten thousand queries of a pool session: not one allocation in deciding about them.
//!
//! Counted per thread: the test harness allocates in its own when the machine is slow.

#![allow(missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use portside_core::pool::{
    Channel, Class, Conn, Context, Event, Learnt, Server, Session, Step, Transport, User,
};
use portside_proto::command::{capability, com};
use portside_proto::handshake::offer::{command, ok};
use portside_proto::handshake::server::{greeting_packet, one_row};
use portside_proto::handshake::{ClientLogin, Secret, Step as LoginStep};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SALT: [u8; 20] = *b"abcdefghijklmnopqrst";
const QUERIES: u64 = 10_000;

fn user() -> Arc<User> {
    Arc::new(User {
        name: "app".into(),
        secret: Secret::password("pw"),
        schema: None,
        server_user: "app".into(),
        server_password: None,
        learnt: Learnt::default(),
    })
}

fn step(session: &mut Session, input: &[u8], conn: Option<&mut Conn>) -> (usize, Step) {
    let context = Context {
        client: &"host",
        find: &|_| Some((user(), false)),
        is_limited: &|_| false,
        nonce: &|| [b'a'; 32],
        public_key: None,
        open: &|_, _| Vec::new(),
        may_hash: &|| true,
    };
    session.step(input, conn, &context)
}

fn logged_in() -> Session {
    let server = Server {
        version: "9.9.9".into(),
        is_mariadb: false,
        capabilities: u32::MAX.into(),
        collation: 45,
        plugin: "mysql_native_password".into(),
    };
    let (mut session, greeting) =
        Session::new(7, [b'a'; 32], &[Arc::new(server)], Channel::PLAIN, None).unwrap();
    let Ok(Some(LoginStep::Send(login))) =
        ClientLogin::new("app", "pw", None).feed(&mut &greeting[..])
    else {
        panic!("the client does not log in");
    };
    assert_eq!(step(&mut session, &login, None).1, Step::Admit);
    session.admitted();
    session
}

/// Ten columns, as the first look at a server has them.
fn first_look() -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 1, 10];
    for n in 0..10 {
        bytes.extend([17, 0, 0, 2 + n, 3, b'd', b'e', b'f', 12]);
        bytes.extend([45, 0, 0, 0, 0, 0, 253, 0, 0, 0, 0, 0]);
    }
    bytes.extend([5, 0, 0, 12, 0xfe, 0, 0, 2, 0]);
    // Each value with its length; the sql_mode is empty.
    let row = b"\x01a\x01b\x01c\x011\x00\x011\x01a\x01c\x01b\x00";
    bytes.extend([row.len() as u8, 0, 0, 13]);
    bytes.extend(row);
    bytes.extend([5, 0, 0, 14, 0xfe, 0, 0, 2, 0]);
    bytes
}

fn ready() -> Conn {
    let class = Class {
        capabilities: 0,
        collation: 45,
        is_mariadb: None,
    };
    let mut conn = Conn::new(&user(), class, [0; 20], Transport::Plain);
    let greeting = greeting_packet(99, "9.9.9", &SALT);
    assert!(matches!(conn.feed(&mut &greeting[..]), Event::Send(_)));
    assert!(matches!(conn.feed(&mut &ok(2, 2)[..]), Event::Send(_)));
    assert_eq!(conn.feed(&mut &first_look()[..]), Event::Ready);
    conn
}

#[test]
fn ten_thousand_queries_allocate_nothing() {
    let (mut session, mut conn) = (logged_in(), ready());
    let text = b"SELECT id, name FROM shop.items WHERE id IN (1, 2) AND name LIKE 'a%' LIMIT 10";
    let (query, reply) = (command(com::QUERY, text), one_row("name", b"value"));
    let before = ALLOCATIONS.get();
    for _ in 0..QUERIES {
        assert_eq!(step(&mut session, &query, None).1, Step::Attach);
        session.attached((1, conn.uses()));
        assert!(conn.prepare(&session.want()).is_empty());
        assert_eq!(step(&mut session, &query, Some(&mut conn)).1, Step::Forward);
        let outcome = conn.relay(&mut &reply[..]).unwrap().unwrap();
        session.replied(&outcome, &mut conn, 1);
        assert!(!session.is_pinned());
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn ten_thousand_translated_replies_allocate_nothing() {
    let (mut session, mut conn) = (logged_in(), ready());
    let class = conn.class();
    let query = command(com::QUERY, b"SELECT name FROM shop.items");
    let mut reply = one_row("name", b"value");
    let (mut translated, mut before) = (Vec::new(), 0);
    // An EOF less, and an OK in place of the other.
    let length = reply.len() - 9 + 2;
    conn.lent_to(Class {
        capabilities: class.capabilities | u64::from(capability::DEPRECATE_EOF),
        ..class
    });
    for n in 0..=QUERIES {
        assert_eq!(step(&mut session, &query, Some(&mut conn)).1, Step::Forward);
        let (outcome, seen, _) = conn.pass_on(&mut reply, &mut translated);
        assert_eq!(seen.len(), length);
        session.replied(&outcome.unwrap().unwrap(), &mut conn, 1);
        if n == 0 {
            // The buffer is warm.
            before = ALLOCATIONS.get();
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn ten_thousand_executions_allocate_nothing() {
    let (mut session, mut conn) = (logged_in(), ready());
    let prepare = command(
        com::STMT_PREPARE,
        b"SELECT name FROM shop.items WHERE id = ?",
    );
    assert_eq!(
        step(&mut session, &prepare, Some(&mut conn)).1,
        Step::Forward
    );
    // Id 70, no columns, one parameter and the EOF behind it.
    let mut reply = b"\x0c\0\0\x01\0\x46\0\0\0\0\0\x01\0\0\0\0\x04\0\0\x02\x03def".to_vec();
    reply.extend(b"\x05\0\0\x03\xfe\0\0\x02\0");
    let outcome = conn.relay(&mut &reply[..]).unwrap().unwrap();
    session.replied(&outcome, &mut conn, 1);
    // Each with its types, as most clients send them.
    let execute = command(
        com::STMT_EXECUTE,
        b"\x01\0\0\0\0\x01\0\0\0\0\x01\x08\0\x05\0\0\0\0\0\0\0",
    );
    let (mut bytes, reply) = (execute.clone(), one_row("name", b"value"));
    let mut before = 0;
    for n in 0..=QUERIES {
        assert_eq!(step(&mut session, &execute, None).1, Step::Attach);
        session.attached((1, conn.uses()));
        assert!(conn.prepare(&session.want()).is_empty());
        assert_eq!(
            step(&mut session, &execute, Some(&mut conn)).1,
            Step::Forward
        );
        bytes.copy_from_slice(&execute);
        session.address(&mut bytes);
        assert_eq!(bytes[5], 70);
        let outcome = conn.relay(&mut &reply[..]).unwrap().unwrap();
        session.replied(&outcome, &mut conn, 1);
        assert!(!session.is_pinned());
        if n == 0 {
            // The first one files the types.
            before = ALLOCATIONS.get();
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
