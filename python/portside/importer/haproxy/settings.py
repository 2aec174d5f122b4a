"""The keys of a service: balance, limits, timeouts, retries, what happens when servers go and come.

Each method looks at one matter, sets its keys and says so in the lines it came from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from portside.importer.draft import Keys
from portside.importer.haproxy.binds import Bound
from portside.importer.haproxy.options import refuse
from portside.importer.haproxy.proxies import Proxy
from portside.importer.haproxy.sections import Statement
from portside.importer.haproxy.servers import Instance
from portside.importer.haproxy.values import BadValue, duration, milliseconds, number

_BALANCE: Final = {
    "roundrobin": "roundrobin",
    "static-rr": "roundrobin",
    "leastconn": "leastconn",
    "first": "first",
    "source": "client-hash",
}
# HAProxy's default since 1.0; Portside's is the same.
_RETRIES: Final = 3


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """One frontend and its backend; the same proxy twice for a listen."""

    front: Proxy
    back: Proxy
    instances: Sequence[Instance]

    def read(self, bounds: Sequence[Bound]) -> Keys:
        """The keys of the service; adds `timeouts.connect` and keepalive to the instances.

        Raises:
            Refused: HAProxy would refuse a value.
        """
        keys: Keys = {}
        self._balance(keys)
        self._limit(keys, bounds)
        self._retries(keys)
        self._timeouts(keys)
        stuck = self._stuck()
        self._servers_gone(keys)
        if stuck:
            keys["failback"] = "manual"
        self._closes()
        self._keepalive()
        self._quiet()
        for proxy in (self.front, self.back):
            if "mode" in proxy.settings:
                proxy.settings["mode"].carried('mode = "relay"')
        return keys

    def _balance(self, keys: Keys) -> None:
        line = self.back.settings.get("balance")
        if line is None:
            return
        words = line.words[1:] or ("",)
        name = "source" if words[:2] == ("hash", "src") else words[0]
        if re.fullmatch(r"random(\(\d+\))?", name):
            keys["balance"] = "random2"
            line.carried('balance = "random2"')
            return
        found = _BALANCE.get(name)
        if found is None:
            line.dropped("the algorithm looks into http: roundrobin instead", " ".join(line.words))
            return
        if found != "roundrobin":
            keys["balance"] = found
        if found == "client-hash":
            line.changed("other clients than before meet the same server: each keeps to one")
        else:
            line.carried(f'balance = "{found}"')

    def _limit(self, keys: Keys, bounds: Sequence[Bound]) -> None:
        line = self.front.settings.get("maxconn")
        limit = self._number(line, self.front.word("maxconn")) if line is not None else 0
        own = [bound.max_connections for bound in bounds]
        if len(own) == 1 and own[0]:
            limit = min(limit or own[0], own[0])
        elif any(own):
            for bound in bounds:
                if bound.max_connections:
                    bound.line.dropped("a limit belongs to the service: max_connections", "maxconn")
        if limit:
            keys["max_connections"] = limit
            for one in [line] if line is not None else [bounds[0].line]:
                one.changed(
                    "max_connections: clients above it wait in the service's queue (queue,"
                    " timeouts.queue); in HAProxy they wait in the kernel's"
                )

    def _retries(self, keys: Keys) -> None:
        line = self.back.settings.get("retries")
        retries = _RETRIES
        if line is not None:
            retries = self._number(line, self.back.word("retries"))
            line.carried("retries")
        if retries != _RETRIES:
            keys["retries"] = min(retries, 100)
        redispatch = self.back.has("redispatch")
        if redispatch is not None:
            redispatch.changed(
                "the first retry already goes to another server, without the second of delay; in"
                " HAProxy only the last one does"
            )
        elif line is not None and retries and len(self.instances) > 1:
            line.changed("a retry goes to another server where there is one, as with redispatch")

    def _timeouts(self, keys: Keys) -> None:
        connect = self._time(self.back, "timeout connect")
        if connect:
            for one in self.instances:
                one.keys["timeouts.connect"] = duration(connect)
            self.back.settings["timeout connect"].carried("timeouts.connect")
        tunnel = self.back.settings.get("timeout tunnel")
        client = self._time(self.front, "timeout client")
        server = self._time(self.back, "timeout server")
        idle = min((value for value in (client, server) if value), default=0)
        if tunnel is not None:
            idle = self._time(self.back, "timeout tunnel")
            tunnel.carried("timeouts.idle: it replaces timeout client and server")
        if idle:
            keys["timeouts.idle"] = duration(idle)
        for proxy, key in ((self.front, "timeout client"), (self.back, "timeout server")):
            line = proxy.settings.get(key)
            if line is not None:
                shorter = "timeouts.idle, the shorter of client and server"
                line.carried("replaced by timeout tunnel" if tunnel is not None else shorter)
        self._queue(keys, connect)

    def _queue(self, keys: Keys, connect: int) -> None:
        line = self.back.settings.get("timeout queue")
        queue = self._time(self.back, "timeout queue")
        if line is not None:
            keys["timeouts.queue"] = duration(queue)
            line.carried("timeouts.queue")
        elif connect and any("max_connections" in one.keys for one in self.instances):
            keys["timeouts.queue"] = duration(connect)  # HAProxy's default

    def _servers_gone(self, keys: Keys) -> None:
        closing = [one for one in self.instances if one.closes_sessions]
        if not closing:
            keys["on_down"] = "keep-sessions"
        for one in self.instances if closing and len(closing) < len(self.instances) else ():
            if not one.closes_sessions:
                one.line.changed("its sessions are closed when it goes down, as the others'")
        backups = [one for one in self.instances if one.is_backup]
        every = self.back.has("allbackups")
        if backups:
            keys["failback"] = "auto"
        if every is not None:
            every.carried("every backup takes part, always")
        elif len(backups) > 1:
            self._one_backup(keys, backups)

    def _stuck(self) -> bool:
        """`stick on dst`: every client on one server, and it stays when another one returns."""
        line = self.back.settings.get("stick")
        if line is None or line.words[1:3] != ("on", "dst") or len(self.instances) < 2:
            return False
        if {"if", "unless"} & set(line.words):
            return False
        first = next((one for one in self.instances if one.weight and not one.is_backup), None)
        for one in self.instances:
            one.is_backup = one is not (first or self.instances[0])
        line.changed(
            "ATTENTION, one server takes every session, the others are backups, and failback ="
            ' "manual": a server that was replaced waits for portside switch, also when it is the'
            " last one left"
        )
        return True

    def _one_backup(self, keys: Keys, backups: Sequence[Instance]) -> None:
        """HAProxy uses the first backup that is up, alone; `first` is the same over one server.

        A full server passes sessions on to the next one in `first`, and lets them wait in HAProxy.
        """
        is_plain = len(self.instances) - len(backups) <= 1 or keys.get("balance") == "first"
        if is_plain and not any("max_connections" in one.keys for one in backups[:-1]):
            keys["balance"] = "first"
            for one in backups:
                one.line.carried('balance = "first": one backup at a time, in this order')
            return
        for one in backups:
            one.line.changed(
                "ATTENTION, several backups take sessions at a time, HAProxy uses the first one"
                " alone: where they are written to, leave one backup (the others weight = 0), or"
                ' require = "writable"',
                "backup",
            )

    def _closes(self) -> None:
        line = self.back.has("nolinger")
        if line is not None:
            line.changed(
                'close.to_server = "eof-reset", the default: no TIME_WAIT either, and no aborted'
                ' clients at the database; "reset-now" is what nolinger does'
            )
        line = self.front.has("nolinger")
        if line is not None and self.front is not self.back:
            line.changed('close.to_client = "fin-reset", the default: no client loses data by it')

    def _keepalive(self) -> None:
        for proxy, name in ((self.front, "clitcpka"), (self.back, "srvtcpka")):
            for line in (proxy.has(name), proxy.has("tcpka")):
                if line is not None:
                    line.carried("keepalive is on, always: after a minute")
        idle = self._time(self.back, "srvtcpka-idle")
        if idle:
            for one in self.instances:
                one.keys["source.keepalive"] = duration(idle)
            self.back.settings["srvtcpka-idle"].carried("source.keepalive")

    def _quiet(self) -> None:
        line = self.front.has("dontlog-normal")
        if line is not None:
            line.dropped('[log] sessions = "errors", for every service')

    def _time(self, proxy: Proxy, key: str) -> int:
        line = proxy.settings.get(key)
        if line is None:
            return 0
        try:
            return milliseconds(proxy.word(key), "s" if key == "srvtcpka-idle" else "ms")
        except BadValue as error:
            raise refuse(line, error, key) from None

    def _number(self, line: Statement, text: str) -> int:
        try:
            return number(text)
        except BadValue as error:
            raise refuse(line, error, line.keyword) from None
