"""A server that lets everybody in and answers their queries with a request for a file."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tests.support.flag_client import BASE, LOCAL_FILES, put_lenenc
from tests.support.raw_client import packet

OK = b"\x00\x00\x00\x02\x00\x00\x00"
EOF = b"\xfe\x00\x00\x02\x00"
# What Portside asks of a new connection: character sets, timeout, mode, autocommit, global ones,
# init_connect.
STATE = ["utf8mb4", "utf8mb4", "utf8mb4_general_ci", "28800", "", "1", "latin1", "x", "latin1", ""]


class FileThief:
    """Listens at ``port`` on 127.0.0.1; ``got``: what it was sent after its requests."""

    def __init__(self, name: bytes) -> None:
        self.got: list[bytes] = []
        self._name = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
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


@contextmanager
def file_thief(name: bytes) -> Iterator[FileThief]:
    """One that asks for this file."""
    thief = FileThief(name)
    try:
        yield thief
    finally:
        thief.close()
