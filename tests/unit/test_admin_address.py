"""Where an instance is looked for."""

import os
import stat
from pathlib import Path

import pytest
from portside.admin import address
from portside.admin.address import AdminAddress, choose, default_socket, ensure_directory, parse
from portside.errors import PortsideError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/run/x.sock", AdminAddress(path=Path("/run/x.sock"))),
        ("unix:/run/x.sock", AdminAddress(path=Path("/run/x.sock"))),
        ("./x.sock", AdminAddress(path=Path("x.sock"))),
        ("127.0.0.1:6060", AdminAddress(host="127.0.0.1", port=6060)),
        ("http://lb1:6060/", AdminAddress(host="lb1", port=6060)),
        ("[fd00::1]:6060", AdminAddress(host="fd00::1", port=6060)),
    ],
)
def test_forms(text, meant):
    assert parse(text) == meant


@pytest.mark.parametrize("text", ["lb1", "lb1:", ":6060", "lb1:0", "lb1:70000", "lb1:x"])
def test_what_is_none(text):
    with pytest.raises(PortsideError, match=r"is not an admin address: expected a socket's path"):
        parse(text)


def test_ipv6_is_written_in_brackets():
    assert str(parse("[fd00::1]:6060")) == "[fd00::1]:6060"


def test_the_option_wins_over_the_environment():
    environ = {"PORTSIDE_ADMIN": "/b.sock"}
    assert str(choose("/a.sock", environ)) == "/a.sock"
    assert str(choose(None, environ)) == "/b.sock"


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.setattr(address, "SYSTEM_SOCKET", tmp_path / "run" / "admin.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_socket({}) == Path("/tmp/portside-1000/admin.sock")
    own = default_socket({"XDG_RUNTIME_DIR": str(tmp_path / "user")})
    assert own == tmp_path / "user/portside/admin.sock"
    (tmp_path / "run").mkdir()
    assert default_socket({}) == tmp_path / "run/admin.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_socket({}) == tmp_path / "run/admin.sock"


def test_a_user_without_an_instance_gets_the_systems(monkeypatch, tmp_path):
    system = tmp_path / "run" / "admin.sock"
    monkeypatch.setattr(address, "SYSTEM_SOCKET", system)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_: False)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert choose(None, environ).path == tmp_path / "portside/admin.sock"
    system.parent.mkdir()
    system.touch()
    assert choose(None, environ).path == system


def test_the_directory_is_private(tmp_path):
    ensure_directory(tmp_path / "portside" / "admin.sock")
    assert stat.S_IMODE((tmp_path / "portside").stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_said(tmp_path):
    with pytest.raises(PortsideError, match=r"Set \[admin\] socket to a path this user may write"):
        ensure_directory(tmp_path / "no" / "such" / "admin.sock")
