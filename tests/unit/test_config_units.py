"""Durations, sizes, addresses and networks: what they read, what they refuse and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.config import addresses, units
from pydantic_core import PydanticCustomError


@given(st.integers(1, 2**31 - 1))
def test_a_duration_survives_being_written(ms: int) -> None:
    seconds = ms / 1000
    assert units.parse_duration(units.format_duration(seconds)) == seconds


@given(st.integers(1, 1 << 50))
def test_a_size_survives_being_written(size: int) -> None:
    assert units.parse_size(units.format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1.5s", 1.5), ("3 s", 3), ("2m", 120), ("1h", 3600), ("1d", 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


def test_never_is_no_duration_but_none() -> None:
    assert units.parse_duration_or_never("never") is None
    assert units.format_duration(None) == "never"
    with pytest.raises(PydanticCustomError):
        units.parse_duration("never")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (5, 'did you mean "5s"?'),
        ("5", 'did you mean "5s"?'),
        (0, "zero is refused: some read it as at once, others as never"),
        ("0", "zero is refused: some read it as at once, others as never"),
        ("0ms", "zero is refused: some read it as at once, others as never"),
        ("1.2345s", ""),
        ("30d", ""),
        ("5 seconds", ""),
        ("-5s", ""),
        (True, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_refused_durations(value: object, hint: str) -> None:
    with pytest.raises(PydanticCustomError, match="a duration with its unit") as caught:
        units.parse_duration(value)
    assert (caught.value.context or {})["hint"] == hint


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("64KiB", 65536), ("1MiB", 1 << 20)])
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("value", ["1MB", "1M", 1048576, "0", "0KiB", "2000000GiB", "1.5MiB"])
def test_refused_sizes(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="a size with its unit"):
        units.parse_size(value)


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("10.0.0.1:3306", "ip", "10.0.0.1:3306"),
        ("[fd00::0:1]:3306", "ip", "[fd00::1]:3306"),
        ("[::]:65535", "ip", "[::]:65535"),
        ("db1.example.com:3306", "name", "db1.example.com:3306"),
        ("db_1:3306", "name", "db_1:3306"),
        ("unix:/run/a b.sock", "unix", "unix:/run/a b.sock"),
    ],
)
def test_addresses(text: str, kind: str, canonical: str) -> None:
    address = addresses.parse_address(text)
    assert (address.kind, str(address)) == (kind, canonical)
    assert addresses.parse_address(canonical) == address


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("10.0.0.1", 'did you mean "10.0.0.1:3306"?'),
        ("fd00::1", "in brackets"),
        ("fd00::1:3306", "in brackets"),
        ("10.0.0.1:0", "from 1 to 65535"),
        ("10.0.0.1:65536", "from 1 to 65535"),
        ("10.0.0:3306", "neither an IP address nor a host name"),
        ("-db:3306", "neither an IP address nor a host name"),
        ("/run/mysqld.sock", 'did you mean "unix:/run/mysqld.sock"?'),
        ("unix:mysqld.sock", "absolute"),
        ("unix:/" + "x" * 107, "107 bytes"),
        ("", ""),
        (3306, ""),
    ],
)
def test_refused_addresses(value: object, hint: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        addresses.parse_address(value)
    assert hint in (caught.value.context or {})["hint"]


@pytest.mark.parametrize(
    ("value", "hint"), [("*:3306", "[::]:3306"), ("localhost:3306", "not a name"), (3306, "")]
)
def test_refused_listen_addresses(value: object, hint: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        addresses.parse_listen_address(value)
    assert hint in (caught.value.context or {})["hint"]


def test_a_local_network_means_each_of_its_addresses() -> None:
    ips = addresses.expand_sources(("10.9.0.0/24", "10.9.0.7", "fd00::/126"))
    assert len(ips) == 256 + 4
    assert ips[0] == "10.9.0.0" and "10.9.0.255" in ips and ips[-1] == "fd00::3"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("10.9.0.0/23", "/24 is the largest"),
        ("fd00::/64", "/120 is the largest"),
        ("10.0.0.5:1024", "source.ports"),
        ("eth0", ""),
    ],
)
def test_refused_sources(value: object, hint: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        addresses.parse_source(value)
    assert hint in (caught.value.context or {})["hint"]


def test_a_network_with_host_bits_names_the_one_that_was_meant() -> None:
    with pytest.raises(PydanticCustomError) as caught:
        addresses.parse_network("10.0.0.5/8")
    assert (caught.value.context or {})["hint"] == 'did you mean "10.0.0.0/8"?'
