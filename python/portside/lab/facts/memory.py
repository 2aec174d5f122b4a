"""Group 7: what a TIME_WAIT costs in memory, by the kernel's own table of its objects."""

from __future__ import annotations

from mmap import PAGESIZE
from pathlib import Path

from portside.lab.facts.capacity import LOW, close_first
from portside.lab.facts.fact import CannotMeasureError, Fact, Outcome
from portside.lab.facts.stage import Bind, Stage
from portside.lab.hosts import PROXY_ADDRESSES

_SLABINFO = Path("/proc/slabinfo")
_PORTS = 5_000
_CLOSES = _PORTS * len(PROXY_ADDRESSES)


def bytes_each(before: str, after: str, closes: int) -> Outcome:
    """Bytes per close that two readings of /proc/slabinfo tell, with their page's waste.

    Only caches that grew with the closes count: a machine does other things meanwhile. Buckets may
    hide under another cache's name, since the kernel merges caches of one size: 1.25 per close, one
    per (address, port) and one per port. Source: slabinfo(5).
    """
    old, new = _caches(before), _caches(after)
    grown = {name: new[name][0] - old.get(name, (0, 0))[0] for name in new}
    found = {
        name: objects * new[name][1] / closes
        for name, objects in grown.items()
        if closes * 0.9 <= objects <= closes * 1.6
    }
    if "tw_sock_TCP" not in found:
        raise CannotMeasureError("/proc/slabinfo does not show tw_sock_TCP growing")
    parts = ", ".join(f"{name} {size:.0f}" for name, size in sorted(found.items()))
    return Outcome(round(sum(found.values())), parts)


def _caches(text: str) -> dict[str, tuple[int, float]]:
    """Active objects, and bytes per object, of each cache."""
    caches = {}
    for row in text.splitlines():
        words = row.split()
        if row.startswith(("#", "slabinfo")) or len(words) < 6:
            continue
        active, _, _, per_slab, pages = map(int, words[1:6])
        caches[words[0]] = (active, pages * PAGESIZE / per_slab)
    return caches


def _measure(stage: Stage) -> Outcome:
    before = _read()
    for number in range(_CLOSES):
        port, address = divmod(number, len(PROXY_ADDRESSES))
        close_first(stage, Bind(PROXY_ADDRESSES[address], LOW + port, reuse=True))
    return bytes_each(before, _read(), _CLOSES)


def _read() -> str:
    try:
        return _SLABINFO.read_text()
    except OSError as error:
        raise CannotMeasureError(f"/proc/slabinfo cannot be read: {error.strerror}") from error


FACTS = (
    Fact(
        "7/bytes",
        "bytes per TIME_WAIT with its bind buckets",
        Outcome(411, "tw_sock_TCP 256"),
        _measure,
        "reckon with this figure for closes that go wrong; Portside's own close leaves none",
        tolerance=0.35,  # caches merge and pad differently; 56-84 B, the old figure, is far off
    ),
)
