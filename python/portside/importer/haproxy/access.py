"""`tcp-request connection accept|reject|expect-proxy` on `src` to allow, deny and accept_proxy.

Only where the rules say the same as "denied networks first, then allowed ones"; anything else would
let in or keep out somebody silently, so then none of them is carried.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from portside.importer.haproxy.proxies import Proxy
from portside.importer.haproxy.sections import Statement

EVERYBODY: Final = ("0.0.0.0/0", "::/0")


@dataclass
class Access:
    """Who may connect, and whose connections begin with a PROXY header."""

    allow: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)
    accept_proxy: list[str] = field(default_factory=list)


class _NotPlain(Exception):
    pass


def read(proxy: Proxy, *, takes_proxy: bool, who: str = "this service") -> Access:
    """The rules of a frontend or listen; empty where they are not plain (the lines say so).

    Args:
        proxy: whose `acl` and `tcp-request` lines.
        takes_proxy: a listener of it takes PROXY headers: `tcp-request connection` looks at the
            address before the header, Portside at the one in it.
        who: whom the rules are for, where there are two.
    """
    rules = [
        line
        for line in proxy.lists.get("tcp-request", ())
        if line.words[1:2] in (("connection",), ("session",))
    ]
    acls = _acls(proxy)
    reading = _Reading(acls)
    try:
        for line in rules:
            reading.take(line)
        access = reading.conclude(takes_proxy)
    except _NotPlain as reason:
        for line in rules:
            line.dropped(f"ATTENTION, {who} lets everybody in: {reason}; write allow and deny")
        return Access()
    used = [line for name in reading.used for line in acls[name][1]]
    for line in (*rules, *used):
        line.carried("service allow, deny, accept_proxy")
    return access


_Acls = Mapping[str, tuple[list[str] | None, list[Statement]]]


class _Reading:
    """Rules in their order, as long as they say no more than Portside's three lists can.

    First any number of `reject if`, then either `reject unless` (`only`), or `accept if` lines that
    end in a `reject` for the rest. `accept` before a `reject if` would make an exception from it,
    and Portside's `deny` has none.
    """

    def __init__(self, acls: _Acls) -> None:
        self.used: set[str] = set()
        self._acls = acls
        self._deny: list[str] = []
        self._accepted: list[str] = []
        self._only: list[str] = []
        self._proxied: list[str] = []
        self._is_closed = False
        self._sees_connection = False

    def take(self, line: Statement) -> None:
        """Adds one rule."""
        words = line.words
        size = 2 if words[2:3] == ("expect-proxy",) else 1
        action = " ".join(words[2 : 2 + size])
        networks, is_negated = _condition(words[2 + size :], self._acls, self.used)
        if action == "expect-proxy layer4" and not is_negated:
            self._proxied += EVERYBODY if networks is None else networks
            return
        self._sees_connection |= words[1] == "connection"
        if self._is_closed:
            raise _NotPlain("a rule follows one that rejects everybody")
        if action == "reject" and networks is None and self._accepted:
            self._is_closed = True
        elif action == "reject" and networks and not self._accepted and not self._only:
            if is_negated:
                self._only = networks
            else:
                self._deny += networks
        elif action == "reject" and networks and self._only and not is_negated:
            self._deny += networks
        elif action == "accept" and networks and not is_negated and not self._only:
            self._accepted += networks
        else:
            raise _NotPlain(f'"{line.text}" is more than reject by src, then accept by src')

    def conclude(self, takes_proxy: bool) -> Access:
        """The lists; `accept if` without a `reject` after it keeps nobody out."""
        allow = self._only or (self._accepted if self._is_closed else [])
        has_header = takes_proxy or bool(self._proxied)
        if (allow or self._deny) and has_header and self._sees_connection:
            raise _NotPlain("tcp-request connection looks at the address before the PROXY header")
        return Access(list(allow), self._deny, self._proxied)


def _condition(
    words: Sequence[str],
    acls: _Acls,
    used: set[str],
) -> tuple[list[str] | None, bool]:
    """Networks and whether they are meant the other way round; None without a condition."""
    if not words:
        return None, False
    if words[0] not in ("if", "unless"):
        raise _NotPlain(f'"{words[0]}" is not understood')
    is_negated = words[0] == "unless"
    terms = list(words[1:])
    networks: list[str] = []
    if terms and terms[0].startswith("!"):
        is_negated = not is_negated
        terms[0] = terms[0][1:]
        if not terms[0]:
            terms.pop(0)
        if "or" in terms or "||" in terms:
            raise _NotPlain("a negation among alternatives")
    while terms:
        term = terms.pop(0)
        if term == "{":
            end = terms.index("}") if "}" in terms else len(terms)
            networks += _sources(terms[:end])
            terms = terms[end + 1 :]
        elif term in acls:
            found = acls[term][0]
            if found is None:
                raise _NotPlain(f'acl "{term}" is not on src alone')
            networks += found
            used.add(term)
        else:
            raise _NotPlain(f'"{term}" is not understood')
        if terms and terms.pop(0) not in ("or", "||"):
            raise _NotPlain("conditions that must hold together")
    return networks, is_negated


def _acls(proxy: Proxy) -> dict[str, tuple[list[str] | None, list[Statement]]]:
    """Name -> networks (None where it looks at more than src) and lines; several lines add up."""
    found: dict[str, tuple[list[str] | None, list[Statement]]] = {}
    for line in proxy.lists.get("acl", ()):
        if len(line.words) < 3:
            continue
        known, lines = found.get(line.words[1], ([], []))
        try:
            networks = None if known is None else [*known, *_sources(line.words[2:])]
        except _NotPlain:
            networks = None
        found[line.words[1]] = networks, [*lines, line]
    return found


def _sources(words: Sequence[str]) -> list[str]:
    if not words or words[0] != "src":
        raise _NotPlain(f'"{" ".join(words)}" is not about src')
    networks = []
    for word in words[1:]:
        try:
            networks.append(str(ipaddress.ip_network(word, strict=False)))
        except ValueError:
            raise _NotPlain(f'"{word}" is no network') from None
    return networks
