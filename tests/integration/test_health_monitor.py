"""The monitor's loop on real servers: verdicts in time, reloads, hints, a held interpreter."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from portside.config.model import Config, resolve
from portside.health.eligibility import ServiceDecision, decide
from portside.health.judge import HealthEvent
from portside.health.monitor import HealthMonitor, ServerHealth
from portside.health.requirement import service_rules

from tests.support.chaos import Behaviour, ChaosServer
from tests.support.servers import MONITOR_PASSWORD, MONITOR_USER, Database

LOGIN = {"user": MONITOR_USER, "password": MONITOR_PASSWORD}
QUICK = {"interval": "50ms", "fast_interval": "20ms", "timeout": "500ms"}


def config_of(servers: Mapping[str, str], services: list[dict] | None = None, **check) -> Config:
    """A configuration of servers by name; ``check`` goes over QUICK."""
    tables = [{"name": name, "address": address} for name, address in servers.items()]
    data = {"server": tables, "service": services or [], "check": {**QUICK, **check}}
    return resolve(Config.model_validate(data))


def address_of(server: Database) -> str:
    return f"{server.address}:{server.port}"


class Seen:
    """What a monitor told."""

    def __init__(self) -> None:
        self.events: list[HealthEvent] = []
        self.changes: list[Mapping[str, ServerHealth]] = []

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@asynccontextmanager
async def watching(config: Config) -> AsyncIterator[tuple[HealthMonitor, Seen]]:
    seen = Seen()
    monitor = HealthMonitor(
        config, seen.changes.append, on_event=seen.events.append, rng=random.Random(1)
    )
    task = asyncio.create_task(monitor.run())
    try:
        yield monitor, seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    deadline = monotonic() + timeout_s
    while not condition():
        assert monotonic() < deadline, f"after {timeout_s} s still not"
        await asyncio.sleep(0.01)


def status(monitor: HealthMonitor, name: str = "db1") -> str:
    health = monitor.snapshot().get(name)
    return health.status if health else ""


def test_servers_go_down_and_come_back(chaos: ChaosServer):
    async def run() -> None:
        config = config_of({"db1": chaos.address}, fall=2, rise=2)
        async with watching(config) as (monitor, seen):
            await until(lambda: status(monitor) == "up")
            assert monitor.snapshot()["db1"].up_since is None
            chaos.behave(Behaviour.REFUSE)
            await until(lambda: status(monitor) == "down")
            assert monitor.snapshot()["db1"].code == "L4CON"
            chaos.behave(Behaviour.SILENT)  # a tcp check asks for no greeting
            await until(lambda: status(monitor) == "up")
            assert monitor.snapshot()["db1"].up_since is not None
            assert seen.kinds == ["server_up", "server_down", "server_up"]
            told = len(seen.changes)
            checks = monitor.snapshot()["db1"].checks
            await until(lambda: monitor.snapshot()["db1"].checks > checks + 3)
            assert len(seen.changes) == told, "a check that says nothing new was told"

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    chaos.close_connections()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_first_result_comes_at_once(trio):
    async def run() -> None:
        config = config_of(
            {"db1": address_of(trio.primary), "db2": address_of(trio.replica1)},
            **LOGIN,
            interval="1h",
            timeout="2s",
        )
        started = monotonic()
        async with watching(config) as (monitor, _):
            await until(lambda: {status(monitor, "db1"), status(monitor, "db2")} == {"up"})
            assert monotonic() - started < 2
            primary, replica = monitor.snapshot()["db1"], monitor.snapshot()["db2"]
            assert (primary.writable, primary.replicating) == (True, None)
            assert (replica.writable, replica.replicating) == (False, True)
            assert replica.lag_s is not None
            checks = primary.checks
            assert (await monitor.check_now("db1")).checks == checks + 1

    asyncio.run(run())


def test_hint_brings_the_next_check_forward(chaos: ChaosServer):
    async def run() -> None:
        config = config_of({"db1": chaos.address}, interval="1h", fast_interval="100ms", fall=3)
        async with watching(config) as (monitor, _):
            await until(lambda: status(monitor) == "up")
            chaos.behave(Behaviour.REFUSE)
            threading.Thread(target=monitor.hint, args=("db1",)).start()
            monitor.hint("db9")  # a server that a reload has just removed
            await until(lambda: status(monitor) == "down", 3)

    asyncio.run(run())


def test_reload_keeps_what_is_known(chaos: ChaosServer, trio):
    async def run() -> None:
        primary = address_of(trio.primary)
        async with watching(config_of({"db1": primary, "old": chaos.address})) as (monitor, seen):
            await until(lambda: status(monitor, "db1") == status(monitor, "old") == "up")
            since = monitor.snapshot()["db1"].since
            changed = config_of({"db1": primary, "new": chaos.address}, **LOGIN)
            monitor.reload(changed)
            await until(lambda: status(monitor, "new") == "up" and "old" not in monitor.snapshot())
            await until(lambda: monitor.snapshot()["db1"].code == "L7OK")
            assert monitor.snapshot()["db1"].since == since
            unchecked = changed.model_copy(
                update={
                    "servers": tuple(
                        one.model_copy(update={"check": None}) for one in changed.servers
                    )
                }
            )
            monitor.reload(unchecked)
            await until(lambda: monitor.snapshot()["db1"].code == "NO_CHECK")
            assert status(monitor) == "up"
            monitor.reload(changed)
            await until(lambda: monitor.snapshot()["db1"].code == "L7OK")
            assert "server_down" not in seen.kinds

    asyncio.run(run())


def hold_interpreter(seconds: float) -> None:
    """Keeps every other Python thread from running: PyDLL does not release the interpreter."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


def test_interpreter_held_for_5_s_changes_no_verdict(trio):
    """Intervals of 50 ms and timeouts of 500 ms: every check is late, none may count as failed."""

    async def run() -> None:
        servers = {f"db{n}": address_of(trio.primary) for n in range(1, 9)}
        config = config_of(servers, **LOGIN, fall=1, timeout="500ms")
        async with watching(config) as (monitor, seen):
            await until(lambda: all(status(monitor, name) == "up" for name in servers))
            for _ in range(3):
                await asyncio.sleep(0.06)
                threading.Thread(target=hold_interpreter, args=(1.0,)).start()
                await asyncio.sleep(0.2)
            threading.Thread(target=hold_interpreter, args=(5.0,)).start()
            await asyncio.sleep(0.3)
            await until(lambda: all(monitor.snapshot()[name].latency_s for name in servers))
            assert "server_down" not in seen.kinds, seen.events
            assert all(status(monitor, name) == "up" for name in servers)

    asyncio.run(run())


def test_a_late_loop_does_not_hide_a_refusal(chaos: ChaosServer):
    """What the server itself says counts, however late we were."""

    async def run() -> None:
        async with watching(config_of({"db1": chaos.address}, fall=2)) as (monitor, _):
            await until(lambda: status(monitor) == "up")
            chaos.behave(Behaviour.REFUSE)
            for _ in range(6):
                hold_interpreter(0.3)
                await asyncio.sleep(0.05)
            await until(lambda: status(monitor) == "down", 2)

    asyncio.run(run())


def test_descriptors_used_up_change_no_verdict(trio):
    import resource

    async def run() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with watching(config_of({"db1": address_of(trio.primary)}, fall=1)) as (
            monitor,
            seen,
        ):
            await until(lambda: status(monitor) == "up")
            highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
            fillers = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
            try:
                while True:
                    try:
                        fillers.append(os.open("/dev/null", os.O_RDONLY))
                    except OSError:
                        break
                await until(lambda: "check_impossible" in seen.kinds)
                await asyncio.sleep(0.3)
                health = monitor.snapshot()["db1"]
                assert (health.status, health.code) == ("up", "SOCKERR")
                assert "EMFILE" in health.detail and "not the database" in health.detail
            finally:
                for fd in fillers:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            await until(lambda: monitor.snapshot()["db1"].code == "L4OK")
            assert "server_down" not in seen.kinds

    asyncio.run(run())


def test_two_hundred_servers_half_of_them_hung(trio):
    """Hung servers take no thread and do not delay the checks of the others."""

    async def run() -> None:
        with ChaosServer(Behaviour.SILENT) as hung:
            servers = {f"good{n}": address_of(trio.primary) for n in range(100)}
            servers |= {f"hung{n}": hung.address for n in range(100)}
            config = config_of(servers, **LOGIN, interval="2s", timeout="2s")
            async with watching(config) as (monitor, _):
                good = [name for name in servers if name.startswith("good")]
                started = monotonic()
                await until(lambda: all(status(monitor, name) == "up" for name in good), 10)
                assert monotonic() - started < 2, "the good ones waited for the hung ones"
                await until(lambda: status(monitor, "hung0") == "down", 10)
                assert monitor.snapshot()["hung0"].code == "L7TOUT"

    asyncio.run(run())


WRITE = {
    "name": "write",
    "listen": "127.0.0.1:1",
    "require": "writable",
    "servers": ["db1", {"name": "db2", "backup": True}],
}


class Decider:
    """Decides a service anew whenever the monitor tells something, as the supervisor does."""

    def __init__(self, config: Config) -> None:
        self.rules = service_rules(config.services[0])
        self.decision: ServiceDecision | None = None
        self.history: list[tuple[str, ...]] = []
        self.kinds: list[str] = []

    def __call__(self, snapshot: Mapping[str, ServerHealth]) -> None:
        views = {name: health.view for name, health in snapshot.items()}
        self.decision, events = decide(self.rules, views, self.decision)
        self.kinds += [event.kind for event in events]
        self.history.append(self.decision.eligible)

    @property
    def eligible(self) -> tuple[str, ...]:
        return self.decision.eligible if self.decision else ()


@pytest.mark.timeout(180)
def test_primary_flaps_20_times_and_the_replica_never_takes_writes(mariadb_factory):
    primary, replica = mariadb_factory(), mariadb_factory()
    replica.replica_of(primary)
    config = config_of(
        {"db1": address_of(primary), "db2": address_of(replica)}, [WRITE], **LOGIN, fall=1, rise=1
    )
    decider = Decider(config)

    async def run() -> None:
        monitor = HealthMonitor(config, decider)
        task = asyncio.create_task(monitor.run())
        try:
            for _ in range(20):
                await until(lambda: decider.eligible == ("db1",), 20)
                await asyncio.to_thread(primary.kill)
                await until(lambda: decider.eligible == (), 20)
                await asyncio.to_thread(primary.start)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert decider.history.count(("db1",)) >= 20
    assert {name for names in decider.history for name in names} == {"db1"}
    assert "failover" not in decider.kinds


def test_promoted_replica_takes_the_writes_and_the_old_primary_waits(mariadb_factory):
    primary, replica = mariadb_factory(), mariadb_factory()
    replica.replica_of(primary)
    config = config_of(
        {"db1": address_of(primary), "db2": address_of(replica)}, [WRITE], **LOGIN, fall=2
    )
    decider = Decider(config)

    async def run() -> None:
        monitor = HealthMonitor(config, decider)
        task = asyncio.create_task(monitor.run())
        try:
            await until(lambda: decider.eligible == ("db1",))
            primary.kill()
            await until(lambda: decider.eligible == ())
            await asyncio.to_thread(replica.promote)
            await until(lambda: decider.eligible == ("db2",))
            await asyncio.to_thread(primary.start)
            await until(lambda: "two_writers" in decider.kinds, 10)
            assert decider.eligible == ("db2",)
            replica.kill()
            await until(lambda: decider.eligible == ())
            assert decider.decision is not None
            assert "portside switch write db1" in decider.decision.member("db1").why
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
