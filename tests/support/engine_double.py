"""An engine without sockets, for unit tests of the control side: it remembers what it was told."""

from __future__ import annotations

import json
import time
from typing import Any


class EngineError(Exception):
    """Same name and arguments as ``portside._core.EngineError``."""


class EngineDouble:
    """The methods of ``portside._core.Engine``.

    Attributes:
        snapshots: every snapshot taken, oldest first.
        closed: the criteria of every ``close_sessions``.
        rows: the port ledger as ``ports()`` shows it; tests append.
        seeded: what ``seed_ports`` was given.
        running: sessions as ``sessions()`` shows them; tests append.
        refuse: raised by the next ``apply``.
    """

    def __init__(self, snapshot: str) -> None:
        self.snapshots: list[dict[str, Any]] = [json.loads(snapshot)]
        self.closed: list[dict[str, Any]] = []
        self.running: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.seeded: list[dict[str, Any]] | None = None
        self.pending: list[dict[str, Any]] = []
        self.refuse: EngineError | None = None
        self.calls: list[str] = []

    @property
    def snapshot(self) -> dict[str, Any]:
        """The snapshot in force."""
        return self.snapshots[-1]

    def member(self, service: str, server: str) -> dict[str, Any]:
        """A member of the snapshot in force."""
        found = next(s for s in self.snapshot["services"] if s["name"] == service)
        return next(m for m in found["members"] if m["server"] == server)

    def start(self) -> None:
        self.calls.append("start")

    def apply(self, snapshot: str) -> int:
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            raise error
        self.snapshots.append(json.loads(snapshot))
        return int(self.snapshot["generation"])

    def drain(self) -> None:
        self.calls.append("drain")

    def stop(self, timeout_s: float) -> int:
        self.calls.append("stop")
        return 0

    def stats(self) -> str:
        now = self.snapshot
        services = [
            {
                "name": service["name"],
                "sessions": self._count(service=service["name"]),
                "queued": 0,
                "accepted_total": 7,
                "refused_total": 1,
                "commands_refused_total": 0,
                "logins_failed_total": 0,
                "to_server_bytes_total": 10,
                "to_client_bytes_total": 20,
                "members": [
                    {
                        "server": member["server"],
                        "sessions": self._count(service=service["name"], server=member["server"]),
                        "sessions_total": 3,
                    }
                    for member in service["members"]
                ],
            }
            for service in now["services"]
        ]
        servers = [
            {
                "name": server["name"],
                "sessions": self._count(server=server["name"]),
                "sessions_total": 3,
                "connect_failures_total": 0,
                "breaker": "closed",
                "left_before_login_total": 0,
                "close_deadlines_total": 0,
                "pool_connections": 0,
                "pool_busy": 0,
                "pool_opened_total": 0,
                "pool_reprepares_total": 0,
                "pool_logins_failed_total": 0,
                "pool_login_error": None,
                "pool_full_error": None,
                "connect_error": None,
                "read_only_errors_total": 0,
                "destinations": server["destinations"],
                "hosts_blocked": [],
            }
            for server in now["servers"]
        ]
        return json.dumps(
            {
                "generation": now["generation"],
                "uptime_s": 12.5,
                "accepting": now["accepting"] and "drain" not in self.calls,
                "workers": [
                    {
                        "id": 0,
                        "alive": True,
                        "sessions": len(self.running),
                        "accepted_total": 7,
                        "loops_total": 70,
                    }
                ],
                "services": services,
                "servers": servers,
                "closes": {"server": {"eof-reset": 3}, "client": {"fin-reset": 3}},
                "terminations": {"quit/none": 3},
                "pins": {"transaction": 1},
                "tls": {
                    "client": {"handshakes_total": 5, "failures": {"not-tls": 1}},
                    "server": {"handshakes_total": 2, "failures": {"certificate": 0}},
                },
                "log": {"written_total": 3, "dropped_total": 0},
                "events_dropped_total": 0,
            }
        )

    def ports(self) -> str:
        return json.dumps(self.rows)

    def lease(self, server: str, destination: str, avoid: Any = ()) -> None:
        return None

    def seed_ports(self, time_wait: str) -> int:
        self.seeded = json.loads(time_wait)
        return len(self.seeded)

    def sessions(self, limit: int) -> str:
        return json.dumps(self.running[:limit])

    def events(self, timeout_s: float) -> str:
        if not self.pending:
            time.sleep(min(timeout_s, 0.01))
        events, self.pending = self.pending, []
        return json.dumps(events)

    def close_sessions(self, **criteria: Any) -> int:
        self.closed.append(criteria)
        wanted = {k: v for k, v in criteria.items() if k != "at_boundary" and v is not None}
        wanted = {("id" if k == "session" else k): v for k, v in wanted.items()}
        told = [s for s in self.running if all(s[k] == v for k, v in wanted.items())]
        return len(told)

    def reopen_log(self) -> None:
        self.calls.append("reopen_log")

    def _count(self, **wanted: str) -> int:
        return sum(all(s[k] == v for k, v in wanted.items()) for s in self.running)


def session(number: int, service: str, server: str) -> dict[str, Any]:
    """A running session as the engine shows it."""
    return {
        "id": number,
        "client": "10.0.1.7:51234",
        "service": service,
        "server": server,
        "source": "10.0.0.5:12000",
        "destination": "10.0.0.11:3306",
        "state": "command",
        "age_s": 1.5,
        "idle_s": 0.2,
        "to_server_bytes": 10,
        "to_client_bytes": 2048,
    }
