"""Fixtures that more than one folder of tests needs. The servers are real (tests/support)."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from tests.support.chaos import ChaosServer
from tests.support.servers import Database, MariaDB, MySQL9, fetch_mysql9, find_program, start_trio
from tests.support.tls import make_certificates

# A busy machine is no failure; pytest-timeout ends what hangs.
settings.register_profile("portside", deadline=None)
settings.load_profile("portside")

# A shell starts its background with SIGINT ignored, which the programs of tests would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Trio(NamedTuple):
    """A primary and two GTID replicas that have caught up."""

    primary: Database
    replica1: Database
    replica2: Database


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder with a short path: a server's socket must stay under 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="portside-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tls_dir(server_dir: Path) -> Path:
    """ca.pem, server-cert.pem, server-key.pem for 127.0.0.1."""
    return make_certificates(server_dir / "tls")


@pytest.fixture(scope="session")
def trio(server_dir: Path, tls_dir: Path) -> Iterator[Trio]:
    """MariaDB, shared by the whole run: a test that breaks a server uses ``mariadb_factory``."""
    servers = Trio(*start_trio(server_dir / "trio", tls_dir=tls_dir))
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def mysql9_trio(server_dir: Path) -> Iterator[Trio]:
    """MySQL 9.7, shared by the whole run; skips when it cannot be had."""
    if (missing := fetch_mysql9()) is not None:
        pytest.skip(missing)
    servers = Trio(*(MySQL9(server_dir / "mysql9" / f"db{n}") for n in (1, 2, 3)))
    (server_dir / "mysql9").mkdir()
    try:
        for server in servers:
            server.start(60)
        for replica in servers[1:]:
            replica.replica_of(servers.primary)
            replica.wait_for(servers.primary)
        yield servers
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def mariadb_factory(server_dir: Path) -> Iterator[Callable[..., MariaDB]]:
    """Makes and starts servers of one's own; ended after the test. Arguments as ``MariaDB``."""
    started: list[MariaDB] = []
    parent = Path(tempfile.mkdtemp(prefix="own-", dir=server_dir))

    def make(**settings: object) -> MariaDB:
        server = MariaDB(parent / f"db{len(started) + 1}", **settings)  # type: ignore[arg-type]
        started.append(server)
        server.start()
        return server

    yield make
    for server in started:
        server.kill()
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def chaos() -> Iterator[ChaosServer]:
    """One misbehaving server; it serves until told otherwise (``chaos.behave``)."""
    with ChaosServer() as server:
        yield server


@pytest.fixture(scope="session")
def haproxy() -> str:
    """Path of HAProxy; skips when it is not installed."""
    program = find_program("haproxy")
    if program is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    return program
