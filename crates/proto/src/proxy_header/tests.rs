use super::*;
use proptest::prelude::*;

fn done(consumed: usize, source: &str, destination: &str) -> Parsed {
    Parsed::Done {
        consumed,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

/// Every shorter prefix is incomplete, and what follows changes nothing.
fn read(bytes: &[u8]) -> Parsed {
    let whole = parse(bytes);
    if let Parsed::Done { consumed, .. } | Parsed::Local { consumed } = whole {
        assert_eq!(consumed, bytes.len());
        for length in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..length]),
                Parsed::Incomplete,
                "{length} of {bytes:?}"
            );
        }
        assert_eq!(parse(&[bytes, b"\x01\0\0\0\x01"].concat()), whole);
    }
    whole
}

#[test]
fn version_1() {
    // From proxy-protocol.txt 2.1: the longest lines it names.
    assert_eq!(
        read(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
        done(56, "255.255.255.255:65535", "255.255.255.255:65535")
    );
    let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let end = format!("[{address}]:65535");
    let line = format!("PROXY TCP6 {address} {address} 65535 65535\r\n");
    assert_eq!(read(line.as_bytes()), done(104, &end, &end));
    assert_eq!(read(b"PROXY UNKNOWN\r\n"), Parsed::Local { consumed: 15 });
    let longest = format!("PROXY UNKNOWN {address} {address} 65535 65535\r\n");
    assert_eq!(longest.len(), V1_MAX);
    assert_eq!(read(longest.as_bytes()), Parsed::Local { consumed: V1_MAX });
}

#[test]
fn version_1_that_breaks_the_grammar() {
    for line in [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY \r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\n2\r\n",
    ] {
        assert_eq!(
            parse(line.as_bytes()),
            Parsed::Error(HeaderError::Line),
            "{line:?}"
        );
    }
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 93], b"\r\n"].concat();
    assert_eq!(parse(&long[..V1_MAX - 1]), Parsed::Incomplete);
    assert_eq!(parse(&long), Parsed::Error(HeaderError::TooLong));
}

#[test]
fn what_is_no_header_is_said_at_the_first_wrong_byte() {
    for bytes in [
        &b"G"[..],
        b"PQ",
        b"PROXYTCP4",
        b"\r\n\r\n\0\r\nQUIX",
        b"\x01\0\0\0\x01",
        b"\0",
    ] {
        assert_eq!(
            parse(bytes),
            Parsed::Error(HeaderError::NotProxy),
            "{bytes:?}"
        );
    }
    assert_eq!(parse(b""), Parsed::Incomplete);
}

#[test]
fn version_2() {
    let (four, other) = ("10.0.0.1:1025", "10.0.0.5:3306");
    let (six, mapped) = ("[fd00::1]:1025", "[::ffff:10.0.0.5]:3306");
    let address = |text: &str| text.parse().unwrap();
    let header = v2(address(four), address(other));
    assert_eq!(
        header[12..],
        [0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 0, 0, 5, 4, 1, 12, 234]
    );
    assert_eq!(read(&header), done(28, four, other));
    assert_eq!(
        read(&v2(address(six), address("[fd00::5]:3306"))),
        done(52, six, "[fd00::5]:3306")
    );
    assert_eq!(
        read(&v2(address(six), address(other))),
        done(52, six, mapped)
    );
    assert_eq!(read(&v2_local()), Parsed::Local { consumed: 16 });
    let unix = v2_unix(b"", b"/run/portside/write.sock");
    assert_eq!((unix.len(), &unix[124..130]), (232, &b"/run/p"[..]));
    assert_eq!(read(&unix), Parsed::Local { consumed: 232 });
    assert_eq!(v2_unix(&[b'x'; 200], b"").len(), 232);
}

fn raw(command: u8, family: u8, length: u16, body: &[u8]) -> Vec<u8> {
    [
        &SIGNATURE[..],
        &[command, family],
        &length.to_be_bytes(),
        body,
    ]
    .concat()
}

#[test]
fn version_2_with_tlvs_and_limits() {
    let body = [&[1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 187][..], &[4, 0, 1, 0]].concat();
    assert_eq!(
        read(&raw(PROXY, TCP4, 16, &body)),
        done(32, "1.2.3.4:80", "5.6.7.8:443")
    );
    assert_eq!(
        read(&raw(LOCAL, TCP4, 16, &body)),
        Parsed::Local { consumed: 32 }
    );
    assert_eq!(
        read(&raw(PROXY, 0, 3, b"abc")),
        Parsed::Local { consumed: 19 }
    );
    let longest = raw(LOCAL, 0, (V2_MAX - FIXED) as u16, &[0; V2_MAX - FIXED]);
    assert_eq!(read(&longest), Parsed::Local { consumed: V2_MAX });
    for (bytes, error) in [
        (
            raw(LOCAL, 0, (V2_MAX - FIXED) as u16 + 1, b""),
            HeaderError::TooLong,
        ),
        (raw(PROXY, TCP4, 11, b""), HeaderError::Truncated),
        (raw(PROXY, TCP6, 35, b""), HeaderError::Truncated),
        (raw(PROXY, UNIX, 215, b""), HeaderError::Truncated),
        (raw(PROXY, 0x12, 12, b""), HeaderError::Family(0x12)),
        (raw(0x31, TCP4, 12, b""), HeaderError::Command(0x31)),
        (raw(0x22, TCP4, 12, b""), HeaderError::Command(0x22)),
    ] {
        assert_eq!(parse(&bytes), Parsed::Error(error));
        assert!(error.to_string().contains("PROXY"));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(source: [u8; 18], destination: [u8; 18], four: (bool, bool)) {
        let end = |bytes: [u8; 18], four: bool| {
            let port = u16::from_be_bytes([bytes[16], bytes[17]]);
            let wide: [u8; 16] = bytes[..16].try_into().unwrap();
            let narrow: [u8; 4] = bytes[..4].try_into().unwrap();
            SocketAddr::new(if four { IpAddr::from(narrow) } else { IpAddr::from(wide) }, port)
        };
        let (from, to) = (end(source, four.0), end(destination, four.1));
        let Parsed::Done { source, destination, .. } = read(&v2(from, to)) else { panic!() };
        prop_assert_eq!(source.ip().to_canonical(), from.ip().to_canonical());
        prop_assert_eq!(destination.ip().to_canonical(), to.ip().to_canonical());
        prop_assert_eq!((source.port(), destination.port()), (from.port(), to.port()));
    }

    #[test]
    fn more_bytes_never_change_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..40), kind in 0..3) {
        let front: &[u8] = [&b""[..], b"PROXY TCP4 ", &SIGNATURE][kind as usize];
        let all = [front, &bytes].concat();
        let mut answer = Parsed::Incomplete;
        for length in 0..=all.len() {
            let now = parse(&all[..length]);
            prop_assert!(answer == Parsed::Incomplete || answer == now);
            answer = now;
        }
    }
}
