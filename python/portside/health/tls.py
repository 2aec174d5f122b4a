"""The TLS of checks: what a server's sessions of pool mode have, made ready for PyMySQL.

For: one reading of ``[[server]] tls`` on both sides of Portside. It must not open sockets.
"""

from __future__ import annotations

import functools
import os
import ssl

from .target import TlsRule

WANTED = TlsRule("required")
"""Encrypts without knowing the server: for an account that insists where nothing is configured."""


@functools.lru_cache(maxsize=64)
def context_of(rule: TlsRule) -> ssl.SSLContext:
    """The settings of one server. Cached: a check runs every second or two.

    Raises:
        ssl.SSLError, OSError: a certificate cannot be used; `portside check` would have said so.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = rule.mode == "verify-identity"
    if rule.mode not in ("verify-ca", "verify-identity"):
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=rule.ca)
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
