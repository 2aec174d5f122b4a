"""A real sshd in a network namespace: Debian's packages unpacked, not installed, no user added."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.namespace import Namespace
from tests.support.servers import peers_bin
from tests.support.waiting import wait_until

_PACKAGES = ("openssh-server", "openssh-client", "libwrap0")
_PORT = 2222


class NoSshd(Exception):
    """It cannot be had; the text says why."""


def _root() -> Path:
    root = peers_bin().parent / "sshd"
    if not (root / "usr" / "sbin" / "sshd").exists():
        root.mkdir(parents=True, exist_ok=True)
        fetched = _run(["apt-get", "-q", "download", *_PACKAGES], root)
        if fetched:
            raise NoSshd(f"apt-get download openssh-server failed: {fetched}")
        for package in root.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), str(root)], root)
            package.unlink()
    return root


def _run(command: list[str], folder: Path) -> str:
    """Empty, or what went wrong."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()[-300:]


class Sshd:
    """``with Sshd(place, folder) as sshd:`` lets root in by a key, on the namespace's loopback."""

    def __init__(self, place: Namespace, folder: Path) -> None:
        """Makes keys; NoSshd without the packages."""
        self._place, self._folder, self._root = place, folder, _root()
        for name in ("host", "user"):
            keygen = str(self._root / "usr" / "bin" / "ssh-keygen")
            subprocess.run(
                [keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
            )
        passwd = Path("/etc/passwd").read_text()
        (folder / "passwd").write_text(passwd + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")

    def __enter__(self) -> Sshd:
        options = {
            **{"Port": _PORT, "ListenAddress": "127.0.0.1", "HostKey": self._folder / "host"},
            **{"AuthorizedKeysFile": self._folder / "user.pub", "StrictModes": "no"},
            **{"UsePAM": "no", "PermitRootLogin": "prohibit-password", "PidFile": "none"},
        }
        words = " ".join(f"-o {key}={value}" for key, value in options.items())
        sshd = self._root / "usr" / "sbin" / "sshd"
        # ip netns exec gives a mount namespace of its own: neither mount is seen outside.
        script = (
            f"mount --bind {self._folder / 'passwd'} /etc/passwd; mount -t tmpfs none /run;"
            f" mkdir -m 755 /run/sshd; export LD_LIBRARY_PATH={self._libraries};"
            f" exec {sshd} -D -e -f /dev/null {words}"
        )
        log = (self._folder / "sshd.log").open("w")
        with log:
            self._process = subprocess.Popen(
                [*self._place.prefix, "sh", "-c", script], stdout=log, stderr=log
            )
        wait_until(
            lambda: "Server listening" in (self._folder / "sshd.log").read_text(), what="sshd"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    @property
    def _libraries(self) -> Path:
        return self._root / "usr" / "lib" / "x86_64-linux-gnu"

    @property
    def command(self) -> str:
        """Instead of ``ssh``, for ``$PORTSIDE_SSH``."""
        ssh = self._root / "usr" / "bin" / "ssh"
        return (
            f"{' '.join(self._place.prefix)} {ssh} -F none -p {_PORT} -i {self._folder / 'user'}"
            " -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no"
            " -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR --"
        )
