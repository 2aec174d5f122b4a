"""The pure parts of the lab: what is compared, what is refused, what is said and drawn."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import portside
import pytest
from portside.cli.lab import read_delay
from portside.lab import page, picture, report
from portside.lab.errors import LabError
from portside.lab.folder import clean_folders, lab_folder
from portside.lab.run import Result, Sample
from portside.lab.scale import FULL, QUICK, available_bytes, check_memory, needed_bytes
from portside.lab.strategies import STRATEGIES, By, Ports, choose, haproxy_cfg, portside_toml

KNOWN = {strategy.key: strategy for strategy in STRATEGIES}
ABOUT = report.About("portside lab --quick", "6.18.44", {"Portside": "0.1.0"}, "sink")
SVG = "{http://www.w3.org/2000/svg}"


def a_result(key: str, done: int = 1000, failed: int = 0, waits: int = 0) -> Result:
    errors = [{"kind": "local", "errno": 99, "text": "Cannot assign", "count": failed}]
    samples = [Sample(0.0, 0, 0, 0, 0), Sample(2.0, done, waits, waits, 0)]
    return Result(
        strategy=KNOWN[key],
        done=done,
        failed=failed,
        errors=errors if failed else [],
        seconds=2.0,
        p50_us=1500,
        p99_us=9000,
        samples=samples,
        aborted=0,
        cpu_us=None if key == "direct" else 97.4,
        path="TUN line",
        delay_us=250,
    )


def test_choose_keeps_the_order_of_the_table():
    assert [one.key for one in choose(["ours", "direct"], True)] == ["direct", "ours"]
    assert choose([], True) == list(STRATEGIES)


def test_choose_without_haproxy_leaves_it_out_unless_asked():
    assert all(one.by is not By.HAPROXY for one in choose([], False))
    with pytest.raises(LabError, match=r"^haproxy: haproxy is not installed: apt-get install"):
        choose(["haproxy"], False)


def test_choose_names_the_nearest_of_an_unknown_strategy():
    with pytest.raises(LabError) as caught:
        choose(["ours-oneport"], True)
    text = str(caught.value)
    assert text.startswith("unknown strategy 'ours-oneport': did you mean ours-one-port? known are")
    assert "\n" not in text and all(key in text for key in KNOWN)


@pytest.mark.parametrize("scale", [QUICK, FULL], ids=["quick", "full"])
@pytest.mark.parametrize("key", [k for k, s in KNOWN.items() if s.by is By.PORTSIDE])
def test_every_configuration_of_portside_is_accepted(key, scale):
    strategy = KNOWN[key]
    config = portside.loads(portside_toml(strategy, scale, Path("/tmp/x")))
    [server] = config.servers
    assert server.close.to_server == strategy.close
    assert len(server.source.ips) == strategy.addresses
    expected = {
        Ports.KERNEL: None,
        Ports.RING: scale.ring,
        Ports.ONE: (scale.ring[0], scale.ring[0]),
    }
    assert server.source.ports == expected[strategy.ports]


def test_haproxy_is_configured_as_the_article_does():
    plain = haproxy_cfg(KNOWN["haproxy"], FULL)
    assert "source" not in plain and "nolinger" not in plain and plain.count("server db1") == 1
    ranges = haproxy_cfg(KNOWN["haproxy-ports"], FULL)
    assert ranges.count("server db1") == 4 and "source 10.214.2.4:12000-56999" in ranges
    assert "option nolinger" in haproxy_cfg(KNOWN["haproxy-nolinger"], FULL)


def test_memory_is_refused_in_one_sentence():
    check_memory(FULL, needed_bytes(FULL))
    with pytest.raises(LabError) as caught:
        check_memory(FULL.sized(10_000_000, None), 1 << 30)
    text = str(caught.value)
    assert "too little memory: 10,000,000 connections" in text
    assert "1,024 MiB can be had" in text and "--connections" in text


def test_memory_that_a_control_group_takes_away_does_not_count(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   8000 kB\n")
    assert available_bytes(tmp_path, tmp_path) == 8000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1024\n")
    assert available_bytes(tmp_path, tmp_path) == 8000 * 1024
    (tmp_path / "memory.max").write_text("5120\n")
    assert available_bytes(tmp_path, tmp_path) == 4096


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("none", 0), ("250us", 250), ("2ms", 2000)]
)
def test_delay_is_read(text, expected):
    assert read_delay(text) == expected


@pytest.mark.parametrize("text", ["0us", "250", "1s", "-1ms", "1001ms", "2 ms", ""])
def test_other_delays_are_refused_with_the_form(text):
    with pytest.raises(LabError, match='expected "none", or 1us to 1000ms'):
        read_delay(text)


def test_the_sentences_say_what_was_measured():
    results = [
        a_result("direct", 1000, 90, 1000),
        a_result("haproxy", 1000, 70, 1000),
        a_result("naive-4-ledger", 6000, 0, 4000),
        a_result("ours", 6000),
        a_result("ours-one-port", 3000),
    ]
    wall, more, ours = report.sentences(results, QUICK)
    assert "stopped for want of ports: direct, no proxy after 1,000, HAProxy after 1,000." in wall
    assert "kept 4,000 TIME_WAITs" in more
    assert "no TIME_WAIT on any host over 9,000 connections, none failed, none aborted" in ours
    assert "3,000 of them went over one single source port" in ours and "in 2.0 s" in ours


def test_the_sentences_do_not_hide_a_bad_run():
    bad = replace(a_result("ours", 500, 20, 31), aborted=7)
    wall, more, ours = report.sentences([a_result("haproxy", 700, 0, 700), bad], QUICK)
    assert "short of the wall when time was up: HAProxy at 700" in wall
    assert "was not shown" in more
    assert "at most 31 TIME_WAITs on a host over 500 connections, 20 failed, 7 aborted" in ours


def test_failures_carry_the_name_of_their_errno():
    assert report.failure_text(a_result("direct", failed=12)) == "12 EADDRNOTAVAIL"
    assert report.failure_text(a_result("direct")) == "0"
    refused = replace(
        a_result("naive", failed=3),
        errors=[{"kind": "server", "errno": 1041, "text": "", "count": 3}],
    )
    assert report.failure_text(refused) == "3 ERR 1041"


@pytest.mark.parametrize("keys", [[], ["ours"], list(KNOWN)], ids=["none", "one", "all"])
@pytest.mark.parametrize("scale", [QUICK, FULL], ids=["quick", "full"])
def test_picture_is_well_formed_and_its_labels_do_not_overlap(keys, scale):
    results = [a_result(key, 1000, 5, 1000 if key.startswith("haproxy") else 0) for key in keys]
    root = ElementTree.fromstring(picture.svg(results, scale, ABOUT))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert any("Linux 6.18.44; Portside 0.1.0; portside lab --quick" in text for text in texts)
    assert len(list(root.iter(f"{SVG}polyline"))) == len(
        {"direct", "haproxy", "haproxy-source", "haproxy-ports", "ours", "ours-one-port"} & {*keys}
    )
    names = [e for e in root.iter(f"{SVG}text") if e.get("font-weight") == "bold"][:-1]
    heights = sorted(float(element.get("y")) for element in names)
    assert all(low - high >= 33 for high, low in pairwise(heights))
    assert all(float(element.get("y")) < 600 for element in root.iter(f"{SVG}text"))


def test_page_needs_nothing_from_elsewhere_and_escapes():
    about = replace(ABOUT, command="portside lab <script>")
    text = page.html([a_result("direct", failed=2), a_result("ours")], QUICK, about)
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "2 EADDRNOTAVAIL" in text and text.count("<tr") == 3


def test_json_has_one_object_per_strategy():
    found = report.as_json([a_result("direct", 900, 3, 900)], QUICK, ABOUT)
    [one] = found["strategies"]
    assert one["key"] == "direct" and one["failed"] == 3 and one["cpu_us"] is None
    assert one["time_wait_peak"] == {"web": 900, "proxy": 900, "db": 0}
    assert len(one["samples"]) == 2 and len(found["sentences"]) == 3


def test_clean_spares_the_folder_of_a_lab_that_runs(tmp_path, monkeypatch):
    """Also one with another /run, whose namespaces and lock this one does not see."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "portside-lab-dead"
    left.mkdir()
    (tmp_path / "portside-lab-link").symlink_to(left)
    with lab_folder() as running:
        assert clean_folders() == [left]
        assert running.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["portside-lab-link"]
