"""Reads one host: sysctls, counters, the socket table, processes. I/O only, judges nothing.

What cannot be read is a sentence in ``Facts.unseen``, never an end. Everything under /proc/net is
read through thread-self, so that a thread in another network namespace reads that one.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from portside.doctor import sockdiag
from portside.doctor.facts import NO_TABLE, Facts, Process, Sockets, port_range, printable

_IPV4: Final = (
    "ip_local_port_range",
    "ip_local_reserved_ports",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay",
    "tcp_tw_recycle",
    "tcp_timestamps",
    "tcp_fin_timeout",
    "tcp_max_tw_buckets",
    "tcp_rfc1337",
    "tcp_max_syn_backlog",
    "tcp_syncookies",
    "tcp_abort_on_overflow",
    "tcp_mem",
)
_OTHERS: Final = (
    "net.core.somaxconn",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait",
    "fs.file-max",
    "fs.file-nr",
    "fs.nr_open",
)
_KEYS: Final = (*(f"net.ipv4.{key}" for key in _IPV4), *_OTHERS)
_NET: Final = Path("/proc/thread-self/net")
_NEAR_LIMIT: Final = 0.5  # of its file limit: fuller processes are told to the checks
_MOST_PROCESSES: Final = 20
_OLD_LIMIT: Final = re.compile(rb"^Max open files\s+(\d+|unlimited)", re.MULTILINE)


def gather(window_s: float = 1.0) -> Facts:
    """Everything that the checks want of this host, but what a database says.

    Never fails: what cannot be read is in ``Facts.unseen``. Takes ``window_s`` at least.
    """
    unseen: list[str] = []
    before, started = _counters(), time.monotonic()
    sysctls = {key: value for key in _KEYS if (value := _sysctl(key)) is not None}
    sockets: Sockets | None = None
    processes: list[Process] = []
    try:
        table = sockdiag.table(port_range(sysctls))
        if window_s:
            time.sleep(max(0.0, window_s - (time.monotonic() - started)))
            table = sockdiag.lasting(table)
        names, processes = _processes(table, unseen)
        listeners = tuple(
            replace(listener, process=names.get(inode, ""))
            for inode, listener in table.listeners.items()
        )
        sockets = replace(table.sockets, listeners=listeners)
    except sockdiag.NoTable as error:
        unseen.append(f"{NO_TABLE}: {error}; modprobe tcp_diag, where the kernel has it")
    time.sleep(max(0.0, window_s - (time.monotonic() - started)))
    after = _counters()
    return Facts(
        host=printable(socket.gethostname()),
        kernel=platform.release(),
        sysctls=sysctls,
        sockets=sockets,
        counters=after,
        fresh={key: max(value - before.get(key, value), 0) for key, value in after.items()},
        window_s=round(time.monotonic() - started, 2),
        processes=tuple(processes),
        unseen=tuple(unseen),
    )


def _sysctl(key: str) -> str | None:
    """A value with its blanks made one; None where the kernel has no such key, or hides it."""
    try:
        return " ".join(Path("/proc/sys", *key.split(".")).read_text("ascii").split())
    except (OSError, ValueError):
        return None


def _counters() -> dict[str, int]:
    """/proc/net/netstat, snmp and sockstat, and conntrack's failures, by name."""
    found: dict[str, int] = {}
    for name in ("netstat", "snmp"):  # a line of names, then a line of values
        lines = _lines(_NET / name)
        for names, values in zip(lines[::2], lines[1::2]):
            if names.startswith(("TcpExt:", "Tcp:")):
                pairs = zip(names.split()[1:], values.split()[1:])
                found.update((key, int(value)) for key, value in pairs)
    for line in _lines(_NET / "sockstat"):
        if line.startswith("TCP:"):
            words = line.split()[1:]
            pairs = zip(words[::2], words[1::2])
            found.update((f"sockstat.{key}", int(value)) for key, value in pairs)
    conntrack = _lines(_NET / "stat" / "nf_conntrack")  # one line per CPU, hexadecimal
    for line in conntrack[1:]:
        for key, value in zip(conntrack[0].split(), line.split()):
            if key in {"insert_failed", "drop", "early_drop"}:
                name = f"conntrack.{key}"
                found[name] = found.get(name, 0) + int(value, 16)
    return {key: max(value, 0) for key, value in found.items()}  # MaxConn is -1: no limit


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return []


def _processes(table: sockdiag.Table, unseen: list[str]) -> tuple[dict[int, str], list[Process]]:
    """Names by the inode of a listener, and the processes worth a look, the fullest first."""
    names: dict[int, str] = {}
    waits = {inode for inode, _ in table.close_waits.values()}
    wanted = {str(inode): inode for inode in (*table.listeners, *waits)}
    found, hidden = [], 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            process = _process(folder, wanted, waits, names)
        except PermissionError:
            hidden += 1
            continue
        except OSError:
            continue  # it has ended
        if process.close_wait or process.fill >= _NEAR_LIMIT:
            found.append(process)
    if hidden:
        cure = ": run it as root" if os.geteuid() else ", not even as root"
        unseen.append(f"the sockets and file limits of {hidden:,} processes{cure}")
    found.sort(key=lambda process: (-process.close_wait, -process.fill))
    return names, found[:_MOST_PROCESSES]


def _process(
    folder: Path, wanted: Mapping[str, int], waits: set[int], names: dict[int, str]
) -> Process:
    files, close_wait = 0, 0
    name = printable((folder / "comm").read_text("utf-8", "replace").strip())
    with os.scandir(folder / "fd") as entries:
        for entry in entries:
            files += 1
            try:
                target = os.readlink(entry.path)
            except FileNotFoundError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                inode = wanted.get(target[8:-1])
                if inode is not None:
                    names[inode] = name
                    close_wait += inode in waits
    limits = _OLD_LIMIT.search((folder / "limits").read_bytes())
    limit = int(limits[1]) if limits and limits[1].isdigit() else sys.maxsize
    return Process(name, int(folder.name), files, limit, close_wait)
