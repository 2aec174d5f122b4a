"""The path between proxy and database: addresses, a delay, and a firewall that eats resets.

netem makes the delay where the kernel has it. Elsewhere, and for dropping one kind of packet, they
go through two TUN devices and ``portside._core.Line`` between them. Without a delay the path is a
plain cable.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portside import _core
from portside.lab.errors import LabError
from portside.lab.hosts import DB_ADDRESS, PROXY_ADDRESSES, End, Host, Hosts, bring_up, veth

_NEAR, _FAR = "db0", "eth0"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h: _IOW('T', 202, int)
_TUN, _NO_PACKET_INFO = 0x0001, 0x1000
# Packets that a device keeps until the line reads them. 500 by default: a burst of a thousand
# connections would lose some, and a lost packet costs a second.
_QUEUE = 20_000


@dataclass(frozen=True)
class PathPlan:
    """What a path is like.

    Attributes:
        delay_us: microseconds each way.
        eats_resets: RST packets from the proxy never reach the database.
    """

    delay_us: int = 0
    eats_resets: bool = False


@contextlib.contextmanager
def path(hosts: Hosts, plan: PathPlan) -> Iterator[str]:
    """Joins proxy and db while the block runs; gives what the delay is made of, for the report.

    Raises:
        LabError: neither netem nor a TUN device can be had.
    """
    if plan.eats_resets or (plan.delay_us and not _netem_works(hosts.db, plan.delay_us)):
        with line(hosts, plan):
            yield "TUN line"
        return
    veth(End(hosts.proxy, _NEAR, PROXY_ADDRESSES), End(hosts.db, _FAR, [DB_ADDRESS]))
    if plan.delay_us:
        _set_netem(hosts.proxy, _NEAR, plan.delay_us)
        _set_netem(hosts.db, _FAR, plan.delay_us)
    _default_route(hosts.db)
    yield "netem" if plan.delay_us else "cable"


@contextlib.contextmanager
def line(hosts: Hosts, plan: PathPlan) -> Iterator[_core.Line]:
    """Joins proxy (its side "a") and db by a line that can be told to drop packets.

    Raises:
        LabError: no TUN device can be had.
    """
    with contextlib.ExitStack() as opened:
        near, far = _open_tun(hosts.proxy, _NEAR), _open_tun(hosts.db, _FAR)
        for device in (near, far):
            opened.callback(os.close, device)
        bring_up(hosts.proxy, _NEAR, PROXY_ADDRESSES, txqlen=_QUEUE)
        bring_up(hosts.db, _FAR, [DB_ADDRESS], txqlen=_QUEUE)
        _default_route(hosts.db)
        drop = [{"from": "a", "flag": "rst"}] if plan.eats_resets else []
        # Held here: whoever takes no reference would end it at once.
        made = _core.Line(near, far, json.dumps({"delay_us": plan.delay_us, "drop": drop}))
        yield made


def _default_route(host: Host) -> None:
    host.links(lambda ip: ip.route("add", dst="default", gateway=PROXY_ADDRESSES[0]))


def _open_tun(host: Host, name: str) -> int:
    request = struct.pack("16sH22x", name.encode(), _TUN | _NO_PACKET_INFO)

    def act() -> int:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _TUNSETIFF, request)
        except BaseException:
            os.close(device)
            raise
        return device

    try:
        return host.inside(act)
    except OSError as error:
        raise LabError(
            f"no delay can be made here: the kernel has no netem, and /dev/net/tun says"
            f" {error.strerror}; --delay none runs over a plain cable"
        ) from error


def _netem_works(host: Host, delay_us: int) -> bool:
    """Tried on the loopback of a host where nothing runs yet."""
    try:
        _set_netem(host, "lo", delay_us)
    except (NetlinkError, OSError):
        return False

    def undo(ip: IPRoute) -> None:
        [index] = ip.link_lookup(ifname="lo")
        ip.tc("del", index=index, root=True)

    host.links(undo)
    return True


def _set_netem(host: Host, link: str, delay_us: int) -> None:
    def act(ip: IPRoute) -> None:
        [index] = ip.link_lookup(ifname=link)
        # limit: packets in flight; the default of 1,000 is less than a load of ours.
        ip.tc("add", "netem", index=index, handle="1:", delay=delay_us, limit=_QUEUE)

    host.links(act)
