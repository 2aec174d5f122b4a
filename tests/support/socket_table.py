"""The kernel's TCP table of this namespace, read from /proc: no rights, no program."""

from __future__ import annotations

from pathlib import Path

TIME_WAIT = "06"


def time_waits(*ports: int) -> int:
    """Sockets in TIME_WAIT that have one of ``ports`` on either side, both families."""
    wanted = {f"{port:04X}" for port in ports}
    found = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            found += state == TIME_WAIT and not wanted.isdisjoint((local[-4:], remote[-4:]))
    return found
