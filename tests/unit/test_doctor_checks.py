"""Each check on recorded hosts, changed in the one thing that the check is about.

The recordings are three namespaces (web, proxy with HAProxy 2.6, db) under a PHP-like load, Linux
6.18: the facts of ``portside doctor --ssh web,proxy,db --json``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from portside import doctor
from portside.doctor import checks
from portside.doctor.facts import Database, Facts, Flow, Listener, Process, read
from portside.doctor.finding import Finding, Severity

RECORDED = Path(__file__).parent / "recorded"
NOW = (300,) * 10 + (0,) * 50


def recorded(host: str) -> Facts:
    return read(json.loads((RECORDED / f"doctor-{host}.json").read_text()))


def host(*flows: Flow, listeners: tuple[Listener, ...] = (), **changes: object) -> Facts:
    """The recorded database host, on which nothing is wrong, with another socket table."""
    quiet = recorded("db")
    assert quiet.sockets is not None
    table = replace(quiet.sockets, flows=flows, listeners=listeners)
    return replace(quiet, **{"sockets": table, **changes})  # type: ignore[arg-type]


def sysctls(facts: Facts, **values: str) -> Facts:
    """With net.ipv4 settings changed; "-" takes one away."""
    new = {f"net.ipv4.{key}": value for key, value in values.items()}
    merged = {**facts.sysctls, **new}
    return replace(facts, sysctls={key: value for key, value in merged.items() if value != "-"})


def found(facts: Facts, check_id: str) -> list[Finding]:
    """What the checks say under that id; each has words for a person."""
    findings = [each for check in checks.ALL for each in check(facts) if each.id == check_id]
    for each in findings:
        assert each.title and not each.title.endswith(".")
        assert all(cure.action and cure.effect and cure.danger for cure in each.cures)
        assert each.source
    return findings


def outgoing(ages: tuple[int, ...] = NOW, **states: int) -> Flow:
    waiting = sum(ages)
    others = {name.replace("_", "-"): count for name, count in states.items()}
    total = waiting + sum(states.values())
    return Flow("10.0.0.7", "10.0.0.11:3306", False, {"TIME-WAIT": waiting, **others}, total, ages)


CRITICAL, WARNING, NOTICE = Severity


class TestSourcePorts:
    def test_the_recorded_web_server_is_past_the_cliff(self) -> None:
        (finding,) = found(recorded("web"), "source-ports")
        assert finding.severity is CRITICAL and finding.left_s == 0
        assert finding.title.startswith(
            "10.215.1.7 -> 10.215.1.1:3306 has 15,211 of 28,232 source ports in TIME_WAIT (54 %):"
            " connect() is past the cliff; at 330/s it stays at about"
        )
        assert finding.title.endswith("This host closes first")
        assert "330 connections/s over the last 10 s" in finding.evidence[1]
        assert "measured on Linux 6.18" in finding.evidence[2]

    def test_the_recorded_proxy_has_seconds_left(self) -> None:
        (finding,) = found(recorded("proxy"), "source-ports")
        assert finding.severity is WARNING and finding.left_s == 5
        assert "connect() reaches the cliff at half of them in 5 s" in finding.title

    @pytest.mark.parametrize(
        ("flow", "severity", "words"),
        [
            (outgoing((1000,) * 29), CRITICAL, "none is left, connect() fails with EADDRNOTAVAIL"),
            (outgoing((470,) * 30), WARNING, "cliff at half of them in 1 s"),
            (outgoing((470,) * 31), CRITICAL, "past the cliff; at 470/s it stays at about 28,200"),
            (outgoing((480,) * 30), CRITICAL, "past the cliff; at 480/s the rest is gone in 29 s"),
            (outgoing((600,) * 10), CRITICAL, "at 600/s the rest is gone in 38 s"),
            (outgoing((0,) * 50 + (1100,) * 10), WARNING, "at 0/s it settles at about 0"),
            (outgoing((0,) * 60, ESTAB=28_232), CRITICAL, "in use (100 %): none is left"),
            (outgoing((0,) * 30 + (480,) * 30), CRITICAL, "at 0/s it falls to about 0 ports"),
            (outgoing((200,) * 10), None, ""),
            (outgoing(()), None, ""),
        ],
    )
    def test_severity_and_time(self, flow: Flow, severity: Severity | None, words: str) -> None:
        findings = found(host(flow), "source-ports")
        assert [each.severity for each in findings] == ([severity] if severity else [])
        assert not findings or words in findings[0].title

    def test_with_reuse_only_what_is_not_in_time_wait_counts(self) -> None:
        full = outgoing((1000,) * 28)
        assert found(sysctls(host(full), tcp_tw_reuse="1"), "source-ports") == []
        busy = sysctls(host(outgoing((200,) * 60, ESTAB=14_200)), tcp_tw_reuse="1")
        (finding,) = found(busy, "source-ports")
        assert "has 14,200 of 28,232 source ports in use (50 %): connect() is past" in finding.title
        without = sysctls(host(full), tcp_tw_reuse="1", tcp_timestamps="0")
        assert found(without, "source-ports")[0].severity is CRITICAL
        assert found(sysctls(host(full), tcp_tw_reuse="2"), "source-ports") != []
        local = replace(full, theirs="127.0.0.1:3306")
        assert found(sysctls(host(local), tcp_tw_reuse="2"), "source-ports") == []

    def test_an_old_kernel_has_no_cliff(self) -> None:
        old = host(outgoing((470,) * 31), kernel="3.10.0-1160.el7.x86_64")
        (finding,) = found(old, "source-ports")
        assert "cliff" not in finding.title + " ".join(finding.evidence)
        assert finding.severity is WARNING

    def test_reserved_ports_are_no_source_ports(self) -> None:
        narrow = sysctls(host(outgoing()), ip_local_reserved_ports="32768-59999,70")
        (finding,) = found(narrow, "source-ports")
        assert "of 1,000 source ports" in finding.title

    def test_the_articles_advice_is_there_in_the_order_to_try_it(self) -> None:
        (finding,) = found(host(outgoing((480,) * 30)), "source-ports")
        actions = [cure.action for cure in finding.cures]
        words = ("tcp_tw_reuse=1", "1025-65000", "Portside", "persistent", "source addresses")
        words += ("memcached", "nolinger")
        assert [word for word, text in zip(words, actions, strict=True) if word in text] == list(
            words
        )
        local = replace(outgoing((480,) * 30), theirs="10.0.0.7:3306")
        assert "unix socket" in found(host(local), "source-ports")[0].cures[2].action


def listener(queued: int, backlog: int = 128, port: int = 3306) -> Listener:
    return Listener("0.0.0.0", port, queued, backlog, "mariadbd")


def test_a_longer_queue_is_what_is_missing() -> None:
    for now, words in (
        ("128", "net.core.somaxconn = 4096, and the program's own backlog"),
        (
            "4096",
            "Longer queues: the program's own backlog (MySQL back_log, HAProxy backlog), then",
        ),
    ):
        facts = host(listeners=(listener(128),))
        facts = replace(facts, sysctls={**facts.sysctls, "net.core.somaxconn": now})
        assert words in found(facts, "accept-queue")[0].cures[1].action


def closing(state: str, count: int, incoming: bool = False) -> Flow:
    ours = "10.0.0.7:3306" if incoming else "10.0.0.7"
    theirs = "10.0.0.9" if incoming else "10.0.0.11:3306"
    return Flow(ours, theirs, incoming, {state: count}, 0 if incoming else count)


def leaker(close_wait: int, files: int, limit: int = 1024) -> Process:
    return Process("php-fpm", 4711, files, limit, close_wait)


NF = "net.netfilter.nf_conntrack_"
BASE = recorded("db")
TABLE = [
    ("accept-queue", host(listeners=(listener(128),)), CRITICAL, "(mariadbd) is full, clients"),
    ("accept-queue", host(listeners=(listener(100),)), WARNING, "100 clients wait for accept()"),
    ("accept-queue", host(listeners=(listener(10),)), None, ""),
    ("listen-overflows", host(fresh={"ListenOverflows": 3}, counters={"ListenOverflows": 9},
                              window_s=1.0), CRITICAL, "turned clients away: 3 in 1 s"),
    ("listen-overflows", host(counters={"ListenOverflows": 9}), NOTICE, "9 since the boot"),
    ("somaxconn", replace(BASE, sysctls={"net.core.somaxconn": "128"}), NOTICE, "is 128"),
    ("unanswered", host(replace(closing("SYN-SENT", 10), retried=5)), CRITICAL, "5 conn"),
    ("unanswered", host(replace(closing("SYN-SENT", 900), retried=4)), None, ""),
    ("file-limit", host(processes=(leaker(0, 1000),)), CRITICAL, "php-fpm (pid 4711) has 1,000"),
    ("file-limit", host(processes=(leaker(0, 850),)), WARNING, "850 of 1,024 files open (83 %)"),
    ("file-limit", host(processes=(leaker(0, 700),)), None, ""),
    ("file-max", replace(BASE, sysctls={"fs.file-nr": "99 0 100", "fs.file-max": "100"}), CRITICAL,
     "the host has 99 of 100 files open"),
    ("conntrack", replace(BASE, sysctls={NF + "max": "1000", NF + "count": "960"}), CRITICAL,
     "960 of 1,000 (96 %): it drops"),
    ("conntrack", replace(BASE, sysctls={NF + "max": "1000", NF + "count": "750"}), WARNING,
     "when full it drops"),
    ("conntrack", replace(BASE, sysctls={NF + "max": "1000", NF + "count": "1"}), None, ""),
    ("conntrack", replace(BASE, sysctls={}), None, ""),
    ("mysql-unreachable", host(database=Database("db1:3306", "", {}, {}, {}, unreachable="timed"
     " out")), CRITICAL, "db1:3306 gave no counters: timed out"),
    ("close-wait", host(closing("CLOSE-WAIT", 50), processes=(leaker(50, 90),)), WARNING,
     "10.0.0.11:3306: 50 sockets in CLOSE_WAIT, the other side has closed and php-fpm"),
    ("close-wait", host(closing("CLOSE-WAIT", 600, True), processes=(leaker(600, 700),)), CRITICAL,
     "clients of 10.0.0.7:3306: 600 sockets"),
    ("close-wait", host(closing("CLOSE-WAIT", 49)), None, ""),
    ("close-wait", host(replace(closing("CLOSE-WAIT", 300), closed_soon=251)), None, ""),
    ("close-wait", host(replace(closing("CLOSE-WAIT", 300), closed_soon=250)), WARNING, " 50 so"),
    ("close-wait", host(closing("CLOSE-WAIT", 50), closing("ESTAB", 951)), None, ""),
    ("tw-recycle", sysctls(host(kernel="3.10.0"), tcp_tw_recycle="1"), CRITICAL, "one NAT"),
    ("tw-recycle", sysctls(host(kernel="3.10.0"), tcp_tw_recycle="0"), None, ""),
    ("tw-recycle", host(kernel="4.9.0"), None, ""),
    ("tw-recycle", host(), NOTICE, "Linux 4.12 removed it"),
    ("timestamps", sysctls(BASE, tcp_timestamps="0"), WARNING, "tcp_timestamps is off"),
    ("timestamps", BASE, None, ""),
    ("tw-reuse", sysctls(BASE, tcp_tw_reuse="0"), NOTICE, "is off"),
    ("tw-reuse", sysctls(BASE, tcp_tw_reuse="2"), NOTICE, "loopback only"),
    ("tw-reuse", sysctls(BASE, tcp_tw_reuse="1"), None, ""),
    ("tw-reuse-delay", sysctls(BASE, tcp_tw_reuse="1", tcp_tw_reuse_delay="1"), NOTICE, "1 ms"),
    ("tw-reuse-delay", sysctls(BASE, tcp_tw_reuse="1"), None, ""),
    ("port-range", BASE, NOTICE, "28,232 source ports: 471 connections/s"),
    ("port-range", sysctls(BASE, ip_local_port_range="1025 65000"), None, ""),
    ("port-range", sysctls(BASE, ip_local_reserved_ports="1025-32000"), NOTICE, "28,232 source"),
    ("listeners-in-range", host(listeners=(listener(0, port=33060),)), NOTICE, "33060 (mariadbd)"),
    ("listeners-in-range", host(outgoing(), listeners=(listener(0, port=33060),)), WARNING, "33"),
    ("listeners-in-range", sysctls(host(listeners=(listener(0, port=33060),)),
                                   ip_local_reserved_ports="33060"), None, ""),
    ("explicit-ports", host(replace(closing("TIME-WAIT", 300), in_range=0, explicit=(2000, 2299))),
     NOTICE, "300 sockets 10.0.0.7 -> 10.0.0.11:3306"),
    ("explicit-ports", host(outgoing()), None, ""),
    ("tw-buckets", sysctls(host(counters={"sockstat.tw": 1000}), tcp_max_tw_buckets="1000"),
     WARNING, "1,000 TIME_WAITs of at most 1,000"),
    ("tw-buckets", sysctls(host(), tcp_max_tw_buckets="0"), NOTICE, "at most 0"),
    ("tw-buckets", host(counters={"sockstat.tw": 1000}), None, ""),
    ("syn-backlog", host(fresh={"TCPReqQFullDrop": 7}), CRITICAL, "7 SYNs were dropped"),
    ("syn-backlog", host(closing("SYN-RECV", 90, True), fresh={"TCPReqQFullDoCookies": 3}), WARNING,
     "90 connections are half open, and 3 were sent SYN cookies"),
    ("syn-backlog", host(), None, ""),
    ("tcp-memory", sysctls(host(counters={"sockstat.mem": 99}), tcp_mem="10 20 100"), CRITICAL,
     "99 pages of at most 100"),
    ("tcp-memory", sysctls(host(counters={"sockstat.mem": 30}), tcp_mem="10 20 100"), WARNING, ""),
    ("tcp-memory", sysctls(host(counters={"sockstat.mem": 5}), tcp_mem="10 20 100"), None, ""),
    ("server-time-wait", host(closing("TIME-WAIT", 6000, True)), NOTICE, "6,000 TIME_WAITs of"),
    ("server-time-wait", host(closing("TIME-WAIT", 99, True)), None, ""),
    ("fin-wait-2", host(closing("FIN-WAIT-2", 1000)), WARNING, "a FIN that does not come"),
    ("fin-timeout", sysctls(BASE, tcp_fin_timeout="15"), NOTICE, "not TIME_WAIT, which is 60 s"),
    ("fin-timeout", BASE, None, ""),
    ("rfc1337", sysctls(BASE, tcp_rfc1337="1"), NOTICE, "each lasts its 60 s"),
    ("rfc1337", BASE, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("check_id", "facts", "severity", "words"), TABLE)
def test_check(check_id: str, facts: Facts, severity: Severity | None, words: str) -> None:
    findings = found(facts, check_id)
    assert [each.severity for each in findings] == ([severity] if severity else [])
    assert not findings or words in findings[0].title


def test_widening_keeps_off_listeners_and_what_a_proxy_binds() -> None:
    proxy = replace(closing("ESTAB", 3), in_range=0, explicit=(12000, 12002))
    facts = sysctls(host(proxy, listeners=(listener(0),)), ip_local_reserved_ports="5000")
    (finding,) = found(facts, "port-range")
    assert finding.cures[0].sysctls == {
        "net.ipv4.ip_local_port_range": "1025 65000",
        "net.ipv4.ip_local_reserved_ports": "3306,5000,12000-12002",
    }


class TestDatabase:
    def server(self, **changes: object) -> Facts:
        quiet = Database(
            address="10.0.0.11:3306",
            version="10.11.19-MariaDB",
            variables={"max_connections": "150", "max_connect_errors": "100"},
            status={"Threads_connected": 20, "Max_used_connections": 30, "Connections": 1000},
            fresh={},
        )
        return replace(BASE, database=replace(quiet, **changes))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("check_id", "changes", "severity", "words"),
        [
            ("mysql-connections", {"status": {"Threads_connected": 150}}, CRITICAL, "(1040)"),
            ("mysql-connections", {"status": {"Threads_connected": 130}}, WARNING, "130 of max"),
            ("mysql-connections", {"status": {"Threads_connected": 1, "Max_used_connections": 151}},
             NOTICE, "1 now, 151 at the peak"),
            ("mysql-connections", {}, None, ""),
            ("mysql-connection-errors", {"status": {"Connection_errors_max_connections": 4},
              "fresh": {"Connection_errors_max_connections": 2}}, CRITICAL, "2 while watching, 4"),
            ("mysql-connection-errors", {"status": {"Connection_errors_accept": 4}}, NOTICE, "4"),
            ("mysql-aborted-clients", {"status": {"Aborted_clients": 10, "Connections": 100},
              "fresh": {"Aborted_clients": 3}}, WARNING, "10.0 % of all; 3 while watching"),
            ("mysql-aborted-connects", {"status": {"Aborted_connects": 5}}, NOTICE, "login"),
            ("mysql-aborted-clients", {}, None, ""),
            ("mysql-host-blocked", {"hosts": (("10.0.0.5", 100), ("10.0.0.6", 99))}, CRITICAL,
             "refuses 10.0.0.5 (1129)"),
            ("mysql-refused", {"refused": "1040 Too many connections"}, CRITICAL, "Too many"),
        ],
    )  # fmt: skip
    def test_check(
        self, check_id: str, changes: dict[str, object], severity: Severity | None, words: str
    ) -> None:
        findings = found(self.server(**changes), check_id)
        assert [each.severity for each in findings] == ([severity] if severity else [])
        assert not findings or words in findings[0].title


def test_every_check_has_a_case() -> None:
    cased = {row[0] for row in TABLE}
    modules = {check.__module__.rpartition(".")[2].replace("_", "-") for check in checks.ALL}
    # Those whose file is not called as their id have cases above, too.
    others = {"source-ports", "database", "file-limits"}
    assert modules - cased == others


def test_the_worst_comes_first_and_is_the_verdict() -> None:
    slow, fast = outgoing((480,) * 30), replace(outgoing((600,) * 25), theirs="10.0.0.12:3306")
    report = doctor.diagnose(sysctls(host(slow, fast), tcp_timestamps="0"))
    severities = [each.severity.rank for each in report.findings]
    assert severities == sorted(severities)
    assert report.verdict.startswith("CRITICAL: 10.0.0.7 -> 10.0.0.12:3306 has 15,000 of 28,232")
