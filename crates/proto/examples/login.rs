//! Logs in with a password, runs `SELECT 1` and quits, by the crate's own client.
//!
//!     cargo run -p portside-proto --example login -- ADDRESS USER PASSWORD
#![allow(clippy::disallowed_types, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::TcpStream;

use portside_proto::handshake::result::QueryAnswer;
use portside_proto::handshake::{ClientLogin, Step};
use portside_proto::quit::QUIT;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, user, password] = &arguments[..] else {
        return Err("ADDRESS USER PASSWORD".into());
    };
    let mut stream = TcpStream::connect(address)?;
    let (mut login, mut buffer) = (
        ClientLogin::new(user, password.as_str(), None),
        [0; 16 * 1024],
    );
    'login: loop {
        let length = stream.read(&mut buffer)?;
        let mut bytes = buffer
            .get(..length)
            .filter(|bytes| !bytes.is_empty())
            .ok_or("server closed")?;
        while let Some(step) = login.feed(&mut bytes)? {
            match step {
                Step::Send(packet) | Step::StartTls(packet) => stream.write_all(&packet)?,
                Step::Done => break 'login,
                Step::Leave(_, error) => return Err(error.into()),
            }
        }
    }
    stream.write_all(b"\x09\0\0\0\x03SELECT 1")?;
    let mut answer = QueryAnswer::new();
    let outcome = loop {
        let length = stream.read(&mut buffer)?;
        let mut bytes = buffer
            .get(..length)
            .filter(|bytes| !bytes.is_empty())
            .ok_or("server closed")?;
        if let Some(outcome) = answer.feed(&mut bytes) {
            break outcome;
        }
    };
    stream.write_all(&QUIT)?;
    println!(
        "{}: {outcome:?}",
        login.greeting().map_or("", |greeting| &greeting.version)
    );
    Ok(())
}
