"""``portside.Balancer`` with a double for its engine: its thread, its calls from other threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import portside
import pytest

from tests.support.engine_double import EngineDouble, EngineError, session
from tests.unit.test_control_instance import TEXT

LITERAL = TEXT.replace("db2.example", "10.0.0.12")


@pytest.fixture
def engines():
    return []


@pytest.fixture
def make(engines):
    def factory(snapshot: str) -> EngineDouble:
        engines.append(EngineDouble(snapshot))
        return engines[-1]

    return lambda config=LITERAL: portside.Balancer(config, factory=factory)


def test_everything_the_package_exports_is_there():
    for name in portside.__all__:
        assert getattr(portside, name) is not None
    assert set(portside.__all__) <= set(dir(portside))
    with pytest.raises(AttributeError, match="has no attribute 'Balance'"):
        _ = portside.Balance


def test_a_whole_life(make, engines):
    with make() as balancer:
        balancer.wait_ready()
        engines[0].running = [session(1, "read", "db1")]
        assert balancer.address("read") == ("127.0.0.1", 13307)
        assert [server.name for server in balancer.servers()] == ["db1", "db2"]
        assert balancer.services()[0].sessions == 1
        assert balancer.sessions()[0].id == 1
        assert balancer.status().sessions == 1
        assert balancer.stats()["generation"] >= 1
        balancer.drain("db1")
        balancer.set_weight("read", "db2", 3)
        balancer.pause("read")
        assert [event.kind for event in balancer.events()] == [
            "admin_drain",
            "admin_weight",
            "admin_pause",
        ]
        assert "being closed" in balancer.kill(1)
    assert engines[0].calls == ["start", "stop"]


@pytest.mark.parametrize(
    ("log", "path"),
    [
        ("", "/dev/null"),
        ("[log]\nsessions = 'errors'\n", None),
        ("[log]\nfile = '/tmp/s.log'\n", "/tmp/s.log"),
    ],
)
def test_standard_output_is_the_programs(make, engines, log, path):
    with make(LITERAL + log):
        assert engines[0].snapshot["log"]["path"] == path


def test_after_the_end_every_call_says_so(make):
    balancer = make()
    with pytest.raises(portside.PortsideError, match="does not run"):
        balancer.servers()
    with balancer:
        pass
    balancer.stop()
    with pytest.raises(portside.PortsideError, match="does not run"):
        balancer.servers()
    with pytest.raises(portside.PortsideError, match="make another one"):
        balancer.start()
    assert not any(thread.name == "portside-control" for thread in threading.enumerate())


def test_a_failed_start_leaves_nothing_behind():
    def refuse(snapshot: str) -> EngineDouble:
        raise EngineError("cannot bind", 99, "10.9.9.9:3306")

    with pytest.raises(portside.PortsideError, match=r"no interface of this host"):
        portside.Balancer(LITERAL, factory=refuse).start()
    assert not any(thread.name == "portside-control" for thread in threading.enumerate())


def test_not_ready_says_which_service_and_why(make):
    with make() as balancer:
        balancer.drain("db1")
        balancer.drain("db2")
        with pytest.raises(portside.PortsideError) as late:
            balancer.wait_ready(timeout=0.01)
    assert "not ready within 0.01 s: service read: server db1 is in drain" in str(late.value)


def test_a_path_a_text_and_a_config_are_understood(make, tmp_path):
    path = tmp_path / "portside.toml"
    path.write_text(LITERAL)
    for config in (path, str(path), LITERAL, portside.loads(LITERAL)):
        with make(config) as balancer:
            assert balancer.config.service("read") is not None


def test_a_reload_from_the_file_and_from_a_config(make, tmp_path):
    path = tmp_path / "portside.toml"
    path.write_text(LITERAL)
    with make(path) as balancer:
        path.write_text(LITERAL.replace("10.0.0.11", "10.0.0.99"))
        assert balancer.reload(dry_run=True).changes == ("server db1: address changed",)
        assert balancer.reload().changes == ("server db1: address changed",)
        path.write_text(LITERAL + "x")
        with pytest.raises(portside.ConfigError):
            balancer.reload()
        with pytest.raises(portside.PortsideError, match="workers cannot change on reload"):
            balancer.reload(LITERAL.replace("workers = 1", "workers = 2"))
        assert balancer.servers()[0].destinations == ("10.0.0.99:3306",)


def test_wrong_names_are_refused_with_the_nearest(make):
    with make() as balancer:
        with pytest.raises(portside.Refusal, match=r"Did you mean 'db1'"):
            balancer.drain("bd1")
        with pytest.raises(portside.Refusal, match=r"Did you mean 'read'"):
            balancer.address("raed")


def test_calls_from_many_threads_are_one_after_the_other(make, engines):
    with make() as balancer, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: balancer.set_weight("read", "db1", n % 250 + 2), range(100)))
    generations = [one["generation"] for one in engines[0].snapshots]
    assert generations == sorted(set(generations))
