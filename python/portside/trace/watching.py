"""The two loops: packets of a file, or of this host, into a tracker, and its report.

Whoever calls may look at the report while it grows, and stop the loop. The clock is read here and
nowhere else in this package.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from portside.trace import report as reports
from portside.trace.capture_file import CaptureFile, Packet
from portside.trace.errors import TraceError
from portside.trace.filter import MOST_PORTS
from portside.trace.live import LiveTrace
from portside.trace.report import Report
from portside.trace.segment import Link, from_link
from portside.trace.tracker import Tracker

Show = Callable[[Report], None]
Stop = Callable[[], bool]

MYSQL_PORT = 3306
SHOW_EVERY_S = 0.5
_WAIT_S = 0.1
_LOOK_EVERY = 4096  # packets between two looks at the clock


def watch(
    ports: Sequence[int] = (MYSQL_PORT,),
    seconds: float = 10.0,
    interface: str = "",
    show: Show | None = None,
    stop: Stop | None = None,
) -> Report:
    """What passes this network namespace in the next ``seconds``. Needs CAP_NET_RAW.

    Args:
        ports: where servers listen.
        seconds: how long to watch.
        interface: only this one; "" for all.
        show: called with the report so far when the capture has begun, then twice a second.
        stop: asked ten times a second; True ends it early.

    Raises:
        TraceError: no rights, no such interface, bad ports.
    """
    _check(ports)
    tracker = Tracker(ports)
    began = shown = time.monotonic()
    with LiveTrace(ports, interface) as live:
        if show is not None:
            show(reports.make(tracker, 0.0))
        while True:
            for segment in live.segments(_WAIT_S):
                tracker.add(segment)
            now = time.monotonic()
            if now - began >= seconds or (stop is not None and stop()):
                break
            if show is not None and now - shown >= SHOW_EVERY_S:
                live.count()
                show(reports.make(tracker, now - began, live.dropped))
                shown = time.monotonic()
        took = time.monotonic() - began
        # What came in time lies in a block that the kernel has not handed over yet.
        for segment in live.segments(_WAIT_S):
            tracker.add(segment)
        live.count()
        return reports.make(tracker, took, live.dropped)


def read(
    path: str | Path,
    ports: Sequence[int] = (MYSQL_PORT,),
    show: Show | None = None,
    stop: Stop | None = None,
) -> Report:
    """What a pcap or pcapng file holds; "-" is standard input.

    Raises:
        TraceError: it cannot be opened or is no capture; bad ports. What breaks behind the first
            bytes is in ``Report.damage``.
    """
    _check(ports)
    tracker = Tracker(ports)
    strange: set[int] = set()
    with _opened(path) as stream:
        packets = CaptureFile(stream, "standard input" if str(path) == "-" else str(path))
        shown = time.monotonic()
        damage: list[str] = []
        for number, packet in enumerate(_until_damage(packets, damage), 1):
            if packet.link not in _LINKS:
                strange.add(packet.link)
                continue
            segment = from_link(packet.link, packet.data, packet.time, packet.interface)
            if segment is not None:
                tracker.add(segment)
            if number % _LOOK_EVERY == 0:
                if stop is not None and stop():
                    break
                if show is not None and time.monotonic() - shown >= SHOW_EVERY_S:
                    show(reports.make(tracker))
                    shown = time.monotonic()
    report = reports.make(tracker, notes=_notes(packets, strange))
    return replace(report, damage="".join(damage))


def _until_damage(packets: CaptureFile, damage: list[str]) -> Iterator[Packet]:
    """The packets; what ends them before the file's end is put into ``damage``."""
    try:
        yield from packets
    except TraceError as error:
        damage.append(str(error))


_LINKS = frozenset(map(int, Link))


def _notes(packets: CaptureFile, strange: set[int]) -> list[str]:
    notes = []
    if packets.cut_off:
        notes.append("The file ends in the middle of a packet; everything before it was read.")
    if strange:
        kinds = ", ".join(map(str, sorted(strange)[:5]))
        notes.append(
            f"Packets of link type {kinds} were left out: Ethernet, Linux cooked, raw IP and"
            " loopback are understood."
        )
    return notes


def _check(ports: Sequence[int]) -> None:
    if not 0 < len(ports) <= MOST_PORTS or not all(0 < port < 65536 for port in ports):
        told = ", ".join(map(str, ports)) or "none"
        raise TraceError(f"ports {told}: expected 1 to {MOST_PORTS} of them, each 1 to 65535.")


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    with contextlib.ExitStack() as closing:
        try:
            stream = closing.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise TraceError(f"{path} cannot be read: {error.strerror}.") from None
        yield stream
