"""How big a run is, and whether this machine has room for it. Pure, but for reading /proc."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from portside.lab.errors import LabError

# Measured on Linux 6.18 at a million TIME_WAITs: 411 B each (256 B socket, bind bucket, rest).
TIME_WAIT_BYTES = 411
# A TIME_WAIT of the naive ways stands on web and proxy, and on the database when FINs cross.
_HOSTS = 3
# Balancer, interpreter, sockets in use.
_BASE_BYTES = 200 << 20

WIDE_RANGE = (1025, 65000)
"""The article's ip_local_port_range."""


@dataclass(frozen=True)
class Scale:
    """The bounds of one strategy's run; the same for each.

    Attributes:
        name: "quick" or "full".
        connections: at most so many.
        seconds: at most so long.
        after_wall_s: how long a run goes on after failures have begun.
        settle_s: how long is watched after the last session.
        one_port: connections in a row over one tuple.
        concurrency: sessions at a time.
        port_range: ip_local_port_range of web and proxy; None: the kernel's default.
        wide_range: what "wide" means.
        ring: the balancers' own ports, per source address.
        queue_ms: how long Portside lets a session wait for a port.
        timeout_ms: how long a client waits for its answer.
        delay_us: of the path between proxy and database, each way.
    """

    name: str
    connections: int
    seconds: float
    after_wall_s: float
    settle_s: float
    one_port: int
    concurrency: int
    port_range: tuple[int, int] | None
    wide_range: tuple[int, int]
    ring: tuple[int, int]
    queue_ms: int
    timeout_ms: int
    delay_us: int

    @property
    def range_size(self) -> int:
        """Ports that the kernel chooses from; its default has 28,232."""
        low, high = self.port_range or (32768, 60999)
        return high - low + 1

    @property
    def ring_size(self) -> int:
        """Ports per address that the balancers choose from."""
        return self.ring[1] - self.ring[0] + 1

    def sized(self, connections: int | None, delay_us: int | None) -> Scale:
        """This scale with what the command line asked for."""
        changed = self
        if connections is not None:
            changed = replace(
                changed, connections=connections, one_port=min(self.one_port, connections)
            )
        return changed if delay_us is None else replace(changed, delay_us=delay_us)


QUICK = Scale(
    name="quick",
    connections=4_500,
    # The connections end a run, not the time, which a busy machine would use up before the wall.
    seconds=6.0,
    after_wall_s=0.4,
    settle_s=0.1,
    one_port=3_000,
    concurrency=32,
    # A thousand ports each: the wall stands where a second or two of load reaches it.
    port_range=(40_000, 40_999),
    wide_range=(40_000, 42_249),
    ring=(20_000, 20_999),
    queue_ms=100,
    timeout_ms=2_500,
    delay_us=250,
)

FULL = Scale(
    name="full",
    connections=200_000,
    # Shorter than a TIME_WAIT (60 s), so that the count only climbs.
    seconds=58.0,
    after_wall_s=5.0,
    settle_s=1.0,
    one_port=50_000,
    concurrency=32,
    port_range=None,
    wide_range=WIDE_RANGE,
    # 4 x 45,000 = 180,000: more than the article's 170K+, and within a minute's reach.
    ring=(12_000, 56_999),
    queue_ms=1_000,
    timeout_ms=10_000,
    # A LAN: half a millisecond there and back.
    delay_us=250,
)


def needed_bytes(scale: Scale) -> int:
    """Memory for the TIME_WAITs that a run may leave, and for what makes them."""
    return _BASE_BYTES + scale.connections * _HOSTS * TIME_WAIT_BYTES


def available_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be had now: the host's, and what the control group still allows."""
    words = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    free = next(int(word[1]) * 1024 for word in words if word[0] == "MemAvailable:")
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return free  # no limit: "max", or no control groups
    return min(free, limit - used)


def check_memory(scale: Scale, available: int) -> None:
    """LabError when the TIME_WAITs asked for do not fit."""
    needed = needed_bytes(scale)
    if needed > available:
        raise LabError(
            f"too little memory: {scale.connections:,} connections may leave"
            f" {_HOSTS * scale.connections:,} TIME_WAITs of {TIME_WAIT_BYTES} B, which with"
            f" everything else is {needed >> 20:,} MiB; {max(0, available) >> 20:,} MiB can be had;"
            " ask for less with --connections"
        )
