"""A thousand checks leave no trace on the server: nothing aborted, no host error counted.

From an address that the server resolves (skip_name_resolve=OFF): only such addresses are in its
host cache, and only those are blocked after max_connect_errors. The greeting-only check is the
control: it is counted, and blocks its address.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from portside.health.judge import CheckResult, Status
from portside.health.probe import Prober
from portside.health.target import CheckType, Target

from tests.support.servers import MONITOR_PASSWORD, MONITOR_USER, MariaDB
from tests.support.waiting import wait_until

ADDRESS = "127.0.0.19"
NAME = "probe.portside.test"
HOSTS = Path("/etc/hosts")
CHECKS = 1_000


@pytest.fixture
def resolvable_address() -> Iterator[str]:
    """127.0.0.19 resolves to a name and back while the test runs."""
    if os.geteuid() != 0:
        pytest.skip("needs root: writes an entry into /etc/hosts")
    before = HOSTS.read_text()
    # Written in place, not replaced: in a container the file is a mount.
    HOSTS.write_text(f"{before.rstrip()}\n{ADDRESS} {NAME}\n")
    yield ADDRESS
    HOSTS.write_text(HOSTS.read_text().replace(f"{ADDRESS} {NAME}\n", ""))


@pytest.fixture
def resolving_server(mariadb_factory, resolvable_address) -> MariaDB:
    return mariadb_factory(
        options={
            "skip-name-resolve": None,
            "performance-schema": "ON",
            "max-connect-errors": "100",
        }
    )


def run_checks(server: MariaDB, kind: CheckType, count: int) -> list[CheckResult]:
    target = Target(
        "db1",
        (f"{server.address}:{server.port}",),
        sources=(ADDRESS,),
        type=kind,
        user=MONITOR_USER,
        password=MONITOR_PASSWORD,
    )

    async def run() -> list[CheckResult]:
        prober = Prober()
        results = []
        for _ in range(count // 10):
            results += await asyncio.gather(*(prober.check(target) for _ in range(10)))
        await prober.close()
        return results

    return asyncio.run(run())


def host_errors(server: MariaDB) -> int:
    """Errors that count towards max_connect_errors, for our address."""
    rows = server.root(
        "SELECT SUM_CONNECT_ERRORS + COUNT_HANDSHAKE_ERRORS "
        f"FROM performance_schema.host_cache WHERE ip = '{ADDRESS}'"
    )
    return sum(int(row[0]) for row in rows)


def time_waits(port: int) -> int:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    ours = f":{port:04X}"
    return sum(row[3] == "06" and ours in (row[1][-5:], row[2][-5:]) for row in rows)


def test_default_checks_are_invisible(resolving_server):
    server = resolving_server
    # Starved of processor for longer than the kernel delays an ACK (200 ms), a check may be seen. A
    # thousand in a row without that happen within three tries, and never if checks are wrong.
    for _ in range(3):
        connections, aborted = server.status("Connections"), server.status("Aborted_connects")
        results = run_checks(server, "tcp", CHECKS)
        assert {one.status for one in results} == {Status.L4OK}
        seen = server.status("Aborted_connects") - aborted
        if seen == 0:
            break
    assert seen == 0
    # status() connects for each counter: one in between and the one that answers.
    assert server.status("Connections") - connections <= 3
    assert host_errors(server) == 0
    assert time_waits(server.port) == 0
    assert run_checks(server, "login", 10)[-1].status is Status.L7OK


def test_login_checks_are_clean(resolving_server):
    server = resolving_server
    aborted = server.status("Aborted_connects"), server.status("Aborted_clients")
    results = run_checks(server, "login", CHECKS)
    assert {one.status for one in results} == {Status.L7OK}
    wait_until(lambda: server.status("Threads_connected") == 1, 5, "check connections ended")
    assert (server.status("Aborted_connects"), server.status("Aborted_clients")) == aborted
    assert host_errors(server) == 0
    assert time_waits(server.port) == 0


def test_greeting_checks_are_counted_and_block_us(resolving_server):
    """The control: what the two tests above would see if the checks were not clean."""
    server = resolving_server
    aborted = server.status("Aborted_connects")
    run_checks(server, "mysql", 20)
    wait_until(lambda: server.status("Aborted_connects") - aborted == 20, 5, "20 aborted")
    assert host_errors(server) > 0
    run_checks(server, "mysql", 120)
    (blocked,) = run_checks(server, "login", 10)[-1].blocked
    assert (blocked.source, blocked.errno) == (ADDRESS, 1129)
    server.root("FLUSH HOSTS")
    assert run_checks(server, "login", 10)[-1].status is Status.L7OK
