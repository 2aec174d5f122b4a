"""Every word a user may meet is explained, with what to do where something is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from portside import explain
from portside.health.judge import Status

ENGINE = json.dumps(
    [
        {"code": "quit", "kind": "cause", "text": "The client said QUIT."},
        {"code": "login", "kind": "phase", "text": "Between greeting and OK."},
        {"code": "fin", "kind": "server close", "text": "FIN at once."},
        {"code": "fin", "kind": "client close", "text": "A plain close."},
    ]
)
KNOWN = explain.codes(ENGINE)


def test_every_status_has_words_and_failures_have_advice() -> None:
    for status in Status:
        found = explain.explain(str(status), KNOWN)
        (code,) = (one for one in found if one.kind == "check status")
        assert code.text and (code.advice or status.passed)


def test_every_event_of_the_engine_is_explained() -> None:
    architecture = (Path(__file__).parents[2] / "docs/internals/architecture.md").read_text()
    kinds = architecture.partition("\nKinds:")[2]
    documented = set(re.findall(r"`(\w+)`", kinds))
    assert documented <= {code.code for code in KNOWN if code.kind == "event"}


def test_a_termination_is_explained_part_by_part() -> None:
    assert [code.text for code in explain.explain("quit/login", KNOWN)] == [
        "The client said QUIT.",
        "Between greeting and OK.",
    ]


def test_a_word_with_two_meanings_has_both() -> None:
    assert [code.kind for code in explain.explain("FIN", KNOWN)] == ["server close", "client close"]


def test_the_text_of_one() -> None:
    assert str(explain.explain("l4tout", KNOWN)[0]).startswith(
        "L4TOUT (check status): No connection within the check's timeout. A firewall that drops"
    )


@pytest.mark.parametrize("number", ["1040", "1045", "1053", "1235", "1429"])
def test_numbers_that_clients_report(number: str) -> None:
    (code,) = explain.explain(number, KNOWN)
    assert code.kind == "client error" and code.advice


@pytest.mark.parametrize("word", ["L4TUOT", "quit/nowhere", "", "xyzzy"])
def test_an_unknown_word(word: str) -> None:
    with pytest.raises(explain.UnknownCode, match="is no code of Portside"):
        explain.explain(word, KNOWN)


def test_the_nearest_words_are_named() -> None:
    with pytest.raises(explain.UnknownCode, match=r"did you mean .*l4tout"):
        explain.explain("L4TIMEOUT", KNOWN)
