"""What MySQL or MariaDB says of its clients: the article's "clients hang", seen from the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Database, Facts, whole
from portside.doctor.finding import Cure, Finding, Severity

_NEAR: Final = 0.8
_SOURCE: Final = "MySQL manual, Server Status Variables; MariaDB KB"


def check(facts: Facts) -> Iterator[Finding]:
    """Whether it answers at all; connections, refusals, aborted clients, blocked hosts."""
    server = facts.database
    if server is not None and server.refused:
        yield Finding(
            id="mysql-refused",
            severity=Severity.CRITICAL,
            title=f"{server.address} refuses everybody, us too: {server.refused}",
            cures=(
                Cure(
                    "1040: see who is connected through the administrator's door (MySQL"
                    " admin_address, MariaDB extra_port); 1129: FLUSH HOSTS from another address",
                    "clients get in again",
                    "none known",
                ),
            ),
            source=_SOURCE,
            left_s=0.0,
        )
    elif server is not None and server.unreachable:
        yield Finding(
            id="mysql-unreachable",
            severity=Severity.CRITICAL,
            title=f"{server.address} gave no counters: {server.unreachable}",
            cures=(
                Cure(
                    "See whether the server runs and listens there (ss -ltn on its host), whether"
                    " a firewall is between, and whether user and password are right",
                    "the server's side is examined too; this host's is complete without it",
                    "none known",
                ),
            ),
            source=_SOURCE,
        )
    elif server is not None:
        yield from _connections(server)
        yield from _refused(server)
        yield from _aborted(server)
        yield from _hosts(server)


def _connections(server: Database) -> Iterator[Finding]:
    most = _number(server.variables.get("max_connections"))
    now, peak = (
        server.status.get("Threads_connected", 0),
        server.status.get("Max_used_connections", 0),
    )
    if not most or max(now, peak) < most * _NEAR:
        return
    is_full = now >= most
    fill = (
        f"{now:,} of max_connections = {most:,}"
        if now >= most * _NEAR
        else (f"{now:,} now, {peak:,} at the peak, of max_connections = {most:,}")
    )
    running = server.status.get("Threads_running", 0)
    yield Finding(
        id="mysql-connections",
        severity=Severity.CRITICAL
        if is_full
        else (Severity.WARNING if now >= most * _NEAR else Severity.NOTICE),
        title=f"{server.address} has {fill}{': the next client is refused (1040)' * is_full}",
        evidence=(
            f"{running:,} of them run a query; the others sleep"
            f" (wait_timeout = {server.variables.get('wait_timeout', '?')} s)",
        ),
        cures=(
            Cure(
                "Let clients wait in a proxy's queue: max_connections and queue in Portside",
                "the server works at its best load, nobody is refused",
                "waiting takes time: set timeouts.queue",
            ),
            Cure(
                "A shorter wait_timeout where most of them sleep",
                "forgotten connections go",
                "persistent connections of the application are cut: it must reconnect",
            ),
            Cure(
                "A larger max_connections",
                "more clients at once",
                "memory per connection, and more threads at the same disks",
            ),
        ),
        source=_SOURCE,
        left_s=0.0 if is_full else None,
    )


def _refused(server: Database) -> Iterator[Finding]:
    errors = {
        name: count
        for name, count in server.status.items()
        if name.startswith("Connection_errors_") and count
    }
    if not errors:
        return
    fresh = {name: server.fresh.get(name, 0) for name in errors}
    now = sum(fresh.values())
    yield Finding(
        id="mysql-connection-errors",
        severity=Severity.CRITICAL if now else Severity.NOTICE,
        title=f"{server.address} refused clients: "
        + (f"{now:,} while watching, " if now else "")
        + f"{sum(errors.values()):,} since its start",
        evidence=tuple(f"{name} = {count:,}" for name, count in sorted(errors.items())),
        cures=(
            Cure(
                "max_connections: see there; accept or internal: the server's own log and its file"
                " limit; peer_address, tcpwrap: name resolution, hosts.deny",
                "names the cause",
                "none known",
            ),
        ),
        source=_SOURCE,
    )


def _aborted(server: Database) -> Iterator[Finding]:
    for name, meaning, cure in (
        ("Aborted_clients", "ended without QUIT, or while the server wrote", _QUIT),
        ("Aborted_connects", "left before or failed the login", _LOGIN),
    ):
        count, fresh = server.status.get(name, 0), server.fresh.get(name, 0)
        if not count:
            continue
        total = max(server.status.get("Connections", 0), 1)
        yield Finding(
            id="mysql-" + name.lower().replace("_", "-"),
            severity=Severity.WARNING if fresh else Severity.NOTICE,
            title=f"{server.address}: {count:,} clients {meaning} ({name}),"
            f" {100 * count / total:.1f} % of all; {fresh:,} while watching",
            cures=(cure,),
            source=_SOURCE,
        )


def _hosts(server: Database) -> Iterator[Finding]:
    most = _number(server.variables.get("max_connect_errors"))
    for host, errors in server.hosts or ():
        if most and errors >= most:
            yield Finding(
                id="mysql-host-blocked",
                severity=Severity.CRITICAL,
                title=f"{server.address} refuses {host} (1129): {errors:,} interrupted connects,"
                f" max_connect_errors = {most:,}",
                evidence=("a proxy is one host: when it is blocked, so is everybody behind it",),
                cures=(
                    Cure(
                        "FLUSH HOSTS, or TRUNCATE TABLE performance_schema.host_cache",
                        "it gets in again, at once",
                        "none known",
                    ),
                    Cure(
                        "Find who connects and leaves without a login: a health check of TCP or"
                        " greeting only; Portside's default check is not counted",
                        "it does not come back",
                        "none known",
                    ),
                    Cure("A larger max_connect_errors", "it takes longer", "none known"),
                ),
                source=_SOURCE,
                left_s=0.0,
            )


_QUIT: Final = Cure(
    "Let clients close well; proxies: no reset before QUIT was read (HAProxy option nolinger)",
    "the counter stands still",
    "none known",
)
_LOGIN: Final = Cure(
    "Look at the error log (log_error_verbosity 3, log_warnings 2): wrong passwords, port scans, or"
    " a health check that greets and leaves",
    "names the cause",
    "none known",
)


def _number(text: str | None) -> int:
    return whole(text or "") or 0
