"""HAProxy's times, numbers and addresses as values, and what they are for Portside.

Pure. `BadValue` is what HAProxy refuses too; what it accepts and Portside does not is for the
caller to say. Source: haproxy configuration.txt 2.5 and 2.9, parse_time_err(), str2sa_range().
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from portside.config.units import format_duration

_TIME: Final = re.compile(r"([0-9]{1,18})(us|ms|s|m|h|d)?")
_US_PER: Final = {"us": 1, "ms": 1_000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6}
_US_PER_DAY: Final = 86_400 * 10**6
_MS_MAX: Final = 2**31 - 1
_PREFIX: Final = re.compile(r"((?:stream\+|dgram\+)?(?:ip|ipv4|ipv6|tcp|tcp4|tcp6|mptcp4?6?)@)")
_KIND_PREFIXES: Final = ("unix@", "uxst@", "abns@", "abnsz@", "fd@", "sockpair@", "rhttp@")
_SCHEME: Final = re.compile(r"(?:stream\+|dgram\+)?([a-z0-9]+@)")
_IPV4_MAPPED: Final = ("", "*")


class BadValue(Exception):
    """A value that HAProxy refuses; `str()` says what was expected."""


def milliseconds(text: str, unit: str = "ms") -> int:
    """A time, rounded up to whole milliseconds; 0 stays 0, which HAProxy reads as never."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise BadValue(f'"{text}" is no time: a whole number with us, ms, s, m, h or d')
    us = int(found[1]) * _US_PER.get(found[2] or unit, _US_PER_DAY)
    ms = -(-us // 1000)
    if ms > _MS_MAX:
        raise BadValue(f'"{text}" is too long: HAProxy counts 2^31 ms at most, 24 days')
    return ms


def duration(ms: int) -> str:
    """The same as Portside writes it; 0 is "never"."""
    return format_duration(ms / 1000 if ms else None)


def number(text: str, low: int = 0, high: int = 2**31 - 1) -> int:
    """A whole number within limits."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise BadValue(f'"{text}" is no number from {low} to {high}')
    return int(text)


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens or is reached.

    Shape: `kind` "any" (every IPv4 address, or for a server the one that the client asked for),
    "ip", "name", "unix" (`host` is the path) or "other" (`host` is the whole text); `low` and
    `high` are ports, 0 without one; `shift` is a server's `+1000`, added to the client's port.
    """

    kind: Literal["any", "ip", "name", "unix", "other"]
    host: str
    low: int = 0
    high: int = 0
    shift: int | None = None

    @property
    def is_ipv6(self) -> bool:
        """Whether it is a literal IPv6 address."""
        return self.kind == "ip" and ":" in self.host

    def at(self, port: int) -> str:
        """The address as Portside writes it, with a port."""
        if self.kind == "unix":
            return f"unix:{self.host}"
        host = "0.0.0.0" if self.kind == "any" else self.host
        return f"[{host}]:{port}" if self.is_ipv6 else f"{host}:{port}"


def address(text: str) -> Address:
    """An address with an optional port, range of ports, or shift."""
    if text.startswith("/"):
        return Address("unix", text)
    if (found := _SCHEME.match(text)) and found[1] in _KIND_PREFIXES:
        if found[1] in ("unix@", "uxst@"):
            return Address("unix", text[found.end() :])
        return Address("other", text)
    prefix = _PREFIX.match(text)
    bare = text[prefix.end() :] if prefix else text
    if prefix is None and found is not None:
        return Address("other", text)
    host, low, high, shift = _host_and_ports(bare)
    if host in _IPV4_MAPPED:
        return Address("any", "", low, high, shift)
    try:
        return Address("ip", str(ipaddress.ip_address(host)), low, high, shift)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", host):
            raise BadValue(f'"{text}" is no address') from None
        return Address("name", host, low, high, shift)


def _host_and_ports(text: str) -> tuple[str, int, int, int | None]:
    """HAProxy takes what follows the last colon for ports, unless a bracket comes after it."""
    if text.startswith("[") and "]" in text:
        host, _, ports = text[1:].partition("]")
        ports = ports.removeprefix(":")
    else:
        host, colon, ports = text.rpartition(":")
        if not colon:
            host, ports = text, ""
    if not ports:
        return host, 0, 0, None
    if ports[0] in "+-":
        return host, 0, 0, int(ports[0] + str(number(ports[1:], 0, 65535)))
    low_text, dash, high_text = ports.partition("-")
    low = number(low_text, 0, 65535)
    high = number(high_text, 0, 65535) if dash else low
    if high < low:
        raise BadValue(f'"{ports}" is no range of ports: the first is above the last')
    return host, low, high, None
