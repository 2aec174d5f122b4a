//! What the fuzz targets do with an input. `crates/proto/tests/fuzz.rs` includes this file and runs the same
//! bodies over `fuzz/corpus/`, so that they cannot rot.
//!
//! Every body checks the crate's promise: any split of the input gives the same answers. The first byte of
//! an input says how the rest is cut.

use portside_proto::command::HEADER_LEN;
use portside_proto::handshake::result::QueryAnswer;
use portside_proto::handshake::{ClientLogin, Step};
use portside_proto::login::{Event, ServerLogin};
use portside_proto::proxy_header::{parse, Parsed};
use portside_proto::refuse_login::{start, Step as Refused};
use portside_proto::watch::ClientWatch;

/// The input's bytes and pieces of them.
fn cut(input: &[u8]) -> (&[u8], impl Iterator<Item = &[u8]>) {
    let (&first, bytes) = input.split_first().unwrap_or((&1, &[]));
    (bytes, bytes.chunks(usize::from(first % 32) + 1))
}

/// The client's direction: byte 0 cuts, bytes 1 to 4 are the server's capabilities, then the client's bytes.
pub fn watch(input: &[u8]) {
    let (&[a, b, c, d], bytes) = input
        .get(1..)
        .and_then(|rest| rest.split_first_chunk())
        .unwrap_or((&[0xff; 4], &[]));
    let answers = |watch: &ClientWatch| {
        let flags = (
            watch.quit_seen(),
            watch.at_boundary(),
            watch.is_compressed(),
        );
        (watch.phase(), flags, watch.commands(), watch.capabilities())
    };
    let (mut whole, mut parts) = (ClientWatch::new(), ClientWatch::new());
    for watch in [&mut whole, &mut parts] {
        watch.set_server_capabilities(u32::from_le_bytes([a, b, c, d]));
    }
    whole.feed(bytes);
    for piece in bytes.chunks(usize::from(input.first().copied().unwrap_or(0) % 32) + 1) {
        parts.feed(piece);
    }
    assert_eq!(answers(&whole), answers(&parts));
    if whole.quit_seen() {
        assert!(whole.at_boundary() && bytes.ends_with(&[1]));
        whole.feed(&[0]);
        assert!(!whole.quit_seen());
    }
    if whole.at_boundary() && whole.commands() > 0 {
        whole.feed(portside_proto::quit::bytes(whole.is_compressed()));
        assert!(whole.quit_seen() || whole.is_compressed());
    }
}

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let (mut login, mut events) = (ServerLogin::new(), Vec::new());
    for mut piece in pieces {
        while let Some(event) = login.feed(&mut piece) {
            events.push(event);
        }
    }
    events
}

/// A client's login, and the answer to a query behind it.
fn steps<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let (mut login, mut answer) = (
        ClientLogin::new("app", "app-pw", Some("shop")),
        QueryAnswer::new(),
    );
    let (mut steps, mut done) = (Vec::new(), false);
    for mut piece in pieces {
        while !done {
            match login.feed(&mut piece) {
                Ok(None) => break,
                Ok(Some(step)) => {
                    done = step == Step::Done;
                    steps.push(format!("{step:?}"));
                }
                Err(error) => {
                    steps.push(error.to_string());
                    return steps.join("\n");
                }
            }
        }
        if done {
            if let Some(outcome) = answer.feed(&mut piece) {
                steps.push(format!("{outcome:?}"));
                break;
            }
        }
    }
    steps.join("\n")
}

/// The server's direction: as the relay watches it, as a client reads it, as a refused login ends it.
pub fn server(input: &[u8]) {
    let (bytes, pieces) = cut(input);
    let whole = events(std::iter::once(bytes));
    assert_eq!(whole, events(pieces));
    assert_eq!(steps(std::iter::once(bytes)), steps(cut(input).1));
    let Some(Event::Greeting(greeting)) = whole.first() else {
        return;
    };
    let (mut refusal, login) = start(greeting);
    assert!(login.len() < 2048 && login.len() > HEADER_LEN + 32);
    let mut rest = bytes;
    let mut answers = 0;
    while let Refused::Send(_) = refusal.feed(&mut rest) {
        answers += 1;
        assert!(answers <= 8);
    }
}

/// PROXY headers: an answer never changes when more bytes come, and a written header is read.
pub fn proxy_header(input: &[u8]) {
    let whole = parse(input);
    for length in 0..input.len().min(600) {
        let early = parse(input.get(..length).unwrap_or_default());
        assert!(early == Parsed::Incomplete || early == whole);
    }
    match whole {
        Parsed::Done {
            consumed,
            source,
            destination,
        } => {
            assert!(consumed <= input.len());
            let written = portside_proto::proxy_header::v2(source, destination);
            let consumed = written.len();
            assert_eq!(
                parse(&written),
                Parsed::Done {
                    consumed,
                    source,
                    destination
                }
            );
        }
        Parsed::Local { consumed } => assert!(consumed <= input.len()),
        Parsed::Incomplete => assert!(input.len() < portside_proto::proxy_header::V2_MAX),
        Parsed::Error(error) => assert!(!error.to_string().is_empty()),
    }
}
