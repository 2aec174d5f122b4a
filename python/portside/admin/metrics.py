"""Prometheus metrics: the engine's counters and the verdicts of the checks, collected when asked.

One custom collector over the engine's counters and the instance's views: no second set of
counters that could disagree. Labels are bounded by the configuration (service, server, worker)
and by enums (code, kind); clients and sessions never become labels. docs/metrics.md is
held to ``FAMILIES`` by a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from portside.config import certificates
from portside.config.limits import pool_open_rate
from portside.control.event_kinds import KINDS

if TYPE_CHECKING:
    from portside.admin.views import PortView
    from portside.control.host import Host


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name as scraped, its type, its labels and its help text."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    text: str


def _f(name: str, kind: Literal["counter", "gauge"], labels: str, text: str) -> Family:
    return Family(f"portside_{name}", kind, tuple(labels.split()), text)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _f("build_info", "gauge", "version", "1; the version is the label."),
        _f("uptime_seconds", "gauge", "", "Time since the engine started."),
        _f("accepting", "gauge", "", "1 while new sessions are taken, 0 while draining."),
        _f("config_generation", "gauge", "", "Number of the snapshot in force."),
        _f("config_reload_success", "gauge", "", "1 unless the last reload was refused."),
        _f(
            "config_reload_timestamp_seconds",
            "gauge",
            "",
            "When the last reload was tried, in seconds since 1970; 0 before the first.",
        ),
        _f("worker_alive", "gauge", "worker", "1 while the worker thread runs."),
        _f("worker_sessions", "gauge", "worker", "Sessions of this worker now."),
        _f("worker_accepted_total", "counter", "worker", "Clients accepted by this worker."),
        _f("worker_loops_total", "counter", "worker", "Turns of the worker's event loop."),
        _f("service_sessions", "gauge", "service", "Sessions of this service now."),
        _f("service_queued", "gauge", "service", "Sessions waiting for a server now."),
        _f("service_paused", "gauge", "service", "1 while an administrator holds clients back."),
        _f("service_eligible_servers", "gauge", "service", "Members that may take sessions."),
        _f(
            "service_active_servers",
            "gauge",
            "service",
            "Members that new sessions go to: eligible, and no backup that waits its turn.",
        ),
        _f("service_accepted_total", "counter", "service", "Clients accepted."),
        _f(
            "service_refused_total",
            "counter",
            "service",
            "Clients that got an error of Portside's instead of a server.",
        ),
        _f(
            "service_commands_refused_total",
            "counter",
            "service",
            "Pool mode: commands that got an error of Portside's in place of a server connection.",
        ),
        _f(
            "service_logins_failed_total",
            "counter",
            "service",
            "Pool mode: logins of clients that failed.",
        ),
        _f(
            "service_bytes_total",
            "counter",
            "service direction",
            "Bytes relayed; direction is to_server or to_client.",
        ),
        _f(
            "member_sessions",
            "gauge",
            "service server",
            "Sessions of the service there now; pool mode: 0, see the server's pool.",
        ),
        _f("member_sessions_total", "counter", "service server", "Sessions sent there."),
        _f("member_eligible", "gauge", "service server", "1 when new sessions may go there."),
        _f("member_weight", "gauge", "service server", "Weight in force, overrides included."),
        _f("server_up", "gauge", "server", "1 up, 0 down; absent while unknown."),
        _f("server_sessions", "gauge", "server", "Sessions on this server now."),
        _f("server_sessions_total", "counter", "server", "Sessions that reached this server."),
        _f("server_connect_failures_total", "counter", "server", "Connections that failed."),
        _f(
            "server_left_before_login_total",
            "counter",
            "server",
            "Clients that left before login: each counts towards max_connect_errors there.",
        ),
        _f(
            "server_close_deadlines_total",
            "counter",
            "server",
            "Closes without the server's FIN, which had not come by close.deadline.",
        ),
        _f(
            "server_check_duration_seconds",
            "gauge",
            "server",
            "Time that the last check that passed took; absent before the first.",
        ),
        _f("server_pool_connections", "gauge", "server", "Pool mode: connections open there now."),
        _f("server_pool_busy", "gauge", "server", "Pool mode: of these, in a session's hands."),
        _f(
            "server_pool_max",
            "gauge",
            "server",
            "Pool mode: connections at most; absent without a pool.",
        ),
        _f("server_pool_opened_total", "counter", "server", "Pool mode: connections opened."),
        _f(
            "server_pool_open_rate",
            "gauge",
            "server",
            "Pool mode: connections opened per second at most; absent without a pool.",
        ),
        _f(
            "server_pool_logins_failed_total",
            "counter",
            "server",
            "Pool mode: logins of ours that the server refused.",
        ),
        _f(
            "server_read_only_errors_total",
            "counter",
            "server",
            "Pool mode: writes refused because the server is read-only (1290, 1836).",
        ),
        _f("server_breaker_open", "gauge", "server", "1 after three connect failures in a row."),
        _f(
            "server_hosts_blocked",
            "gauge",
            "server",
            "Our source addresses that this server refuses (errors 1129, 1130).",
        ),
        _f(
            "server_replication_lag_seconds",
            "gauge",
            "server",
            "Delay of a replica; absent when unknown.",
        ),
        _f(
            "source_ports",
            "gauge",
            "server source destination state",
            "Source ports by state: in_use, resting, blocked, time_wait, free, reserved.",
        ),
        _f(
            "source_ports_exhausted_in_seconds",
            "gauge",
            "server source destination",
            "Until no port is usable at this rate; absent when never, or not known yet.",
        ),
        _f(
            "source_opened_total",
            "counter",
            "server source destination",
            "Connections tried from ports of ours.",
        ),
        _f(
            "source_wasted_probes_total",
            "counter",
            "server source destination",
            "Ports that the kernel refused when they were tried.",
        ),
        _f(
            "source_closes_total",
            "counter",
            "server source destination code",
            "Closes of sessions towards the server, by outcome.",
        ),
        _f(
            "source_resets_lost",
            "gauge",
            "server destination",
            "1 while the path swallows resets and ports rest 60 s.",
        ),
        _f("closes_total", "counter", "side code", "Closes by side (server, client) and outcome."),
        _f("terminations_total", "counter", "code", "Sessions ended, by termination reason."),
        _f("events_total", "counter", "kind", "Events by kind, also those that were only counted."),
        _f(
            "pool_pins_total",
            "counter",
            "reason",
            "Times a session of pool mode began to keep its server connection.",
        ),
        _f(
            "pool_reprepares_total",
            "counter",
            "server",
            "Pool mode: prepared statements of clients prepared anew on another connection.",
        ),
        _f(
            "tls_handshakes_total",
            "counter",
            "side",
            "TLS handshakes of pool mode that succeeded, by side (server, client).",
        ),
        _f(
            "tls_failures_total",
            "counter",
            "side reason",
            "TLS handshakes that failed, by side and reason (`portside explain REASON`).",
        ),
        _f(
            "tls_certificate_not_after_timestamp_seconds",
            "gauge",
            "certificate",
            "Until when a certificate of Portside's is valid, in seconds since 1970; its file as"
            " the configuration names it.",
        ),
        _f("log_lines_total", "counter", "", "Session log lines written."),
        _f("log_dropped_total", "counter", "", "Session log lines lost: the disk was slower."),
        _f("events_dropped_total", "counter", "", "Events lost: Python was slower."),
    )
}

Sample = tuple[str, tuple[str, ...], float]


class InstanceCollector(Collector):
    """Asks the instance once per scrape. Cost: one ``stats()`` and a few hundred samples."""

    def __init__(self, host: Host, version: str) -> None:
        self._host = host
        self._instance = host.instance
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """One family per name in ``FAMILIES``."""
        families: dict[str, Metric] = {}
        for family in FAMILIES.values():
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            families[family.name] = make(family.name, family.text, labels=family.labels)
        for name, labels, value in self._samples():
            metric = families[f"portside_{name}"]
            assert isinstance(metric, CounterMetricFamily | GaugeMetricFamily)  # noqa: S101
            metric.add_metric(labels, value)
        yield from families.values()

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask an instance that is still starting."""
        return []

    def _samples(self) -> Iterator[Sample]:
        stats = self._instance.stats()
        yield "build_info", (self._version,), 1
        yield from _process(stats)
        reload = self._host.reloader.last
        yield "config_reload_success", (), 1 if reload is None or reload.ok else 0
        yield "config_reload_timestamp_seconds", (), 0 if reload is None else reload.time
        yield from _services(stats)
        yield from _servers(stats)
        yield from self._verdicts()

    def _verdicts(self) -> Iterator[Sample]:
        for service in self._instance.services():
            name = service.name
            paused = name in self._instance.composed.world.overrides.paused
            yield "service_paused", (name,), paused
            eligible = sum(member.eligible for member in service.members)
            yield "service_eligible_servers", (name,), eligible
            active = sum(member.active for member in service.members)
            yield "service_active_servers", (name,), active
            for member in service.members:
                yield "member_eligible", (name, member.server), member.eligible
                yield "member_weight", (name, member.server), member.weight
        for server in self._instance.servers():
            if server.is_up is not None:
                yield "server_up", (server.name,), server.is_up
            if server.check_s is not None:
                yield "server_check_duration_seconds", (server.name,), server.check_s
            if server.pool_max is not None:
                yield "server_pool_max", (server.name,), server.pool_max
            if server.lag_s is not None:
                yield "server_replication_lag_seconds", (server.name,), server.lag_s
        for certificate in certificates.in_use(self._instance.config):
            if (times := certificates.validity(certificate)) is not None:
                yield "tls_certificate_not_after_timestamp_seconds", (str(certificate),), times[1]
        for name, rate in pool_open_rate(self._instance.config).items():
            yield "server_pool_open_rate", (name,), rate
        # Every kind from the start: an alert on the first event of a kind needs the 0 before it.
        counts = self._instance.event_counts()
        for kind in KINDS:
            if kind != "events_missed":  # each reader's own, counted by nobody
                yield "events_total", (kind,), counts.get(kind, 0)
        rows = self._instance.port_rows()
        yield from _ports(rows, self._instance.ports(rows=rows))


def _process(stats: dict[str, Any]) -> Iterator[Sample]:
    yield "uptime_seconds", (), stats["uptime_s"]
    yield "accepting", (), stats["accepting"]
    yield "config_generation", (), stats["generation"]
    for worker in stats["workers"]:
        label = (str(worker["id"]),)
        yield "worker_alive", label, worker["alive"]
        for key in ("sessions", "accepted_total", "loops_total"):
            yield f"worker_{key}", label, worker[key]
    for side, outcomes in stats["closes"].items():
        for code, count in outcomes.items():
            yield "closes_total", (side, code), count
    for code, count in stats["terminations"].items():
        yield "terminations_total", (code,), count
    for reason, count in stats["pins"].items():
        yield "pool_pins_total", (reason,), count
    for side, outcomes in stats["tls"].items():
        yield "tls_handshakes_total", (side,), outcomes["handshakes_total"]
        for reason, count in outcomes["failures"].items():
            yield "tls_failures_total", (side, reason), count
    yield "log_lines_total", (), stats["log"]["written_total"]
    yield "log_dropped_total", (), stats["log"]["dropped_total"]
    yield "events_dropped_total", (), stats["events_dropped_total"]


def _services(stats: dict[str, Any]) -> Iterator[Sample]:
    for service in stats["services"]:
        name = service["name"]
        for key in (
            "sessions",
            "queued",
            "accepted_total",
            "refused_total",
            "commands_refused_total",
            "logins_failed_total",
        ):
            yield f"service_{key}", (name,), service[key]
        for direction in ("to_server", "to_client"):
            yield "service_bytes_total", (name, direction), service[f"{direction}_bytes_total"]
        for member in service["members"]:
            for key in ("sessions", "sessions_total"):
                yield f"member_{key}", (name, member["server"]), member[key]


def _ports(rows: list[dict[str, Any]], views: Iterable[PortView]) -> Iterator[Sample]:
    paths: dict[tuple[str, str], bool] = {}
    for row in rows:
        label = (row["server"], row["source"], row["destination"])
        for state in ("in_use", "resting", "blocked", "time_wait", "free", "reserved"):
            yield "source_ports", (*label, state), row[state]
        yield "source_opened_total", label, row["opened_total"]
        yield "source_wasted_probes_total", label, row["wasted_probes"]
        for code, count in row["closes"].items():
            yield "source_closes_total", (*label, code), count
        paths[row["server"], row["destination"]] = row["resets_lost"]
    for path, is_lost in paths.items():
        yield "source_resets_lost", path, is_lost
    for view in views:
        if view.exhausted_in_s is not None:
            label = (view.server, view.source, view.destination)
            yield "source_ports_exhausted_in_seconds", label, view.exhausted_in_s


def _servers(stats: dict[str, Any]) -> Iterator[Sample]:
    for server in stats["servers"]:
        label = (server["name"],)
        for key in (
            "sessions",
            "sessions_total",
            "connect_failures_total",
            "left_before_login_total",
            "close_deadlines_total",
            "pool_connections",
            "pool_busy",
            "pool_opened_total",
            "pool_logins_failed_total",
            "read_only_errors_total",
        ):
            yield f"server_{key}", label, server[key]
        yield "pool_reprepares_total", label, server["pool_reprepares_total"]
        yield "server_breaker_open", label, server["breaker"] != "closed"
        blocked = {host["source"] for host in server["hosts_blocked"]}
        yield "server_hosts_blocked", label, len(blocked)


def registry(host: Host, version: str) -> CollectorRegistry:
    """The instance's metrics and the process's own, such as process_open_fds."""
    found = CollectorRegistry()
    found.register(InstanceCollector(host, version))
    ProcessCollector(registry=found)
    return found


def build(host: Host, version: str) -> Starlette:
    """The read-only application of ``[metrics] listen``: ``/metrics`` and ``/healthz``."""
    collected = registry(host, version)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(collected), media_type=CONTENT_TYPE_LATEST)

    async def healthz(request: Request) -> Response:
        good, text = host.instance.healthz(request.query_params.get("service"))
        return PlainTextResponse(text + "\n", status_code=200 if good else 503)

    return Starlette(
        routes=[
            Route("/metrics", metrics, methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
        ]
    )
