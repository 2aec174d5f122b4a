"""Clients that must show a certificate: who comes in, and what the others and the log are told."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import Client
from tests.integration.test_pool_tls import context, failures, secured
from tests.support.instance import Instance
from tests.support.tls import Authority, make_certificates
from tests.support.waiting import wait_until

Run = Callable[..., Instance]

# Of the client: who signed its certificate; what OpenSSL says of the alert; the log's words.
BAD = {
    "none": ("certificate required", "TLS: the client showed no certificate"),
    "stranger": ("unknown ca", "TLS: the client's certificate is not signed by the configured ca"),
    # Of the same name: an authority that was made anew.
    "namesake": (
        "decrypt error",
        "TLS: the client's certificate is signed by another ca of the same name",
    ),
    "expired": ("certificate expired", "TLS: the client's certificate has expired"),
}


@pytest.fixture(scope="module")
def shown(server_dir: Path) -> Iterator[dict[str, Path]]:
    """Folders of certificates for clients; of "ours" also the authority that is configured."""
    ours, folder = Authority("clients-ca"), server_dir / "client-certs"
    yield {
        "ours": make_certificates(folder / "ours", ours, "web1", ()),
        "expired": make_certificates(folder / "expired", ours, "web1", (), days=-1),
        "stranger": make_certificates(folder / "stranger", Authority("others-ca"), "web1", ()),
        "namesake": make_certificates(folder / "namesake", Authority("clients-ca"), "web1", ()),
    }


def showing(trusted: Path, version: ssl.TLSVersion, shown: Path | None) -> ssl.SSLContext:
    made = context(trusted, version)
    if shown is not None:
        made.load_cert_chain(shown / "server-cert.pem", shown / "server-key.pem")
    return made


def refusal(portside: Instance, made: ssl.SSLContext) -> str:
    """What a client is told."""
    with pytest.raises((pymysql.MySQLError, OSError)) as caught:
        Client(portside, ssl=made)
    chain: Any = caught.value
    texts = []
    while chain is not None:
        texts.append(str(chain))
        chain = chain.__cause__ or chain.__context__
    return " ".join(texts)


def turned_away(portside: Instance, count: int) -> list[dict[str, Any]]:
    """The log's lines of so many handshakes that failed."""
    lines = [line for line in portside.lines() if line["end"] == "tls-failed/login"]
    return lines if len(lines) == count else []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_is_a_must(
    trio: Trio,
    tls_dir: Path,
    shown: dict[str, Path],
    run_portside: Run,
    version: ssl.TLSVersion,
) -> None:
    more = f', client_ca = "{shown["ours"]}/ca.pem"'
    portside = run_portside(secured(tls_dir, trio.primary, more=more))
    good = showing(tls_dir, version, shown["ours"])
    assert Client(portside, ssl=good).ask("SELECT 1") == [(1,)]
    for name, (alert, _) in BAD.items():
        text = refusal(portside, showing(tls_dir, version, shown.get(name)))
        assert alert in text.replace("_", " ").lower(), (name, text)
    lines = wait_until(lambda: turned_away(portside, len(BAD)), 5.0, "no session lines")
    assert {line["error"] for line in lines} == {error for _, error in BAD.values()}
    assert {line["user"] for line in lines} == {""}
    assert failures(portside) == {"certificate": len(BAD)}
    # Nobody comes in without TLS either.
    with pytest.raises(pymysql.MySQLError) as caught:
        Client(portside, ssl_disabled=True)
    assert caught.value.args[0] == 3159
    # Such clients are misconfigured, not hostile: none of it counts as a failed login.
    assert Client(portside, ssl=good).ask("SELECT 1") == [(1,)]


def test_a_certificate_is_welcome(
    trio: Trio, tls_dir: Path, shown: dict[str, Path], run_portside: Run
) -> None:
    more = f', client_ca = "{shown["ours"]}/ca.pem", client_verify = "optional"'
    portside = run_portside(secured(tls_dir, trio.primary, more=more))
    version = ssl.TLSVersion.TLSv1_3
    for folder in (shown["ours"], None):
        made = showing(tls_dir, version, folder)
        assert Client(portside, ssl=made).ask("SELECT 1") == [(1,)]
    assert Client(portside, ssl_disabled=True).ask("SELECT 1") == [(1,)]
    assert "unknown ca" in refusal(portside, showing(tls_dir, version, shown["stranger"]))
