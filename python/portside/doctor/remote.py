"""Examines hosts over ssh: sends this package, gets facts back, in parallel.

The other side needs ssh, python3 (3.9 or newer) and nothing else: a zip of this very package goes
over ssh's standard input into memory there, gathers, prints JSON and leaves no file. Judging is
done here, so that every host is judged by the same rules. A host that fails is a value, not an end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
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
_LOOK_S: Final = 0.1  # between two looks at whether it has ended
_PIECE_BYTES: Final = 1 << 16
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
    stop = threading.Event()
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, len(hosts))) as pool:
        answers = [pool.submit(_examine, host, payload, stop) for host in hosts]
        try:
            for host, answer in zip(hosts, answers):
                yield host, answer.result()
        finally:
            stop.set()  # Ctrl-C does not reach ssh, which is in a session of its own


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


def _examine(host: str, payload: bytes, stop: threading.Event) -> Facts | Failure:
    command = [*shlex.split(os.environ.get(COMMAND, _SSH)), host]
    command.append(f"python3 -c {shlex.quote(_BOOTSTRAP)}")
    with open(os.memfd_create("package"), "w+b") as package_file:
        package_file.write(payload)
        package_file.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=package_file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a group, so that its children can be ended with it
            )
        except OSError as error:
            return Failure(host, f"{command[0]} cannot be started: {error.strerror}")
    in_time, answer, said = _listen(process, stop)
    if not in_time:
        return Failure(host, f"no answer within {_DEADLINE_S} s")
    if process.returncode != 0:
        return Failure(host, _reason(process.returncode, said))
    try:
        # A login shell may greet before the answer, which is the last line.
        return read(json.loads(answer.decode().strip().rpartition("\n")[2]))
    except (DoctorError, ValueError, RecursionError):
        return Failure(
            host, f"it answers with something that is not doctor's report{_begin(answer)}"
        )


def _begin(answer: bytes) -> str:
    words = printable(answer[:400].decode("utf-8", "replace").strip())[:80]
    return f": {words!r}" if words else ": nothing"


def _listen(process: subprocess.Popen[bytes], stop: threading.Event) -> tuple[bool, bytes, bytes]:
    """Whether it ended in time, and what it wrote to standard output and error.

    Never waits for the end of a pipe: a child that it leaves behind may hold the other end.
    """
    deadline = time.monotonic() + _DEADLINE_S
    answer, said = bytearray(), bytearray()
    pipes = ((process.stdout, answer, _MOST_BYTES), (process.stderr, said, _MOST_WORDS))
    with selectors.DefaultSelector() as selector:
        for pipe, kept, most in pipes:
            if pipe is not None:  # never: both are asked for
                selector.register(pipe, selectors.EVENT_READ, (kept, most))
        while True:
            ended = process.poll() is not None  # before the look: then everything is in the pipes
            events = selector.select(0 if ended else _LOOK_S)
            for key, _ in events:
                kept, most = key.data
                part = os.read(key.fd, _PIECE_BYTES)
                kept += part
                # Bounded: one that never stops talking is held by the full pipe and the deadline.
                if not part or len(kept) >= most:
                    selector.unregister(key.fileobj)
            in_time = time.monotonic() < deadline and not stop.is_set()
            if (ended and not events) or not in_time:
                break
    if not in_time:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_LOOK_S)
    for pipe, _, _ in pipes:
        if pipe is not None:
            pipe.close()
    return in_time, bytes(answer), bytes(said)


def _reason(code: int, stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    said = printable(lines[-1]).strip()[:200] if lines else "it said nothing"
    if code == 127:  # the far shell's word for a command that is not there
        return f"python3 is not there ({said})"
    if code == 255:  # ssh's own
        return said if said.startswith("ssh") else f"ssh: {said}"
    return f"exit code {code}: {said}"
