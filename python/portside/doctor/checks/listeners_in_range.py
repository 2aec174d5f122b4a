"""Listeners whose port the kernel may give to an outgoing connection while they restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.checks.port_range import RESERVED, spans
from portside.doctor.facts import Facts, port_range
from portside.doctor.finding import Cure, Finding, Severity
from portside.doctor.pairs import pairs, reserved_ports

_SHOWN: Final = 5
_BUSY: Final = 0.1


def check(facts: Facts) -> Iterator[Finding]:
    """Inside ``ip_local_port_range`` and not reserved."""
    if facts.sockets is None:
        return
    low, high = port_range(facts.sysctls)
    taken = {
        port for first, last in reserved_ports(facts.sysctls) for port in range(first, last + 1)
    }
    exposed = {
        each.port: each
        for each in facts.sockets.listeners
        if low <= each.port <= high and each.port not in taken
    }
    if not exposed:
        return
    names = [
        f"{port} ({each.process})" if each.process else str(port)
        for port, each in sorted(exposed.items())
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # How likely it is: as the share of the range that outgoing connections hold.
    is_busy = any(pair.fill >= _BUSY for pair in pairs(facts))
    yield Finding(
        id="listeners-in-range",
        severity=Severity.WARNING if is_busy else Severity.NOTICE,
        title=f"listeners inside the kernel's range {low}-{high}: {', '.join(names[:_SHOWN])}"
        f"{more}; after a restart an outgoing connection may have the port",
        evidence=("bind() then fails with EADDRINUSE, for as long as that connection lives",),
        cures=(
            Cure(
                f"Reserve them: {RESERVED}",
                "the kernel does not choose them; an explicit bind works as before",
                "none known; the setting replaces the list, so it names what is reserved now too",
                {RESERVED: spans({*exposed, *taken})},
            ),
        ),
        source="ip-sysctl.rst",
    )
