"""Runs a user's own check, ``package.module:function``, in processes of its own.

For: ``type = "python"``. A function may hang, crash, fork or print; none of that may touch the
balancer. So it runs in a process that was started afresh (never forked: the engine's threads
would not survive that), in a session of its own. Whatever it leaves behind is killed as one
process group. It must not
judge: outcomes become statuses here, counting is judge.py's.

A process is kept and used again while the function behaves, since starting Python takes some 50
ms of CPU. It is replaced after a deadline, a crash, or when the function left children or
threads behind.

    def check(server):           # portside.health.usercheck.CheckTarget
        return True              # alive
        return False             # not alive
        return "why not"         # not alive, and why
        return True, "note"      # alive, with a note; (False, "why not") likewise
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import IO

from portside.foreign_text import one_line

from .judge import CheckResult, Status

WORKERS_PER_FUNCTION = 4
# Starting Python and importing the user's module; not the server's time.
START_DEADLINE_S = 10.0
KEPT_OUTPUT_BYTES = 2048

# The child gets our sys.path, so that it finds what we would find.
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from portside.health.userworker import main; main(sys.argv[2], int(sys.argv[3]))"
)


@dataclass(frozen=True)
class CheckTarget:
    """What a user's function is called with.

    Attributes:
        name: the server's name in the configuration.
        addresses: "ip:port", "[ip6]:port" or "unix:/path", as configured or resolved.
        host, port: the first address; "" and 0 when it is a unix socket.
        unix_socket: the first address's path, or "".
        timeout_s: the function must return within this.
        user, password: of ``[check]``, "" when not set. The password is not shown by repr().
    """

    name: str
    addresses: tuple[str, ...]
    host: str = ""
    port: int = 0
    unix_socket: str = ""
    timeout_s: float = 2.0
    user: str = ""
    password: str = field(default="", repr=False)


class FunctionWorkers:
    """The processes of all user functions; to be used in one event loop and closed there."""

    def __init__(self, per_function: int = WORKERS_PER_FUNCTION) -> None:
        self._idle: dict[str, list[_Worker]] = defaultdict(list)
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._per_function = per_function
        self._ending: set[asyncio.Task[None]] = set()

    async def check(self, function: str, target: CheckTarget, timeout_s: float) -> CheckResult:
        """Calls the function once. Never raises, except CancelledError.

        Returns:
            L7OK; L7STS (it said no, or raised), L7TOUT, L7RSP (it crashed or returned something
            else); SOCKERR when it could not be called at all: nothing is known of the server then.
        """
        slot = self._slots.setdefault(function, asyncio.Semaphore(self._per_function))
        try:
            async with asyncio.timeout(timeout_s):
                await slot.acquire()
        except TimeoutError:
            text = f"{function}: no process was free in time; not the database"
            return CheckResult(Status.SOCKERR, detail=text)
        try:
            return await self._check(function, target, timeout_s)
        finally:
            slot.release()

    async def _check(self, function: str, target: CheckTarget, timeout_s: float) -> CheckResult:
        idle = self._idle[function]
        worker = idle.pop() if idle else None
        keep = False
        try:
            if worker is not None and not worker.is_alive:
                self._end(worker)
                worker = None
            if worker is None:
                worker = _start(function)
                await worker.ready()
            result, keep = await worker.call(target, timeout_s)
        except _StartError as error:
            result = CheckResult(Status.SOCKERR, detail=f"{function}: {error}")
        finally:
            if worker is not None:
                if keep:
                    idle.append(worker)
                else:
                    self._end(worker)
        return result

    def _end(self, worker: _Worker) -> None:
        """Kills the process and what it started now, and takes its leavings away later."""
        worker.kill()
        task = asyncio.get_running_loop().create_task(worker.bury())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Kills every process and what it started. No check may be running."""
        for idle in self._idle.values():
            for worker in idle:
                self._end(worker)
        self._idle.clear()
        await asyncio.gather(*self._ending)


class _StartError(Exception):
    """The function cannot be called, whatever the server does."""


class _Worker:
    """One process, what it answers on, and what it prints to."""

    def __init__(self, process: subprocess.Popen[bytes], reply_fd: int) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101  pipes
        self._process = process
        self._requests = process.stdin
        self._ends = (os.fdopen(reply_fd, "rb", 0), process.stdout)
        self._replies = asyncio.StreamReader()
        self._printed = asyncio.StreamReader()
        self._pipes: list[asyncio.ReadTransport] = []
        self._output = b""
        self._reading = asyncio.get_running_loop().create_task(self._read_output())

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def ready(self) -> None:
        """Waits for the import. Raises _StartError with the child's own words."""
        for reader, end in zip((self._replies, self._printed), self._ends, strict=True):
            self._pipes.append(await _read_from(end, reader))
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                line = await self._replies.readline()
        except TimeoutError:
            raise _StartError(f"its import took over {START_DEADLINE_S:.0f} s") from None
        if not line:
            raise _StartError(f"its process ended: {await self._death()}")
        if error := json.loads(line).get("error"):
            raise _StartError(str(error))

    async def call(self, target: CheckTarget, timeout_s: float) -> tuple[CheckResult, bool]:
        """The outcome, and whether the process may be used again."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                # The pipe is empty, so that this never waits.
                self._requests.write(json.dumps(asdict(target)).encode() + b"\n")
                line = await self._replies.readline()
        except TimeoutError:
            text = f"the function did not return within {timeout_s:g} s"
            return CheckResult(Status.L7TOUT, detail=text), False
        except OSError:
            line = b""
        if not line:
            text = f"the function's process died: {await self._death()}"
            return CheckResult(Status.L7RSP, detail=text, definitive=True), False
        reply = json.loads(line)
        status, detail = Status(reply["status"]), str(reply["detail"])
        result = CheckResult(status, loop.time() - started, detail, definitive=True)
        return result, bool(reply["clean"])

    async def _death(self) -> str:
        """How the process ended, and the last line that it printed."""
        try:
            async with asyncio.timeout(1.0):
                await self._exited()
                await self._reading
        except TimeoutError:
            return "it closed its reply pipe"
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        lines = self._output.decode("utf-8", "replace").strip().splitlines()
        return f"{how}; it printed: {one_line(lines[-1])}" if lines else how

    async def _read_output(self) -> None:
        """Takes what the function prints, so that it never blocks on a full pipe; keeps the end."""
        while chunk := await self._printed.read(4096):
            self._output = (self._output + chunk)[-KEPT_OUTPUT_BYTES:]

    async def _exited(self) -> None:
        """Waits for the end of the process, without a thread and without SIGCHLD."""
        if not self.is_alive:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        fd = os.pidfd_open(self._process.pid)
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        self._process.wait()

    def kill(self) -> None:
        """Ends the process and everything in its group, whose id is the process's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def bury(self) -> None:
        """After ``kill``: waits for the end, then closes the pipes."""
        await self._exited()
        self._reading.cancel()
        for pipe in self._pipes:
            pipe.close()
        for end in (*self._ends, self._requests):
            end.close()


async def _read_from(end: IO[bytes], reader: asyncio.StreamReader) -> asyncio.ReadTransport:
    protocol = asyncio.StreamReaderProtocol(reader)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: protocol, end)
    return transport


def _start(function: str) -> _Worker:
    """A process that is importing the function. Raises _StartError."""
    reading_end, writing_end = os.pipe()
    command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), function, str(writing_end)]
    try:
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing_end,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(reading_end)
        raise _StartError(f"no process for it: {error.strerror}") from None
    finally:
        os.close(writing_end)
    return _Worker(process, reading_end)
