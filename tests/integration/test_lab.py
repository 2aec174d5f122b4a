"""``portside lab`` as a command, in real namespaces; each test has a /run of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.lab_place import Place
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]


def _is_under_load(place: Place) -> bool:
    """A balancer runs, and its configuration has been taken."""
    return len(place.names()) == 3 and any("portside.toml" in line for line in place.processes())


_PATH = """
import socket, struct, sys, time
from portside.lab.hosts import DB_ADDRESS, Hosts
from portside.lab.path import PathPlan, path

plan = PathPlan(delay_us=int(sys.argv[1]), eats_resets=sys.argv[2] == "eats")
with Hosts() as hosts, path(hosts, plan):
    listener = hosts.db.inside(lambda: socket.create_server((DB_ADDRESS, 3306)))
    began = time.monotonic()
    client = hosts.proxy.inside(lambda: socket.create_connection((DB_ADDRESS, 3306), 5))
    took_ms = (time.monotonic() - began) * 1000
    server, _ = listener.accept()
    server.settimeout(1.0)
    client.sendall(b"QUIT")
    assert server.recv(10) == b"QUIT"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    try:
        end = "eof" if not server.recv(1) else "data"
    except (ConnectionResetError, TimeoutError) as error:
        end = type(error).__name__
    print(round(took_ms), end)
    for one in (server, listener):
        one.close()
"""


@pytest.mark.parametrize(
    ("delay_us", "firewall", "seen"),
    [
        (0, "open", "ConnectionResetError"),
        (30_000, "open", "ConnectionResetError"),
        (30_000, "eats", "TimeoutError"),
        (0, "eats", "TimeoutError"),
    ],
)
def test_the_path_delays_packets_and_eats_resets(place, delay_us, firewall, seen):
    command = place.command(sys.executable, "-c", _PATH, str(delay_us), firewall)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    took_ms, end = done.stdout.split()
    assert end == seen
    # There and back; the upper bound leaves room for a machine that is busy, but not for a retry.
    assert 2 * delay_us / 1000 <= int(took_ms) < 2 * delay_us / 1000 + 500
    assert place.names() == []


@pytest.mark.haproxy
@pytest.mark.timeout(150)
def test_quick_shows_the_wall_and_the_cure_within_a_minute(place, tmp_path, haproxy):
    files = [tmp_path / name for name in ("lab.json", "lab.svg", "lab.html")]
    arguments = [f"--{file.suffix[1:]}={file}" for file in files]
    began = time.monotonic()
    code, output, errors = place.lab("--quick", *arguments)
    assert time.monotonic() - began < 95  # under a minute on a machine with nothing else to do
    assert code == 0, output + errors
    assert place.is_clean()

    found = json.loads(files[0].read_text())
    rows = {row["key"]: row for row in found["strategies"]}
    assert len(rows) == 14
    # The wall stands where the ports end. A few connections more get through: where the database's
    # FIN was first, its host keeps the TIME_WAIT and the port is free again.
    direct = rows["direct"]
    assert direct["errors"][0]["errno"] == 99 and direct["failed"] > 0
    for key, host, ports in (
        ("direct", "web", 1000),
        ("haproxy", "proxy", 1000),
        ("naive", "proxy", 1000),
        ("naive-4-ledger", "proxy", 4000),
    ):
        row = rows[key]
        assert ports <= row["done"] <= ports * 1.05 and row["failed"] > 0, row
        # Some of the TIME_WAITs stand on the database: both FINs crossed, or its own was first.
        assert ports * 0.8 <= row["time_wait_peak"][host] <= ports * 1.05, row
    # A firewall that eats every reset costs the database TIME_WAITs, and no client anything.
    filtered = rows["ours-filtered"]
    assert (filtered["failed"], filtered["aborted"]) == (0, 0) and filtered["resets_lost"], filtered
    assert filtered["done"] > 4000 and filtered["time_wait_peak"]["proxy"] == 0, filtered
    assert "4000 of 4000 busy" in rows["naive-4-ledger"]["errors"][0]["text"]
    assert rows["naive-wide"]["time_wait_peak"]["proxy"] <= 2250 * 1.05
    assert rows["naive-4"]["time_wait_peak"]["proxy"] <= 4000 * 1.05
    # The cure leaves nothing towards the database and nobody aborted. On the web host a client
    # that was not scheduled for 5 ms keeps a TIME_WAIT of its own: rare, and no port of the proxy.
    for key in ("ours", "unix", "ours-one-port"):
        row, peak = rows[key], rows[key]["time_wait_peak"]
        assert (row["failed"], row["aborted"], peak["proxy"], peak["db"]) == (0, 0, 0, 0), row
        assert row["done"] > 1000 and peak["web"] <= row["done"] / 50

    for part in ("portside lab (quick)", "EADDRNOTAVAIL", "ONE source port", "narrowed"):
        assert part in output
    assert all(sentence in output.replace("\n", " ") for sentence in found["sentences"])
    picture = ElementTree.fromstring(files[1].read_text())
    assert any("HAProxy 2." in (element.text or "") for element in picture.iter())
    assert "<svg" in files[2].read_text() and "1,000" in files[2].read_text()


@pytest.mark.timeout(90)
def test_a_real_mariadb_counts_nobody_as_aborted(place, tmp_path):
    file = tmp_path / "lab.json"
    code, output, errors = place.lab(
        "--quick", "--server", "mariadb", "--json", str(file), "reset-now", "ours-one-port"
    )
    assert code == 0, output + errors
    _, ours = json.loads(file.read_text())["strategies"]
    assert ours["done"] > 100
    assert (ours["failed"], ours["aborted"]) == (0, 0)
    peak = ours["time_wait_peak"]
    # On the web host a client that was not scheduled for 5 ms may keep one, as above.
    assert (peak["proxy"], peak["db"]) == (0, 0) and peak["web"] <= max(2, ours["done"] / 50)
    assert place.is_clean()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_behind(place, how):
    process = place.start("ours")
    wait_until(lambda: _is_under_load(place), timeout_s=20)
    process.send_signal(how)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "namespaces and processes are gone" in output
    assert place.is_clean()


def test_a_crash_leaves_names_that_clean_removes(place):
    process = place.start("ours")
    wait_until(lambda: _is_under_load(place), timeout_s=20)
    # Between nsenter and the lab stands no process: the signal reaches the lab itself.
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not place.processes(), timeout_s=5)
    assert place.names() == ["portside-lab-db", "portside-lab-proxy", "portside-lab-web"]

    code, _, errors = place.lab("--quick", "ours")
    assert code == 1
    assert "portside-lab-web exists already: a lab that crashed left it" in errors
    assert "portside lab --clean removes it" in errors and len(errors.splitlines()) == 1

    code, output, _ = place.lab("--clean")
    assert code == 0 and "removed: portside-lab-db, portside-lab-proxy" in output
    assert place.is_clean()
    assert place.lab("--clean")[:2] == (0, "nothing was left behind\n")


def test_a_name_that_is_taken_stays_its_owners(place):
    place.ip_netns("add", "portside-lab-proxy")
    code, _, errors = place.lab("--quick", "ours")
    assert code == 1 and "portside-lab-proxy exists already" in errors
    assert len(errors.splitlines()) == 1
    # Not even the namespace made before the one that failed stays.
    assert place.names() == ["portside-lab-proxy"]
    assert not list(place.temporary.iterdir())


def test_two_labs_at_a_time_are_refused_and_the_first_goes_on(place):
    first = place.start("ours")
    wait_until(lambda: _is_under_load(place), timeout_s=20)
    for arguments in (("--quick", "ours"), ("--clean",)):
        code, _, errors = place.lab(*arguments)
        assert (
            code == 1
            and f"another portside lab runs on this machine (process {first.pid}" in errors
        )
    assert len(place.names()) == 3 and first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert place.is_clean()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "unknown strategy 'nonsense': known are direct, "),
        (("haproxi",), "unknown strategy 'haproxi': did you mean haproxy?"),
        (("--connections", "1000000000000"), "too little memory: 1,000,000,000,000 connections"),
        (("--delay", "5"), '--delay 5: expected "none"'),
        (("--svg", "/no/such/folder/x.svg"), "/no/such/folder/x.svg cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(place, arguments, said):
    code, output, errors = place.lab("--quick", *arguments)
    assert (code, output) == (1, "")
    assert errors.startswith(f"portside: {said}") and len(errors.splitlines()) == 1
    assert place.is_clean()


def test_no_namespaces_is_one_sentence(place):
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    code, output, errors = place.lab("--quick", "ours", before=without)
    assert (code, output) == (1, "")
    assert "root may not make network namespaces here (" in errors
    assert "CAP_SYS_ADMIN" in errors and len(errors.splitlines()) == 1


def test_a_user_without_root_runs_it_in_a_user_namespace(place, tmp_path):
    file = tmp_path / "lab.json"
    # Not root to itself and to the kernel's checks, but it may read root's files: a plain user.
    code, output, errors = place.lab(
        *("--quick", "ours", "--delay", "none", "--json", str(file)),
        before=("unshare", "--user", "--map-user=1000", "--map-group=1000"),
    )
    assert code == 0, output + errors
    [ours] = json.loads(file.read_text())["strategies"]
    assert ours["done"] > 1000 and ours["failed"] == 0 and ours["path"] == "cable"
    assert place.is_clean()


@pytest.mark.timeout(90)
def test_the_example_runs_as_it_stands(place, tmp_path):
    script = Path(__file__).parents[2] / "examples/05-exhaustion-lab/run.sh"
    folders = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        place.command(str(script), "direct", "ours"),
        capture_output=True,
        text=True,
        env={**place.environment, "PATH": folders},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"lab.html", "lab.svg", "lab.json"} <= {path.name for path in tmp_path.iterdir()}
    assert place.is_clean()
