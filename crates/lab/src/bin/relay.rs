//! `portside-relay LISTEN TARGET`: the bare relay, until the process is ended.
use std::io;

use portside_lab::address::Address;
use portside_lab::relay::Relay;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target] = arguments.as_slice() else {
        eprintln!("usage: portside-relay LISTEN TARGET   (IP:PORT or unix:PATH)");
        std::process::exit(2);
    };
    let _relay = Relay::start(&Address::parse(listen)?, &Address::parse(target)?)?;
    loop {
        std::thread::park();
    }
}
