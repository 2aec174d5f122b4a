"""``portside trace`` on a real packet socket, and on files that real tools wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from portside.trace.live import LiveTrace
from portside.trace.segment import Segment, from_ip

from tests.support.lab import Load, Sink
from tests.support.namespace import Namespace
from tests.support.packets import ACK, FIN, QUIT, RST, SYN, tcp
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a packet socket"),
]

COMMAND = (sys.executable, "-m", "portside", "trace")


@pytest.fixture
def place() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def run(
    place: Namespace, *arguments: str, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*place.prefix, *before, *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


class LateServer:
    """Closes each connection when the client has, so that the client's FIN is always first."""

    def __init__(self, ip: str) -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._listener = socket.create_server((ip, 0), family=family, backlog=64)
        self.address = self._listener.getsockname()[:2]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                while client.recv(64):
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def late(request: pytest.FixtureRequest, place: Namespace) -> Iterator[LateServer]:
    with closing(place.inside(lambda: LateServer(request.param))) as server:
        yield server


def say_quit_and_close(address: tuple[str, int], times: int) -> None:
    for _ in range(times):
        with socket.create_connection(address) as client:
            client.sendall(QUIT)


@contextmanager
def started(command: Sequence[str], ready: str) -> Iterator[subprocess.Popen[str]]:
    """A program that says on standard error when it captures; ended when the block is left."""
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert program.stderr is not None
        said = next((line for line in program.stderr if ready in line), None)
        assert said, f"{command[0]} ended"
        yield program
    finally:
        program.kill()
        program.communicate()


def traced(place: Namespace, port: int, *arguments: str, load: Callable[[], Any]) -> dict[str, Any]:
    """What a trace says of a load; it is ended by Ctrl-C."""
    command = [*place.prefix, *COMMAND, "--port", str(port), "--for", "60s", "--json", *arguments]
    with started(command, "Watching port") as watching:
        place.inside(load)
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=15)
    assert watching.returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize("arguments", [(), ("--interface", "lo")], ids=["all", "lo"])
def test_every_close_is_counted_once(
    place: Namespace, late: LateServer, arguments: tuple[str, ...]
):
    ip, port = late.address
    answer = traced(place, port, *arguments, load=lambda: say_quit_and_close((ip, port), 300))
    [pair] = answer["pairs"]
    assert pair["client"] == ip and pair["server"].endswith(f":{port}")
    assert answer["dropped"] == 0 and answer["open"] == 0
    assert pair["closes"] == pair["with_quit"] == 300
    assert pair["first"]["client_fin"]["count"] == pair["time_wait"]["client"] == 300
    assert pair["ways"][0]["sample"][0]["what"].startswith("QUIT")


def test_the_client_that_waits_leaves_it_to_the_server(place: Namespace):
    sink = place.inside(lambda: Sink(listen=["127.0.0.1:0"], close="first"))
    plan = {"connections": 300, "concurrency": 4, "close": "wait"}
    port = int(sink.address.rpartition(":")[2])
    answer = traced(place, port, load=lambda: Load(sink.address, **plan).wait())
    [pair] = answer["pairs"]
    assert pair["first"]["server_fin"]["count"] == pair["closes"] == 300
    assert pair["time_wait"]["client"] == 0


def test_no_rights_no_interface_no_traffic(place: Namespace):
    told = run(place, before=("setpriv", "--bounding-set=-net_raw", "--inh-caps=-all"))
    assert told.returncode == 1 and told.stdout == ""
    assert told.stderr.splitlines()[-1].startswith(
        "portside: capturing packets needs root or CAP_NET_RAW: sudo portside trace, or tcpdump"
    )
    told = run(place, "--interface", "eth9")
    assert told.returncode == 1
    assert 'there is no interface "eth9" here; there are lo' in told.stderr
    told = run(place, "--for", "200ms")
    assert told.returncode == 1 and "No packet to or from TCP port 3306" in told.stdout


A, B = ("127.0.0.1", 40000), ("127.0.0.1", 3306)
UDP = bytearray(tcp(*A, *B, SYN))
UDP[9] = 17
LATER_FRAGMENT = bytearray(tcp(*A, *B, SYN))
LATER_FRAGMENT[7] = 5
PASSES: dict[str, tuple[bytes, bool]] = {
    "SYN": (tcp(*A, *B, SYN), True),
    "of the server": (tcp(*B, *A, SYN | ACK), True),
    "second port": (tcp("127.0.0.1", 40000, "127.0.0.1", 3307, SYN), True),
    "other port": (tcp("127.0.0.1", 40000, "127.0.0.1", 3308, SYN), False),
    "bare ACK": (tcp(*A, *B, ACK), True),
    "with TCP options": (tcp(*A, *B, ACK, 5, options=bytes(12)), True),
    "FIN with payload": (tcp(*A, *B, FIN | ACK, payload=b"abc"), True),
    "RST": (tcp(*A, *B, RST), True),
    "QUIT": (tcp(*A, *B, ACK, payload=QUIT), True),
    "QUIT behind a query": (tcp(*A, *B, ACK, payload=bytes(1000) + QUIT, options=bytes(12)), True),
    "QUIT in the middle": (tcp(*A, *B, ACK, payload=QUIT + b"x"), False),
    "short payload": (tcp(*A, *B, ACK, payload=b"abcd"), False),
    "IPv6 SYN": (tcp("::1", 40000, "::1", 3306, SYN), True),
    "IPv6 QUIT": (tcp("::1", 40000, "::1", 3306, ACK, payload=b"query" + QUIT), True),
    "IPv6 query": (tcp("::1", 40000, "::1", 3306, ACK, payload=b"query"), False),
    "UDP": (bytes(UDP), False),
    "later fragment": (bytes(LATER_FRAGMENT), False),
    "garbage": (b"\x45", False),
}


def test_what_the_kernel_lets_through(place: Namespace):
    """Each packet once, with its QUIT; the last one proves that all before were looked at."""
    last = tcp("127.0.0.1", 40001, "127.0.0.1", 3306, SYN, 4711)

    def send_and_see() -> list[Segment]:
        seen: list[Segment] = []
        with (
            LiveTrace([3306, 3307]) as live,
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender,
        ):
            for packet in [*(packet for packet, _ in PASSES.values()), last]:
                kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
                sender.sendto(packet, ("lo", kind))
            # The kernel answers some of them, from the server's port: not what is asked here.
            while not any(s.sequence == 4711 for s in seen):
                seen += live.segments(1.0)
            live.count()
            assert live.dropped == 0 and live.seen >= len(seen)
        return seen

    seen = place.inside(send_and_see)
    for name, (packet, passes) in PASSES.items():
        wanted = from_ip(packet, 0.0)
        found = [s for s in seen if wanted and s[1:-1] == wanted[1:-1]]
        assert len(found) == (1 if passes else 0), name


WRITERS = {
    "tcpdump, loopback": ("tcpdump", "-U", "-i", "lo", "-w"),
    "tcpdump, any": ("tcpdump", "-U", "-i", "any", "-w"),
    "tcpdump, any, cooked v1": ("tcpdump", "-U", "-i", "any", "-y", "LINUX_SLL", "-w"),
    "tcpdump, nanoseconds": ("tcpdump", "-U", "-i", "lo", "--time-stamp-precision=nano", "-w"),
    "dumpcap, pcapng": ("dumpcap", "-q", "-i", "lo", "-w"),
    "dumpcap, pcapng, any": ("dumpcap", "-q", "-i", "any", "-w"),
}
READY = {"tcpdump": "listening on", "dumpcap": "File:"}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("late", ["127.0.0.1"], indirect=True)
def test_files_of_real_tools(place: Namespace, late: LateServer, writer: str, tmp_path: Path):
    command = WRITERS[writer]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    tmp_path.chmod(0o777)  # both tools may give up root before they write
    file = tmp_path / "made.pcap"

    def read() -> dict[str, Any]:
        told = run(place, "--read", str(file), "--port", str(late.address[1]), "--json")
        assert told.returncode in (0, 1), told.stderr
        return json.loads(told.stdout)

    with started([*place.prefix, *command, str(file)], READY[command[0]]) as writing:
        place.inside(lambda: say_quit_and_close(late.address, 50))
        wait_until(lambda: read()["closes"] == 50, timeout_s=15)
        writing.send_signal(signal.SIGINT)
        writing.communicate(timeout=15)
    answer = read()
    [pair] = answer["pairs"]
    assert answer["doubts"] == []
    assert pair["first"]["client_fin"]["count"] == pair["closes"] == pair["with_quit"] == 50
