"""`bind` lines to listen addresses.

A port range becomes one address for each port. What ends TLS is not carried: MySQL's TLS begins
after the greeting, so such a listener serves clients that Portside cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from portside.importer.draft import Listen
from portside.importer.haproxy import reasons
from portside.importer.haproxy.options import (
    BIND_FLAGS,
    BIND_VALUED,
    Grammar,
    Option,
    Refused,
    refuse,
)
from portside.importer.haproxy.proxies import Proxy
from portside.importer.haproxy.sections import Statement
from portside.importer.haproxy.values import Address, BadValue, address, number

# Each is a socket for each worker.
_RANGE_MAX: Final = 1000
_UNIX_KEYS: Final = ("mode", "user", "group")


@dataclass(frozen=True, slots=True)
class Bound:
    """What one `bind` line listens on."""

    line: Statement
    listens: tuple[Listen, ...]
    ports: tuple[int, ...]
    """TCP ports as HAProxy has them, without any shift."""
    accepts_proxy: bool
    max_connections: int


@dataclass(frozen=True, slots=True)
class UnixBind:
    """The global `unix-bind`: a prefix for paths, and who owns the sockets."""

    prefix: str = ""
    keys: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True, slots=True)
class BindReader:
    """Reads the binds of a proxy.

    Attributes:
        unix: what `unix-bind` says.
        port_offset: added to every port, for a run beside HAProxy; a unix path gets a suffix then.
        is_lenient: a HAProxy has taken the file.
    """

    unix: UnixBind
    port_offset: int
    is_lenient: bool

    def read(self, proxy: Proxy) -> list[Bound]:
        """What a frontend or listen is bound to, in order.

        Raises:
            Refused: HAProxy would refuse a line.
        """
        grammar = Grammar(BIND_VALUED, BIND_FLAGS, self.is_lenient)
        found = []
        for line in proxy.lists.get("bind", ()):
            if len(line.words) < 2:
                raise Refused(line.problem("a bind line needs an address"))
            options: dict[str, Option] = {}
            grammar.read(line, line.words[2:], options)
            if "ssl" in options:
                line.dropped(
                    "HAProxy ends TLS here, before MySQL's own beginning: stays with HAProxy;"
                    " clients that use MySQL's own TLS can come to Portside"
                )
                continue
            found.append(self._bound(line, options, proxy))
        return [one for one in found if one.listens]

    def _bound(self, line: Statement, options: dict[str, Option], proxy: Proxy) -> Bound:
        try:
            addresses = [address(text) for text in line.words[1].split(",")]
            limit = number(options["maxconn"].value) if "maxconn" in options else 0
            backlog = self._backlog(options, proxy)
        except BadValue as error:
            raise refuse(line, error) from None
        listens: list[Listen] = []
        ports: list[int] = []
        for one in addresses:
            if one.kind in ("ip", "any", "name") and not one.low:
                raise Refused(line.problem(f'"{line.words[1]}" has no port'))
            if one.kind in ("other", "name"):
                what = (
                    "a listener needs an IP address"
                    if one.kind == "name"
                    else ("abstract sockets and inherited descriptors: use a path, or LISTEN_FDS")
                )
                line.dropped(what, line.words[1])
                continue
            if one.high - one.low >= _RANGE_MAX:
                line.dropped(f"more than {_RANGE_MAX} ports: name those in use", line.words[1])
                continue
            listens += self._listens(line, one, options, backlog)
            ports += range(one.low, one.high + 1) if one.low else ()
        line.carried("service listen")
        self._note_others(line, options)
        return Bound(line, tuple(listens), tuple(ports), "accept-proxy" in options, limit)

    def _listens(
        self, line: Statement, one: Address, options: dict[str, Option], backlog: int
    ) -> list[Listen]:
        keys: tuple[tuple[str, str | int], ...] = (("backlog", backlog),) if backlog else ()
        if one.kind == "unix":
            path = self.unix.prefix + one.host
            if not path.startswith("/"):
                line.dropped("the path of a unix socket must be absolute", one.host)
                return []
            own = [(key, options[key].value) for key in _UNIX_KEYS if key in options]
            named = {key for key, _ in own}
            inherited = [pair for pair in self.unix.keys if pair[0] not in named]
            suffix = ".portside" if self.port_offset else ""
            unix_keys = tuple(_with_mode(own + inherited))
            return [Listen(f"unix:{path}{suffix}", line, unix_keys + keys)]
        found = []
        for port in range(one.low, one.high + 1):
            moved = port + self.port_offset
            if moved > 65535:
                message = f"port {port} and an offset of {self.port_offset} are above 65535"
                raise Refused(line.problem(message))
            found.append(Listen(one.at(moved), line, keys))
        return found

    def _backlog(self, options: dict[str, Option], proxy: Proxy) -> int:
        setting = proxy.settings.get("backlog")
        text = options["backlog"].value if "backlog" in options else proxy.word("backlog")
        if not text:
            return 0
        if setting is not None and "backlog" not in options:
            setting.carried("listen backlog")
        return min(number(text, 1), 65535)

    def _note_others(self, line: Statement, options: dict[str, Option]) -> None:
        known = {"accept-proxy", "maxconn", "backlog", "v4v6", *_UNIX_KEYS}
        for name in options.keys() - known:
            if name in ("uid", "gid"):
                key = "user" if name == "uid" else "group"
                line.dropped(f"owners go by name: listen {{ {key} = ... }}", name)
            else:
                reason = reasons.why(reasons.BIND, [name])
                line.dropped(reason or "TLS: Portside ends none", name)


def _with_mode(keys: list[tuple[str, str | int]]) -> list[tuple[str, str | int]]:
    """HAProxy's `mode 660` as Portside's "0660"."""
    return [(key, f"{value:0>4}" if key == "mode" else value) for key, value in keys]


def read_unix_bind(line: Statement) -> UnixBind:
    """The global `unix-bind` line."""
    words, prefix = list(line.words[1:]), ""
    keys: list[tuple[str, str | int]] = []
    while len(words) >= 2:
        name, value = words.pop(0), words.pop(0)
        if name == "prefix":
            prefix = value
        elif name in _UNIX_KEYS:
            keys.append((name, value))
        else:
            line.dropped("owners go by name: user and group", name)
    line.carried("listen { mode, user, group }")
    return UnixBind(prefix, tuple(keys))
