"""The TLS of checks: what a server's sessions of pool mode have, made ready for PyMySQL.

For: one reading of ``[[server]] tls`` on both sides of Portside. It must not open sockets.
"""

from __future__ import annotations

import functools
import json
import os
import ssl

from portside import _core

from .target import TlsRule

# _ssl.ENCODING_DER; of Python 3.13 on the chain is bytes by itself.
_DER = 2

WANTED = TlsRule("required")
"""Encrypts without knowing the server: for an account that insists where nothing is configured."""


@functools.lru_cache(maxsize=64)
def context_of(rule: TlsRule) -> ssl.SSLContext:
    """The settings of one server, but for whom it trusts: `distrust` comes after the handshake.

    A handshake that is broken off counts against our address, and after 100 (max_connect_errors)
    the server refuses it. Cached: a check runs every second or two.

    Raises:
        ssl.SSLError, OSError: a certificate cannot be used; `portside check` would have said so.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if rule.certificate and rule.key:
        _load_pair(context, rule)
    return context


def _load_pair(context: ssl.SSLContext, rule: TlsRule) -> None:
    # Python takes a pair only by path; this one is in memory and nobody else's.
    fd = os.memfd_create("portside-check", os.MFD_CLOEXEC)
    with open(fd, "w", encoding="ascii") as file:
        file.write(f"{rule.key}\n{rule.certificate}\n")
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{fd}")


def distrust(rule: TlsRule, name: str, secured: ssl.SSLSocket) -> str | None:
    """Why nothing of ours may be said to this server; None: it is the right one.

    Args:
        rule: of the server.
        name: whom it must be for, where the rule names nobody.
        secured: after the handshake.
    """
    if rule.mode not in ("verify-ca", "verify-identity"):
        return None
    chain = secured._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
    spec = {
        "mode": rule.mode,
        "ca": rule.ca,
        "certificate": None,
        "key": None,
        "name": rule.name or name,
    }
    shown = [one if isinstance(one, bytes) else one.public_bytes(_DER) for one in chain]
    return _core.judge_certificate(json.dumps(spec), shown)
