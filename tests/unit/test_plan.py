"""The article's numbers, and what the plan makes of a load, a configuration and an instance."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import portside
import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.cli import run_command
from portside.errors import PortsideError
from portside.plan import (
    Chooser,
    PlanError,
    Situation,
    ToServer,
    Verdict,
    arithmetic,
    configured,
    work_out,
)
from portside.plan.host import Kernel, read_kernel
from portside.plan.instance import _config, measured

ROOT = Path(__file__).parents[2]
ARTICLE = Situation(ports=64_000, time_wait_s=120)
WILLY = Situation(ports=28_232, time_wait_s=60)
WIDE = Situation(ports=63_976)


def value(key: str, **changed: object) -> float:
    return work_out(replace(WILLY, **changed)).figure(key).value  # type: ignore[arg-type]


class TestTheArticle:
    """Every number of it, and of its comments."""

    def test_533_for_64000_ports_and_two_minutes(self) -> None:
        assert work_out(ARTICLE).figure("wall_time_wait").value == pytest.approx(533.333, abs=0.001)
        assert work_out(ARTICLE).figure("wall").text == "533"

    def test_over_534_is_danger(self) -> None:
        just = replace(ARTICLE, rate=533, hold_s=0.0001)
        assert work_out(just).verdict is Verdict.SLOW
        assert work_out(replace(just, rate=534)).verdict is Verdict.EXHAUSTED

    def test_470_for_28232_ports_and_60_s(self) -> None:
        assert work_out(WILLY).figure("wall_time_wait").value == pytest.approx(470.53, abs=0.01)
        assert work_out(WILLY).figure("wall").text == "470"

    def test_235_is_where_connect_turns_slow(self) -> None:
        assert work_out(WILLY).figure("cliff").text == "235"
        # The same number is what two minutes leave of the default range.
        assert value("wall_time_wait", time_wait_s=120.0) == pytest.approx(235.27, abs=0.01)

    def test_the_official_240_s(self) -> None:
        official = replace(ARTICLE, time_wait_s=240)
        assert work_out(official).figure("wall_time_wait").text == "266"

    def test_1066_and_533_for_the_wide_range(self) -> None:
        assert work_out(WIDE).figure("wall").text == "1,066"
        assert work_out(WIDE).figure("cliff").text == "533"

    @pytest.mark.parametrize(
        ("addresses", "ports", "tuples"),
        [(1, 28_232, 28_232), (2, 64_000, 128_000), (4, 63_976, 255_904), (4, 28_232, 112_928)],
    )
    def test_addresses_multiply(self, addresses: int, ports: int, tuples: int) -> None:
        assert value("tuples", addresses=addresses, ports=ports) == tuples

    def test_80k_and_170k_with_four_addresses(self) -> None:
        """The kernel's choice turns slow at half of them; one's own uses every one."""
        default = Situation(addresses=4, chooser=Chooser.BIND, rate=80_000 / 60)
        assert work_out(default).verdict is Verdict.SLOW
        wide = replace(default, ports=63_976, rate=170_000 / 60)
        assert work_out(wide).verdict is Verdict.SLOW
        own = replace(wide, chooser=Chooser.OWN, timestamps=False)
        assert work_out(own).verdict is Verdict.ENOUGH

    def test_more_than_64k_open_connections_do_not_go(self) -> None:
        held = replace(ARTICLE, close=ToServer.EOF_RESET, hold_s=100.0)
        assert work_out(replace(held, rate=640)).figure("held_open").value == 64_000
        assert work_out(replace(held, rate=641)).verdict is Verdict.EXHAUSTED

    @pytest.mark.parametrize("close", [ToServer.EOF, ToServer.EOF_RESET])
    def test_100000_a_second_when_the_server_closes_first(self, close: ToServer) -> None:
        plan = work_out(replace(WILLY, rate=100_000, close=close))
        assert plan.verdict is Verdict.ENOUGH and plan.figure("held_after").value == 0
        assert plan.changes == ()

    def test_several_thousand_a_second_do_not_go(self) -> None:
        plan = work_out(replace(WILLY, rate=5000))
        assert plan.headline == (
            "No: 5,000 connections/s need 300,050 source ports towards one destination, and there"
            " are 28,232. They run out at 470/s, connect() turns slow at 235/s; 188/s in all are"
            " safe. Change first: let the server close first."
        )
        assert plan.figure("addresses_needed").value == 27

    def test_one_source_for_two_servers(self) -> None:
        """The third comment: it works, a tuple has the destination in it."""
        one = work_out(WILLY).figure("safe").value
        assert value("safe", destinations=2) == pytest.approx(2 * one)
        assert value("safe", destinations=2, chooser=Chooser.OWN) == pytest.approx(
            2 * value("safe", chooser=Chooser.OWN)
        )
        # Unless the address is bound before the destination is known: one range for both.
        assert value("safe", destinations=2, chooser=Chooser.BIND) == pytest.approx(one)

    def test_web_servers_have_the_illness_too_and_the_proxy_first(self) -> None:
        plan = work_out(replace(WILLY, rate=400, web_servers=10))
        assert plan.figure("web_time_wait").value == 2400
        assert plan.figure("web_wall").text == "4,704"
        assert plan.figure("held_after").value == 24_000

    def test_more_writes_than_reads(self) -> None:
        plan = work_out(replace(WILLY, rate=5000, destinations=3, writes=0.7))
        assert "More writes than reads (70%): replication does not help" in plan.headline
        assert plan.figure("replication_gain").value == pytest.approx(1.43, abs=0.01)
        assert plan.figure("primary").value == plan.figure("opened").value == 3500
        few = work_out(replace(WILLY, rate=5000, destinations=3, writes=0.2))
        assert "replication" not in few.headline and few.figure("opened").value == 2000

    def test_persistent_connections(self) -> None:
        plan = work_out(replace(WILLY, rate=5000, pool=200))
        assert plan.verdict is Verdict.ENOUGH and plan.figure("needed").text == "204"
        assert work_out(replace(WILLY, pool=30_000)).verdict is Verdict.EXHAUSTED

    def test_memory_of_a_million(self) -> None:
        """411 B each, measured, not the comment's 56 to 84."""
        plan = work_out(Situation(rate=1e6 / 60, close=ToServer.EOF))
        assert plan.figure("memory").value == pytest.approx(1e6 * 411 / 2**20)


@pytest.mark.parametrize(
    ("changed", "keep_s"),
    [
        ({}, 60.0),
        ({"tw_reuse": True}, 1.0),
        ({"tw_reuse": True, "timestamps": False}, 60.0),
        ({"tw_reuse": True, "chooser": Chooser.BIND}, 60.0),
        ({"chooser": Chooser.OWN}, 1.0),
        ({"chooser": Chooser.OWN, "timestamps": False}, 60.0),
        ({"close": ToServer.LINGER2}, 0.0),
        ({"close": ToServer.RESET_NOW, "timestamps": False}, 0.0),
    ],
)
def test_how_long_a_port_is_lost(changed: dict[str, object], keep_s: float) -> None:
    """Measured: who reuses a TIME_WAIT, and on what condition."""
    assert replace(WILLY, **changed).keep_s == keep_s  # type: ignore[arg-type]


def test_changes_are_in_order_and_each_helps() -> None:
    plan = work_out(Situation(rate=5000, chooser=Chooser.BIND, timestamps=False))
    told = [change.what for change in plan.changes]
    assert told[0] == "let the server close first" and told[-1] == "answer 96.2% from a cache"
    now = arithmetic.safe(plan.situation)
    assert all(change.safe_rate > now for change in plan.changes)


def test_every_figure_says_where_it_comes_from() -> None:
    for situation in (Situation(rate=5000, writes=0.7, web_servers=3, destinations=3),
                      Situation(rate=5000, pool=9), Situation()):  # fmt: skip
        figures = work_out(situation).figures
        assert len({figure.key for figure in figures}) == len(figures)
        assert all(f.formula and f.assumption and f.source and f.name for f in figures)


@given(
    st.builds(
        Situation,
        rate=st.none() | st.floats(0.001, 1e8),
        hold_s=st.floats(0.0001, 1e7),
        addresses=st.integers(1, 256),
        ports=st.integers(1, 65_535),
        destinations=st.integers(1, 100),
        close=st.sampled_from(ToServer),
        chooser=st.sampled_from(Chooser),
        timestamps=st.booleans(),
        tw_reuse=st.booleans(),
        pool=st.none() | st.integers(1, 10**6),
        writes=st.none() | st.floats(0, 1),
        web_servers=st.none() | st.integers(1, 100),
    )
)
def test_any_situation(situation: Situation) -> None:
    plan = work_out(situation)
    assert plan.headline and json.loads(json.dumps(plan.as_json(), allow_nan=False))
    assert all(math.isfinite(figure.value) for figure in plan.figures)
    if situation.rate is not None and situation.pool is None:
        # Neither a byte nor a burst apart: safe is below the wall, and the verdict says the same.
        assert arithmetic.safe(situation) * situation.busiest_share <= arithmetic.wall(situation)
        if arithmetic.safe(situation) < situation.rate * 0.999:
            assert plan.verdict is not Verdict.ENOUGH


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"rate": 0.0}, "rate = 0.0: expected 0.001 to 1e+08."),
        ({"rate": math.nan}, "rate = nan: expected"),
        ({"rate": math.inf}, "rate = inf: expected"),
        ({"addresses": 0}, "addresses = 0: expected 1 to"),
        ({"addresses": 10**400}, "addresses = 10000000000000000000: expected 1 to"),
        ({"writes": 1.5}, "writes = 1.5: expected 0 to 1."),
        ({"ports": 70_000}, "ports = 70000: expected 1 to 65,535."),
    ],
)
def test_what_cannot_be(values: dict[str, float], wanted: str) -> None:
    with pytest.raises(PlanError) as caught:
        Situation(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize(
    ("situation", "wanted"),
    [
        (Situation(pool=30_000),
         "No: 30,000 shared connections need 30,500 source ports towards one destination, and"
         " there are 28,232; 11,292 are safe."),
        (Situation(rate=9e6, close=ToServer.EOF),
         "No: 9,000,000 connections/s need 90,000 source ports towards one destination, and there"
         " are 28,232; over 100,000/s in all are safe."),
        (Situation(rate=300),
         "No: 300 connections/s need 18,003 source ports towards one destination, and there are"
         " 28,232. More than half of them are in use, and there the kernel takes milliseconds of"
         " CPU for each connect(); 188/s in all are safe."),
        (Situation(rate=200),
         "Just: 200 connections/s need 12,002 source ports towards one destination, and there are"
         " 28,232; ports run out at 470/s towards one destination, and connect() turns slow at"
         " 235/s, and a burst reaches that."),
        (Situation(pool=17_000, ports=18_000, chooser=Chooser.OWN),
         "Just: 17,000 shared connections need 17,005 source ports towards one destination, and"
         " there are 18,000; ports run out at 18,000 open connections, and a burst reaches that."),
        (Situation(close=ToServer.EOF),
         "over 100,000/s in all are safe; source ports are not what limits the rate."),
    ],
)  # fmt: skip
def test_headlines(situation: Situation, wanted: str) -> None:
    assert work_out(situation).headline.partition(" Change first: ")[0] == wanted


@pytest.mark.parametrize("rate", [0.001, 200, 534, 534.01])
def test_headline_and_table_say_the_same_number(rate: float) -> None:
    plan = work_out(Situation(rate=rate))
    assert f" need {plan.figure('needed').text} source port" in plan.headline


def test_a_figure_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="needed"):
        work_out(Situation()).figure("needed")


def test_the_kernel_of_a_host(tmp_path: Path) -> None:
    assert read_kernel(tmp_path) == Kernel()
    for name, text in (("ip_local_port_range", "1025\t65000\n"), ("tcp_timestamps", "0"),
                       ("tcp_tw_reuse", "1\n")):  # fmt: skip
        (tmp_path / name).write_text(text)
    assert read_kernel(tmp_path) == Kernel(63_976, timestamps=False, tw_reuse=True)
    (tmp_path / "ip_local_port_range").write_text("?")
    assert read_kernel(tmp_path).ports == 28_232


class TestConfiguration:
    def situations(self, name: str, **base: object) -> dict[str, Situation]:
        config = portside.load(next((ROOT / "examples").glob(f"{name}*/*.toml")))
        found = configured.situations(config, Situation(**base))  # type: ignore[arg-type]
        return {one.name: one for one in found}

    def test_weights_writes_and_backups(self) -> None:
        found = self.situations("02", rate=1000.0, writes=0.2)
        shares = {name: round(one.busiest_share, 4) for name, one in found.items()}
        # db1: the writes and 1 of 21 of the reads; db2: 10 of 21, and the writes when it takes over
        assert shares == {
            "db1, 127.0.0.1:3411": round(0.2 + 0.8 / 21, 4),
            "db2, 127.0.0.1:3412": round(0.2 + 8 / 21, 4),
            "db3, 127.0.0.1:3413": round(8 / 21, 4),
        }
        assert {one.close for one in found.values()} == {ToServer.EOF_RESET}
        assert {one.chooser for one in found.values()} == {Chooser.CONNECT}

    def test_own_ports_addresses_and_closes(self) -> None:
        found = self.situations("03")
        db1, db2 = found["db1, 127.0.0.1:3306"], found["db2, 127.0.0.1:3307"]
        assert (db1.addresses, db1.chooser, db1.close) == (18, Chooser.OWN, ToServer.EOF_RESET)
        assert (db2.addresses, db2.ports, db2.close) == (1, 18_000 - 16, ToServer.EOF)
        assert db1.busiest_share == 0.25 and db2.busiest_share == 0.5

    def test_unix_sockets_need_no_ports(self) -> None:
        config = portside.loads(
            '[[server]]\nname = "a"\naddress = "unix:/run/a.sock"\n'
            '[[service]]\nname = "s"\nlisten = "127.0.0.1:1"\nservers = ["a"]\n'
        )
        with pytest.raises(PlanError, match="unix sockets need no source ports"):
            configured.situations(config, Situation())

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "version_info", (3, 9, 18))
        with pytest.raises(PlanError) as caught:
            configured.need_package("reading a configuration")
        assert str(caught.value) == (
            "reading a configuration needs the installed package portside, with Python 3.11 or"
            " newer; without it give the figures as options (portside plan --help)."
        )


def rows(**servers: tuple[int, int]) -> dict[str, dict[str, int]]:
    """(sessions so far, sessions now) of each server, as the API has them."""
    return {name: {"sessions_total": t, "sessions": n} for name, (t, n) in servers.items()}


AFTER = rows(db1=(400, 6), db2=(107, 0), db3=(0, 0))
BEFORE = rows(db1=(100, 2), db2=(7, 0), db3=(0, 0))


class TestInstance:
    FOUND = (
        Situation(name="db1, 10.0.0.11:3306", share=0.5),
        Situation(name="db2, 10.0.0.12:3306", share=0.25),
        Situation(name="db2, 10.0.0.13:3306", share=0.25),
        Situation(name="db3, 10.0.0.14:3306", share=0.25),
    )

    def test_rate_and_hold_as_seen(self) -> None:
        looks = [BEFORE, rows(db1=(250, 1), db2=(9, 0), db3=(0, 0)), AFTER]
        one, two, three = measured(self.FOUND, looks, 2.0)
        assert one.rate == two.rate == 200 and one.busiest_share == 0.75
        assert one.hold_s == pytest.approx((2 + 1 + 6) / 3 / 150)
        assert two.hold_s == pytest.approx(1 / 3 / 50)  # never seen open: no more than that
        assert two.busiest_share == three.busiest_share == 0.125
        assert measured(self.FOUND, looks, 2.0, keep_hold=True)[0].hold_s == 0.01

    def test_an_idle_instance_has_no_rate(self) -> None:
        assert measured(self.FOUND, [BEFORE, BEFORE], 2.0) == self.FOUND

    def test_secrets_of_an_instance_are_not_read(self) -> None:
        config = _config(
            '[check]\nuser = "m"\npassword = { file = "/nonexistent/secret" }\n'
            '[[server]]\nname = "a"\naddress = "10.0.0.1:3306"\n'
            '[[service]]\nname = "s"\nlisten = "127.0.0.1:1"\nservers = ["a"]\n'
        )
        assert config.servers[0].check.user == "m"


class TestCommand:
    def test_no(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(["plan", "--rate", "5000"]) == 1
        out = capsys.readouterr().out
        assert out.startswith("No: 5,000 connections/s need 300,050 source ports")
        assert "CHANGE, IN THIS ORDER" in out and "28,232 / 60 s; as the article counts" in out

    def test_yes(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(["plan", "--rate", "5000", "--close", "eof-reset"]) == 0
        assert capsys.readouterr().out.startswith("Yes: 5,000 connections/s need 50 source ports")

    def test_limits_without_a_rate(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--range", "64000", "--time-wait", "120s", "--hold", "1ms"]
        assert run_command(["plan", *arguments]) == 0
        assert "ports run out at 533/s towards one destination" in capsys.readouterr().out

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--rate", "900", "--range", "1025 65000", "--writes", "60%", "--json"]
        assert run_command(["plan", *arguments, "--destinations", "2"]) == 1
        answer = json.loads(capsys.readouterr().out)
        figures = {figure["key"]: figure for figure in answer["figures"]}
        assert figures["tuples"]["value"] == 63_976 and figures["opened"]["value"] == 540
        assert figures["wall"].keys() == {
            "key", "name", "value", "unit", "formula", "assumption", "source",
        }  # fmt: skip
        assert answer["verdict"] == "slow" and answer["changes"][0]["safe_rate"] > 100_000

    def test_a_file_and_what_if(self, capsys: pytest.CaptureFixture[str]) -> None:
        file = str(ROOT / "examples/02-read-write-ports/read-write-ports.toml")
        assert run_command(["plan", "-c", file, "--rate", "9000"]) == 0
        assert "DESTINATION" in capsys.readouterr().out
        assert run_command(["plan", "-c", file, "--rate", "9000", "--close", "fin"]) == 1
        assert "source ports towards db2, 127.0.0.1:3412" in capsys.readouterr().out
        assert run_command(["plan", "-c", file, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["destinations"]) == 3

    @pytest.mark.parametrize(
        ("arguments", "code", "wanted"),
        [
            (["--rate", "-1"], 1, "portside: rate = -1.0: expected 0.001 to"),
            (["--range", "9-1"], 1, 'portside: --range 9-1: expected "lo-hi" within 1-65535'),
            (["--range", "0"], 1, "portside: --range 0: expected"),
            (["--writes", "120%"], 1, 'portside: --writes 120%: expected a share such as "60%"'),
            (["--writes", "x"], 1, "portside: --writes x: expected a share"),
            (["--hold", "5"], 1, "portside: --hold 5: expected a duration with its unit"),
            (["-c", "/nonexistent.toml"], 1, "/nonexistent.toml: cannot be read: No such file"),
            (["-a", "/nonexistent/a.sock"], 1, "portside: no running instance at /nonexistent/a"),
            (["--running", "-c", "x.toml"], 2, "--config and --running exclude each other"),
            (["--close", "rst"], 2, "--close"),
        ],
    )
    def test_bad_input_is_one_sentence(
        self, arguments: list[str], code: int, wanted: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_command(["plan", *arguments]) == code
        assert wanted in capsys.readouterr().err

    def test_an_address_in_the_environment_is_not_asked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PORTSIDE_ADMIN", "/nonexistent/a.sock")
        assert run_command(["plan", "--rate", "10"]) == 0
        assert run_command(["plan", "--running"]) == 1


def test_errors_are_portsides() -> None:
    assert issubclass(PlanError, PortsideError)
