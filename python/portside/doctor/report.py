"""A host's report: its findings, the worst first, and the verdict in one sentence. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from portside.doctor import checks
from portside.doctor.facts import NO_TABLE, Facts
from portside.doctor.finding import Finding, Severity
from portside.doctor.pairs import Pair, pairs


class FailOn(enum.Enum):
    """From which severity on the answer is no."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Report:
    """What the doctor says of one host.

    Attributes:
        facts: what was read.
        findings: worst first; where two are as bad, the one with less time left.
    """

    facts: Facts
    findings: tuple[Finding, ...]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every outgoing pair, the one in the worst state first."""
        return pairs(self.facts)

    @property
    def severity(self) -> Severity | None:
        """Of the worst finding; None without findings."""
        return self.findings[0].severity if self.findings else None

    @property
    def verdict(self) -> str:
        """One sentence that begins with CRITICAL, WARNING, GOOD or UNKNOWN."""
        worst = self.findings[0] if self.findings else None
        if worst is not None and worst.severity is Severity.CRITICAL:
            return f"CRITICAL: {worst.title}."
        if self.facts.sockets is None:
            why = next((text for text in self.facts.unseen if text.startswith(NO_TABLE)), NO_TABLE)
            return f"UNKNOWN: this host cannot be judged without {why}."
        if worst is not None and worst.severity is Severity.WARNING:
            return f"WARNING: {worst.title}."
        return f"GOOD: {self._why_good()}."

    def fails(self, on: FailOn) -> bool:
        """Whether the answer is no; a host that could not be judged is not good."""
        if self.facts.sockets is None:
            return True
        worst = self.severity
        return worst is not None and worst.rank <= Severity(on.value).rank

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: verdict, findings, pairs and every fact."""
        return {
            "host": self.facts.host,
            "verdict": self.verdict,
            "severity": self.severity.value if self.severity else None,
            "findings": [finding.as_dict() for finding in self.findings],
            "pairs": [
                {**vars(pair), "closes_first": pair.closes_first.value} for pair in self.pairs
            ],
            "unseen": list(self.facts.unseen),
            "facts": self.facts.as_dict(),
        }

    def _why_good(self) -> str:
        if not self.pairs:
            return "no connection holds a source port here, so none can run out"
        fullest = max(self.pairs, key=lambda pair: pair.used)
        return (
            f"nothing runs out here; the fullest pair is {fullest.name} with {fullest.used:,} of"
            f" {fullest.size:,} source ports ({100 * fullest.fill:.0f} %) at"
            f" {fullest.rate_s:,.0f}/s"
        )


def diagnose(facts: Facts) -> Report:
    """What every check says of ``facts``."""
    found = [finding for check in checks.ALL for finding in check(facts)]
    never = float("inf")
    # sorted() is stable: among equals the order of checks.ALL stands, the article's subject first.
    found.sort(key=lambda each: (each.severity.rank, never if each.left_s is None else each.left_s))
    return Report(facts, tuple(found))
