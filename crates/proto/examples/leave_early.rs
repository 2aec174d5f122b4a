//! Leaves a server between greeting and login, N times from one source address, and says what the server
//! thought of it: the measurement of docs/internals/early-leavers.md.
//!
//!     cargo run -p portside-proto --example leave_early -- ADDRESS SOURCE drop|unread|refuse COUNT
#![allow(
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use portside_proto::login::{Event, ServerLogin};
use portside_proto::refuse_login::{start, Step};
use socket2::{Domain, Socket, Type};

type Outcome = Result<String, Box<dyn std::error::Error>>;

fn connect(address: SocketAddr, source: IpAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

fn leave(address: SocketAddr, source: IpAddr, how: &str) -> Outcome {
    let mut stream = connect(address, source)?;
    let (mut login, mut buffer) = (ServerLogin::new(), [0; 1024]);
    let greeting = loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok("closed without a greeting".into());
        }
        match login.feed(&mut &buffer[..length]) {
            Some(Event::Greeting(greeting)) => break greeting,
            Some(Event::RefusedErr { errno, .. }) => {
                return Ok(format!("ERR {errno} in place of a greeting"))
            }
            Some(other) => return Ok(format!("{other:?}")),
            None => {}
        }
    };
    if how == "drop" {
        return Ok("greeted, left".into());
    }
    let (mut refusal, packet) = start(&greeting);
    stream.write_all(&packet)?;
    if how == "unread" {
        return Ok("login sent, left".into());
    }
    let mut answers = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok("closed without an ERR".into());
        }
        let mut bytes = &buffer[..length];
        loop {
            match refusal.feed(&mut bytes) {
                Step::Wait => break,
                Step::Send(packet) => {
                    answers += 1;
                    stream.write_all(&packet)?;
                }
                Step::SendAndClose(packet) => {
                    stream.write_all(packet)?;
                    return Ok("let in as anonymous, QUIT".into());
                }
                Step::Close => {
                    let last = String::from_utf8_lossy(&buffer[4..length.min(60)]).into_owned();
                    let closed = stream.read(&mut buffer)? == 0;
                    return Ok(format!(
                        "refused after {answers} answers, server closed {closed}: {last:?}"
                    ));
                }
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, source, how, count] = &arguments[..] else {
        return Err("ADDRESS SOURCE drop|unread|refuse COUNT".into());
    };
    let mut outcomes: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for attempt in 1..=count.parse()? {
        let outcome = leave(address.parse()?, source.parse()?, how)
            .unwrap_or_else(|error| format!("error: {error}"));
        let entry = outcomes.entry(outcome).or_insert((0, attempt));
        entry.0 += 1;
    }
    for (outcome, (times, first)) in outcomes {
        println!("{times:5} times, first at {first}: {outcome}");
    }
    Ok(())
}
