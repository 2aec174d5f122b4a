"""What `portside check --connect` does: it logs in everywhere, from every source address.

Two kinds of logins, because two kinds of accounts can keep clients out: the check's, by the checks'
own code, and in pool mode each `[[user]]`'s, by the data plane's. The database judges each of our
addresses alone (GRANTs, max_connect_errors). It reads the configuration and prints; the verdict on
a server is none of its business.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from portside.cli import table
from portside.config import snapshot
from portside.config.accounts import services_of
from portside.config.addresses import Address
from portside.config.model import Config, Server, User
from portside.config.server_limits import ServerLimits

if TYPE_CHECKING:
    from portside.health.judge import CheckResult
    from portside.health.probe import Prober
    from portside.health.target import Target

# Quick enough for 256 source addresses, far below max_connect_errors and max_connections.
_LOGINS_AT_ONCE: Final = 16
_ANSWERED: Final = {"L7OK", "L7STS", "NOT_TRIED", "NO_CHECK"}
# A pooled connection may take timeouts.connect and timeouts.login; nobody waits here for so long.
_ACCOUNT_LIMIT_S: Final = 5.0
# Somebody at a terminal is told how far it is.
_QUIET_S: Final = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Login:
    """One login attempt of `--connect`."""

    server: str
    destination: str
    source: str
    """Our address; "" where the route chose it."""
    account: str
    """"check", or in pool mode the name of a `[[user]]`."""
    ok: bool
    status: str
    detail: str
    max_connections: int | None = None
    """What the server takes of all its clients together; None: a `[[user]]` did not come to ask."""
    max_prepared_statements: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Attempt:
    server: Server
    address: Address
    source: str
    user: User | None
    """None: the check's account."""


async def log_in_everywhere(config: Config) -> list[Login]:
    """One login per account from every source address to every destination, as in the file."""
    from portside.health.probe import Prober

    prober = Prober(_LOGINS_AT_ONCE)
    gate = asyncio.Semaphore(_LOGINS_AT_ONCE)
    progress: asyncio.Task[None] | None = None
    try:
        tasks = [asyncio.ensure_future(_log_in_all(prober, gate, way)) for way in ways(config)]
        progress = asyncio.ensure_future(_tell_progress(tasks))
        return [login for found in await asyncio.gather(*tasks) for login in found]
    finally:
        if progress is not None:
            progress.cancel()
        await prober.close()


def ways(config: Config) -> list[list[_Attempt]]:
    """Who is to log in on each way to a server: a source address and a destination.

    A server that pools use needs no account of its check.
    """
    accounts: dict[str, list[User]] = {server.name: [] for server in config.servers}
    for user in config.users:
        for name in dict.fromkeys(
            member.name for service in services_of(user, config) for member in service.servers
        ):
            accounts[name].append(user)
    return [
        [
            _Attempt(server, address, source, user)
            for user in (*_check_account(server, accounts[server.name]), *accounts[server.name])
        ]
        for server in config.servers
        for address in server.addresses
        for source in _sources_towards(server, address)
    ]


def _check_account(server: Server, users: Sequence[User]) -> tuple[None, ...]:
    has_one = server.check is not None and bool(server.check.user)
    return (None,) if has_one or not users else ()


async def _log_in_all(
    prober: Prober, gate: asyncio.Semaphore, attempts: Sequence[_Attempt]
) -> list[Login]:
    """One after the other, as long as the server gets as far as the account.

    A handshake that fails counts there towards max_connect_errors: a hundred accounts would make
    the server refuse our address.
    """
    found: list[Login] = []
    for attempt in attempts:
        if all(one.status in _ANSWERED for one in found):
            found.append(await _log_in(prober, gate, attempt))
        else:
            detail = "the login before it did not get as far as the account"
            found.append(_login(attempt, True, "NOT_TRIED", detail))
    return found


async def _log_in(prober: Prober, gate: asyncio.Semaphore, attempt: _Attempt) -> Login:
    user = attempt.user
    if user is not None and _is_untold(user):
        return _login(
            attempt,
            True,
            "NOT_TRIED",
            "only a hash of its password is known here: the first client's login tells the rest",
        )
    target = _check_target(attempt) if user is None else _account_target(attempt, user)
    if target is None:
        detail = "no account to log in with: give [check] a user and a password"
        return _login(attempt, False, "NO_CHECK", detail)
    async with gate:
        result = await prober.check(target)
    return _outcome(attempt, result)


def _is_untold(user: User) -> bool:
    return user.password is None and user.server_password is None


def _check_target(attempt: _Attempt) -> Target | None:
    from portside.health.target import target_of

    target = target_of(attempt.server, (str(attempt.address),))
    if target is None or not target.user:
        return None
    kind: Final = "query" if target.query else "login"
    return dataclasses.replace(target, sources=_only(attempt), type=kind)


def _account_target(attempt: _Attempt, user: User) -> Target:
    from portside.health.target import CloseRule, Target

    server = attempt.server
    spec = {"user": snapshot.account(user), "tls": snapshot.server_tls(server)}
    return Target(
        name=server.name,
        destinations=(str(attempt.address),),
        sources=_only(attempt),
        send_proxy=server.send_proxy,
        close=CloseRule(server.close.to_server, server.close.deadline_s),
        type="account",
        timeout_s=_ACCOUNT_LIMIT_S,
        account=json.dumps(spec),
    )


def _only(attempt: _Attempt) -> tuple[str, ...]:
    return (attempt.source,) if attempt.source else ()


def _outcome(attempt: _Attempt, result: CheckResult) -> Login:
    ok = result.status.passed
    detail = result.detail
    if attempt.user is None:
        if not ok and any(one.errno in (1045, 1130) for one in result.destinations):
            check = attempt.server.check
            name = check.user if check else ""
            # The server's text has our address as it sees it, also where the route chose it.
            seen = re.search(r"(?:@|Host )'([^']+)'", detail)
            address = attempt.source or (seen[1] if seen else "this host")
            detail += f'; GRANT for "{name}"@"{address}"'
    elif not ok and attempt.server.send_proxy:
        detail += "; tried from our own address, with send_proxy clients come from theirs"
    login = _login(attempt, ok, str(result.status), detail)
    if (told := result.readings) is None:
        return login
    return dataclasses.replace(
        login,
        max_connections=told.max_connections,
        max_prepared_statements=told.max_prepared_statements,
    )


def limits_told(logins: Sequence[Login]) -> dict[str, ServerLimits]:
    """What the servers said they take, by server."""
    return {
        login.server: ServerLimits(login.max_connections, login.max_prepared_statements)
        for login in logins
        if login.max_connections is not None
    }


def _login(attempt: _Attempt, ok: bool, status: str, detail: str) -> Login:
    name = "check" if attempt.user is None else attempt.user.name
    return Login(
        attempt.server.name, str(attempt.address), attempt.source, name, ok, status, detail
    )


def _sources_towards(server: Server, address: Address) -> tuple[str, ...]:
    """Our addresses of the destination's family; ("",) where the route decides.

    A name may have addresses of both families: every source address is tried.
    """
    if address.kind == "unix" or not server.source.addresses:
        return ("",)
    ips = server.source.ips
    if address.ip is None:
        return ips
    return tuple(ip for ip in ips if (":" in ip) == (address.ip.version == 6))


async def _tell_progress(tasks: Sequence[asyncio.Future[list[Login]]]) -> None:
    while sys.stderr.isatty():
        await asyncio.sleep(_QUIET_S)
        done = sum(task.done() for task in tasks)
        click.echo(f"{done:,} of {len(tasks):,} addresses tried", err=True)


def write(logins: Sequence[Login]) -> None:
    """The table of them, and how many failed."""
    rows = tuple(
        (
            login.server,
            login.destination,
            login.source or "(route)",
            login.account,
            table.Cell(login.status, "green" if login.ok else "red"),
            login.detail,
        )
        for login in logins
    )
    heads = ("server", "address", "from", "account", "status", "detail")
    table.write(table.Table(heads, rows), sys.stdout)
    failed = sum(not login.ok for login in logins)
    untried = sum(login.status == "NOT_TRIED" for login in logins)
    text = f"{failed} of {len(logins)} logins failed" if failed else "every login worked"
    click.echo(f"{text}{f'; {untried} could not be tried' if untried else ''}")
