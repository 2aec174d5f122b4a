"""How many source ports the kernel may choose from. The article: 1025-65000."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from portside.doctor.facts import LAST_PORT, Facts
from portside.doctor.finding import Cure, Finding, Severity
from portside.doctor.pairs import MEASURED, range_size, reserved_ports

RANGE: Final = "net.ipv4.ip_local_port_range"
RESERVED: Final = "net.ipv4.ip_local_reserved_ports"
_WIDE: Final = (1025, 65000)
_WIDE_ENOUGH: Final = 60_000


def widen(facts: Facts) -> Cure:
    """The article's range, without the ports of listeners and those that programs bind."""
    low, high = _WIDE
    listening = facts.sockets.listeners if facts.sockets else ()
    inside = {each.port for each in listening}
    for flow in facts.sockets.flows if facts.sockets else ():
        if flow.explicit:
            inside.update(range(max(flow.explicit[0], 1), min(flow.explicit[-1], LAST_PORT) + 1))
    inside = {port for port in inside if low <= port <= high}
    for first, last in reserved_ports(facts.sysctls):
        inside.update(range(first, last + 1))
    settings = {RANGE: f"{low} {high}"}
    if inside:
        settings[RESERVED] = spans(inside)
    left = range_size({**facts.sysctls, **settings})
    return Cure(
        f"At once: widen the kernel's range to {low}-{high}, and reserve what listens or is bound"
        " there: --sysctl-file - prints both lines",
        f"{left:,} ports remain, instead of {range_size(facts.sysctls):,}: {left / 60:,.0f}"
        " connections/s per destination",
        "a listener that is not running now, or a proxy's own ports, belong into"
        f" {RESERVED} too; past half of it connect() takes 5 ms ({MEASURED})",
        settings,
    )


def spans(ports: Iterable[int]) -> str:
    """Ports as ``ip_local_reserved_ports`` takes them: "1100-1102,3306"."""
    found: list[list[int]] = []
    for port in sorted(set(ports)):
        if found and port == found[-1][1] + 1:
            found[-1][1] = port
        else:
            found.append([port, port])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in found)


def check(facts: Facts) -> Iterator[Finding]:
    """A range that is narrower than it may be."""
    size = range_size(facts.sysctls)
    wider = widen(facts)
    if size < _WIDE_ENOUGH:
        yield Finding(
            id="port-range",
            severity=Severity.NOTICE,
            title=f"the kernel chooses among {size:,} source ports: {size / 60:,.0f} connections/s"
            " per destination when this host closes first",
            evidence=(f"{RANGE} = {facts.sysctls.get(RANGE, '?')}; {size:,} ports / 60 s",),
            cures=(wider,) if range_size({**facts.sysctls, **wider.sysctls}) > size else (),
            source="the article; ip(7)",
        )
