"""What ``portside lab --facts`` says: results in, table, sentences and JSON out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from portside.lab.facts.fact import Fact, Outcome, Result, Verdict
from portside.lab.report import About

MEASURED_ON = "6.18"
_ORDER = tuple(Verdict)
_STYLES = {Verdict.DIFFERS: "bold yellow", Verdict.UNMEASURED: "dim", Verdict.SAME: None}


def ordered(results: Sequence[Result]) -> list[Result]:
    """What differs first, then what was not measured; otherwise as the tables have it."""
    return sorted(results, key=lambda result: _ORDER.index(result.verdict))


def cells(result: Result) -> list[str]:
    """One row: fact, measured on 6.18, here, same?"""
    fact = result.fact
    here = result.why if result.here is None else str(result.here)
    same = {Verdict.SAME: "yes", Verdict.DIFFERS: "NO", Verdict.UNMEASURED: "not measured"}
    return [fact.id, fact.says, str(fact.measured), here, same[result.verdict]]


def table(results: Sequence[Result], kernel: str) -> Table:
    """The table; rows that differ first."""
    made = Table(title=f"portside lab --facts: this kernel is {kernel}", title_justify="left")
    for heading in ("", "fact", f"measured on {MEASURED_ON}", "here", "same?"):
        made.add_column(heading, overflow="fold", no_wrap=heading in ("", "same?"))
    for result in ordered(results):
        made.add_row(*cells(result), style=_STYLES[result.verdict])
    return made


def sentences(results: Sequence[Result]) -> list[str]:
    """One for each fact that differs: what it means for Portside here."""
    return [
        f"{result.fact.id}: {_plain(result.here)} here, on {MEASURED_ON} it was"
        f" {_plain(result.fact.measured)}. For Portside: {result.fact.means}."
        for result in results
        if result.verdict is Verdict.DIFFERS
    ]


def count_line(results: Sequence[Result], total: int) -> str:
    """The last line."""
    counts = counted(results)
    parts = [f"{counts['same']} as on {MEASURED_ON}", f"{counts['differs']} differ"]
    if counts["not measured"]:
        parts.append(f"{counts['not measured']} could not be measured here")
    left = total - len(results)
    subset = f" --quick left {left} out." if left else ""
    return f"{len(results)} facts: {', '.join(parts)}.{subset}"


def counted(results: Sequence[Result]) -> dict[str, int]:
    """How many of each verdict."""
    verdicts = [result.verdict for result in results]
    return {verdict.value: verdicts.count(verdict) for verdict in _ORDER}


def live_line(fact: Fact, number: int, of: int) -> str:
    """What is being measured."""
    return f"[{number}/{of}] {fact.id} {fact.says}"


def as_json(results: Sequence[Result], about: About, total: int) -> dict[str, Any]:
    """Everything, for --json."""
    return {
        "about": {"command": about.command, "kernel": about.kernel, "versions": about.versions},
        "measured_on": MEASURED_ON,
        "counts": counted(results),
        "left_out": total - len(results),
        "facts": [
            {
                "id": result.fact.id,
                "says": result.fact.says,
                "measured": asdict(result.fact.measured),
                "here": result.here and asdict(result.here),
                "verdict": result.verdict.value,
                "why": result.why,
                "means": result.fact.means,
            }
            for result in results
        ],
    }


def _plain(outcome: Outcome | None) -> str:
    return "" if outcome is None else str(Outcome(outcome.value))
