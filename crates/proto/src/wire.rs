//! Reading and writing the protocol's small pieces: headers, little-endian numbers, strings.
//!
//! Crate-private. [`Reader`] gives None where bytes are missing, so that a decoder reads as a list of `?`.

use crate::command::HEADER_LEN;

/// A 3-byte little-endian number.
pub(crate) fn u24([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
}

/// A packet header. `length` is below 2^24.
pub(crate) fn header(length: usize, sequence: u8) -> [u8; HEADER_LEN] {
    debug_assert!(length < 1 << 24);
    let [low, middle, high, ..] = (length as u32).to_le_bytes();
    [low, middle, high, sequence]
}

/// One packet: header and payload, in one allocation.
pub(crate) fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&header(payload.len(), sequence));
    bytes.extend_from_slice(payload);
    bytes
}

/// Appends a length-encoded number.
pub(crate) fn put_lenenc(to: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    let (marker, width) = match value {
        0..=250 => (None, 1),
        251..=0xffff => (Some(0xfc), 2),
        0x1_0000..=0xff_ffff => (Some(0xfd), 3),
        _ => (Some(0xfe), 8),
    };
    to.extend(marker.into_iter().chain(bytes.into_iter().take(width)));
}

/// Appends a string with a length-encoded length.
pub(crate) fn put_lenenc_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// `bytes` divided after at most `limit`.
pub(crate) fn split(bytes: &[u8], limit: u32) -> (&[u8], &[u8]) {
    bytes
        .split_at_checked(limit as usize)
        .unwrap_or((bytes, &[]))
}

/// Fills `head` from `bytes`; says whether it is full now, and what was not needed.
pub(crate) fn gather<'a, const N: usize>(
    head: &mut [u8; N],
    have: &mut u8,
    bytes: &'a [u8],
) -> (bool, &'a [u8]) {
    if *have == 0 {
        if let Some((whole, rest)) = bytes.split_first_chunk::<N>() {
            *head = *whole;
            return (true, rest);
        }
    }
    let (piece, rest) = split(bytes, (N - usize::from(*have)) as u32);
    for (to, from) in head.iter_mut().skip(usize::from(*have)).zip(piece) {
        *to = *from;
    }
    *have += piece.len() as u8;
    (usize::from(*have) == N, rest)
}

/// Puts packets of bounded length together; keeps bytes only while one is split.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assembler {
    buffer: Vec<u8>,
}

/// A packet longer than the assembler's user allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Assembler {
    /// Takes bytes up to the end of one packet of at most `limit` payload bytes and hands it to `with`
    /// (sequence, payload); None when it is not complete yet, and then all bytes were taken.
    pub(crate) fn next<T>(
        &mut self,
        bytes: &mut &[u8],
        limit: usize,
        with: impl FnOnce(u8, &[u8]) -> T,
    ) -> Result<Option<T>, TooLong> {
        loop {
            let (length, sequence) = match self.buffer.first_chunk().or(bytes.first_chunk()) {
                Some(&[a, b, c, sequence])
                    if self.buffer.is_empty() || self.buffer.len() >= HEADER_LEN =>
                {
                    (u24([a, b, c]) as usize, sequence)
                }
                _ => {
                    let missing = (HEADER_LEN - self.buffer.len()) as u32;
                    let (piece, rest) = split(bytes, missing);
                    self.buffer.extend_from_slice(piece);
                    *bytes = rest;
                    if self.buffer.len() < HEADER_LEN {
                        return Ok(None);
                    }
                    continue;
                }
            };
            if length > limit {
                return Err(TooLong);
            }
            let whole = HEADER_LEN + length;
            if self.buffer.is_empty() {
                if let Some((packet, rest)) = bytes.split_at_checked(whole) {
                    *bytes = rest;
                    return Ok(Some(with(
                        sequence,
                        packet.get(HEADER_LEN..).unwrap_or(&[]),
                    )));
                }
            }
            let (piece, rest) = split(bytes, (whole - self.buffer.len()) as u32);
            self.buffer.extend_from_slice(piece);
            *bytes = rest;
            if self.buffer.len() < whole {
                return Ok(None);
            }
            let packet = std::mem::take(&mut self.buffer);
            return Ok(Some(with(
                sequence,
                packet.get(HEADER_LEN..).unwrap_or(&[]),
            )));
        }
    }
}

/// Reads from the front of a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(piece)
    }

    /// A length-encoded number; None also for the markers of NULL and ERR.
    pub(crate) fn lenenc(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=250 => Some(u64::from(small)),
            0xfc => self.u16().map(u64::from),
            0xfd => self.array().map(|bytes| u64::from(u24(bytes))),
            0xfe => self.array().map(u64::from_le_bytes),
            _ => None,
        }
    }

    /// A text that must end with a NUL.
    pub(crate) fn nul_text(&mut self) -> Option<&'a [u8]> {
        self.0.contains(&0).then(|| self.until_nul())
    }

    /// Everything up to the next NUL (which is taken, too) or to the end, since old servers forget it.
    pub(crate) fn until_nul(&mut self) -> &'a [u8] {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(self.0.len());
        let piece = self.take(end).unwrap_or(&[]);
        self.0 = self.0.get(1..).unwrap_or(&[]);
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_every_width() {
        for (value, bytes) in [
            (0, &[0][..]),
            (250, &[250]),
            (251, &[0xfc, 251, 0]),
            (0xffff, &[0xfc, 0xff, 0xff]),
            (0x1_0000, &[0xfd, 0, 0, 1]),
            (0xff_ffff, &[0xfd, 0xff, 0xff, 0xff]),
            (0x100_0000, &[0xfe, 0, 0, 0, 1, 0, 0, 0, 0]),
        ] {
            let mut encoded = Vec::new();
            put_lenenc(&mut encoded, value);
            assert_eq!(encoded, bytes, "{value}");
        }
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            cuts in prop::collection::vec(1usize..50, 1..9),
        ) {
            let all: Vec<u8> = payloads.iter().zip(0u8..).flat_map(|(p, s)| packet(s, p)).collect();
            let (mut assembler, mut got) = (Assembler::default(), Vec::new());
            let mut rest = &all[..];
            for &cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut piece, after) = rest.split_at(cut.min(rest.len()));
                while let Ok(Some(one)) = assembler.next(&mut piece, 300, |s, p| (s, p.to_vec())) {
                    got.push(one);
                }
                prop_assert!(piece.is_empty());
                rest = after;
            }
            let want: Vec<_> = payloads.into_iter().zip(0u8..).map(|(p, s)| (s, p)).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn a_long_packet_is_refused_before_it_is_kept() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.next(&mut &[5, 0][..], 4, |_, _| ()), Ok(None));
        assert_eq!(
            assembler.next(&mut &[0, 0, 1][..], 4, |_, _| ()),
            Err(TooLong)
        );
    }
}
