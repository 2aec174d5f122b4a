"""MariaDB's server plugins that Debian ships in mariadb-server, which the tests do not install.

They are looked for where that package puts them and in the cache of the peers; else the package is
downloaded (apt-get download, 4 MB) and unpacked there.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.support.servers import peers_bin

_INSTALLED = Path("/usr/lib/mysql/plugin")


def mariadb_plugins() -> Path | str:
    """The folder that has auth_ed25519.so, or the reason why there is none."""
    cached = peers_bin().parent / "mariadb-plugins"
    for folder in (_INSTALLED, cached):
        if (folder / "auth_ed25519.so").exists():
            return folder
    with tempfile.TemporaryDirectory() as work:
        got = _run(["apt-get", "download", "mariadb-server"], work)
        packages = list(Path(work).glob("mariadb-server_*.deb"))
        if not packages:
            return f"apt-get download mariadb-server: {got}"
        unpacked = _run(["dpkg", "-x", str(packages[0]), "."], work)
        plugins = Path(work) / "usr/lib/mysql/plugin"
        if not plugins.is_dir():
            return f"dpkg -x {packages[0].name}: {unpacked}"
        cached.parent.mkdir(parents=True, exist_ok=True)
        copied = _run(["cp", "-r", str(plugins), str(cached)], work)
    return cached if (cached / "auth_ed25519.so").exists() else f"cp: {copied}"


def _run(command: list[str], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr.strip()[-300:]
