"""Portside: a load balancer for MySQL and MariaDB that does not run out of source ports.

Everything the ``portside`` command does can be had from Python::

    import portside

    config = portside.load("portside.toml")    # ConfigError: every mistake at once

    with portside.Balancer(config) as balancer:
        balancer.wait_ready()
        host, port = balancer.address("read")
        ...                                        # connect any MySQL driver there
        balancer.drain("db2")
        for server in balancer.servers():
            print(server.name, server.state, server.sessions)

Names are imported when they are first used, so that ``import portside`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portside.admin.client import AdminClient, Refused
    from portside.admin.views import (
        MemberView,
        PortView,
        ReloadView,
        ServerView,
        ServiceView,
        SessionView,
        StatusView,
    )
    from portside.balancer import Balancer
    from portside.config.load import load, loads, warnings
    from portside.config.model import Config
    from portside.control.event_ring import Event
    from portside.control.refusal import Refusal
    from portside.errors import ConfigError, ExitCode, NoInstance, PortsideError, Problem
    from portside.importer.imported import Imported, import_haproxy, import_proxysql

    __version__: str

_HOMES = {
    "AdminClient": "admin.client",
    "Balancer": "balancer",
    "Config": "config.model",
    "ConfigError": "errors",
    "Event": "control.event_ring",
    "ExitCode": "errors",
    "Imported": "importer.imported",
    "MemberView": "admin.views",
    "NoInstance": "errors",
    "PortsideError": "errors",
    "PortView": "admin.views",
    "Problem": "errors",
    "Refusal": "control.refusal",
    "Refused": "admin.client",
    "ReloadView": "admin.views",
    "ServerView": "admin.views",
    "ServiceView": "admin.views",
    "SessionView": "admin.views",
    "StatusView": "admin.views",
    "import_haproxy": "importer.imported",
    "import_proxysql": "importer.imported",
    "load": "config.load",
    "loads": "config.load",
    "warnings": "config.load",
}

__all__ = [
    "AdminClient",
    "Balancer",
    "Config",
    "ConfigError",
    "Event",
    "ExitCode",
    "Imported",
    "MemberView",
    "NoInstance",
    "PortView",
    "PortsideError",
    "Problem",
    "Refusal",
    "Refused",
    "ReloadView",
    "ServerView",
    "ServiceView",
    "SessionView",
    "StatusView",
    "__version__",
    "import_haproxy",
    "import_proxysql",
    "load",
    "loads",
    "warnings",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  whatever the name stands for
    if name == "__version__":
        from portside.control.host import version

        return version()
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'portside' has no attribute {name!r}")
    value = getattr(import_module(f"portside.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
