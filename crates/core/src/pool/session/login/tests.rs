//! Every form of account against every method of a client, and what goes wrong in each phase.

use std::cell::Cell;

use portside_proto::handshake::{
    scramble_native, Announce, ClientLogin, Credential, Step as Said, Transport,
};
use proptest::prelude::*;

use super::*;
use crate::pool::{Channel, Learnt, Server, Tls};

const NONCE: [u8; 32] = *b"abcdefghijklmnopqrstuvwxyz012345";
const HASHED: &str =
    "2441243030412436252C125D39576D5B602B483F781E5617352C5F6A5769702F5A486E6C48385\
                      74D71485677552E66736D496F47344A635A655336765958472F4576524B2F35";
const PASSWORD: &str = "stored-pw";
const KEY: &str = "the key";

fn account(secret: Secret) -> Arc<User> {
    Arc::new(User {
        name: "app".to_owned(),
        secret,
        schema: None,
        server_user: "app".to_owned(),
        server_password: None,
        learnt: Learnt::default(),
    })
}

/// The four forms of the same password: itself, and the hashes that servers store.
fn forms() -> [Secret; 4] {
    let key = Secret::from_hash("2TBGfAxShgLPm0PaYylRHGP+k84e2JWH8hKGGEBDhng");
    [
        Secret::password(PASSWORD),
        Secret::from_hash("*F5CB189AAFE5D3CC8AB7CE363FD4A583C23E55DC").unwrap(),
        Secret::from_hash(HASHED).unwrap(),
        key.unwrap(),
    ]
}

/// A service with one account, and what it was asked for.
struct Service {
    user: Arc<User>,
    is_secure: bool,
    is_mariadb: bool,
    is_limited: bool,
    /// Turns for slow hashes that are left.
    turns: Cell<u32>,
    hashes: Cell<u32>,
}

impl Service {
    fn new(secret: Secret, is_secure: bool) -> Self {
        Self {
            user: account(secret),
            is_secure,
            is_mariadb: false,
            is_limited: false,
            turns: Cell::new(100),
            hashes: Cell::new(0),
        }
    }

    fn greet(&self, plugin: Plugin) -> (Session, Vec<u8>) {
        let server = Server {
            version: "9.7.0".to_owned(),
            is_mariadb: self.is_mariadb,
            capabilities: u64::MAX,
            collation: 45,
            plugin: plugin.name().to_owned(),
        };
        let channel = Channel {
            is_secure: self.is_secure,
            tls: Tls::No,
            local_infile: false,
        };
        Session::new(7, NONCE, &[Arc::new(server)], channel, None).unwrap()
    }

    fn step(&self, session: &mut Session, input: &[u8]) -> (usize, Step) {
        let context = Context {
            client: &"10.0.0.1",
            find: &|name| Some((Arc::clone(&self.user), name != b"app")),
            is_limited: &|_| self.is_limited,
            nonce: &|| NONCE,
            public_key: Some(KEY),
            // Not RSA: that is proto's and the engine's. What is sealed is the password and a NUL.
            open: &|sealed, _| sealed.strip_suffix(&[0]).unwrap_or_default().to_vec(),
            may_hash: &|| {
                self.hashes.set(self.hashes.get() + 1);
                let left = self.turns.get();
                self.turns.set(left.saturating_sub(1));
                left > 0
            },
        };
        session.step(input, None, &context)
    }
}

/// A login packet of a client whose own method is `plugin`.
fn login(name: &str, plugin: &str, answer: &[u8], flags: u32) -> Vec<u8> {
    let flags = flags | capability::PROTOCOL_41 | capability::SECURE_CONNECTION;
    let mut payload = flags.to_le_bytes().to_vec();
    payload.extend([0, 0, 0, 1, 45]);
    payload.extend([0; 23]);
    payload.extend(name.bytes().chain([0, answer.len() as u8]));
    payload.extend(answer);
    if flags & capability::PLUGIN_AUTH != 0 {
        payload.extend(plugin.bytes().chain([0]));
    }
    packet(1, &payload)
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = (payload.len() as u32).to_le_bytes();
    [&[a, b, c, sequence], payload].concat()
}

/// Logs in as a client that knows every method and begins with `plugin`: the methods it was told to use, and the
/// last word.
fn run(service: &Service, name: &str, plugin: Plugin, password: &str) -> (Vec<String>, Step) {
    let (mut session, _) = service.greet(Plugin::Native);
    let salt = NONCE.first_chunk().unwrap();
    let answer = match plugin {
        Plugin::Native => scramble_native(password.as_bytes(), salt),
        Plugin::Clear => [password.as_bytes(), &[0]].concat(),
        Plugin::Sha2 | Plugin::Ed25519 => Vec::new(),
    };
    let mut client =
        ClientLogin::new(name, Credential::from(password), None).announcing(Announce {
            capabilities: 0,
            collation: 45,
            seed: [0; 20],
            transport: if service.is_secure {
                Transport::Secure
            } else {
                Transport::Plain
            },
            attributes: &[],
        });
    let (_, greeting) = service.greet(Plugin::Native);
    client.feed(&mut &greeting[..]).unwrap();
    let mut bytes = login(name, plugin.name(), &answer, capability::PLUGIN_AUTH);
    let mut told = Vec::new();
    loop {
        match service.step(&mut session, &bytes).1 {
            Step::Say(said) if said[4] == 1 && said[5] == 3 => {
                told.push("fast".to_owned());
                return (told, Step::Admit);
            }
            Step::Say(said) => {
                if said[4] == 0xfe {
                    let end = said[5..].iter().position(|b| *b == 0).unwrap();
                    told.push(String::from_utf8_lossy(&said[5..5 + end]).into_owned());
                } else if said[4..] == [1, 4] {
                    told.push("full".to_owned());
                } else {
                    told.push("key".to_owned());
                    bytes = packet(said[3] + 1, &[password.as_bytes(), &[0]].concat());
                    continue;
                }
                bytes = match client.feed(&mut &said[..]) {
                    Ok(Some(Said::Send(answer))) => answer,
                    other => panic!("{other:?}"),
                };
            }
            last => return (told, last),
        }
    }
}

#[test]
fn an_accounts_form_decides_the_method() {
    const OWN: [&[&str]; 4] = [
        &[],
        &["mysql_native_password"],
        &["caching_sha2_password", "full"],
        &["client_ed25519"],
    ];
    for is_secure in [true, false] {
        for (form, secret) in forms().into_iter().enumerate() {
            for plugin in Plugin::ALL {
                let service = Service::new(secret.clone(), is_secure);
                let mut expected: Vec<&str> = match (form, plugin) {
                    (0 | 1, Plugin::Native) => vec![],
                    (_, Plugin::Clear) if is_secure => vec![],
                    (0, Plugin::Clear) => vec!["mysql_native_password"],
                    (0, Plugin::Sha2) => vec!["caching_sha2_password", "fast"],
                    (0, Plugin::Ed25519) => vec!["client_ed25519"],
                    (other, _) => OWN[other].to_vec(),
                };
                if expected.contains(&"full") && !is_secure {
                    expected.push("key");
                }
                let (told, last) = run(&service, "app", plugin, PASSWORD);
                assert_eq!(
                    (told.clone(), last),
                    (own(&expected), Step::Admit),
                    "{secret:?} {plugin:?}"
                );
                // A wrong password and an unknown user meet the same packets and the same text.
                let mut words = Vec::new();
                for (name, password) in [("app", "wrong"), ("who", "wrong"), ("who", PASSWORD)] {
                    let service = Service::new(secret.clone(), is_secure);
                    let (seen, last) = run(&service, name, plugin, password);
                    assert_eq!(seen.len(), told.iter().filter(|t| *t != "fast").count());
                    let Step::Denied(bytes, _) = last else {
                        panic!("{last:?}");
                    };
                    words.push(String::from_utf8_lossy(&bytes).replace(name, "X"));
                    let learnt = service.user.password().filter(|_| form > 0);
                    assert!(learnt.is_none());
                }
                assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
                assert!(words[0]
                    .contains("Access denied for user 'X'@'10.0.0.1' (using password: YES)"));
            }
        }
    }
}

fn own(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn what_a_client_has_told_serves_the_next() {
    let service = Service::new(forms()[2].clone(), true);
    assert_eq!(service.user.credential(), Credential::Unknown);
    run(&service, "app", Plugin::Sha2, PASSWORD);
    assert!(service.user.credential() == PASSWORD.into());
    // The fast exchange from now on, and no slow hash, right or wrong.
    let before = service.hashes.get();
    let (told, last) = run(&service, "app", Plugin::Sha2, PASSWORD);
    assert_eq!(
        (told, last),
        (own(&["caching_sha2_password", "fast"]), Step::Admit)
    );
    let (_, last) = run(&service, "app", Plugin::Sha2, "wrong");
    assert!(matches!(last, Step::Denied(..)));
    assert_eq!(service.hashes.get(), before);
    let service = Service::new(forms()[1].clone(), false);
    run(&service, "app", Plugin::Native, PASSWORD);
    assert!(matches!(service.user.credential(), Credential::Sha1(_)));
}

#[test]
fn slow_hashes_have_turns() {
    for is_secure in [true, false] {
        let service = Service::new(forms()[2].clone(), is_secure);
        let (mut session, _) = service.greet(Plugin::Sha2);
        let bytes = login(
            "app",
            Plugin::Sha2.name(),
            &[7; 32],
            capability::PLUGIN_AUTH,
        );
        assert!(matches!(service.step(&mut session, &bytes).1, Step::Say(_)));
        service.turns.set(0);
        let password = packet(3, b"stored-pw\0");
        assert_eq!(service.step(&mut session, &password), (0, Step::Later));
        assert_eq!(service.step(&mut session, &password), (0, Step::Later));
        let busy = String::from_utf8_lossy(&session.too_busy()).into_owned();
        assert!(busy.contains("too many first logins") && busy.as_bytes()[3] == 4);
        service.turns.set(2);
        assert_eq!(
            service.step(&mut session, &password),
            (password.len(), Step::Admit)
        );
    }
}

#[test]
fn nothing_is_checked_for_an_address_that_guesses() {
    for (form, plugin) in forms().into_iter().zip([
        Plugin::Native,
        Plugin::Native,
        Plugin::Sha2,
        Plugin::Ed25519,
    ]) {
        let mut service = Service::new(form, true);
        service.is_limited = true;
        let (_, last) = run(&service, "app", plugin, PASSWORD);
        let Step::Denied(bytes, _) = last else {
            panic!("{last:?}");
        };
        assert!(String::from_utf8_lossy(&bytes).contains("too many failed logins"));
        assert_eq!(service.hashes.get(), 0);
    }
}

#[test]
fn a_client_without_plugins_can_only_have_the_oldest_method() {
    let salt = NONCE.first_chunk().unwrap();
    let answer = scramble_native(PASSWORD.as_bytes(), salt);
    for (secret, is_served) in forms().into_iter().zip([true, true, false, false]) {
        let service = Service::new(secret, false);
        let (mut session, _) = service.greet(Plugin::Sha2);
        match service.step(&mut session, &login("app", "", &answer, 0)).1 {
            Step::Admit => assert!(is_served),
            Step::Denied(bytes, _) => {
                assert!(!is_served);
                assert_eq!(bytes[5..7], 1251u16.to_le_bytes());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_failed_change_of_user_does_as_the_servers_do() {
    let change = [&[17][..], b"app\0\0\0\x2d\0mysql_native_password\0"].concat();
    for is_mariadb in [false, true] {
        let mut service = Service::new(forms()[0].clone(), false);
        service.is_mariadb = is_mariadb;
        let (mut session, _) = service.greet(Plugin::Native);
        let answer = scramble_native(PASSWORD.as_bytes(), NONCE.first_chunk().unwrap());
        let first = login(
            "app",
            Plugin::Native.name(),
            &answer,
            capability::PLUGIN_AUTH,
        );
        assert_eq!(service.step(&mut session, &first).1, Step::Admit);
        session.admitted();
        let fail = |session: &mut Session| {
            let switch = service.step(session, &packet(0, &change)).1;
            assert!(
                matches!(switch, Step::Say(ref bytes) if bytes[4] == 0xfe),
                "{switch:?}"
            );
            service.step(session, &packet(2, &[7; 20])).1
        };
        if !is_mariadb {
            assert!(matches!(fail(&mut session), Step::Denied(..)));
            continue;
        }
        for _ in 0..3 {
            let Step::Refused(bytes, _) = fail(&mut session) else {
                panic!("MariaDB's sessions go on");
            };
            assert_eq!((bytes[3], &bytes[5..7]), (3, &1045u16.to_le_bytes()[..]));
            assert!(session.is_logged_in() && session.is_idle());
        }
        let more = service.step(&mut session, &packet(0, &change)).1;
        assert!(matches!(more, Step::Say(bytes) if bytes[5..7] == 1047u16.to_le_bytes()));
    }
}

#[test]
fn a_key_is_given_once_and_only_where_it_is_needed() {
    let service = Service::new(forms()[2].clone(), false);
    let (mut session, _) = service.greet(Plugin::Sha2);
    let bytes = login(
        "app",
        Plugin::Sha2.name(),
        &[7; 32],
        capability::PLUGIN_AUTH,
    );
    service.step(&mut session, &bytes);
    let (_, key) = service.step(&mut session, &packet(3, &[2]));
    assert_eq!(key, Step::Say(packet(4, b"\x01the key")));
    let (_, again) = service.step(&mut session, &packet(5, &[2]));
    assert!(matches!(again, Step::End(Cause::ProtocolError, _)));
    // Where nobody can read the channel a client has no reason to ask, and a password ends with a NUL.
    for answer in [&[2][..], b"stored-pw", b""] {
        let service = Service::new(forms()[2].clone(), true);
        let (mut session, _) = service.greet(Plugin::Sha2);
        service.step(&mut session, &bytes);
        assert!(matches!(
            service.step(&mut session, &packet(3, answer)).1,
            Step::Denied(..)
        ));
    }
}

#[test]
fn a_program_is_one_short_line() {
    assert_eq!(printable(b"").as_deref(), None);
    assert_eq!(printable(b"a\x1b[31m\n").as_deref(), Some("a?[31m?"));
    assert_eq!(printable(&[b'x'; 500]).unwrap().len(), PROGRAM_MAX);
}

proptest! {
    #[test]
    fn no_packet_in_any_phase_makes_it_panic(
        form in 0usize..4,
        plugin in 0usize..4,
        is_secure: bool,
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..5),
    ) {
        let service = Service::new(forms()[form].clone(), is_secure);
        service.turns.set(0);
        let (mut session, _) = service.greet(Plugin::Sha2);
        let name = Plugin::ALL[plugin].name();
        service.step(&mut session, &login("app", name, &[], capability::PLUGIN_AUTH));
        for (n, payload) in packets.iter().enumerate() {
            let (_, step) = service.step(&mut session, &packet(n as u8 * 2 + 3, payload));
            prop_assert!(step != Step::Admit);
        }
    }
}
