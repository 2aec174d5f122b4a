"""A client of single bytes and packets, for clients that no library would be: halves and resets."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

# PROTOCOL_41 | LONG_PASSWORD | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH
CAPABILITIES = 0x200 | 0x1 | 0x2000 | 0x8000 | 0x80000


def packet(sequence: int, payload: bytes) -> bytes:
    """Payload behind its header."""
    return len(payload).to_bytes(3, "little") + bytes([sequence]) + payload


# A login that the sink and the chaos server let in; MariaDB answers it with an auth switch or 1045.
LOGIN = packet(
    1,
    struct.pack("<IIB23x", CAPABILITIES, 1 << 24, 33) + b"app\0\0" + b"mysql_native_password\0",
)
QUIT = packet(0, b"\x01")
PING = packet(0, b"\x0e")


def query(sql: str) -> bytes:
    """COM_QUERY."""
    return packet(0, b"\x03" + sql.encode())


class RawClient:
    """One connection; ``address`` is (host, port) or the path of a unix socket."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        source: str | None = None,
        receive_buffer: int | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self.socket = socket.socket(family)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def exactly(self, size: int) -> bytes:
        """Bytes; ConnectionError when the other side closes before."""
        data = bytearray()
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError(f"closed after {len(data)} of {size} bytes")
            data += more
        return bytes(data)

    def packet(self) -> bytes:
        """The next packet's payload."""
        return self.exactly(int.from_bytes(self.exactly(4)[:3], "little"))

    def login(self) -> None:
        """Greeting, login, OK, with a server that lets everybody in."""
        assert self.packet()[0] == 10
        self.send(LOGIN)
        assert self.packet()[0] == 0

    def rows(self) -> list[bytes]:
        """The rows (undecoded) of a text result with one column."""
        assert self.packet() == b"\x01"
        self.packet()
        assert self.packet()[0] == 0xFE
        rows = []
        while (row := self.packet())[0] != 0xFE or len(row) >= 9:
            rows.append(row)
        return rows

    def error(self) -> tuple[int, str]:
        """Number and text of the ERR packet that comes in place of a greeting, then the FIN."""
        header = self.exactly(4)
        assert header[3] == 0, "an ERR in place of a greeting has sequence 0"
        payload = self.exactly(int.from_bytes(header[:3], "little"))
        assert payload[0] == 0xFF, payload
        assert len(payload) + 4 <= 512
        return int.from_bytes(payload[1:3], "little"), payload[3:].decode()

    def at_eof(self) -> bool:
        """The other side's FIN comes next."""
        return self.socket.recv(1) == b""

    def reset(self) -> None:
        """RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
