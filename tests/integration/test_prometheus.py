"""Metrics, alerts and the dashboard with real parts: promtool, Prometheus, a database that dies."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request

import pymysql
import pytest
from portside.demo.held_port import HeldPort

from tests.support.prometheus import Prometheus
from tests.support.raw_client import QUIT, RawClient
from tests.support.waiting import wait_until
from tests.unit.test_deploy import ROOT, dashboard_queries

DEPLOY = ROOT / "deploy" / "prometheus"
TEXT = """
[portside]
workers = 1
[source]
addresses = ["127.0.0.1"]
ports = "28600-28699"
[metrics]
listen = "127.0.0.1:{metrics}"
[check]
interval = "200ms"
[[server]]
name = "db1"
address = "127.0.0.1:{port}"
[[service]]
name = "write"
listen = "127.0.0.1:0"
servers = ["db1"]
[[service]]
name = "app"
listen = "127.0.0.1:0"
mode = "pool"
servers = ["db1"]
[[user]]
name = "app"
password = "app-pw"
[[user]]
name = "stranger"
password = "stranger-pw"
"""


@pytest.fixture(autouse=True)
def _needs_prometheus() -> None:
    if shutil.which("promtool") is None or shutil.which("prometheus") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")


def promtool(*args: str, stdin: bytes | None = None) -> str:
    done = subprocess.run(
        ["promtool", *args], input=stdin, capture_output=True, cwd=DEPLOY, timeout=60, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_the_rules_are_right_and_fire_when_they_should():
    assert "23 rules found" in promtool("check", "rules", "portside-alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "portside-alerts-test.yml")


def test_promtool_would_find_a_broken_rule(tmp_path):
    rules = (DEPLOY / "portside-alerts.yml").read_text()
    (tmp_path / "portside-alerts.yml").write_text(rules.replace("_up == 0", "_up == 1"))
    shutil.copy(DEPLOY / "portside-alerts-test.yml", tmp_path)
    with pytest.raises(AssertionError, match="PortsideServerDown"):
        promtool("test", "rules", str(tmp_path / "portside-alerts-test.yml"))


def test_a_real_prometheus_and_a_database_that_is_killed(run_portside, mariadb_factory, folder):
    database = mariadb_factory()
    with HeldPort() as held:
        text = TEXT.format(metrics=held.port, port=database.port)
        one = run_portside(text, start=False)
    one.start()
    target = f"127.0.0.1:{held.port}"
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
        assert promtool("check", "metrics", stdin=answer.read()).strip() == ""
    host, _, port = one.service("write")["listen"][0].rpartition(":")

    def visit() -> None:
        with RawClient((host, int(port))) as client:
            assert client.packet()[0] == 10
            client.send(QUIT)

    with Prometheus(folder, target, DEPLOY / "portside-alerts.yml") as prometheus:
        visit()
        wait_until(lambda: prometheus.value("portside_server_up") == 1, 20)
        accepted = 'portside_service_accepted_total{service="write"}'
        wait_until(lambda: prometheus.value(accepted) == 1, 20)
        assert prometheus.value("portside_server_check_duration_seconds") < 5
        assert prometheus.value('portside_events_total{kind="server_down"}') == 0
        assert prometheus.alerts() == {}
        # Nothing runs out, nobody replicates and nothing changed; a rate needs a second scrape.
        wait_until(
            lambda: all(
                prometheus.query(query) or re.search("exhausted_in|lag_seconds|> 0$", query)
                for query in asked()
            ),
            20,
            "a query of the dashboard stays empty",
        )
        # The file has an account that the database does not know.
        pool = one.service("app")["listen"][0].rpartition(":")
        with pymysql.connect(host=pool[0], port=int(pool[2]), user="app", password="app-pw"):
            pass
        stranger = {"user": "stranger", "password": "stranger-pw"}
        with pytest.raises(pymysql.MySQLError, match="ERR 1045"):
            pymysql.connect(host=pool[0], port=int(pool[2]), **stranger)
        wait_until(lambda: "PortsidePoolLoginsRefused" in prometheus.alerts(), 20)
        refused = prometheus.alerts()["PortsidePoolLoginsRefused"]
        assert (refused["state"], refused["labels"]["server"]) == ("firing", "db1")
        told = 'portside_service_commands_refused_total{service="app"}'
        assert prometheus.value(told) == 1
        database.kill()
        wait_until(lambda: prometheus.value("portside_server_up") == 0, 20)
        wait_until(
            lambda: (
                prometheus.alerts().get("PortsideServiceWithoutServer", {}).get("state") == "firing"
            ),
            20,
        )
        firing = prometheus.alerts()["PortsideServiceWithoutServer"]
        service = firing["labels"]["service"]
        assert service in ("write", "app") and firing["labels"]["severity"] == "critical"
        said = f"Service {service} has no server for new sessions"
        assert firing["annotations"]["summary"] == said
        assert prometheus.alerts()["PortsideServerDown"]["state"] == "pending"  # for 30 s
        assert prometheus.value('portside_events_total{kind="server_down"}') == 1
        database.start()
        wait_until(lambda: "PortsideServiceWithoutServer" not in prometheus.alerts(), 30)


def asked() -> list[str]:
    """The dashboard's queries as Grafana sends them when everything is chosen."""
    queries = [query for query in dashboard_queries() if not query.startswith("label_values")]
    queries = [query.replace("$__rate_interval", "10s") for query in queries]
    return [re.sub(r"\$(instance|service|server)\b", ".*", query) for query in queries]
