"""A real server behind a greeting of before COM_RESET_CONNECTION, which it does not know either."""

from __future__ import annotations

import select
import socket
from collections import Counter

from tests.support.raw_client import packet
from tests.support.servers import Database
from tests.support.threaded_server import ThreadedServer

RESET, CHANGE_USER = 0x1F, 0x11
UNKNOWN_COMMAND = packet(1, b"\xff\x17\x04#08S01Unknown command")


class OldServer(ThreadedServer):
    """Passes everything on. ``commands``: how often each of the two came at a packet's begin."""

    def __init__(self, server: Database) -> None:
        super().__init__(self._greet)
        self.commands: Counter[int] = Counter()
        self._server = server

    def _greet(self, client: socket.socket) -> None:
        with socket.create_connection((self._server.address, self._server.port)) as server:
            greeting = server.recv(65536)
            # As long as before: 10.11.19-MariaDB becomes 10.01.19, 9.7.0 becomes 5.6.0.
            old = greeting.replace(b"10.11", b"10.01", 1).replace(b"\x0a9.7", b"\x0a5.6", 1)
            assert old != greeting, greeting
            client.sendall(old)
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
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
