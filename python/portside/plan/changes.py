"""What would help, in the order in which to try it; each change is worked out anew. Pure.

The order is that of effort and danger: the close order costs nothing and removes the cause; ports
and addresses move the wall; a cache and shared connections change the application's traffic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from portside.plan import arithmetic
from portside.plan.situation import Chooser, Situation, ToServer

WIDE_PORTS = 63_976
"""The article's ip_local_port_range, 1025-65000."""
AUTO_PORTS = 18_000
"""Portside's `[source] ports = "auto"`, 12000-29999: outside the kernel's range."""
_MOST_ADDRESSES = 256


@dataclass(frozen=True)
class Change:
    """One thing to change.

    Attributes:
        what: in words.
        how: the line to write.
        danger: what to look out for; "" for nothing.
        safe_rate: connections/s in all that are safe afterwards; inf: any.
        is_enough: whether the rate is safe afterwards; False without a rate.
    """

    what: str
    how: str
    danger: str
    safe_rate: float
    is_enough: bool

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; null for a rate without limit."""
        rate = None if math.isinf(self.safe_rate) else self.safe_rate
        return {
            "what": self.what,
            "how": self.how,
            "danger": self.danger,
            "safe_rate": rate,
            "is_enough": self.is_enough,
        }


def changes(s: Situation, is_good: bool) -> tuple[Change, ...]:
    """Changes that raise the safe rate; none where our side keeps nothing and it is enough."""
    if is_good and not (s.rate is None and s.close.leaves_time_wait):
        return ()
    now = arithmetic.safe(s)
    found = [*_closing(s), *_ports(s), *_addresses(s), *_fewer(s)]
    return tuple(change for change in found if change.safe_rate > now)


def _change(s: Situation, what: str, how: str, danger: str) -> Change:
    return Change(what, how, danger, arithmetic.safe(s), _is_enough(s))


def _is_enough(s: Situation) -> bool:
    if s.rate is None and s.pool is None:
        return False
    return arithmetic.addresses_needed(s) <= s.addresses


def _closing(s: Situation) -> list[Change]:
    if not s.close.leaves_time_wait:
        return []
    return [
        _change(
            replace(s, close=ToServer.EOF_RESET),
            "let the server close first",
            'Portside: close = { to_server = "eof-reset" }, its default',
            'where a firewall eats resets: "eof", which does as well for ports',
        )
    ]


def _ports(s: Situation) -> list[Change]:
    found = []
    if s.close.leaves_time_wait and not s.timestamps:
        found.append(
            _change(
                replace(s, timestamps=True, tw_reuse=True),
                "timestamps at both ends, and reuse",
                "sysctl net.ipv4.tcp_timestamps=1 net.ipv4.tcp_tw_reuse=1",
                "some firewalls strip timestamps; never tcp_tw_recycle (gone since Linux 4.12)",
            )
        )
    elif s.close.leaves_time_wait and s.chooser is Chooser.CONNECT and not s.tw_reuse:
        found.append(
            _change(
                replace(s, tw_reuse=True),
                "let connect() reuse TIME_WAITs",
                "sysctl net.ipv4.tcp_tw_reuse=1",
                "does nothing where the source address is bound without IP_BIND_ADDRESS_NO_PORT;"
                " never tcp_tw_recycle (gone since Linux 4.12)",
            )
        )
    if s.chooser is Chooser.BIND:
        found.append(
            _change(
                replace(s, chooser=Chooser.CONNECT),
                "a range for each destination",
                "IP_BIND_ADDRESS_NO_PORT; Portside does without [source] ports",
                "",
            )
        )
    if s.chooser is not Chooser.OWN:
        found.append(
            _change(
                replace(s, chooser=Chooser.OWN, ports=AUTO_PORTS),
                "choose ports in the program",
                '[source] ports = "auto" (12000-29999)',
                "a port held explicitly is lost to the kernel's choice; keep it out of"
                " ip_local_port_range",
            )
        )
    if s.ports < WIDE_PORTS:
        how = '[source] ports = "1025-65000"' if s.chooser is Chooser.OWN else (
            'sysctl net.ipv4.ip_local_port_range="1025 65000"'
        )  # fmt: skip
        found.append(
            _change(
                replace(s, ports=WIDE_PORTS),
                f"widen the range to {WIDE_PORTS:,} ports",
                how,
                "put every listener above 1024 into net.ipv4.ip_local_reserved_ports",
            )
        )
    return found


def _addresses(s: Situation) -> list[Change]:
    wanted = max(arithmetic.addresses_needed(s), s.addresses + 1)
    if wanted > _MOST_ADDRESSES or (s.rate is None and s.pool is None):
        wanted = min(s.addresses * 4, max(_MOST_ADDRESSES, s.addresses))
    return [
        _change(
            replace(s, addresses=wanted),
            f"use {wanted:,} addresses",
            "[source] addresses = [...]",
            "each needs its GRANTs, and counts for max_connect_errors by itself",
        )
    ]


def _fewer(s: Situation) -> list[Change]:
    if s.pool is not None or s.rate is None:
        return []
    found = []
    hold = max(10, math.ceil(s.rate * s.busiest_share * s.hold_s * 2))
    if hold <= s.tuples:
        shared = replace(s, pool=hold)
        found.append(
            _change(
                shared,
                f"share some {hold:,} connections",
                'mode = "pool" in the service, or persistent connections in the application',
                "persistent connections hold one server connection per worker of the application,"
                " and bind it to one replica",
            )
        )
    left = arithmetic.safe(s)
    if left < s.rate:
        found.append(
            Change(
                f"answer {1 - left / s.rate:.1%} from a cache",
                "memcached, as in the article",
                "only for what may be stale",
                s.rate,
                True,
            )
        )
    return found
