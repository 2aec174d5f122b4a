"""The three hosts as network namespaces: web, proxy and db in a row, made for one strategy each.

They have names (``ip netns exec portside-lab-proxy ss -tan`` shows what goes on), so a crash leaves
them behind and ``portside lab --clean`` removes them. A lock says whether the lab that made them is
alive. Each strategy gets new ones: a TIME_WAIT lasts 60 s, a namespace takes its own along at once.

Sockets belong to the namespace of the thread that makes them, and threads inherit it: ``inside``
runs a function there, and what that starts stays there. It knows nothing of balancers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute, netns

from portside.lab.errors import LabError

Value = TypeVar("Value")

WEB, PROXY, DB = "web", "proxy", "db"
PREFIX = "portside-lab-"
LOCK = Path("/run/portside-lab.lock")
_NAMES = Path("/run/netns")

WEB_NETWORK, PATH_NETWORK = "10.214.1", "10.214.2"
WEB_SIDE = f"{WEB_NETWORK}.1"
"""The proxy's address that clients connect to."""
DB_ADDRESS = f"{PATH_NETWORK}.10"
PROXY_ADDRESSES = tuple(f"{PATH_NETWORK}.{last}" for last in range(1, 5))
"""The proxy's addresses towards the database: four, as in the article."""
# One address is one web server to whoever looks at ports. The article has many; sixteen keep the
# web side from being what runs out when the proxy is to be shown.
WEB_ADDRESSES = tuple(f"{WEB_NETWORK}.{last}" for last in range(2, 18))

# Every TIME_WAIT is to be counted, not cut off. Per namespace and half the kernel's ehash by
# default. Source: tcp(7), tcp_max_tw_buckets.
_MAX_TIME_WAIT = 4_000_000


class Host:
    """One namespace.

    Attributes:
        name: web, proxy or db; with ``PREFIX`` in front it is the namespace's name.
    """

    def __init__(self, name: str) -> None:
        """Makes it, with its loopback up.

        Raises:
            LabError: the system refused, or the name is taken.
        """
        self.name = name
        if (_NAMES / self.full_name).exists():
            raise LabError(
                f"the network namespace {self.full_name} exists already: a lab that crashed left"
                " it, or it is somebody else's; portside lab --clean removes it"
            )
        try:
            _in_thread(self._create)
        except OSError as error:
            _remove(self.full_name)
            reason = error.strerror or os.strerror(error.errno or 0)
            raise LabError(f"this system gives no network namespaces: {reason}") from error

    @property
    def full_name(self) -> str:
        """Its name in /run/netns."""
        return f"{PREFIX}{self.name}"

    @property
    def prefix(self) -> list[str]:
        """What to put in front of a command to run it here."""
        return ["nsenter", f"--net={_NAMES / self.full_name}"]

    def inside(self, act: Callable[[], Value]) -> Value:
        """What ``act`` returns, called on a thread that is inside."""

        def work() -> Value:
            netns.setns(self.full_name, flags=0, fork=False)
            return act()

        return _in_thread(work)

    def time_waits(self) -> int:
        """TIME_WAIT sockets here: from sockstat, cheap however many there are."""
        text = self.inside(lambda: Path("/proc/thread-self/net/sockstat").read_text())
        words = next(line for line in text.splitlines() if line.startswith("TCP:")).split()
        return int(words[words.index("tw") + 1])

    def sysctl(self, values: Mapping[str, str]) -> None:
        """Sets ``net.ipv4`` values here; those that the kernel does not let us set are skipped."""

        def write() -> None:
            for key, value in values.items():
                with contextlib.suppress(PermissionError, FileNotFoundError):
                    Path("/proc/sys/net/ipv4", key).write_text(value)

        self.inside(write)

    def links(self, act: Callable[[IPRoute], Value]) -> Value:
        """What ``act`` returns, given this host's links, addresses and routes."""

        def work() -> Value:
            with IPRoute() as ip:
                return act(ip)

        return self.inside(work)

    def close(self) -> None:
        """Removes the name; the namespace goes with the last socket in it."""
        _remove(self.full_name)

    def _create(self) -> None:
        # Not netns.create(): it forks, which a process with threads should not do.
        if ctypes.CDLL(None, use_errno=True).unshare(netns.CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        netns.attach(self.full_name, "thread-self")
        with IPRoute() as ip:
            ip.link("set", index=1, state="up")  # 1: loopback, in every namespace


class Hosts:
    """web, proxy and db; the path between the last two is somebody else's (``path``)."""

    def __init__(self) -> None:
        """Makes them and links web to proxy.

        Raises:
            LabError: see ``Host``.
        """
        self._made: dict[str, Host] = {}
        try:
            with _deferred():  # a Ctrl-C between a name and its entry here would leave the name
                for name in (WEB, PROXY, DB):
                    self._made[name] = Host(name)
            self._link_web()
            for host in self._made.values():
                host.sysctl({"tcp_max_tw_buckets": str(_MAX_TIME_WAIT)})
            self.proxy.sysctl({"ip_forward": "1"})
        except BaseException:
            self.close()
            raise

    @property
    def web(self) -> Host:
        """Where the clients run."""
        return self._made[WEB]

    @property
    def proxy(self) -> Host:
        """Where the balancer runs; forwards packets for the direct way."""
        return self._made[PROXY]

    @property
    def db(self) -> Host:
        """Where the database runs."""
        return self._made[DB]

    def time_waits(self) -> tuple[int, int, int]:
        """TIME_WAIT on web, proxy and db now."""
        return self.web.time_waits(), self.proxy.time_waits(), self.db.time_waits()

    def close(self) -> None:
        """Removes all three; whatever ran there must have ended. Not to be interrupted."""
        with uninterrupted():
            for host in self._made.values():
                host.close()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _link_web(self) -> None:
        veth(End(self.proxy, "web0", [WEB_SIDE]), End(self.web, "eth0", WEB_ADDRESSES))
        self.web.links(lambda ip: ip.route("add", dst="default", gateway=WEB_SIDE))


@dataclass(frozen=True)
class End:
    """One end of a cable: the host, the link's name there, its addresses."""

    host: Host
    link: str
    ips: Sequence[str]


def veth(near: End, far: End) -> None:
    """A cable between two hosts, both ends up, with addresses of one /24."""
    target = os.open(_NAMES / far.host.full_name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": far.link, "net_ns_fd": target}
        near.host.links(lambda ip: ip.link("add", ifname=near.link, kind="veth", peer=peer))
    finally:
        os.close(target)
    for end in (near, far):
        bring_up(end.host, end.link, end.ips)


def bring_up(host: Host, link: str, ips: Sequence[str], **settings: Any) -> None:  # noqa: ANN401
    """Gives a link its addresses and sets it up."""

    def act(ip: IPRoute) -> None:
        [index] = ip.link_lookup(ifname=link)
        for address in ips:
            ip.addr("add", index=index, address=address, prefixlen=24)
        ip.link("set", index=index, state="up", **settings)

    host.links(act)


@contextlib.contextmanager
def only_lab() -> Iterator[None]:
    """Holds the lock that says: a lab runs here. LabError when another one holds it."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise LabError(
                f"another portside lab runs on this machine (process {owner}): its namespaces have"
                " the same names; wait for it or end it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def left_behind() -> list[str]:
    """Names of the lab's namespaces that exist."""
    names = _NAMES.iterdir() if _NAMES.is_dir() else iter(())
    return sorted(path.name for path in names if path.name.startswith(PREFIX))


def clean() -> list[str]:
    """Removes what a crashed lab left, and returns the names."""
    names = left_behind()
    for name in names:
        _remove(name)
    return names


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """An impatient second Ctrl-C does not stop the cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _deferred() -> Iterator[None]:
    """Ctrl-C and SIGTERM arrive at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remove(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        netns.remove(name)


def _in_thread(act: Callable[[], Value]) -> Value:
    """A thread of its own, so that the caller's namespace stays what it is."""
    found: list[Value] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(act())
        except BaseException as error:  # handed to the caller, whatever it is
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
