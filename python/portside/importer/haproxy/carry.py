"""The whole way from the text of haproxy.cfg to a draft, and the fate of the lines nobody took."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from portside.errors import ConfigError, Problem
from portside.importer.draft import Draft, hoist
from portside.importer.haproxy import process, proxies, reasons, sections
from portside.importer.haproxy.binds import BindReader
from portside.importer.haproxy.conditions import Facts
from portside.importer.haproxy.sections import Section, Statement
from portside.importer.haproxy.services import Builder
from portside.importer.notes import Line
from portside.importer.write import Group, Origin

# Settings that the readers know; inherited by no service, they have said nothing so far.
_READ: Final = frozenset(
    [
        "mode",
        "balance",
        "maxconn",
        "retries",
        "default_backend",
        "source",
        "backlog",
        "clitcpka-idle",
        "srvtcpka-idle",
        "disabled",
        "bind",
        "server",
        "server-template",
        "default-server",
        "acl",
        "tcp-request",
        "tcp-check",
        "use_backend",
        "timeout",
        "option",
        "contimeout",
        "clitimeout",
        "srvtimeout",
        "enabled",
        "no",
        "default",
        "hard-stop-after",
        "unix-bind",
        "setenv",
        "presetenv",
        "unsetenv",
        "resetenv",
        "nbthread",
    ]
)
_OPTIONS: Final = frozenset(
    [
        "abortonclose",
        "accept-invalid-http-request",
        "accept-invalid-http-response",
        "accept-unsafe-violations-in-http-request",
        "accept-unsafe-violations-in-http-response",
        "allbackups",
        "assume-rfc6587-ntf",
        "checkcache",
        "clitcpka",
        "contstats",
        "disable-h2-upgrade",
        "dont-parse-log",
        "dontlog-normal",
        "dontlognull",
        "external-check",
        "forceclose",
        "forwardfor",
        "forwarded",
        "h1-case-adjust-bogus-client",
        "h1-case-adjust-bogus-server",
        "http-buffer-request",
        "http-drop-request-trailers",
        "http-drop-response-trailers",
        "http-ignore-probes",
        "http-keep-alive",
        "http-no-delay",
        "http-pretend-keepalive",
        "http-restrict-req-hdr-names",
        "http-server-close",
        "http-tunnel",
        "http-use-htx",
        "http-use-proxy-header",
        "http_proxy",
        "httpchk",
        "httpclose",
        "httplog",
        "httpslog",
        "idle-close-on-response",
        "independent-streams",
        "ldap-check",
        "log-health-checks",
        "log-separate-errors",
        "logasap",
        "mysql-check",
        "nolinger",
        "originalto",
        "persist",
        "pgsql-check",
        "prefer-last-server",
        "redis-check",
        "redispatch",
        "smtpchk",
        "socket-stats",
        "splice-auto",
        "splice-request",
        "splice-response",
        "spop-check",
        "srvtcpka",
        "ssl-hello-chk",
        "tcp-check",
        "tcp-smart-accept",
        "tcp-smart-connect",
        "tcpka",
        "tcplog",
        "transparent",
        "use-small-buffers",
    ]
)
_HINTS: Final = (
    "Both ends close otherwise than behind HAProxy: QUIT, the database's FIN, then a reset: no"
    " TIME_WAIT anywhere ([close]; docs/how-it-works.md).",
    "Before you go live: portside check --connect, which needs [check] user and password, and the"
    " GRANTs for every source address. Word by word: docs/from-haproxy.md.",
)


@dataclass(frozen=True, slots=True)
class Options:
    """How a file is imported.

    Attributes:
        environment: what variables stand for.
        facts: what a HAProxy on this host says of itself, None without one.
        is_vouched: a HAProxy has taken the files; words that we do not know are newer than we are.
        port_offset: added to every listening port, for a run beside HAProxy.
    """

    environment: Mapping[str, str]
    facts: Facts | None = None
    is_vouched: bool = False
    port_offset: int = 0


@dataclass(frozen=True, slots=True)
class Carried:
    """A draft, where it comes from, and the lines of its global keys."""

    draft: Draft
    origin: Origin
    key_lines: Mapping[str, Line]


def carry(files: Sequence[tuple[str, str]], options: Options) -> Carried:
    """The draft of some files, given by name and text.

    Raises:
        ConfigError: lines that HAProxy refuses, all that were found.
    """
    reading = sections.read(files, options.environment, options.facts)
    whole = process.read(reading.sections)
    found = proxies.collect(reading.sections)
    draft = Draft(keys=dict(whole.keys))
    reader = BindReader(whole.unix, options.port_offset, options.is_vouched)
    builder = Builder(reader, draft)
    builder.build(found)
    mistakes = [*reading.problems, *whole.problems, *found.problems, *builder.problems]
    for section in reading.sections:
        mistakes += _conclude(section, options.is_vouched)
    if mistakes:
        order = {name: at for at, (name, _) in enumerate(files)}
        ordered = sorted(dict.fromkeys(mistakes), key=lambda one: (order[one.file], one.line))
        raise ConfigError(tuple(ordered))
    hoist(draft)
    names = " ".join(name for name, _ in files)
    hints = list(_HINTS)
    if options.port_offset:
        hints.insert(0, f"Every listening port is {options.port_offset} higher than HAProxy's, to"
                        " run beside it.")  # fmt: skip
    origin = Origin(names, hints, *_groups(reading.sections), has_files=len(files) > 1)
    return Carried(draft, origin, whole.lines)


def _groups(found: Sequence[Section]) -> tuple[list[Group], list[Group]]:
    top: list[Group] = []
    rest: list[Group] = []
    for section in found:
        group = Group(
            f"{section.title} (line {section.head.number})", (section.head, *section.lines)
        )
        (top if section.kind in ("", "global", "defaults") else rest).append(group)
    return top, rest


def _conclude(section: Section, is_vouched: bool) -> list[Problem]:
    """Says why, in every line that nobody took."""
    mistakes = []
    if section.kind not in ("global", "defaults", "frontend", "backend", "listen"):
        for line in (section.head, *section.statements) if section.kind else ():
            line.dropped(reasons.SECTIONS.get(section.kind, "not known to this importer"))
        return []
    if section.kind == "defaults":
        section.head.carried()
    table = reasons.GLOBAL if section.kind == "global" else reasons.PROXY
    for line in section.statements:
        reason = reasons.why(table, line.words)
        if not is_vouched and not _is_known(line, reason):
            mistakes.append(_unknown(line, table))
        if line.words[:2] == ("mode", "tcp") and not line.parts:
            line.carried('mode = "relay"')
        if line.parts:
            continue
        if reason:
            line.dropped(reason)
        if not line.parts and line.keyword in (*_READ, *table):
            line.dropped("no section that is carried over takes it from here")
        elif not line.parts:
            line.dropped("not known to this importer")
    return mistakes


def _is_known(line: Statement, reason: str | None) -> bool:
    if line.keyword in ("no", "default"):
        return True
    if line.keyword == "option":
        return len(line.words) > 1 and line.words[1] in _OPTIONS
    return reason is not None or line.keyword in _READ


def _unknown(line: Statement, table: Mapping[str, str]) -> Problem:
    known = {key.split()[0] for key in table} | _READ
    word, candidates = line.keyword, known
    if word == "option":
        word, candidates = " ".join(line.words[1:2]), set(_OPTIONS)
    near = difflib.get_close_matches(word, candidates, n=1)
    prefix = "option " if line.keyword == "option" else ""
    hint = f'did you mean "{prefix}{near[0]}"?' if near else ""
    return line.problem(f'"{prefix}{word}" is no keyword of HAProxy', hint)
