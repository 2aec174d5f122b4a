"""``portside doctor`` on namespaces that are really sick, and on hosts that let it see little."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from portside import doctor
from portside.doctor.finding import Finding, Severity

from tests.support import sick
from tests.support.namespace import Namespace
from tests.support.seccomp import without_sock_diag
from tests.support.waiting import wait_until

pytestmark = pytest.mark.netns

NARROW = {"ip_local_port_range": "40000 41999", "tcp_tw_reuse": "0"}
PORTSIDE = (sys.executable, "-m", "portside", "doctor")


@pytest.fixture
def small(namespace: Namespace) -> Namespace:
    """A host with 2,000 source ports, none of them reused."""
    namespace.inside(lambda: sick.sysctls(NARROW))
    return namespace


@pytest.fixture
def listener(namespace: Namespace) -> Iterator[socket.socket]:
    with namespace.inside(sick.listen) as made:
        yield made


def examine(place: Namespace) -> doctor.Report:
    return place.inside(lambda: doctor.examine(0))


def one(report: doctor.Report, check_id: str) -> Finding:
    """The one finding with that id."""
    (finding,) = [each for each in report.findings if each.id == check_id]
    return finding


def run(place: Namespace, *options: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [*place.prefix, *PORTSIDE, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)  # type: ignore[call-overload,no-any-return]


class TestSourcePorts:
    def test_past_the_cliff(self, small: Namespace, listener: socket.socket) -> None:
        small.inside(lambda: sick.close_first(listener, 1_020))
        report = examine(small)
        (pair,) = report.pairs
        assert (pair.name, pair.size) == ("127.0.0.1 -> 127.0.0.1:3306", 2_000)
        assert pair.time_wait == 1_020 == report.facts.counters["sockstat.tw"]
        assert pair.rate_s == 102
        assert report.verdict.startswith("CRITICAL: 127.0.0.1 -> 127.0.0.1:3306 has 1,0")
        assert (
            "of 2,000 source ports in TIME_WAIT (51 %): connect() is past the cliff; at 102/s"
            in (report.verdict)
        )
        assert report.verdict.endswith("the rest is gone in 10 s. This host closes first.")

    def test_none_left_and_the_settings_it_writes_cure_it(
        self, small: Namespace, listener: socket.socket, tmp_path: Path
    ) -> None:
        with pytest.raises(OSError, match="Cannot assign requested address"):
            small.inside(lambda: sick.close_first(listener, 2_100))
        ill = run(small)
        assert ill.returncode == 1
        assert "none is left, connect() fails with EADDRNOTAVAIL" in ill.stdout.splitlines()[0]
        settings = tmp_path / "90-doctor.conf"
        done = run(small, "--sysctl-file", str(settings))
        assert (done.returncode, done.stdout) == (
            0,
            f"written: {settings}; put in force with: sysctl -p {settings}\n",
        )
        small.inside(lambda: sick.sysctl_p(settings))
        small.inside(lambda: sick.close_first(listener, 100))
        well = run(small)
        assert (well.returncode, well.stderr) == (0, "")
        assert well.stdout.startswith("GOOD: ")

    def test_fail_on_and_json(self, small: Namespace, listener: socket.socket) -> None:
        small.inside(lambda: sick.close_first(listener, 200))
        assert run(small).returncode == 0
        done = run(small, "--fail-on", "warning", "--json")
        assert done.returncode == 1
        answer = json.loads(done.stdout)
        assert answer["severity"] == "warning" and answer["verdict"].startswith("WARNING: ")
        (pair,) = answer["pairs"]
        assert pair["closes_first"] == "this host" and pair["size"] == 2_000
        assert answer["findings"][0]["cures"][0]["danger"]

    def test_ports_that_a_program_binds_are_told_apart(
        self, small: Namespace, listener: socket.socket
    ) -> None:
        small.inside(lambda: sick.close_first(listener, 300, ("127.0.0.1", 12_000)))
        report = examine(small)
        assert "source ports itself: 300 sockets" in one(report, "explicit-ports").title
        assert report.pairs[0].used == 0
        assert report.facts.sockets and report.facts.sockets.flows[0].explicit == ()
        cure = one(report, "port-range").cures[0]
        # Nobody has them: they are no reason to reserve anything.
        assert cure.sysctls["net.ipv4.ip_local_reserved_ports"] == "3306"

    def test_ports_that_are_bound_are_kept_out_of_a_wider_range(
        self, small: Namespace, listener: socket.socket
    ) -> None:
        def bound(port: int) -> socket.socket:
            return socket.create_connection(listener.getsockname(), None, ("127.0.0.1", port))

        clients = small.inside(lambda: [bound(port) for port in (12_000, 12_009)])
        cure = one(examine(small), "port-range").cures[0]
        assert cure.sysctls["net.ipv4.ip_local_reserved_ports"] == "3306,12000-12009"
        assert cure.effect.startswith("63,965 ports remain, instead of 2,000: 1,066 connections/s")
        for client in clients:
            client.close()

    def test_ipv6_and_ipv4_of_a_dual_stack_program_share_what_they_share(
        self, small: Namespace, listener: socket.socket
    ) -> None:
        def connect() -> list[socket.socket]:
            dual = socket.socket(socket.AF_INET6)
            dual.connect(("::ffff:127.0.0.1", 3306))
            return [dual, socket.create_connection(("127.0.0.1", 3306))]

        clients = small.inside(connect)
        (pair,) = examine(small).pairs
        assert (pair.name, pair.open) == ("127.0.0.1 -> 127.0.0.1:3306", 2)
        for client in clients:
            client.close()
        with small.inside(lambda: sick.listen(("::1", 3307))) as six:
            small.inside(lambda: sick.close_first(six, 5))
            assert "::1 -> [::1]:3307" in {pair.name for pair in examine(small).pairs}

    def test_twenty_thousand_are_read_in_no_time(
        self, namespace: Namespace, listener: socket.socket
    ) -> None:
        wide = {"ip_local_port_range": "1025 65000", "tcp_tw_reuse": "0"}
        namespace.inside(lambda: sick.sysctls(wide))
        namespace.inside(lambda: sick.close_first(listener, 20_000))
        sockets = examine(namespace).facts.sockets
        assert sockets is not None and sockets.total > 19_000
        # 0.03 s on an idle machine; /proc/net/tcp would be read line by line.
        assert sockets.took_s < 1.0


def _with_retries(place: Namespace) -> doctor.Report | None:
    report = examine(place)
    assert report.facts.sockets is not None
    all_retried = sum(flow.retried for flow in report.facts.sockets.flows) == 15
    return report if all_retried else None


class TestStates:
    def test_a_leak_is_named_with_its_process(
        self, namespace: Namespace, listener: socket.socket
    ) -> None:
        clients = namespace.inside(lambda: sick.leak(listener, 60))
        finding = one(examine(namespace), "close-wait")
        assert finding.severity is Severity.WARNING
        assert "127.0.0.1 -> 127.0.0.1:3306: 60 sockets in CLOSE_WAIT" in finding.title
        assert f"(pid {os.getpid()}): 60 in CLOSE_WAIT" in finding.evidence[0]
        for client in clients:
            client.close()

    def test_a_program_that_closes_a_moment_later_is_no_leak(
        self, namespace: Namespace, listener: socket.socket
    ) -> None:
        clients = namespace.inside(lambda: sick.leak(listener, 80))
        stay, go = clients[:10], clients[10:]
        later = threading.Timer(0.5, lambda: [client.close() for client in go])
        later.start()
        report = namespace.inside(lambda: doctor.examine(2.0))
        later.join()
        assert report.facts.sockets is not None
        (flow,) = [each for each in report.facts.sockets.flows if not each.incoming]
        assert (flow.states["CLOSE-WAIT"], flow.closed_soon) == (80, 70)
        assert "close-wait" not in {each.id for each in report.findings}
        assert [each.close_wait for each in report.facts.processes if each.close_wait] == [10]
        for client in stay:
            client.close()

    def test_a_leak_lasts(self, namespace: Namespace, listener: socket.socket) -> None:
        clients = namespace.inside(lambda: sick.leak(listener, 60))
        report = namespace.inside(lambda: doctor.examine(0.1))
        assert ": 60 sockets in CLOSE_WAIT" in one(report, "close-wait").title
        for client in clients:
            client.close()

    def test_a_full_accept_queue_and_who_waits_before_it(self, namespace: Namespace) -> None:
        with namespace.inside(lambda: sick.listen(backlog=4)) as stuck:
            clients = namespace.inside(lambda: sick.knock(stuck, 20))
            report = wait_until(lambda: _with_retries(namespace), what="SYNs sent again")
            assert "is full, clients hang: 5 clients wait" in one(report, "accept-queue").title
            assert ":3306: 15 connects got no answer" in one(report, "unanswered").title
            assert report.severity is Severity.CRITICAL
            for client in clients:
                client.close()

    def test_a_listener_in_the_range(self, small: Namespace) -> None:
        with small.inside(lambda: sick.listen(("127.0.0.1", 41_000))):
            finding = one(examine(small), "listeners-in-range")
        assert "40000-41999: 41000 (" in finding.title
        assert finding.cures[0].sysctls == {"net.ipv4.ip_local_reserved_ports": "41000"}

    def test_half_open_connections(self, namespace: Namespace) -> None:
        with Namespace() as stranger:
            namespace.ip(
                *("link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns"), stranger.name
            )
            for place, device, address in ((namespace, "v0", "1"), (stranger, "v1", "2")):
                place.ip("address", "add", f"10.218.0.{address}/16", "dev", device)
                place.ip("link", "set", device, "up")
            namespace.inside(lambda: sick.sysctls({"tcp_syncookies": "0"}))
            with namespace.inside(lambda: sick.listen(("10.218.0.1", 3306), backlog=16)):
                flood = threading.Thread(
                    target=stranger.inside,
                    args=(lambda: sick.forge_syns(("10.218.0.1", 3306), 1.5),),
                )
                flood.start()
                report = namespace.inside(lambda: doctor.examine(1.0))
                flood.join()
        assert "SYNs were dropped while watching" in one(report, "syn-backlog").title

    def test_time_wait_limit(self, small: Namespace, listener: socket.socket) -> None:
        small.inside(lambda: sick.sysctls({"tcp_max_tw_buckets": "10"}))
        small.inside(lambda: sick.close_first(listener, 50))
        assert "10 TIME_WAITs of at most 10" in one(examine(small), "tw-buckets").title

    def test_time_waits_of_a_server(self, small: Namespace, listener: socket.socket) -> None:
        def server_closes_first() -> None:
            for _ in range(150):
                with socket.create_connection(listener.getsockname()) as client:
                    listener.accept()[0].close()
                    assert client.recv(1) == b""

        small.inside(server_closes_first)
        report = examine(small)
        assert "TIME_WAITs of clients of 127.0.0.1:3306" in one(report, "server-time-wait").title
        assert report.verdict.startswith("GOOD: ")

    @pytest.mark.parametrize(
        ("check_id", "key", "value"),
        [
            ("timestamps", "tcp_timestamps", "0"),
            ("rfc1337", "tcp_rfc1337", "1"),
            ("fin-timeout", "tcp_fin_timeout", "15"),
            ("tw-reuse", "tcp_tw_reuse", "0"),
            ("tw-reuse-delay", "tcp_tw_reuse_delay", "5"),
            ("port-range", "ip_local_port_range", "40000 41999"),
        ],
    )
    def test_settings(self, namespace: Namespace, check_id: str, key: str, value: str) -> None:
        if not Path("/proc/sys/net/ipv4", key).exists():
            pytest.skip(f"this kernel has no net.ipv4.{key}")
        calm = {"tcp_tw_reuse": "1", "ip_local_port_range": "1025 65000"}
        namespace.inside(lambda: sick.sysctls(calm))
        assert check_id not in {each.id for each in examine(namespace).findings}
        namespace.inside(lambda: sick.sysctls({key: value}))
        assert one(examine(namespace), check_id)

    def test_a_process_at_its_file_limit(self, namespace: Namespace) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", "h=[open('/dev/null') for _ in range(60)]; print(); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        ) as process:
            assert process.stdout and process.stdout.readline() == b"\n"
            findings = [each for each in examine(namespace).findings if each.id == "file-limit"]
            process.communicate(b"\n")
        assert any(f"(pid {process.pid}) has 63 of 64 files" in each.title for each in findings)


class TestWhatCannotBeSeen:
    def test_a_kernel_without_sock_diag(self, namespace: Namespace) -> None:
        done = run(namespace, preexec_fn=without_sock_diag)
        assert done.returncode == 1, done.stderr
        assert done.stdout.splitlines()[0] == (
            "UNKNOWN: this host cannot be judged without the socket table: sock_diag is not to be"
            " had: Protocol not supported; modprobe tcp_diag, where the kernel has it."
        )
