"""Where the demo's parts run: three hosts made of network namespaces, or this host's loopback.

With root and iproute2: web, proxy and db, in a row (proxy forwards between the other two, so that
web also reaches db directly). A namespace has no name: a sleeping child holds it, the kernel kills
that child when we end, and with the last process in it the namespace and its interfaces are gone.
Nothing is left after Ctrl-C or a crash, and two demos cannot collide.

Why at all: on loopback the server's FIN overtakes the client's close, so nobody sees the TIME_WAITs
that a real network shows (the article says the same).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from portside.demo.child import Child

WEB, PROXY, DB = "web", "proxy", "db"


_ADDRESSES = {WEB: "10.213.1.2", PROXY: "10.213.1.1", DB: "10.213.2.2"}


class HostsError(RuntimeError):
    """The namespaces could not be made; the text is the system's reason."""


class Hosts:
    """Loopback: every host is this one. Also the interface of ``NamespaceHosts``.

    Attributes:
        why: why there are no namespaces; "" when there are.
    """

    def __init__(self, why: str) -> None:
        self.why = why

    @property
    def client_hosts(self) -> str:
        """Host pattern for the users of the databases."""
        return "127.0.0.%"

    def address(self, host: str) -> str:
        """The address by which the others reach ``host``."""
        del host
        return "127.0.0.1"

    def prefix(self, host: str) -> list[str]:
        """What to put in front of a command to run it on ``host``."""
        del host
        return []

    def time_waits(self) -> dict[str, int] | None:
        """TIME_WAIT sockets per host, None where hosts are not told apart."""
        return None

    def close(self) -> None:
        """Gives the hosts up; whatever runs there must have ended."""


class NamespaceHosts(Hosts):
    """web - proxy - db, each a network namespace."""

    def __init__(self) -> None:
        """Makes them.

        Raises:
            HostsError: the system refused (no right, no veth, no iproute2).
        """
        super().__init__("")
        self._folder = tempfile.TemporaryDirectory(prefix="portside-hosts-")
        self._holders: dict[str, Child] = {}
        try:
            for host in (WEB, PROXY, DB):
                log = Path(self._folder.name) / host
                self._holders[host] = Child(["unshare", "--net", "sleep", "infinity"], log)
            for host in (WEB, PROXY, DB):
                self._wait_for(host)
                self._ip(host, "link", "set", "lo", "up")
            self._link(WEB, "10.213.1.2", "10.213.1.1")
            self._link(DB, "10.213.2.2", "10.213.2.1")
            self._run(PROXY, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        except BaseException:
            self.close()
            raise

    @property
    def client_hosts(self) -> str:
        """Both networks."""
        return "10.213.%"

    def address(self, host: str) -> str:
        """The address in its network: web and proxy share one, db is on the other."""
        return _ADDRESSES[host]

    def prefix(self, host: str) -> list[str]:
        """``nsenter`` into the namespace."""
        return ["nsenter", f"--net=/proc/{self._holders[host].pid}/ns/net"]

    def time_waits(self) -> dict[str, int] | None:
        """From /proc/net/sockstat of each host: cheap, however many there are."""
        return {host: self._time_waits(host) for host in self._holders}

    def close(self) -> None:
        """Ends the holders; the kernel removes namespaces and interfaces."""
        for holder in self._holders.values():
            holder.end()
        self._folder.cleanup()

    def _time_waits(self, host: str) -> int:
        text = Path(f"/proc/{self._holders[host].pid}/net/sockstat").read_text()
        words = next(line for line in text.splitlines() if line.startswith("TCP:")).split()
        return int(words[words.index("tw") + 1])

    def _wait_for(self, host: str) -> None:
        """Until the holder has left our namespace."""
        holder, ours = self._holders[host], os.readlink("/proc/self/ns/net")
        for _ in range(500):
            if not holder.is_running:
                raise HostsError(holder.last_lines() or "unshare ended")
            try:
                if os.readlink(f"/proc/{holder.pid}/ns/net") != ours:
                    return
            except OSError:
                pass  # between fork and exec
            time.sleep(0.01)
        raise HostsError("unshare --net does not come to an end")

    def _link(self, host: str, address: str, gateway: str) -> None:
        """A veth between proxy and ``host``, and the default route through proxy."""
        holder = str(self._holders[host].pid)
        self._ip(PROXY, "link", "add", host, "type", "veth", "peer", "eth0", "netns", holder)
        self._ip(PROXY, "addr", "add", f"{gateway}/24", "dev", host)
        self._ip(PROXY, "link", "set", host, "up")
        self._ip(host, "addr", "add", f"{address}/24", "dev", "eth0")
        self._ip(host, "link", "set", "eth0", "up")
        self._ip(host, "route", "add", "default", "via", gateway)

    def _ip(self, host: str, *arguments: str) -> None:
        self._run(host, "ip", *arguments)

    def _run(self, host: str, *command: str) -> None:
        done = subprocess.run(
            [*self.prefix(host), *command], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise HostsError(f"{' '.join(command)}: {done.stderr.strip()}")


def make_hosts(programs: Sequence[str] = ("ip", "unshare", "nsenter")) -> Hosts:
    """Namespaces where they can be had, else loopback with the reason."""
    if os.geteuid() != 0:
        return Hosts("network namespaces need root")
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        return Hosts(f"{missing[0]} is missing: apt-get install iproute2 util-linux")
    try:
        return NamespaceHosts()
    except (HostsError, OSError) as error:
        return Hosts(f"this system gives no network namespaces: {error}")
