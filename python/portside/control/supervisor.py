"""The process of ``portside run``: its start, its signals, its end.

Signals come through asyncio's wakeup descriptor, so that none is handled in the middle of
something: SIGTERM and SIGINT drain (a second one ends at once), SIGHUP reloads, SIGUSR1 reopens
the session log. The service manager hears of each step. What a balancer is and does is ``host``
and ``instance``.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from portside.config.load import load, warnings
from portside.config.model import Config
from portside.control import journal
from portside.control.dataplane import EngineFactory, make_engine
from portside.control.host import Host, Setup, version
from portside.control.journal import log
from portside.control.listeners import Listeners
from portside.control.log_file import refuse_unwritable
from portside.control.notify import Notifier, take_inherited_listeners
from portside.counted import counted
from portside.errors import ExitCode, PortsideError

STATUS_EVERY_S = 10.0


class Supervisor:
    """Runs one configuration file until a signal ends it.

    Args:
        path: of the file.
        config: loaded from it.
        factory: makes the engine.
        early_reloads: reload signals that come before anybody takes them.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        factory: EngineFactory = make_engine,
        early_reloads: list[int] | None = None,
    ) -> None:
        self._path = path
        self._early_reloads = [] if early_reloads is None else early_reloads
        self._is_ready = False
        self._notifier = Notifier()
        self._host = Host(
            Setup(config, lambda: load(path), str(path), is_process=True),
            listeners=Listeners(take_inherited_listeners()),
            factory=factory,
        )
        self._host.on_reload = self._follow_log_format
        self._drain = asyncio.Event()
        self._enough = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """From the start to the end; returns the exit code.

        Raises:
            PortsideError: the start failed.
        """
        self._take_signals()
        began = time.monotonic()
        await self._host.start()
        self._say_started(time.monotonic() - began)
        self._notifier.ready(self._status())
        self._is_ready = True
        if self._early_reloads:
            self._on_reload_signal()
        beats = asyncio.create_task(self._keep_notifying())
        await self._drain.wait()
        await self._end()
        beats.cancel()
        return ExitCode.GOOD

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)
        loop.add_signal_handler(signal.SIGUSR1, self._on_reopen_signal)

    def _on_end_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._drain.is_set():
            log.warning("%s again: ending at once", name)
            self._enough.set()
            return
        log.info("%s: draining", name)
        self._drain.set()

    def _on_reload_signal(self) -> None:
        if not self._is_ready:
            self._early_reloads.append(signal.SIGHUP)  # there is nothing to reload yet
            return
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        self._notifier.reloading()
        view = await self._host.reload()
        self._notifier.ready(
            self._status() if view.ok else f"last reload refused; {self._status()}"
        )

    def _follow_log_format(self) -> None:
        journal.attach(self._host.instance.config.log.format)

    def _on_reopen_signal(self) -> None:
        try:
            refuse_unwritable(self._host.instance.config.log.file)
            self._host.instance.plane.reopen_log()
        except PortsideError as error:
            log.error("the session log cannot be reopened, lines go on to the old file: %s", error)
        else:
            log.info("SIGUSR1: the session log was reopened")

    async def _end(self) -> None:
        instance = self._host.instance
        drain_s = instance.config.timeouts.drain_s
        running = instance.sessions_now()
        self._notifier.stopping(f"draining {running} sessions")
        if drain_s is not None:
            self._notifier.extend_timeout(drain_s + 10.0)
        left = await instance.drain(drain_s, self._enough)
        if left:
            log.warning("%d of %d sessions are still there and will be closed", left, running)
        hard = await self._host.stop(0.5 if self._enough.is_set() else 2.0)
        log.info("ended%s", f"; {hard} sessions were cut" if hard else "")

    async def _keep_notifying(self) -> None:
        """Signs of life while the loop turns, and a line for ``systemctl status``."""
        watchdog_s = self._notifier.watchdog_s
        told = 0.0
        while True:
            await asyncio.sleep(min(watchdog_s or STATUS_EVERY_S, STATUS_EVERY_S))
            self._notifier.alive()
            if time.monotonic() - told >= STATUS_EVERY_S:
                told = time.monotonic()
                self._notifier.status(self._status())

    def _status(self) -> str:
        instance = self._host.instance
        standing = instance.composed.standing
        good = sum(bool(service.active) for service in standing.values())
        return (
            f"{good} of {counted(len(standing), 'service')} with a server,"
            f" {counted(instance.sessions_now(), 'session')}"
        )

    def _say_started(self, took_s: float) -> None:
        config = self._host.instance.config
        for service in config.services:
            where = ", ".join(str(listen.address) for listen in service.listen)
            log.info("service %s listens on %s", service.name, where)
        log.info(
            "portside %s runs %s: %s, %s, %s; ready in %.1f s",
            version(),
            self._path,
            counted(len(config.services), "service"),
            counted(len(config.servers), "server"),
            counted(config.portside.workers, "worker"),
            took_s,
        )


def run(
    path: Path, factory: EngineFactory = make_engine, early_reloads: list[int] | None = None
) -> int:
    """Loads ``path`` and runs it; returns the exit code.

    Raises:
        ConfigError: every mistake of the file.
        PortsideError: the start failed; one sentence for each reason.
    """
    config = load(path)
    journal.attach(config.log.format)
    for problem in warnings(config):
        log.warning("%s", problem)

    async def main() -> int:
        return await Supervisor(path, config, factory, early_reloads).run()

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:  # before our handlers are there
        return ExitCode.NO
    finally:
        journal.flush()
