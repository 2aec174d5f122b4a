"""Reads the first packet a server sends: a greeting, or an ERR in its place. Pure.

For: telling MySQL from anything else, the version (which decides the statements of a check), and
the errors a server gives instead of a greeting (1040 full, 1129 and 1130 host refused). It must
not know sockets. Only the checks of Python use it; sessions are read by crates/proto.

Source: MySQL "Protocol::HandshakeV10" and "ERR_Packet"; MariaDB "Initial handshake packet".
"""

from __future__ import annotations

from dataclasses import dataclass

from portside.foreign_text import one_line

# A real greeting has some 80 bytes; an ERR at most 512 of text. More than this is not MySQL.
MAX_FIRST_PACKET = 4096
HEADER_BYTES = 4
PROTOCOL_10 = 10
ERR_MARK = 0xFF
CLIENT_SSL = 1 << 11

ER_CON_COUNT = 1040
ER_ACCESS_DENIED = 1045
ER_HOST_IS_BLOCKED = 1129
ER_HOST_NOT_PRIVILEGED = 1130
ER_SECURE_TRANSPORT_REQUIRED = 3159


@dataclass(frozen=True)
class Greeting:
    """A server that would let us log in; ``has_tls``: it offers TLS."""

    version: str
    has_tls: bool = False


@dataclass(frozen=True)
class ServerError:
    """An ERR packet in place of the greeting."""

    errno: int
    text: str


@dataclass(frozen=True)
class NotMysql:
    """The bytes are no MySQL greeting; ``why`` says what they are."""

    why: str


First = Greeting | ServerError | NotMysql


def parse_first(data: bytes) -> First | None:
    """What the server sent first; None while the packet is incomplete."""
    if len(data) < HEADER_BYTES:
        return None
    length = int.from_bytes(data[:3], "little")
    if not 0 < length <= MAX_FIRST_PACKET:
        return NotMysql(f"not a MySQL greeting: it begins with {data[:16]!r}")
    if len(data) < HEADER_BYTES + length:
        return None
    body = data[HEADER_BYTES : HEADER_BYTES + length]
    if body[0] == ERR_MARK and length >= 3:
        return _parse_error(body)
    if body[0] != PROTOCOL_10 or b"\0" not in body[1:]:
        return NotMysql(f"not a MySQL greeting: it begins with {data[:16]!r}")
    end = body.index(b"\0", 1)
    # After the version: 4 bytes of thread id, 8 of scramble, one filler, then capabilities.
    capabilities = int.from_bytes(body[end + 14 : end + 16], "little")
    return Greeting(body[1:end].decode("ascii", "replace"), bool(capabilities & CLIENT_SSL))


def _parse_error(body: bytes) -> ServerError:
    """Before capabilities are known there is no SQLSTATE marker, but some servers send one."""
    text = body[3:]
    if text[:1] == b"#":
        text = text[6:]
    return ServerError(
        int.from_bytes(body[1:3], "little"), one_line(text.decode("utf-8", "replace"))
    )
