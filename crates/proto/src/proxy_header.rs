//! The PROXY protocol, versions 1 and 2: read from load balancers in front of us, version 2 written to
//! servers behind us.
//!
//! [`parse`] is called with everything received so far, again when more came; it keeps nothing and copies
//! nothing. It must not know which networks may send a header, nor how long to wait for one: that is the
//! listener's business. Source: HAProxy doc/proxy-protocol.txt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::Reader;

/// A version 1 line at most, with its CRLF (proxy-protocol.txt 2.1).
pub const V1_MAX: usize = 107;

/// A version 2 header at most, with its TLVs. The text promises that 536 bytes arrive in one piece; with
/// certificates in TLVs more are in use. The real maximum, 64 KiB, would let strangers fill our memory.
pub const V2_MAX: usize = 2048;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;

/// One end of a unix stream socket in a version 2 header: `sun_path`.
const UNIX_PATH: usize = 108;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// A header with TCP addresses.
    Done {
        /// Length of the header; the client's own bytes follow.
        consumed: usize,
        /// The client.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
    /// A header without usable addresses: the proxy's own check (LOCAL), UNKNOWN, UNSPEC, unix sockets. The
    /// connection's own addresses stand.
    Local {
        /// Length of the header; the client's own bytes follow.
        consumed: usize,
    },
    /// Not a header; nothing that follows will make it one.
    Error(HeaderError),
}

/// Why the bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else, e.g. a client that speaks MySQL at once.
    #[error("no PROXY header: the first bytes are something else")]
    NotProxy,
    /// A version 1 line of more than 107 bytes, or a version 2 header of more than 2048.
    #[error("the PROXY header is too long (version 1: {V1_MAX} bytes, version 2: {V2_MAX})")]
    TooLong,
    /// A version 1 line that breaks the grammar.
    #[error(
        "the PROXY version 1 line is not: PROXY TCP4|TCP6|UNKNOWN SOURCE DESTINATION PORT PORT"
    )]
    Line,
    /// Version 3, or a command that is neither LOCAL nor PROXY.
    #[error("PROXY header with version and command 0x{0:02x}, known are 0x20 and 0x21")]
    Command(u8),
    /// Not a stream.
    #[error("PROXY header with address family 0x{0:02x}, known are 0x00, 0x11, 0x21 and 0x31")]
    Family(u8),
    /// Shorter than the addresses it announces.
    #[error("the PROXY version 2 header ends before its addresses")]
    Truncated,
}

/// Reads a header of either version from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let read = if bytes.first() == Some(&b'P') {
        parse_v1(bytes)
    } else {
        parse_v2(bytes)
    };
    read.unwrap_or_else(Parsed::Error)
}

/// Whether `bytes` begin with `prefix`, or may still do so when more come.
fn starts(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(got, want)| got == want)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    if !starts(bytes, b"PROXY ") {
        return Err(HeaderError::NotProxy);
    }
    let front = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = front.windows(2).position(|pair| pair == b"\r\n") else {
        return if front.len() == V1_MAX {
            Err(HeaderError::TooLong)
        } else {
            Ok(Parsed::Incomplete)
        };
    };
    let line = front
        .get(..end)
        .and_then(|line| std::str::from_utf8(line).ok())
        .ok_or(HeaderError::Line)?;
    let consumed = end + 2;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Parsed::Local { consumed });
    }
    let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) = (
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
    ) else {
        return Err(HeaderError::Line);
    };
    let address = |word: &str| -> Option<IpAddr> {
        match family {
            Some("TCP4") => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Some("TCP6") => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let end = |word, port| Some(SocketAddr::new(address(word)?, decimal(port)?));
    let source = end(source, source_port).ok_or(HeaderError::Line)?;
    let destination = end(destination, destination_port).ok_or(HeaderError::Line)?;
    Ok(Parsed::Done {
        consumed,
        source,
        destination,
    })
}

/// A port in decimal digits, without sign and without leading zeros.
fn decimal(word: &str) -> Option<u16> {
    let plain =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain {
        word.parse().ok()
    } else {
        None
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    if !starts(bytes, &SIGNATURE) {
        return Err(HeaderError::NotProxy);
    }
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<FIXED>() else {
        return Ok(Parsed::Incomplete);
    };
    if !matches!(command, LOCAL | PROXY) {
        return Err(HeaderError::Command(command));
    }
    let consumed = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if consumed > V2_MAX {
        return Err(HeaderError::TooLong);
    }
    // Before waiting for the rest: a family that is not known stays so.
    let addresses = match (command, family) {
        (LOCAL, _) | (PROXY, 0) => 0,
        (_, TCP4) => 12,
        (_, TCP6) => 36,
        (_, UNIX) => 2 * UNIX_PATH,
        (_, other) => return Err(HeaderError::Family(other)),
    };
    if consumed < FIXED + addresses {
        return Err(HeaderError::Truncated);
    }
    let Some(body) = bytes.get(FIXED..consumed) else {
        return Ok(Parsed::Incomplete);
    };
    if command == LOCAL {
        return Ok(Parsed::Local { consumed });
    }
    let mut reader = Reader(body);
    let ends = match family {
        TCP4 => two(&mut reader, Ipv4Addr::from),
        TCP6 => two(&mut reader, Ipv6Addr::from),
        _ => return Ok(Parsed::Local { consumed }),
    };
    let (source, destination) = ends.ok_or(HeaderError::Truncated)?;
    Ok(Parsed::Done {
        consumed,
        source,
        destination,
    })
}

/// Two addresses, then their two ports.
fn two<const N: usize, A: Into<IpAddr>>(
    reader: &mut Reader<'_>,
    address: impl Fn([u8; N]) -> A,
) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = (address(reader.array()?), address(reader.array()?));
    let (from, to) = (
        u16::from_be_bytes(reader.array()?),
        u16::from_be_bytes(reader.array()?),
    );
    Some((
        SocketAddr::new(source.into(), from),
        SocketAddr::new(destination.into(), to),
    ))
}

/// A version 2 header for a TCP connection: 28 bytes (both ends IPv4) or 52. Of a mixed pair the IPv4 end is
/// written as IPv4-mapped IPv6.
pub fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut body = Vec::with_capacity(36);
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            body.extend_from_slice(&from.octets());
            body.extend_from_slice(&to.octets());
            TCP4
        }
        (from, to) => {
            for address in [from, to] {
                let wide = match address {
                    IpAddr::V4(narrow) => narrow.to_ipv6_mapped(),
                    IpAddr::V6(wide) => wide,
                };
                body.extend_from_slice(&wide.octets());
            }
            TCP6
        }
    };
    body.extend_from_slice(&source.port().to_be_bytes());
    body.extend_from_slice(&destination.port().to_be_bytes());
    v2_header(PROXY, family, &body)
}

/// A version 2 header for a unix stream socket: 232 bytes. Paths are cut at 108 bytes, the size of `sun_path`;
/// a client's is usually empty.
pub fn v2_unix(source: &[u8], destination: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(2 * UNIX_PATH);
    for path in [source, destination] {
        let shown = path.get(..UNIX_PATH).unwrap_or(path);
        body.extend_from_slice(shown);
        body.resize(body.len() + UNIX_PATH - shown.len(), 0);
    }
    v2_header(PROXY, UNIX, &body)
}

/// A version 2 header that says: this is the proxy itself (a check). 16 bytes.
pub fn v2_local() -> Vec<u8> {
    v2_header(LOCAL, 0, &[])
}

fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED + body.len());
    header.extend_from_slice(&SIGNATURE);
    header.extend_from_slice(&[command, family]);
    header.extend_from_slice(&(body.len() as u16).to_be_bytes());
    header.extend_from_slice(body);
    header
}

#[cfg(test)]
mod tests;
