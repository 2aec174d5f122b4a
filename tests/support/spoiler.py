"""Stands between two ends of MySQL's protocol and spoils, now and then, what one of them says."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable

from portside.demo.held_port import HeldPort

# Some first bytes mean something: OK, more data, a file, EOF, ERR.
MARKS = b"\x00\x01\x02\x03\x04\xfa\xfb\xfc\xfd\xfe\xff"


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one thing wrong: somewhere, or with the first packet's header."""
    at = rng.randrange(len(data))
    end = rng.randrange(at, len(data)) + 1
    kind = rng.randrange(9)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:]
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        return data + data[at:end]
    if kind == 4:
        return data[:at] + bytes([rng.choice(MARKS)]) + data[at + 1 :]
    if kind == 5:  # another length
        return rng.randbytes(rng.choice((1, 2, 3))) + data[3:]
    if kind == 6:  # another sequence number
        return data[:3] + rng.randbytes(1) + data[4:]
    if kind == 7:  # another first byte of the payload
        return data[:4] + bytes([rng.choice(MARKS)]) + data[5:]
    return rng.randbytes(rng.randrange(1, 300))


class Spoiler:
    """Listens at ``port`` of 127.0.0.1 and passes everything on to a target.

    Attributes:
        rate: how many pieces of a hundred are spoiled; 0: none.
        count: pieces spoiled so far.
    """

    def __init__(
        self,
        target: Callable[[], tuple[str, int]],
        *,
        server: bool,
        seed: int,
        source: str = "127.0.0.1",
    ) -> None:
        """Spoils what a server says, or what a client says; ``source``: it comes from there."""
        self._source = source
        self.rate = 0.0
        self.count = 0
        self.address = "127.0.0.1"
        self._target, self._server = target, server
        self._rng = random.Random(seed)
        self._held = HeldPort()
        self.port = self._held.port
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.address, self.port))
        self._listener.listen(512)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._held.release()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket() as far, contextlib.suppress(OSError):
            far.bind((self._source, 0))
            far.connect(self._target())
            there = threading.Thread(target=self._pass, args=(near, far, not self._server))
            there.start()
            self._pass(far, near, self._server)
            there.join()

    def _pass(self, source: socket.socket, to: socket.socket, is_bad: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(self._maybe(data) if is_bad else data)
        for one in (source, to):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _maybe(self, data: bytes) -> bytes:
        if self._rng.random() * 100 >= self.rate:
            return data
        self.count += 1
        return spoiled(data, self._rng)
