"""[tls] and [[server]] tls: what is refused, what is doubted, and what reaches the data plane."""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from portside import _core
from portside.config import certificates, load, snapshot, warnings
from portside.config.dump import dump
from portside.config.load import loads
from portside.errors import ConfigError
from portside.health.target import TlsRule, target_of
from portside.health.tls import context_of

from tests.support.tls import Authority, make_certificates

BASE = """\
{globals}
[[server]]
name = "db1"
address = {address}
{server}
[[service]]
name = "app"
listen = "10.0.0.5:3306"
mode = "{mode}"
servers = ["db1"]
{service}
[[user]]
name = "app"
password = "app-pw"
"""
PAIR = 'certificate = "server-cert.pem", key = "server-key.pem"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    authority = Authority()
    make_certificates(made, authority)
    make_certificates(made / "soon", authority, days=9.5)
    make_certificates(made / "over", authority, days=-3)
    (made / "soon" / "server-key.pem").chmod(0o644)
    (made / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\n!!\n")
    (made / "locked.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n")
    (made / "cert.der").write_bytes(b"\x30\x82\xff\x00")
    (made / "empty.pem").write_text("")
    return made


def text(**parts: str) -> str:
    given = {
        "globals": "",
        "server": "",
        "service": "",
        "mode": "pool",
        "address": '"10.0.0.11:3306"',
        **parts,
    }
    return BASE.format(**given)


@pytest.mark.parametrize(
    ("parts", "mistake"),
    [
        (
            {"service": f"tls = {{ {PAIR} }}", "mode": "relay"},
            'service "app" tls: a relay passes TLS through to the server',
        ),
        (
            {"globals": '[tls]\ncertificate = "server-cert.pem"'},
            "tls.certificate: a certificate is of no use without its key",
        ),
        (
            {"service": 'tls = { key = "server-key.pem" }'},
            'service "app" tls.key: a key is of no use without its certificate',
        ),
        (
            {"globals": "[tls]\nrequired = true"},
            "tls.required: nothing can be offered without a certificate",
        ),
        (
            {"service": 'tls = { certificate = "soon/server-cert.pem", key = "server-key.pem" }'},
            'service "app" tls.certificate: the key does not belong to the certificate',
        ),
        (
            {"service": 'tls = { certificate = "server-cert.pem", key = "locked.pem" }'},
            "the key is locked with a passphrase",
        ),
        (
            {"service": 'tls = { certificate = "server-cert.pem", key = "ca.pem" }'},
            "the key file holds no private key",
        ),
        (
            {"service": 'tls = { certificate = "empty.pem", key = "server-key.pem" }'},
            "it holds no certificate",
        ),
        (
            {"service": 'tls = { certificate = "garbage.pem", key = "server-key.pem" }'},
            "it is not PEM",
        ),
        ({"service": 'tls = { certificate = "cert.der", key = "x" }'}, "is no PEM text"),
        ({"service": 'tls = { certificate = "none.pem", key = "x" }'}, "No such file or directory"),
        ({"service": f'tls = {{ {PAIR}, client_ca = "empty.pem" }}'}, "it holds no certificate"),
        (
            {"server": 'tls = { mode = "verify-ca" }'},
            'server "db1" tls.mode: with mode = "verify-ca" somebody must have signed',
        ),
        (
            {"server": 'tls = { mode = "required", certificate = "server-cert.pem" }'},
            'server "db1" tls.certificate: a certificate is of no use without its key',
        ),
        (
            {
                "server": 'tls = { mode = "verify-identity", ca = "ca.pem" }',
                "address": '"unix:/run/mysqld/mysqld.sock"',
            },
            "a unix socket has no name",
        ),
        ({"server": 'tls = { mode = "verify_ca" }'}, 'server "db1" tls.mode:'),
    ],
)
def test_mistakes(parts: dict[str, str], mistake: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text(**parts), "p.toml", folder=folder)
    found = [f"{p.key}: {p.message} {p.hint}" for p in caught.value.problems]
    assert any(mistake in one for one in found), found
    assert "PRIVATE KEY-----\nM" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "doubt"),
    [
        ({"globals": "[tls]\nrequired = false", "mode": "relay"}, "tls: this has no effect"),
        (
            {"service": 'tls = {certificate="soon/server-cert.pem", key="soon/server-key.pem"}'},
            "in 9 days renew it, then: portside reload",
        ),
        (
            {"service": 'tls = {certificate="soon/server-cert.pem", key="soon/server-key.pem"}'},
            'service "app" tls.key: every user of this machine can read this key chmod o-rwx',
        ),
        (
            {"service": 'tls = {certificate="over/server-cert.pem", key="over/server-key.pem"}'},
            "whoever verifies it will refuse it renew it, then: portside reload",
        ),
        (
            {"server": 'tls = { mode = "required", ca = "ca.pem" }'},
            'server "db1" tls.ca: mode = "required" does not look at the certificate',
        ),
        ({"service": f"tls = {{ {PAIR} }}"}, ""),
    ],
)
def test_doubts(parts: dict[str, str], doubt: str, folder: Path) -> None:
    found = warnings(loads(text(**parts), "p.toml", folder=folder))
    words = [f"{p.key}: {p.message} {p.hint}" for p in found if "tls" in p.key]
    assert any(doubt in one for one in words) if doubt else words == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("server-cert.pem", []),
        (
            "soon/server-cert.pem",
            ["expires on {day}, in 9 days; renew it, then: portside reload"],
        ),
        (
            "over/server-cert.pem",
            [
                "expired on {day}: whoever verifies it will refuse it; renew it, then: portside"
                " reload"
            ],
        ),
    ],
)
def test_a_certificate_in_use_that_expires_is_an_alert(
    name: str, told: list[str], folder: Path
) -> None:
    pair = f'certificate = "{name}", key = "{name.replace("cert", "key")}"'
    config = loads(
        text(service=f"tls = {{ {pair} }}", server=f'tls = {{ mode = "required", {pair} }}'),
        "p.toml",
        folder=folder,
    )
    (certificate,) = certificates.in_use(config)
    times = certificates.validity(certificate)
    assert times is not None
    day = time.strftime("%Y-%m-%d", time.gmtime(times[1]))
    found = certificates.alerts(config, time.time())
    assert found == [f"certificate {name} {one.format(day=day)}" for one in told]
    assert certificates.alerts(config, times[0] - 1)[0].endswith(
        f"is not valid before {time.strftime('%Y-%m-%d', time.gmtime(times[0]))}"
    )
    nearly = certificates.alerts(config, times[1] - 86_400)
    assert nearly[0].startswith(f"certificate {name} expires on {day}, in 1 day; renew it")


def test_a_relay_shows_no_certificate(folder: Path) -> None:
    config = loads(
        text(globals=f"[tls]\n{PAIR.replace(', ', chr(10))}", mode="relay"), "p.toml", folder=folder
    )
    assert certificates.in_use(config) == ()


def snapshot_of(folder: Path, **parts: str) -> dict[str, Any]:
    config = loads(text(**parts), "p.toml", folder=folder)
    return snapshot.build(config, generation=1, resolved={}, members={}, accepting=True)


def test_what_reaches_the_data_plane(folder: Path) -> None:
    made = snapshot_of(
        folder,
        globals='[tls]\ncertificate = "server-cert.pem"\nkey = "server-key.pem"',
        service="tls = { required = true }",
        server='tls = { mode = "verify-identity", ca = "ca.pem" }',
        address='["db1.example.org:3306", "10.0.0.11:3306"]',
    )
    tls = made["services"][0]["tls"]
    assert tls == {
        "certificate": (folder / "server-cert.pem").read_text(),
        "key": (folder / "server-key.pem").read_text(),
        "required": True,
        "client_ca": None,
        "client_verify": True,
    }
    # A certificate that is a must cannot be shown without TLS.
    for more, required in (("", True), (', client_verify = "optional"', False)):
        tls = f'tls = {{ {PAIR}, client_ca = "ca.pem"{more} }}'
        assert snapshot_of(folder, service=tls)["services"][0]["tls"]["required"] is required
    assert made["servers"][0]["tls"]["name"] == "db1.example.org"
    assert snapshot_of(folder)["services"][0]["tls"] is None
    assert snapshot_of(folder)["servers"][0]["tls"] is None
    relay = snapshot_of(
        folder,
        globals='[tls]\ncertificate = "server-cert.pem"\nkey = "server-key.pem"',
        mode="relay",
    )
    assert relay["services"][0]["tls"] is None


def test_a_dump_names_the_files_and_loads_as_the_same(folder: Path) -> None:
    source = text(service=f"tls = {{ {PAIR} }}")
    config = loads(source, "p.toml", folder=folder)
    written = dump(config, reveal=True)
    assert "server-key.pem" in written and "PRIVATE" not in written
    assert loads(written, "p.toml", folder=folder) == config
    (folder / "p.toml").write_text(source)
    assert load(folder / "p.toml") == config
    assert "PRIVATE" not in repr(config)


def test_checks_use_the_settings_of_the_server(folder: Path) -> None:
    config = loads(
        text(server=f'tls = {{ mode = "verify-identity", ca = "ca.pem", {PAIR} }}'),
        "p.toml",
        folder=folder,
    )
    target = target_of(config.servers[0])
    assert target is not None and target.tls.name == ""
    assert "PRIVATE" not in repr(target)
    # Whom they trust is decided behind the handshake, by the data plane's rules.
    for rule in (target.tls, TlsRule("required"), TlsRule("verify-ca", target.tls.ca)):
        context = context_of(rule)
        assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)


@pytest.mark.parametrize(
    ("mode", "name", "why"),
    [
        ("required", "db1", None),
        ("verify-ca", "db1", None),
        ("verify-identity", "127.0.0.1", None),
        ("verify-identity", "10.0.0.11", "is not for 10.0.0.11"),
        ("wrong ca", "127.0.0.1", "is signed by another ca of the same name"),
    ],
)
def test_who_is_trusted_behind_the_handshake(
    folder: Path, mode: str, name: str, why: str | None
) -> None:
    ca = Authority().pem.decode() if mode == "wrong ca" else (folder / "ca.pem").read_text()
    rule = {"mode": mode.replace("wrong ca", "verify-ca"), "ca": ca, "name": name}
    shown = ssl.PEM_cert_to_DER_cert((folder / "server-cert.pem").read_text())
    tls = json.dumps({**rule, "certificate": None, "key": None})
    found = _core.judge_certificate(tls, [shown])
    assert (found is None) == (why is None) and (why or "") in (found or "")
    if rule["mode"] != "required":
        assert _core.judge_certificate(tls, []) == "the server showed no certificate"


def test_what_stands_in_a_certificate(folder: Path) -> None:
    (facts,) = json.loads(_core.read_certificate((folder / "server-cert.pem").read_text()))
    assert facts["subject"] == "CN=127.0.0.1"
    assert facts["names"] == ["127.0.0.1", "localhost"]
    assert facts["not_after_s"] > facts["not_before_s"] > 0
    certificate, _ = Authority().sign("db1.example.org", ())
    assert json.loads(_core.read_certificate(certificate.decode()))[0]["names"] == [
        "db1.example.org"
    ]
