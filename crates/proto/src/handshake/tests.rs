use super::result::{Outcome, QueryAnswer};
use super::*;
use crate::login::Garbage;
use crate::wire::packet;
use proptest::prelude::*;

const SALT: [u8; 20] = *b"abcdefghijklmnopqrst";

#[test]
fn scrambles_of_an_empty_password_are_empty() {
    assert!(scramble_native(b"", &SALT).is_empty() && scramble_sha2(b"", &SALT).is_empty());
}

fn sent(login: &mut ClientLogin, bytes: &[u8]) -> Vec<u8> {
    match login.feed(&mut &bytes[..]) {
        Ok(Some(Step::Send(bytes))) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_client_and_our_sink_understand_each_other() {
    let mut login = ClientLogin::new("app", "app-pw", Some("shop"));
    let greeting = server::greeting_packet(7, "8.0.0-portside-sink", &SALT);
    let bytes = sent(&mut login, &greeting);
    let read = login.greeting().unwrap();
    assert_eq!(
        (read.version.as_str(), read.thread_id, &read.salt),
        ("8.0.0-portside-sink", 7, &SALT)
    );
    assert_eq!(read.capabilities, server::CAPABILITIES);
    let text = String::from_utf8_lossy(&bytes[36..]).into_owned();
    assert!(text.starts_with("app\0\x14") && text.ends_with("shop\0mysql_native_password\0"));
    let all = [server::ok_packet(2), server::one_row("n", b"1")].concat();
    let mut rest = &all[..];
    assert_eq!(login.feed(&mut rest), Ok(Some(Step::Done)));
    assert_eq!(
        QueryAnswer::new().feed(&mut rest),
        Some(Outcome::Complete { rows: 1 })
    );
    assert!(rest.is_empty());
    assert!(!format!("{login:?}").contains("app-pw"));
}

#[test]
fn a_switch_uses_the_new_salt() {
    let mut login = ClientLogin::new("app", "app-pw", None);
    sent(&mut login, &server::greeting_packet(7, "x", &SALT));
    let salt = *b"tsrqponmlkjihgfedcba";
    let switch = packet(
        2,
        &[&b"\xfecaching_sha2_password\0"[..], &salt, &[0]].concat(),
    );
    assert_eq!(
        sent(&mut login, &switch),
        packet(3, &scramble_sha2(b"app-pw", &salt))
    );
    assert_eq!(login.feed(&mut &packet(4, &[1, 3])[..]), Ok(None));
    assert_eq!(
        login.feed(&mut &server::ok_packet(5)[..]),
        Ok(Some(Step::Done))
    );
}

#[test]
fn every_failure_has_its_sentence() {
    let greeting = server::greeting_packet(7, "x", &SALT);
    for (answer, text) in [
        (
            packet(2, b"\xff\x15\x04#28000Access denied"),
            "refused the login: ERR 1045: Access denied",
        ),
        (packet(2, b"\xfe"), "mysql_old_password"),
        (
            packet(2, b"\xfesha256_password\0aaaaaaaaaaaaaaaaaaaa\0"),
            "\"sha256_password\"; known are mysql_native_password, caching_sha2_password, client_ed25519",
        ),
        (packet(2, b"\xfeclient_ed25519\0aaaa\0"), "a scramble of another length"),
        (packet(2, b"\xfemysql_clear_password\0"), "needs TLS towards this server"),
        (packet(2, b"\x01\x03"), "more data that was not asked for"),
        (packet(2, b"\x01\x04"), "more data that was not asked for"),
        (packet(2, b"\x07"), "neither OK, ERR"),
        (vec![0, 0, 1, 2], "longer than 16 KiB"),
    ] {
        let mut login = ClientLogin::new("app", "app-pw", None);
        sent(&mut login, &greeting);
        let error = match login.feed(&mut &answer[..]) {
            Err(error) | Ok(Some(Step::Leave(_, error))) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(error.contains(text) && !error.contains("app-pw"), "{error}");
    }
    let mut login = ClientLogin::new("app", "app-pw", None);
    sent(&mut login, &greeting);
    sent(
        &mut login,
        &packet(2, b"\xfecaching_sha2_password\0aaaaaaaaaaaaaaaaaaaa\0"),
    );
    assert_eq!(
        login.feed(&mut &packet(4, &[1, 4])[..]),
        Ok(Some(Step::Leave(
            packet(5, &[]),
            LoginError::NeedsSecureChannel
        )))
    );
    assert!(LoginError::NeedsSecureChannel
        .to_string()
        .contains("TLS or RSA"));

    let refusal = crate::err::greeting_err(1129, "blocked");
    let error = ClientLogin::new("a", "b", None)
        .feed(&mut &refusal[..])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server refused the connection: ERR 1129: blocked"
    );
    let error = ClientLogin::new("a", "b", None)
        .feed(&mut &b"SSH-2.0-OpenSSH_9.2\r\n"[..])
        .unwrap_err();
    assert_eq!(error, LoginError::Garbage(Garbage::TooLong));
}

fn announcing(transport: Transport) -> ClientLogin {
    ClientLogin::new("app", "app-pw", None).announcing(Announce {
        capabilities: 0,
        collation: 45,
        seed: [0; 20],
        transport,
        attributes: &[],
    })
}

/// The sink's greeting, with the flag for TLS or without.
fn greeting_with(tls: bool) -> Vec<u8> {
    let mut bytes = server::greeting_packet(7, "x", &SALT);
    // Behind header, protocol, version, id, half of the salt and a filler: the flags, low byte first.
    bytes[21] = bytes[21] & !8 | if tls { 8 } else { 0 };
    bytes
}

#[test]
fn tls_begins_where_it_is_wanted_and_offered() {
    for (transport, offered, begins) in [
        (Transport::Plain, true, false),
        (Transport::Secure, true, false),
        (Transport::TlsIfOffered, true, true),
        (Transport::TlsIfOffered, false, false),
        (Transport::Tls, true, true),
    ] {
        let mut login = announcing(transport);
        let first = login.feed(&mut &greeting_with(offered)[..]);
        let is_start = matches!(first, Ok(Some(Step::StartTls(_))));
        assert_eq!(is_start, begins, "{transport:?}");
        let Ok(Some(Step::StartTls(request))) = first else {
            continue;
        };
        assert_eq!((request.len(), request[3]), (36, 1));
        assert!(offer::is_tls_request(&request[4..]));
        // Not before somebody has said that it is the right server.
        assert_eq!(login.feed(&mut &packet(2, b"\xff\x15\x04no")[..]), Ok(None));
        let Ok(Step::Send(inside)) = login.within_tls(Ok(())) else {
            panic!("no login");
        };
        assert_eq!((inside[3], &inside[4..36]), (2, &request[4..]));
        assert_eq!(&inside[36..40], b"app\0");
    }
    // A server that is not to be trusted gets the login of nobody, with the flags of the request (MariaDB reads it
    // by those), and nothing of ours.
    let mut login = announcing(Transport::Tls);
    let Ok(Some(Step::StartTls(request))) = login.feed(&mut &greeting_with(true)[..]) else {
        panic!("no TLS");
    };
    let Ok(Step::Send(nobody)) = login.within_tls(Err("it is a stranger".to_owned())) else {
        panic!("no login of nobody");
    };
    assert_eq!((nobody[3], &nobody[4..36]), (2, &request[4..]));
    assert!(nobody[36..].starts_with(b"portside-refused\0\0mysql_native_password\0"));
    let switch = offer::switch(3, Plugin::Clear, &[b'a'; 32]);
    assert_eq!(sent(&mut login, &switch), packet(4, &[]));
    let error = login.feed(&mut &packet(5, b"\xff\x15\x04#28000Access denied")[..]);
    let why = LoginError::Untrusted("it is a stranger".to_owned());
    assert_eq!(error, Err(why));
    assert!(login.within_tls(Ok(())).is_err());
    // The password stays here, and the server may refuse in its own words.
    let mut login = announcing(Transport::Tls);
    let refused = sent(&mut login, &greeting_with(false));
    assert!(String::from_utf8_lossy(&refused).contains("portside-refused"));
    let error = login.feed(&mut &packet(2, b"\xff\x15\x04#28000Access denied")[..]);
    assert_eq!(error, Err(LoginError::NoTls));
    assert_eq!(LoginError::NoTls.to_string(), "the server offers no TLS");
}

#[test]
fn a_password_goes_as_it_is_only_where_nobody_can_read_it() {
    let switch = packet(2, b"\xfecaching_sha2_password\0aaaaaaaaaaaaaaaaaaaa\0");
    for (transport, answer) in [
        (Transport::Plain, &[2][..]),
        (Transport::TlsIfOffered, &[2][..]),
        (Transport::Secure, &b"app-pw\0"[..]),
    ] {
        let mut login = announcing(transport);
        sent(&mut login, &greeting_with(false));
        sent(&mut login, &switch);
        assert_eq!(
            sent(&mut login, &packet(4, &[1, 4])),
            packet(5, answer),
            "{transport:?}"
        );
    }
    let mut login = announcing(Transport::Tls);
    login.feed(&mut &greeting_with(true)[..]).unwrap();
    login.within_tls(Ok(())).unwrap();
    sent(&mut login, &switch);
    assert_eq!(
        sent(&mut login, &packet(4, &[1, 4])),
        packet(5, b"app-pw\0")
    );
}

fn knowing(credential: impl Into<Credential>, is_secure: bool) -> ClientLogin {
    ClientLogin::new("app", credential, None).announcing(Announce {
        capabilities: 0,
        collation: 45,
        seed: [1; 20],
        transport: if is_secure {
            Transport::Secure
        } else {
            Transport::Plain
        },
        attributes: &[("program_name", "portside"), ("_os", "Linux")],
    })
}

/// What is sent in answer to a switch to this method.
fn switched(login: &mut ClientLogin, plugin: Plugin) -> Result<Option<Step>, LoginError> {
    sent(login, &server::greeting_packet(7, "x", &SALT));
    login.feed(&mut &offer::switch(2, plugin, b"abcdefghijklmnopqrstuvwxyz012345")[..])
}

#[test]
fn every_method_is_answered_with_what_is_known() {
    let nonce = b"abcdefghijklmnopqrstuvwxyz012345";
    let once: [u8; 20] = Secret::password("pw")
        .proves_native(&SALT, &scramble_native(b"pw", &SALT))
        .unwrap();
    let native = scramble_native(b"pw", &SALT);
    for (credential, is_secure, plugin, answer) in [
        (
            Credential::from("pw"),
            false,
            Plugin::Native,
            Ok(native.clone()),
        ),
        (Credential::Sha1(once), false, Plugin::Native, Ok(native)),
        (Credential::Unknown, false, Plugin::Native, Ok(vec![])),
        (
            "pw".into(),
            false,
            Plugin::Sha2,
            Ok(scramble_sha2(b"pw", &SALT)),
        ),
        (
            "pw".into(),
            false,
            Plugin::Ed25519,
            Ok(ed25519::sign(b"pw", nonce).to_vec()),
        ),
        ("pw".into(), false, Plugin::Clear, Err(LoginError::NeedsTls)),
        ("pw".into(), true, Plugin::Clear, Ok(b"pw\0".to_vec())),
        (
            Credential::Sha1(once),
            true,
            Plugin::Clear,
            Err(LoginError::NeedsPassword(Plugin::Clear)),
        ),
        (
            Credential::Sha1(once),
            true,
            Plugin::Sha2,
            Err(LoginError::NeedsPassword(Plugin::Sha2)),
        ),
        (
            Credential::Unknown,
            true,
            Plugin::Ed25519,
            Err(LoginError::NeedsPassword(Plugin::Ed25519)),
        ),
    ] {
        let mut login = knowing(credential, is_secure);
        let step = switched(&mut login, plugin);
        // What cannot be said is answered wrongly, so that the server hears a packet that it can read.
        let wrong = vec![0; if plugin == Plugin::Ed25519 { 64 } else { 0 }];
        let wanted = match answer {
            Ok(bytes) => Step::Send(packet(3, &bytes)),
            Err(why) => Step::Leave(packet(3, &wrong), why),
        };
        assert_eq!(step, Ok(Some(wanted)));
        assert!(!format!("{login:?}").contains("pw"));
    }
    let text = LoginError::NeedsPassword(Plugin::Ed25519).to_string();
    assert!(
        text.starts_with("client_ed25519 needs the account's password")
            && text.contains("server_password")
    );
}

#[test]
fn a_full_exchange_sends_the_password_only_over_a_channel_that_hides_it() {
    let mut login = knowing("pw", true);
    switched(&mut login, Plugin::Sha2).unwrap();
    assert_eq!(sent(&mut login, &packet(4, &[1, 4])), packet(5, b"pw\0"));
    assert!(login.feed(&mut &packet(6, &[1, 4])[..]).is_err());
    let mut login = knowing("pw", false);
    switched(&mut login, Plugin::Sha2).unwrap();
    assert_eq!(sent(&mut login, &packet(4, &[1, 4])), packet(5, &[2]));
    // An OK in place of the key, and no key at all.
    assert!(login.feed(&mut &server::ok_packet(6)[..]).is_err());
    let Ok(Some(Step::Leave(_, error))) = login.feed(&mut &packet(6, b"\x01no key")[..]) else {
        panic!("it goes on without a key");
    };
    assert!(error
        .to_string()
        .contains("the server's public key cannot be used"));
}

#[test]
fn a_server_that_changes_its_mind_again_gets_no_second_answer() {
    let mut login = knowing("pw", true);
    switched(&mut login, Plugin::Native).unwrap();
    let again = offer::switch(4, Plugin::Clear, &[b'a'; 32]);
    let error = login.feed(&mut &again[..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unexpected packet while logging in: a second switch of the method"
    );
    // Not behind the fast exchange's yes either; an ERR there is the server's word.
    for (packet, text) in [
        (
            offer::switch(5, Plugin::Native, &[b'a'; 32]),
            "a second switch",
        ),
        (packet(5, &[1, 3]), "not asked for"),
        (
            crate::single::err(5, 1045, *b"28000", "no"),
            "refused the login: ERR 1045: no",
        ),
    ] {
        let mut login = knowing("pw", false);
        switched(&mut login, Plugin::Sha2).unwrap();
        assert_eq!(
            login.feed(&mut &crate::wire::packet(4, &[1, 3])[..]),
            Ok(None)
        );
        let error = login.feed(&mut &packet[..]).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn attributes_are_sent_and_read() {
    let mut login = knowing("pw", false);
    let bytes = sent(&mut login, &server::greeting_packet(7, "x", &SALT));
    let read = offer::Login::parse(&bytes[4..]).unwrap();
    assert_eq!((read.program, read.user), (&b"portside"[..], &b"app"[..]));
    assert!(bytes.ends_with(b"\x03_os\x05Linux"));
    for cut in 5..bytes.len() {
        if let Some(read) = offer::Login::parse(&bytes[4..cut]) {
            assert!(read.program.is_empty() || read.program == b"portside");
        }
    }
}

#[test]
fn answers_of_every_kind() {
    let more = [
        packet(1, &[0, 0xfc, 1, 1, 0, 10, 0, 0, 0]),
        server::one_row("n", b"1"),
    ]
    .concat();
    let mut aborted = server::one_row("n", b"1");
    aborted.truncate(aborted.len() - 9);
    aborted.extend(packet(5, b"\xff\x25\x05#70100interrupted"));
    // A row of 16 MiB whose continuation looks like the end of the rows.
    let small = server::one_row("n", b"1");
    let (front, eof) = (&small[..small.len() - 15], &small[small.len() - 9..]);
    let large = [
        front,
        &[0xff, 0xff, 0xff, 4],
        &vec![0xfd; 0xff_ffff],
        &packet(5, &eof[4..]),
        &packet(6, &eof[4..]),
    ]
    .concat();
    for (bytes, outcome) in [
        (server::ok_packet(1), Outcome::Complete { rows: 0 }),
        (more, Outcome::Complete { rows: 1 }),
        (
            packet(1, b"\xff\x28\x04#42000syntax"),
            Outcome::Failed { errno: 1064 },
        ),
        (aborted, Outcome::Failed { errno: 1317 }),
        (packet(1, b"\xfb/etc/passwd"), Outcome::WantsFile),
        (
            server::one_row("n", &vec![0xff; 70_000]),
            Outcome::Complete { rows: 1 },
        ),
        (large, Outcome::Complete { rows: 1 }),
    ] {
        let mut rest = &bytes[..];
        assert_eq!(QueryAnswer::new().feed(&mut rest), Some(outcome));
        assert!(rest.is_empty());
    }
}

proptest! {
    #[test]
    fn no_server_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), is_secure: bool) {
        for plugin in Plugin::ALL {
            let mut login = knowing("pw", is_secure);
            if switched(&mut login, plugin).is_ok() {
                let _ = login.feed(&mut &packet(4, &bytes)[..]);
                let _ = login.feed(&mut &bytes[..]);
            }
        }
    }

    #[test]
    fn any_split_gives_the_same_steps(cuts in prop::collection::vec(1usize..60, 1..12)) {
        let all = [
            server::greeting_packet(7, "x", &SALT),
            packet(2, b"\xfecaching_sha2_password\0aaaaaaaaaaaaaaaaaaaa\0"),
            packet(4, &[1, 3]),
            server::ok_packet(5),
            server::one_row("n", b"some text"),
        ]
        .concat();
        let (mut login, mut answer) = (ClientLogin::new("app", "app-pw", None), QueryAnswer::new());
        let (mut steps, mut outcomes, mut done) = (Vec::new(), Vec::new(), false);
        let mut rest = &all[..];
        for &cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (mut piece, after) = rest.split_at(cut.min(rest.len()));
            while let Some(step) = login.feed(&mut piece).unwrap() {
                done |= step == Step::Done;
                steps.push(step);
            }
            if done {
                outcomes.extend(answer.feed(&mut piece));
            }
            rest = after;
        }
        prop_assert_eq!(steps.len(), 3);
        prop_assert_eq!(outcomes, [Outcome::Complete { rows: 1 }]);
    }
}
