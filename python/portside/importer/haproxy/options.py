"""The options behind an address, of `bind`, `server` and `default-server` lines: which have values.

HAProxy refuses a word it does not know. So do we, unless a HAProxy has taken the file already: then
the word is newer than this table. Source: haproxy configuration.txt 5.1 and 5.2.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from portside.errors import Problem
from portside.importer.haproxy.sections import Statement
from portside.importer.haproxy.values import BadValue

SERVER_VALUED: Final = frozenset(
    [
        "addr",
        "agent-addr",
        "agent-inter",
        "agent-port",
        "agent-send",
        "alpn",
        "ca-file",
        "check-alpn",
        "check-pool-conn-name",
        "check-proto",
        "check-sni",
        "ciphers",
        "ciphersuites",
        "client-sigalgs",
        "cc",
        "cookie",
        "crl-file",
        "crt",
        "curves",
        "downinter",
        "error-limit",
        "fall",
        "fastinter",
        "guid",
        "hash-key",
        "id",
        "idle-ping",
        "init-addr",
        "init-state",
        "inter",
        "interface",
        "log-bufsize",
        "log-proto",
        "max-reuse",
        "maxconn",
        "maxqueue",
        "minconn",
        "namespace",
        "npn",
        "observe",
        "on-error",
        "on-marked-down",
        "on-marked-up",
        "pool-conn-name",
        "pool-low-conn",
        "pool-max-conn",
        "pool-purge-delay",
        "port",
        "proto",
        "proxy-v2-options",
        "redir",
        "resolve-net",
        "resolve-opts",
        "resolve-prefer",
        "resolvers",
        "rise",
        "set-proxy-v2-tlv-fmt",
        "shard",
        "sigalgs",
        "slowstart",
        "sni",
        "socks4",
        "source",
        "ssl-max-ver",
        "ssl-min-ver",
        "tcp-md5sig",
        "tcp-ut",
        "track",
        "usesrc",
        "verify",
        "verifyhost",
        "weight",
        "ws",
    ]
)
SERVER_FLAGS: Final = frozenset(
    [
        "agent-check",
        "allow-0rtt",
        "backup",
        "check",
        "check-reuse-pool",
        "check-send-proxy",
        "check-ssl",
        "check-via-socks4",
        "disabled",
        "enabled",
        "force-sslv3",
        "force-tlsv10",
        "force-tlsv11",
        "force-tlsv12",
        "force-tlsv13",
        "non-stick",
        "renegotiate",
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl",
        "send-proxy-v2-ssl-cn",
        "ssl",
        "ssl-reuse",
        "stick",
        "strict-maxconn",
        "tfo",
        "tls-tickets",
    ]
)
BIND_VALUED: Final = frozenset(
    [
        "accept-netscaler-cip",
        "alpn",
        "backlog",
        "ca-file",
        "ca-ignore-err",
        "ca-sign-file",
        "ca-sign-pass",
        "ca-verify-file",
        "cc",
        "ciphers",
        "ciphersuites",
        "client-sigalgs",
        "crl-file",
        "crt",
        "crt-ignore-err",
        "crt-list",
        "curves",
        "default-crt",
        "ecdhe",
        "expose-fd",
        "gid",
        "group",
        "guid-prefix",
        "id",
        "idle-ping",
        "interface",
        "label",
        "level",
        "maxconn",
        "mode",
        "mss",
        "name",
        "namespace",
        "nbconn",
        "nice",
        "npn",
        "ocsp-update",
        "process",
        "proto",
        "quic-cc-algo",
        "quic-socket",
        "severity-output",
        "shards",
        "sigalgs",
        "ssl-max-ver",
        "ssl-min-ver",
        "tcp-md5sig",
        "tcp-ut",
        "thread",
        "tls-ticket-keys",
        "uid",
        "user",
        "verify",
    ]
)
BIND_FLAGS: Final = frozenset(
    [
        "accept-proxy",
        "allow-0rtt",
        "defer-accept",
        "force-sslv3",
        "force-strict-sni",
        "force-tlsv10",
        "force-tlsv11",
        "force-tlsv12",
        "force-tlsv13",
        "generate-certificates",
        "no-alpn",
        "no-ca-names",
        "no-sslv3",
        "no-strict-sni",
        "no-tls-tickets",
        "no-tlsv10",
        "no-tlsv11",
        "no-tlsv12",
        "no-tlsv13",
        "prefer-client-ciphers",
        "quic-force-retry",
        "ssl",
        "strict-sni",
        "tfo",
        "tls-tickets",
        "transparent",
        "v4v6",
        "v6only",
    ]
)


@dataclass(frozen=True, slots=True)
class Option:
    """One option in force: its value ("" for a flag) and the line that gave it."""

    value: str
    line: Statement


class Refused(Exception):
    """A line that HAProxy would refuse."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def refuse(line: Statement, error: BadValue, what: str = "") -> Refused:
    """The error for a value in a line."""
    return Refused(line.problem(f"{what}: {error}" if what else str(error)))


@dataclass(frozen=True, slots=True)
class Grammar:
    """Which words take a value; `is_lenient` where a HAProxy has taken the file."""

    valued: frozenset[str]
    flags: frozenset[str]
    is_lenient: bool

    def read(self, line: Statement, words: Sequence[str], into: dict[str, Option]) -> None:
        """Reads options over those that are there; `no-X` takes X away.

        Raises:
            Refused: an unknown word, or a value is missing.
        """
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word in self.valued:
                if not rest:
                    raise Refused(line.problem(f'"{word}" needs a value'))
                into.pop(word, None)
                into[word] = Option(rest.pop(0), line)
            elif word in self.flags:
                into.pop(word, None)
                into[word] = Option("", line)
            elif word.startswith("no-") and word[3:] in self.flags | self.valued:
                into.pop(word[3:], None)
            elif word.startswith("set-proxy-v2-tlv-fmt("):
                into["set-proxy-v2-tlv-fmt"] = Option(rest.pop(0) if rest else "", line)
            elif self.is_lenient:
                line.dropped("not known to this importer", word)
            else:
                near = difflib.get_close_matches(word, self.valued | self.flags, n=1)
                hint = f'did you mean "{near[0]}"?' if near else ""
                raise Refused(line.problem(f'"{word}" is no option of {line.keyword}', hint))
