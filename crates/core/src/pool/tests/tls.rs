//! When TLS begins, towards clients and towards servers.

use super::*;

#[test]
fn tls_begins_once_and_only_where_it_was_offered() {
    let of = |tls| {
        let channel = Channel {
            tls,
            ..Channel::PLAIN
        };
        Session::new(7, NONCE, &[server("")], channel, None).unwrap()
    };
    let flags = (capability::PROTOCOL_41 | capability::SSL).to_le_bytes();
    let request = [&[32, 0, 0, 1][..], &flags, &[0; 28]].concat();
    let short = [&[4, 0, 0, 1][..], &flags].concat();
    for (tls, is_must) in [(Tls::Offered, false), (Tls::Required, true)] {
        for request in [&request, &short] {
            let (mut session, greeting) = of(tls);
            assert!(!session.is_secure());
            // What stands behind the request is not looked at.
            let burst = [&request[..], b"\x16\x03\x01"].concat();
            let taken = step(&mut session, &burst, None);
            assert_eq!(taken, (request.len(), Step::StartTls));
            assert!(session.is_secure());
            let mut login = answer(&greeting, "app", "secret", None);
            login[3] = 2;
            assert_eq!(step(&mut session, &login, None).1, Step::Admit);
            let (mut again, _) = of(tls);
            step(&mut again, request, None);
            assert!(matches!(step(&mut again, request, None).1, Step::End(..)));
        }
        let (mut session, greeting) = of(tls);
        let login = answer(&greeting, "app", "secret", None);
        let (_, what) = step(&mut session, &login, None);
        match (is_must, what) {
            (false, Step::Admit) => {}
            (true, Step::End(Cause::LoginDenied, bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                assert_eq!(bytes[5..7], 3159u16.to_le_bytes());
                assert!(text.contains("with TLS only"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    let (mut session, greeting) = of(Tls::No);
    let Step::End(Cause::ProtocolError, bytes) = step(&mut session, &request, None).1 else {
        panic!("TLS was not offered");
    };
    assert!(String::from_utf8_lossy(&bytes).contains("malformed packet: a "));
    let mut login = ClientLogin::new("a", "b", None);
    login.feed(&mut &greeting[..]).unwrap();
    assert_eq!(login.greeting().unwrap().capabilities & capability::SSL, 0);
}

#[test]
fn a_unix_socket_is_as_good_as_tls() {
    let channel = Channel {
        is_secure: true,
        tls: Tls::Required,
        local_infile: false,
    };
    let (mut session, greeting) = Session::new(7, NONCE, &[server("")], channel, None).unwrap();
    assert!(session.is_secure());
    let login = answer(&greeting, "app", "secret", None);
    assert_eq!(step(&mut session, &login, None).1, Step::Admit);
}

#[test]
fn bytes_in_front_of_a_servers_tls_are_nobodys() {
    let class = Class {
        capabilities: 0,
        collation: 45,
        is_mariadb: None,
    };
    let mut greeting = greeting_packet(99, "x", &SALT);
    // Behind header, protocol, version, id, half of the salt and a filler: the flags, low byte first.
    greeting[21] |= (capability::SSL >> 8) as u8;
    let fresh = || Conn::new(&user(), class, [0; 20], Transport::Tls);
    assert!(matches!(
        fresh().feed(&mut &greeting[..]),
        Event::StartTls(_)
    ));
    greeting.extend(ok(1, 2));
    let Event::Failed(Failure::Broken(text)) = fresh().feed(&mut &greeting[..]) else {
        panic!("bytes behind the greeting were taken");
    };
    assert_eq!(
        text,
        "bytes behind the greeting of a server that offers TLS"
    );
}
