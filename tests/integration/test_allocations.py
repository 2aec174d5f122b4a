"""No allocation per packet: the data plane's own are counted while one client asks 10,000 times."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from portside.demo.held_port import free_port

from tests.conftest import Trio
from tests.integration.test_pool import Client
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER

QUERIES = 10_000
# Ticks, checks and the session log's clock allocate now and then; packets must not.
FEW = 100

CONFIG = """[portside]
workers = 1
[[server]]
name = "db"
address = "{server}"
check = false
[[service]]
name = "s"
listen = "127.0.0.1:{port}"
mode = "{mode}"
servers = ["db"]
{user}"""


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The counter as a library."""
    library = tmp_path_factory.mktemp("count") / "count_mallocs.so"
    source = Path(__file__).parent.parent / "support" / "count_mallocs.c"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


@pytest.mark.parametrize("mode", ["relay", "pool"])
def test_no_allocation_per_query(
    mode: str, trio: Trio, run_portside: Callable[..., Instance], preloaded: Path, tmp_path: Path
) -> None:
    counter = tmp_path / "mallocs"

    def count() -> int:
        total: int = struct.unpack("=Q", counter.read_bytes())[0]
        return total

    server, user = trio.primary, ""
    if mode == "pool":
        user = f'[[user]]\nname = "{APP_USER}"\npassword = "{APP_PASSWORD}"\n'
    address = f"{server.address}:{server.port}"
    portside = run_portside(
        CONFIG.format(server=address, port=free_port(), mode=mode, user=user),
        env={"LD_PRELOAD": str(preloaded), "COUNT_MALLOCS": str(counter)},
    )
    before = count()
    client = Client(portside)
    client.ask("SELECT 1")
    assert count() > before, "the login allocated nothing: nothing is counted"
    before = count()
    with client.connection.cursor() as cursor:
        for _ in range(QUERIES):
            cursor.execute("SELECT 1")
    allocated = count() - before
    client.connection.close()
    assert allocated < FEW, f"{allocated} allocations in {QUERIES} queries"
