"""``portside plan``: how many source ports a load needs, and what to change first.

From options, a configuration file or a running instance; options win over both, so that "what if"
can be asked. Prints the verdict first, then each figure with its assumption. Decides nothing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from portside.cli import table
from portside.cli.duration import read_seconds
from portside.errors import ExitCode
from portside.plan import Change, Chooser, Plan, PlanError, Situation, ToServer, Verdict, work_out
from portside.plan.arithmetic import safe
from portside.plan.configured import need_package, situations
from portside.plan.host import read_kernel
from portside.plan.result import rate_text

_WORST_FIRST = (Verdict.EXHAUSTED, Verdict.SLOW, Verdict.TIGHT, Verdict.ENOUGH, Verdict.OPEN)


@dataclass(frozen=True)
class Options:
    """The command line.

    Attributes:
        given: what was written, by the names of ``Situation``; texts as they were.
        config: a configuration file.
        running: ask an instance, at ``admin`` or the default address.
        this_host: the kernel's values from here.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    running: bool = False
    admin: str | None = None
    this_host: bool = False
    as_json: bool = False


def main(options: Options) -> int:
    """Prints the plan; exit code 1 when the ports are not enough.

    Raises:
        PlanError: a value that cannot be.
        ConfigError: the configuration has mistakes.
        NoInstance: nothing answers at the admin address.
    """
    plans = sorted(map(work_out, _situations(options)), key=_badness)
    with table.written():
        if options.as_json:
            answer = plans[0].as_json()
            if len(plans) > 1:
                answer["destinations"] = [plan.as_json() for plan in plans]
            click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        else:
            for part in parts(plans):
                table.write(part, sys.stdout)
    return ExitCode.GOOD if plans[0].verdict.is_good else ExitCode.NO


def _badness(plan: Plan) -> tuple[int, float]:
    return _WORST_FIRST.index(plan.verdict), safe(plan.situation)


def _situations(options: Options) -> Sequence[Situation]:
    given = read_values(options.given)
    from_here = options.this_host or options.running or options.config is not None
    base = Situation()
    if from_here:
        kernel = read_kernel()
        base = replace(
            base, ports=kernel.ports, timestamps=kernel.timestamps, tw_reuse=kernel.tw_reuse
        )
    base = replace(base, **given)
    if options.running:
        from portside.plan import instance

        found = instance.read(options.admin, base, keep_hold="hold_s" in given)
    elif options.config is not None:
        need_package("reading a configuration")
        from portside.config.load import load

        found = situations(load(options.config), base)
    else:
        return [base]
    told = {key: given[key] for key in given if key not in ("rate", "hold_s", "destinations")}
    return [replace(one, **told) for one in found]


def read_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were written, as ``Situation`` takes them.

    Raises:
        PlanError, PortsideError: a text that does not say what it should.
    """
    values = {key: value for key, value in given.items() if value is not None}
    for key, option in (("hold_s", "--hold"), ("time_wait_s", "--time-wait")):
        if key in values:
            values[key] = read_seconds(option, values[key])
    if "ports" in values:
        values["ports"] = read_range(values["ports"])
    if "writes" in values:
        values["writes"] = read_share(values["writes"])
    if "close" in values:
        values["close"] = ToServer(values["close"])
    if "chooser" in values:
        values["chooser"] = Chooser(values["chooser"])
    return values


def read_range(text: str) -> int:
    """How many ports "lo-hi", "lo hi" or a plain count is.

    Raises:
        PlanError: it is none of these.
    """
    found = re.fullmatch(r"(\d{1,5})(?:[-\s]+(\d{1,5}))?", text.strip())
    if found:
        low, high = int(found[1]), int(found[2] or 0)
        if found[2] is None and 0 < low <= 65_535:
            return low
        if found[2] is not None and 0 < low <= high <= 65_535:
            return high - low + 1
    raise PlanError(
        f'--range {text}: expected "lo-hi" within 1-65535, such as "1025-65000", or how many'
        " ports there are."
    )


def read_share(text: str) -> float:
    """A share, 0 to 1, of "60%" or "0.6".

    Raises:
        PlanError: it is neither.
    """
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)(%?)", text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 <= share <= 1:
        raise PlanError(f'--writes {text}: expected a share such as "60%" or "0.6".')
    return share


def parts(plans: Sequence[Plan]) -> list[table.Part]:
    """What is printed; the first plan is the worst."""
    worst = plans[0]
    told: list[table.Part] = [worst.headline, f"Given: {given_text(worst.situation)}.", ""]
    if len(plans) > 1:
        told += [_destinations(plans), "", f"In full, {worst.situation.name}:"]
    told += [_figures(worst)]
    if worst.changes:
        told += ["", _changes(worst.changes, worst.verdict is Verdict.OPEN)]
    return told


def given_text(s: Situation) -> str:
    """The situation in one line."""
    rate = "no rate" if s.rate is None else f"{s.rate:,.0f} connections/s"
    said = [
        rate,
        f"{s.hold_s:.4g} s open",
        f"{s.addresses:,} x {s.ports:,} ports chosen by {s.chooser.value}",
        f"{s.destinations:,} destination{'s' * (s.destinations > 1)}",
        f"close {s.close.value}",
        f"TIME_WAIT {s.time_wait_s:g} s",
        f"timestamps {'on' if s.timestamps else 'off'}",
        f"tcp_tw_reuse {'on' if s.tw_reuse else 'off'}",
    ]
    if s.pool is not None:
        said.append(f"{s.pool:,} shared connections")
    if s.writes is not None:
        said.append(f"{s.writes:.0%} writes")
    return ", ".join(said)


def _destinations(plans: Sequence[Plan]) -> table.Table:
    heads = ("DESTINATION", "VERDICT", "SHARE", "PORTS THERE", "PORTS NEEDED", "SAFE IN ALL")
    rows = tuple(
        (
            plan.situation.name,
            _mark(plan.verdict),
            f"{plan.situation.busiest_share:.1%}",
            f"{plan.situation.tuples:,}",
            _needed(plan),
            rate_text(safe(plan.situation)),
        )
        for plan in plans
    )
    return table.Table(heads, rows, right=frozenset({2, 3, 4, 5}))


def _needed(plan: Plan) -> str:
    return "" if plan.verdict is Verdict.OPEN else plan.figure("needed").text


def _figures(plan: Plan) -> table.Table:
    heads = ("FIGURE", "VALUE", "", "FROM; ASSUMPTION (SOURCE)")
    rows = tuple(
        (
            figure.name,
            figure.text,
            figure.unit,
            f"{figure.formula}; {figure.assumption} ({figure.source})",
        )
        for figure in plan.figures
    )
    return table.Table(heads, rows, right=frozenset({1}))


def _changes(changes: Sequence[Change], is_open: bool) -> table.Table:
    heads = ("CHANGE, IN THIS ORDER", "SAFE IN ALL", "ENOUGH", "HOW; MIND")
    rows = tuple(
        (
            change.what,
            rate_text(change.safe_rate),
            "" if is_open else _yes(change.is_enough),
            f"{change.how}; {change.danger}" if change.danger else change.how,
        )
        for change in changes
    )
    return table.Table(heads, rows, right=frozenset({1}))


def _mark(verdict: Verdict) -> table.Cell:
    return table.Cell(verdict.value, "green" if verdict.is_good else "bold red")


def _yes(is_enough: bool) -> table.Cell:
    return table.Cell("yes", "green") if is_enough else table.Cell("no")
