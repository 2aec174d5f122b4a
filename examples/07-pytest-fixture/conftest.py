"""A real MariaDB and a balancer in front of it, for the tests of this folder."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import portside
import pytest
from portside.demo.mariadb import MariaDB

CONFIG = """
[portside]
workers = 1
[log]
sessions = "errors"
[check]
user = "monitor"
password = "monitor-pw"
[[server]]
name = "db1"
address = "127.0.0.1:{port}"
[[service]]
name = "app"
listen = "127.0.0.1:0"
require = "writable"
servers = ["db1"]
[timeouts]
queue = "10s"
"""


@pytest.fixture(scope="session")
def database() -> Iterator[MariaDB]:
    """A server in a temporary folder; accounts app/app-pw and monitor/monitor-pw."""
    with tempfile.TemporaryDirectory(prefix="portside-") as folder:
        server = MariaDB(Path(folder) / "db1")
        server.start()
        yield server
        server.kill()


@pytest.fixture
def balancer(database: MariaDB) -> Iterator[portside.Balancer]:
    """A balancer of the test's own: what it drains or pauses concerns nobody else."""
    with portside.Balancer(CONFIG.format(port=database.port)) as running:
        running.wait_ready()
        yield running
