"""Rules of [[user]]: who can log in to a pool service, and whether its connections can.

A stored hash knows one method in front, and behind only what a client has told; the table is in
docs/pooling.md, "Stored hashes". Pure. A hash is never part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from portside.config.finding import Finding
from portside.config.model import Config, Service, User
from portside.config.pem import Pem
from portside.config.positions import Path

Method = Literal["mysql_native_password", "caching_sha2_password", "ed25519"]

_NATIVE: Final = re.compile(r"\*[0-9A-Fa-f]{40}")
_ED25519: Final = re.compile(r"[0-9A-Za-z+/]{43}")
# $A$, thousands of rounds (hexadecimal), $, 20 bytes of salt, 43 characters of hash.
_SHA2: Final = re.compile(r"\$A\$([0-9A-Fa-f]{3})\$[\0-\x7f]{20}[./0-9A-Za-z]{43}")
_SHA2_HEX: Final = re.compile(r"(?:0x)?([0-9A-Fa-f]{140})")
_KEY: Final = re.compile(r"-----BEGIN (?:RSA )?PRIVATE KEY-----")
_FORMS: Final = (
    '"*" and 40 hexadecimal digits (mysql_native_password), "$A$005$..." or its bytes as'
    " hexadecimal digits (caching_sha2_password), or 43 characters (ed25519)"
)
MAX_ROUNDS: Final = 20_000
"""Rounds of a caching_sha2_password hash at most: a login is hashed by a worker."""


def method_of(password_hash: str) -> Method | None:
    """The method that stores hashes of this form; None: no hash that is known here."""
    if _NATIVE.fullmatch(password_hash):
        return "mysql_native_password"
    if _rounds(password_hash) is not None:
        return "caching_sha2_password"
    return "ed25519" if _ED25519.fullmatch(password_hash) else None


def _rounds(password_hash: str) -> int | None:
    if digits := _SHA2_HEX.fullmatch(password_hash):
        password_hash = bytes.fromhex(digits[1]).decode("latin-1")
    found = _SHA2.fullmatch(password_hash)
    return int(found[1], 16) * 1000 if found else None


def services_of(user: User, config: Config) -> list[Service]:
    """The pool services that an account may use."""
    return [
        service
        for service in config.services
        if service.mode == "pool" and (not user.services or service.name in user.services)
    ]


def mistakes(config: Config) -> Iterator[Finding]:
    """What refuses the configuration."""
    names = [service.name for service in config.services]
    for index, user in enumerate(config.users):
        path: Path = ("user", index)
        for service in user.services:
            if service not in names:
                yield Finding((*path, "services"), f"there is no service {service}", f'"{service}"')
        yield from _secret(user, path)
    for path, key in _keys(config).items():
        if not _KEY.search(key.text):
            yield Finding(
                path,
                "this file has no private key",
                expected='a PEM file with "BEGIN PRIVATE KEY", without a passphrase',
                hint="openssl genrsa -out rsa.pem 2048",
            )
    for index, service_table in enumerate(config.services):
        if service_table.mode == "pool" and not any(
            service_table in services_of(user, config) for user in config.users
        ):
            yield Finding(
                ("service", index, "mode"),
                "nobody may log in: no [[user]] is for this service",
                '"pool"',
                hint="add a [[user]] with name and password",
            )


def _secret(user: User, path: Path) -> Iterator[Finding]:
    if user.password is not None and user.password_hash is not None:
        yield Finding(
            (*path, "password_hash"),
            "there is a password too",
            hint="one of them is enough",
            needs=((*path, "password"),),
        )
    elif user.password is None and user.password_hash is None:
        yield Finding(path, "there is no password", hint="set password, or password_hash")
    elif user.password_hash is not None:
        here: Path = (*path, "password_hash")
        stored = user.password_hash.reveal()
        method = method_of(stored)
        if method is None:
            yield Finding(here, "this is no password hash that is known here", expected=_FORMS)
        elif not 1 <= (_rounds(stored) or 1) <= MAX_ROUNDS:
            yield Finding(
                here,
                f"this hash has {_rounds(stored):,} rounds: each login would stop a worker",
                expected=f"1,000 to {MAX_ROUNDS:,} rounds (MySQL's default: 5,000)",
            )
        elif method == "ed25519" and user.server_password is None:
            yield Finding(
                here,
                "nothing can log in to the servers: an ed25519 login tells nothing of the password",
                hint="add server_password (and server_user)",
            )


def doubts(config: Config) -> Iterator[Finding]:
    """What is allowed but may not be meant."""
    for index, user in enumerate(config.users):
        if user.password_hash is None or not services_of(user, config):
            continue
        here: Path = ("user", index, "password_hash")
        method = method_of(user.password_hash.reveal())
        if method == "mysql_native_password" and user.server_password is None:
            yield Finding(
                here,
                "servers can be logged in to only where this account has mysql_native_password"
                " (MySQL 9 has none)",
                hint="else add server_password",
            )
        readable = [service.name for service in services_of(user, config) if _is_readable(service)]
        if method == "caching_sha2_password" and readable:
            yield Finding(
                here,
                "a first login needs the client's password, and there is no TLS on service"
                f" {', '.join(readable)}: clients must ask for the RSA key",
                hint="set [tls]; or mysql: --get-server-public-key, JDBC:"
                " allowPublicKeyRetrieval=true",
            )


def _keys(config: Config) -> dict[Path, Pem]:
    """The keys by the place in the file that names them: that of [pool] once for all services."""
    found: dict[Path, Pem] = {}
    for index, service in enumerate(config.services):
        key = service.pool.rsa_key
        if key is not None:
            is_global = key == config.pool.rsa_key
            found[("pool", "rsa_key") if is_global else ("service", index, "pool", "rsa_key")] = key
    return found


def _is_readable(service: Service) -> bool:
    """Whether clients come over TCP and cannot use TLS."""
    has_tcp = any(listen.address.kind != "unix" for listen in service.listen)
    return has_tcp and service.tls.certificate is None
