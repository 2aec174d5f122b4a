"""What one check needs to know, taken from the configuration. Values only.

For: keeping probe, login and usercheck free of the configuration's classes, so that they can be
tested with a few plain values. It must not resolve names nor open anything.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .judge import Rules

if TYPE_CHECKING:
    from portside.config.model import Server

TlsMode = Literal["disabled", "preferred", "required", "verify-ca", "verify-identity"]
ToServer = Literal["eof-reset", "eof", "linger2", "reset-now", "fin"]
CheckType = Literal["tcp", "login", "query", "mysql", "python", "account"]


@dataclass(frozen=True)
class CloseRule:
    """How a connection to the server ends after QUIT: ``[close]`` as it is for this server."""

    to_server: ToServer = "eof-reset"
    deadline_s: float = 1.0


@dataclass(frozen=True)
class TlsRule:
    """TLS of a server as its sessions of pool mode have it; certificates are PEM texts.

    ``name``: whom its certificate must be for; "" = the address that is connected to.
    """

    mode: TlsMode = "disabled"
    ca: str = ""
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    name: str = ""


@dataclass(frozen=True)
class Target:
    """A server as its checks see it.

    Attributes:
        destinations: "ip:port", "[ip6]:port", "host:port" or "unix:/path", all of one instance.
        sources: our addresses towards it; empty = the one that the route uses.
        leases_ports: the source ports are ours to choose: a check leases one of the ledger's.
        close: the rule of its sessions, which checks follow.
        send_proxy: the server expects a PROXY v2 header first; checks send LOCAL.
        password: never shown.
        account: with type "account" who logs in as pooled connections do (``_core.try_login``).
        tls: how far its TLS goes; with "disabled" a check uses it only where the account insists.
    """

    name: str
    destinations: tuple[str, ...]
    sources: tuple[str, ...] = ()
    leases_ports: bool = False
    send_proxy: bool = False
    close: CloseRule = field(default_factory=CloseRule)
    type: CheckType = "tcp"
    timeout_s: float = 2.0
    user: str = ""
    password: str = field(default="", repr=False)
    query: str = ""
    function: str = ""
    account: str = field(default="", repr=False)
    rules: Rules = field(default_factory=Rules)
    tls: TlsRule = field(default_factory=TlsRule)


@dataclass(frozen=True)
class Destination:
    """One address, taken apart: ``path`` for a unix socket, else ``host`` and ``port``."""

    text: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def version(self) -> int:
        """4 or 6; 0 for a unix socket or a name that is not resolved yet."""
        try:
            return ipaddress.ip_address(self.host).version
        except ValueError:
            return 0

    @property
    def is_name(self) -> bool:
        """True for a host name."""
        return not self.path and self.version == 0


def parse_destination(text: str) -> Destination:
    """Takes a checked address apart (config.addresses has refused the wrong ones)."""
    if text.startswith("unix:"):
        return Destination(text, path=text[5:])
    host, _, port = text.rpartition(":")
    return Destination(text, host=host.strip("[]"), port=int(port))


def join_address(host: str, port: int) -> str:
    """The text "ip:port" or "[ip6]:port"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def usable_sources(sources: tuple[str, ...], version: int) -> tuple[str, ...]:
    """The source addresses of the destination's family."""
    return tuple(one for one in sources if ipaddress.ip_address(one).version == version)


def target_of(server: Server, destinations: tuple[str, ...] | None = None) -> Target | None:
    """The check of a configured server, None with ``check = false``.

    ``destinations`` replaces the file's addresses when somebody has resolved their names.
    """
    check = server.check
    if check is None:
        return None
    return Target(
        name=server.name,
        destinations=destinations or tuple(str(address) for address in server.addresses),
        sources=server.source.ips,
        leases_ports=server.source.ports is not None,
        send_proxy=server.send_proxy,
        close=CloseRule(server.close.to_server, server.close.deadline_s),
        type=check.type,
        timeout_s=check.timeout_s,
        user=check.user or "",
        password=check.password.reveal() if check.password else "",
        query=check.query or "",
        function=check.function or "",
        rules=Rules(check.interval_s, check.fast_interval_s, check.fall, check.rise),
        tls=_tls_of(server),
    )


def _tls_of(server: Server) -> TlsRule:
    tls = server.tls
    return TlsRule(
        mode=tls.mode,
        ca=tls.ca.text if tls.ca else "",
        certificate=tls.certificate.text if tls.certificate else "",
        key=tls.key.text if tls.key else "",
        name=server.tls_name or "",
    )
