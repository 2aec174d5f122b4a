"""Who holds an address: the kernel's tables as texts, and the sentence for each kind of refusal."""

# ruff: noqa: E501  the tables are as the kernel prints them

import errno
import os
from pathlib import Path

import pytest
from portside.control.owner import conflicts, explain_bind_failure, owners_of, parse_listening

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   106        0 4711 1 0 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:0CEA 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: 0100007F:0CEB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0 100 0 0 10 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:0CEA 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4720 1 0 100 0 0 10 0
"""
UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 4730 /run/portside/write.sock
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with three tables and one process that holds the first socket."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP)
    (tmp_path / "net/tcp6").write_text(TCP6)
    (tmp_path / "net/unix").write_text(UNIX)
    fds = tmp_path / "812" / "fd"
    fds.mkdir(parents=True)
    (tmp_path / "812" / "comm").write_text("haproxy\n")
    os.symlink("socket:[4711]", fds / "5")
    os.symlink("socket:[4730]", fds / "6")
    return tmp_path


def test_reads_listening_sockets_and_stops_at_the_first_other():
    found = list(parse_listening(TCP.splitlines()))
    assert [(one.ip, one.port, one.uid, one.inode) for one in found] == [
        ("127.0.0.1", 3306, 106, 4711),
        ("0.0.0.0", 80, 0, 4712),
    ]


def test_reads_ipv6():
    (found,) = parse_listening(TCP6.splitlines())
    assert (found.ip, found.port) == ("::1", 3306)


@pytest.mark.parametrize(
    ("wanted", "held", "collide"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "10.0.0.5", True),
        ("::", "10.0.0.5", True),
        ("10.0.0.5", "::", True),
        ("0.0.0.0", "::1", False),
        ("::ffff:10.0.0.5", "10.0.0.5", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_which_addresses_collide(wanted, held, collide):
    assert conflicts(wanted, held) is collide


def test_names_the_owner(proc):
    text = explain_bind_failure("127.0.0.1:3306", errno.EADDRINUSE, proc)
    assert text == "cannot listen on 127.0.0.1:3306: haproxy (pid 812) already listens there."


def test_says_so_when_it_is_our_own_listener(proc, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 812)
    text = explain_bind_failure("127.0.0.1:3306", errno.EADDRINUSE, proc)
    assert "this instance itself listens on that port" in text and "with one reload" in text


def test_names_the_owner_of_a_unix_socket(proc):
    owners, _ = owners_of("unix:/run/portside/write.sock", proc)
    assert [str(owner) for owner in owners] == ["haproxy (pid 812)"]


def test_says_the_user_and_the_missing_right_when_the_process_cannot_be_seen(proc):
    text = explain_bind_failure("10.0.0.5:80", errno.EADDRINUSE, proc)
    assert "user root" in text
    assert "CAP_SYS_PTRACE" in text


def test_says_so_when_no_listener_is_found(proc):
    text = explain_bind_failure("10.0.0.5:9999", errno.EADDRINUSE, proc)
    assert "no listener was found" in text


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("0.0.0.0:306", errno.EACCES, "CAP_NET_BIND_SERVICE"),
        ("unix:/run/x/y.sock", errno.EACCES, "no permission to create /run/x/y.sock"),
        ("10.9.9.9:3306", errno.EADDRNOTAVAIL, "no interface of this host has that address"),
        ("10.9.9.9:3306", errno.ENOBUFS, os.strerror(errno.ENOBUFS)),
    ],
)
def test_each_refusal_has_its_sentence(address, code, words):
    assert words in explain_bind_failure(address, code)
