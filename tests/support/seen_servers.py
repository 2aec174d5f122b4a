"""MySQL-speaking servers in one process that say from where they were asked, and can go away.

``python -m tests.support.seen_servers N`` listens on N ports; one more answers http with 200. For
each line on standard input (``report``, ``reset``, ``stop I``, ``start I``) it answers with a line.
Only sessions that asked a query are counted, so health checks of any balancer are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portside.demo.held_port import HeldPort

_PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"


class Session(asyncio.Protocol):
    """Greets (at once, or after a PROXY header), lets everybody in, answers with OK."""

    def __init__(self, server: Server, greeting: bytes, ok: bytes) -> None:
        self._server, self._greeting, self._ok = server, greeting, ok
        self._buffer = b""
        self._logged_in = self._asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer = transport.get_extra_info("peername")[0]
        self._server.open.add(transport)
        if not self._server.wants_header:
            transport.write(_packet(0, self._greeting))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._server.wants_header and self._buffer.startswith(_PROXY_V2):
            size = 16 + int.from_bytes(self._buffer[14:16], "big")
            if len(self._buffer) < size:
                return
            if self._buffer[12] & 0xF == 1 and self._buffer[13] >> 4 == 1:
                self._peer = ".".join(str(byte) for byte in self._buffer[16:20])
            self._buffer = self._buffer[size:]
            self._transport.write(_packet(0, self._greeting))
        while len(self._buffer) >= 4:
            size = 4 + int.from_bytes(self._buffer[:3], "little")
            if len(self._buffer) < size:
                return
            payload, self._buffer = self._buffer[4:size], self._buffer[size:]
            self._packet(payload)

    def _packet(self, payload: bytes) -> None:
        if not self._logged_in:
            self._logged_in = True
            self._transport.write(_packet(2, self._ok))
        elif payload[:1] == b"\x01":
            self._transport.close()
        else:
            if not self._asked:
                self._asked = True
                self._server.asked[self._peer] += 1
            self._transport.write(_packet(1, self._ok))

    def connection_lost(self, _: Exception | None) -> None:
        self._server.open.discard(self._transport)


@dataclass(eq=False)
class Server:
    """One port."""

    port: int
    asked: Counter[str]
    open: set[asyncio.Transport]
    wants_header: bool = False
    listener: asyncio.Server | None = None

    async def start(self, greeting: bytes, ok: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(
            lambda: Session(self, greeting, ok), "127.0.0.1", self.port, backlog=512
        )

    def stop(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        for transport in list(self.open):
            transport.abort()


def _packet(sequence: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence]) + payload


async def _answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
    writer.close()


async def _serve(count: int, greeting: bytes, ok: bytes) -> None:
    held = [HeldPort() for _ in range(count + 1)]
    servers = [Server(one.port, Counter(), set()) for one in held[:count]]
    for one in servers:
        await one.start(greeting, ok)
    await asyncio.start_server(_answer_http, "127.0.0.1", held[count].port)
    print(json.dumps([one.port for one in held]), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, *numbers = line.split()
        if word == "reset":
            for one in servers:
                one.asked.clear()
        elif word == "header":
            for one in servers:
                one.wants_header = numbers == ["1"]
        elif word == "stop":
            servers[int(numbers[0])].stop()
        elif word == "start":
            await servers[int(numbers[0])].start(greeting, ok)
        print(json.dumps([dict(one.asked) for one in servers]), flush=True)


class SeenServers:
    """The parent's end.

    Attributes:
        ports: of the servers, in order.
        http_port: where http is answered with 200.
    """

    def __init__(self, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.seen_servers", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        *self.ports, self.http_port = json.loads(self._process.stdout.readline())

    def tell(self, word: str) -> list[dict[str, int]]:
        """Does what the word says and returns sessions by peer address, for each server."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        found: Any = json.loads(self._process.stdout.readline())
        return list(found)

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextlib.contextmanager
def seen_servers(count: int) -> Iterator[SeenServers]:
    one = SeenServers(count)
    try:
        yield one
    finally:
        one.end()


if __name__ == "__main__":
    from tests.support.chaos import GREETING, OK

    asyncio.run(_serve(int(sys.argv[1]), GREETING, OK))
