"""2,000 clients at once on 20 connections, as PHP's come and go; some vanish, some are killed."""

from __future__ import annotations

import asyncio
import collections
import os
import random
import struct
from collections.abc import Callable

import pytest

from tests.conftest import Trio
from tests.integration.test_pool import Client, config, connections
from tests.integration.test_pool_tls import address, resident_kib
from tests.support.flag_client import BASE, put_lenenc, scramble
from tests.support.instance import Instance
from tests.support.raw_client import QUIT, packet, query
from tests.support.servers import APP_PASSWORD, APP_USER
from tests.support.waiting import wait_until

# Seconds on a machine of its own; CI shares its two cores.
pytestmark = pytest.mark.timeout(180)

Run = Callable[..., Instance]

CLIENTS = 2000
# 10 by hand.
SECONDS = float(os.environ.get("PORTSIDE_CROWD_SECONDS", "5"))
INTERRUPTED = 1317
LARGE = "SELECT REPEAT('x', 100000) FROM app.crowd_rows"


class Visitor:
    """One visit: login, queries that only it can expect the answers of, and a way to leave."""

    def __init__(self, where: tuple[str, int], name: str) -> None:
        self.where, self.name = where, name

    async def packet(self) -> bytes:
        header = await self.reader.readexactly(4)
        return await self.reader.readexactly(int.from_bytes(header[:3], "little"))

    async def enter(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(*self.where)
        greeting = await self.packet()
        rest = greeting[greeting.index(0, 1) + 1 :]
        self.thread_id = int.from_bytes(rest[:4], "little")
        answer = scramble(b"mysql_native_password", APP_PASSWORD.encode(), rest[4:12] + rest[31:43])
        login = struct.pack("<IIB23x", BASE, 1 << 24, 45) + APP_USER.encode() + b"\0"
        self.writer.write(packet(1, login + put_lenenc(answer) + b"mysql_native_password\0"))
        reply = await self.packet()
        assert reply[0] == 0, reply

    async def ask(self, text: str) -> list[bytes] | int:
        """Rows of one column, without their lengths; or the number of an error."""
        self.writer.write(query(text))
        first = await self.packet()
        if first[0] == 0xFF:
            return int.from_bytes(first[1:3], "little")
        assert first == b"\x01", first
        await self.packet()
        await self.packet()
        rows = []
        while (row := await self.packet())[0] != 0xFE or len(row) >= 9:
            if row[0] == 0xFF:
                return int.from_bytes(row[1:3], "little")
            rows.append(row[1:] if row[0] < 251 else row[3:])
        return rows

    async def work(self, rng: random.Random) -> None:
        for number in range(rng.randrange(1, 4)):
            wanted = f"{self.name}-{number}".encode()
            size = rng.choice((1, 1, 20))
            found = await self.ask(f"SELECT REPEAT('{wanted.decode()}', {size})")
            assert found == [wanted * size], (wanted, found)

    def leave(self) -> None:
        self.writer.write(QUIT)
        self.writer.close()

    def vanish(self) -> None:
        self.writer.transport.abort()


async def amid_a_result(one: Visitor) -> None:
    one.writer.write(query(LARGE))
    await one.reader.readexactly(200_000)
    one.vanish()


async def amid_a_query(one: Visitor) -> None:
    one.writer.write(query("SELECT SLEEP(20)"))
    await one.writer.drain()
    await asyncio.sleep(0.01)
    one.vanish()


async def killed(one: Visitor) -> None:
    """By another of its kind, who may come too late."""
    slow = f"SELECT '{one.name}' FROM (SELECT 1) AS d WHERE SLEEP(0.5) = 0"
    asked = asyncio.ensure_future(one.ask(slow))
    await asyncio.sleep(0.02)
    other = Visitor(one.where, f"{one.name}k")
    await other.enter()
    other.writer.write(query(f"KILL QUERY {one.thread_id}"))
    assert (await other.packet())[0] == 0
    other.leave()
    found = await asked
    assert found in (INTERRUPTED, [one.name.encode()]), found
    await one.work(random.Random(0))
    one.leave()


ENDS = {"result": amid_a_result, "query": amid_a_query, "killed": killed}


async def come_and_go(
    where: tuple[str, int], name: str, until: float, counts: collections.Counter[str]
) -> None:
    rng, number = random.Random(name), 0
    while asyncio.get_running_loop().time() < until:
        number += 1
        one = Visitor(where, f"{name}v{number}")
        await one.enter()
        await one.work(rng)
        kind = rng.choices(("leave", *ENDS), (97, 1, 1, 1))[0]
        if kind == "leave":
            one.leave()
        else:
            await ENDS[kind](one)
        counts[kind] += 1


async def crowd(where: tuple[str, int]) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    until = asyncio.get_running_loop().time() + SECONDS
    names = (f"c{number}" for number in range(CLIENTS))
    await asyncio.gather(*(come_and_go(where, name, until, counts) for name in names))
    return counts


def test_2000_clients_on_20_connections(trio: Trio, run_portside: Run) -> None:
    server = trio.primary
    server.root("DROP TABLE IF EXISTS app.crowd_rows")
    server.root("CREATE TABLE app.crowd_rows AS SELECT seq FROM mysql.seq_1_to_20")
    text = config(server, pool="max = 20\nopen_rate = 1000", service="queue = 4000", workers=2)
    text = '[source]\nports = "12000-12999"\n[timeouts]\nqueue = "60s"\nlogin = "60s"\n' + text
    portside = run_portside(text)
    first = Client(portside)
    assert first.ask("SELECT 1") == [(1,)]
    first.connection.close()
    files, memory = portside.open_files(), resident_kib(portside)
    aborted = server.status("Aborted_clients")
    counts = asyncio.run(crowd(address(portside)))
    print(counts, portside.stats()["servers"][0]["pool_opened_total"])
    assert counts["leave"] > 1000 and min(counts[kind] for kind in ENDS) > 3
    # Nothing is left behind.
    wait_until(lambda: portside.sessions_now() == 0, 20.0, "sessions are left")
    wait_until(lambda: portside.stats()["servers"][0]["pool_busy"] == 0, 20.0, "all are lent")
    assert portside.service("s")["queued"] == 0

    def counts_agree() -> bool:
        """The server's, the pool's, the ledger's: those that KILLs were sent by may be going."""
        (pool,) = portside.stats()["servers"]
        leases = sum(row["in_use"] for row in portside.admin.get("/v1/ports"))
        counted = {len(connections(server)), pool["pool_connections"], leases}
        return len(counted) == 1 and counted.pop() <= 20

    wait_until(counts_agree, 20.0, "connections are left")
    assert portside.open_files() <= files + 20
    print(resident_kib(portside) - memory, "KiB more")
    assert resident_kib(portside) - memory < 32 * 1024
    assert portside.events("worker_died") == []
    assert server.status("Aborted_clients") == aborted
