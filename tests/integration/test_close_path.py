"""Each way to close, on real databases behind a delay, with packets lost where it hurts.

``close_path.py`` is the program; here is what it must find. docs/how-it-works.md has the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.servers import fetch_mysql9

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.timeout(150),
]

_ALL = 8
# Nobody aborted and no TIME_WAIT on any of three hosts: by which close towards the server.
_CLEAN = {
    "eof-reset": "eof-reset",
    "reset-now": "reset-now",
    "QUIT lost once": "eof-reset",
    "server's FIN lost once": "eof-reset",
    "no QUIT": "eof-reset",
    "gone in a query": "eof-reset",
    "TLS": "eof-reset",
    "RST lost": "eof-reset",
}


@pytest.mark.parametrize("kind", ["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def test_each_way_to_close_on_three_hosts(kind, place, tls_dir):
    if kind == "mysql9" and (missing := fetch_mysql9()) is not None:
        pytest.skip(missing)
    program = [sys.executable, "-m", "tests.integration.close_path"]
    done = subprocess.run(
        place.command(*program, kind, str(place.temporary), str(tls_dir), str(_ALL)),
        capture_output=True,
        text=True,
        check=False,
        env={**place.environment, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])

    for name, close in _CLEAN.items():
        row = rows.pop(name)
        assert row["server"] == {close: _ALL}, (name, row)
        left = [row[count] for count in ("aborted", "web", "proxy", "db")]
        assert left == [0, 0, 0, 0], (name, row)

    # The server's FIN first, ours in answer: it keeps the TIME_WAIT.
    eof = rows.pop("eof")
    assert (eof["aborted"], eof["proxy"], eof["db"]) == (0, 0, _ALL), eof
    # Ours first: the proxy keeps it, and the database too where the two crossed.
    fin = rows.pop("fin")
    assert (fin["aborted"], fin["proxy"]) == (0, _ALL), fin
    # TCP_LINGER2 leaves nothing unless the two FINs cross.
    for name in ("linger2", "QUIT lost once, linger2"):
        row = rows.pop(name)
        assert (row["aborted"], row["web"]) == (0, 0), (name, row)
        assert row["proxy"] == row["db"] < _ALL, (name, row)
    # Our FIN towards the client: one of the two keeps a TIME_WAIT, whoever was first.
    to_client = rows.pop("to_client fin")
    assert to_client["client"] == {"fin": _ALL} and to_client["db"] == 0, to_client
    assert to_client["web"] + to_client["proxy"] >= _ALL, to_client
    # Why reset-now is not the default: what was lost is never sent again.
    assert rows.pop("QUIT lost, reset-now")["aborted"] == _ALL
    # Nobody can say QUIT inside somebody else's TLS: the same as without a proxy.
    assert rows.pop("TLS, no QUIT")["aborted"] == _ALL
    assert not rows
