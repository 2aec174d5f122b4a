"""A mount namespace with a /run of its own, where the lab's names and its lock live.

Tests in one disturb no lab that somebody runs on this machine, and what a test leaves there is
exactly what the command left.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

_HOLD = "mount -t tmpfs none /run && touch {ready} && exec sleep infinity"


class Place:
    """A mount namespace with an empty /run, and an empty folder for temporary files."""

    def __init__(self, folder: Path) -> None:
        ready = folder / "ready"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        script = _HOLD.format(ready=shlex.quote(str(ready)))
        self._holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", script])
        wait_until(ready.exists, timeout_s=5)

    def command(self, *command: str) -> list[str]:
        # --wd: a new mount namespace is entered at its root.
        place = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        return ["nsenter", place, f"--wd={self.temporary.parent}", *command]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.temporary)}

    def start(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = self.command(*before, sys.executable, "-m", "portside", "lab", *arguments)
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def lab(self, *arguments: str, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Exit code, output and errors of a run that ends by itself."""
        process = self.start(*arguments, before=before)
        output, errors = process.communicate(timeout=100)
        return process.returncode, output, errors

    def names(self) -> list[str]:
        """Network namespaces with a name."""
        done = subprocess.run(
            self.command("ip", "netns", "list"), capture_output=True, text=True, check=True
        )
        return sorted(line.split()[0] for line in done.stdout.splitlines())

    def ip_netns(self, verb: str, name: str) -> None:
        subprocess.run(self.command("ip", "netns", verb, name), check=True)

    def processes(self) -> list[str]:
        """Command lines that carry this place's folder: balancers, databases."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
                if str(self.temporary) in line:
                    found.append(line)
        return found

    def is_clean(self) -> bool:
        return not self.names() and not self.processes() and not list(self.temporary.iterdir())

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
