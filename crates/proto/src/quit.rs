//! The bytes that end a session: `COM_QUIT` as a packet, and as a packet in a compressed frame.
//!
//! The relay appends them where a client went away without saying good-bye, and only at a packet
//! boundary ([`crate::watch::ClientWatch::at_boundary`]), so that the server sees an orderly end
//! (no `Aborted_clients`).

/// `COM_QUIT`: length 1, sequence 0, command 1.
pub const QUIT: [u8; 5] = [1, 0, 0, 0, 1];

/// `COM_QUIT` in a compressed frame: frame length 5, frame sequence 0, length before compression 0
/// (= stored as it is), then the packet. The same for zlib and zstd.
pub const QUIT_COMPRESSED: [u8; 12] = [5, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];

/// The right one of the two: pass [`crate::watch::ClientWatch::is_compressed`].
pub fn bytes(compressed: bool) -> &'static [u8] {
    if compressed {
        &QUIT_COMPRESSED
    } else {
        &QUIT
    }
}
