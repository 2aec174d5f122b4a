"""Health checks: `check` with its times, and the kind that the backend's `option ...-check` says.

Without a user Portside's check is a TCP one, so a `check` table names no type. What HAProxy's kind
proved, and what proves it now, is in the note. A greeting alone is never carried: the server counts
it as an aborted connection and blocks the address after a hundred (docs/health.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from portside.importer.draft import Keys
from portside.importer.haproxy.options import Option, Refused, refuse
from portside.importer.haproxy.proxies import Proxy
from portside.importer.haproxy.sections import Statement
from portside.importer.haproxy.values import BadValue, duration, milliseconds, number

_DEFAULT_MS: Final = 2000
_QUERY: Final = 'user, password and query = "SELECT @@wsrep_ready"'
_WEAKER: Final = "ATTENTION, a server that only accepts connections counts as healthy"
_KINDS: Final[Mapping[str, str]] = {
    "mysql-check": "",
    "tcp-check": "",
    "httpchk": f"{_WEAKER}: a TCP check instead of an agent over http; what such an agent looks at,"
    f" Portside asks the server itself: [check] {_QUERY}, or require and max_lag of a service",
    "external-check": f"{_WEAKER}: a TCP check instead of a program; your own is Python: type ="
    ' "python"',
}
OTHER_PROTOCOLS: Final[Mapping[str, str]] = {
    "redis-check": "Redis",
    "pgsql-check": "PostgreSQL",
    "smtpchk": "SMTP",
    "ldap-check": "LDAP",
    "ssl-hello-chk": "TLS",
    "spop-check": "SPOP",
}
_ADDRESSED: Final = ("port", "addr")


@dataclass(slots=True)
class Checks:
    """Keys of the check, and the options that it has used up."""

    keys: Keys = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def kind_of(back: Proxy) -> tuple[str, Statement] | None:
    """The check option in force, the last one said, and its line."""
    known = {*_KINDS, *OTHER_PROTOCOLS}
    found = [
        (key.removeprefix("option "), line)
        for key, line in back.settings.items()
        if key.removeprefix("option ") in known
    ]
    return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class CheckReader:
    """Reads the check of one server line, whose own port is `own_port`."""

    back: Proxy
    own_port: str

    def read(self, options: Mapping[str, Option]) -> Checks:
        """The `check` table of a server; `check = false` for one that is not checked.

        Raises:
            Refused: HAProxy would refuse a value.
        """
        found = Checks(used={"check", "inter", "fastinter", "downinter", "rise", "fall", "track"})
        found.used |= set(_ADDRESSED)
        if "check" not in options and "track" not in options:
            found.keys["check"] = False
            return found
        if "track" in options:
            options["track"].line.changed(
                "a check of its own; a server that several services use is checked once", "track"
            )
        self._times(options, found.keys)
        self._kind(found.keys)
        for name in _ADDRESSED:
            if name in options and options[name].value != self.own_port:
                options[name].line.changed("the check goes to the address that sessions use", name)
        return found

    def _times(self, options: Mapping[str, Option], keys: Keys) -> None:
        inter = _time(options, "inter")
        fast = _time(options, "fastinter")
        if inter:
            keys["check.interval"] = duration(inter)
        if inter or fast:
            # Without fastinter HAProxy keeps its pace while in doubt; Portside's own is quicker.
            keys["check.fast_interval"] = duration(fast or inter or _DEFAULT_MS)
        if "downinter" in options:
            note = "a server that is down is checked every check.interval"
            options["downinter"].line.changed(note, "downinter")
        for name in ("rise", "fall"):
            if name in options:
                option = options[name]
                try:
                    keys[f"check.{name}"] = number(option.value, 1)
                except BadValue as error:
                    raise refuse(option.line, error, name) from None
        self._timeout(inter or _DEFAULT_MS, keys, is_default=inter is None)

    def _timeout(self, inter: int, keys: Keys, *, is_default: bool) -> None:
        """HAProxy: connect within min(timeout connect, inter), answer within `timeout check`."""
        line = self.back.settings.get("timeout check")
        connect = self._setting("timeout connect") or inter
        if line is not None:
            keys["check.timeout"] = duration(
                min(connect, inter) + (self._setting("timeout check") or 0)
            )
            line.carried("check.timeout, which counts from the first packet")
        elif not is_default:
            keys["check.timeout"] = duration(inter)

    def _setting(self, key: str) -> int:
        line, text = self.back.settings.get(key), self.back.word(key)
        if line is None:
            return 0
        try:
            return milliseconds(text)
        except BadValue as error:
            raise refuse(line, error, key) from None

    def _kind(self, keys: Keys) -> None:
        found = kind_of(self.back)
        if found is None:
            return
        kind, line = found
        if kind == "mysql-check":
            _mysql(line, keys)
        elif kind == "tcp-check":
            self._tcp(line)
        else:
            line.changed(_KINDS.get(kind) or "a TCP check: the port must answer")

    def _tcp(self, line: Statement) -> None:
        rules = [
            rule
            for rule in self.back.lists.get("tcp-check", ())
            if rule.words[1:2] != ("comment",)
            and rule.words[1:] not in (("connect",), ("connect", "port", self.own_port))
        ]
        for rule in self.back.lists.get("tcp-check", ()):
            if rule in rules:
                rule.dropped(
                    "the check only connects; one that asks MySQL is [check] user, password, query"
                )
            else:
                rule.carried("a TCP check")
        if rules:
            line.changed(f"{_WEAKER}: the check connects, without the tcp-check lines")
        else:
            line.carried("a TCP check")


def _mysql(line: Statement, keys: Keys) -> None:
    words = line.words[2:]
    if words[:1] == ("user",):
        if len(words) < 2:
            raise Refused(line.problem("mysql-check user needs a name"))
        keys["check.user"] = words[1]
        line.carried("check.user: it logs in without a password, as HAProxy does")
        return
    if words:
        raise Refused(line.problem(f'mysql-check: "{words[0]}" is not "user"'))
    line.changed(
        "a TCP check, which the server does not see; a greeting alone counts there as an aborted"
        " connection and blocks this address after max_connect_errors. Better: give [check] a user"
        " and a password, then read_only and lag are known too"
    )


def _time(options: Mapping[str, Option], name: str) -> int | None:
    option = options.get(name)
    if option is None:
        return None
    try:
        return milliseconds(option.value) or None
    except BadValue as error:
        raise refuse(option.line, error, name) from None
