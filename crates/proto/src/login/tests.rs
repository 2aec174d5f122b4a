use super::*;
use crate::wire::packet;
use proptest::prelude::*;

fn greeting() -> Vec<u8> {
    let mut payload = b"\x0a9.7.0\0".to_vec();
    payload.extend_from_slice(&7u32.to_le_bytes());
    payload.extend_from_slice(b"12345678\0\xff\xff\xff\x02\x00\xff\xdf\x15");
    payload.extend_from_slice(&[0; 10]);
    payload.extend_from_slice(b"901234567890\0caching_sha2_password\0");
    packet(0, &payload)
}

fn events(all: &[u8], cuts: &[usize]) -> (Vec<Event>, usize) {
    let (mut login, mut events, mut rest) = (ServerLogin::new(), Vec::new(), all);
    let mut left = 0;
    for &cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut piece, after) = rest.split_at(cut.min(rest.len()));
        while let Some(event) = login.feed(&mut piece) {
            events.push(event);
        }
        assert!(piece.is_empty() || login.is_done());
        left += piece.len();
        rest = after;
    }
    if matches!(events.last(), Some(Event::Garbage(_))) {
        // How far a packet was read before it was given up is nobody's business.
        left = 0;
    }
    (events, left)
}

#[test]
fn a_login_with_switch_and_more_data() {
    let all = [
        greeting(),
        packet(2, b"\xfecaching_sha2_password\0aaaaaaaaaaaaaaaaaaaa\0"),
        packet(4, b"\x01\x04"),
        packet(6, &[&[1][..], &[b'k'; 451]].concat()),
        packet(8, &[0, 0, 0, 2, 0, 0, 0]),
        packet(1, b"after"),
    ]
    .concat();
    let (events, left) = events(&all, &[all.len()]);
    let [Event::Greeting(greeting), Event::LoginOk] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(
        (
            greeting.version.as_str(),
            greeting.is_mariadb,
            greeting.thread_id
        ),
        ("9.7.0", false, 7)
    );
    assert_eq!((greeting.capabilities, greeting.status), (0xdfff_ffff, 2));
    assert_eq!(&greeting.salt, b"12345678901234567890");
    assert_eq!(greeting.plugin, "caching_sha2_password");
    assert_eq!(left, 9, "what follows the OK is not touched");
}

#[test]
fn a_refused_login() {
    let all = [greeting(), packet(2, b"\xff\x15\x04#28000no")].concat();
    assert_eq!(events(&all, &[3]).0[1], Event::LoginErr { errno: 1045 });
    let all = [greeting(), packet(2, b"\xff")].concat();
    assert_eq!(events(&all, &[3]).0[1], Event::LoginErr { errno: 0 });
}

#[test]
fn an_err_in_place_of_a_greeting() {
    for text in [
        &b"\xff\x69\x04Host is blocked"[..],
        b"\xff\x69\x04#HY000Host is blocked",
    ] {
        let message = "Host is blocked".to_owned();
        assert_eq!(
            events(&packet(0, text), &[1]).0,
            [Event::RefusedErr {
                errno: 1129,
                message
            }]
        );
    }
    let long = packet(0, &[&b"\xff\x10\x04"[..], &[b'x'; 900]].concat());
    let [Event::RefusedErr { message, .. }] = &events(&long, &[1000]).0[..] else {
        panic!()
    };
    assert_eq!(message.len(), 512);
}

#[test]
fn what_is_not_mysql() {
    for (bytes, reason, text) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            Garbage::TooLong,
            "longer than a greeting",
        ),
        (
            &b"\x02\x00\x00\x05ab"[..],
            Garbage::Sequence,
            "wrong sequence number",
        ),
        (
            &b"\x01\x00\x00\x00\x09"[..],
            Garbage::Protocol(9),
            "protocol version 9",
        ),
        (
            &b"\x05\x00\x00\x00\x0a9.7\0"[..],
            Garbage::Truncated,
            "ends too early",
        ),
        (
            &b"\x00\x00\x00\x00"[..],
            Garbage::Truncated,
            "ends too early",
        ),
    ] {
        assert_eq!(
            events(bytes, &[100]).0,
            [Event::Garbage(reason)],
            "{bytes:?}"
        );
        assert!(reason.to_string().contains(text));
    }
}

#[test]
fn every_truncation_of_a_greeting_is_said() {
    let whole = greeting();
    for length in 0..whole.len() - 4 - b"\0caching_sha2_password\0".len() {
        let cut = packet(0, &whole[4..4 + length]);
        let got = events(&cut, &[100]).0;
        assert_eq!(got, [Event::Garbage(Garbage::Truncated)], "{length}");
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(
        tail in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
        noise in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
        cuts in prop::collection::vec(1usize..60, 1..12),
    ) {
        let mut all = noise.unwrap_or_else(greeting);
        for payload in &tail {
            all.extend(packet(2, payload));
        }
        prop_assert_eq!(events(&all, &cuts), events(&all, &[all.len().max(1)]));
        prop_assert_eq!(events(&all, &[1]), events(&all, &[all.len().max(1)]));
    }
}

#[test]
fn another_reader_may_take_over_between_packets() {
    let mut watch = ServerLogin::new();
    assert!(!watch.is_between_packets());
    let switch = b"\x02\0\0\x02\xfe\0";
    let mut bytes: &[u8] = &[&greeting()[..], switch].concat();
    let (mut front, mut back) = bytes.split_at(bytes.len() - 1);
    while watch.feed(&mut front).is_some() {}
    assert!(!watch.is_between_packets());
    assert_eq!(watch.feed(&mut back), None);
    assert!(watch.is_between_packets());
    bytes = b"\x07";
    assert_eq!(watch.feed(&mut bytes), None);
    assert!(!watch.is_between_packets());
}
