#!/usr/bin/env python3
"""Brings what the client programs of the tests need: ``fetch.py [PART ...]``; without a part, all.

Runs on the system's python3 without any package. Each part lies in .cache/clients/PART, with a
stamp of the files that name its versions, so that a second run only looks. A toolchain that is not
there is no failure: the tests of that part are skipped with the sentence that is printed here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "clients"

# Where Go is on machines that do not name it in PATH.
PATH = f"{os.environ.get('PATH', '')}:/usr/local/go/bin"
# Of the plugin that copies jars; the jars' own versions are in pom.xml.
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class Missing(Exception):
    """The machine lacks something, or a registry did not answer; the text says what."""


def need(program: str, cure: str) -> str:
    """Path of a program, or Missing with the cure."""
    found = shutil.which(program, path=PATH)
    if found is None:
        raise Missing(f"{program} is not installed: {cure}")
    return found


def call(*command: str | Path, cwd: Path | None = None) -> None:
    """Runs a command; Missing with its last lines when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        cwd=cwd,
        env={**os.environ, "PATH": PATH},
    )
    if done.returncode != 0:
        last = " | ".join(done.stdout.strip().splitlines()[-3:])
        raise Missing(f"{Path(command[0]).name} {command[1]} failed: {last}")


def python(into: Path) -> None:
    """A venv with the pure libraries, and ``suite``, a PyMySQL that has its own tests."""
    call(sys.executable, "-m", "venv", into / "venv")
    pip = (into / "venv" / "bin" / "python", "-m", "pip", "install", "--require-hashes",
           "--disable-pip-version-check", "--no-deps", "--quiet")  # fmt: skip
    call(*pip, "-r", HERE / "python" / "requirements.txt")
    call(*pip, "--target", into / "suite", "-r", HERE / "python" / "suite.txt")
    try:
        mysqlclient(pip)
    except Missing as reason:
        (into / "mysqlclient.missing").write_text(str(reason))


def mysqlclient(pip: tuple[str | Path, ...]) -> None:
    """It is built here, against MariaDB's library."""
    need("cc", "apt-get install gcc libc6-dev")
    need("mariadb_config", "apt-get install libmariadb-dev")
    call(*pip, "-r", HERE / "python" / "mysqlclient.txt")


def go(into: Path) -> None:
    """One program, the module checked against go.sum."""
    call(need("go", "https://go.dev/dl, or Debian's golang-go from 1.24 on"), "build",
         "-o", into / "client", ".", cwd=HERE / "go")  # fmt: skip


def node(into: Path) -> None:
    """node_modules as package-lock.json says."""
    need("node", "apt-get install nodejs npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "node" / name, into)
    call(need("npm", "apt-get install npm"), "ci", "--no-audit", "--no-fund", cwd=into)


def java(into: Path) -> None:
    """The jars, and the program compiled."""
    compiler = need("javac", "apt-get install default-jdk-headless")
    call(need("mvn", "apt-get install maven"), "-q", "-B", "-f", HERE / "java" / "pom.xml", COPY,
         f"-DoutputDirectory={into / 'jars'}")  # fmt: skip
    call(compiler, "-cp", into / "jars" / "*", "-d", into / "classes", HERE / "java" / "Main.java")


PARTS: dict[str, Callable[[Path], None]] = {"python": python, "go": go, "node": node, "java": java}


def digest(part: str) -> str:
    """Changes with the files that name a part's versions, and with what is compiled of it."""
    files = [HERE / "fetch.py", *(path for path in (HERE / part).iterdir() if path.is_file())]
    if part in ("python", "node"):  # these programs are not compiled
        files = [path for path in files if path.suffix in (".txt", ".json") or path.parent == HERE]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def is_there(part: str) -> bool:
    """True when a part is as its files want it."""
    stamp = CACHE / part / "stamp"
    return stamp.exists() and stamp.read_text() == digest(part)


def fetch(part: str) -> str | None:
    """None when a part is there now, else the reason why it is not."""
    if is_there(part):
        return None
    into = CACHE / part
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    try:
        PARTS[part](into)
    except Missing as reason:
        return str(reason)
    (into / "stamp").write_text(digest(part))
    return None


def main() -> int:
    """Exit 0; what is missing is said, and skipped by the tests."""

    def work(part: str) -> str:
        started = time.monotonic()
        reason = fetch(part)
        state = "there" if reason is None else f"skipped: {reason}"
        return f"clients: {part} {state} ({time.monotonic() - started:.1f} s)"

    with ThreadPoolExecutor() as threads:
        for line in threads.map(work, sys.argv[1:] or PARTS):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
