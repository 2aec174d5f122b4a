"""A MySQL-speaking server in a process of its own that knows how many were there at the same time.

``python counting_server.py`` prints its port; for each line on standard input it prints its report.
It takes a connection out of its count before it closes, so that a proxy which waits for that close
can never be seen above its limit by accident.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ANSWER_S = 0.01


class Counter:
    """Times of every arrival and departure, in order."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.arrived: list[float] = []
        self.left: list[float] = []

    def arrive(self) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        self.arrived.append(time.monotonic())

    def leave(self) -> None:
        self.open -= 1
        self.left.append(time.monotonic())

    def report(self) -> dict[str, Any]:
        return {"most": self.most, "open": self.open, "arrived": self.arrived, "left": self.left}


class Session(asyncio.Protocol):
    """Greets, lets everybody in, answers every query with OK, closes first on QUIT."""

    def __init__(self, counter: Counter, greeting: bytes, ok: bytes) -> None:
        self._counter, self._greeting, self._ok = counter, greeting, ok
        self._logged_in = self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._counter.arrive()
        transport.write(_packet(0, self._greeting))

    def data_received(self, data: bytes) -> None:
        # Clients here wait for each answer, so that a read holds one packet.
        if not self._logged_in:
            self._logged_in = True
            self._transport.write(_packet(2, self._ok))
        elif data[4:5] == b"\x01":
            self._leave()
            self._transport.close()
        else:
            # The time that a query takes: without it the processors, not the slots, are the limit.
            loop = asyncio.get_running_loop()
            loop.call_later(ANSWER_S, self._transport.write, _packet(1, self._ok))

    def connection_lost(self, _: Exception | None) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            self._counter.leave()


def _packet(sequence: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence]) + payload


async def _serve(greeting: bytes, ok: bytes) -> None:
    counter = Counter()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Session(counter, greeting, ok), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(counter.report()), flush=True)


class CountingServer:
    """The parent's end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.counting_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self.address = f"127.0.0.1:{int(self._process.stdout.readline())}"

    def report(self) -> dict[str, Any]:
        """``most`` at a time, ``open`` now, times of ``arrived`` and ``left`` (s, in order)."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("report\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextlib.contextmanager
def counting_server() -> Iterator[CountingServer]:
    one = CountingServer()
    try:
        yield one
    finally:
        one.end()


if __name__ == "__main__":
    from tests.support.chaos import GREETING, OK

    asyncio.run(_serve(GREETING, OK))
