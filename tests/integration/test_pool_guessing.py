"""Who guesses names learns nothing: an unknown user looks and costs like a wrong password."""

from __future__ import annotations

import secrets
import ssl
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Trio
from tests.integration.test_pool import config
from tests.integration.test_pool_logins import user
from tests.integration.test_pool_tls import REQUEST, address, context, tls_table
from tests.support.flag_client import BASE, put_lenenc
from tests.support.instance import Instance
from tests.support.raw_client import RawClient, packet

Run = Callable[..., Instance]

KNOWN = [f"known-{n}" for n in range(4)]
SLOW_HASH = "$A$005$" + "s" * 20 + "h" * 43
SSL_FLAG = 1 << 11
# Method: whether TLS hides it, and the (wrong) answer.
METHODS = {
    "mysql_native_password": (False, bytes(20)),
    "caching_sha2_password": (False, bytes(32)),
    "client_ed25519": (False, bytes(64)),
    "mysql_clear_password": (True, b"guess\0"),
}


class Guess(NamedTuple):
    """What a client saw: first bytes and lengths of the packets; the text; how long it took."""

    packets: list[tuple[int, int]]
    text: str
    seconds: float


class Guesser(RawClient):
    """Logs in with a wrong password."""

    def __init__(self, portside: tuple[str, int], source: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(portside, source=source)
        self.packet()
        self.sequence, self.flags = 1, BASE
        if tls is not None:
            self.flags |= SSL_FLAG
            self.send(REQUEST)
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
            self.sequence = 2

    def say(self, payload: bytes) -> bytes:
        """A packet, and the answer."""
        self.send(packet(self.sequence, payload))
        self.sequence += 2
        return self.packet()

    def guess(self, name: str, method: str, answer: bytes) -> Guess:
        login = struct.pack("<IIB23x", self.flags, 1 << 24, 45)
        login += name.encode() + b"\0" + put_lenenc(answer) + method.encode() + b"\0"
        start = time.perf_counter()
        packets, reply = [], self.say(login)
        while reply[0] != 0xFF:
            packets.append((reply[0], len(reply)))
            # A switch of the method, or the demand for the password itself.
            reply = self.say(answer if reply[0] == 0xFE else b"guess\0")
        seconds = time.perf_counter() - start
        packets.append((reply[0], len(reply)))
        return Guess(packets, reply.decode(errors="replace").replace(name, "X"), seconds)


def compare(
    portside: Instance, method: str, tls: ssl.SSLContext | None, answer: bytes, rounds: int
) -> tuple[float, float]:
    """Medians in ms, of known names and of unknown ones, in turn; all else must be equal."""
    where, times, seen = address(portside), ([], []), set()
    for number in range(rounds):
        # Ten failures from one address: nobody is limited.
        source = f"127.0.3.{number // 10 + 10}"
        for kind, name in enumerate((KNOWN[number % 4], f"guess-{secrets.token_hex(1)}"[:7])):
            with Guesser(where, source, tls) as client:
                found = client.guess(name, method, answer)
            times[kind].append(found.seconds * 1000)
            seen.add((tuple(found.packets), found.text.replace(source, "S")))
    assert len(seen) == 1, seen
    ((_, text),) = seen
    assert "Access denied for user 'X'@'S' (using password: YES)" in text
    known, unknown = (statistics.median(one) for one in times)
    print(f"{method}: known {known:.3f} ms, unknown {unknown:.3f} ms")
    return known, unknown


def guarded(trio: Trio, tls_dir: Path, **secret: str) -> str:
    users = "".join(user(name, **secret) for name in KNOWN)
    # One worker: a slow hash waits for its turn there, so that the other's would be another time.
    text = config(trio.primary, service=tls_table(tls_dir), users=users, workers=1)
    # The standing account of the tests has a password; all of them shall be alike.
    head, _, rest = text.partition('[[user]]\nname = "app"\npassword = "app-pw"\n')
    return head + rest


@pytest.mark.parametrize("method", list(METHODS))
def test_a_known_password(trio: Trio, tls_dir: Path, run_portside: Run, method: str) -> None:
    hidden, answer = METHODS[method]
    portside = run_portside(guarded(trio, tls_dir, password="known-pw", server_user="app"))
    tls = context(tls_dir) if hidden else None
    known, unknown = compare(portside, method, tls, answer, 150)
    # A slow hash for one of the two is at least a millisecond; the noise of a busy machine less.
    assert abs(known - unknown) < 0.4


def test_a_slow_hash(trio: Trio, tls_dir: Path, run_portside: Run) -> None:
    portside = run_portside(guarded(trio, tls_dir, password_hash=SLOW_HASH))
    method = "caching_sha2_password"
    known, unknown = compare(portside, method, context(tls_dir), METHODS[method][1], 12)
    # Both take their turn, 50 ms after the last one, and the hash.
    assert known > 20 and unknown > 20 and abs(known - unknown) < 15
