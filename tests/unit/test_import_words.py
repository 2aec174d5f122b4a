"""HAProxy's line grammar: quotes, escapes, variables, conditions, times and addresses."""

from __future__ import annotations

import pytest
from portside.importer.haproxy.conditions import Facts, NotPlain, holds
from portside.importer.haproxy.values import Address, BadValue, address, duration, milliseconds
from portside.importer.haproxy.words import BadLine, split

ENV = {"PORT": "3306", "WORDS": "check weight  3", "EMPTY": "", "A_1": "x y"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   # only a comment", []),
        ("\tmode\ttcp  ", ["mode", "tcp"]),
        ("global#this is the global section", ["global"]),
        (r"a\ b c\#d e\\f \"g\" h\'i", ["a b", "c#d", "e\\f", '"g"', "h'i"]),
        (r"\x41\x20b tab\there", ["A b", "tab\there"]),
        (r"regex \1 \. stay", ["regex", "\\1", "\\.", "stay"]),
        ('"a # b" \'c "d" \\e $PORT\'', ["a # b", 'c "d" \\e $PORT']),
        ("ab\"c d\"'e f'g", ["abc de fg"]),
        ("'' \"\"", ["", ""]),
        ('":$PORT" ":${PORT}" $PORT', [":3306", ":3306", "$PORT"]),
        (r'"\$PORT"', ["$PORT"]),
        ('"${NOT_THERE-127.0.0.1}:1" "${EMPTY-x}" "$EMPTY"', ["127.0.0.1:1", "", ""]),
        ('server "${WORDS[*]}" end', ["server", "check", "weight", "3", "end"]),
        ('server "${EMPTY[*]}" end', ["server", "end"]),
        ('"$A_1"', ["x y"]),
        ("a\r", ["a"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert split(line, ENV) == words


@pytest.mark.parametrize(
    ("line", "column", "text"),
    [
        ("bind 'x", 6, "a single quote is not closed"),
        ('bind "x', 6, "a double quote is not closed"),
        (r"bind \x4", 6, "\\x needs two hexadecimal digits"),
        ('bind "${PORT', 8, "a brace is not closed"),
        ('bind "${PORT!}"', 8, "a brace is not closed"),
        ('bind "$1"', 8, "this is no name of a variable"),
    ],
)
def test_what_haproxy_refuses(line: str, column: int, text: str) -> None:
    with pytest.raises(BadLine, match="^" + text.replace("\\", "\\\\") + "$") as caught:
        split(line, ENV)
    assert caught.value.column == column


def test_variables_that_are_not_there_are_collected() -> None:
    unset: set[str] = set()
    assert split('"$NOPE" "${NADA-x}"', ENV, unset) == ["", "x"]
    assert unset == {"NOPE"}


FACTS = Facts((2, 6, 12), frozenset({"OPENSSL"}))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("", False),
        ("0", False),
        ("7", True),
        ("!0", True),
        ("defined(PORT)", True),
        ("defined( PORT)", False),
        ("streq(a,a) && strneq(a,b)", True),
        ("0 && 0 || 1", True),
        ("1 || 0 && 0", True),
        ("!(1 || 0) || strstr(abc,b)", True),
        ("feature(OPENSSL) && !feature(LUA)", True),
        ("version_atleast(2.6) && version_before(2.6.13)", True),
        ("version_atleast(2.4-dev19)", True),
        ("version_atleast(3)", False),
    ],
)
def test_conditions(expression: str, value: bool) -> None:
    assert holds(expression, ENV, FACTS) is value


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("feature(LUA)", "none is installed here"),
        ("1 and 1", '"and 1" is not understood'),
        ("enabled(POLL)", "none is installed here"),
        ("(1", "a parenthesis is not closed"),
        ("defined(X", "a parenthesis is not closed"),
        ("?", '"[?]" is not understood'),
    ],
)
def test_conditions_that_cannot_be_decided(expression: str, text: str) -> None:
    with pytest.raises(NotPlain, match=text):
        holds(expression, ENV, None)


@pytest.mark.parametrize(
    ("text", "ms", "written"),
    [
        ("5000", 5000, "5s"),
        ("0", 0, "never"),
        ("3s", 3000, "3s"),
        ("1m", 60_000, "1m"),
        ("2h", 7_200_000, "2h"),
        ("1d", 86_400_000, "1d"),
        ("1500us", 2, "2ms"),
        ("10ms", 10, "10ms"),
    ],
)
def test_times(text: str, ms: int, written: str) -> None:
    assert milliseconds(text) == ms
    assert duration(milliseconds(text)) == written


@pytest.mark.parametrize("text", ["", "5 s", "-1", "1.5s", "5x", "25d", "99999999999"])
def test_times_that_haproxy_refuses(text: str) -> None:
    with pytest.raises(BadValue, match=r"is no time|is too long"):
        milliseconds(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (":3306", Address("any", "", 3306, 3306)),
        ("*:3306-3310", Address("any", "", 3306, 3310)),
        ("0.0.0.0:1", Address("ip", "0.0.0.0", 1, 1)),
        ("10.0.0.1", Address("ip", "10.0.0.1")),
        ("10.0.0.1:+1000", Address("ip", "10.0.0.1", shift=1000)),
        ("10.0.0.1:-5", Address("ip", "10.0.0.1", shift=-5)),
        (":::3306", Address("ip", "::", 3306, 3306)),
        ("2001:db8::1:3306", Address("ip", "2001:db8::1", 3306, 3306)),
        ("[2001:db8::1]:3306", Address("ip", "2001:db8::1", 3306, 3306)),
        ("[::1]", Address("ip", "::1")),
        ("ipv4@10.0.0.1:3306", Address("ip", "10.0.0.1", 3306, 3306)),
        ("tcp6@[::1]:1", Address("ip", "::1", 1, 1)),
        ("db.example.com:3306", Address("name", "db.example.com", 3306, 3306)),
        ("/run/x.sock", Address("unix", "/run/x.sock")),
        ("unix@run/x.sock", Address("unix", "run/x.sock")),
        ("abns@name", Address("other", "abns@name")),
        ("fd@3", Address("other", "fd@3")),
        ("quic4@:443", Address("other", "quic4@:443")),
    ],
)
def test_addresses(text: str, found: Address) -> None:
    assert address(text) == found


@pytest.mark.parametrize(
    "text", ["10.0.0.1:70000", "10.0.0.1:20-10", "a b:1", "2001:db8::9", "10.0.0.1:3306x", "é:1"]
)
def test_addresses_that_haproxy_refuses(text: str) -> None:
    with pytest.raises(BadValue):
        address(text)
