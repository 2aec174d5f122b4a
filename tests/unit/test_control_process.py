"""Parts of the process's life that need no engine: notify, limits, events, host names, messages."""

import asyncio
import io
import json
import logging
import os
import socket
import threading

import pytest
from portside.control import journal
from portside.control.limits import fitting_sessions, required
from portside.control.line_writer import MAX_LINES, LineWriter, to_descriptor
from portside.control.notify import Notifier, take_inherited_listeners, watchdog_interval_s
from portside.control.resolve import is_name, resolve


def test_watchdog_beats_twice_as_often_as_allowed():
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 15.0


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog_wanted(environ):
    assert watchdog_interval_s(environ) is None


def test_notifier_is_silent_without_a_socket():
    Notifier({}).ready("nobody listens")


def test_notifier_survives_a_manager_that_is_gone(tmp_path):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


def test_notifier_speaks_the_protocol(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        notifier.reloading()
        notifier.ready("2 services")
        first, second = manager.recv(500).decode(), manager.recv(500).decode()
    assert first.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert int(first.rpartition("=")[2]) > 0
    assert second == "READY=1\nSTATUS=2 services"


def test_inherited_listeners_of_another_process_are_ignored_and_forgotten():
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    assert take_inherited_listeners(environ) == ()
    assert environ == {}


def test_descriptors_that_are_no_listeners_are_skipped():
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}
    assert take_inherited_listeners(environ) == ()


def test_the_arithmetic_of_descriptors():
    need = required(sessions=8000, listeners=3, workers=4, servers=5, doors=2)
    assert need.files == 16000 + 12 + 10 + 2 * 80 + 64
    assert need.text == (
        "8,000 sessions x 2 + 12 listening sockets (3 x 4 workers) + 10 for checks + 224 = 16,246"
    )


@pytest.mark.parametrize("limit", [0, 165, 166, 167, 168, 169, 1024, 20000])
def test_what_fits_is_what_is_required(limit):
    sessions = fitting_sessions(limit, listeners=3, workers=4, servers=5, doors=1)
    if sessions:
        assert required(sessions, 3, 4, 5, 1).files <= limit
        assert required(sessions + 1, 3, 4, 5, 1).files > limit
    else:
        assert required(1, 3, 4, 5, 1).files > limit


def test_names_resolve_in_a_stable_order_and_failures_say_why():
    def lookup(name: str) -> tuple[str, ...]:
        if name == "gone.example":
            raise socket.gaierror(-2, "Name or service not known")
        return ("10.0.0.1", "10.0.0.2")

    found = asyncio.run(resolve(["db.example", "gone.example", "db.example"], lookup=lookup))
    assert found.found == {"db.example": ("10.0.0.1", "10.0.0.2")}
    assert found.failed == {"gone.example": "Name or service not known"}


def test_a_resolver_that_hangs_holds_nobody_up():
    release = threading.Event()

    def lookup(name: str) -> tuple[str, ...]:
        release.wait(10)
        return ("10.0.0.1",)

    found = asyncio.run(resolve(["slow.example"], timeout_s=0.01, lookup=lookup))
    release.set()
    assert found.failed == {"slow.example": "no answer within 0.01 s"}


@pytest.mark.parametrize(
    ("host", "name"), [("10.0.0.1", False), ("fd00::1", False), ("db1", True), ("10.0.0", True)]
)
def test_what_is_a_name(host, name):
    assert is_name(host) is name


@pytest.fixture
def restored_logging():
    """The package's logger as it was."""
    before = journal.log.handlers[:], journal.log.propagate, journal.log.level
    yield
    journal.log.handlers[:], journal.log.propagate = before[0], before[1]
    journal.log.setLevel(before[2])
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).handlers[:] = []


@pytest.mark.usefixtures("restored_logging")
def test_messages_as_json_carry_their_fields():
    out = io.StringIO()
    journal.attach("json", out)
    journal.log.warning("server db1 is down", extra={"kind": "server_down", "server": "db1"})
    journal.flush()
    line = json.loads(out.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "message": "server db1 is down",
        "kind": "server_down",
        "server": "db1",
    }


@pytest.mark.usefixtures("restored_logging")
def test_messages_as_text():
    out = io.StringIO()
    journal.attach("text", out)
    journal.log.info("started")
    journal.flush()
    assert out.getvalue().endswith("info    started\n")


def test_lines_that_nobody_takes_are_counted_and_told_later():
    """While the reader sleeps nobody waits; then come the lines that had room, and the count."""
    awake, taken = threading.Event(), []

    def write(text: str) -> None:
        awake.wait(10)
        taken.append(text)

    lines = LineWriter(write, lambda lost: f"{lost} lost")
    lines.put("first")  # the thread takes it, and waits for its reader
    while lines._lines:
        lines.flush(0.001)
    for number in range(MAX_LINES + 7):
        lines.put(str(number))
    assert not lines.flush(0.01)
    awake.set()
    assert lines.flush(10)
    lines.put("last")
    assert lines.flush(10)
    expected = ["first", *map(str, range(MAX_LINES)), "7 lost", "last"]
    assert "".join(taken).splitlines() == expected


def test_a_reader_that_is_gone_ends_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    lines = LineWriter(to_descriptor(writer), str)
    lines.put("nobody reads this")
    assert lines.flush(10)
    lines.put("nor this")
    assert lines.flush(10)
    os.close(writer)
