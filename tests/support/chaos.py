"""A server that misbehaves on a real socket, one way at a time, switchable while it runs.

It knows just enough of the protocol to greet, accept any login and begin a result, so that a
session can die at each phase. The bytes are those of a MariaDB 10.11 greeting.
"""

from __future__ import annotations

import enum
import socket
import struct
import threading
from collections.abc import Callable

from portside.demo.held_port import HeldPort


class Behaviour(enum.Enum):
    """What happens to a connection."""

    REFUSE = "nobody listens: connection refused"
    HANG = "the accept queue is full: connect never ends"
    SILENT = "accepts and never greets"
    CLOSE = "accepts and closes at once"
    RESET = "accepts and resets at once"
    GARBAGE = "greets with bytes that are not MySQL"
    HALF_GREETING = "half a greeting, then silence"
    ERR = "an ERR packet in place of the greeting"
    RESET_AFTER_LOGIN = "takes the login, then resets"
    RESET_IN_RESULT = "resets in the middle of a large result"
    IGNORE_QUIT = "answers every query, and keeps the connection open after QUIT"
    SERVE = "answers every query with one row"


class ChaosServer:
    """Listens on ``port`` (127.0.0.1) and treats each connection as ``behaviour`` says.

    Attributes:
        accepted: connections accepted so far.
        received: bytes received after the login, all connections.
    """

    def __init__(self, behaviour: Behaviour = Behaviour.SERVE) -> None:
        self.behaviour = behaviour
        self.error = (1040, "Too many connections")
        self.result_bytes = 64 * 1024 * 1024
        self.accepted = 0
        self.received = 0
        self._held = HeldPort()
        self.port = self._held.port
        self._listener: socket.socket | None = None
        self._fillers: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.behave(behaviour)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def behave(self, behaviour: Behaviour, error: tuple[int, str] | None = None) -> None:
        """Changes what happens to connections from now on; open ones stay as they are."""
        self.behaviour = behaviour
        if error is not None:
            self.error = error
        self._stop_listening()
        if behaviour is Behaviour.REFUSE:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0 if behaviour is Behaviour.HANG else 1024)
        self._listener = listener
        if behaviour is Behaviour.HANG:
            self._fill_accept_queue()
        else:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close_connections(self) -> None:
        """Resets every open connection."""
        with self._lock:
            connections, self._open = list(self._open), set()
        for connection in connections:
            _reset(connection)

    def stop(self) -> None:
        """Stops listening and resets everything."""
        self._stop_listening()
        self.close_connections()
        self._held.release()

    def __enter__(self) -> ChaosServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # shutdown() wakes the accepting thread; close() alone would leave it waiting.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    def _fill_accept_queue(self) -> None:
        # backlog 0 holds one connection; the kernel drops further SYNs, so connect() hangs.
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            _PLAYS[self.behaviour](self, connection)
        except OSError:
            pass  # the peer or close_connections() ended it: what these servers are for
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _silent(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    def _close(self, connection: socket.socket) -> None:
        connection.close()

    def _reset(self, connection: socket.socket) -> None:
        _reset(connection)

    def _garbage(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        self._silent(connection)

    def _half_greeting(self, connection: socket.socket) -> None:
        connection.sendall(_packet(0, GREETING)[:20])
        self._silent(connection)

    def _err(self, connection: socket.socket) -> None:
        errno, text = self.error
        connection.sendall(_packet(0, b"\xff" + struct.pack("<H", errno) + text.encode()))
        connection.shutdown(socket.SHUT_WR)
        self._silent(connection)

    def _login(self, connection: socket.socket) -> None:
        connection.sendall(_packet(0, GREETING))
        _read_packet(connection)
        connection.sendall(_packet(2, OK))

    def _reset_after_login(self, connection: socket.socket) -> None:
        connection.sendall(_packet(0, GREETING))
        _read_packet(connection)
        _reset(connection)

    def _reset_in_result(self, connection: socket.socket) -> None:
        self._login(connection)
        while (command := _read_packet(connection))[1:4].upper() == b"SET":  # autocommit, names
            connection.sendall(_packet(1, OK))
        self.received += len(command)
        connection.sendall(_packet(1, b"\x01") + _packet(2, COLUMN) + _packet(3, EOF_PACKET))
        row = b"\xfd" + (1 << 20).to_bytes(3, "little") + b"x" * (1 << 20)
        for number in range(max(1, self.result_bytes >> 20) // 2):
            connection.sendall(_packet((4 + number) % 256, row))
        _reset(connection)

    def _answer(self, connection: socket.socket) -> None:
        self._login(connection)
        while True:
            command = _read_packet(connection)
            self.received += len(command)
            if not command or command[0] == 1:  # COM_QUIT: mysqld closes first
                if self.behaviour is Behaviour.IGNORE_QUIT:
                    self._silent(connection)
                return
            if command[0] == 3 and command[1:4].upper() != b"SET":  # COM_QUERY
                row = b"\x011"
                packets = (b"\x01", COLUMN, EOF_PACKET, row, EOF_PACKET)
                answer = b"".join(_packet(n + 1, packet) for n, packet in enumerate(packets))
                connection.sendall(answer)
            else:
                connection.sendall(_packet(1, OK))


_PLAYS: dict[Behaviour, Callable[[ChaosServer, socket.socket], None]] = {
    Behaviour.SILENT: ChaosServer._silent,
    Behaviour.CLOSE: ChaosServer._close,
    Behaviour.RESET: ChaosServer._reset,
    Behaviour.GARBAGE: ChaosServer._garbage,
    Behaviour.HALF_GREETING: ChaosServer._half_greeting,
    Behaviour.ERR: ChaosServer._err,
    Behaviour.RESET_AFTER_LOGIN: ChaosServer._reset_after_login,
    Behaviour.RESET_IN_RESULT: ChaosServer._reset_in_result,
    Behaviour.IGNORE_QUIT: ChaosServer._answer,
    Behaviour.SERVE: ChaosServer._answer,
}

# protocol 10, version, thread id 1, 8 bytes of nonce, capabilities 0xf7fe without SSL (0x0800) and
# compression (0x0020), utf8, autocommit, upper capabilities 0x80bf, nonce length 21, 12 more bytes
# of nonce, the plugin.
GREETING = (
    b"\x0a5.5.5-10.11.19-MariaDB-chaos\x00"
    + struct.pack("<I", 1)
    + b"abcdefgh\x00"
    + struct.pack("<HBHHB", 0xF7FE & ~0x0800 & ~0x0020, 33, 2, 0x80BF, 21)
    + bytes(10)
    + b"ijklmnopqrst\x00"
    + b"mysql_native_password\x00"
)
OK = b"\x00\x00\x00\x02\x00\x00\x00"
EOF_PACKET = b"\xfe\x00\x00\x02\x00"
COLUMN = b"\x03def\x00\x00\x00\x011\x00\x0c\x21\x00\x01\x00\x00\x00\xfd\x00\x00\x00\x00\x00"


def _packet(sequence: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence]) + payload


def _read_packet(connection: socket.socket) -> bytes:
    header = _read_exactly(connection, 4)
    return _read_exactly(connection, int.from_bytes(header[:3], "little"))


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionResetError("closed by the peer")
        data += more
    return data


def _reset(connection: socket.socket) -> None:
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        return  # closed already
    connection.close()
