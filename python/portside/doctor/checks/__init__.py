"""One check a file: facts in, findings out, no I/O. ``ALL`` has them in the order of telling."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from portside.doctor.checks import (
    accept_queue,
    close_wait,
    conntrack,
    database,
    explicit_ports,
    file_limits,
    fin_timeout,
    listeners_in_range,
    port_range,
    rfc1337,
    server_time_wait,
    source_ports,
    syn_backlog,
    tcp_memory,
    timestamps,
    tw_buckets,
    tw_recycle,
    tw_reuse,
    unanswered,
)
from portside.doctor.facts import Facts
from portside.doctor.finding import Finding

Check = Callable[[Facts], Iterator[Finding]]

ALL: tuple[Check, ...] = (
    source_ports.check,
    accept_queue.check,
    unanswered.check,
    file_limits.check,
    conntrack.check,
    database.check,
    close_wait.check,
    tw_recycle.check,
    timestamps.check,
    tw_reuse.check,
    port_range.check,
    listeners_in_range.check,
    explicit_ports.check,
    tw_buckets.check,
    syn_backlog.check,
    tcp_memory.check,
    server_time_wait.check,
    fin_timeout.check,
    rfc1337.check,
)
