"""``portside trace``: who closes first, per pair of hosts, live or from a capture file.

    from portside import trace

    report = trace.read("web.pcap")                 # or trace.watch(seconds=10)
    for pair in report.pairs:
        print(pair.client, pair.server, pair.first(trace.First.CLIENT_FIN), pair.ended)

Runs without the data plane and without a third-party package, on Python 3.9 as well.

segment       bytes of a packet -> TCP segment (pure);  filter   the kernel's filter (pure)
capture_file  pcap and pcapng;                          live     the packet socket
tracker       segments -> closes per pair (pure);       report   closes -> table and JSON (pure)
words         report -> sentences (pure);               drawing  report -> arrows (pure)
watching      the loops that put them together
"""

from __future__ import annotations

from portside.trace.errors import TraceError
from portside.trace.report import PairReport, Report
from portside.trace.tracker import Close, First
from portside.trace.watching import read, watch

__all__ = ["Close", "First", "PairReport", "Report", "TraceError", "read", "watch"]
