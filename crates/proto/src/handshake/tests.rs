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
            packet(2, b"\xfeclient_ed25519\0aaaa\0"),
            "\"client_ed25519\"; known are mysql_native_password",
        ),
        (packet(2, b"\x01\x04"), "more data that was not asked for"),
        (packet(2, b"\x07"), "neither OK, ERR"),
        (vec![0, 0, 1, 2], "longer than 16 KiB"),
    ] {
        let mut login = ClientLogin::new("app", "app-pw", None);
        sent(&mut login, &greeting);
        let error = login.feed(&mut &answer[..]).unwrap_err().to_string();
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
        Err(LoginError::NeedsSecureChannel)
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
