//! What a line must know of an IP packet: whether it is TCP and which flags it has. No I/O.

use serde::Deserialize;

const TCP: u8 = 6;

/// A TCP flag. Source: RFC 9293, section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// No more data from the sender.
    Fin = 0x01,
    /// Opens a connection.
    Syn = 0x02,
    /// Ends a connection at once.
    Rst = 0x04,
    /// Carries data that should be handed on at once: on Linux the last packet of each write.
    Psh = 0x08,
}

/// True for a TCP packet with this flag; IPv4 (not a later fragment), IPv6 without extension headers.
pub fn has_flag(packet: &[u8], flag: Flag) -> bool {
    tcp_flags(packet).is_some_and(|flags| flags & flag as u8 != 0)
}

fn tcp_flags(packet: &[u8]) -> Option<u8> {
    let header = match packet.first()? >> 4 {
        4 if *packet.get(9)? == TCP && fragment_offset(packet)? == 0 => {
            usize::from(packet.first()? & 0x0f) * 4
        }
        6 if *packet.get(6)? == TCP => 40,
        _ => return None,
    };
    packet.get(header + 13).copied()
}

fn fragment_offset(packet: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(flags: u8, protocol: u8, options: u8, fragment: u8) -> Vec<u8> {
        let header = usize::from(5 + options) * 4;
        let mut packet = vec![0; header + 20];
        packet[0] = 0x40 | (5 + options);
        packet[7] = fragment;
        packet[9] = protocol;
        packet[header + 13] = flags;
        packet
    }

    #[test]
    fn finds_flags_behind_ip_options() {
        for options in [0, 1, 10] {
            assert!(has_flag(&v4(0x14, TCP, options, 0), Flag::Rst));
            assert!(!has_flag(&v4(0x14, TCP, options, 0), Flag::Fin));
        }
    }

    #[test]
    fn knows_ipv6() {
        let mut packet = vec![0; 60];
        (packet[0], packet[6], packet[53]) = (0x60, TCP, 0x11);
        assert!(has_flag(&packet, Flag::Fin) && !has_flag(&packet, Flag::Rst));
    }

    #[test]
    fn leaves_alone_what_is_not_tcp_or_cut_short() {
        assert!(!has_flag(&v4(0xff, 17, 0, 0), Flag::Rst));
        assert!(!has_flag(&v4(0xff, TCP, 0, 9), Flag::Rst));
        let whole = v4(0xff, TCP, 0, 0);
        for length in 0..34 {
            assert!(!has_flag(&whole[..length], Flag::Rst));
        }
    }
}
