"""Child processes that do not outlive us, wherever they run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path


def death_note() -> list[str]:
    """Command prefix: the kernel kills the child when the thread that started it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


class Child:
    """One child process with its output in a file.

    Attributes:
        log: where its standard output and error go.
    """

    def __init__(
        self, command: Sequence[str | Path], log: Path, prefix: Sequence[str] = ()
    ) -> None:
        """Starts it at once; FileNotFoundError when the program is missing."""
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*prefix, *death_note(), *(str(part) for part in command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us; we end our children in order
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True until it has ended."""
        return self._process.poll() is None

    def end(self, timeout_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL; returns when it is gone."""
        if not self.is_running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_s(self) -> float:
        """CPU seconds used so far by all its threads."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        user, system = text[text.rindex(")") :].split()[12:14]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def last_lines(self, count: int = 5) -> str:
        """The end of its output, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def end_all(children: Iterable[Child]) -> None:
    """Ends every one, and is not ended itself by an impatient Ctrl-C."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.end()
    finally:
        signal.signal(signal.SIGINT, previous)
