"""What this host's kernel gives: its port range, timestamps, reuse. Reads /proc, no more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from portside.plan.situation import DEFAULT_PORTS

_SYSCTLS = Path("/proc/sys/net/ipv4")


@dataclass(frozen=True)
class Kernel:
    """The settings of one network namespace; the defaults are Linux's.

    Attributes:
        ports: how many net.ipv4.ip_local_port_range has.
        timestamps: net.ipv4.tcp_timestamps is not 0.
        tw_reuse: net.ipv4.tcp_tw_reuse is 1.
    """

    ports: int = DEFAULT_PORTS
    timestamps: bool = True
    tw_reuse: bool = False


def read_kernel(sysctls: Path = _SYSCTLS) -> Kernel:
    """This network namespace's; what cannot be read is taken for the default."""
    bounds = _words(sysctls, "ip_local_port_range")
    ports = int(bounds[1]) - int(bounds[0]) + 1 if len(bounds) == 2 else DEFAULT_PORTS
    return Kernel(
        ports=ports,
        timestamps=_words(sysctls, "tcp_timestamps") != ["0"],
        tw_reuse=_words(sysctls, "tcp_tw_reuse") == ["1"],
    )


def _words(sysctls: Path, name: str) -> list[str]:
    try:
        words = (sysctls / name).read_text("ascii").split()
    except (OSError, ValueError):
        return []
    return words if all(word.isdigit() for word in words) else []
