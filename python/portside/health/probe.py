"""Makes one check of one server: every destination, from our source addresses in turn.

For: the check types (tcp, login, query, mysql, python), the choice of source address, deadlines,
and putting the destinations' outcomes together. It does I/O and keeps no verdict: judge.py
counts. It must not know services, nor when the next check is due (monitor.py).

No thread waits for a server that does not answer: connecting and the wait for the greeting are
asyncio's, and only a server that has greeted us gets one of a few threads, in which PyMySQL logs
in. The deadline shuts the socket down, which ends that thread's recv() at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from .account import log_in
from .connection import (
    PEEK_AGAIN_S,
    CheckError,
    PortDoor,
    close_after_quit,
    hang_up,
    knock_unix,
    peek_first,
    reset,
)
from .greeting import (
    ER_ACCESS_DENIED,
    ER_CON_COUNT,
    ER_SECURE_TRANSPORT_REQUIRED,
    HEADER_BYTES,
    MAX_FIRST_PACKET,
    Greeting,
    NotMysql,
    ServerError,
    parse_first,
)
from .judge import CheckResult, DestinationResult, Status
from .login import Answer, LoginPlan, converse, full_answer
from .outcomes import combine, may_differ_elsewhere, over_sources
from .readings import dialect_of
from .target import (
    Destination,
    Target,
    TlsRule,
    join_address,
    parse_destination,
    usable_sources,
)
from .tls import WANTED, context_of
from .usercheck import CheckTarget, FunctionWorkers
from .way import Way

# PROXY v2: signature, version 2 command LOCAL, family UNSPEC, no addresses.
# Source: proxy-protocol.txt 2.2.
PROXY_V2_LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
# Address tries of one check; the next check starts at the next address.
MAX_SOURCES_TRIED = 4
LOGIN_THREADS = 16
# The header went out before the greeting was read, so the answer to it follows within a round trip.
REFUSAL_WAIT_S = 0.5


class Prober:
    """Makes checks. One per monitor; to be used inside one event loop and closed there.

    Args:
        threads: logins at a time.
        ports: where source ports are leased; None: the kernel chooses them.
    """

    def __init__(self, threads: int = LOGIN_THREADS, *, ports: PortDoor | None = None) -> None:
        self._ports = ports
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="portside-check")
        self._free_threads = asyncio.Semaphore(threads)
        self._closing: set[asyncio.Task[None]] = set()
        self._wants_tls: set[str] = set()
        self._functions = FunctionWorkers()
        self.unstamped: set[str] = set()
        """Destinations whose TCP has no timestamps, of those that checks lease ports towards."""

    async def check(self, target: Target, turn: int = 0) -> CheckResult:
        """One check; ends within ``target.timeout_s``, whatever the server does. Never raises.

        Args:
            target: what to check.
            turn: the number of this check, so that each starts with another source address.
        """
        if target.type == "python":
            return await self._functions.check(
                target.function, check_target(target), target.timeout_s
            )
        try:
            destinations = await self._resolve(target)
        except CheckError as error:
            return CheckResult(error.status, detail=error.detail)
        results = await asyncio.gather(
            *(self._check_destination(target, one, turn) for one in destinations)
        )
        return combine(results)

    async def greet(self, target: Target) -> Reception | None:
        """How the first destination that answers takes our PROXY header; None: nobody answers.

        With an account it logs in, so that the server counts nothing as Aborted_connects.
        """
        for one in map(parse_destination, target.destinations):
            sources = _sources(target, one)
            if one.is_name or not sources:
                continue
            deadline = asyncio.get_running_loop().time() + target.timeout_s
            try:
                return await self._greet(target, Way(one, sources[0]), deadline)
            except (CheckError, OSError):
                continue
        return None

    async def _greet(self, target: Target, way: Way, deadline: float) -> Reception | None:
        sock = await way.open(deadline)
        try:
            first = await self._first(target, sock, deadline)
            if not isinstance(first, Greeting):
                self._close_later(target, sock)
                return None
            refusal = await _second(sock)
            if refusal is None and target.user:
                rule = target.tls if target.tls.mode != "disabled" else None
                plan, _ = _plan(target, way, first, rule)
                await self._converse(sock, replace(plan, query=""), deadline)
        except BaseException:
            reset(sock)
            raise
        if refusal is None and not target.user:
            reset(sock)  # it waits for a login that we do not have
        else:
            self._close_later(target, sock)
        return Reception(way.destination.text, first.version, refusal)

    async def close(self) -> None:
        """Ends what is still closing; then every socket, thread and process of checks is gone."""
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._functions.close()
        # Their sockets are shut down, so that this takes no time; each closes its duplicate.
        await asyncio.to_thread(self._threads.shutdown)

    async def _resolve(self, target: Target) -> list[Destination]:
        """Names that nobody resolved for us; one that does not resolve is no server's failure."""
        found: list[Destination] = []
        loop = asyncio.get_running_loop()
        for one in map(parse_destination, target.destinations):
            if not one.is_name:
                found.append(one)
                continue
            try:
                async with asyncio.timeout(target.timeout_s):
                    answers = await loop.getaddrinfo(one.host, one.port, type=socket.SOCK_STREAM)
            except (OSError, TimeoutError) as error:
                text = f"host name {one.host} does not resolve: {error or 'no answer in time'}"
                raise CheckError(Status.SOCKERR, text) from None
            hosts = dict.fromkeys(str(address[0]) for *_, address in answers)
            found += [parse_destination(join_address(host, one.port)) for host in hosts]
        return found

    # ---- one destination, address after address

    async def _check_destination(
        self, target: Target, destination: Destination, turn: int
    ) -> DestinationResult:
        """Tries our addresses until one is let in; remembers those that were refused."""
        sources = _sources(target, destination)
        if not sources:
            text = f"no source address of IPv{destination.version} for {destination.text}"
            return DestinationResult(destination.text, Status.NO_SOURCE, detail=text)
        deadline = asyncio.get_running_loop().time() + target.timeout_s
        outcomes: list[DestinationResult] = []
        tried = 0
        for index in range(len(sources)):
            source = sources[(turn + index) % len(sources)]
            way = self._way(target, destination, source, outcomes)
            one = await self._check_from(target, way, deadline)
            outcomes.append(one)
            # A source that is not on this host costs a bind() and no time: it is no try.
            tried += one.status is not Status.NO_SOURCE
            if not may_differ_elsewhere(one) or tried >= MAX_SOURCES_TRIED:
                break
        return over_sources(outcomes)

    def _way(
        self,
        target: Target,
        destination: Destination,
        source: str,
        before: Sequence[DestinationResult],
    ) -> Way:
        """The next way: the ledger chooses the address where ports are ours, else we do."""
        if not target.leases_ports or self._ports is None:
            return Way(destination, source)
        avoid = tuple(one.source for one in before if one.source)
        return Way(destination, "", target.name, self._ports, avoid, self.unstamped)

    async def _check_from(self, target: Target, way: Way, deadline: float) -> DestinationResult:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            if target.type == "tcp":
                answer = await self._check_tcp(way, deadline)
            elif target.type == "mysql":
                answer = await self._check_greeting(target, way, deadline)
            elif target.type == "account":
                answer = await self._check_account(target, way, deadline)
            else:
                answer = await self._check_login(target, way, deadline)
        except CheckError as error:
            answer = Answer(error.status, error.detail, definitive=error.definitive)
        except OSError as error:
            answer = Answer(Status.L7RSP, f"the connection broke: {error.strerror or error}")
        return DestinationResult(
            way.destination.text,
            answer.status,
            latency_s=loop.time() - started,
            detail=answer.detail,
            errno=answer.errno,
            source=way.source,
            definitive=answer.definitive,
            readings=answer.readings,
            full=answer.full,
        )

    # ---- the types

    async def _check_tcp(self, way: Way, deadline: float) -> Answer:
        """SYN, SYN-ACK, RST: measured to be unseen by the server (+0 in 1,000)."""
        if way.destination.path:
            knock_unix(way.destination)
        else:
            reset(await way.open(deadline, quiet=True))
        return Answer(Status.L4OK)

    async def _check_greeting(self, target: Target, way: Way, deadline: float) -> Answer:
        """Greeting only. The server counts every one of these as Aborted_connects."""
        sock = await way.open(deadline)
        try:
            first = await self._first(target, sock, deadline)
        finally:
            reset(sock)
        return Answer(Status.L7OK) if isinstance(first, Greeting) else _refusal(first)

    async def _check_account(self, target: Target, way: Way, deadline: float) -> Answer:
        """Logs in as an account of pool mode, as pooled connections do."""
        sock = await way.open(deadline)
        try:
            if target.send_proxy:
                await asyncio.get_running_loop().sock_sendall(sock, PROXY_V2_LOCAL)
            talk = partial(log_in, account=target.account)
            answer = await self._in_thread(sock, talk, deadline)
        except BaseException:
            reset(sock)
            raise
        if answer.status in (Status.L7OK, Status.L7STS):
            self._close_later(target, sock)
        else:
            reset(sock)
        return answer

    async def _check_login(self, target: Target, way: Way, deadline: float) -> Answer:
        """Logs in; once more with TLS where the server or the account asks for it."""
        if target.tls.mode != "disabled":
            answer, _ = await self._log_in(target, way, deadline, target.tls)
            return answer
        use_tls = target.name in self._wants_tls
        answer, has_tls = await self._log_in(target, way, deadline, WANTED if use_tls else None)
        wants_tls = answer.errno in (ER_SECURE_TRANSPORT_REQUIRED, ER_ACCESS_DENIED)
        if not use_tls and wants_tls and has_tls:
            second, _ = await self._log_in(target, way, deadline, WANTED)
            if second.status is Status.L7OK and not second.full:
                self._wants_tls.add(target.name)
                return second
        if use_tls and answer.status is Status.L6RSP:
            self._wants_tls.discard(target.name)
        return answer

    async def _log_in(
        self, target: Target, way: Way, deadline: float, tls: TlsRule | None
    ) -> tuple[Answer, bool]:
        """The answer, and whether the server offers TLS. The close goes on in the background."""
        sock = await way.open(deadline)
        try:
            first = await self._first(target, sock, deadline)
            if not isinstance(first, Greeting):
                self._close_later(target, sock)
                return _refusal(first), False
            plan, refusal = _plan(target, way, first, tls)
            answer = await self._converse(sock, plan, deadline)
            answer = refusal or answer
            if target.send_proxy and not dialect_of(first.version).is_mariadb:
                answer = _doubt_proxy(answer)
        except BaseException:
            reset(sock)
            raise
        if answer.status in (Status.L7TOUT, Status.L6TOUT):
            reset(sock)
        else:
            self._close_later(target, sock)
        return answer, first.has_tls

    async def _first(
        self, target: Target, sock: socket.socket, deadline: float
    ) -> Greeting | ServerError | NotMysql:
        """The server's first packet, left unread in the socket for PyMySQL."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                if target.send_proxy:
                    await loop.sock_sendall(sock, PROXY_V2_LOCAL)
                while True:
                    data = await peek_first(sock, HEADER_BYTES + MAX_FIRST_PACKET)
                    if not data:
                        text = "the server closed the connection in place of a greeting"
                        raise CheckError(Status.L7RSP, text)
                    if (first := parse_first(data)) is not None:
                        return first
                    # The rest is on its way; the socket stays readable, so do not spin on it.
                    await asyncio.sleep(PEEK_AGAIN_S)
        except TimeoutError:
            raise CheckError(Status.L7TOUT, "connected, but no greeting in time") from None
        except OSError as error:
            text = f"no greeting: {error.strerror or error}"
            raise CheckError(Status.L7RSP, text) from None

    async def _converse(self, sock: socket.socket, plan: LoginPlan, deadline: float) -> Answer:
        """Runs ``converse`` in a thread, until the deadline."""

        def talk(duplicate: socket.socket, *, limit_s: float) -> Answer:
            return converse(duplicate, replace(plan, limit_s=limit_s))

        return await self._in_thread(sock, talk, deadline)

    async def _in_thread(
        self, sock: socket.socket, talk: Callable[..., Answer], deadline: float
    ) -> Answer:
        """``talk(duplicate, limit_s=...)`` in a thread, which closes its duplicate of ``sock``."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                await self._free_threads.acquire()
        except TimeoutError:
            text = "no thread was free for this check in time; not the database"
            raise CheckError(Status.SOCKERR, text) from None
        try:
            duplicate = sock.dup()
        except OSError as error:
            self._free_threads.release()
            text = f"no descriptor for the check: {error.strerror}; not the database"
            raise CheckError(Status.SOCKERR, text) from None
        job = loop.run_in_executor(
            self._threads, partial(talk, duplicate, limit_s=max(0.05, deadline - loop.time()))
        )
        job.add_done_callback(lambda _: self._free_threads.release())
        alarm = loop.call_at(deadline, hang_up, sock)
        try:
            answer = await asyncio.shield(job)
        except asyncio.CancelledError:
            hang_up(sock)
            raise
        finally:
            alarm.cancel()
        if loop.time() >= deadline and answer.status in (Status.L7RSP, Status.L6RSP):
            late = Status.L7TOUT if answer.status is Status.L7RSP else Status.L6TOUT
            return Answer(late, "greeted, but the login or query did not end in time")
        return answer

    def _close_later(self, target: Target, sock: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(
            _closing(close_after_quit(sock, target.close))
        )
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


@dataclass(frozen=True)
class Reception:
    """A server's greeting, and the ERR that came behind it in answer to our PROXY header."""

    destination: str
    version: str
    refusal: ServerError | None


async def _second(sock: socket.socket) -> ServerError | None:
    """An ERR behind the greeting, both left unread; None when the server waits for a login."""
    loop = asyncio.get_running_loop()
    until = loop.time() + REFUSAL_WAIT_S
    while loop.time() < until:
        data = await peek_first(sock, 2 * (HEADER_BYTES + MAX_FIRST_PACKET))
        behind = data[HEADER_BYTES + int.from_bytes(data[:3], "little") :]
        if isinstance(second := parse_first(behind), ServerError):
            return second
        await asyncio.sleep(PEEK_AGAIN_S)
    return None


async def _closing(work: Coroutine[object, object, None]) -> None:
    await work


def _refusal(first: ServerError | NotMysql) -> Answer:
    """What an ERR (or something else) in place of a greeting means for the server's health."""
    if isinstance(first, NotMysql):
        return Answer(Status.L7RSP, first.why, definitive=True)
    if first.errno == ER_CON_COUNT:
        return full_answer(first.text)
    text = f"ERR {first.errno} {first.text}"
    return Answer(Status.L7STS, text, first.errno, definitive=True)


def _doubt_proxy(answer: Answer) -> Answer:
    """Oracle MySQL takes a PROXY header for a broken login; its greeting alone does not tell."""
    if answer.status.passed:
        return answer
    hint = "send_proxy is on: MariaDB and Percona Server speak PROXY, Oracle MySQL does not"
    return replace(answer, detail=f"{answer.detail}; {hint}")


def _plan(
    target: Target, way: Way, first: Greeting, tls: TlsRule | None
) -> tuple[LoginPlan, Answer | None]:
    """What to say to a server that greets so, and what the check comes to whatever it answers."""
    plan = LoginPlan(
        target.user,
        target.password,
        target.query if target.type == "query" else "",
        limit_s=target.timeout_s,
        version=first.version,
        tls=context_of(tls) if tls is not None and first.has_tls else None,
        tls_rule=tls,
        tls_name=(tls and tls.name) or way.destination.host or "portside-check",
        is_local=bool(way.destination.path),
    )
    if tls is None or tls.mode == "preferred" or first.has_tls:
        return plan, None
    # To leave now would count against our address (max_connect_errors), so the server is to refuse
    # us; the password stays here.
    text = f'TLS: the server offers none, and its tls.mode is "{tls.mode}"'
    return replace(plan, password="", query=""), Answer(Status.L6RSP, text, definitive=True)


def _sources(target: Target, destination: Destination) -> Sequence[str]:
    """Our addresses towards a destination; ("",) = the kernel's choice, () = none of its family."""
    if destination.path or not target.sources:
        return ("",)
    return usable_sources(target.sources, destination.version)


def check_target(target: Target) -> CheckTarget:
    """What a user's function gets to see of a server."""
    first = parse_destination(target.destinations[0])
    return CheckTarget(
        name=target.name,
        addresses=target.destinations,
        host=first.host,
        port=first.port,
        unix_socket=first.path,
        timeout_s=target.timeout_s,
        user=target.user,
        password=target.password,
    )
