"""The rules of `verify` about TLS: `mistakes` that refuse a configuration, `doubts` that only warn.

Certificates are judged by the very code that uses them (`_core.read_certificate`). The one
question to the system is what time it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from portside import _core
from portside.config import certificates
from portside.config.finding import Finding
from portside.config.model import Config, ServerTls, Tls
from portside.config.pem import Pem
from portside.config.positions import Path


def mistakes(config: Config) -> Iterator[Finding]:
    """Everything about TLS that refuses the (resolved) configuration."""
    yield from _of_relays(config)
    for path, tls in _fronts(config):
        yield from _pair(path, tls)
        if tls.certificate is None:
            for key, value in (("required", tls.required), ("client_ca", tls.client_ca)):
                if value and key in tls.model_fields_set:
                    message = "nothing can be offered without a certificate and its key"
                    yield Finding((*path, key), message, needs=((*path, "certificate"),))
        if tls.client_ca is not None:
            yield from _authorities((*path, "client_ca"), tls.client_ca)
    for index, server in enumerate(config.servers):
        path, behind = ("server", index, "tls"), server.tls
        yield from _pair(path, behind)
        if behind.ca is not None:
            yield from _authorities((*path, "ca"), behind.ca)
        elif behind.verifies:
            message = f'with mode = "{behind.mode}" somebody must have signed the certificate'
            hint = 'add ca = "/path/ca.pem"'
            yield Finding((*path, "mode"), message, "", "a ca", hint, ((*path, "ca"),))
        is_unix = all(address.kind == "unix" for address in server.addresses)
        if behind.mode == "verify-identity" and behind.name is None and is_unix:
            message = "a unix socket has no name that a certificate could be for"
            yield Finding((*path, "mode"), message, hint='add name = "..."')


def doubts(config: Config) -> Iterator[Finding]:
    """Everything about TLS that is allowed but probably not meant."""
    is_used = any(service.mode == "pool" for service in config.services)
    if "tls" in config.model_fields_set and not is_used:
        yield Finding(("tls",), 'this has no effect: no service has mode = "pool"')
    for path, tls in _fronts(config):
        yield from _age((*path, "certificate"), tls.certificate)
    for index, server in enumerate(config.servers):
        here: Path = ("server", index, "tls")
        yield from _age((*here, "certificate"), server.tls.certificate)
        if server.tls.ca is not None and not server.tls.verifies:
            message = f'mode = "{server.tls.mode}" does not look at the certificate'
            yield Finding(
                (*here, "ca"), message, hint='use mode = "verify-ca" or "verify-identity"'
            )


def _of_relays(config: Config) -> Iterator[Finding]:
    for index, service in enumerate(config.services):
        if service.mode == "relay" and service.tls.model_fields_set:
            yield Finding(
                ("service", index, "tls"),
                "a relay passes TLS through to the server, whose certificate clients see",
                hint='only mode = "pool" has a certificate of its own; leave this out',
                needs=(("service", index, "mode"),),
            )


def _fronts(config: Config) -> Iterator[tuple[Path, Tls]]:
    """Each table in force once: the global one, and those that set keys of their own."""
    if config.tls.model_fields_set:
        yield ("tls",), config.tls
    for index, service in enumerate(config.services):
        if service.mode == "pool" and service.tls.model_fields_set:
            yield ("service", index, "tls"), service.tls


def _pair(path: Path, tls: Tls | ServerTls) -> Iterator[Finding]:
    certificate, key = tls.certificate, tls.key
    if certificate is None or key is None:
        for name, other, one in (("certificate", "key", certificate), ("key", "certificate", key)):
            if one is not None:
                message = f"a {name} is of no use without its {other}"
                yield Finding((*path, name), message, f'"{one}"', needs=((*path, other),))
        return
    try:
        _core.read_certificate(certificate.text, key.text)
    except ValueError as error:
        needs = ((*path, "key"), (*path[:1], "key"))
        yield Finding((*path, "certificate"), str(error), f'"{certificate}"', needs=needs)


def _authorities(path: Path, pem: Pem) -> Iterator[Finding]:
    try:
        _core.read_certificate(pem.text)
    except ValueError as error:
        yield Finding(path, str(error), f'"{pem}"')


def _age(path: Path, certificate: Pem | None) -> Iterator[Finding]:
    told = certificates.trouble(certificate, time.time()) if certificate else None
    if told is not None:
        text, hint = told
        yield Finding(path, f"this certificate {text}", f'"{certificate}"', hint=hint)
