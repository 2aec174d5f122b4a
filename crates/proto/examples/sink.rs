//! A MySQL-speaking sink: lets everybody in and answers SELECT with one row and the rest with OK. One connection at a
//! time, for trying real clients on the crate's packets; the lab has the fast one.
//!
//!     cargo run -p portside-proto --example sink -- ADDRESS
#![allow(clippy::disallowed_types, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use portside_proto::handshake::server::{greeting_packet, ok_packet, one_row};
use portside_proto::watch::{ClientWatch, Phase};

fn serve(mut stream: TcpStream, id: u32) -> std::io::Result<()> {
    stream.write_all(&greeting_packet(
        id,
        "8.0.0-portside-sink",
        b"abcdefghijklmnopqrst",
    ))?;
    let (mut watch, mut buffer, mut answered) = (ClientWatch::new(), [0; 4096], 0);
    loop {
        let length = stream.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        watch.feed(bytes);
        if watch.quit_seen() {
            return Ok(());
        }
        if watch.phase() == Phase::Login && watch.capabilities().is_some() {
            stream.write_all(&ok_packet(2))?;
            watch.login_done();
        }
        while watch.at_boundary() && answered < watch.commands() {
            // Clients read one packet after SET NAMES, PING and the like.
            let is_select = bytes
                .get(5..11)
                .is_some_and(|word| word.eq_ignore_ascii_case(b"select"));
            stream.write_all(&if is_select {
                one_row("answer", b"42")
            } else {
                ok_packet(1)
            })?;
            answered += 1;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("ADDRESS")?;
    for (stream, id) in TcpListener::bind(address)?.incoming().zip(1..) {
        if let Err(error) = serve(stream?, id) {
            println!("session {id}: {error}");
        }
    }
    Ok(())
}
