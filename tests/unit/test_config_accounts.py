"""[[user]]: stored hashes and what they allow, each refusal and warning in its own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from portside.config import loads, warnings
from portside.config.accounts import method_of
from portside.errors import ConfigError

# Of mysql.user, MySQL 9.7, and of MariaDB's manual.
SLOW_HEX = (
    "2441243030412436252C125D39576D5B602B483F781E5617352C5F6A5769702F5A486E6C4838574D"
    "71485677552E66736D496F47344A635A655336765958472F4576524B2F35"
)
SLOW = bytes.fromhex(SLOW_HEX.replace("303041", "303035", 1)).decode()
NATIVE = "*F5CB189AAFE5D3CC8AB7CE363FD4A583C23E55DC"
ED25519 = "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY"


def text(user: str, listen: str = "10.0.0.5:3306") -> str:
    return (
        '[[server]]\nname = "db1"\naddress = "10.0.0.11:3306"\n'
        f'[[service]]\nname = "s"\nlisten = "{listen}"\nmode = "pool"\nservers = ["db1"]\n'
        f'[[user]]\nname = "app"\n{user}\n'
    )


def hashed(value: str) -> str:
    escaped = "".join(
        c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" for c in value
    )
    return f'password_hash = "{escaped}"'


def mistakes(user: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text(user))
    return [f"{p.key}: {p.message} {p.expected} {p.hint}" for p in caught.value.problems]


@pytest.mark.parametrize(
    ("stored", "method"),
    [
        (NATIVE, "mysql_native_password"),
        (NATIVE.lower(), "mysql_native_password"),
        (SLOW, "caching_sha2_password"),
        (SLOW_HEX, "caching_sha2_password"),
        (f"0x{SLOW_HEX}", "caching_sha2_password"),
        (ED25519, "ed25519"),
        (NATIVE[1:], None),
        (SLOW[:-1], None),
        ("$5$rounds=5000$salt$hash", None),
        ("secret", None),
    ],
)
def test_forms(stored: str, method: str | None) -> None:
    assert method_of(stored) == method


@pytest.mark.parametrize(
    ("user", "mistake"),
    [
        ("", 'user "app": there is no password  set password, or password_hash'),
        (f'password = "p"\n{hashed(NATIVE)}', "password_hash: there is a password too"),
        (hashed("secret-pw"), 'password_hash: this is no password hash that is known here "*" and'),
        (
            hashed(SLOW_HEX.replace("303041", "303246", 1)),
            "password_hash: this hash has 47,000 rounds: each login would stop a worker",
        ),
        (
            hashed(ED25519),
            "password_hash: nothing can log in to the servers: an ed25519 login tells nothing",
        ),
    ],
)
def test_refused(user: str, mistake: str) -> None:
    found = mistakes(user)
    assert any(mistake in one for one in found), found
    assert not any("secret-pw" in one for one in found)


@pytest.mark.parametrize("table", ["[pool]\n", "[[service]] pool"])
def test_a_key_file_without_a_key_is_refused(table: str, tmp_path: Path) -> None:
    (tmp_path / "rsa.pem").write_text(
        "-----BEGIN PUBLIC KEY-----\nMFww\n-----END PUBLIC KEY-----\n"
    )
    key = f'rsa_key = "{tmp_path}/rsa.pem"'
    wanted = text('password = "p"')
    if table == "[pool]\n":
        # Named once, it is spoken of once.
        other = (
            '[[service]]\nname = "t"\nlisten = "10.0.0.5:3399"\nmode = "pool"\nservers = ["db1"]'
        )
        wanted = f"[pool]\n{key}\n{wanted}\n{other}\n"
    else:
        wanted = wanted.replace("servers =", f"pool = {{ {key} }}\nservers =")
    with pytest.raises(ConfigError, match="rsa_key: this file has no private key") as caught:
        loads(wanted)
    assert len(caught.value.problems) == 1
    (tmp_path / "rsa.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\nMFww\n-----END PRIVATE KEY-----\n"
    )
    (tmp_path / "rsa.pem").chmod(0o644)
    (found,) = warnings(loads(wanted))
    assert found.key.endswith("rsa_key") and "every user of this machine" in found.message


def test_a_broken_key_beside_a_hash_is_the_only_mistake() -> None:
    assert len(mistakes(f"{hashed(NATIVE)}\nmax_connections = 0")) == 1


@pytest.mark.parametrize(
    ("user", "listen", "doubt"),
    [
        (hashed(NATIVE), "10.0.0.5:3306", "only where this account has mysql_native_password"),
        (f'{hashed(NATIVE)}\nserver_password = "p"', "10.0.0.5:3306", None),
        (hashed(SLOW), "10.0.0.5:3306", "there is no TLS on service s: clients must ask for"),
        (hashed(SLOW), "unix:/run/s.sock", None),
        (f'{hashed(ED25519)}\nserver_password = "p"', "10.0.0.5:3306", None),
        ('password = "p"', "10.0.0.5:3306", None),
    ],
)
def test_doubtful(user: str, listen: str, doubt: str | None) -> None:
    found = [p.message for p in warnings(loads(text(user, listen)))]
    assert any(doubt in one for one in found) if doubt else found == [], found


@pytest.mark.parametrize("version", ["8.0.36", "5.5.5-10.11.6-MariaDB"])
def test_a_server_version_begins_with_numbers(version: str) -> None:
    key = "servers = "
    good = text('password = "p"').replace(key, f'server_version = "{version}"\n{key}')
    assert loads(good).services[0].server_version == version
    with pytest.raises(ConfigError, match=r"a version such as"):
        loads(good.replace(version, f"MySQL {version}"))
