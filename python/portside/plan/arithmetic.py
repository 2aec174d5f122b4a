"""The arithmetic: a situation in, figures out. Pure.

Three facts carry it. Whoever closes first keeps the tuple for 60 s. A tuple is source address,
source port and destination, so addresses and destinations multiply ports. And the kernel's choice
turns slow at half of its range. Little's law does the rest: what is busy is rate x time.
"""

from __future__ import annotations

import math

from portside.plan.figure import Figure
from portside.plan.situation import DEFAULT_PORTS, HALF, HEADROOM, Chooser, Situation, ToServer

_ARTICLE = "the article"
_MEASURED = "measured on Linux 6.18, docs/internals/ports.md"
_LITTLE = "Little's law"
# Below this, what replicas could bring is no number to plan with.
_LEAST_WRITES = 0.001
# Measured at 1.02 million on Linux 6.18: 256 B of socket, the rest bind buckets.
_TIME_WAIT_BYTES = 411
# The article's figure for a server that closes first; above it ports are not what limits.
NO_LIMIT = 100_000

_CHOICE = {
    Chooser.CONNECT: "the kernel chooses in connect(): a range for each destination",
    Chooser.BIND: "the kernel chooses in bind(address, 0): one range for all destinations together",
    Chooser.OWN: "the program binds each port itself, with SO_REUSEADDR",
}


def plain(number: float) -> str:
    """A number for people: whole where it is, else with two decimals at most."""
    return f"{number:,.0f}" if number == int(number) or number >= 100 else f"{number:,.2f}"


def wall(s: Situation) -> float:
    """Connections/s towards one destination at which its tuples run out."""
    return s.tuples / busy_s(s)


def safe(s: Situation) -> float:
    """The rate of new connections, in all, that leaves headroom; inf where a pool fits."""
    if s.pool is not None:
        return math.inf if s.pool <= s.tuples * s.usable * HEADROOM else 0.0
    return wall(s) * s.usable * HEADROOM / s.busiest_share


def busy_s(s: Situation) -> float:
    """Seconds for which one connection takes its tuple."""
    return s.hold_s + s.keep_s


def opened(s: Situation) -> float:
    """Connections/s that are opened towards the busiest destination; 0.0 without a rate."""
    if s.pool is not None:
        return s.pool / s.pool_lifetime_s
    return (s.rate or 0.0) * s.busiest_share


def needed(s: Situation) -> float:
    """Tuples that are busy at a time, towards the busiest destination."""
    if s.pool is not None:
        return s.pool + opened(s) * s.keep_s
    return opened(s) * busy_s(s)


def addresses_needed(s: Situation) -> int:
    """Source addresses with which the rate is safe."""
    return max(1, math.ceil(needed(s) / (s.ports * s.usable * HEADROOM)))


def figures(s: Situation) -> tuple[Figure, ...]:
    """Every figure that can be said of a situation, in the order of reading."""
    found = [_there(s)]
    if s.rate is not None or s.pool is not None:
        found += [*_load(s), _addresses(s)]
    if s.pool is None:
        found += _rates(s)
    found += _memory(s)
    if s.writes is not None:
        found += _writes(s)
    if s.web_servers is not None and s.rate is not None:
        found += _web(s, s.web_servers, s.rate)
    return tuple(found)


def _there(s: Situation) -> Figure:
    return Figure(
        "tuples",
        "ports there, per destination",
        s.tuples,
        "ports",
        f"{s.addresses:,} address{'es' * (s.addresses > 1)} x {s.ports:,} ports",
        f"{_CHOICE[s.chooser]}; no other program uses them",
        _ARTICLE if s.chooser is Chooser.CONNECT else _MEASURED,
    )


def _load(s: Situation) -> list[Figure]:
    if s.pool is not None:
        what = f"{s.pool:,} connections / {s.pool_lifetime_s:,.0f} s"
        why = "sessions share server connections; each is replaced at the end of its life"
    else:
        what = f"{plain(s.rate or 0.0)}/s x {s.busiest_share:.4g}"
        why = _share_assumption(s)
    keep = f"our FIN is first: {s.keep_s:g} s each" if s.keep_s else "our side keeps no TIME_WAIT"
    held = float(s.pool) if s.pool is not None else opened(s) * s.hold_s
    formula = f"{s.pool:,}" if s.pool is not None else f"{plain(opened(s))}/s x {s.hold_s:.4g} s"
    return [
        Figure("opened", "new connections, busiest destination", opened(s), "connections/s", what,
               why, "arithmetic"),
        Figure("held_open", "ports of open connections", held, "ports", formula,
               f"a connection is open for {s.hold_s:.4g} s" if s.pool is None else why, _LITTLE),
        Figure("held_after", "ports kept after the close", opened(s) * s.keep_s, "ports",
               f"{plain(opened(s))}/s x {s.keep_s:g} s", f"{keep}{_reuse(s)}", _LITTLE),
        Figure("needed", "ports needed", needed(s), "ports",
               f"{plain(held)} + {plain(opened(s) * s.keep_s)}", "the sum of the two above",
               _LITTLE),
    ]  # fmt: skip


def _share_assumption(s: Situation) -> str:
    if s.share is not None:
        return (
            "its part as measured; or services share evenly or by --writes, servers by weight,"
            " and a backup has taken over"
        )
    if s.chooser is Chooser.BIND:
        return "all destinations share the ports, so all of the rate counts"
    if s.writes is not None and s.destinations > 1:
        return "writes go to the primary, reads evenly to the replicas"
    return "the destinations share the load evenly"


def _reuse(s: Situation) -> str:
    """Why the wait is what it is."""
    if s.close is ToServer.RESET_NOW:
        return "; a reset that overtakes QUIT counts in Aborted_clients"
    if not s.close.leaves_time_wait:
        return ""
    if s.keep_s < s.time_wait_s:
        who = "the ledger" if s.chooser is Chooser.OWN else "tcp_tw_reuse = 1"
        return f"; {who} takes a TIME_WAIT again after that, with timestamps at both ends"
    if not s.timestamps:
        return "; without timestamps the kernel gives no TIME_WAIT back earlier"
    if s.chooser is Chooser.BIND:
        return "; tcp_tw_reuse does nothing for bind(address, 0)"
    return "; tcp_tw_reuse is not 1"


def _addresses(s: Situation) -> Figure:
    per = s.ports * s.usable * HEADROOM
    return Figure(
        "addresses_needed",
        "addresses needed",
        addresses_needed(s),
        "addresses",
        f"{needed(s):,.0f} / {per:,.0f} each, rounded up",
        f"{HEADROOM:.0%} of the ports that can be used quickly ({s.usable:.0%})",
        "arithmetic",
    )


def _rates(s: Situation) -> list[Figure]:
    at = f"{s.tuples:,} / {busy_s(s):.6g} s"
    busy = f"ports run out: a connection takes its own for {s.hold_s:.4g} s open"
    busy += f" and {s.keep_s:g} s after" if s.keep_s else " and not after"
    if wall(s) > NO_LIMIT:
        busy += "; other limits come first"
    found = [
        Figure("wall", "the wall, per destination", wall(s), "connections/s", at,
               busy, _ARTICLE if s.keep_s else _LITTLE),
    ]  # fmt: skip
    if s.keep_s:
        found.append(
            Figure("wall_time_wait", "the wall by TIME_WAIT alone", s.tuples / s.keep_s,
                   "connections/s", f"{s.tuples:,} / {s.keep_s:g} s",
                   "as the article counts: the time open is left out", _ARTICLE)
        )  # fmt: skip
    if s.usable < 1:
        found.append(
            Figure("cliff", "the cliff, per destination",
                   wall(s) * HALF, "connections/s", f"{wall(s):,.1f}/s x {HALF}",
                   "connect() turns slow: it looks through all ports of one parity first, 33 us at"
                   " 49 %, 3 ms at 50 %", _MEASURED)
        )  # fmt: skip
    where = (
        "the cliff" if s.usable < 1 else "the wall: a port of our own costs the same at any fill"
    )
    found.append(
        Figure("safe", "safe rate, all destinations", safe(s), "connections/s",
               f"{wall(s) * s.usable:,.1f}/s x {HEADROOM} / {s.busiest_share:.4g}",
               f"{1 - HEADROOM:.0%} below {where}, kept for bursts", "a rule of thumb")
    )  # fmt: skip
    return found


def _memory(s: Situation) -> list[Figure]:
    count = opened(s) * s.time_wait_s
    if not count or s.close not in (ToServer.FIN, ToServer.EOF):
        return []
    side = "here" if s.close.leaves_time_wait else "on the server"
    why = "TIME_WAITs towards the busiest destination"
    if s.close.leaves_time_wait and count > s.tuples:
        count, why = s.tuples, f"{why}: no more than there are ports"
    return [
        Figure("memory", f"memory of TIME_WAITs, {side}", count * _TIME_WAIT_BYTES / (1 << 20),
               "MiB", f"{count:,.0f} x {_TIME_WAIT_BYTES} B", why, _MEASURED)
    ]  # fmt: skip


def _writes(s: Situation) -> list[Figure]:
    writes = s.writes or 0.0
    found = []
    if s.rate is not None:
        found.append(
            Figure("primary", "connections of the primary", s.rate * writes, "connections/s",
                   f"{plain(s.rate)}/s x {writes:g}", "every write goes to the one primary",
                   _ARTICLE)
        )  # fmt: skip
    if writes >= _LEAST_WRITES:
        found.append(
            Figure("replication_gain", "the most that replicas can bring", 1 / writes,
                   "x one server",
                   f"1 / {writes:g}", "the primary does nothing but writes, and replicas cost"
                   " nothing; they repeat every write, so it is less", "Amdahl's law; the article")
        )  # fmt: skip
    return found


def _web(s: Situation, servers: int, rate: float) -> list[Figure]:
    each = rate / servers
    most = servers * DEFAULT_PORTS / (s.hold_s + s.time_wait_s)
    return [
        Figure("web_time_wait", "TIME_WAITs on each web server", each * s.time_wait_s, "ports",
               f"{plain(rate)}/s / {servers:,} x {s.time_wait_s:g} s",
               "clients close at once after QUIT, and what they connect to does not reset"
               " (to_client = \"fin\"); with \"fin-reset\" it is 0", _ARTICLE),
        Figure("web_wall", "the wall of all web servers together", most, "connections/s",
               f"{servers:,} x {DEFAULT_PORTS:,} / {s.hold_s + s.time_wait_s:g} s",
               "each has one address and the default range; slow from half of it on", _ARTICLE),
    ]  # fmt: skip
