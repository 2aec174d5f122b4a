"""Who gets which session, end to end: shares on real MariaDB, backups, every algorithm."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.lab_process import run_load, sink
from tests.support.proxy import Proxy
from tests.support.raw_client import QUIT, RawClient, query
from tests.support.waiting import wait_until


def server(name: str, address: str, more: str = "check = false") -> str:
    return f'[[server]]\nname = "{name}"\naddress = "{address}"\n{more}\n'


def service(name: str, servers: str, more: str = "") -> str:
    return f'[[service]]\nname = "{name}"\nlisten = "127.0.0.1:0"\nservers = [{servers}]\n{more}\n'


@pytest.fixture(scope="module")
def proxy(server_dir, trio) -> Iterator[Proxy]:
    text = "".join(server(f"db{n}", f"127.0.0.1:{one.port}") for n, one in enumerate(trio, start=1))
    db = '{{ name = "db{}", weight = {} }}'
    text += service("read", ", ".join(db.format(n, w) for n, w in ((1, 1), (2, 10), (3, 10))))
    text += service("idle", ", ".join(db.format(n, w) for n, w in ((1, 0), (2, 3), (3, 1))))
    with Proxy(server_dir / "balancing", text) as one:
        yield one
        one.stop()


def spread(proxy: Proxy, trio, name: str, sessions: int) -> dict[str, int]:
    """Sessions per server as the servers themselves say (@@server_id is the port)."""
    host, port = proxy.address(name)
    report = run_load(target=f"{host}:{port}", connections=sessions, concurrency=20, identify=True)
    assert report["sessions_failed"] == 0, report["errors"]
    assert report["sessions_ok"] == sessions
    names = {str(one.port): f"db{n}" for n, one in enumerate(trio, start=1)}
    found = {names[key]: count for key, count in report["by_server"].items()}
    proxy.assert_at_rest()
    return found


def test_shares_are_those_of_the_weights(proxy, trio):
    """1:10:10 over two workers, each exact by itself: nobody is further off than one turn."""
    found = spread(proxy, trio, "read", 2_100)
    for name, due in (("db1", 100), ("db2", 1_000), ("db3", 1_000)):
        assert abs(found[name] - due) <= 4, found
    view = {m["server"]: m["sessions_total"] for m in proxy.service("read")["members"]}
    assert view == found


def test_weight_0_gets_nothing_and_a_weight_can_change(proxy, trio):
    found = spread(proxy, trio, "idle", 400)
    assert "db1" not in found
    assert abs(found["db2"] - 300) <= 4, found
    path = "/v1/services/idle/servers/db{}/weight"
    proxy.admin.post(path.format(1), {"weight": 1})
    proxy.admin.post(path.format(2), {"weight": 0})
    found = spread(proxy, trio, "idle", 400)
    assert "db2" not in found
    assert abs(found["db1"] - 200) <= 4, found


def test_backup_only_while_no_other_is_eligible(mariadb_factory, server_dir):
    """Two real servers with checks; failback = "auto", so that the return is seen too."""
    active, backup = mariadb_factory(), mariadb_factory()
    check = 'check = { interval = "100ms", fast_interval = "50ms", fall = 2, rise = 1 }'
    text = server("active", f"127.0.0.1:{active.port}", check)
    text += server("backup", f"127.0.0.1:{backup.port}", check)
    text += service("write", '"active", { name = "backup", backup = true }', 'failback = "auto"')
    with Proxy(server_dir / "backup", text) as proxy:
        host, port = proxy.address("write")

        def ask(sessions: int) -> dict[str, int]:
            report = run_load(
                target=f"{host}:{port}", connections=sessions, concurrency=5, identify=True
            )
            assert report["sessions_failed"] == 0, report["errors"]
            return report["by_server"]

        def members() -> list[bool]:
            return [m["active"] for m in proxy.admin.get("/v1/services")[0]["members"]]

        assert ask(200) == {str(active.port): 200}
        active.kill()
        # Already before the checks know: retried on the backup once the active one is called down.
        wait_until(lambda: members() == [False, True], 5, "the backup takes over")
        assert ask(200) == {str(backup.port): 200}
        active.start()
        wait_until(lambda: members() == [True, False], 5, "back to the active one")
        assert ask(200) == {str(active.port): 200}
        proxy.assert_at_rest()
        proxy.stop()


@pytest.fixture(scope="module")
def three(server_dir) -> Iterator[Proxy]:
    """One service per algorithm before three sinks that say who they are."""
    with contextlib.ExitStack() as stack:
        text = ""
        for name in ("one", "two", "three"):
            found = stack.enter_context(sink(answer=name))
            more = "check = false\nmax_connections = 12"
            text += server(name, found.addresses[0], more)
        for algorithm in ("roundrobin", "leastconn", "random2", "first", "client-hash"):
            text += service(
                algorithm, '"one", "two", "three"', f'balance = "{algorithm}"\nqueue = 0'
            )
        with Proxy(server_dir / "algorithms", text) as proxy:
            yield proxy
            proxy.stop()


def hold(proxy: Proxy, name: str, stack: contextlib.ExitStack, **options) -> str:
    """A session that stays until the stack ends; the server it got."""
    client = stack.enter_context(RawClient(proxy.address(name), **options))
    client.login()
    stack.callback(client.send, QUIT)
    client.send(query("SELECT 1"))
    return client.rows()[0][1:].decode()


def test_leastconn_levels_over_workers(three):
    with contextlib.ExitStack() as stack:
        held = Counter(hold(three, "leastconn", stack) for _ in range(30))
        assert held == {"one": 10, "two": 10, "three": 10}
    three.assert_at_rest()


def test_leastconn_fills_up_who_has_less(three):
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            hold(three, "first", stack)  # all on "one"
        held = Counter(hold(three, "leastconn", stack) for _ in range(12))
        assert held["one"] == 0 and held["two"] == held["three"] == 6
    three.assert_at_rest()


def test_first_fills_one_after_the_other(three):
    with contextlib.ExitStack() as stack:
        held = [hold(three, "first", stack) for _ in range(36)]
        assert held == ["one"] * 12 + ["two"] * 12 + ["three"] * 12
        with RawClient(three.address("first")) as late:
            assert late.error()[0] == 1040
    three.assert_at_rest()


def test_random2_spreads(three):
    with contextlib.ExitStack() as stack:
        held = Counter(hold(three, "random2", stack) for _ in range(30))
        # The less loaded of two: far from even is impossible, exactly even is not promised.
        assert all(6 <= count <= 12 for count in held.values()), held
    three.assert_at_rest()


def test_client_hash_keeps_a_client_where_it_is(three):
    homes: dict[str, str] = {}
    for host in range(2, 32):
        source = f"127.0.3.{host}"
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                found = hold(three, "client-hash", stack, source=source)
            assert homes.setdefault(source, found) == found
    assert len(set(homes.values())) == 3
    three.admin.post("/v1/servers/two/drain")
    moved = {}
    for source in homes:
        with contextlib.ExitStack() as stack:
            moved[source] = hold(three, "client-hash", stack, source=source)
    three.admin.post("/v1/servers/two/ready")
    for source, home in homes.items():
        assert moved[source] == home if home != "two" else moved[source] != "two"
    three.assert_at_rest()
