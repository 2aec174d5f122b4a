"""Who already listens on an address: the name of the process behind "address in use".

Reads ``/proc/net/{tcp,tcp6,unix}`` and ``/proc/*/fd`` only when a bind has failed. The kernel lists
listening sockets first, so the read stops at the first other one: a million TIME_WAIT entries cost
1.3 s to print (measured) and are never printed for us.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import pwd
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN, include/net/tcp_states.h


@dataclass(frozen=True, slots=True)
class Listening:
    """One line of ``/proc/net/tcp``: a listening socket."""

    ip: str
    port: int
    uid: int
    inode: int


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a socket."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def parse_listening(lines: Iterable[str]) -> Iterator[Listening]:
    """The listening sockets at the head of a ``/proc/net/tcp`` or ``tcp6`` text."""
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or fields[0] == "sl":
            continue
        if fields[3] != _LISTEN:
            return
        raw, port = fields[1].split(":")
        yield Listening(_address_of(raw), int(port, 16), int(fields[7]), int(fields[9]))


def _address_of(raw: str) -> str:
    # Each 32-bit word is printed in host order; the hosts we run on are little-endian.
    words = [bytes.fromhex(raw[at : at + 8])[::-1] for at in range(0, len(raw), 8)]
    packed = b"".join(words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed)


def conflicts(wanted: str, held: str) -> bool:
    """Whether a bind to ``wanted`` collides with a listener on ``held`` (same port assumed)."""
    one, other = ipaddress.ip_address(wanted), ipaddress.ip_address(held)
    for left, right in ((one, other), (other, one)):
        if int(left) == 0 and (left.version == 6 or right.version == 4):
            return True
    mapped = [
        a.ipv4_mapped if isinstance(a, ipaddress.IPv6Address) and a.ipv4_mapped else a
        for a in (one, other)
    ]
    return mapped[0] == mapped[1]


def split_tcp(address: str) -> tuple[str, int]:
    """``("10.0.0.5", 3306)`` from ``10.0.0.5:3306``; brackets of IPv6 are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or "::", int(port)


def owners_of(address: str, proc: Path = Path("/proc")) -> tuple[list[Owner], list[int]]:
    """The processes that listen on ``address`` and the user ids of sockets we could not trace.

    Cost: one readdir per process and one readlink per descriptor; milliseconds to tenths of
    seconds.
    """
    if address.startswith("unix:"):
        sockets = {inode: -1 for inode in _unix_inodes(address.removeprefix("unix:"), proc)}
    else:
        ip, port = split_tcp(address)
        sockets = {}
        for table in ("tcp", "tcp6"):
            try:
                with (proc / "net" / table).open(encoding="ascii") as lines:
                    for entry in parse_listening(lines):
                        if entry.port == port and conflicts(ip, entry.ip):
                            sockets[entry.inode] = entry.uid
            except OSError:
                continue
    found = _holders(set(sockets), proc)
    untraced = sorted({uid for inode, uid in sockets.items() if inode not in found and uid >= 0})
    return sorted({owner for owner in found.values()}, key=lambda owner: owner.pid), untraced


def _unix_inodes(path: str, proc: Path) -> Iterator[int]:
    try:
        text = (proc / "net" / "unix").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == path:
            yield int(fields[6])


def _holders(inodes: set[int], proc: Path) -> dict[int, Owner]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, Owner] = {}
    if not wanted:
        return found
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            for link in (folder / "fd").iterdir():
                inode = wanted.get(os.readlink(link))
                if inode is not None:
                    found.setdefault(
                        inode, Owner(int(folder.name), name_of(int(folder.name), proc))
                    )
        except OSError:
            continue  # gone meanwhile, or not ours to look into
    return found


def name_of(pid: int, proc: Path = Path("/proc")) -> str:
    """What a process calls itself."""
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process that has just ended"


def explain_bind_failure(address: str, code: int, proc: Path = Path("/proc")) -> str:
    """One sentence why ``address`` cannot be listened on, with the owner or the missing right."""
    if code == errno.EADDRINUSE:
        return _in_use(address, proc)
    if code in {errno.EACCES, errno.EPERM}:
        return _not_allowed(address)
    if code == errno.EADDRNOTAVAIL:
        return (
            f"cannot listen on {address}: no interface of this host has that address. Add it, or, "
            "for an address that moves between hosts (VIP), set net.ipv4.ip_nonlocal_bind=1."
        )
    return f"cannot listen on {address}: {os.strerror(code)}."


def _in_use(address: str, proc: Path) -> str:
    owners, untraced = owners_of(address, proc)
    if owners:
        if all(owner.pid == os.getpid() for owner in owners):
            return (
                f"cannot listen on {address}: this instance itself listens on that port, on another"
                " address. Take that listener out with one reload and put the new one in with the"
                " next, or restart."
            )
        names = " and ".join(str(owner) for owner in owners)
        return f"cannot listen on {address}: {names} already listens there."
    if untraced:
        users = ", ".join(_user(uid) for uid in untraced)
        return (
            f"cannot listen on {address}: a process of user {users} already listens there "
            "(its name can be seen by root or with CAP_SYS_PTRACE)."
        )
    return (
        f"cannot listen on {address}: the address is in use, but no listener was found; "
        "a connection or another network namespace's socket may hold it (ss -tanp)."
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _not_allowed(address: str) -> str:
    if not address.startswith("unix:") and split_tcp(address)[1] < 1024:
        return (
            f"cannot listen on {address}: a port below 1024 needs CAP_NET_BIND_SERVICE "
            "(systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)."
        )
    where = address.removeprefix("unix:")
    return f"cannot listen on {address}: no permission to create {where}; check its directory."
