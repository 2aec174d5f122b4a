"""`portside run` as a child process, with what tests ask of it: counters, log lines, descriptors.

The real command, not the API: its descriptors and its memory are its own, so that what a session
leaves behind can be counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from portside.admin.client import AdminClient
from portside.demo.held_port import HeldPort

from tests.support.waiting import wait_until

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}


class Proxy:
    """A running instance. ``toml`` holds servers and services; admin and log are added.

    A listener on port 0 gets a free port, which ``address`` tells.

    Attributes:
        pid: of the process.
        toml: servers and services in force.
    """

    def __init__(
        self, folder: Path, toml: str, *, workers: int = 2, prefix: list[str] | None = None
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = folder / "portside.toml"
        self._log = folder / "session.log"
        self._head = (
            f'[portside]\nworkers = {workers}\n[admin]\nsocket = "{folder}/admin.sock"\n'
            f'[log]\nfile = "{self._log}"\n'
        )
        held: list[HeldPort] = []

        def hold(found: re.Match[str]) -> str:
            held.append(HeldPort(_LOOPBACK.get(found[1], found[1]).strip("[]")))
            return f'"{found[1]}:{held[-1].port}"'

        # Explicit ports, so that a reload keeps its listeners.
        self.toml = re.sub(r'"([^"]+):0"', hold, toml)
        self._file.write_text(self._head + self.toml)
        self._errors = (folder / "err.log").open("ab")
        self._process = subprocess.Popen(
            [*(prefix or []), sys.executable, "-m", "portside", "run", "-c", str(self._file)],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
        )
        self.admin = AdminClient(f"unix:{folder}/admin.sock")
        try:
            self.pid = wait_until(self._started, 20, "portside answers on its admin socket")
        except BaseException:
            self.kill()
            raise
        finally:
            for one in held:
                one.release()
        # What it has open without any session. The workers' own descriptors are there by now.
        self.idle_fds = self.fds()

    def _started(self) -> int | None:
        if self._process.poll() is not None:
            raise RuntimeError(f"portside ended: {self.messages()[-2000:]}")
        try:
            return int(self.admin.get("/v1/status")["pid"])
        except Exception:  # not listening yet, in any of several ways
            return None

    def messages(self) -> str:
        """What it wrote to standard error."""
        return (self.folder / "err.log").read_text()

    def address(self, service: str, index: int = 0) -> tuple[str, int]:
        """Host and port of a TCP listener."""
        for one in self.admin.get("/v1/services"):
            if one["name"] == service:
                host, _, port = one["listen"][index].rpartition(":")
                return host.strip("[]"), int(port)
        raise KeyError(service)

    def stats(self) -> dict[str, Any]:
        return self.admin.get("/v1/stats")

    def service(self, name: str) -> dict[str, Any]:
        return next(s for s in self.stats()["services"] if s["name"] == name)

    def server(self, name: str) -> dict[str, Any]:
        return next(s for s in self.stats()["servers"] if s["name"] == name)

    def terminations(self) -> dict[str, int]:
        return self.stats()["terminations"]

    def sessions(self) -> list[dict[str, Any]]:
        return self.admin.get("/v1/sessions", limit=10_000)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.admin.get("/v1/events", limit=1000) if e["kind"] == kind]

    def reload(self, toml: str) -> None:
        """Puts another configuration in force; for an instance at rest, since listeners change."""
        self.toml = toml
        self._file.write_text(self._head + toml)
        assert self.admin.post("/v1/reload")["ok"]
        self.idle_fds = self.fds()

    def log_size(self) -> int:
        """A mark for ``log_lines``, behind the line of every session that has ended."""

        def written() -> bool:
            stats = self.stats()
            return sum(stats["terminations"].values()) == stats["log"]["written_total"]

        wait_until(written, 5, "the log is written")
        return self._log.stat().st_size if self._log.exists() else 0

    def log_lines(self, since: int = 0) -> list[dict[str, Any]]:
        """Session lines written behind a mark; they are at most 100 ms late."""
        with self._log.open("rb") as file:
            file.seek(since)
            whole, _, _ = file.read().rpartition(b"\n")
            return [json.loads(line) for line in whole.splitlines()]

    def last_line(self, since: int = 0) -> dict[str, Any]:
        """The one line behind a mark, waited for."""
        lines = wait_until(lambda: self.log_lines(since), 5, "a session line")
        assert len(lines) == 1, lines
        return lines[0]

    def fds(self) -> int:
        """Descriptors open now."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> int:
        """Resident bytes now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """Processor time used so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> list[str]:
        """What the process's descriptors are, for a failed test's message."""
        targets = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                targets.append(os.readlink(entry))
        return sorted(targets)

    def assert_at_rest(self, timeout_s: float = 10.0) -> None:
        """Sessions, slots, queues, leases and descriptors are back to zero."""

        def left() -> dict[str, int]:
            stats = self.stats()
            counts = {f"worker {w['id']}": w["sessions"] for w in stats["workers"]}
            for service in stats["services"]:
                counts[f"service {service['name']}"] = service["sessions"]
                counts[f"queue {service['name']}"] = service["queued"]
                for member in service["members"]:
                    counts[f"{service['name']}/{member['server']}"] = member["sessions"]
            counts |= {f"server {s['name']}": s["sessions"] for s in stats["servers"]}
            # Rows where the configuration says [source] ports; checks hold a lease for a moment.
            counts |= {f"leases {p['source']}": p["in_use"] for p in self.admin.get("/v1/ports")}
            # The admin connection that asks is one, and one may be closing.
            counts["descriptors"] = max(0, self.fds() - self.idle_fds - 2)
            return {name: n for name, n in counts.items() if n != 0}

        deadline = time.monotonic() + timeout_s
        while found := left():
            assert time.monotonic() < deadline, (
                f"left behind: {found}, {self.sessions()[:3]}, {self.open_files()}"
            )
            time.sleep(0.02)
        assert all(worker["alive"] for worker in self.stats()["workers"])
        assert not self.events("worker_died")

    def stop(self) -> None:
        """SIGTERM; asserts that it ended well."""
        self._process.send_signal(signal.SIGTERM)
        try:
            assert self._process.wait(40) == 0, self.messages()[-2000:]
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends it whatever it does; harmless when it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
