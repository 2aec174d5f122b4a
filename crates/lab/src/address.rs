//! Where to listen or connect, as text: `ip:port`, `[ip6]:port` or `unix:PATH`.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, SockAddr};

/// A parsed address, ready for `bind` or `connect`.
#[derive(Debug, Clone)]
pub struct Address {
    /// The text it was made from.
    pub text: String,
    /// What the system calls take.
    pub sockaddr: SockAddr,
}

impl Address {
    /// Parses `ip:port`, `[ip6]:port` or `unix:PATH`; `InvalidInput` names the text otherwise.
    pub fn parse(text: &str) -> io::Result<Self> {
        let sockaddr = if let Some(path) = text.strip_prefix("unix:") {
            SockAddr::unix(path)?
        } else {
            let parsed: SocketAddr = text.parse().map_err(|_| {
                let what = format!("{text:?} is neither IP:PORT nor unix:PATH");
                io::Error::new(io::ErrorKind::InvalidInput, what)
            })?;
            parsed.into()
        };
        Ok(Self {
            text: text.to_owned(),
            sockaddr,
        })
    }

    /// True for `unix:PATH`.
    pub fn is_unix(&self) -> bool {
        self.sockaddr.domain() == Domain::UNIX
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn reads_all_three_forms_and_names_what_it_cannot_read() {
        assert!(!Address::parse("127.0.0.1:3306").unwrap().is_unix());
        assert!(!Address::parse("[::1]:3306").unwrap().is_unix());
        assert!(Address::parse("unix:/tmp/s.sock").unwrap().is_unix());
        let error = Address::parse("localhost").unwrap_err().to_string();
        assert!(error.contains("localhost") && error.contains("IP:PORT"));
    }
}
