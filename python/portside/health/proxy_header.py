"""Whether servers take the PROXY header that ``send_proxy`` sends them.

For: the start and a reload, so that a server which cannot work with it is said at once, and not by
every client. A header that is not taken is answered with an ERR right behind the greeting; the
version in the greeting proves nothing, since other proxies greet with one. It must not know the
instance; a server that does not answer is no mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .greeting import ServerError
from .probe import Prober
from .readings import dialect_of
from .target import CloseRule, Target

if TYPE_CHECKING:
    from portside.config.model import Server

TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Refusals:
    """Sentences: ``mistakes`` refuse the configuration, ``hints`` only warn."""

    mistakes: tuple[str, ...]
    hints: tuple[str, ...]


async def header_refusals(
    servers: Sequence[Server], destinations: Mapping[str, tuple[str, ...]]
) -> Refusals:
    """Greets each server once, all at the same time, in 2 s at most.

    Args:
        servers: those to greet; who has no ``send_proxy`` is passed over.
        destinations: resolved addresses, of servers with a host name.
    """
    asked = [
        Target(
            name=server.name,
            destinations=destinations.get(server.name) or tuple(map(str, server.addresses)),
            sources=server.source.ips,
            close=CloseRule(server.close.to_server, server.close.deadline_s),
            send_proxy=True,
            timeout_s=TIMEOUT_S,
            user=(server.check and server.check.user) or "",
            password=server.check.password.reveal()
            if server.check and server.check.password
            else "",
        )
        for server in servers
        if server.send_proxy
    ]
    if not asked:
        return Refusals((), ())
    prober = Prober()
    try:
        answers = await asyncio.gather(*(prober.greet(target) for target in asked))
    finally:
        await prober.close()
    mistakes: list[str] = []
    hints: list[str] = []
    for target, answer in zip(asked, answers, strict=True):
        if answer is None or answer.refusal is None:
            continue
        is_mariadb = dialect_of(answer.version).is_mariadb
        text = _sentence(target.name, answer.destination, answer.version, answer.refusal)
        if is_mariadb:
            # A matter of the server's configuration, which may follow ours.
            hints.append(f"{text} Add our addresses to its proxy_protocol_networks.")
        else:
            mistakes.append(
                f"{text} Oracle MySQL does not speak the PROXY protocol; Percona Server does for"
                " addresses in its proxy_protocol_networks. Remove send_proxy of this server."
            )
    return Refusals(tuple(mistakes), tuple(hints))


def _sentence(server: str, destination: str, version: str, refusal: ServerError) -> str:
    return (
        f"server {server}: {destination} (version {version}) refuses the PROXY header of"
        f" send_proxy: ERR {refusal.errno} {refusal.text.rstrip('.')}."
    )
