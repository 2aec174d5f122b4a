"""An instance with a double for its engine: changes, verbs, reloads, names; no sockets, no servers.

Servers have ``check = false``, so that they are up at once and nothing is connected to.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from portside.config.load import loads
from portside.config.model import Config
from portside.control import verbs
from portside.control.host import Host, Setup
from portside.control.refusal import Refusal
from portside.control.state import AdminState
from portside.errors import PortsideError

from tests.support.engine_double import EngineDouble, EngineError, session

TEXT = """
[portside]
workers = 1
[[server]]
name = "db1"
address = "10.0.0.11:3306"
check = false
[[server]]
name = "db2"
address = "db2.example:3306"
check = false
[[service]]
name = "read"
listen = "127.0.0.1:13307"
servers = [{ name = "db1", weight = 1 }, { name = "db2", weight = 10 }]
"""


class Stage:
    """A host on a double, with a name server of its own."""

    def __init__(self, text: str = TEXT) -> None:
        self.names: dict[str, tuple[str, ...]] = {"db2.example": ("10.0.0.12", "10.0.0.13")}
        self.engines: list[EngineDouble] = []
        self.file = text
        self.host = Host(
            Setup(loads(text), self.load, "portside.toml"),
            factory=self.make,
            lookup=self.lookup,
        )

    @property
    def engine(self) -> EngineDouble:
        return self.engines[-1]

    def load(self) -> Config:
        return loads(self.file, "portside.toml")

    def make(self, snapshot: str) -> EngineDouble:
        self.engines.append(EngineDouble(snapshot))
        return self.engines[-1]

    def lookup(self, name: str) -> tuple[str, ...]:
        if name not in self.names:
            raise OSError(-2, "Name or service not known")
        return self.names[name]

    def destinations(self, server: str) -> list[str]:
        return next(
            s["destinations"] for s in self.engine.snapshot["servers"] if s["name"] == server
        )


def play(scene: Callable[[Stage], Awaitable[Any]], text: str = TEXT) -> Any:
    """Runs ``scene`` on a started stage and ends it."""

    async def whole() -> Any:
        stage = Stage(text)
        await stage.host.start()
        try:
            return await scene(stage)
        finally:
            await stage.host.stop(0.0)

    return asyncio.run(whole())


def test_starts_with_every_server_in_use_and_names_resolved():
    async def scene(stage: Stage) -> None:
        assert stage.engine.calls == ["start"]
        assert stage.engine.member("read", "db1")["eligible"]
        assert stage.engine.member("read", "db2")["weight"] == 1000
        assert stage.destinations("db2") == ["10.0.0.12:3306", "10.0.0.13:3306"]
        assert stage.host.instance.is_ready()

    play(scene)


def test_a_name_that_does_not_resolve_refuses_the_start():
    async def scene() -> None:
        stage = Stage(TEXT.replace("db2.example", "typo.example"))
        with pytest.raises(
            PortsideError, match=r"server db2: the name typo.example does not resol"
        ):
            await stage.host.start()
        assert stage.engines == []

    asyncio.run(scene())


def test_an_address_in_use_is_told_with_what_the_system_says():
    def refuse(snapshot: str) -> EngineDouble:
        raise EngineError("cannot bind", 99, "10.9.9.9:3306")

    async def scene() -> None:
        stage = Stage()
        stage.host.instance._factory = refuse
        with pytest.raises(PortsideError, match=r"no interface of this host has that address"):
            await stage.host.start()

    asyncio.run(scene())


def test_drain_maint_ready():
    async def scene(stage: Stage) -> None:
        instance = stage.host.instance
        stage.engine.running = [session(1, "read", "db2"), session(2, "read", "db1")]
        text = await verbs.set_server(instance, "db2", AdminState.DRAIN)
        assert text == "server db2 is now in drain: no new sessions, 1 session may go on."
        assert not stage.engine.member("read", "db2")["eligible"]
        assert stage.engine.closed == []
        text = await verbs.set_server(instance, "db2", AdminState.MAINT)
        assert text == (
            "server db2 is now in maint: no new sessions, 1 session will end between two commands."
        )
        assert stage.engine.closed == [
            {"session": None, "server": "db2", "service": None, "at_boundary": True}
        ]
        await verbs.set_server(instance, "db2", AdminState.READY)
        assert stage.engine.member("read", "db2")["eligible"]

    play(scene)


def test_draining_the_last_server_warns():
    async def scene(stage: Stage) -> None:
        instance = stage.host.instance
        await verbs.set_server(instance, "db1", AdminState.DRAIN)
        text = await verbs.set_server(instance, "db2", AdminState.DRAIN)
        assert text.endswith("No server is left for: read.")
        assert instance.healthz() == (True, "ok")
        assert instance.healthz("read") == (False, "no server")
        assert not instance.is_ready()

    play(scene)


def test_wrong_names_get_the_nearest():
    async def scene(stage: Stage) -> None:
        instance = stage.host.instance
        with pytest.raises(Refusal) as server:
            await verbs.set_server(instance, "dv2", AdminState.DRAIN)
        assert str(server.value) == "there is no server 'dv2'. Did you mean 'db2'?"
        with pytest.raises(Refusal, match=r"there is no service 'write'. There is: read."):
            await verbs.set_pause(instance, "write", True)
        with pytest.raises(Refusal, match=r"there is no server in service read 'x'"):
            await verbs.set_weight(instance, "read", "x", 1)
        with pytest.raises(Refusal, match=r"a weight is a number from 0 to 256"):
            await verbs.set_weight(instance, "read", "db1", 257)
        with pytest.raises(Refusal, match=r"there is no session 9"):
            await verbs.kill(instance, 9)
        with pytest.raises(Refusal) as client:
            await verbs.kill(instance, 1 << 30)
        assert client.value.hint.startswith("Nor is it a CONNECTION_ID of now: portside show ")
        with pytest.raises(Refusal, match=r"service read has no backup"):
            await verbs.switch(instance, "read", "db2")

    play(scene)


def test_kill_takes_both_ids():
    async def scene(stage: Stage) -> None:
        instance, both = stage.host.instance, (1 << 30) + 5
        relayed, pooled = session(both, "read", "db1"), session(7, "read", "db1")
        pooled["connection_id"] = both + 1
        stage.engine.running += [relayed, pooled]
        text = await verbs.kill(instance, both + 1)
        assert text == f"session 7, whose client has the CONNECTION_ID {both + 1}, is being closed."
        assert stage.engine.closed[-1]["session"] == 7
        assert await verbs.kill(instance, both) == f"session {both} is being closed."
        pooled["connection_id"] = both
        with pytest.raises(Refusal) as unclear:
            await verbs.kill(instance, both)
        assert unclear.value.status == 409
        assert str(unclear.value) == (
            f"session {both} is one, and the client of session 7 has this CONNECTION_ID."
            " For the latter: portside kill 7; for the former its own CONNECTION_ID."
        )

    play(scene)


def test_weights_and_pauses_survive_a_reload_and_are_shown():
    async def scene(stage: Stage) -> None:
        instance = stage.host.instance
        await verbs.set_weight(instance, "read", "db2", 3)
        text = await verbs.set_pause(instance, "read", True)
        assert text == "service read is paused: up to 1000 new clients wait, at most 5 s each."
        stage.file = TEXT.replace("weight = 10", "weight = 20")
        view = await stage.host.reload()
        assert view.ok and view.changes == ("service read: servers changed",)
        assert stage.engine.member("read", "db2")["weight"] == 300
        assert stage.engine.snapshot["services"][0]["paused"]
        status = stage.host.status()
        assert status.overrides == (
            "service read, server db2: weight 3 (file: 20)",
            "service read: paused",
        )
        (service,) = status.services
        assert (service.state, service.members[1].weight, service.members[1].file_weight) == (
            "paused",
            3,
            20,
        )
        await verbs.set_weight(instance, "read", "db2", None)
        assert stage.engine.member("read", "db2")["weight"] == 2000

    play(scene)


def test_a_reload_that_changes_nothing_applies_nothing():
    async def scene(stage: Stage) -> None:
        before = len(stage.engine.snapshots)
        view = await stage.host.reload()
        assert view.ok and view.message == "The file says what is already in force."
        assert len(stage.engine.snapshots) == before

    play(scene)


def test_a_reload_to_a_log_that_cannot_be_opened_is_refused(tmp_path):
    async def scene(stage: Stage) -> None:
        # /proc takes no new files, also not from root.
        stage.file = TEXT + '[log]\nfile = "/proc/sessions.log"\n'
        view = await stage.host.reload()
        assert view.mistakes == ("[log] file /proc/sessions.log: No such file or directory.",)
        stage.file = TEXT + f'[log]\nfile = "{tmp_path}/sessions.log"\n'
        assert (await stage.host.reload()).changes == ("[log]: file changed",)

    play(scene)


def test_generations_grow():
    async def scene(stage: Stage) -> None:
        for weight in (1, 2, 3):
            await verbs.set_weight(stage.host.instance, "read", "db1", weight)
        generations = [one["generation"] for one in stage.engine.snapshots]
        assert generations == sorted(set(generations))

    play(scene)


@pytest.mark.parametrize(
    ("new", "mistake"),
    [
        (TEXT.replace("weight = 10", "weigth = 10"), "unknown key"),
        (TEXT.replace("workers = 1", "workers = 2"), "[portside] workers cannot change on reload"),
        (TEXT.replace("db2.example", "typo.example"), "the name typo.example does not resolve"),
        (TEXT.replace("workers = 1", "workers = 1\nmax_sessions = 9999999"), "does not fit"),
    ],
)
def test_a_bad_file_is_refused_and_the_old_one_stays(new, mistake):
    async def scene(stage: Stage) -> None:
        before, config = len(stage.engine.snapshots), stage.host.instance.config
        stage.file = new
        view = await stage.host.reload()
        assert not view.ok
        assert mistake in "\n".join(view.mistakes)
        assert len(stage.engine.snapshots) == before
        assert stage.host.instance.config is config
        assert any("last reload was refused" in alert for alert in stage.host.status().alerts)
        stage.file = TEXT
        assert (await stage.host.reload()).ok
        assert not stage.host.status().alerts

    play(scene)


def test_a_reload_repeats_what_is_doubtful(caplog):
    async def scene(stage: Stage) -> None:
        unused = '[[server]]\nname = "db3"\naddress = "10.0.0.13:3306"\ncheck = false\n'
        stage.file = TEXT.replace("[[service]]", f"{unused}[[service]]")
        (doubt,) = (await stage.host.reload(dry_run=True)).warnings
        assert "db3" in doubt and doubt not in caplog.messages
        view = await stage.host.reload()
        assert (view.ok, view.warnings) == (True, (doubt,))
        assert doubt in caplog.messages
        (event,) = [one for one in stage.host.instance.events() if one.kind == "reload"]
        assert event.message == "Reloaded: 1 thing changed; server db3: added"

    play(scene)


def test_an_engine_that_refuses_leaves_everything_as_it_was():
    async def scene(stage: Stage) -> None:
        stage.engine.refuse = EngineError("cannot listen", 13, "127.0.0.1:80")
        stage.file = TEXT.replace('"127.0.0.1:13307"', '"127.0.0.1:80"')
        view = await stage.host.reload()
        assert view.mistakes == (
            "cannot listen on 127.0.0.1:80: a port below 1024 needs CAP_NET_BIND_SERVICE "
            "(systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE).",
        )
        assert stage.host.instance.services()[0].listen == ("127.0.0.1:13307",)

    play(scene)


def test_a_dry_run_tells_and_changes_nothing():
    async def scene(stage: Stage) -> None:
        before = len(stage.engine.snapshots)
        stage.file = TEXT.replace("10.0.0.11", "10.0.0.99")
        view = await stage.host.reload(dry_run=True)
        assert view.message == "Dry run: 1 thing would change."
        assert view.changes == ("server db1: address changed",)
        assert len(stage.engine.snapshots) == before
        assert stage.host.reloader.last is None

    play(scene)


def test_a_failed_look_up_keeps_the_addresses_and_a_new_answer_is_taken():
    async def scene(stage: Stage) -> None:
        instance = stage.host.instance

        async def events() -> list[str]:
            last = instance.events()[-1].id if instance.events() else 0
            await instance._resolve_again()
            return [f"{event.kind}: {event.message}" for event in instance.events(last)]

        stage.names.clear()
        (told,) = await events()
        assert told.startswith("resolve_failed: ") and "10.0.0.12, 10.0.0.13 is kept" in told
        assert stage.destinations("db2") == ["10.0.0.12:3306", "10.0.0.13:3306"]
        assert await events() == []
        stage.names = {"db2.example": ("10.0.0.44",)}
        (told,) = await events()
        assert told.startswith("resolved: ")
        assert stage.destinations("db2") == ["10.0.0.44:3306"]

    play(scene)


def test_a_look_up_that_a_reload_overtakes_undoes_nothing():
    """Old hosts stay away, new ones keep their destinations, and what is removed is forgotten."""
    moved = TEXT.replace("db2.example", "new.example")
    third = '[[server]]\nname = "db3"\naddress = "db3.example:3306"\ncheck = false\n[[service]]'

    async def scene(stage: Stage) -> None:
        instance, asked, go_on = stage.host.instance, threading.Event(), threading.Event()
        stage.names |= {"new.example": ("10.0.0.21",), "db3.example": ("10.0.0.31",)}
        answers = {"db2.example": ("10.0.0.66",)}

        def slow(name: str) -> tuple[str, ...]:
            asked.set()
            assert go_on.wait(10)
            return answers[name]

        instance._names._lookup = slow
        refresh = asyncio.create_task(instance._resolve_again())
        assert await asyncio.to_thread(asked.wait, 10)
        instance._names._lookup = stage.lookup
        stage.file = moved.replace("[[service]]", third)
        assert (await stage.host.reload()).ok
        go_on.set()
        await refresh
        assert stage.destinations("db2") == ["10.0.0.21:3306"]
        assert stage.destinations("db3") == ["10.0.0.31:3306"]
        assert set(instance._names._known) == {"new.example", "db3.example"}
        stage.names["db2.example"] = ("10.0.0.77",)
        stage.file = TEXT
        assert (await stage.host.reload()).ok
        assert stage.destinations("db2") == ["10.0.0.77:3306"], "an old answer was kept"

    play(scene)


def test_a_reload_takes_what_a_look_up_brought_meanwhile():
    async def scene(stage: Stage) -> None:
        instance = stage.host.instance
        config = instance.fitted(loads(TEXT.replace("weight = 10", "weight = 20")))
        await instance.resolve_new(config)
        stage.names["db2.example"] = ("10.0.0.44",)
        await instance._resolve_again()
        await instance.take_config(config)
        assert stage.destinations("db2") == ["10.0.0.44:3306"]

    play(scene)


def test_names_of_a_refused_file_are_forgotten():
    async def scene(stage: Stage) -> None:
        stage.names["new.example"] = ("10.0.0.21",)
        stage.file = TEXT.replace("db2.example", "new.example")
        assert (await stage.host.reload(dry_run=True)).ok
        assert set(stage.host.instance._names._known) == {"db2.example"}

    play(scene)


def test_engine_events_are_kept_and_repeats_counted():
    async def scene(stage: Stage) -> None:
        announcer = stage.host.instance._announcer
        base = {"kind": "connect_failed", "service": "", "server": "db1", "message": "refused"}
        for moment in (100.0, 100.1, 100.2, 111.0):
            announcer.engine({**base, "time": moment})
        texts = [e.message for e in stage.host.instance.events() if e.kind == "connect_failed"]
        assert texts == ["refused", "refused (2 more since the last message of this kind)"]

    play(scene)


def test_the_engines_events_reach_the_ring():
    async def scene(stage: Stage) -> None:
        event = {"time": 1.0, "kind": "queue_full", "service": "read", "server": "", "message": "m"}
        stage.engine.pending.append(event)
        async for told in stage.host.instance.ring.follow():
            assert (told.kind, told.service) == ("queue_full", "read")
            break

    play(scene)


def test_removed_servers_have_their_drain_time():
    async def scene(stage: Stage) -> None:
        stage.engine.running = [session(1, "read", "db2")]
        stage.file = TEXT.replace(', { name = "db2", weight = 10 }', "").replace(
            '[[server]]\nname = "db2"\naddress = "db2.example:3306"\ncheck = false\n', ""
        )
        assert (await stage.host.reload()).ok
        instance = stage.host.instance
        assert list(instance._cuts) == [("server", "db2")]
        assert stage.engine.closed == []
        instance._cut("server", "db2")
        assert stage.engine.closed[0]["server"] == "db2"
        stage.file = TEXT
        assert (await stage.host.reload()).ok
        assert instance._cuts == {}

    play(scene)


def test_drain_waits_for_sessions_and_a_second_signal_ends_the_wait():
    async def scene(stage: Stage) -> None:
        instance, enough = stage.host.instance, asyncio.Event()
        stage.engine.running = [session(1, "read", "db1")]
        waiting = asyncio.create_task(instance.drain(None, enough))
        await asyncio.sleep(0)
        assert instance.healthz() == (False, "draining")
        enough.set()
        assert await waiting == 1
        stage.engine.running = []
        assert await instance.drain(None) == 0

    play(scene)


def test_the_status_is_json():
    async def scene(stage: Stage) -> None:
        from portside.admin.views import as_json

        text = json.dumps(as_json(stage.host.status()))
        assert json.loads(text)["servers"][0]["state"] == "unchecked"

    play(scene)


@pytest.mark.parametrize("exponent", [63, 100, 20_000])
def test_a_number_that_no_session_has_is_refused(exponent):
    async def scene(stage: Stage) -> None:
        with pytest.raises(Refusal, match=r"no session with such"):
            await verbs.kill(stage.host.instance, 2**exponent)
        assert stage.engine.closed == []

    play(scene)
