"""``portside lab --facts`` in real namespaces; each test has a /run of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from portside.lab.facts.catalog import FACTS

from tests.support.lab_place import Place
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

# CPU and memory are what a busy machine changes; what calls and packets do is the kernel's alone.
MACHINE = ("3", "7")


@pytest.mark.timeout(150)
def test_this_kernel_does_what_the_tables_say(place, tmp_path):
    file = tmp_path / "facts.json"
    process = place.start("--facts", "--json", str(file))
    output, errors = process.communicate(timeout=140)
    assert process.returncode == 0, output + errors
    assert place.is_clean()

    found = json.loads(file.read_text())
    rows = {row["id"]: row for row in found["facts"]}
    assert len(rows) > 60 and found["left_out"] == 0
    rules = {key: row for key, row in rows.items() if key[0] not in MACHINE}
    assert len(rules) > 55
    assert [row for row in rules.values() if row["verdict"] != "same"] == []
    # Twenty times the call before it: no machine is that busy.
    assert rows["3/S1"]["here"]["value"] == "cliff at half", rows["3/S1"]

    lines = output.splitlines()
    assert lines[0] == f"[1/{len(rows)}] capacity"
    assert lines[-1].startswith(f"{len(rows)} facts: {found['counts']['same']} as on 6.18, ")
    assert all(f" {key} " in output for key in rows)


_ALTERED = """
import json, sys
from portside.lab.facts import catalog, report
from portside.lab.facts.run import run

chosen = [fact for fact in catalog.FACTS if fact.id in sys.argv[2:]]
results = run(chosen, lambda number, fact: None, json.loads(sys.argv[1]))
print(json.dumps([[one.fact.id, one.verdict.value, str(one.here and one.here.value), one.why]
                  for one in results]))
print(*report.sentences(results), sep="\\n")
"""


def altered(place: Place, settings: dict[str, str], *facts: str) -> tuple[dict, str]:
    """Verdict, outcome and reason per fact, where the hosts insist on ``settings``."""
    command = place.command(sys.executable, "-c", _ALTERED, json.dumps(settings), *facts)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.partition("\n")
    assert place.names() == []
    return {key: tuple(row) for key, *row in json.loads(first)}, rest


def test_hosts_without_timestamps_differ_and_it_says_so(place):
    found, sentences = altered(
        place, {"tcp_timestamps": "0"}, "2/S6", "6/R1", "6/R1-ts0", "6/R5", "5/S9b"
    )
    full = "4 x the range, then connect EADDRNOTAVAIL"
    assert found == {
        "2/S6": ("differs", full, ""),
        "5/S9b": ("same", "C -, S -; reads QUIT", ""),
        "6/R1": ("differs", "connect EADDRNOTAVAIL", ""),
        "6/R1-ts0": ("same", "connect EADDRNOTAVAIL", ""),
        "6/R5": ("same", "at once", ""),
    }
    assert f"2/S6: {full} here, on 6.18 it was no end. For Portside: " in sentences
    assert 'keep [close] to_server = "eof-reset"' in sentences


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tcp_no_such_thing": "1"}, "this kernel has no net.ipv4.tcp_no_such_thing"),
        (
            {"ip_local_port_range": "9 1"},
            "net.ipv4.ip_local_port_range cannot be set here: Invalid argument",
        ),
        # Nobody can connect: no port is left for an attempt.
        (
            {"ip_local_reserved_ports": "1-65535"},
            "its first connection failed: connect EADDRNOTAVAIL",
        ),
    ],
)
def test_what_cannot_be_measured_is_no_difference(place, settings, why):
    found, sentences = altered(place, settings, "5/S9b")
    assert found == {"5/S9b": ("not measured", "None", why)}
    assert sentences.strip() == ""


def test_without_a_tun_device_the_reason_is_said(place):
    subprocess.run(place.command("mount", "--bind", "/dev/null", "/dev/net/tun"), check=True)
    over_the_line = [fact for fact in FACTS if fact.delay]
    found, _ = altered(place, {}, *(fact.id for fact in over_the_line))
    why = "it needs /dev/net/tun: Inappropriate ioctl for device"
    missing = {key for key, row in found.items() if row == ("not measured", "None", why)}
    # What needs packets to cross or to be lost.
    assert missing == {
        *("5/A2", "5/S8c", "5/S9d", "5/S9d-now", "5/S10e", "5/T2"),
        *("6/R3b", "6/R3b-ts0", "6/R6", "6/R6-ts0"),
    }
    assert {row[0] for key, row in found.items() if key not in missing} == {"same"}, found


def test_no_time_waits_at_all_changes_what_a_close_leaves(place):
    found, _ = altered(place, {"tcp_max_tw_buckets": "0"}, "2/S1", "5/A", "5/S9a", "5/S9b")
    assert found["2/S1"][:2] == ("differs", "no end")
    assert found["5/A"][:2] == ("differs", "C -, S -; reads QUIT, EOF")
    assert found["5/S9a"][:2] == ("differs", "C -, S -; reads QUIT")
    assert found["5/S9b"][0] == "same"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_behind(place, how):
    process = place.start("--facts")
    wait_until(lambda: len(place.names()) == 3, timeout_s=20)
    process.send_signal(how)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "namespaces and processes are gone" in output and errors == ""
    assert place.is_clean()


@pytest.mark.timeout(100)
def test_a_user_without_root_measures_what_a_user_can(place, tmp_path):
    file = tmp_path / "facts.json"
    # Not root to itself and to the kernel's checks, but it may read root's files: a plain user.
    code, output, errors = place.lab(
        *("--facts", "--quick", "--json", str(file)),
        before=("unshare", "--user", "--map-user=1000", "--map-group=1000"),
    )
    assert code == 0, output + errors
    found = json.loads(file.read_text())
    assert found["left_out"] > 20 and "--quick left" in output.splitlines()[-1]
    rules = [row for row in found["facts"] if row["id"][0] not in MACHINE]
    assert [row for row in rules if row["verdict"] == "differs"] == []
    assert sum(row["verdict"] == "same" for row in rules) > 25, found["counts"]
    assert place.is_clean()


def test_no_namespaces_is_one_sentence(place):
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    code, output, errors = place.lab("--facts", before=without)
    assert (code, output) == (1, "")
    assert "root may not make network namespaces here (" in errors
    assert len(errors.splitlines()) == 1


def test_facts_and_the_lab_do_not_run_at_the_same_time(place):
    code, output, errors = place.lab("--facts", before=("flock", "/run/portside-lab.lock"))
    assert (code, output) == (1, "")
    assert "another portside lab runs on this machine" in errors
    assert place.names() == []
