"""docs/health.md says what the code does: every status word, every event, the numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from portside.config.model import Check
from portside.health import eligibility, judge, looplag, probe, usercheck
from portside.health.judge import STATUS_WORDS

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "health.md").read_text()
FLOWING = " ".join(DOCS.split())


@pytest.mark.parametrize(("status", "words"), STATUS_WORDS.items())
def test_status_words(status, words):
    assert f"| `{status}` | {words} |" in DOCS


def test_events():
    source = "".join(Path(str(one.__file__)).read_text() for one in (judge, eligibility))
    kinds = set(re.findall(r'HealthEvent\(\s*"(\w+)"', source))
    # Kinds that are chosen between before the event is made.
    kinds |= set(re.findall(r'kind = "(\w+)"', source)) | set(
        re.findall(r'kind = "\w+" if .* else "(\w+)"', source)
    )
    assert len(kinds) > 15
    section = DOCS.split("## Events")[1].split("## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) == kinds


def test_defaults():
    check = Check()
    assert f'interval = "{check.interval_s:g}s"' in DOCS
    assert f'fast_interval = "{check.fast_interval_s * 1000:g}ms"' in DOCS
    assert f'timeout = "{check.timeout_s:g}s"' in DOCS
    assert f"fall = {check.fall} " in DOCS and f"rise = {check.rise} " in DOCS


def test_numbers():
    assert f"held up for {looplag.LATE_S * 1000:g} ms" in FLOWING
    assert f"share {probe.LOGIN_THREADS} threads" in FLOWING
    assert (usercheck.WORKERS_PER_FUNCTION, probe.MAX_SOURCES_TRIED) == (4, 4)
    assert "up to four run at a time" in FLOWING and "up to four;" in FLOWING
