"""The certificates that Portside shows, and until when they are good.

Pure: time is an argument. Certificates are judged by the very code that uses them.
"""

from __future__ import annotations

import functools
import json
import time
from typing import Any, Final

from portside import _core
from portside.config.model import Config
from portside.config.pem import Pem
from portside.counted import counted

# Long enough for a renewal that needs a holiday's end; certbot begins at 30.
_WARN_DAYS: Final = 14
_DAY_S: Final = 86400


def in_use(config: Config) -> tuple[Pem, ...]:
    """Those of pools towards clients, and ours towards servers; each once."""
    fronts = [service.tls.certificate for service in config.services if service.mode == "pool"]
    shown = (*fronts, *(server.tls.certificate for server in config.servers))
    return tuple(dict.fromkeys(one for one in shown if one is not None))


@functools.lru_cache(maxsize=256)
def validity(certificate: Pem) -> tuple[float, float] | None:
    """From when until when, in seconds since 1970; None: it cannot be read."""
    try:
        first: dict[str, Any] = json.loads(_core.read_certificate(certificate.text))[0]
    except ValueError:
        return None
    return first["not_before_s"], first["not_after_s"]


def trouble(certificate: Pem, now_s: float) -> tuple[str, str] | None:
    """That it "expires on ..." when that is near, or is not valid now, and the cure, or ""."""
    times = validity(certificate)
    if times is None:
        return None
    begins_s, ends_s = times
    left, cure = (ends_s - now_s) / _DAY_S, "renew it, then: portside reload"
    if left < 0:
        return f"expired on {_date(ends_s)}: whoever verifies it will refuse it", cure
    if left < _WARN_DAYS:
        return f"expires on {_date(ends_s)}, in {counted(round(left), 'day')}", cure
    return (f"is not valid before {_date(begins_s)}", "") if begins_s > now_s else None


def alerts(config: Config, now_s: float) -> list[str]:
    """A sentence for each certificate in use that needs somebody."""
    found = [(one, told) for one in in_use(config) if (told := trouble(one, now_s)) is not None]
    return [f"certificate {one} {'; '.join(filter(None, told))}" for one, told in found]


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))
