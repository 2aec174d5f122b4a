"""What lies in deploy/ for Prometheus and Grafana speaks of metrics that exist, and docs know it.

That the rules and queries are right is for promtool and a real Prometheus to say
(tests/integration/test_prometheus.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from portside.admin.metrics import FAMILIES
from portside.control.event_kinds import KINDS

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "deploy/prometheus/portside-alerts.yml").read_text()
RULE_TESTS = (ROOT / "deploy/prometheus/portside-alerts-test.yml").read_text()
DASHBOARD = json.loads((ROOT / "deploy/grafana/portside.json").read_text())
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def dashboard_queries() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    found += [each["expr"] for each in DASHBOARD["annotations"]["list"]]
    return [*found, *(each["definition"] for each in DASHBOARD["templating"]["list"][1:])]


def test_only_metrics_that_exist_are_asked_for():
    asked = set(re.findall(r"portside_\w+", RULES + "\n".join(dashboard_queries())))
    assert asked <= set(FAMILIES)
    labels = set(re.findall(r"(\w+)=~?[\"']", RULES + "\n".join(dashboard_queries())))
    known = {label for family in FAMILIES.values() for label in family.labels}
    assert labels <= known | {"job", "instance"}
    kinds = set(re.findall(r'kind="(\w+)"', RULES))
    assert kinds and kinds <= set(KINDS)
    (causes,) = re.findall(r'code=~"\(([^)]+)\)/', RULES)
    words = (ROOT / "crates/core/src/reason.rs").read_text().split("Phase {")[0]
    assert set(causes.split("|")) <= set(re.findall(r'= "([\w-]+)",', words))


def test_every_alert_is_tested_and_documented():
    assert len(ALERTS) == len(set(ALERTS)) > 10
    for alert in ALERTS:
        about = RULE_TESTS.split(f"- name: {alert}\n")[1].split("- name: ")[0]
        assert "exp_alerts: []" in about and "exp_annotations:" in about, alert
    severities = dict(re.findall(r"- alert: (\w+).*?severity: (\w+)", RULES, re.DOTALL))
    docs = (ROOT / "docs/metrics.md").read_text()
    documented = re.findall(r"^\| `(Portside\w+)` \| (\w+) \| [^|]+ \|$", docs, re.MULTILINE)
    assert dict(documented) == severities and [name for name, _ in documented] == ALERTS


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_to_do(alert):
    rule = RULES.split(f"- alert: {alert}\n")[1].split("- alert: ")[0]
    assert 'summary: "' in rule and "description: " in rule


def test_the_dashboard_is_laid_out():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]
