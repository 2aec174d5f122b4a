"""A running Portside as situations: its configuration, and what it does over two seconds.

The rate towards each server is the growth of its sessions, how long they stay open is sessions /
rate (Little's law). Decides nothing else; needs the installed package.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from portside.plan.configured import need_package, situations
from portside.plan.situation import Situation

_LOOKS = 20
_BETWEEN_S = 0.1


def read(
    address: str | None,
    base: Situation,
    *,
    keep_hold: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Situation, ...]:
    """The situations of the instance at an admin address.

    Args:
        address: as ``-a/--admin``; None: the default.
        base: what an instance does not say; with a rate, nothing is measured.
        keep_hold: the base's hold was given and is not to be measured.
        sleep: waits between two looks.

    Raises:
        NoInstance: nothing answers there.
        PortsideError: what answers is not Portside, or another version's.
        PlanError: the package is not installed, or no server is reached over TCP.
    """
    need_package("asking a running instance")
    from portside.admin.client import AdminClient

    client = AdminClient(address)
    config = _config(client.get("/v1/config")["toml"])
    no_timestamps = {
        row["server"] for row in client.get("/v1/ports") if row.get("peer_timestamps") is False
    }
    found = situations(config, base)
    if base.rate is None:
        began = time.monotonic()
        looks = [{row["name"]: row for row in client.get("/v1/servers")}]
        while len(looks) <= _LOOKS:
            sleep(_BETWEEN_S)
            looks.append({row["name"]: row for row in client.get("/v1/servers")})
        found = measured(found, looks, time.monotonic() - began, keep_hold)
    return tuple(
        replace(one, timestamps=one.timestamps and server_of(one) not in no_timestamps)
        for one in found
    )


def server_of(situation: Situation) -> str:
    """The server's name in the name of its destination."""
    return situation.name.partition(", ")[0]


def measured(
    found: tuple[Situation, ...],
    looks: Sequence[Mapping[str, Any]],
    seconds: float,
    keep_hold: bool = False,
) -> tuple[Situation, ...]:
    """The situations with what was seen; unchanged when there was no session. Pure.

    Args:
        found: one for each destination.
        looks: the servers by name, as the API has them, at even intervals; two at least.
        seconds: from the first look to the last.
        keep_hold: leave the hold as it is.
    """
    before, after = looks[0], looks[-1]
    opened = {
        name: max(0, row["sessions_total"] - before[name]["sessions_total"])
        for name, row in after.items()
        if name in before
    }
    total = sum(opened.values()) / seconds
    if not total:
        return found
    destinations: dict[str, int] = {}
    for one in found:
        destinations[server_of(one)] = destinations.get(server_of(one), 0) + 1
    result = []
    for one in found:
        name = server_of(one)
        rate = opened.get(name, 0) / seconds
        if rate:
            seen = [look[name]["sessions"] for look in looks if name in look]
            # Less than one session in all looks cannot be told from none: no less is assumed.
            hold = max(sum(seen), 1) / len(seen) / rate
            result.append(
                replace(
                    one,
                    rate=total,
                    share=rate / total / destinations[name],
                    hold_s=one.hold_s if keep_hold else hold,
                )
            )
    return tuple(result) or found


def _config(toml: str) -> Any:  # noqa: ANN401  a Config, which this file must not import
    """The instance's configuration; what its secrets refer to is not ours to read."""
    import tomllib

    from portside.config.model import Config, resolve

    return resolve(Config.model_validate(_without_secrets(tomllib.loads(toml))))


def _without_secrets(value: Any) -> Any:  # noqa: ANN401  a tree of TOML
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and {"file", "env"} & set(value):
        return "***"
    return {key: _without_secrets(item) for key, item in value.items()}
