"""The balancers of the demo, started with generated configurations for the same three servers.

write: the primary, a replica as backup. read: weights 1 : 10 : 10.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from portside.demo.child import Child
from portside.demo.database import APP_PASSWORD, APP_USER, MONITOR_PASSWORD, MONITOR_USER
from portside.demo.mariadb import MariaDB

WEIGHTS = (1, 10, 10)
"""Of primary, replica, replica in the read service: a primary has enough to do with writes."""


def portside_toml(
    folder: Path,
    servers: Sequence[MariaDB],
    address: str,
    write: int,
    read: int,
    *,
    is_pool: bool = False,
) -> str:
    """The configuration of the demo, written to be read and copied.

    Args:
        folder: where the admin socket goes.
        servers: primary, replica, replica.
        address: the balancer's own address.
        write: port of the write service.
        read: port of the read service.
        is_pool: in pool mode, which needs the clients' account.
    """
    mode, account = "", ""
    if is_pool:
        mode = 'mode = "pool"\n'
        account = f'[[user]]\nname = "{APP_USER}"\npassword = "{APP_PASSWORD}"\n\n'
    blocks = "\n".join(
        f'[[server]]\nname = "db{number}"\naddress = "{server.address}:{server.port}"\n'
        for number, server in enumerate(servers, 1)
    )
    weighted = ", ".join(
        f'{{ name = "db{number}", weight = {weight} }}' for number, weight in enumerate(WEIGHTS, 1)
    )
    return f"""[admin]
socket = "{folder}/admin.sock"

[check]
user = "{MONITOR_USER}"
password = "{MONITOR_PASSWORD}"

{account}{blocks}
[[service]]
name = "write"
listen = "{address}:{write}"
{mode}require = "writable"
servers = ["db1", {{ name = "db2", backup = true }}]

[[service]]
name = "read"
listen = "{address}:{read}"
{mode}require = "replicating"
max_lag = "10s"
servers = [{weighted}]
"""


def haproxy_cfg(servers: Sequence[MariaDB], address: str, write: int, read: int) -> str:
    """The article's configuration; arguments as ``portside_toml``'s."""
    names = [
        f"db{number} {server.address}:{server.port}" for number, server in enumerate(servers, 1)
    ]
    reads = "\n".join(
        f"    server {name} check weight {weight}"
        for name, weight in zip(names, WEIGHTS, strict=True)
    )
    return f"""global
    maxconn 4000
defaults
    mode tcp
    timeout connect 3s
    timeout client 1m
    timeout server 1m
listen write
    bind {address}:{write}
    server {names[0]} check
    server {names[1]} check backup
listen read
    bind {address}:{read}
    balance roundrobin
{reads}
"""


def start_portside(folder: Path, config: str, prefix: Sequence[str]) -> Child:
    """Starts ``portside run`` in the foreground of a child process."""
    file = folder / "portside.toml"
    file.write_text(config)
    command: list[str | Path] = [sys.executable, "-m", "portside", "run", "-c", file]
    return Child(command, folder / "portside.log", prefix)


def start_haproxy(program: str, folder: Path, config: str, prefix: Sequence[str]) -> Child:
    """Starts HAProxy in the foreground of a child process."""
    file = folder / "haproxy.cfg"
    file.write_text(config)
    return Child([program, "-db", "-f", file], folder / "haproxy.log", prefix)
