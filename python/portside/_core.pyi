"""The whole Rust surface. Python sees nothing else of the engine.

Shapes cross the door as JSON texts, so that a snapshot, a statistic or an event has one definition
(the serde structs of ``crates/engine/src/snapshot.rs`` and ``crates/engine/src/report.rs``) and one
description (``docs/internals/architecture.md``). None of these calls is on the data path. Calls
that wait release the interpreter.
"""

from collections.abc import Sequence
from typing import Self, final

__all__ = [
    "LEDGER_BUDGET_BYTES",
    "Engine",
    "EngineError",
    "Line",
    "Load",
    "PortLease",
    "Sink",
    "build_info",
    "explain_codes",
    "judge_certificate",
    "ledger_bytes",
    "read_certificate",
    "try_login",
    "version",
]

class EngineError(Exception):
    """The engine refused: ``str()`` is one sentence, ready for an administrator.

    Raised for a snapshot it cannot read (a bug of ours) and for what the system refused:
    ``args[0]`` is the sentence, ``args[1]`` the errno or 0, ``args[2]`` the listen address or "".
    """

@final
class Engine:
    """One running data plane: workers, listeners, sessions. One per process."""

    def __new__(cls, snapshot: str) -> Self:
        """Binds every listener of the snapshot and makes (but does not start) the workers.

        Args:
            snapshot: JSON, see docs/internals/architecture.md, "The snapshot".

        Raises:
            EngineError: an address could not be bound (``args[1]`` = errno, ``args[2]`` = address).
        """

    def start(self) -> None:
        """Starts the worker threads; they block every signal."""

    def apply(self, snapshot: str) -> int:
        """Takes a whole new snapshot and returns its generation; all or nothing.

        Listeners that stay keep their sockets, sessions that stay keep running, servers and
        services that went drain. New listeners are bound before anything changes.

        Raises:
            EngineError: as the constructor; the old snapshot stays.
        """

    def drain(self) -> None:
        """Stops accepting (accept queues are emptied first) and takes no new session.

        Returns at once.
        """

    def stop(self, timeout_s: float) -> int:
        """Closes every session by the close rules, ends the workers; returns sessions cut hard."""

    def stats(self) -> str:
        """Counters as JSON, see architecture.md, "Statistics". Cost: a few hundred atomic reads."""

    def ports(self) -> str:
        """The port ledger as JSON: one object per (source, destination) whose ports are ours.

        Keys: server, source, destination, size; in_use, resting, blocked, time_wait, free, reserved
        (these six add up to size); wasted_probes, opened_total, closes (outcome to count since the
        start, of sessions), peer_timestamps (null before the first close), resets_lost.
        """

    def lease(
        self, server: str, destination: str, avoid: Sequence[str] | None = None
    ) -> PortLease | None:
        """Lends a source port to a check, from the reserve first.

        None: the kernel chooses the ports there.

        Args:
            server: its name.
            destination: as in the snapshot.
            avoid: our addresses that are not wanted.

        Raises:
            EngineError: nothing is left, not even of the reserve; ``args[1]`` is EADDRNOTAVAIL when
                none of our addresses is on this host, else EADDRINUSE.
        """

    def seed_ports(self, time_wait: str) -> int:
        """Takes tuples that an earlier process left in TIME_WAIT; returns how many are ours.

        Args:
            time_wait: JSON list of {"source", "port", "destination", "left_ms"}.
        """

    def sessions(self, limit: int) -> str:
        """Up to ``limit`` running sessions as a JSON list. Asks every worker; at most 1 s."""

    def events(self, timeout_s: float) -> str:
        """JSON list of what happened since the last call.

        Waits up to ``timeout_s`` for the first.
        """

    def close_sessions(
        self,
        *,
        session: int | None = None,
        server: str | None = None,
        service: str | None = None,
        at_boundary: bool = False,
    ) -> int:
        """Ends matching sessions; all criteria given must match. Returns how many were told.

        Args:
            session: the id from ``sessions()``.
            server: every session on this server.
            service: every session of this service.
            at_boundary: wait for a command boundary (maint) instead of cutting at once (kill,
                on_down).
        """

    def reopen_log(self) -> None:
        """Reopens the session log file (SIGUSR1, logrotate).

        Raises:
            EngineError: it cannot be opened; lines go on to the old one.
        """

@final
class PortLease:
    """A source port lent by ``Engine.lease``; forgotten, it goes back as one that was reset."""

    @property
    def source(self) -> str:
        """Our address."""

    @property
    def port(self) -> int:
        """Our port; 0 once it was given back."""

    @property
    def resets_are_lost(self) -> bool:
        """Whether resets do not arrive there now: answer the server's FIN with ours."""

    def give_back(self, how: str) -> None:
        """Gives it back; a second time does nothing.

        Args:
            how: "server-first" (their FIN, then our RST), "server-first-fin" (their FIN, then
                ours), "we-first" and "we-first-no-timestamps" (our FIN first, with and without
                TCP timestamps at both ends), "reset", "not-connected", "port-in-use" (bind
                EADDRINUSE), "tuple-in-use" (connect EADDRNOTAVAIL), "open-at-server" (connect met
                the port's former connection), "source-gone" (bind EADDRNOTAVAIL), "unused".
        """

@final
class Load:
    """PHP-like clients on one thread: connect, log in, ask, QUIT, close. For demo, lab and tests.

    Dropping it stops it and waits for its sessions (at most the plan's ``timeout_ms``).
    """

    def __new__(cls, plan: str) -> Self:
        """Starts at once.

        Args:
            plan: JSON object; every key but ``target`` has a default. ``target`` ("IP:PORT" or
                "unix:PATH"), ``sources`` (addresses of ours, in turn), ``user``, ``password``,
                ``database``, ``queries`` (list), ``repeat``, ``concurrency``, ``rate`` (sessions
                per second or null), ``connections`` (or null), ``duration_ms`` (or null),
                ``hold_ms``, ``timeout_ms``, ``close`` ("libmysql", "wait", "no-quit", "reset"),
                ``identify``.

        Raises:
            ValueError: the JSON is wrong; the text names the key.
            OSError: the target is no address, or a list is empty.
        """

    def report(self) -> str:
        """JSON, at most 100 ms old.

        ``seconds``, ``done``, ``sessions_ok``, ``sessions_failed``, ``sessions_open``,
        ``queries_ok``, ``received_bytes``, ``sessions_per_s``, ``p50_us``, ``p99_us``, ``max_us``
        (connect() to the last answer), ``by_server`` (first value of the first answer to
        sessions, with ``identify``), ``errors`` (list of ``kind``, ``errno``, ``text``,
        ``count``; kinds: connect, reset, eof, timeout, server, protocol, local).
        """

    def stop(self) -> None:
        """Starts no further session; held ones end at once. Returns at once."""

    def wait(self, timeout_s: float) -> bool:
        """True when the last session has ended, False after ``timeout_s``."""

@final
class Line:
    """A path with a delay between two TUN devices, on one thread: what netem does, and drops.

    Dropping it ends it.
    """

    def __new__(cls, device_a: int, device_b: int, plan: str) -> Self:
        """Starts at once.

        Args:
            device_a: descriptor of an open TUN device (IFF_NO_PI); it is duplicated.
            device_b: the other end.
            plan: JSON object. ``delay_us`` (each way), ``drop`` (list of ``from`` "a" or "b",
                ``flag`` "fin", "syn", "rst" or "psh", ``count`` or null for every one).

        Raises:
            ValueError: the JSON is wrong.
            OSError: a descriptor is none.
        """

    def report(self) -> str:
        """JSON: ``from_a`` and ``from_b``, each with ``delivered``, ``dropped``, ``lost``."""

    def drop_also(self, rule: str) -> None:
        """One more entry of the plan's ``drop``; ValueError when the JSON is wrong."""

@final
class Sink:
    """A fast MySQL-speaking server on one thread: what proxies are measured against."""

    def __new__(cls, plan: str) -> Self:
        """Listens at once.

        Args:
            plan: JSON object; every key has a default. ``listen`` (list of "IP:PORT" or
                "unix:PATH"; port 0 takes a free one), ``close`` ("first" as mysqld, "wait",
                "reset"), ``answer`` (text of the one row), ``result_bytes`` (instead of it, below
                16 MiB), ``delay_ms``.

        Raises:
            ValueError: the JSON is wrong.
            OSError: an address cannot be bound.
        """

    def addresses(self) -> list[str]:
        """Where it listens, in the plan's order."""

    def report(self) -> str:
        """JSON: ``accepted``, ``open``, ``logins``, ``queries``, ``quits``, ``aborted``."""

LEDGER_BUDGET_BYTES: int
"""All ledgers of a process together take no more; beyond it they recycle what they have."""

def ledger_bytes(sources: int, lo: int, hi: int, workers: int) -> int:
    """Bytes that the ledger of one destination takes once every tuple has been used.

    Raises:
        ValueError: lo is 0 or above hi.
    """

def version() -> str:
    """The version of the package and of the data plane."""

def build_info() -> dict[str, str]:
    """Compiler, target, profile, and the kernel features found at start.

    Name to "yes" or why not.
    """

def read_certificate(certificate: str, key: str | None = None) -> str:
    """JSON list of what stands in the certificates of a PEM text.

    {"subject", "not_before_s", "not_after_s" (Unix time), "names"}, the server's own first. By the
    rules of the data plane: what is good here can be used there.

    Args:
        certificate: PEM text.
        key: PEM text of the first certificate's key; None: not looked at.

    Raises:
        ValueError: a sentence; the key does not belong to it, is locked, or is of no use.
    """

def judge_certificate(tls: str, chain: Sequence[bytes]) -> str | None:
    """Why a server's TLS is not to be trusted, by the rules of the data plane; None: it is.

    Args:
        tls: JSON, as a server's ``tls`` in the snapshot.
        chain: the certificates that it has shown, DER, its own first.
    """

def explain_codes() -> str:
    """JSON list of {"code", "kind", "text"}.

    Every termination reason and close outcome of the engine.
    """

def try_login(fd: int, spec: str, limit_s: float) -> str:
    """Logs in as pooled connections do, chooses the schema, asks for limits, says QUIT.

    On a duplicate of a connected, non-blocking socket, which the caller keeps open meanwhile and
    closes. Waits for the server, ``limit_s`` at most.

    Args:
        fd: of the socket.
        spec: JSON, {"user": ..., "tls": ...} as one of the snapshot's ``users`` and a server's
            ``tls``.
        limit_s: seconds.

    Returns:
        JSON {"outcome", "text", "tls", "max_connections", "max_prepared_statements"}: "good",
        "refused" (by the server), "tls", "late" or "broken"; why, in a sentence without secrets;
        version of TLS, or null; what the server takes of all its clients, or null.

    Raises:
        EngineError: the spec cannot be used.
    """
