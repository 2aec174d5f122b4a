"""What a check returns: one finding with its evidence and its cures, best first."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Severity(enum.Enum):
    """How soon a person must look; in this order."""

    CRITICAL = "critical"
    """Clients fail or wait now, or will within minutes."""
    WARNING = "warning"
    """Nobody fails yet; more load, a restart or a lost packet would make it so."""
    NOTICE = "notice"
    """Worth knowing: shown with ``-v``."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Cure:
    """One thing to do.

    Attributes:
        action: what to do, an imperative sentence.
        effect: what it changes.
        danger: what it may break; "none known" is an answer.
        sysctls: settings that ``--sysctl-file`` writes; empty where a sysctl is not the cure, or
            one that nobody should set without thinking.
    """

    action: str
    effect: str
    danger: str
    sysctls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or will be, or is worth knowing.

    Attributes:
        id: the check's, stable, for machines.
        title: one sentence without a full stop; the worst one is the report's verdict.
        evidence: what was read, sentence by sentence.
        cures: best first.
        source: where the rule comes from.
        left_s: seconds until clients fail; 0: they do now; None: no clock runs.
    """

    id: str
    severity: Severity
    title: str
    evidence: tuple[str, ...] = ()
    cures: tuple[Cure, ...] = ()
    source: str = ""
    left_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "id": self.id,
            "severity": self.severity.value,
            "title": self.title,
            "evidence": list(self.evidence),
            "cures": [
                {
                    "action": cure.action,
                    "effect": cure.effect,
                    "danger": cure.danger,
                    "sysctls": dict(cure.sysctls),
                }
                for cure in self.cures
            ],
            "source": self.source,
            "left_s": self.left_s,
        }
