# ruff: noqa: E501 (a row of a table stays one line)
"""haproxy.cfg to portside.toml: mistakes that HAProxy refuses too, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portside.config import loads
from portside.errors import ConfigError, PortsideError
from portside.importer.haproxy import vouch
from portside.importer.imported import NothingImported, import_haproxy

from tests.unit.conftest import Import

LISTEN = "listen db\n    bind 10.0.0.5:3306\n"
SERVER = "    server db1 10.0.0.11:3306 check\n"


MISTAKES: list[tuple[str, str]] = [
    ("mode tcp\n", ':1:1: "mode" stands before the first section'),
    (f"{LISTEN}    balanse source\n", ':3:1: "balanse" is no keyword of HAProxy; did you mean "balance"?'),
    (f"{LISTEN}    option redispach\n", 'did you mean "option redispatch"?'),
    (f"{LISTEN}    server db1 10.0.0.1:3306 chek\n", ':3:1: "chek" is no option of server; did you mean "check"?'),
    (f"{LISTEN}    server db1 10.0.0.1:3306 weight\n", ':3:1: "weight" needs a value'),
    (f"{LISTEN}    server db1 10.0.0.1:3306 weight 300\n", ':3:1: weight: "300" is no number from 0 to 256'),
    (f"{LISTEN}    server db1 10.0.0.1:3306 check inter 5x\n", ':3:1: inter: "5x" is no time'),
    (f"{LISTEN}    server db1\n", ":3:1: a server line needs a name and an address"),
    (f"{LISTEN}{SERVER}{SERVER}", ':4:1: server "db1" is also in line 3'),
    (f"{LISTEN}    timeout client 1y\n{SERVER}", ':3:1: timeout client: "1y" is no time'),
    ("listen db\n    bind 10.0.0.5\n", ':2:1: "10.0.0.5" has no port'),
    ("listen db\n    bind :3306 modee 660\n" + SERVER, ':2:1: "modee" is no option of bind; did you mean "mode"?'),
    ("listen\n", ":1:1: this listen has no name"),
    ("frontend a\n    bind :1\n    default_backend b\n", ':3:1: there is no backend "b"'),
    ("defaults a from b\n", ':1:1: there is no "defaults b" above'),
    (f"{LISTEN}{SERVER}backend db\n", ':4:1: "listen db" of line 1 has this name already'),
    (f"{LISTEN}    bind 'x\n", ":3:10: a single quote is not closed"),
    (f".if 1\n{LISTEN}", ":1:1: this .if has no .endif"),
    (".endif\n", ":1:1: this .endif has no .if"),
    ('.if 1\n.alert "not like this"\n.endif\n', ":2:1: the file itself says: not like this"),
    (f"{LISTEN}    acl{' x' * 70}\n", ":3:1: more than 64 words"),
    ("global\n    maxconn many\n", ':2:1: maxconn: "many" is no number'),
    (f"{LISTEN}    option mysql-check usr x\n{SERVER}", ':3:1: mysql-check: "usr" is not "user"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=lambda v: v[:40].replace("\n", "|"))
def test_what_haproxy_refuses(imported: Import, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(text)
    assert message in str(caught.value)


def test_every_mistake_at_once_in_the_order_of_the_file(imported: Import) -> None:
    with pytest.raises(ConfigError) as caught:
        imported("global\n    maxconn x\nlisten a\n    bind :1\n    foo\nlisten b\n    bind z\n")
    assert [problem.line for problem in caught.value.problems] == [2, 5, 7]


def test_nothing_to_import(imported: Import) -> None:
    with pytest.raises(
        NothingImported, match="nothing in it can be a service of Portside"
    ) as caught:
        imported("defaults\n    mode http\nfrontend www\n    bind :80\n")
    assert [row.outcome for row in caught.value.rows] == ["carried", "dropped", "stays", "stays"]


def test_latin_1_and_control_characters(imported: Import) -> None:
    done = imported(
        b"# B\xfcro\n" + LISTEN.encode() + b'    description "B\xfcro \x1b[31m"\n' + SERVER.encode()
    )
    assert "Büro \\x1b[31m" in done.text and "\x1b" not in done.text
    with pytest.raises(ConfigError, match=":2:1: a zero byte: this is no text"):
        imported(b"\n\0")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PortsideError, match=r"gone\.cfg cannot be read: No such file"):
        import_haproxy([tmp_path / "gone.cfg"], ask=False)
    with pytest.raises(PortsideError, match="is a folder without any"):
        import_haproxy([tmp_path], ask=False)
    (tmp_path / "1-defaults.cfg").write_text("defaults\n    timeout connect 9s\n")
    (tmp_path / "2-db.cfg").write_text(LISTEN + SERVER + "    option tcplog\n")
    (tmp_path / ".hidden.cfg").write_text("nonsense\n")
    done = import_haproxy([tmp_path], ask=False, environment={})
    assert loads(done.text).timeouts.connect_s == 9.0
    assert f"# {tmp_path}/2-db.cfg:4: option tcplog" in done.text


def test_ten_thousand_lines(imported: Import) -> None:
    """In a few seconds, also where every server has several lines."""
    lines = []
    for number in range(250):
        lines.append(f"listen s{number}\n    bind 10.1.0.{number}:3306\n    balance leastconn\n")
        lines += [
            f"    server s{number}d{i} 10.2.{number}.{i % 9}:3306 source 10.3.0.{i + 1}\n"
            for i in range(37)
        ]
    done = imported("".join(lines), file_limit=10**6)
    assert (done.services, done.servers) == (250, 250 * 9)
    assert done.counts["carried"] == 10_000


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            ["listen a", "backend b", "global", "defaults", "bind :1", "server a 10.0.0.1:1", "server b ::1",
             "default-server", "check", "source 10.0.0.1:5-9", ".if 0", ".else", ".endif", "mode http", '"', "'",
             "${", "\\", "option mysql-check", "maxconn 9", "timeout connect", "tcp-request connection reject if",
             "{ src 10.0.0.0/8 }", "acl x src", "#", "\t", "balance", "use_backend b", "0", "é", "\x00", "[[", "\n"]
        ),
        max_size=40,
    )
)  # fmt: skip
def test_no_text_is_our_fault(parts: list[str]) -> None:
    """Whatever stands in the file: a result that loads, or a sentence."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".cfg") as file:
        file.write(" ".join(parts).replace(" \n ", "\n").encode())
        file.flush()
        try:
            done = import_haproxy([Path(file.name)], ask=False, environment={}, file_limit=20_000)
        except PortsideError as error:
            assert str(error)
        else:
            assert loads(done.text).services


@pytest.mark.parametrize(
    ("stderr", "place", "message"),
    [
        ("[ALERT]    (9) : config : parsing [/x y.cfg:26] : 'server main/a' : no.", ("/x y.cfg", 26), "'server main/a' : no"),
        ("[ALERT]    (9) : config : [/x.cfg:2] : 'bind' : bad.", ("/x.cfg", 2), "'bind' : bad"),
        ("[ALERT] 1/2 (9) : parsing [/x.cfg:3]: unknown keyword", ("/x.cfg", 3), "unknown keyword"),
        ("[ALERT]    (9) : config : proxy 'x' has no listener.", ("/x.cfg", 0), "proxy 'x' has no listener"),
        ("Segmentation fault", ("/x.cfg", 0), "Segmentation fault"),
        ("", ("/x.cfg", 0), "no reason"),
    ],
)  # fmt: skip
def test_haproxys_words(
    monkeypatch: pytest.MonkeyPatch, stderr: str, place: tuple[str, int], message: str
) -> None:
    summary = "[ALERT]    (9) : config : Fatal errors found in configuration."
    text = f"{stderr}\n{summary if 'ALERT' in stderr else ''}"
    answer = vouch.subprocess.CompletedProcess([], 1, "", text)  # type: ignore[attr-defined]
    monkeypatch.setattr(vouch, "_run", lambda _: answer)
    with pytest.raises(ConfigError) as caught:
        vouch.vouch("haproxy", [Path("/x.cfg")])
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == place and problem.message == message
