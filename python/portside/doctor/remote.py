"""Examines hosts over ssh: sends this package, gets facts back, in parallel.

The other side needs ssh, python3 (3.9 or newer) and nothing else: a zip of this very package goes
over ssh's standard input into memory there, gathers, prints JSON and leaves no file. Judging is
done here, so that every host is judged by the same rules. A host that fails is a value, not an end.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from portside.doctor.errors import DoctorError
from portside.doctor.facts import Facts, printable, read

COMMAND: Final = "PORTSIDE_SSH"
"""Environment variable with another command than ssh; it is called as ssh is: HOST COMMAND."""
_SSH: Final = "ssh -o BatchMode=yes -o ConnectTimeout=10 --"
_DEADLINE_S: Final = 60
_MOST_AT_ONCE: Final = 16
_MOST_BYTES: Final = 64 << 20
_MOST_WORDS: Final = 64 << 10
# One word for the far shell. memfd_create (Python 3.8): a sick host may have no room on its disk.
_BOOTSTRAP: Final = """
import os, runpy, sys
if sys.version_info < (3, 9):
    sys.exit("python3 there is %d.%d, the doctor needs 3.9 or newer" % sys.version_info[:2])
fd = os.memfd_create("doctor")
with open(fd, "wb", closefd=False) as file:
    file.write(sys.stdin.buffer.read())
runpy.run_path("/proc/self/fd/%d" % fd, run_name="__main__")
"""
_MAIN: Final = """
import json
from portside.doctor.gather import gather
print(json.dumps(gather({window_s!r}).as_dict()))
"""


@dataclass(frozen=True)
class Failure:
    """A host that could not be examined, and why, in one sentence."""

    host: str
    reason: str


def examine_hosts(hosts: Sequence[str], window_s: float) -> Iterator[tuple[str, Facts | Failure]]:
    """(host, its facts or why there are none), in the order of ``hosts``, as they come.

    Raises:
        DoctorError: a name that ssh would take for an option.
    """
    for host in hosts:
        if not host or host.startswith("-") or not host.isprintable():
            raise DoctorError(f"--ssh {host!r}: no host name; expected HOST1,HOST2 or USER@HOST")
    payload = package(window_s)
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, len(hosts))) as pool:
        answers = [pool.submit(_examine, host, payload) for host in hosts]
        for host, answer in zip(hosts, answers):
            yield host, answer.result()


def package(window_s: float) -> bytes:
    """A zip that gathers and prints: portside.errors and portside.doctor, nothing else."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _MAIN.format(window_s=window_s))
        archive.writestr("portside/__init__.py", "")
        root = files("portside")
        archive.writestr("portside/errors.py", root.joinpath("errors.py").read_bytes())
        _add(archive, root.joinpath("doctor"), "portside/doctor")
    return made.getvalue()


def _add(archive: zipfile.ZipFile, folder: Any, name: str) -> None:  # noqa: ANN401  Traversable
    for item in folder.iterdir():
        if item.is_dir():
            _add(archive, item, f"{name}/{item.name}")
        elif item.name.endswith(".py"):
            archive.writestr(f"{name}/{item.name}", item.read_bytes())


def _examine(host: str, payload: bytes) -> Facts | Failure:
    command = [*shlex.split(os.environ.get(COMMAND, _SSH)), host]
    command.append(f"python3 -c {shlex.quote(_BOOTSTRAP)}")
    with open(os.memfd_create("package"), "w+b") as package_file:
        package_file.write(payload)
        package_file.seek(0)
        try:
            process = subprocess.Popen(
                command, stdin=package_file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            return Failure(host, f"{command[0]} cannot be started: {error.strerror}")
    timer = threading.Timer(_DEADLINE_S, process.kill)
    timer.start()
    with process:
        # Bounded: a host that never stops talking is ended by the full pipe and the deadline.
        answer = process.stdout.read(_MOST_BYTES) if process.stdout else b""
        said = process.stderr.read(_MOST_WORDS) if process.stderr else b""
        code = process.wait()
    timer.cancel()
    if code == -signal.SIGKILL:
        return Failure(host, f"no answer within {_DEADLINE_S} s")
    if code != 0:
        return Failure(host, _reason(code, said))
    try:
        # A login shell may greet before the answer, which is the last line.
        return read(json.loads(answer.decode().strip().rpartition("\n")[2]))
    except (DoctorError, ValueError, RecursionError) as error:
        return Failure(host, f"its answer is not the doctor's: {printable(str(error))[:200]}")


def _reason(code: int, stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    said = printable(lines[-1]).strip()[:200] if lines else "it said nothing"
    if code == 127:  # the far shell's word for a command that is not there
        return f"python3 is not there ({said})"
    if code == 255:  # ssh's own
        return said if said.startswith("ssh") else f"ssh: {said}"
    return f"exit code {code}: {said}"
