"""Turns check results into a verdict per server: up, down or unknown.

For: fall/rise counting, what counts as the server's failure and what does not, when the next check
is due, and which events a result makes. Pure: the time and random numbers are arguments, nothing is
read or sent. It must not know how a check is done (probe.py) nor what a service requires
(eligibility.py). In the flow: probe -> ``step`` here -> monitor -> eligibility.

Three rules decide the rest:
- A local shortage (``SOCKERR``, ``NO_SOURCE``) and a void check never change the verdict.
- A server is unknown until its first result; that first result decides at once, since no session
  runs on the server that a wrong verdict could cut.
- A full server (ERR 1040) is alive: cutting its sessions because a monitor found no slot would make
  the outage that the check is there to prevent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

# Spread of the interval, so that a hundred servers are not checked in the same millisecond.
JITTER = 0.1
# First checks are spread over at most this long: unknown servers take no sessions.
FIRST_CHECK_SPREAD_S = 0.25
# Connect failures arrive up to ten times a second per server (architecture.md, "Sessions and
# events").
HINT_GAP_S = 0.5


class Status(StrEnum):
    """The outcome of one check, in HAProxy's words, and three of our own."""

    L4OK = "L4OK"
    L4CON = "L4CON"
    L4TOUT = "L4TOUT"
    L6RSP = "L6RSP"
    L6TOUT = "L6TOUT"
    L7OK = "L7OK"
    L7TOUT = "L7TOUT"
    L7RSP = "L7RSP"
    L7STS = "L7STS"
    SOCKERR = "SOCKERR"
    NO_SOURCE = "NO_SOURCE"
    NO_CHECK = "NO_CHECK"

    @property
    def passed(self) -> bool:
        """True when the server did what the check asked."""
        return self in _PASSED

    @property
    def is_ours(self) -> bool:
        """True when the check could not be made, which says nothing about the server."""
        return self in _OURS

    @property
    def words(self) -> str:
        """The status in a sentence, for ``portside explain`` and the docs."""
        return STATUS_WORDS[self]


_PASSED = frozenset({Status.L4OK, Status.L7OK, Status.NO_CHECK})
_OURS = frozenset({Status.SOCKERR, Status.NO_SOURCE})

STATUS_WORDS: dict[Status, str] = {
    Status.L4OK: "The server's host accepted a connection; nothing was asked of MySQL.",
    Status.L4CON: "The connection was refused, reset or had no way to the host.",
    Status.L4TOUT: "No connection within the check's timeout.",
    Status.L6RSP: "The TLS handshake failed.",
    Status.L6TOUT: "The TLS handshake did not end within the check's timeout.",
    Status.L7OK: "The server answered as the check expects.",
    Status.L7TOUT: "Connected, but the server did not answer within the check's timeout.",
    Status.L7RSP: "The server's answer was not MySQL, or it hung up in the middle.",
    Status.L7STS: "The server answered with an error, or the query or function said no.",
    Status.SOCKERR: "This host could not make the check (no port, descriptor, memory or route); "
    "the verdict on the server stays as it was.",
    Status.NO_SOURCE: "None of the source addresses for this server exists on this host; "
    "other servers are used, the verdict on this one stays as it was.",
    Status.NO_CHECK: "The server is not checked (check = false): it counts as up.",
}


class Verdict(StrEnum):
    """What we believe of a server."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Readings:
    """What a logged-in check read from the server. None = not known (never "fine").

    Attributes:
        read_only: True when any of read_only, super_read_only, innodb_read_only is on.
        replica: a replication channel is configured and was not switched off on purpose
            (both threads stopped without an error, as after a promotion, is not a replica).
        replicating: every such channel runs. None when there is none or it is not known.
        lag_s: the worst channel's delay in seconds. None is not zero.
        note: why something is not known, with the cure (a missing GRANT).
        max_connections: what the server takes of all its clients; a trial of an account asks.
        max_prepared_statements: the same of prepared statements.
    """

    read_only: bool | None = None
    replica: bool | None = None
    replicating: bool | None = None
    lag_s: float | None = None
    note: str = ""
    max_connections: int | None = None
    max_prepared_statements: int | None = None


@dataclass(frozen=True)
class HostBlocked:
    """One of our addresses that a server refuses: ERR 1129, 1130, or 1045 while others log in."""

    source: str
    destination: str
    errno: int
    text: str


@dataclass(frozen=True)
class DestinationResult:
    """The outcome of one check of one destination (one address of a server)."""

    destination: str
    status: Status
    latency_s: float | None = None
    detail: str = ""
    errno: int = 0
    source: str = ""
    definitive: bool = False
    readings: Readings | None = None
    full: bool = False
    blocked: tuple[HostBlocked, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check of one server, over all its destinations.

    Attributes:
        detail: the last error in words; "" when there is none.
        definitive: the server said so itself (a refusal, an ERR packet), so that no lateness of
            ours can have caused it.
        readings: None when the check reads nothing or did not get that far; the last ones stay.
        full: alive, but ERR 1040 kept the check out; the last readings stay.
        void: the event loop was late while the check ran; it is not counted.
    """

    status: Status
    latency_s: float | None = None
    detail: str = ""
    definitive: bool = False
    readings: Readings | None = None
    full: bool = False
    void: bool = False
    destinations: tuple[DestinationResult, ...] = ()

    @property
    def blocked(self) -> tuple[HostBlocked, ...]:
        """Our addresses that this check found refused."""
        return tuple(block for one in self.destinations for block in one.blocked)


@dataclass(frozen=True)
class Rules:
    """How a server is judged. ``fall`` and ``rise`` are counts of checks in a row, at least 1."""

    interval_s: float = 2.0
    fast_interval_s: float = 0.5
    fall: int = 3
    rise: int = 2


@dataclass(frozen=True)
class HealthEvent:
    """Something an administrator may want to know. ``service`` and ``server`` may be "".

    Attributes:
        about: our address and the destination, where the data plane may tell the same.
    """

    kind: str
    message: str
    server: str = ""
    service: str = ""
    about: str = ""


@dataclass(frozen=True)
class ServerState:
    """Everything remembered about one server between checks.

    Attributes:
        since: when the verdict last changed (0 while unknown).
        up_since: when the server came back; None at its first verdict, so that a start of
        Portside is
            no slow start.
        good, bad: results in a row; a void or local one changes neither.
        ours: checks in a row that could not be made here.
        voids: void checks in a row.
        blocked: our addresses that the server refuses at present.
    """

    name: str
    verdict: Verdict = Verdict.UNKNOWN
    since: float = 0.0
    up_since: float | None = None
    good: int = 0
    bad: int = 0
    ours: int = 0
    voids: int = 0
    last: CheckResult | None = None
    readings: Readings = field(default_factory=Readings)
    blocked: frozenset[tuple[str, str]] = frozenset()


def unchecked(name: str, now: float) -> ServerState:
    """The state of a server with ``check = false``: up, nothing known."""
    last = CheckResult(Status.NO_CHECK, detail="not checked")
    return ServerState(name, Verdict.UP, since=now, last=last)


def step(
    state: ServerState, rules: Rules, result: CheckResult, now: float
) -> tuple[ServerState, tuple[HealthEvent, ...]]:
    """The state after one result, and what happened. Pure; O(destinations)."""
    if result.void:
        return _after_void(state)
    if result.status.is_ours:
        return _after_ours(state, result)
    passed = result.status.passed
    after = replace(
        state,
        good=state.good + 1 if passed else 0,
        bad=0 if passed else state.bad + 1,
        ours=0,
        voids=0,
        last=result,
    )
    if passed and not result.full:
        after = replace(after, readings=result.readings or Readings())
    events = [*_source_back(state), *_role_events(state, after)]
    after, host_events = _track_blocked(after, result)
    events += host_events
    after, verdict_events = _judge(after, rules, now)
    return after, (*events, *verdict_events)


def _after_void(state: ServerState) -> tuple[ServerState, tuple[HealthEvent, ...]]:
    after = replace(state, voids=state.voids + 1)
    if after.voids != 3:
        return after, ()
    text = f"server {state.name}: three checks in a row are void, because this process was held up"
    return after, (HealthEvent("checks_void", text, state.name),)


def _after_ours(
    state: ServerState, result: CheckResult
) -> tuple[ServerState, tuple[HealthEvent, ...]]:
    """A local shortage: remembered and told once, never counted against the server."""
    after = replace(state, last=result, ours=state.ours + 1)
    if state.last is not None and state.last.status == result.status:
        return after, ()
    kind = "no_source" if result.status is Status.NO_SOURCE else "check_impossible"
    text = f"server {state.name}: {result.status}: {result.detail}; still {state.verdict}"
    return after, (HealthEvent(kind, text, state.name),)


def _source_back(before: ServerState) -> list[HealthEvent]:
    if before.last is None or before.last.status is not Status.NO_SOURCE:
        return []
    text = f"server {before.name}: a source address is back"
    return [HealthEvent("source_back", text, before.name)]


def _judge(
    state: ServerState, rules: Rules, now: float
) -> tuple[ServerState, tuple[HealthEvent, ...]]:
    assert state.last is not None  # noqa: S101  step() has just set it
    first = state.verdict is Verdict.UNKNOWN
    reason = _reason(state.last)
    if state.good and state.verdict is not Verdict.UP and (first or state.good >= rules.rise):
        text = f"server {state.name} is up: {reason}"
        up_since = None if first else now
        after = replace(state, verdict=Verdict.UP, since=now, up_since=up_since)
        return after, (HealthEvent("server_up", text, state.name),)
    if state.bad and state.verdict is not Verdict.DOWN and (first or state.bad >= rules.fall):
        text = f"server {state.name} is down after {_times(state.bad)}: {reason}"
        after = replace(state, verdict=Verdict.DOWN, since=now, up_since=None)
        return after, (HealthEvent("server_down", text, state.name),)
    return state, ()


def _times(count: int) -> str:
    return "1 failed check" if count == 1 else f"{count} failed checks"


def _reason(result: CheckResult) -> str:
    return f"{result.status}: {result.detail}" if result.detail else str(result.status)


def _role_events(before: ServerState, after: ServerState) -> list[HealthEvent]:
    """Tells a change of role once it is known on both sides; the first reading is no change."""
    events: list[HealthEvent] = []
    old, new, name = before.readings, after.readings, before.name
    if None not in (old.read_only, new.read_only) and old.read_only != new.read_only:
        kind = "became_read_only" if new.read_only else "became_writable"
        text = f"server {name} {'is now read-only' if new.read_only else 'is now writable'}"
        events.append(HealthEvent(kind, text, name))
    if None not in (old.replicating, new.replicating) and old.replicating != new.replicating:
        kind = "replication_running" if new.replicating else "replication_stopped"
        note = f": {new.note}" if new.note else ""
        text = f"server {name}: replication {'runs' if new.replicating else 'stopped'}{note}"
        events.append(HealthEvent(kind, text, name))
    if new.note and new.note != old.note and new.replicating is None:
        events.append(HealthEvent("reading_missing", f"server {name}: {new.note}", name))
    return events


def _track_blocked(
    state: ServerState, result: CheckResult
) -> tuple[ServerState, list[HealthEvent]]:
    """Keeps which of our addresses the server refuses: added when seen, dropped when they work."""
    seen = {(block.source, block.destination): block for block in result.blocked}
    working = {
        (one.source, one.destination)
        for one in result.destinations
        if one.status is Status.L7OK and not one.full
    }
    events = [
        HealthEvent(
            "host_blocked", _blocked_text(state.name, block), state.name, about=" ".join(key)
        )
        for key, block in seen.items()
        if key not in state.blocked
    ]
    for source, destination in sorted(working & state.blocked):
        ours = f"our address {source}".rstrip()
        text = f"server {state.name}: {destination} accepts {ours} again"
        about = f"{source} {destination}"
        events.append(HealthEvent("host_unblocked", text, state.name, about=about))
    return replace(state, blocked=(state.blocked | frozenset(seen)) - working), events


def _blocked_text(server: str, block: HostBlocked) -> str:
    ours = f"our address {block.source}".rstrip()
    cure = {
        1129: "cure: FLUSH HOSTS there, and find what connects without logging in",
        1130: f"cure: CREATE USER ... @'{block.source or '<our address>'}' and its GRANTs there",
        1045: f"cure: the GRANT and password for '{block.source or '<our address>'}' there",
    }.get(block.errno, "")
    return (
        f"server {server}: {block.destination} refuses {ours}: "
        f"ERR {block.errno}: {block.text}; {cure}"
    )


def first_delay_s(rules: Rules, chance: float) -> float:
    """Seconds from the start to the first check. ``chance`` is in [0, 1)."""
    return chance * min(rules.interval_s, FIRST_CHECK_SPREAD_S)


def next_delay_s(state: ServerState, rules: Rules, chance: float) -> float:
    """Seconds to the next check: the interval, or the fast one while the verdict is in doubt.

    In doubt = a failure of a server that is up, a success of one that is down, an unknown
    server, and a check that was void or could not be made. ``chance`` in [0, 1) spreads it by
    plus or minus 10 %.
    """
    doubt = (
        state.verdict is Verdict.UNKNOWN
        or (state.verdict is Verdict.UP and state.bad > 0)
        or (state.verdict is Verdict.DOWN and state.good > 0)
        or state.voids > 0
    )
    base = min(rules.fast_interval_s, rules.interval_s) if doubt else rules.interval_s
    return base * (1.0 - JITTER + 2.0 * JITTER * chance)


def hinted_due(due: float, last_started: float, now: float) -> float:
    """When the next check is due after a session failed to connect.

    Soon, but not more often than every half second, since a broken server makes many such hints.
    """
    return min(due, max(now, last_started + HINT_GAP_S))


def is_settled(state: ServerState, rules: Rules) -> bool:
    """False while the first verdict may still come.

    Nobody fails over away from a server that was not looked at.

    A server that cannot be checked from here is settled once that happened ``fall`` times in a row,
    or at once when it has no source address.
    """
    if state.verdict is not Verdict.UNKNOWN:
        return True
    if state.last is not None and state.last.status is Status.NO_SOURCE:
        return True
    return state.ours >= rules.fall
