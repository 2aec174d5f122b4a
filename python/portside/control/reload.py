"""A reload: a new file checked, compared and put in force, or refused with its mistakes.

All or nothing: whatever is wrong, the configuration in force stays. One at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from portside.admin.views import ReloadView
from portside.config.load import warnings
from portside.control.difference import changes, restart_mistakes
from portside.control.log_file import refuse_unwritable
from portside.counted import counted
from portside.errors import ConfigError, PortsideError

if TYPE_CHECKING:
    from portside.config.model import Config, Server
    from portside.control.instance import Instance

log = logging.getLogger("portside")

Load = Callable[[], "Config"]


class Reloader:
    """Reloads one instance; remembers how the last one went."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._lock = asyncio.Lock()
        self.last: ReloadView | None = None

    async def reload(self, load: Load, *, dry_run: bool = False) -> ReloadView:
        """Puts what ``load`` returns in force. ``load`` may block: it runs in a thread.

        Never raises for a mistake: the view says what was wrong, and the old configuration stays.
        """
        async with self._lock:
            view = await self._try(load, dry_run)
            if not dry_run:
                self.last = view
                self._instance.tell("reload" if view.ok else "reload_refused", _event_text(view))
            return view

    async def _try(self, load: Load, dry_run: bool) -> ReloadView:
        try:
            config = await asyncio.to_thread(load)
            old = self._instance.config
            placed = self._instance.fitted(config)
            mistakes = restart_mistakes(old, placed)
            if mistakes:
                return _refused(mistakes)
            await self._instance.resolve_new(placed)
            if not dry_run:  # which makes no file
                refuse_unwritable(placed.log.file)
            new = [server for server in placed.servers if _is_greeted_anew(old, server)]
            await self._instance.refuse_proxy_headers(placed, new)
            changed = changes(old, placed)
            doubts = tuple(str(doubt) for doubt in await asyncio.to_thread(warnings, config))
            if dry_run:
                text = _sentence(changed, "would change")
                return ReloadView(True, time.time(), text, changed, warnings=doubts)
            await self._instance.take_config(placed)
        except ConfigError as error:
            return _refused(tuple(str(problem) for problem in error.problems))
        except PortsideError as error:
            return _refused(tuple(str(error).splitlines()))
        finally:
            # Also of a file that was refused just now.
            self._instance.forget_unused()
        for doubt in doubts:
            log.warning("%s", doubt)
        text = _sentence(changed, "changed")
        return ReloadView(True, time.time(), text, changed, warnings=doubts)


def _is_greeted_anew(old: Config, server: Server) -> bool:
    before = old.by_name.get(server.name)
    return before is None or (before.addresses, before.send_proxy) != (
        server.addresses,
        server.send_proxy,
    )


def _refused(mistakes: tuple[str, ...]) -> ReloadView:
    count = counted(len(mistakes), "mistake")
    text = f"not reloaded: {count}; the configuration in force stays."
    return ReloadView(False, time.time(), text, (), mistakes)


def _sentence(changed: tuple[str, ...], verb: str) -> str:
    if not changed:
        return "The file says what is already in force."
    done = "Reloaded" if verb == "changed" else "Dry run"
    return f"{done}: {counted(len(changed), 'thing')} {verb}."


def _event_text(view: ReloadView) -> str:
    return "; ".join((view.message.removesuffix("."), *(view.mistakes or view.changes)))
