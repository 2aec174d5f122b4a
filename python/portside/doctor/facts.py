"""What was read from one host, as values: what checks judge, tests record and ssh carries.

No I/O and no judgement. ``as_dict`` and ``read`` are inverse; ``read`` takes what another host
sent, so it checks every type and keeps control characters away from the terminal.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from portside.doctor.errors import DoctorError

TIME_WAIT_S = 60
"""TCP_TIMEWAIT_LEN, include/net/tcp.h; not tunable."""
LAST_PORT = 65535
NO_TABLE = "the socket table"
"""What ``Facts.unseen`` begins with where ``Facts.sockets`` is None."""
_MOST = 1 << 64
OTHERS = "others"
"""Clients of a listener that are too many to tell one by one."""
# Should the kernel not say; net/ipv4/af_inet.c.
_DEFAULT_RANGE = (32768, 60999)


class State(str, enum.Enum):
    """TCP states as ``ss`` writes them."""

    ESTABLISHED = "ESTAB"
    SYN_SENT = "SYN-SENT"
    SYN_RECV = "SYN-RECV"
    FIN_WAIT1 = "FIN-WAIT-1"
    FIN_WAIT2 = "FIN-WAIT-2"
    TIME_WAIT = "TIME-WAIT"
    CLOSE = "CLOSED"
    CLOSE_WAIT = "CLOSE-WAIT"
    LAST_ACK = "LAST-ACK"
    CLOSING = "CLOSING"


# ``read`` takes the types apart with get_type_hints, which knows no X | None on Python 3.9.
@dataclass(frozen=True)
class Flow:
    """The sockets of one pair.

    Attributes:
        ours: our IP; "IP:port" of our listener where ``incoming``.
        theirs: the destination "IP:port"; where ``incoming`` the client's IP, or ``OTHERS``.
        states: how many sockets in each state, by ``State`` value.
        in_range: those whose local port lies in the kernel's range, any state.
        ages: TIME_WAITs with a local port in that range by age in whole seconds; 60 numbers, or
            none. FIN_WAIT2 that its process has left counts as one of 60 s.
        explicit: the lowest and the highest local port outside that range, which a program bound
            itself; or none. TIME_WAITs do not count: the range may have been another then.
        retried: SYN_SENT whose SYN was sent again, so that a second has passed at least.
        closed_soon: of those in CLOSE_WAIT, how many were no longer when the watching ended.
    """

    ours: str
    theirs: str
    incoming: bool
    states: dict[str, int]
    in_range: int = 0
    ages: tuple[int, ...] = ()
    explicit: tuple[int, ...] = ()
    retried: int = 0
    closed_soon: int = 0

    def count(self, *states: State) -> int:
        """Sockets in any of ``states``; all of them without an argument."""
        if not states:
            return sum(self.states.values())
        return sum(self.states.get(state.value, 0) for state in states)


@dataclass(frozen=True)
class Listener:
    """One listening socket; ``queued`` clients wait for accept(), of at most ``backlog``."""

    address: str
    port: int
    queued: int
    backlog: int
    process: str = ""


@dataclass(frozen=True)
class Sockets:
    """The TCP table of a network namespace."""

    flows: tuple[Flow, ...]
    listeners: tuple[Listener, ...]
    total: int
    took_s: float


@dataclass(frozen=True)
class Process:
    """One that is near its own file limit, or keeps sockets in CLOSE_WAIT."""

    name: str
    pid: int
    files: int
    limit: int
    close_wait: int = 0

    @property
    def fill(self) -> float:
        """Share of its limit."""
        return self.files / max(self.limit, 1)


@dataclass(frozen=True)
class Database:
    """What a server said. ``status`` is since its start, ``fresh`` what was added while watched.

    Attributes:
        hosts: (client IP, errors in a row) of ``performance_schema.host_cache``; None: not to be
            had.
        refused: the server's words when it let nobody in; the rest is empty then.
        unreachable: why it said nothing that we could use; the rest is empty then.
    """

    address: str
    version: str
    variables: dict[str, str]
    status: dict[str, int]
    fresh: dict[str, int]
    hosts: Optional[tuple[tuple[str, int], ...]] = None  # noqa: UP045
    refused: str = ""
    unreachable: str = ""


@dataclass(frozen=True)
class Facts:
    """One host, one network namespace, one moment.

    Attributes:
        sysctls: by full name; absent where the kernel has no such key.
        sockets: None where the kernel gave no table; ``unseen`` has the reason.
        counters: /proc/net/netstat, sockstat and conntrack by name; since the boot, or now.
        fresh: what was added to ``counters`` in ``window_s``.
        unseen: what could not be read, and who could.
    """

    host: str
    kernel: str
    sysctls: Mapping[str, str]
    sockets: Optional[Sockets]  # noqa: UP045
    counters: Mapping[str, int] = field(default_factory=dict)
    fresh: Mapping[str, int] = field(default_factory=dict)
    window_s: float = 0.0
    processes: tuple[Process, ...] = ()
    database: Optional[Database] = None  # noqa: UP045
    unseen: tuple[str, ...] = ()

    @property
    def version(self) -> tuple[int, int]:
        """(major, minor) of the kernel; (0, 0) when it cannot be read."""
        major, minor = ([whole(word) for word in self.kernel.split("-")[0].split(".")] + [0, 0])[:2]
        return major or 0, minor or 0

    def number(self, key: str, default: int = 0) -> int:
        """A sysctl as a number, ``default`` when it is absent or none."""
        value = whole(self.sysctls.get(key, ""))
        return default if value is None else value

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def read(value: object) -> Facts:
    """The facts that ``as_dict`` of another process gave, after JSON.

    Raises:
        DoctorError: it is something else.
    """
    facts = _read(Facts, value, "facts")
    if not isinstance(facts, Facts):  # never: _read returns what it is asked for
        raise DoctorError("these are no facts")
    return facts


def port_range(sysctls: Mapping[str, str]) -> tuple[int, int]:
    """The kernel's range for source ports, both ends included."""
    words = sysctls.get("net.ipv4.ip_local_port_range", "").split()
    ports = [port for word in words if (port := whole(word)) is not None and port <= LAST_PORT]
    return (ports[0], ports[1]) if len(ports) == 2 else _DEFAULT_RANGE


def whole(text: str) -> int | None:
    """A number as /proc writes them, of 20 digits at most; None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None


def printable(text: str) -> str:
    """The text without characters that would steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:  # noqa: ANN401  a dataclass
    return get_type_hints(kind)


def _read(kind: Any, value: object, place: str) -> Any:  # noqa: ANN401  any of the types above
    """``value`` as ``kind``: a dataclass, str, bool, number from 0, dict, tuple or Optional."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:  # Optional[X]
        return None if value is None else _read(arguments[0], value, place)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
        known = {item.name for item in fields(kind)}
        given = {
            key: _read(hints[key], each, f"{place}.{key}")
            for key, each in value.items()
            if key in known
        }
        try:
            return kind(**given)  # type: ignore[operator]  # a dataclass's type
        except TypeError as error:
            raise DoctorError(f"{place}: {error}") from error
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is Ellipsis:
            return tuple(_read(arguments[0], each, place) for each in value)
        if len(value) == len(arguments):
            return tuple(_read(*pair, place) for pair in zip(arguments, value))
    elif isinstance(value, dict) and isinstance(origin, type) and issubclass(origin, Mapping):
        return {
            _read(str, key, place): _read(arguments[1], each, place) for key, each in value.items()
        }
    elif kind is float and type(value) in {int, float} and 0 <= value < _MOST:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]  # one of the two
    elif kind is str and isinstance(value, str):
        return printable(value)
    elif type(value) is kind and (kind is not int or 0 <= value < _MOST):  # type: ignore[operator]
        return value
    raise DoctorError(f"{place}: expected {kind}, found {str(value)[:40]!r}")
