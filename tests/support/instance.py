"""A real ``portside run`` process of a test's own: started, asked, signalled, ended.

What the process writes goes into files of its folder, unless a test gives another stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from portside.admin.client import AdminClient
from portside.errors import PortsideError

from tests.support.waiting import wait_until

TICKS = os.sysconf("SC_CLK_TCK")


class Instance:
    """One process with its own folder; the admin socket is ``admin.sock`` there.

    Args:
        folder: its own; keep the path short (the admin socket's must stay under 108 bytes).
        text: the configuration without ``[admin] socket``, which is added.
        prefix: command in front, such as ``ip netns exec NAME``.
        env: on top of ours.
        pass_fds: descriptors that stay open.
        interpreter: what stands before ``-m portside``; this Python.
        stdout: instead of ``out.log``.
        stderr: instead of ``err.log``, which ``start`` and ``messages`` read.
    """

    def __init__(
        self,
        folder: Path,
        text: str,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdout: int | None = None,
        stderr: int | None = None,
        interpreter: Sequence[str] = (sys.executable,),
    ) -> None:
        self.folder = folder
        self.path = folder / "portside.toml"
        self.socket = folder / "admin.sock"
        self.admin = AdminClient(str(self.socket), timeout_s=30.0)
        self._prefix, self._interpreter = list(prefix), list(interpreter)
        self._pass_fds, self._stdout = tuple(pass_fds), stdout
        self._stderr = stderr
        self._env = {**os.environ, **(env or {}), "PORTSIDE_ADMIN": str(self.socket)}
        self._process: subprocess.Popen[bytes] | None = None
        self.write(text)

    def write(self, text: str) -> None:
        """Replaces the configuration file in one step, as an administrator's tool does."""
        if "[admin]" in text:
            text = text.replace("[admin]", f'[admin]\nsocket = "{self.socket}"')
        else:
            text += f'\n[admin]\nsocket = "{self.socket}"\n'
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    def launch(self) -> None:
        """Starts the process; it is not ready yet."""
        with (
            (self.folder / "out.log").open("ab") as out,
            (self.folder / "err.log").open("ab") as err,
        ):
            self._process = subprocess.Popen(
                [*self._prefix, *self._interpreter, "-m", "portside", "run", "-c", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=out if self._stdout is None else self._stdout,
                stderr=err if self._stderr is None else self._stderr,
                env=self._env,
                pass_fds=self._pass_fds,
            )

    def start(self) -> Instance:
        """Starts it (again) and waits until it takes clients."""
        starts = self.messages().count("; ready in ") if self._process else 0
        self.launch()

        def is_ready() -> bool:
            assert self.returncode is None, f"ended with {self.returncode}: {self.messages()}"
            return self.messages().count("; ready in ") > starts

        wait_until(is_ready, 20.0, "the instance does not get ready")
        return self

    @property
    def pid(self) -> int:
        """Its process id. ``ip netns exec`` and ``prlimit`` exec, so it is Portside's own."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 15.0) -> int:
        """Waits for the end and returns the exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        """Ends it, whatever it is doing."""
        process = self._process
        if process is None:
            return
        for _ in range(10):
            # The second SIGTERM ends the drain; sent at once the two would be one.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
                return
        process.kill()
        process.wait()

    # ---- what it says

    def cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A ``portside`` command aimed at this instance."""
        return subprocess.run(
            [*self._prefix, sys.executable, "-m", "portside", *args],
            capture_output=True,
            text=True,
            env=self._env,
            timeout=30,
            check=False,
        )

    def messages(self) -> str:
        """Everything on standard error so far."""
        return (self.folder / "err.log").read_text()

    def lines(self, file: str = "out.log") -> list[dict[str, Any]]:
        """The session log's complete lines, as JSON."""
        text = (self.folder / file).read_text()
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def stats(self) -> dict[str, Any]:
        """The engine's counters."""
        found: dict[str, Any] = self.admin.get("/v1/stats")
        return found

    def service(self, name: str) -> dict[str, Any]:
        """One service of ``/v1/services``."""
        return next(s for s in self.admin.get("/v1/services") if s["name"] == name)

    def server(self, name: str) -> dict[str, Any]:
        """One server of ``/v1/servers``."""
        return next(s for s in self.admin.get("/v1/servers") if s["name"] == name)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Events so far, of one kind."""
        found = self.admin.get("/v1/events", limit=1000)
        return [event for event in found if kind in ("", event["kind"])]

    def sessions_now(self) -> int:
        """How many sessions run."""
        return int(sum(worker["sessions"] for worker in self.stats()["workers"]))

    def reload(self, *, by_signal: bool = False) -> dict[str, Any]:
        """Reloads and returns the view of what happened, also when it was refused."""
        before = self._last_reload()
        if by_signal:
            self.signal(signal.SIGHUP)
            wait_until(lambda: self._last_reload() != before, 20.0, "no reload", 0.005)
        else:
            try:
                self.admin.post("/v1/reload")
            except PortsideError:
                assert self._last_reload() != before
        return self._last_reload() or {}

    def _last_reload(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.admin.get("/v1/status")["last_reload"]
        return found

    # ---- what it costs

    def cpu_s(self) -> float:
        """Processor time of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def open_files(self) -> int:
        """How many descriptors it holds."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def __enter__(self) -> Instance:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def listen_counters(pid: int) -> dict[str, int]:
    """ListenOverflows and ListenDrops of the network namespace that ``pid`` is in."""
    lines = Path(f"/proc/{pid}/net/netstat").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("TcpExt:"))
    found = dict(zip(names, map(int, values), strict=True))
    return {key: found[key] for key in ("ListenOverflows", "ListenDrops")}


def settle(seconds: float) -> None:
    """Lets time pass where nothing can be waited for: something must not happen meanwhile."""
    time.sleep(seconds)
