"""A real server behind a greeting of before COM_RESET_CONNECTION, which it does not know either."""

from __future__ import annotations

import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.raw_client import packet
from tests.support.servers import Database

RESET, CHANGE_USER = 0x1F, 0x11
UNKNOWN_COMMAND = packet(1, b"\xff\x17\x04#08S01Unknown command")


class OldServer:
    """Passes everything on. ``commands``: how often each of the two came at a packet's begin."""

    def __init__(self, server: Database) -> None:
        self.commands: Counter[int] = Counter()
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._server.address, self._server.port))
            greeting = server.recv(65536)
            # As long as before: 10.11.19-MariaDB becomes 10.01.19, 9.7.0 becomes 5.6.0.
            old = greeting.replace(b"10.11", b"10.01", 1).replace(b"\x0a9.7", b"\x0a5.6", 1)
            assert old != greeting, greeting
            client.sendall(old)
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), client, server:
            while True:
                for one in select.select([client, server], [], [])[0]:
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is server:
                        client.sendall(data)
                        continue
                    # Either of the two comes first in what is sent at once.
                    command = data[4] if data[3] == 0 else 0
                    self.commands[command] += command in (RESET, CHANGE_USER)
                    if command == RESET:
                        client.sendall(UNKNOWN_COMMAND)
                    else:
                        server.sendall(data)


@contextmanager
def old_server(server: Database) -> Iterator[OldServer]:
    """One in front of a real server."""
    old = OldServer(server)
    try:
        yield old
    finally:
        old.close()
