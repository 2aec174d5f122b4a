"""A server that lets everybody in and answers their queries with a request for a file."""

from __future__ import annotations

import socket
import struct
from typing import IO

from tests.support.flag_client import BASE, LOCAL_FILES, put_lenenc
from tests.support.raw_client import packet
from tests.support.threaded_server import ThreadedServer

OK = b"\x00\x00\x00\x02\x00\x00\x00"
EOF = b"\xfe\x00\x00\x02\x00"
# What Portside asks of a new connection: character sets, timeout, mode, autocommit, global ones,
# init_connect.
STATE = ["utf8mb4", "utf8mb4", "utf8mb4_general_ci", "28800", "", "1", "latin1", "x", "latin1", ""]


class FileThief(ThreadedServer):
    """Asks for a file; ``got``: what it was sent after its requests."""

    def __init__(self, name: bytes) -> None:
        super().__init__(self._steal)
        self.got: list[bytes] = []
        self._name = name

    def _steal(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            flags = (BASE | LOCAL_FILES).to_bytes(4, "little")
            salt = b"0123456789abcdefghij"
            front = b"\x0a9.9.9-thief\0" + struct.pack("<I", 7) + salt[:8] + b"\0" + flags[:2]
            back = flags[2:] + b"\x15" + bytes(10) + salt[8:] + b"\0mysql_native_password\0"
            connection.sendall(packet(0, front + b"\x2d\x02\x00" + back))
            self._next(stream)
            connection.sendall(packet(2, OK))
            while command := self._next(stream):
                if b"@@character_set_client, " in command:
                    connection.sendall(self._state())
                elif command[0] == 3:
                    connection.sendall(packet(1, b"\xfb" + self._name))
                    self.got.append(self._next(stream))
                else:
                    connection.sendall(packet(1, OK))

    @staticmethod
    def _next(stream: IO[bytes]) -> bytes:
        header = stream.read(4)
        return stream.read(int.from_bytes(header[:3], "little"))

    @staticmethod
    def _state() -> bytes:
        column = b"\x03def" + bytes(5) + b"\x0c\x2d\0" + bytes(4) + b"\xfd" + bytes(5)
        row = b"".join(put_lenenc(value.encode()) for value in STATE)
        payloads = [bytes([len(STATE)]), *[column] * len(STATE), EOF, row, EOF]
        return b"".join(packet(n, payload) for n, payload in enumerate(payloads, 1))
