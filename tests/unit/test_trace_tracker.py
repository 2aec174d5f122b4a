"""Who closes first: told packet by packet, as measured on the wire (facts of the close orders)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from portside.trace import report as reports
from portside.trace import words
from portside.trace.drawing import drawings
from portside.trace.report import Report
from portside.trace.segment import from_ip
from portside.trace.tracker import MOST_STEPS, Close, First, Tracker

from tests.support.packets import ACK, FIN, PSH, QUIT, RST, SYN, Talk, tcp


def seen(*talks: Talk, ports: tuple[int, ...] = (3306,), most_open: int = 100) -> Report:
    tracker = Tracker(ports, most_open)
    for time, data in sorted(packet for talk in talks for packet in talk.packets):
        segment = from_ip(data, time)
        assert segment is not None
        tracker.add(segment)
    return reports.make(tracker)


def the_close(talk: Talk) -> Close:
    [pair] = seen(talk).pairs
    [(close, count)] = pair.closes.items()
    assert count == 1
    return close


CLOSES: dict[str, tuple[Callable[[Talk], Talk], First, str, str]] = {
    "A stock client": (
        lambda t: t.quit().c(FIN | ACK).s(FIN | ACK).c(),
        First.CLIENT_FIN, "", "client",
    ),
    "A2 FINs cross": (
        lambda t: t.quit().c(FIN | ACK).s(FIN | ACK, late=True).c().s(),
        First.SIMULTANEOUS, "", "both",
    ),
    "A2 seen from the other end": (
        lambda t: t.quit().s(FIN | ACK).c(FIN | ACK, late=True).s().c(),
        First.SIMULTANEOUS, "", "both",
    ),
    "S8a QUIT and RST": (lambda t: t.quit().c(RST | ACK), First.CLIENT_RST, "", "nobody"),
    "S9a wait for the server": (
        lambda t: t.quit().s(FIN | ACK).c(FIN | ACK).s(),
        First.SERVER_FIN, "", "server",
    ),
    "S9b wait, then RST": (
        lambda t: t.quit().s(FIN | ACK).c(RST | ACK),
        First.SERVER_FIN, "client", "nobody",
    ),
    "S10c half close, then RST": (
        lambda t: t.quit().c(FIN | ACK).c(RST | ACK),
        First.CLIENT_FIN, "client", "nobody",
    ),
    "linger2: the FIN meets no socket": (
        lambda t: t.quit().c(FIN | ACK).s().s(FIN | ACK).c(RST, ack=False),
        First.CLIENT_FIN, "client", "nobody",
    ),
    "S11a RST after the client's FIN": (
        lambda t: t.quit().c(FIN | ACK).s(RST | ACK),
        First.CLIENT_FIN, "server", "nobody",
    ),
    "S11b RST before the client's FIN": (
        lambda t: t.quit().s(RST | ACK), First.SERVER_RST, "", "nobody",
    ),
    "QUIT and FIN in one segment": (
        lambda t: t.c(FIN | ACK | PSH, QUIT).s(FIN | ACK).c(),
        First.CLIENT_FIN, "", "client",
    ),
    "FIN sent again": (
        lambda t: t.quit().c(FIN | ACK).wait(0.3).s(FIN | ACK).wait(0.3).s(FIN | ACK).c(),
        First.CLIENT_FIN, "", "client",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSES)
@pytest.mark.parametrize("start", [1000, 2**32 - 3], ids=["", "numbers wrap"])
def test_closes(case: str, start: int):
    tell, first, reset_by, time_wait_at = CLOSES[case]
    close = the_close(tell(Talk(start=start).open().c(ACK | PSH, b"login")))
    assert close == Close(first, reset_by)
    assert close.time_wait_at == time_wait_at


def test_ipv6_and_counts_per_pair():
    six = Talk(client="fd00::7", server="fd00::11").open().quit().c(FIN | ACK).s(FIN | ACK).c()
    four = [Talk(client_port=40000 + n).open().quit().s(FIN | ACK).c(RST | ACK) for n in range(3)]
    report = seen(six, *four)
    assert [(p.client, p.server, p.ended) for p in report.pairs] == [
        ("10.0.1.7", "10.0.0.11:3306", 3),
        ("fd00::7", "[fd00::11]:3306", 1),
    ]
    assert report.pairs[0].resets("client") == 3 and report.pairs[0].time_waits("client") == 0
    assert report.pairs[1].time_waits("client") == 1 and report.open == 0


def test_the_arrows_of_the_article():
    talk = Talk().open().c(ACK | PSH, b"login").s(ACK | PSH, b"ok").quit().c(FIN | ACK)
    talk.s(FIN | ACK).c()
    [lines] = drawings(seen(talk))
    assert lines == [
        "10.0.1.7 port 50000 and 10.0.0.11:3306: client FIN (1 of 1 closes)",
        "                client ==>  QUIT   ==> server",
        "      +1.00 ms  client ==>   FIN   ==> server",
        "      +1.00 ms  client <== FIN ACK <== server",
        "      +1.00 ms  client ==>   ACK   ==> server",
        "                TIME_WAIT: stays at the client, with its source port, for 60 s",
    ]


def test_quit_is_the_last_bytes_or_none():
    lookalike = Talk().open().c(ACK | PSH, b"execute" + QUIT).s(ACK | PSH, b"row")
    lookalike.c(ACK | PSH, b"more").c(FIN | ACK).s(FIN | ACK)
    assert seen(lookalike).pairs[0].with_quit == 0
    # The kernel's filter lets no other payload through: the FIN's number tells.
    hidden = Talk().open().quit()
    hidden.c(ACK | PSH, b"more")
    hidden.packets.pop()
    hidden.c(FIN | ACK).s(FIN | ACK)
    assert seen(hidden).pairs[0].with_quit == 0
    pipelined = Talk().open().c(ACK | PSH, b"a query" + QUIT).s(FIN | ACK).c(RST | ACK)
    assert seen(pipelined).pairs[0].with_quit == 1


def test_a_query_that_is_sent_again_behind_the_quit_changes_nothing():
    talk = Talk().open().c(ACK | PSH, b"query")
    again = talk.packets[-1][1]
    talk.quit().packets.append((talk.now, again))
    talk.wait(0.001).c(FIN | ACK).s(FIN | ACK).c()
    assert seen(talk).pairs[0].with_quit == 1


def test_a_quit_of_the_server_is_none():
    talk = Talk().open().s(ACK | PSH, QUIT).c(FIN | ACK).s(FIN | ACK)
    assert seen(talk).pairs[0].with_quit == 0


def test_refused_and_probed_are_no_closes():
    refused = Talk(client_port=1).c(SYN, ack=False).s(RST | ACK)
    probed = Talk(client_port=2).c(SYN, ack=False).s(SYN | ACK).c(RST)
    [pair] = seen(refused, probed).pairs
    assert (pair.connections, pair.ended, pair.refused, pair.probes) == (2, 0, 1, 1)


def test_the_same_tuple_again_is_another_connection():
    first = Talk().open().quit().s(FIN | ACK).c(RST | ACK)
    again = Talk(start=5000, now=101.0).open().quit().s(FIN | ACK).c(RST | ACK)
    [pair] = seen(first, again).pairs
    assert pair.connections == 2 and pair.ended == 2


def test_a_syn_sent_again_is_not():
    talk = Talk().c(SYN, ack=False)
    talk.packets.append((101.0, talk.packets[0][1]))
    talk.now = 101.1
    assert seen(talk.s(SYN | ACK).c(ACK)).pairs[0].connections == 1


def test_what_comes_after_the_end_is_no_new_connection():
    talk = Talk().open().quit().s(FIN | ACK).c(RST | ACK).s(ACK).c(RST).c(RST)
    [pair] = seen(talk).pairs
    assert pair.connections == 1 and pair.closes == {Close(First.SERVER_FIN, "client"): 1}


def test_a_packet_seen_at_two_interfaces_counts_once():
    tracker = Tracker([3306])
    talk = Talk().open().quit().c(FIN | ACK).s(FIN | ACK).c()
    for time, data in talk.packets:
        for interface in (3, 5):
            segment = from_ip(data, time, interface)
            assert segment is not None
            tracker.add(segment)
    [pair] = reports.make(tracker).pairs
    assert pair.ended == 1 and len(pair.samples[Close(First.CLIENT_FIN)].steps) == 4


def test_begun_before_the_trace():
    with_quit = Talk(client_port=1).quit().c(FIN | ACK).s(FIN | ACK)
    early = Talk(client_port=2).c(FIN | ACK).s(FIN | ACK)
    late = Talk(client_port=3, now=105.0).s(FIN | ACK).c(RST | ACK)
    stray = Talk(client_port=4, now=106.0).c(ACK)
    report = seen(with_quit, early, late, stray)
    [pair] = report.pairs
    assert pair.unclear == 1
    assert pair.closes == {Close(First.CLIENT_FIN): 1, Close(First.SERVER_FIN, "client"): 1}
    assert any("may have been missed" in text for text in words.doubts(report))


def test_connections_are_bounded_and_the_forgotten_counted():
    talks = [Talk(client_port=1000 + n, now=100.0 + n).open() for n in range(30)]
    report = seen(*talks, most_open=10)
    assert report.open == 10 and report.forgotten == 20
    assert "20 open connections were forgotten" in " ".join(words.doubts(report))


def test_pairs_are_bounded():
    tracker = Tracker([3306])
    for n in range(5000):
        data = tcp(f"10.{n >> 8}.{n & 255}.1", 40000, "10.0.0.11", 3306, SYN, 7)
        segment = from_ip(data, 1.0)
        assert segment is not None
        tracker.add(segment)
    report = reports.make(tracker)
    assert len(report.pairs) == 4097
    [others] = [pair for pair in report.pairs if pair.client == "others"]
    assert others.connections == 5000 - 4096


def test_steps_are_bounded():
    talk = Talk().open().quit().c(FIN | ACK)
    for _ in range(50):
        talk.wait(1).s(ACK)
    talk.s(FIN | ACK)
    [pair] = seen(talk).pairs
    assert len(pair.samples[Close(First.CLIENT_FIN)].steps) == MOST_STEPS


def test_half_closed_is_said():
    half = Talk(client_port=1).open().quit().c(FIN | ACK)
    assert seen(half).half_closed == 0  # the answer is on its way
    report = seen(half, Talk(client_port=2, now=103.0).open())
    assert report.half_closed == 1 and report.open == 2 and report.ended == 0
    assert "1 of 2 open connections are closed by one side" in " ".join(words.remarks(report))


def test_a_client_with_a_servers_port_number():
    talk = Talk(client_port=3307).open().quit().c(FIN | ACK).s(FIN | ACK).c()
    [pair] = seen(talk, ports=(3306, 3307)).pairs
    assert pair.client == "10.0.1.7" and pair.closes == {Close(First.CLIENT_FIN): 1}


def test_other_ports_are_not_looked_at():
    assert seen(Talk(port=3307).open().quit().c(FIN | ACK)).packets == 0
