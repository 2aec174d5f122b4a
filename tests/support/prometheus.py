"""A real Prometheus of a test's own: scrapes one target every second, evaluates our alert rules."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from portside.demo.held_port import HeldPort

from tests.support.waiting import wait_until

CONFIG = """
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: portside
    static_configs: [{{ targets: ["{target}"] }}]
"""


class Prometheus:
    """One process in ``folder``; ``target`` is host:port of a ``/metrics``."""

    def __init__(self, folder: Path, target: str, rules: Path) -> None:
        self._folder = folder
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(rules=rules, target=target))
        self._held = HeldPort()
        self._url = f"http://127.0.0.1:{self._held.port}"
        self._command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._held.port}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Prometheus:
        self._held.release()
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(self._is_ready, 30, "Prometheus does not get ready")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def query(self, text: str) -> list[dict[str, Any]]:
        """The result of an instant query; HTTPError 400 when it is wrong."""
        return list(self._get("query", query=text)["result"])

    def value(self, text: str) -> float | None:
        """The one value of a query; None without any."""
        found = self.query(text)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Pending and firing alerts by name."""
        found = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in found}

    def _get(self, path: str, **query: str) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
