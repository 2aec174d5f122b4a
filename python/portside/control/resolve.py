"""Host names of servers into destinations, again and again.

A name with several addresses is several destinations of one server. Look-ups run in daemon
threads, because the C library's resolver may hang for half a minute and must hold up neither the
loop nor the end of the process. Decides nothing: what a failure means is said by the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Lookup = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a round of look-ups gave: addresses by name, and why the others failed."""

    found: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, str]


def is_name(host: str) -> bool:
    """Whether ``host`` has to be looked up: neither an IPv4 nor an IPv6 address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def look_up(host: str) -> tuple[str, ...]:
    """Every address of ``host``, sorted, so that a rotated answer is not a change. Blocks.

    Raises:
        OSError: the name does not resolve; ``str()`` carries the resolver's words.
    """
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found = {str(answer[4][0]) for answer in answers}
    return tuple(sorted(found, key=lambda ip: (":" in ip, ip)))


async def resolve(
    names: Iterable[str], timeout_s: float = 5.0, lookup: Lookup = look_up
) -> Resolution:
    """Looks every name up at once; a slow one counts as failed after ``timeout_s``."""
    wanted = sorted(set(names))
    answers = await asyncio.gather(*(_one(name, timeout_s, lookup) for name in wanted))
    found = {n: a for n, a in zip(wanted, answers, strict=True) if isinstance(a, tuple)}
    failed = {n: a for n, a in zip(wanted, answers, strict=True) if isinstance(a, str)}
    return Resolution(found, failed)


async def _one(name: str, timeout_s: float, lookup: Lookup) -> tuple[str, ...] | str:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...] | str] = loop.create_future()

    def settle(value: tuple[str, ...] | str) -> None:
        if not answer.done():
            answer.set_result(value)

    def work() -> None:
        try:
            value: tuple[str, ...] | str = lookup(name) or "no address"
        except (OSError, UnicodeError) as error:
            value = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value)

    threading.Thread(target=work, name=f"resolve-{name}", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, timeout_s)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
