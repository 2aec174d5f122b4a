"""A real Python 3.9, Debian 11's, unpacked beside the peers with its libc; not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.servers import peers_bin

_SCRIPT = Path(__file__).parents[3] / "shared" / "peers" / "debroot.sh"
_PACKAGES = ("python3.9-minimal", "libpython3.9-stdlib")


def python39() -> list[str] | str:
    """The command, fetched if need be; or the reason why there is none."""
    for installed in ("python3.9", *map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python"))):
        if shutil.which(installed) and _works([installed]):
            return [installed]
    root = peers_bin().parent / "py39"
    libraries = root / "usr" / "lib" / "x86_64-linux-gnu"
    program = root / "usr" / "bin" / "python3.9"
    if not program.exists():
        if not _SCRIPT.exists():
            return f"there is no python3.9, nor {_SCRIPT} to fetch Debian 11's"
        done = subprocess.run(
            ["bash", "-c", f'. "$0"; debroot bullseye py39 {" ".join(_PACKAGES)}', str(_SCRIPT)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PEERS": str(root.parent)},
        )
        if done.returncode != 0:
            return f"Debian 11's python3.9 cannot be fetched: {done.stderr.strip()[-300:]}"
    return [
        *("env", f"PYTHONHOME={root / 'usr'}", str(libraries / "ld-2.31.so")),
        *("--inhibit-cache", "--library-path", str(libraries), str(program)),
    ]


def _works(command: list[str]) -> bool:
    """A shim of pyenv is there also when the version behind it is not."""
    ask = [*command, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 9))"]
    return subprocess.run(ask, capture_output=True, check=False).returncode == 0
