"""Facts, one after the other, each on a stage of its own. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from portside.lab.facts.fact import CannotMeasureError, Fact, Result, Verdict
from portside.lab.facts.stage import RefusedError, stage

# A kernel's rule is the same each time. A busy machine is not: packets that should cross do not,
# when we are not scheduled for 5 ms between two calls.
_TRIES = 3


def run(
    facts: Sequence[Fact],
    show: Callable[[int, Fact], None],
    always: Mapping[str, str] | None = None,
) -> list[Result]:
    """Makes every experiment.

    Args:
        facts: which ones.
        show: told of each before it begins, with its number from 1.
        always: net.ipv4 settings that win over those of the facts, as on a system that enforces
            them.

    Raises:
        LabError: namespaces cannot be had.
    """
    results = []
    for number, fact in enumerate(facts, 1):
        show(number, fact)
        results.append(measure(fact, always or {}))
    return results


def measure(fact: Fact, always: Mapping[str, str]) -> Result:
    """One experiment, made again where it differs. Raises LabError as ``run``."""
    for _ in range(_TRIES - 1):
        result = _once(fact, always)
        if result.verdict is not Verdict.DIFFERS:
            return result
    return _once(fact, always)


def _once(fact: Fact, always: Mapping[str, str]) -> Result:
    try:
        with stage(fact.delay, always) as here:
            return Result(fact, here.hosts.proxy.inside(lambda: fact.measure(here)))
    except CannotMeasureError as why:
        return Result(fact, None, str(why))
    except RefusedError as refused:
        return Result(fact, None, f"its first connection failed: {refused}")
    except OSError as error:
        return Result(fact, None, f"the system refused: {error.strerror or error}")
