"""A real HAProxy with a configuration file of a test."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.waiting import wait_until


class HAProxy:
    """One process in the foreground, serving once it is made.

    Args:
        program: its path.
        file: the configuration.
        env: on top of ours.
        folder: where its messages go.
        listens: addresses or paths that must accept before it counts as started.
    """

    def __init__(
        self,
        program: str,
        file: Path,
        env: Mapping[str, str],
        folder: Path,
        listens: Sequence[tuple[str, int] | str],
    ) -> None:
        self._log = (folder / "haproxy.log").open("wb")
        self._process = subprocess.Popen(
            [program, "-db", "-f", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **env},
        )
        try:
            for one in listens:
                wait_until(lambda one=one: self._accepts(one), 10, f"{file.name}: {one}")  # type: ignore[misc]
        except BaseException:
            self.end()
            print((folder / "haproxy.log").read_text())
            raise

    def _accepts(self, where: tuple[str, int] | str) -> bool:
        assert self._process.poll() is None, "haproxy ended"
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(where) == 0

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> HAProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
