//! Recorded conversations of real servers and clients, read by the watchers as a relay would.

mod support;

use portside_proto::command::capability;
use portside_proto::handshake::{ClientLogin, LoginError, Step};
use portside_proto::login::{Event, ServerLogin};
use portside_proto::quit;
use portside_proto::refuse_login::{start, Step as Refused};
use portside_proto::watch::{ClientWatch, Phase};
use support::{recordings, Recording, Side};

/// What a relay saw at the conversation's end.
struct Seen {
    events: Vec<Event>,
    watch: ClientWatch,
}

/// Plays the conversation in pieces of `chunk` bytes; QUIT must be seen at the last byte and nowhere before.
fn play(recording: &Recording, chunk: usize) -> Seen {
    let (mut watch, mut login, mut events) = (ClientWatch::new(), ServerLogin::new(), Vec::new());
    let total = recording.client().len();
    let mut fed = 0;
    for (side, bytes) in &recording.turns {
        for mut piece in bytes.chunks(chunk) {
            if *side == Side::Client {
                watch.feed(piece);
                fed += piece.len();
                assert!(
                    !watch.quit_seen() || fed == total,
                    "{}: QUIT at {fed} of {total}",
                    recording.name
                );
                continue;
            }
            if watch.phase() == Phase::Tls {
                continue;
            }
            while let Some(event) = login.feed(&mut piece) {
                match &event {
                    Event::Greeting(greeting) => {
                        watch.set_server_capabilities(greeting.capabilities);
                    }
                    Event::LoginOk => watch.login_done(),
                    _ => {}
                }
                events.push(event);
            }
        }
    }
    Seen { events, watch }
}

#[test]
fn every_conversation_reads_the_same_in_any_pieces() {
    for recording in recordings() {
        let whole = play(&recording, usize::MAX);
        for chunk in [1, 2, 3, 4, 5, 7, 11, 64] {
            let parts = play(&recording, chunk);
            assert_eq!(whole.events, parts.events, "{}", recording.name);
            assert_eq!(
                whole.watch.quit_seen(),
                parts.watch.quit_seen(),
                "{}",
                recording.name
            );
            assert_eq!(
                whole.watch.commands(),
                parts.watch.commands(),
                "{}",
                recording.name
            );
        }
    }
}

#[test]
fn sessions_end_with_quit() {
    for (name, compressed, commands) in [
        ("mariadb-login.hex", false, 2),
        ("mariadb-compressed.hex", true, 2),
        ("mariadb-local-infile.hex", false, 2),
        ("mysql9-fast-auth.hex", false, 4),
        ("mysql9-full-auth.hex", false, 4),
        ("mysql9-zlib.hex", true, 4),
        ("mysql9-zstd.hex", true, 4),
    ] {
        let seen = play(&Recording::read(name), usize::MAX);
        assert!(seen.watch.quit_seen() && seen.watch.at_boundary(), "{name}");
        assert_eq!(seen.watch.is_compressed(), compressed, "{name}");
        assert_eq!(seen.watch.commands(), commands, "{name}");
        assert!(
            matches!(seen.events[..], [Event::Greeting(_), Event::LoginOk]),
            "{name}: {:?}",
            seen.events
        );
    }
}

#[test]
fn quit_split_at_every_byte_of_a_session() {
    for name in [
        "mariadb-login.hex",
        "mariadb-compressed.hex",
        "mysql9-zstd.hex",
        "mysql9-zlib.hex",
    ] {
        let client = Recording::read(name).client();
        for at in 0..client.len() {
            let mut watch = ClientWatch::new();
            watch.feed(&client[..at]);
            assert!(!watch.quit_seen(), "{name} at {at}");
            watch.feed(&client[at..]);
            assert!(watch.quit_seen(), "{name} split at {at}");
        }
    }
}

#[test]
fn clients_send_the_quit_that_we_would_append() {
    for (name, compressed) in [
        ("mariadb-login.hex", false),
        ("mysql9-fast-auth.hex", false),
    ]
    .into_iter()
    .chain(
        [
            "mariadb-compressed.hex",
            "mysql9-zlib.hex",
            "mysql9-zstd.hex",
        ]
        .map(|name| (name, true)),
    ) {
        assert!(
            Recording::read(name)
                .client()
                .ends_with(quit::bytes(compressed)),
            "{name}"
        );
    }
}

#[test]
fn greetings_are_read() {
    let seen = play(&Recording::read("mariadb-login.hex"), usize::MAX);
    let Some(Event::Greeting(maria)) = seen.events.first() else {
        panic!()
    };
    assert_eq!(
        (maria.version.as_str(), maria.is_mariadb),
        ("10.11.19-MariaDB-0+deb12u1", true)
    );
    assert_eq!(
        (maria.plugin.as_str(), maria.status),
        ("mysql_native_password", 2)
    );
    // MARIADB_CLIENT_PROGRESS and its neighbours: flags where MySQL has zeros.
    assert_eq!(maria.mariadb_capabilities, 0x1d);
    let seen = play(&Recording::read("mysql9-fast-auth.hex"), usize::MAX);
    let Some(Event::Greeting(mysql)) = seen.events.first() else {
        panic!()
    };
    assert!(
        mysql.version.starts_with("9.7.4") && !mysql.is_mariadb,
        "{}",
        mysql.version
    );
    assert_eq!(
        (mysql.plugin.as_str(), mysql.mariadb_capabilities),
        ("caching_sha2_password", 0)
    );
    for greeting in [maria, mysql] {
        assert!(greeting.salt.iter().all(|&byte| byte != 0) && greeting.thread_id > 0);
        assert!(greeting.capabilities & capability::COMPRESS != 0);
    }
}

#[test]
fn refusals_are_read_and_look_like_ours() {
    for (name, errno, text) in [
        ("mariadb-too-many.hex", 1040, "Too many connections"),
        ("mysql9-too-many.hex", 1040, "Too many connections"),
        (
            "mariadb-host-blocked.hex",
            1129,
            "Host '127.0.0.9' is blocked because of many",
        ),
        (
            "mysql9-host-blocked.hex",
            1129,
            "Host '127.0.0.9' is blocked because of many",
        ),
    ] {
        let recording = Recording::read(name);
        let seen = play(&recording, 3);
        let [Event::RefusedErr {
            errno: got,
            message,
        }] = &seen.events[..]
        else {
            panic!("{name}")
        };
        assert_eq!(*got, errno, "{name}");
        assert!(message.starts_with(text), "{name}: {message}");
        let ours = portside_proto::err::greeting_err(errno, message);
        assert!(recording.server().starts_with(&ours), "{name}");
    }
}

#[test]
fn denied_logins_are_read() {
    for name in ["mariadb-denied.hex", "mysql9-denied.hex"] {
        let seen = play(&Recording::read(name), 2);
        assert_eq!(
            seen.events.last(),
            Some(&Event::LoginErr { errno: 1045 }),
            "{name}"
        );
        assert_eq!(
            (seen.watch.phase(), seen.watch.quit_seen()),
            (Phase::Login, false),
            "{name}"
        );
    }
}

#[test]
fn tls_is_opaque() {
    let seen = play(&Recording::read("mysql9-tls.hex"), usize::MAX);
    assert_eq!(seen.watch.phase(), Phase::Tls);
    assert_eq!(
        (
            seen.watch.quit_seen(),
            seen.watch.commands(),
            seen.events.len()
        ),
        (false, 0, 1)
    );
    assert!(seen.watch.capabilities().unwrap() & capability::SSL != 0);
}

/// The account and password of the recordings.
const ACCOUNT: (&str, &str) = ("app", "app-pw");

/// What our own client answers to the recorded server.
fn answers(name: &str) -> (Vec<Vec<u8>>, Result<(), LoginError>) {
    let (mut login, mut sent) = (ClientLogin::new(ACCOUNT.0, ACCOUNT.1, None), Vec::new());
    let server = Recording::read(name).server();
    let mut bytes = &server[..];
    loop {
        match login.feed(&mut bytes) {
            Ok(Some(Step::Send(packet) | Step::StartTls(packet))) => sent.push(packet),
            Ok(Some(Step::Done)) => return (sent, Ok(())),
            Ok(None) => panic!("{name}: ended early"),
            Err(error) | Ok(Some(Step::Leave(_, error))) => return (sent, Err(error)),
        }
    }
}

/// A real client's scramble of the same password and salt stands behind its user name and a length.
#[test]
fn scrambles_are_those_of_real_clients() {
    for (name, length) in [("mariadb-login.hex", 20), ("mysql9-fast-auth.hex", 32)] {
        let (sent, outcome) = answers(name);
        assert_eq!(outcome, Ok(()), "{name}");
        let scramble = |packet: &[u8]| {
            let at = 36 + ACCOUNT.0.len() + 1;
            assert_eq!(usize::from(packet[at]), length, "{name}");
            packet[at + 1..=at + length].to_vec()
        };
        assert_eq!(
            scramble(&sent[0]),
            scramble(&Recording::read(name).client()),
            "{name}"
        );
    }
}

#[test]
fn the_full_exchange_is_refused_with_a_reason() {
    let (sent, outcome) = answers("mysql9-full-auth.hex");
    assert_eq!(
        (sent.len(), outcome),
        (1, Err(LoginError::NeedsSecureChannel))
    );
}

#[test]
fn a_refused_login_ends_at_the_servers_err() {
    let recording = Recording::read("mariadb-denied.hex");
    let seen = play(&recording, usize::MAX);
    let Some(Event::Greeting(greeting)) = seen.events.first() else {
        panic!()
    };
    let (mut refusal, _) = start(greeting);
    let (_, answer) = recording.turns.last().unwrap();
    assert_eq!(refusal.feed(&mut &answer[..]), Refused::Close);
}
