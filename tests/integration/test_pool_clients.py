"""Real client libraries through a small, busy pool: each must see what it sees on the server.

A program of tests/clients runs twice at once, directly and through Portside, each in a schema of
its own; what both print must be equal. One alone: ``pytest -k connector-j`` (CONTRIBUTING.md).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import config
from tests.integration.test_pool_fidelity import BESIDE, POISON
from tests.support.client_matrix import PROGRAMS, SCHEMA, missing, run
from tests.support.instance import Instance
from tests.support.neighbours import Neighbours
from tests.support.servers import APP_PASSWORD, APP_USER, Database

# Two that the program's own pool may hold, and one for its neighbours.
POOL = "max = 3"
# Texts name the schema, so both names are equally long.
DIRECT, POOLED = "direct", "pooled"


class Pool(NamedTuple):
    """A server, and a running instance in front of it."""

    server: Database
    portside: Instance
    host: str
    port: int

    def neighbour(self) -> Any:
        """A PyMySQL connection through the pool, in the neighbours' schema."""
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=APP_USER,
            password=APP_PASSWORD,
            database="beside",
            autocommit=None,
            ssl_disabled=True,
        )


def server_for(request: pytest.FixtureRequest) -> Database:
    """The primary that the fixture's parameter names, as the programs need it."""
    trio: Trio = request.getfixturevalue("trio" if request.param == "mariadb" else "mysql9_trio")
    server = trio.primary
    server.root("SET GLOBAL log_bin_trust_function_creators = 1")
    # MySQL keeps the password in its cache from here on: libraries without RSA can log in.
    server.connect().close()
    server.root(BESIDE)
    return server


@contextlib.contextmanager
def pool_in_front(server: Database, limits: str, service: str = "") -> Iterator[Pool]:
    """A running instance with these settings of ``[pool]`` and ``[[service]]``."""
    folder = Path(tempfile.mkdtemp(prefix="ps-"))
    text = config(server, pool=limits, service=f'timeouts = {{ queue = "40s" }}\n{service}')
    portside = Instance(folder, text).start()
    host, _, port = portside.service("s")["listen"][0].rpartition(":")
    yield Pool(server, portside, host, int(port))
    portside.stop()
    shutil.rmtree(folder, ignore_errors=True)


PRODUCTS = ["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)]


@pytest.fixture(scope="module", params=PRODUCTS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    server = server_for(request)
    # MariaDB's Java library cannot log in with "*", the tests' own setting.
    old = server.root("SELECT @@global.session_track_system_variables")[0][0]
    server.root("SET GLOBAL session_track_system_variables = 'autocommit,time_zone'")
    with pool_in_front(server, POOL) as made:
        yield made
    server.root(f"SET GLOBAL session_track_system_variables = '{old}'")


def make(server: Database, schema: str) -> None:
    server.root(f"DROP DATABASE IF EXISTS {schema}")
    server.root(f"CREATE DATABASE {schema} CHARACTER SET utf8mb4")
    for statement in SCHEMA:
        server.root(f"USE {schema}; {statement}")


def differences(direct: list[Any], pooled: list[Any]) -> list[str]:
    """Steps that differ, in order; schema names made equal."""
    want = [json.dumps(step, ensure_ascii=False).replace(DIRECT, POOLED) for step in direct]
    got = [json.dumps(step, ensure_ascii=False) for step in pooled]
    found = [f"direct {a}\npooled {b}" for a, b in zip(want, got, strict=False) if a != b]
    if len(want) != len(got):
        found.append(f"{len(want)} steps directly, {len(got)} through the pool")
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_library_sees_what_it_sees_without_portside(name: str, pool: Pool) -> None:
    program = PROGRAMS[name]
    if (reason := missing(program.part)) is not None:
        pytest.skip(reason)
    if name == "mysql9-cli" and pool.server.product == "MariaDB":
        pytest.skip("MySQL 9's client has no mysql_native_password, the account's method here")
    for schema in (DIRECT, POOLED):
        make(pool.server, schema)
    with Neighbours(pool.neighbour, POISON) as beside, ThreadPoolExecutor() as both:
        direct = both.submit(run, program, pool.server.address, pool.server.port, DIRECT)
        pooled = both.submit(run, program, pool.host, pool.port, POOLED)
        seen = direct.result(), pooled.result()
    assert len(seen[0]) > 10
    assert beside.statements > 10
    assert differences(*seen) == []
