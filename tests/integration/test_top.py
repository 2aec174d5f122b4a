"""``portside top`` at a real instance: at its keys, in a real terminal, and when it goes away."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from portside.admin.client import AdminClient
from portside.cli import run_command
from portside.demo.held_port import HeldPort
from portside.top.app import Seen, Top
from portside.top.feed import look
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from tests.integration.test_pool import Client, config
from tests.support.instance import Instance
from tests.support.lab import Load, Sink
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until
from tests.unit.test_top import SESSION

TEXT = """
[portside]
workers = 1
[source]
addresses = ["127.0.0.1"]
ports = "28700-28799"
[[server]]
name = "db1"
address = "{sink}"
check = false
[[server]]
name = "db2"
address = "{sink}"
check = false
max_connections = 40
[[service]]
name = "read"
listen = "127.0.0.1:0"
servers = [{{ name = "db1", weight = 1 }}, {{ name = "db2", weight = 10 }}]
[[service]]
name = "write"
listen = "127.0.0.1:0"
servers = ["db1", {{ name = "db2", backup = true }}]
"""


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    yield Sink()


@pytest.fixture(scope="module")
def one(sink: Sink) -> Iterator[Instance]:
    """Shared: a test leaves it as it was."""
    folder = Path(tempfile.mkdtemp(prefix="ps-"))
    with Instance(folder, TEXT.format(sink=sink.address)) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own(run_portside: Callable[..., Instance], sink: Sink) -> Instance:
    """One that may be killed."""
    return run_portside(TEXT.format(sink=sink.address).replace("28700-28799", "28800-28899"))


class Screen:
    """The app under a pilot, as somebody sees it."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app, self._pilot = app, pilot

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)
        await self._pilot.pause()

    async def until(self, what: Callable[[], object], timeout_s: float = 15.0) -> None:
        """Waits while the screen goes on."""
        due = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < due, f"it does not come to that:\n{self.text}"
            await self._pilot.pause(0.05)

    @property
    def lines(self) -> list[str]:
        """What the terminal shows."""
        width, height = self.app.size
        rows = self.app.screen._compositor.render_strips()
        return [strip.text[:width].rstrip() for strip in rows[:height]]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def said(self, name: str) -> str:
        return str(self.app.query_one(f"#{name}", Static).render())

    async def choose(self, *words: str) -> None:
        """Moves to the first line that holds these words."""
        table = self.app.query_one(DataTable)

        def at() -> int | None:
            for row in range(table.row_count):
                text = " ".join(str(cell) for cell in table.get_row_at(row))
                if all(word in text for word in words):
                    return row
            return None

        await self.until(lambda: at() is not None)
        table.move_cursor(row=at())
        await self._pilot.pause()


def play(
    one: Instance,
    scene: Callable[[Screen], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
    every_s: float = 0.2,
) -> None:
    """Runs ``scene`` on a screen of ``size`` that looks at ``one``."""

    async def whole() -> None:
        client = AdminClient(str(one.socket), timeout_s=5.0)
        app = Top(client, look(client, "services"), every_s)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await scene(Screen(app, pilot))

    asyncio.run(whole())


def read_address(one: Instance) -> str:
    return str(one.service("read")["listen"][0])


def test_a_pool_at_80x24(trio, run_portside):
    text = config(trio.primary, trio.replica1, pool="max = 20")
    one = run_portside(text)
    pinned, _free = Client(one), Client(one)
    pinned.ask("SET @a = 1")

    async def scene(screen: Screen) -> None:
        await screen.press("2")
        await screen.until(lambda: re.search(r" POOL .*\n(?:.*\n)?.* 1/[12]/20 ", screen.text))
        await screen.press("4")
        own = str(pinned.connection.thread_id())
        await screen.until(lambda: "user-variable" in screen.text)
        await screen.choose("user-variable")
        await screen.until(lambda: f"CONNECTION_ID {own}, on the server " in screen.said("detail"))
        assert "PINNED" in screen.text and all(len(line) <= 80 for line in screen.lines)
        # A reload may take the pools away, and with them columns that a view is sorted by.
        await screen.press(*"s" * 12)
        assert screen.said("said") == "Sorted by SOURCE."
        one.write(text.replace('mode = "pool"', 'mode = "relay"'))
        one.reload()
        await screen.until(lambda: "PINNED" not in screen.text)
        await screen.press("S")
        await screen.until(lambda: "as the instance tells it" in screen.said("said"))

    play(one, scene)


def test_every_view_fits_80x24_and_shows_what_runs(one):
    load = Load(read_address(one), concurrency=8, rate=200, hold_ms=300)
    wait_until(lambda: one.sessions_now() > 5)

    async def scene(screen: Screen) -> None:
        async def open_view(key: str, *words: str) -> None:
            await screen.press(key)
            await screen.until(lambda: all(word in screen.text for word in words))
            assert len(screen.lines) == 24
            assert all(len(line) <= 80 for line in screen.lines), screen.text
            assert screen.lines[-1].endswith("? keys  q quit")

        await open_view("1", "SERVICE", "read", "  db2", "eligible", "is a backup")
        await screen.until(lambda: "/s  up" in screen.lines[0])  # the rate of all
        await open_view("2", "SERVER", "ELIGIBLE", "2 of 2", "1 of 2", "unchecked")
        await open_view("3", "STRIP", "127.0.0.1", "·", "never", "for checks")
        await open_view("4", "CLIENT", "command", "127.0.0.1:")
        one.cli("drain", "db1")
        await open_view("5", "EVENT", "admin_drain", "server db1 is now in drain")
        one.cli("ready", "db1")
        await screen.press("tab")
        await screen.until(lambda: "SERVICE" in screen.lines[3])
        await screen.press("shift+tab")
        await screen.until(lambda: "EVENT" in screen.lines[3])

    try:
        play(one, scene)
    finally:
        load.finish()


def test_a_wide_screen_shows_more_columns(one):
    async def narrow(screen: Screen) -> None:
        await screen.press("2")
        await screen.until(lambda: "db2" in screen.text)
        assert "LATE/S" not in screen.text

    async def wide(screen: Screen) -> None:
        await screen.press("2")
        await screen.until(lambda: "db2" in screen.text)
        assert "LATE/S" in screen.text and "FAILED/S" in screen.text

    play(one, narrow)
    play(one, wide, (160, 50))
    play(one, narrow, (40, 12))


def test_sort_and_filter(one):
    async def scene(screen: Screen) -> None:
        table = screen.app.query_one(DataTable)

        def names() -> list[str]:
            return [str(table.get_row_at(row)[0]).strip() for row in range(table.row_count)]

        await screen.press("2")
        await screen.until(lambda: names() == ["db1", "db2"])
        await screen.press("s", "S")
        assert names() == ["db2", "db1"] and "SERVER▼" in screen.text
        assert "Sorted by SERVER, descending." in screen.text
        await screen.press("slash", "b", "1")
        assert names() == ["db1"] and "/ b1" in screen.text
        await screen.press("x")
        assert names() == [] and "No line holds: b1x. Esc ends the filter." in screen.text
        await screen.press("backspace", "enter")
        assert names() == ["db1"]
        await screen.press("escape")
        assert names() == ["db2", "db1"]
        # Each view has an order of its own; keys may come before the rows do.
        await screen.press("3", "s", "s", "S", "2", "4", "S", "5", "s", "3", "S")
        await screen.until(lambda: "127.0.0.1" in screen.text)
        await screen.press("1")
        await screen.until(lambda: names() == ["read", "db1", "db2", "write", "db1", "db2"])

    play(one, scene)


def test_the_chosen_line_stays_chosen_while_others_come_and_go(one):
    host, _, port = read_address(one).rpartition(":")
    clients = [RawClient((host, int(port))) for _ in range(6)]
    for client in clients:
        client.login()

    async def scene(screen: Screen) -> None:
        table = screen.app.query_one(DataTable)
        await screen.press("4")
        await screen.until(lambda: table.row_count == 6)
        await screen.choose(f"{clients[3].socket.getsockname()[1]}")
        before = str(table.get_row_at(table.cursor_row)[0])
        for client in clients[:3]:
            client.close()
        await screen.until(lambda: table.row_count == 3)
        assert str(table.get_row_at(table.cursor_row)[0]) == before

    play(one, scene)
    for client in clients:
        client.close()


def test_drain_asks_first_and_only_y_is_a_yes(one):
    async def scene(screen: Screen) -> None:
        await screen.press("2")
        await screen.choose("db2")
        for no in ("n", "escape", "enter", "q", "x"):
            await screen.press("d")
            await screen.until(lambda: "portside drain db2" in screen.text)
            assert "It gets no new sessions in read, write; 0 sessions" in screen.text
            await screen.press(no)
        await screen.press("escape")  # x answers nothing
        await screen.until(lambda: "Nothing was changed." in screen.said("said"))
        assert one.server("db2")["admin"] == "ready"
        await screen.press("d", "y")
        await screen.until(lambda: "server db2 is now in drain" in screen.said("said"))
        assert one.server("db2")["admin"] == "drain"
        await screen.until(lambda: "drain" in screen.lines[5])
        await screen.press("m", "y")
        await screen.until(lambda: "now in maint" in screen.said("said"))
        await screen.press("r", "y")
        await screen.until(lambda: "now ready" in screen.said("said"))
        assert one.server("db2")["admin"] == "ready"

    play(one, scene)


def test_weights_are_asked_for_checked_and_confirmed(one):
    async def scene(screen: Screen) -> None:
        await screen.press("2")
        await screen.choose("db2")
        await screen.press("w")
        await screen.until(lambda: "The weight in which service?" in screen.text)
        await screen.press("enter")
        await screen.until(lambda: "Weight of read/db2 (now 10, file 10)" in screen.text)
        await screen.press("4", "2", "enter")
        await screen.until(lambda: "Server db2 in service read: from 10 to 42." in screen.text)
        await screen.press("y")
        await screen.until(lambda: "has weight 42 now (file: 10)" in screen.said("said"))
        assert one.service("read")["members"][1]["weight"] == 42
        await screen.press("1")
        await screen.choose("db2", "42")
        await screen.press("w", "x", "enter")
        await screen.until(lambda: "'x' is not a weight" in screen.said("said"))
        await screen.press("w", "9", "9", "9", "enter", "y")
        await screen.until(lambda: "a weight is a number from 0 to 256." in screen.said("said"))
        await screen.press("w", "f", "i", "l", "e", "enter", "y")
        await screen.until(lambda: "weight 10 again, as the file says" in screen.said("said"))

    play(one, scene)


def test_pause_kill_help_and_hold(one):
    host, _, port = read_address(one).rpartition(":")
    with RawClient((host, int(port))) as client:
        client.login()

        async def scene(screen: Screen) -> None:
            await screen.choose("write")
            await screen.press("p", "y")
            await screen.until(lambda: "service write is paused" in screen.said("said"))
            await screen.until(lambda: "paused" in screen.text.split("write")[1].split("\n")[0])
            await screen.press("p")
            await screen.until(lambda: "portside resume write" in screen.text)
            await screen.press("y", "k")
            await screen.until(lambda: "choose one in the view 4." in screen.said("said"))
            await screen.press("question_mark")
            await screen.until(lambda: "the instance is not touched" in screen.text)
            await screen.press("tab", "escape", "4")
            await screen.choose("command")
            await screen.press("z")
            await screen.until(lambda: "held: z goes on" in screen.text)
            await screen.press("k")
            await screen.until(lambda: "A query that runs is lost." in screen.text)
            await screen.press("y")
            await screen.until(lambda: "is being closed" in screen.said("said"))
            await screen.until(lambda: one.sessions_now() == 0)
            assert "command" in screen.text, "held"
            await screen.press("z")
            await screen.until(lambda: "No sessions." in screen.text)

        play(one, scene)


def test_an_instance_that_vanishes_and_comes_back(own):
    pids = [own.pid]

    async def scene(screen: Screen) -> None:
        await screen.until(lambda: f"pid {pids[0]}" in screen.lines[0])
        own.signal(signal.SIGKILL)
        own.wait()
        await screen.until(lambda: "No answer for" in screen.said("said"))
        assert "no running instance at" in screen.said("detail")
        assert "read" in screen.text, "what was seen last stays"
        await screen.press("2")  # and keys go on
        await screen.until(lambda: "2 servers" in screen.text)
        own.launch()
        await screen.until(lambda: f"anew; its pid is {own.pid}." in screen.said("said"))
        await screen.until(lambda: "db2" in screen.text and f"pid {own.pid}" in screen.lines[0])

    play(own, scene)


def test_an_instance_that_hangs_does_not_hold_the_screen(one):
    async def scene(screen: Screen) -> None:
        await screen.until(lambda: "db2" in screen.text)
        one.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(0.5)  # a look is under way now, and gets no answer
            began = time.monotonic()
            await screen.press("question_mark")
            await screen.until(lambda: "the instance is not touched" in screen.text)
            await screen.press("escape")
            assert time.monotonic() - began < 4.0  # the look takes 5 s
            await screen.until(lambda: "did not answer within 5 s" in screen.said("detail"))
        finally:
            one.signal(signal.SIGCONT)
        await screen.until(lambda: "It answers again." in screen.said("said"))

    play(one, scene)


def test_of_many_lines_the_first_are_drawn_and_the_number_is_said(one):
    async def scene(screen: Screen) -> None:
        await screen.press("4")
        await screen.until(lambda: "No sessions." in screen.text)
        rows = [
            {**SESSION, "id": number, "age_s": float(number), "state": "idle"}
            for number in range(620)
        ]
        frame = look(one.admin, "services")
        screen.app.post_message(Seen("sessions", replace(frame, sessions=rows)))
        await screen.until(lambda: "first 500 of 620" in screen.text)
        assert screen.app.query_one(DataTable).row_count == 500

    play(one, scene, every_s=30.0)


# ---- the command, as a process


class Terminal:
    """``portside top`` in a real terminal of 80x24."""

    def __init__(self, one: Instance, *args: str, **env: str) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "portside", "top", "-a", str(one.socket), *args],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "xterm-256color", **env},
            start_new_session=True,
        )
        os.close(follower)
        self.seen = b""

    def until(self, words: str) -> None:
        due = time.monotonic() + 20
        while words.encode() not in self.seen:
            assert time.monotonic() < due, self.seen[-2000:]
            if select.select([self._leader], [], [], 0.1)[0]:
                self.seen += os.read(self._leader, 65536)

    def type(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def end(self) -> int:
        """Its exit code; reads on meanwhile, so that it can say goodbye."""
        due = time.monotonic() + 15
        while self.process.poll() is None:
            assert time.monotonic() < due
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                if select.select([self._leader], [], [], 0.1)[0]:
                    self.seen += os.read(self._leader, 65536)
        os.close(self._leader)
        return self.process.returncode


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_in_a_real_terminal(one, key):
    terminal = Terminal(one, "-d", "200ms")
    terminal.until("1 services")
    terminal.until("read")
    terminal.type("2")
    terminal.until("ELIGIBLE")
    terminal.type(key)
    assert terminal.end() == 0
    assert b"\x1b[?1049l" in terminal.seen, "the screen that was there before is back"


def test_a_terminal_that_cannot_move_its_cursor_gets_the_page(one):
    terminal = Terminal(one, TERM="dumb")
    terminal.until("EVENTS")
    assert terminal.end() == 0
    assert b"\x1b[?1049h" not in terminal.seen


def test_a_pipe_gets_the_page(one):
    done = one.cli("top", "-d", "200ms")
    assert done.returncode == 0 and done.stderr == ""
    for words in ("Portside ", "SERVICES\n", "SERVERS\n", "PORTS\n", "SESSIONS\n", "EVENTS\n"):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert "unchecked" in done.stdout and "28700" not in done.stdout


def test_no_instance_is_one_sentence(folder: Path, capsys):
    missing = folder / "none.sock"
    assert run_command(["top", "-a", str(missing)]) == 1
    assert capsys.readouterr().err == (
        f"portside: no running instance at {missing} (no such file or directory); "
        "another one is chosen with -a/--admin or $PORTSIDE_ADMIN.\n"
    )


def test_no_rights_is_one_sentence(one, capsys):
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else needs root")
    one.folder.chmod(0o755)
    run_command(["top", "-a", "/none"])  # imports what nobody may not read here
    capsys.readouterr()
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)  # nobody
    os.seteuid(65534)
    try:
        code = run_command(["top", "-a", str(one.socket)])
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
    assert code == 1
    assert capsys.readouterr().err == (
        f"portside: no permission to use the admin socket {one.socket}: "
        "it is for its owner and group.\n"
    )


def test_no_token_is_one_sentence(run_portside, sink, capsys, monkeypatch):
    monkeypatch.delenv("PORTSIDE_ADMIN_TOKEN", raising=False)
    with HeldPort() as held:
        text = TEXT.format(sink=sink.address).replace("28700-28799", "28900-28999")
        text += f'[admin]\nlisten = "127.0.0.1:{held.port}"\ntoken = "secret-of-16-bytes"\n'
        one = run_portside(text, start=False)
    one.start()
    assert run_command(["top", "-a", f"127.0.0.1:{held.port}"]) == 1
    assert capsys.readouterr().err == (
        "portside: a token is needed. "
        "Set $PORTSIDE_ADMIN_TOKEN, or $PORTSIDE_ADMIN_TOKEN_FILE to its file.\n"
    )


def answering(folder: Path, answer: bytes) -> Path:
    """A unix socket that gives one answer to one request."""
    path = folder / "other.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(65536)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return path


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (
            "Portside-Api: 2\r\nPortside-Version: 7.0.0\r\n",
            "is Portside 7.0.0, whose admin API (level 2) this command (level 1) does not speak: "
            "use that version's command.",
        ),
        ("Server: nginx\r\n", "is not a Portside instance."),
    ],
)
def test_what_answers_is_something_else(folder, capsys, headers, words):
    answer = f"HTTP/1.1 200 OK\r\n{headers}Content-Length: 2\r\n\r\n{{}}"
    path = answering(folder, answer.encode())
    assert run_command(["top", "-a", str(path)]) == 1
    said: Any = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
