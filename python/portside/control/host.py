"""An instance with its doors: the admin API, the metrics listener, and reloads.

What ``portside run`` and ``portside.Balancer`` have in common. Knows no signals and no process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from portside.admin import metrics, server
from portside.admin.serving import HttpServer, open_tcp, open_unix
from portside.admin.views import ReloadView, StatusView
from portside.config.dump import dump
from portside.config.model import Config
from portside.config.origins import origins
from portside.control import picture
from portside.control.dataplane import EngineFactory, make_engine
from portside.control.instance import Instance
from portside.control.listeners import Listeners
from portside.control.refusal import Refusal
from portside.control.reload import Reloader
from portside.control.resolve import Lookup, look_up
from portside.errors import PortsideError

ADMIN_SOCKET_MODE = 0o660


def version() -> str:
    """The version of the installed package."""
    try:
        return installed_version("portside")
    except PackageNotFoundError:
        return "unknown (not installed)"


@dataclass(frozen=True, slots=True)
class Setup:
    """How a host is made.

    Attributes:
        config: loaded.
        load: reads the configuration again for a reload; None: it did not come from a file.
        path: where it came from, for people.
        is_process: the process is ours alone: serve the default admin socket too, not only what
            ``[admin]`` names, and write the session log to standard output unasked.
    """

    config: Config
    load: Callable[[], Config] | None = None
    path: str = ""
    is_process: bool = False


class Host:
    """One instance, its admin API and its metrics, on the running loop."""

    def __init__(
        self,
        setup: Setup,
        *,
        listeners: Listeners | None = None,
        factory: EngineFactory = make_engine,
        lookup: Lookup = look_up,
    ) -> None:
        self.setup = setup
        self.instance = Instance(
            setup.config,
            listeners=listeners,
            factory=factory,
            lookup=lookup,
            owns_stdout=setup.is_process,
        )
        self.reloader = Reloader(self.instance)
        self.on_reload: Callable[[], None] = lambda: None
        """Called after every reload that was put in force, wherever it was asked for."""
        self._doors: list[tuple[HttpServer, Path | None]] = []

    async def start(self) -> None:
        """Binds everything, makes the first checks, accepts clients.

        Raises:
            PortsideError: something cannot be had; everything opened so far is closed again.
        """
        try:
            await self.instance.bind()
            self._open_doors()
            for door, _ in self._doors:
                await door.start()
            await self.instance.start()
        except BaseException:
            await self.stop(0.0)
            raise

    def _open_doors(self) -> None:
        config = self.setup.config
        admin = config.admin
        if self.setup.is_process or admin.socket_written is not None:
            path = Path(admin.socket)
            listener = open_unix(path, ADMIN_SOCKET_MODE)
            app = server.build(self, version())
            self._doors.append((HttpServer(app, listener, f"admin socket {path}"), path))
        if admin.listen is not None:
            self._token()
            app = server.build(self, version(), self._token)
            self._open_tcp_door(app, "admin API", str(admin.listen))
        if config.metrics.listen is not None:
            self._open_tcp_door(
                metrics.build(self, version()), "metrics", str(config.metrics.listen)
            )

    def _token(self) -> str:
        """The admin token in force, so that a reload replaces it for every request that follows."""
        token = self.instance.config.admin.token
        if token is None:  # config.verify says it first; never open without one
            raise PortsideError("[admin] listen needs a token.")
        return token.reveal()

    def _open_tcp_door(self, app: Starlette, what: str, address: str) -> None:
        self._doors.append((HttpServer(app, open_tcp(address), f"{what} at {address}"), None))

    async def stop(self, timeout_s: float = 2.0) -> int:
        """Ends everything, the admin API last; returns sessions cut hard."""
        self.instance.ring.close()
        hard = await self.instance.stop(timeout_s)
        for door, path in self._doors:
            await door.stop(path)
        self._doors.clear()
        return hard

    async def reload(self, config: Config | None = None, *, dry_run: bool = False) -> ReloadView:
        """Puts ``config`` in force, or the file read again; the view says what happened.

        Raises:
            Refusal: there is no file to read.
        """
        load = self.setup.load if config is None else (lambda: config)
        if load is None:
            raise Refusal(
                "this configuration came from a program, not from a file.",
                "Use Balancer.reload(config).",
                status=409,
            )
        view = await self.reloader.reload(load, dry_run=dry_run)
        if view.ok and not dry_run:
            self.on_reload()
        return view

    def status(self) -> StatusView:
        """One page."""
        stats = self.instance.stats()
        about = picture.About(
            version(),
            os.getpid(),
            self.setup.path,
            self.reloader.last,
            self.instance.started,
            time.time(),
        )
        return picture.status(
            about,
            stats,
            self.instance.composed,
            self.instance.services(stats),
            self.instance.servers(stats),
            port_views=self.instance.ports(),
        )

    def config_view(self) -> dict[str, Any]:
        """The configuration in force: as TOML, by value with its origin, and what overrides it."""
        config = self.instance.config
        return {
            "toml": dump(config),
            "values": [asdict(row) for row in origins(config)],
            "overrides": list(self.instance.composed.world.overrides.words(config)),
        }
