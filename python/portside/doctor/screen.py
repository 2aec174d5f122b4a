"""A report as lines and tables: one screen, or with ``verbose`` everything. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Union

from portside.cli.table import Cell, Table
from portside.doctor.facts import OTHERS, Facts, Listener, State
from portside.doctor.finding import Cure, Finding, Severity
from portside.doctor.pairs import CloserFirst, Pair
from portside.doctor.remote import Failure
from portside.doctor.report import Report
from portside.doctor.sockdiag import join

Part = Union[Table, Cell, str]
"""A table (without a head line where no column has a heading), or a line."""

_STYLES: Final = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTICE: "cyan",
}
_VERDICTS: Final = {
    "CRITICAL": "bold red",
    "WARNING": "bold yellow",
    "GOOD": "bold green",
    "UNKNOWN": "bold magenta",
}
_ROWS: Final = 5  # of a table on one screen
_CURES: Final = 4
_BAR: Final = 12


def one_host(report: Report, verbose: bool) -> list[Part]:
    """The screen of one host; its first line is the verdict."""
    return [
        _verdict(report.verdict),
        *_tables(report, verbose),
        *_findings(report, verbose),
        *_footer(report, verbose),
    ]


def many_hosts(answers: Sequence[tuple[str, Report | Failure]], verbose: bool) -> list[Part]:
    """The screen of several: the worst one's verdict, a line per host, what to do there."""
    reports = [(host, each) for host, each in answers if isinstance(each, Report)]
    failures = [each for _, each in answers if isinstance(each, Failure)]
    parts: list[Part] = []
    if reports:
        host, worst = min(reports, key=lambda each: _urgency(each[1]))
        word, _, text = worst.verdict.partition(": ")
        parts += [_verdict(f"{word}: {host}: {text}"), ""]
    else:
        parts += [_verdict("UNKNOWN: no host could be examined."), ""]
    parts.append(_hosts(answers))
    parts += [f"! {each.host}: {each.reason}" for each in failures]
    if verbose:
        for host, report in reports:
            parts += ["", Cell(f"== {host}", "bold"), *one_host(report, verbose)]
    elif reports:
        parts += [
            Cell(f"\n{host}", "bold"),
            *_tables(worst, verbose)[1:],
            *_findings(worst, verbose),
            *_not_seen(worst.facts),
            "-v: every host in full",
        ]
    return parts


def _verdict(text: str) -> Cell:
    return Cell(text, _VERDICTS[text.partition(":")[0]])


def _urgency(report: Report) -> tuple[int, float]:
    if not report.findings:
        return 9, 0.0
    worst = report.findings[0]
    return worst.severity.rank, float("inf") if worst.left_s is None else worst.left_s


def _hosts(answers: Iterable[tuple[str, Report | Failure]]) -> Table:
    rows: list[tuple[Cell | str, ...]] = []
    for host, answer in answers:
        if isinstance(answer, Failure):
            rows.append((host, _verdict("UNKNOWN"), "", "", "", "not examined, see below"))
            continue
        word, _, text = answer.verdict.partition(": ")
        pair = answer.pairs[0] if answer.pairs else None
        rows.append(
            (
                host,
                _verdict(word),
                f"{pair.fill:.0%}" if pair else "",
                f"{pair.rate_s:,.0f}" if pair else "",
                _left(pair) if pair else "",
                text,
            )
        )
    heads = ("HOST", "VERDICT", "FULL", "RATE/S", "LEFT", "WHY")
    return Table(heads, tuple(rows), frozenset({2, 3, 4}))


def _tables(report: Report, verbose: bool) -> list[Part]:
    parts: list[Part] = []
    pairs = report.pairs if verbose else report.pairs[:_ROWS]
    if pairs:
        parts += ["", _pairs(pairs)]
        if len(pairs) < len(report.pairs):
            parts.append(f"({len(report.pairs) - len(pairs):,} more pairs: -v)")
    clients = _clients(report.facts, 10_000 if verbose else _ROWS)
    if clients.rows:
        parts += ["", clients]
    return parts


def _pairs(pairs: Iterable[Pair]) -> Table:
    heads = (
        *("FROM", "TO", "SOURCE PORTS", "FULL", "TIME_WAIT", "OPEN"),
        *("CLOSE_WAIT", "OF", "RATE/S", "LEFT", "CLOSES FIRST"),
    )
    rows = tuple(
        (
            pair.ours,
            pair.theirs,
            _bar(pair),
            f"{pair.fill:.0%}",
            f"{pair.time_wait:,}",
            f"{pair.open:,}",
            f"{pair.close_wait:,}",
            f"{pair.size:,}",
            f"{pair.rate_s:,.0f}",
            _left(pair),
            pair.closes_first.value,
        )
        for pair in pairs
    )
    return Table(heads, rows, frozenset(range(3, 10)))


def _bar(pair: Pair) -> Cell:
    full = min(round(pair.fill * _BAR), _BAR)
    style = "red" if pair.left_s is not None or pair.cliff_s == 0 else "green"
    if style == "green" and pair.cliff_s is not None:
        style = "yellow"
    return Cell("#" * full + "." * (_BAR - full), style)


def _left(pair: Pair) -> str:
    if pair.left_s is not None:
        return f"{pair.left_s} s"
    if pair.cliff_s is None:
        return "never"
    return f"half in {pair.cliff_s} s" if pair.cliff_s else "past half"


def _clients(facts: Facts, most: int) -> Table:
    """Who comes in, by listener."""
    listeners = {join(each.address, each.port): each for each in _listeners(facts)}
    by_port = {str(each.port): each for each in _listeners(facts)}
    sums: dict[str, dict[str, int]] = {}
    hosts: dict[str, int] = {}
    many = set()
    for flow in facts.sockets.flows if facts.sockets else ():
        if flow.incoming:
            total = sums.setdefault(flow.ours, {})
            hosts[flow.ours] = hosts.get(flow.ours, 0) + 1
            if flow.theirs == OTHERS:
                many.add(flow.ours)
            for state, count in flow.states.items():
                total[state] = total.get(state, 0) + count
    rows = []
    for name, total in sorted(sums.items(), key=lambda each: -sum(each[1].values()))[:most]:
        listener = listeners.get(name) or by_port.get(name.rpartition(":")[2])
        rows.append(
            (
                name,
                listener.process if listener else "",
                f"{hosts[name]:,}" + ("+" if name in many else ""),
                f"{total.get(State.ESTABLISHED.value, 0):,}",
                f"{total.get(State.TIME_WAIT.value, 0):,}",
                f"{total.get(State.CLOSE_WAIT.value, 0):,}",
                f"{listener.queued:,}/{listener.backlog:,}" if listener else "",
                (CloserFirst.US if total.get(State.TIME_WAIT.value) else CloserFirst.UNKNOWN).value,
            )
        )
    heads = (
        *("LISTENER", "PROCESS", "CLIENT HOSTS", "OPEN", "TIME_WAIT"),
        *("CLOSE_WAIT", "QUEUE", "CLOSES FIRST"),
    )
    return Table(heads, tuple(rows), frozenset({2, 3, 4, 5, 6}))


def _listeners(facts: Facts) -> tuple[Listener, ...]:
    return facts.sockets.listeners if facts.sockets else ()


def _findings(report: Report, verbose: bool) -> list[Part]:
    loud = [each for each in report.findings if each.severity is not Severity.NOTICE]
    if verbose:
        return [part for each in report.findings for part in _in_full(each)]
    parts: list[Part] = []
    if loud:
        parts += ["", Cell("What to do, best first", "bold"), _cures(loud[0].cures[:_CURES])]
        hidden = len(loud[0].cures) - _CURES
        if hidden > 0:
            parts.append(f"({hidden} more: -v)")
    others = [each for each in loud[1 : _ROWS + 1] if each.title != loud[0].title]
    if others:
        parts += ["", Cell("Also", "bold"), Table(("", ""), tuple(_line(each) for each in others))]
        hidden = len(loud) - 1 - len(others)
        if hidden > 0:
            parts.append(f"({hidden} more: -v)")
    return parts


def _line(finding: Finding) -> tuple[Cell | str, ...]:
    return Cell(finding.severity.value, _STYLES[finding.severity]), finding.title


def _cures(cures: Iterable[Cure]) -> Table:
    rows: list[tuple[Cell | str, ...]] = []
    for number, cure in enumerate(cures, 1):
        rows.append((str(number), f"{cure.action}."))
        rows.append(("", Cell(f"Effect: {cure.effect}. Danger: {cure.danger}.", "dim")))
    return Table(("", ""), tuple(rows))


def _in_full(finding: Finding) -> list[Part]:
    head = Cell(f"{finding.severity.value} {finding.id}", _STYLES[finding.severity])
    parts: list[Part] = ["", head, f"{finding.title}."]
    parts += [Table(("", ""), tuple(("-", f"{text}.") for text in finding.evidence))]
    if finding.cures:
        parts.append(_cures(finding.cures))
    if finding.source:
        parts.append(Cell(f"Source: {finding.source}", "dim"))
    return parts


def _footer(report: Report, verbose: bool) -> list[Part]:
    facts = report.facts
    count = f"{facts.sockets.total:,} sockets" if facts.sockets else "no socket table"
    took = f" read in {facts.sockets.took_s * 1000:,.0f} ms" if facts.sockets else ""
    ranges = facts.sysctls.get("net.ipv4.ip_local_port_range", "?").replace(" ", "-")
    values = ", ".join(
        f"{key} {facts.sysctls.get(f'net.ipv4.{key}', '?')}"
        for key in ("tcp_tw_reuse", "tcp_timestamps", "tcp_max_tw_buckets")
    )
    parts: list[Part] = [
        "",
        Cell(f"{facts.host}, Linux {facts.kernel}: {count}{took}; ports {ranges}, {values}", "dim"),
        *_not_seen(facts),
    ]
    notices = sum(each.severity is Severity.NOTICE for each in report.findings)
    if not verbose:
        parts.append(
            Cell(f"-v: evidence, every cure, {notices} notices. --sysctl-file -: settings.", "dim")
        )
    return parts


def _not_seen(facts: Facts) -> list[Part]:
    return [f"! Not seen: {text}." for text in facts.unseen]
