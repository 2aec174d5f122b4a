"""What only a real database shows, and the canary of docs/from-haproxy.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from portside.cli import run_command
from portside.demo.held_port import free_port

from tests.support.haproxy import HAProxy
from tests.support.lab import Load
from tests.support.seen_servers import seen_servers
from tests.support.servers import MONITOR_PASSWORD, MONITOR_USER
from tests.support.waiting import wait_until

DOCUMENT = Path(__file__).parents[2] / "docs" / "from-haproxy.md"


def imported(file: Path, capsys, *options: str) -> str:
    assert run_command(["import", *options, str(file)]) == 0
    return capsys.readouterr().out


@pytest.mark.haproxy
def test_mysql_check_logs_in_as_haproxys_did(trio, haproxy, folder, run_portside, capsys):
    """The account that `option mysql-check user` needs has no password, and none is sent."""
    trio.primary.root("CREATE OR REPLACE USER haproxy_check@'127.0.0.%'")
    aborted = trio.primary.status("Aborted_connects")
    file = folder / "haproxy.cfg"
    file.write_text(
        "defaults\n    mode tcp\n    timeout connect 2s\n    timeout client 1m\n"
        f"    timeout server 1m\nlisten db\n    bind 127.0.0.1:{free_port()}\n"
        "    option mysql-check user haproxy_check\n"
        f"    server db1 127.0.0.1:{trio.primary.port} check inter 200ms\n"
    )
    instance = run_portside(imported(file, capsys))
    server = wait_until(
        lambda: instance.server("db1") if instance.server("db1")["state"] == "up" else None
    )
    assert server["check"] == "L7OK", server
    assert trio.primary.status("Aborted_connects") == aborted


def test_proxysqls_hostgroups_follow_the_roles(trio, folder, run_portside, monkeypatch, capsys):
    """Writes go to the one that is writable, reads by weight; whatever the file's order says."""
    first, second, third = (one.port for one in (trio.replica1, trio.primary, trio.replica2))
    port = free_port()
    file = folder / "proxysql.cnf"
    file.write_text(
        f'mysql_variables= {{ interfaces="127.0.0.1:{port}" monitor_username="{MONITOR_USER}"'
        f' monitor_password="{MONITOR_PASSWORD}" monitor_ping_interval=500 }}\n'
        "mysql_servers= (\n"
        f'  {{ address="127.0.0.1" port={first} hostgroup=0 weight=4 }},\n'
        f'  {{ address="127.0.0.1" port={second} hostgroup=1 weight=1 }},\n'
        f'  {{ address="127.0.0.1" port={third} hostgroup=1 weight=5 max_replication_lag=30 }} )\n'
        "mysql_replication_hostgroups= ( { writer_hostgroup=0 reader_hostgroup=1 } )\n"
    )
    text = imported(file, capsys)
    assert MONITOR_PASSWORD not in text
    monkeypatch.setenv("PORTSIDE_MONITOR_PASSWORD", MONITOR_PASSWORD)
    (folder / "p.toml").write_text(text)
    assert run_command(["check", "-c", str(folder / "p.toml")]) == 0
    # The port after the first is the second service's; it may be somebody else's on this machine.
    text = text.replace(f"127.0.0.1:{port + 1}", f"127.0.0.1:{(read := free_port())}")
    instance = run_portside(text)
    services = ("write", "read")
    wait_until(
        lambda: (
            [sum(m["active"] for m in instance.service(s)["members"]) for s in services] == [1, 3]
        )
    )

    def ask(where: int) -> dict[str, int]:
        load = Load(f"127.0.0.1:{where}", connections=200, concurrency=8, identify=True).wait()
        assert load["sessions_failed"] == 0, load["errors"]
        return load["by_server"]

    assert ask(port) == {str(trio.primary.port): 200}
    reads = ask(read)
    assert reads[str(first)] == pytest.approx(80, abs=4)
    assert reads[str(third)] == pytest.approx(100, abs=4)


@pytest.mark.haproxy
@pytest.mark.parametrize("check", ["plain", "httpchk"])
def test_the_canary_of_the_document(check, haproxy, folder, run_portside, capsys):
    """A weighted server line in HAProxy sends one session in ten to Portside, with its client."""
    with seen_servers(1) as servers:
        beside, front = free_port(), free_port()
        file = folder / "haproxy.cfg"
        plain = (
            "defaults\n    mode tcp\n    timeout connect 2s\n    timeout client 1m\n"
            f"    timeout server 1m\nlisten db\n    bind 127.0.0.1:{front}\n"
            f"    server db1 127.0.0.1:{servers.ports[0]} check weight 90 source 127.0.0.31\n"
        )
        document = DOCUMENT.read_text()
        checked, tracking = re.findall(r"^    (server portside .*\n)", document, re.MULTILINE)
        (alive,) = re.findall(
            r"^    (backend portside-alive\n(?: {8}.*\n)+)", document, re.MULTILINE
        )
        (keys, *_) = re.findall(
            r"^    (accept_proxy = .*\n)    (probe_.*\n)", document, re.MULTILINE
        )
        canary = checked
        if check == "httpchk":
            kind = f"    option httpchk\n    default-server port {servers.http_port}\n"
            plain = plain.replace("    server db1", f"{kind}    server db1")
            canary = tracking + alive
        file.write_text(plain)
        text = imported(file, capsys).replace(f"127.0.0.1:{front}", f"127.0.0.1:{beside}")
        text = text.replace('addresses = ["127.0.0.31"]', 'addresses = ["127.0.0.32"]')
        service = '[[service]]\nname = "db"\n'
        assert service in text
        instance = run_portside(text.replace(service, "".join([service, *keys])))
        file.write_text(f"{plain}    {canary.replace('13306', str(beside))}")
        with HAProxy(haproxy, file, {}, folder, [("127.0.0.1", front)]):
            servers.tell("reset")
            load = Load(
                f"127.0.0.1:{front}", connections=400, concurrency=8, sources=["127.0.0.77"]
            ).wait()
            assert load["sessions_failed"] == 0, load["errors"]
            (seen,) = servers.tell("report")
            checks = wait_until(lambda: sessions_of("127.0.0.1", instance), 10, "HAProxy checks")
    assert seen["127.0.0.32"] == pytest.approx(40, abs=4), seen
    assert seen["127.0.0.31"] == pytest.approx(360, abs=4), seen
    assert len(sessions_of("127.0.0.77", instance)) == seen["127.0.0.32"]
    assert {one["destination"] for one in checks} == {""}, "no database sees HAProxy's checks"


def sessions_of(client: str, instance) -> list[dict[str, str]]:
    return [one for one in instance.lines() if one["client"].startswith(f"{client}:")]
