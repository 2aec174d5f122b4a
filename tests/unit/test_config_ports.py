"""How many source ports a configuration has, and the kernel's own range beside them."""

from __future__ import annotations

import pytest
from portside import _core
from portside.config import load, port_space, verify, warnings
from portside.config.load import loads
from portside.config.model import Config
from portside.config.port_space import overlap, port_needs, reserving

TEXT = """
[portside]
workers = 2
[source]
addresses = ["10.0.0.5", "10.0.0.6"]
ports = "{ports}"
[[server]]
name = "db1"
address = ["10.0.0.11:3306", "unix:/run/mysqld/mysqld.sock"]
[[server]]
name = "db2"
address = "10.0.0.12:3306"
source = {{ addresses = ["10.0.0.5", "fd00::5"], ports = "2000-2009" }}
[[server]]
name = "db3"
address = "10.0.0.13:3306"
source = {{ addresses = [] }}
[[service]]
name = "a"
listen = [{listen}]
servers = ["db1", "db2", "db3"]
"""


def config(ports: str = "20000-20099", listen: str = '"10.0.0.9:3306"') -> Config:
    return loads(TEXT.format(ports=ports, listen=listen))


def test_tuples_per_destination_and_their_memory():
    one, two, three = port_needs(config(), _core.ledger_bytes)
    assert (one.server, one.destination, one.sources) == ("db1", "10.0.0.11:3306", 2)
    assert (one.tuples, one.reserved) == (200, 32)
    assert (two.tuples, two.sources, two.reserved) == (10, 1, 5), "IPv6 addresses do not reach it"
    assert (three.tuples, three.sources) == (100, 1), "the route's address"
    assert one.memory_bytes == _core.ledger_bytes(2, 20000, 20099, 2) >= 200 * 8


def test_listeners_inside_the_range_are_left_out():
    listen = '"0.0.0.0:20000", "10.0.0.5:20001", "10.0.0.9:20002", "10.0.0.6:3306"'
    one, *_ = port_needs(config(listen=listen), _core.ledger_bytes)
    assert one.left_out == ("0.0.0.0:20000", "10.0.0.5:20001")
    assert one.tuples == 200 - 2 - 1


@pytest.mark.parametrize(
    ("ports", "reserved", "shared"),
    [
        ((12000, 29999), "", None),
        ((12000, 32768), "", (32768, 32768)),
        ((30000, 40000), "", (32768, 40000)),
        ((60999, 65535), "", (60999, 60999)),
        ((61000, 65535), "", None),
        ((30000, 40000), "32768-40000", None),
        ((30000, 40000), "8080,32768-35000", (35001, 40000)),
        ((33000, 33002), "33001", (33000, 33002)),
    ],
)
def test_overlap_with_the_kernels_range(ports, reserved, shared):
    assert overlap(ports, (32768, 60999), reserved) == shared


def test_the_sysctl_line_keeps_what_was_reserved():
    line = "net.ipv4.ip_local_reserved_ports = 8080,9000-9010,32768-40000"
    assert reserving([(32768, 40000), (32768, 40000)], "8080,9000-9010") == line
    assert overlap((30000, 40000), (32768, 60999), line.partition(" = ")[2]) is None


def said(monkeypatch: pytest.MonkeyPatch, made: Config, reserved: str = "") -> list[str]:
    monkeypatch.setattr(verify, "kernel_range", lambda: (32768, 60999))
    monkeypatch.setattr(verify, "reserved_ports", lambda: reserved)
    return [str(one) for one in warnings(made) if "ip_local_port_range" in str(one)]


def test_check_warns_with_the_exact_line(monkeypatch):
    (text,) = said(monkeypatch, config("30000-40000"), "8080")
    assert "32768-40000 lies in net.ipv4.ip_local_port_range (32768-60999)" in text
    assert "other programs get these ports from the kernel" in text
    assert "net.ipv4.ip_local_reserved_ports = 8080,32768-40000" in text
    assert said(monkeypatch, config("30000-40000"), "32768-40000") == []
    assert said(monkeypatch, config("auto")) == []


def test_one_line_covers_every_range(monkeypatch):
    text = TEXT.replace("2000-2009", "50000-50009").format(ports="40000-40099", listen='"[::]:1"')
    lines = said(monkeypatch, loads(text))
    wanted = "net.ipv4.ip_local_reserved_ports = 40000-40099,50000-50009"
    assert len(lines) == 2 and all(line.rstrip(".)").endswith(wanted) for line in lines), lines


def test_the_range_of_this_host_can_be_read():
    lo, hi = port_space.kernel_range() or (0, 0)
    assert 0 < lo < hi < 65536
    assert overlap((lo, hi), (lo, hi), ",".join([port_space.reserved_ports()])) is not None


def test_every_address_with_a_range_is_refused(tmp_path):
    path = tmp_path / "portside.toml"
    path.write_text(TEXT.format(ports="auto", listen='"[::]:1"').replace("10.0.0.6", "0.0.0.0"))
    with pytest.raises(Exception, match="this is no address to connect from"):
        load(path)
