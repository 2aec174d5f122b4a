"""The servers' host names and what they resolved to last.

At the start and for a reload every new name must resolve: a name with a typing error is a mistake
of the file. Later a failed look-up keeps the old addresses: a name server's outage is not the
database's.
"""

from __future__ import annotations

from collections.abc import Mapping

from portside.config.addresses import Address
from portside.config.model import Config, Server
from portside.control.resolve import Lookup, Resolution, look_up, resolve
from portside.errors import PortsideError

News = tuple[str, str, str]
"""Kind, text and server of an event."""


class Names:
    """Remembers the last good answer per host name."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._known: dict[str, tuple[str, ...]] = {}
        self._failing: set[str] = set()

    async def resolve_new(self, config: Config) -> None:
        """Looks up the names that are not known yet.

        Raises:
            PortsideError: a name that was never resolved does not resolve; all of them are named.
        """
        answer = await resolve(names_of(config) - self._known.keys(), lookup=self._lookup)
        wrong = [
            f"server {server.name}: the name {address.host} does not resolve: "
            f"{answer.failed[address.host]}"
            for server in config.servers
            for address in server.addresses
            if address.kind == "name" and address.host in answer.failed
        ]
        if wrong:
            raise PortsideError("\n".join(f"{text}." for text in wrong))
        self._known.update(answer.found)

    async def look_up(self, config: Config) -> Resolution:
        """The answers of now for every name; nothing is taken: seconds may pass meanwhile."""
        return await resolve(names_of(config), lookup=self._lookup)

    def take(self, answer: Resolution, config: Config) -> tuple[News, ...]:
        """Remembers answers, and says what is worth telling of the servers of ``config``.

        A reload may have come between question and answer: only names that are still known count.
        """
        news = tuple(
            entry
            for server in config.servers
            for address in server.addresses
            if address.kind == "name"
            for entry in self._news(server, address, answer)
        )
        self._failing = set(answer.failed)
        self._known.update({h: ips for h, ips in answer.found.items() if h in self._known})
        return news

    def destinations(self, config: Config) -> dict[str, tuple[str, ...]]:
        """Destinations by server, for servers with a host name, from the last good answers."""
        return destinations(config, self._known)

    def forget_others(self, config: Config) -> None:
        """Forgets names that ``config``, in force now, has not; one that returns is looked up."""
        kept = names_of(config)
        self._known = {host: ips for host, ips in self._known.items() if host in kept}

    def _news(self, server: Server, address: Address, answer: Resolution) -> list[News]:
        host = address.host
        old = self._known.get(host, ())
        if host in answer.failed:
            if host in self._failing:
                return []  # told when it began
            kept = ", ".join(old)
            text = f"server {server.name}: {host}: {answer.failed[host]}; {kept} is kept"
            return [("resolve_failed", text, server.name)]
        new = answer.found.get(host, old)  # not asked for: a reload brought it meanwhile
        if new != old:
            text = f"server {server.name}: {host} is now {', '.join(new)} (was {', '.join(old)})"
            return [("resolved", text, server.name)]
        if host in self._failing and host in answer.found:
            return [("resolved", f"server {server.name}: {host} resolves again", server.name)]
        return []


def names_of(config: Config) -> set[str]:
    """Every host name of a configuration's servers."""
    return {
        address.host
        for server in config.servers
        for address in server.addresses
        if address.kind == "name"
    }


def destinations(
    config: Config, known: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Destinations of each server that has a host name; several addresses are several of them."""
    found = {}
    for server in config.servers:
        if any(address.kind == "name" for address in server.addresses):
            each = (one for address in server.addresses for one in _expand(address, known))
            found[server.name] = tuple(dict.fromkeys(each))
    return found


def _expand(address: Address, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if address.kind != "name":
        return (str(address),)
    return tuple(str(Address("ip", ip, address.port)) for ip in known.get(address.host, ()))
