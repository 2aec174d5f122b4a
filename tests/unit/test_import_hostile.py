# ruff: noqa: E501 (a row of a table stays one line)
"""What an imported file must not do: show a password, take long, be our fault."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.errors import ConfigError
from portside.importer.haproxy.shown import shown
from portside.importer.imported import Imported, import_haproxy, import_proxysql, is_proxysql

LISTEN = "listen db\n    bind 10.0.0.5:3306\n    server db1 10.0.0.11:3306 check\n"
SERVERS = 'mysql_servers=({address="a" hostgroup=1})\n'
# What was quadratic took minutes; a busy machine needs a second or two for what is linear.
SOON_S = 20.0


def haproxy(folder: Path, text: str) -> Imported:
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return import_haproxy([file], environment={}, ask=False, file_limit=20_000)


def proxysql(folder: Path, text: str) -> Imported:
    file = folder / "proxysql.cnf"
    file.write_text(text)
    assert is_proxysql(file)
    return import_proxysql(file, file_limit=20_000)


SECRETS = [
    "stats auth admin:sesame",
    'stats auth "admin:sesame 5"',
    "stats auth admin:se\\ sesame",
    "user bob insecure-password sesame",
    "user bob password '$5$a sesame'",
    "http-check send hdr Authorization Basic\\ sesame",
    "http-request set-header X-Api-Key sesame",
    "tcp-check send AUTH\\ sesame\\r\\n",
    'tcp-check  send  "AUTH sesame\\r\\n"',
    '"tcp-check" "send" "AUTH sesame"',
    "'tcp-check' \\send-lf sesame",
    'server c 127.0.0.1:3309 agent-send "auth sesame" agent-check agent-port 9',
    "setenv DBPASS sesame",
    '"setenv" DBPASS "se sesame',
    "set-var proc.x str(sesame)",
    "command /usr/bin/mysql -uroot -psesame",
    "option httpchk GET /?token=sesame HTTP/1.0",
    "option httpchk GET / HTTP/1.0\\r\\nAuthorization:\\ Basic\\ sesame",
    "http-request redirect location http://me:sesame@example.com/",
    "cluster-secret sesame",
]


@pytest.mark.parametrize("line", SECRETS)
def test_secrets_are_hidden(line: str) -> None:
    found = shown(line)
    assert "sesame" not in found and "***" in found


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("server db1 10.0.0.11:3306 check weight 3", "server db1 10.0.0.11:3306 check weight 3"),
        ("option tcplog # mysql -uroot -psesame", "option tcplog"),
        ("global#sesame", "global"),
        (r'description "a # b" c\#d # sesame', r'description "a # b" c\#d'),
        ("description 'a # b'\t\x1b #'sesame", "description 'a # b' \\x1b"),
        ('description "open # stays', 'description "open # stays'),
        ('description "open \\', 'description "open \\'),
        ("user a password x groups b # sesame", "user a password *** groups b"),
    ],
)
def test_comments_are_not_shown(line: str, text: str) -> None:
    assert shown(line) == text


def test_no_comment_of_haproxy_is_copied(tmp_path: Path) -> None:
    done = haproxy(tmp_path, f"{LISTEN}    option tcplog # -psesame\n"
                             "    server b 10.0.0.12:3306 downinter 3s # pass: sesame pw sesame\n"
                             ".if 0\n    balance first # PASS sesame\n.endif # sesame\n")  # fmt: skip
    assert "option tcplog" in done.text and "sesame" not in done.text + repr(done.rows)


PROXYSQL_SECRETS = [
    'mysql_variables={ monitor_password="sesame\\"sesame" }',
    'mysql_variables={ monitor_password = /* sesame */ "x" "sesame" # sesame\n "sesame" }',
    'admin_variables={ admin_credentials="a:sesame;b:\\"sesame" cluster_password="x" "sesame" }',
    'mysql_users=({ username="a" /* pw sesame */ password = # sesame\n "x" "sesame", default_hostgroup=1 })',
    'mysql_users=({ username="a", comment="pw is sesame" })',
    'mysql_users=({ username="a", Password="\\x73esame sesame" })',
    'scheduler=({ id=1 filename="/x" arg1="-usesame" arg2="--password=sesame" })',
    'mysql_query_rules=({ rule_id=1, match_pattern="identified by password sesame" })',
]


@pytest.mark.parametrize("text", PROXYSQL_SECRETS)
def test_no_secret_of_proxysql_is_shown(tmp_path: Path, text: str) -> None:
    done = proxysql(tmp_path, SERVERS + text)
    assert "sesame" not in done.text + repr(done.rows)


@pytest.mark.parametrize(
    "text",
    ['monitor_password="x"; "sesame"', "monitor_password=sesame", 'a=(1) "sesame"'],
)
def test_no_error_shows_a_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        proxysql(tmp_path, f"mysql_variables={{\n{text} }}")
    assert "sesame" not in str(caught.value) and ":2:1: not libconfig" in str(caught.value)


LONG = [
    (f"{LISTEN}    option tcplog # {'x' * 40_000}\n", ":4:1: longer than 16,384 characters"),
    (f"{LISTEN}    description {'x' * 400_000}\n", ":4:1: longer than 16,384 characters"),
    (f"{LISTEN}    description {chr(92) * 2_000_000}\n", ":4:1: longer than 16,384 characters"),
    (f"{LISTEN}    description {(chr(92) + chr(34)) * 2_000_000}\n", ":4:1: longer than 16,384"),
    (f".if {'(' * 100_000}\n{LISTEN}.endif\n", ":1:1: longer than 16,384 characters"),
    (".if 1\n" * 60 + LISTEN + ".endif\n" * 60, ":51:1: more than 50 .if in each other"),
    ("global\n    setenv A xxxxxxxx\n" + '    setenv A "$A$A"\n' * 40 + LISTEN, ":16:17: variables make this line longer"),
    (f"{LISTEN}    timeout client {'9' * 5_000}\n", ":4:1: timeout client: "),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), LONG, ids=lambda value: value[:30])
def test_long_lines_are_refused_soon(tmp_path: Path, text: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        haproxy(tmp_path, text)
    assert message in str(caught.value)
    assert time.monotonic() - began < SOON_S


NESTED = [
    ("(" * 16_000, "more than 50 parentheses in each other"),
    ("(!" * 8_000, "more than 50 parentheses in each other"),
    ("!" * 16_000, '"" is not understood'),
    ("9" * 16_000 + "?", '"?" is not understood'),
]


@pytest.mark.parametrize(("condition", "why"), NESTED, ids=["parens", "both", "nots", "digits"])
def test_nested_conditions_cannot_be_decided(tmp_path: Path, condition: str, why: str) -> None:
    done = haproxy(tmp_path, f".if {condition}\nlisten x\n    bind :1\n.endif\n{LISTEN}")
    notes = [row.note for row in done.rows if row.line == 2]
    assert notes == [f"its .if (line 1) cannot be decided here: {why}"]


@pytest.mark.parametrize(
    "line",
    ["password" * 1_500, "://a:" * 3_000, "http://" + "a" * 16_000, '"' * 16_001, "password " * 1_500,
     "'a" * 8_000, "a=" * 8_000, '\\"' * 8_000, " " * 16_000 + "a"],
    ids=lambda line: line[:12],
)  # fmt: skip
def test_showing_takes_as_long_as_the_line(line: str) -> None:
    began = time.monotonic()
    for _ in range(20):
        shown(line)
    assert time.monotonic() - began < SOON_S


BIG = [
    (f'a="{chr(92) * 2_000_000}"', "a string is longer than 16,384 characters"),
    ('a="' + '\\"' * 2_000_000 + '"', "a string is longer than 16,384 characters"),
    (f"a={'9' * 5_000}", "a number has at most 20 digits"),
    (f"{'a' * 400_000}=1", "a name is longer than 16,384 characters"),
    ("a=(" + "1," * 600_000 + ")", "more than 1,000,000 words and signs"),
]


@pytest.mark.parametrize(("text", "message"), BIG, ids=lambda value: value[:30])
def test_big_proxysql_files_are_refused_soon(tmp_path: Path, text: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        proxysql(tmp_path, SERVERS + text)
    assert time.monotonic() - began < SOON_S


def test_telling_the_two_apart_is_quick(tmp_path: Path) -> None:
    file = tmp_path / "blank.cfg"
    file.write_text("\n" * 2_000_000 + "mysql_servers" + " " * 2_000_000)
    began = time.monotonic()
    assert not is_proxysql(file)
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("value", ["9" * 19, '"٣"', '"²"', '"' + "9" * 5_000 + '"', "-1", "1e999"])
def test_no_number_is_our_fault(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"hostgroup: .* is no whole number"):
        proxysql(tmp_path, f'mysql_servers=({{address="a" hostgroup={value}}})')


@given(st.text(alphabet="ab\\\"'# \t:/@=", max_size=40))
def test_every_line_can_be_shown(line: str) -> None:
    assert len(shown(line)) <= 4 * len(line)
