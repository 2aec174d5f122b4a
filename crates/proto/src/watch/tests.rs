use super::*;
use crate::quit::{QUIT, QUIT_COMPRESSED};
use proptest::prelude::*;

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = (payload.len() as u32).to_le_bytes();
    [&[a, b, c, sequence][..], payload].concat()
}

/// A frame that claims compression: the watcher never looks inside, so any bytes will do.
fn packed_frame(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = (payload.len() as u32).to_le_bytes();
    [&[a, b, c, sequence, 200, 0, 0][..], payload].concat()
}

fn stored_frame(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = (payload.len() as u32).to_le_bytes();
    [&[a, b, c, sequence, 0, 0, 0][..], payload].concat()
}

fn login(capabilities: u32) -> Vec<u8> {
    let mut payload = capabilities.to_le_bytes().to_vec();
    payload.extend_from_slice(&[0, 0, 0, 1, 45]);
    payload.extend_from_slice(&[0; 23]);
    payload.extend_from_slice(b"app\0\x14aaaaaaaaaaaaaaaaaaaa");
    packet(1, &payload)
}

fn logged_in(capabilities: u32) -> ClientWatch {
    let mut watch = ClientWatch::new();
    watch.feed(&login(capabilities | capability::PROTOCOL_41));
    watch.login_done();
    watch
}

fn plain() -> ClientWatch {
    logged_in(0)
}

fn compressed() -> ClientWatch {
    logged_in(capability::COMPRESS)
}

#[test]
fn a_session_keeps_it_inline() {
    assert!(
        size_of::<ClientWatch>() <= 48,
        "{}",
        size_of::<ClientWatch>()
    );
}

#[test]
fn login_then_commands_then_quit() {
    let mut watch = ClientWatch::new();
    assert_eq!((watch.phase(), watch.capabilities()), (Phase::Login, None));
    watch.feed(&login(capability::PROTOCOL_41 | capability::LOCAL_FILES));
    assert_eq!(
        watch.capabilities(),
        Some(capability::PROTOCOL_41 | capability::LOCAL_FILES)
    );
    watch.feed(&packet(3, &[7; 32]));
    assert_eq!((watch.phase(), watch.commands()), (Phase::Login, 0));
    assert!(
        !watch.at_boundary(),
        "a QUIT in place of authentication data is no QUIT"
    );
    watch.login_done();
    assert!(watch.at_boundary() && !watch.quit_seen());
    watch.feed(&packet(0, b"\x03SELECT 1"));
    assert_eq!((watch.phase(), watch.commands()), (Phase::Command, 1));
    watch.feed(&QUIT);
    assert!(watch.quit_seen() && watch.at_boundary());
    assert_eq!(watch.commands(), 2);
    watch.feed(&[]);
    assert!(watch.quit_seen(), "an empty read is not a byte");
    watch.feed(&[0]);
    assert!(!watch.quit_seen() && !watch.at_boundary());
}

#[test]
fn the_first_packet_with_sequence_zero_ends_the_login_too() {
    let mut watch = ClientWatch::new();
    watch.feed(&login(capability::PROTOCOL_41));
    watch.feed(&QUIT);
    assert!(watch.quit_seen());
    assert_eq!(watch.phase(), Phase::Command);

    let mut watch = ClientWatch::new();
    watch.feed(&login(
        capability::PROTOCOL_41 | capability::ZSTD_COMPRESSION,
    ));
    watch.feed(&QUIT_COMPRESSED);
    assert!(watch.quit_seen());
}

#[test]
fn quit_behind_a_command_and_quit_followed_by_one() {
    let mut watch = plain();
    watch.feed(&[&packet(0, b"\x03SELECT SLEEP(20)")[..], &QUIT].concat());
    assert!(watch.quit_seen());
    watch.feed(&packet(0, b"\x0e"));
    assert!(!watch.quit_seen());
    watch.feed(&[&QUIT[..], &packet(0, b"\x0e")].concat());
    assert!(!watch.quit_seen());
    assert_eq!(watch.commands(), 5);
}

#[test]
fn what_only_looks_like_quit() {
    for bytes in [
        packet(0, b"\x0e"),
        packet(1, b"\x01"),
        packet(0, b"\x01\x01"),
        packet(0, b"\x03\x01\0\0\0\x01"),
        packet(0, &[]),
    ] {
        let mut watch = plain();
        watch.feed(&bytes);
        assert!(!watch.quit_seen() && watch.at_boundary(), "{bytes:?}");
    }
    let mut before = ClientWatch::new();
    before.feed(&QUIT);
    assert_eq!((before.quit_seen(), before.phase()), (false, Phase::Opaque));
}

/// LOAD DATA LOCAL: the query, then one-byte data packets from sequence 2 on, then the empty terminator.
fn file_packets(count: usize) -> (Vec<u8>, u8) {
    let mut bytes = packet(0, b"\x03LOAD DATA LOCAL INFILE 'f' INTO TABLE t");
    let mut sequence = 2u8;
    for _ in 0..count {
        bytes.extend(packet(sequence, b"\x01"));
        sequence = sequence.wrapping_add(1);
    }
    (bytes, sequence)
}

#[test]
fn a_file_of_one_byte_packets_never_looks_like_quit() {
    for count in 0..=600 {
        let (bytes, next) = file_packets(count);
        let mut watch = plain();
        watch.feed(&bytes);
        assert!(!watch.quit_seen(), "after {count}");
        assert_eq!(watch.commands(), 1, "after {count}");
        // Where the server expects sequence 0, an appended QUIT would become file data.
        assert_eq!(
            watch.at_boundary(),
            count == 0 || next != 0,
            "after {count}"
        );
        watch.feed(&packet(next, &[]));
        assert!(!watch.quit_seen() && watch.at_boundary());
        watch.feed(&QUIT);
        assert!(watch.quit_seen(), "QUIT after a file of {count}");
        assert_eq!(watch.commands(), 2);
    }
}

#[test]
fn continuations_of_16_mib_belong_to_their_command() {
    let full = vec![1u8; MAX_PAYLOAD as usize];
    let mut watch = plain();
    watch.feed(&packet(0, &full));
    assert!(!watch.at_boundary());
    watch.feed(&packet(1, &full));
    // A continuation of one byte 0x01, even with a wrong sequence, is not a QUIT.
    watch.feed(&QUIT);
    assert_eq!(
        (watch.commands(), watch.quit_seen(), watch.at_boundary()),
        (1, false, true)
    );
    watch.feed(&packet(0, &full));
    watch.feed(&packet(1, &[]));
    watch.feed(&QUIT);
    assert_eq!((watch.commands(), watch.quit_seen()), (3, true));
}

#[test]
fn tls_hides_everything() {
    let mut watch = ClientWatch::new();
    let mut request = (capability::PROTOCOL_41 | capability::SSL)
        .to_le_bytes()
        .to_vec();
    request.resize(32, 0);
    watch.feed(&[&packet(1, &request)[..], &[0x16, 3, 1], &QUIT].concat());
    watch.login_done();
    watch.feed(&QUIT);
    assert_eq!(
        (watch.phase(), watch.quit_seen(), watch.at_boundary()),
        (Phase::Tls, false, false)
    );
    assert_eq!(watch.commands(), 0);

    let mut watch = ClientWatch::new();
    watch.feed(&packet(1, &[0x05, 0x08, 0, 0, 1]));
    assert_eq!(watch.phase(), Phase::Tls, "the request before 4.1");
}

#[test]
fn the_login_before_4_1_has_two_bytes_of_flags() {
    let mut watch = ClientWatch::new();
    watch.feed(&packet(1, b"\x25\x20\xff\xff\xffroot\0aaaaaaaa"));
    assert_eq!(watch.capabilities(), Some(0x2025));
    watch.feed(&packet(3, b"bbbbbbbb\0"));
    assert_eq!(watch.phase(), Phase::Login);
    assert!(watch.is_compressed());
    watch.feed(&QUIT_COMPRESSED);
    assert!(watch.quit_seen());
}

#[test]
fn garbage_is_left_alone() {
    let mut watch = ClientWatch::new();
    watch.feed(b"GET / HTTP/1.1\r\n\r\n");
    watch.feed(&QUIT);
    assert!(!watch.quit_seen() && !watch.at_boundary());
    let mut watch = ClientWatch::new();
    watch.feed(&[0, 0, 0, 0]);
    assert_eq!(watch.phase(), Phase::Opaque);
    let mut watch = ClientWatch::new();
    watch.login_done();
    watch.feed(&QUIT);
    assert_eq!((watch.phase(), watch.quit_seen()), (Phase::Opaque, false));
}

#[test]
fn compression_needs_both_sides() {
    let both = capability::COMPRESS | capability::PROTOCOL_41;
    for (server, compressed) in [
        (!capability::COMPRESS, false),
        (u32::MAX, true),
        (capability::ZSTD_COMPRESSION, false),
    ] {
        let mut watch = ClientWatch::new();
        watch.set_server_capabilities(server);
        watch.feed(&login(both));
        watch.login_done();
        assert_eq!(watch.is_compressed(), compressed);
        watch.feed(crate::quit::bytes(compressed));
        assert!(watch.quit_seen());
    }
}

#[test]
fn quit_in_frames() {
    let mut watch = compressed();
    watch.feed(&stored_frame(0, &packet(0, b"\x03SELECT 1")));
    assert_eq!(
        (watch.commands(), watch.quit_seen(), watch.at_boundary()),
        (1, false, true)
    );
    watch.feed(&packed_frame(0, &[0xaa; 90]));
    assert_eq!(
        (watch.commands(), watch.quit_seen(), watch.at_boundary()),
        (2, false, true)
    );
    watch.feed(&QUIT_COMPRESSED);
    assert_eq!(
        (watch.commands(), watch.quit_seen(), watch.at_boundary()),
        (3, true, true)
    );
    watch.feed(&[5]);
    assert!(!watch.quit_seen() && !watch.at_boundary());
}

#[test]
fn quit_split_over_frames_and_behind_a_command() {
    let mut watch = compressed();
    watch.feed(
        &[
            stored_frame(0, &QUIT[..2]),
            stored_frame(1, &QUIT[2..4]),
            stored_frame(2, &QUIT[4..]),
        ]
        .concat(),
    );
    assert!(watch.quit_seen());
    let mut watch = compressed();
    watch.feed(&stored_frame(0, &[&packet(0, b"\x0e")[..], &QUIT].concat()));
    assert!(watch.quit_seen());
    let mut watch = compressed();
    watch.feed(&stored_frame(0, &[&QUIT[..], &packet(0, b"\x0e")].concat()));
    assert!(!watch.quit_seen());
}

#[test]
fn the_bytes_of_quit_inside_compressed_data_do_not_count() {
    let mut watch = compressed();
    watch.feed(&packed_frame(0, &QUIT_COMPRESSED));
    assert!(!watch.quit_seen());
    // The rest of a command too long for one frame: where its packets begin is unknown.
    watch.feed(&stored_frame(1, &QUIT));
    assert!(!watch.quit_seen());
    let mut plain = plain();
    plain.feed(&QUIT_COMPRESSED);
    assert!(!plain.quit_seen());
}

#[test]
fn a_wrapping_run_of_compressed_frames_does_not_become_visible() {
    let mut watch = compressed();
    for sequence in 0..=255u8 {
        watch.feed(&packed_frame(sequence, &[0xaa; 60]));
    }
    watch.feed(&stored_frame(0, &QUIT));
    assert_eq!((watch.quit_seen(), watch.commands()), (false, 1));
    watch.feed(&stored_frame(0, &QUIT));
    assert_eq!((watch.quit_seen(), watch.commands()), (true, 2));
}

#[derive(Debug, PartialEq)]
struct Seen(Phase, bool, bool, u64, Option<u32>, bool);

fn seen(watch: &ClientWatch) -> Seen {
    Seen(
        watch.phase(),
        watch.quit_seen(),
        watch.at_boundary(),
        watch.commands(),
        watch.capabilities(),
        watch.is_compressed(),
    )
}

#[test]
fn quit_is_found_split_at_every_byte() {
    for compressed in [false, true] {
        let flags = if compressed { capability::COMPRESS } else { 0 };
        let first = if compressed {
            stored_frame(0, &packet(0, b"\x03DO 1"))
        } else {
            packet(0, b"\x03DO 1")
        };
        let all = [&first[..], crate::quit::bytes(compressed)].concat();
        for at in 0..=all.len() {
            let mut watch = logged_in(flags);
            watch.feed(&all[..at]);
            assert_eq!(
                watch.quit_seen(),
                at == all.len(),
                "compressed {compressed}, after {at}"
            );
            watch.feed(&all[at..]);
            assert!(watch.quit_seen(), "compressed {compressed}, split at {at}");
        }
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(vec![1u8]),
        Just(vec![]),
        prop::collection::vec(any::<u8>(), 0..80)
    ];
    let sequence = prop_oneof![Just(0u8), Just(255u8), any::<u8>()];
    prop_oneof![
        (sequence.clone(), payload.clone()).prop_map(|(s, p)| packet(s, &p)),
        (sequence.clone(), sequence.clone(), payload.clone())
            .prop_map(|(s, t, p)| stored_frame(s, &packet(t, &p))),
        (sequence, payload).prop_map(|(s, p)| packed_frame(s, &p)),
        Just(QUIT.to_vec()),
        Just(QUIT_COMPRESSED.to_vec()),
        prop::collection::vec(any::<u8>(), 0..12),
    ]
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answers(
        flags in prop_oneof![Just(0x200u32), Just(0x220), Just(0x0400_0200), Just(0xa00), any::<u32>()],
        pieces in prop::collection::vec(piece(), 0..12),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let mut all = login(flags);
        for piece in &pieces {
            all.extend_from_slice(piece);
        }
        let mut whole = ClientWatch::new();
        whole.feed(&all);
        let (mut parts, mut single) = (ClientWatch::new(), ClientWatch::new());
        let mut rest = &all[..];
        for &cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            parts.feed(piece);
            rest = after;
        }
        for byte in &all {
            single.feed(std::slice::from_ref(byte));
        }
        prop_assert_eq!(seen(&whole), seen(&parts));
        prop_assert_eq!(seen(&whole), seen(&single));
    }

    #[test]
    fn quit_means_that_the_bytes_end_with_quit(bytes in prop::collection::vec(piece(), 0..12)) {
        let bytes = bytes.concat();
        let mut watch = plain();
        watch.feed(&bytes);
        prop_assert!(!watch.quit_seen() || bytes.ends_with(&QUIT));
        prop_assert!(!watch.quit_seen() || watch.at_boundary());
    }
}

/// A multi-statement query whose 256th answer packet asks for a file: the file begins at sequence 0.
#[test]
fn a_file_that_begins_at_sequence_zero_is_no_quit() {
    let request = [packet(254, b"\xfe\0\0\x0a\0"), packet(255, b"\xfbdata.txt")].concat();
    assert!(asks_for_file(&request));
    let mut watch = logged_in(capability::LOCAL_FILES);
    assert!(watch.may_send_files());
    watch.feed(&packet(0, b"\x03SELECT 1; LOAD DATA LOCAL ..."));
    watch.file_begins();
    watch.feed(&packet(0, &[com::QUIT]));
    assert!(!watch.quit_seen());
    assert_eq!(watch.commands(), 1);
    watch.feed(&packet(1, b""));
    watch.feed(&QUIT);
    assert!(watch.quit_seen());
}

#[test]
fn only_the_last_packet_of_sequence_255_asks_for_a_file() {
    let name = [b'n'; 512];
    let longest = packet(255, &[&[0xfb][..], &name].concat());
    assert!(asks_for_file(&[&[7; 4_000][..], &longest].concat()));
    for other in [
        packet(1, b"\xfbdata.txt"),
        packet(255, b"\x03abc"),
        [packet(255, b"\xfba"), packet(0, b"\0\0\0\x02\0\0\0")].concat(),
        packet(255, &[&[0xfb][..], &name, b"n"].concat()),
        b"\xff\xfb".to_vec(),
        Vec::new(),
    ] {
        assert!(!asks_for_file(&other), "{other:?}");
    }
}
