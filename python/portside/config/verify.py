"""Keys judged against each other: `mistakes` that refuse a configuration, `doubts` that only warn.

Pure but for five questions to the system, all about this machine as it is: does a user, a group
or the log's folder exist, is an address on it, may we bind a port below 1024, and which ports does
the kernel give to others. Each rule is one small generator of findings; those of [[user]] are in
`accounts`.
"""

from __future__ import annotations

import difflib
import errno
import grp
import ipaddress
import os
import pwd
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from portside.config import accounts, open_files, verify_tls
from portside.config.addresses import Address
from portside.config.finding import Finding
from portside.config.model import Check, Config, Server, Source
from portside.config.port_space import kernel_range, overlap, reserved_ports, reserving
from portside.config.positions import Path

# The kernel's default; net.ipv4.ip_unprivileged_port_start overrides it.
_FIRST_FREE_PORT: Final = 1024
_CAP_NET_BIND_SERVICE: Final = 1 << 10


def mistakes(config: Config) -> Iterator[Finding]:
    """Everything that refuses the (resolved) configuration."""
    for rule in _MISTAKES:
        yield from rule(config)


def doubts(config: Config) -> Iterator[Finding]:
    """Everything that is allowed but probably not meant."""
    for rule in _DOUBTS:
        yield from rule(config)


def _something_to_do(config: Config) -> Iterator[Finding]:
    for array, tables in (("server", config.servers), ("service", config.services)):
        if not tables:
            yield Finding((array,), f"there is no [[{array}]]", hint="one is enough to start with")


def _unique_names(config: Config) -> Iterator[Finding]:
    arrays = {
        "server": [server.name for server in config.servers],
        "service": [service.name for service in config.services],
        "user": [user.name for user in config.users],
    }
    for array, names in arrays.items():
        for index, name in enumerate(names):
            if name in names[:index]:
                message = f"there is another {array} of this name"
                yield Finding((array, index, "name"), message, _q(name))


def _members(config: Config) -> Iterator[Finding]:
    known = config.by_name
    # One more than there are, so that a [server] that is no list at all counts as a broken name.
    names: tuple[Path, ...] = tuple(("server", i, "name") for i in range(len(config.servers) + 1))
    for index, service in enumerate(config.services):
        path: Path = ("service", index, "servers")
        seen: set[str] = set()
        for number, member in enumerate(service.servers):
            here = (*path, number)
            if member.name not in known:
                hint = _nearest(member.name, known)
                yield Finding(here, "no [[server]] has this name", _q(member.name), "", hint, names)
            if member.name in seen:
                yield Finding(here, "this server is named twice", _q(member.name))
            seen.add(member.name)
        if all(member.backup for member in service.servers):
            yield Finding(path, "every server is a backup", expected="one that is not")


def _listeners(config: Config) -> Iterator[Finding]:
    # By port and path: only these can clash, and there may be hundreds of listeners.
    seen: dict[tuple[int, str], list[tuple[Address, str]]] = {}
    owners: dict[Address, str] = {}
    for path, who, address in _listening(config):
        near = seen.setdefault((address.port, address.path), [])
        for other, owner in near:
            if clash(address, other):
                yield Finding(path, f"{owner} already listens on {other}", _q(address))
                break
        near.append((address, who))
        owners[address] = who
    for index, server in enumerate(config.servers):
        for address in server.addresses:
            if address in owners:
                message = (
                    f"{owners[address]} listens on this address: sessions would go in a circle"
                )
                yield Finding(("server", index, "address"), message, _q(address))


def _listening(config: Config) -> Iterator[tuple[Path, str, Address]]:
    if config.admin.listen is not None:
        yield ("admin", "listen"), "[admin]", config.admin.listen
    if config.metrics.listen is not None:
        yield ("metrics", "listen"), "[metrics]", config.metrics.listen
    yield ("admin", "socket"), "[admin]", Address("unix", path=config.admin.socket)
    for index, service in enumerate(config.services):
        for number, listen in enumerate(service.listen):
            path: Path = ("service", index, "listen", number)
            yield path, f"service {service.name}", listen.address


def clash(one: Address, other: Address) -> bool:
    """Whether two listeners would want the same connections; [::] covers IPv4 too.

    Port 0 never clashes: each listener gets a free port of its own.
    """
    if one.kind == "unix" or other.kind == "unix":
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    # Texts, not parsed addresses: they are canonical, and a file may have a thousand listeners.
    return one.host == other.host or _covers(one, other) or _covers(other, one)


def _covers(one: Address, other: Address) -> bool:
    return one.host == "::" or (one.host == "0.0.0.0" and ":" not in other.host)


def _socket_owners(config: Config) -> Iterator[Finding]:
    for index, service in enumerate(config.services):
        for number, listen in enumerate(service.listen):
            path: Path = ("service", index, "listen", number)
            unix_keys = {"mode": listen.mode, "user": listen.user, "group": listen.group}
            for key, value in unix_keys.items():
                if value is not None and listen.address.kind != "unix":
                    yield Finding((*path, key), "only a unix socket has this key", _q(value))
            if listen.user is not None and not _exists(pwd.getpwnam, listen.user):
                yield Finding((*path, "user"), "this machine has no such user", _q(listen.user))
            if listen.group is not None and not _exists(grp.getgrnam, listen.group):
                yield Finding((*path, "group"), "this machine has no such group", _q(listen.group))


def _requirements(config: Config) -> Iterator[Finding]:
    servers = {server.name: (i, server) for i, server in enumerate(config.servers)}
    for index, service in enumerate(config.services):
        path: Path = ("service", index, "require")
        if service.max_lag_s is not None and service.require != "replicating":
            message = 'the lag matters only with require = "replicating"'
            yield Finding(("service", index, "max_lag"), message, needs=(path,))
        if service.require == "none":
            continue
        blind = [
            member.name
            for member in service.servers
            if member.name in servers and not _logs_in(servers[member.name][1])
        ]
        if blind:
            needs = tuple(("server", servers[name][0], "check") for name in blind)
            yield Finding(
                path,
                f"read_only and lag are unknown without a check that logs in ({', '.join(blind)})",
                _q(service.require),
                hint="give [check] a user and a password",
                needs=(("check",), *needs),
            )


def _logs_in(server: Server) -> bool:
    return server.check is not None and server.check.logs_in


def _checks(config: Config) -> Iterator[Finding]:
    yield from _check_keys(("check",), config.check, config.check.model_fields_set)
    for index, server in enumerate(config.servers):
        if server.check is not None:
            own = server.check.model_fields_set
            yield from _check_keys(("server", index, "check"), server.check, own)


def _check_keys(path: Path, check: Check, own: Iterable[str]) -> Iterator[Finding]:
    """Rules of one check table; silent where the table itself set nothing (the other one did)."""
    if not own:
        return
    needs: tuple[Path, ...] = (("check",),)
    kind = check.type
    if kind in ("login", "query") and check.user is None:
        yield Finding(path, f'a check of type "{kind}" needs a user', needs=needs)
    if kind == "query" and check.query is None:
        yield Finding(path, 'a check of type "query" needs a query', needs=needs)
    if kind == "python" and check.function is None:
        yield Finding(path, 'a check of type "python" needs a function', needs=needs)
    if check.password is not None and check.user is None:
        yield Finding(path, "there is a password but no user", needs=needs)
    if check.function is not None and kind != "python":
        message = f'a function needs type = "python", and the type is "{kind}"'
        yield Finding((*path, "function"), message, needs=needs)
    if check.query is not None and kind != "query":
        message = f'a query is not run by a check of type "{kind}"'
        yield Finding((*path, "query"), message, needs=needs)


def _sources(config: Config) -> Iterator[Finding]:
    tables: list[tuple[Path, tuple[str, ...]]] = [(("source",), config.source.addresses)]
    for index, server in enumerate(config.servers):
        if "addresses" in server.source.model_fields_set:
            tables.append((("server", index, "source"), server.source.addresses))
    for path, addresses in tables:
        for number, address in enumerate(addresses):
            if (why := _cannot_connect_from(address)) is not None:
                yield Finding((*path, "addresses", number), why, _q(address))
            if address in ("0.0.0.0", "::"):
                message = "this is no address to connect from; ports would be taken on all of them"
                hint = "leave source.addresses out to use what the route says"
                yield Finding((*path, "addresses", number), message, _q(address), "", hint)
    for index, server in enumerate(config.servers):
        ours = {ipaddress.ip_network(a).version for a in server.source.addresses}
        theirs = {address.ip.version for address in server.addresses if address.ip is not None}
        is_literal = all(address.kind == "ip" for address in server.addresses)
        if ours and is_literal and not ours & theirs:
            yield Finding(
                ("server", index, "address"),
                f"no source address is IPv{theirs.pop()}",
                ", ".join(str(address) for address in server.addresses),
                hint="add one to source.addresses, or give the server its own source table",
                needs=(("source",), ("server", index, "source")),
            )


def _cannot_connect_from(source: str) -> str | None:
    if "%" in source:
        return "an address with a scope cannot be used; give the interface a global one"
    if ipaddress.ip_network(source).is_multicast:
        return "no connection can come from a multicast address"
    return None


def _own_destinations(config: Config) -> Iterator[Finding]:
    for index, server in enumerate(config.servers):
        for address in dict.fromkeys(a for a in server.addresses if server.addresses.count(a) > 1):
            yield Finding(("server", index, "address"), "this address is twice here", _q(address))


def _absent_sources(config: Config) -> Iterator[Finding]:
    """Only a doubt: a virtual address may come later."""
    for path, source in _source_tables(config):
        gone = [ip for ip in source.ips if not _cannot_connect_from(ip) and not _is_here(ip)]
        if gone:
            others = f" (nor {len(gone) - 1} more)" if len(gone) > 1 else ""
            message = f"this host does not have {gone[0]}{others} now: used once it is here"
            yield Finding((*path, "addresses"), message)


def _is_here(ip: str) -> bool:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.bind((ip, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _large_reserve(config: Config) -> Iterator[Finding]:
    for path, source in _source_tables(config):
        if source.ports is None:
            continue
        most = (source.ports[1] - source.ports[0] + 1) // 2
        if source.reserve > most:
            message = f"only half of the ports, {most}, can be kept for checks"
            yield Finding((*path, "reserve"), message, str(source.reserve))


def _source_tables(config: Config) -> Iterator[tuple[Path, Source]]:
    yield ("source",), config.source
    for index, server in enumerate(config.servers):
        if server.source != config.source:
            yield ("server", index, "source"), server.source


def _admin(config: Config) -> Iterator[Finding]:
    admin = config.admin
    if admin.listen is not None and admin.token is None:
        yield Finding(
            ("admin", "listen"),
            "TCP needs a token, also on loopback: every local user can reach it",
            _q(admin.listen),
            hint='add token = { file = "/etc/portside/token" }, or use the socket',
            needs=(("admin", "token"),),
        )
    for table, address in (("admin", admin.listen), ("metrics", config.metrics.listen)):
        if address is not None and address.kind == "unix":
            yield Finding((table, "listen"), "this is TCP only", _q(address), '"ip:port"')


def _log_file(config: Config) -> Iterator[Finding]:
    if config.log.file is None:
        return
    path, folder = ("log", "file"), os.path.dirname(config.log.file)
    if os.path.isdir(config.log.file):
        yield Finding(path, "this is a folder", _q(config.log.file), "a file in it")
    elif not os.path.isdir(folder):
        message = f"there is no folder {folder}"
        yield Finding(path, message, _q(config.log.file), hint=f"mkdir -p {folder}")


def _unsafe_writes(config: Config) -> Iterator[Finding]:
    for index, service in enumerate(config.services):
        if service.has_backup and service.require == "none":
            message = (
                "a backup takes over by being reachable alone: if this service writes, two servers"
                " may take writes"
            )
            hint = 'add require = "writable"'
            yield Finding(("service", index), message, hint=hint)


def _aborting_checks(config: Config) -> Iterator[Finding]:
    paths: list[tuple[Path, Check | None]] = [(("check", "type"), config.check)]
    for index, server in enumerate(config.servers):
        if server.check is not None and "type_written" in server.check.model_fields_set:
            paths.append((("server", index, "check", "type"), server.check))
    for path, check in paths:
        if check is not None and check.type == "mysql":
            message = (
                "the server counts each of these checks in Aborted_connects and blocks this address"
                " after max_connect_errors (100) of them in a row"
            )
            yield Finding(path, message, '"mysql"', hint='use type = "tcp", or give a user')


def _no_new_sessions(config: Config) -> Iterator[Finding]:
    for index, service in enumerate(config.services):
        if all(member.weight == 0 for member in service.servers):
            message = "every weight is 0: no server takes new sessions"
            yield Finding(("service", index, "servers"), message)


def _mixed_families(config: Config) -> Iterator[Finding]:
    for index, server in enumerate(config.servers):
        ours = {ipaddress.ip_network(a).version for a in server.source.addresses}
        if not ours:
            continue
        idle = [a for a in server.addresses if a.ip is not None and a.ip.version not in ours]
        for address in idle if len(idle) < len(server.addresses) else ():
            message = f"{address} will not be used: no source address of its family"
            yield Finding(("server", index, "address"), message)


def _same_instance(config: Config) -> Iterator[Finding]:
    seen: dict[Address, str] = {}
    for index, server in enumerate(config.servers):
        for address in server.addresses:
            if address in seen and seen[address] != server.name:
                message = f"server {seen[address]} has this address too: limits hold for each alone"
                yield Finding(("server", index, "address"), message, _q(address))
            seen.setdefault(address, server.name)


def _local_files(config: Config) -> Iterator[Finding]:
    for index, service in enumerate(config.services):
        path: Path = ("service", index, "local_infile")
        if service.local_infile and service.mode != "pool":
            message = 'this has no effect: without mode = "pool" LOAD DATA LOCAL passes anyway'
            yield Finding(path, message)
        elif service.local_infile:
            message = (
                "who can change a client's statements (SQL injection) can now read "
                "files of the client's host"
            )
            hint = "leave it out unless an application uses LOAD DATA LOCAL"
            yield Finding(path, message, hint=hint)


def _pools(config: Config) -> Iterator[Finding]:
    for index, service in enumerate(config.services):
        if service.mode != "pool":
            continue
        pool, path = service.pool, ("service", index, "pool")
        if pool.min_idle > pool.max:
            message = f"no more than max, {pool.max}, are ever open"
            yield Finding((*path, "min_idle"), message, str(pool.min_idle))
        for server in config.servers:
            cap = server.max_connections
            if cap and cap < pool.max and server.name in {m.name for m in service.servers}:
                message = f"server {server.name} takes {cap} at most (max_connections)"
                yield Finding((*path, "max"), message, str(pool.max), hint=f"lower max to {cap}")


def _unused(config: Config) -> Iterator[Finding]:
    for index, service in enumerate(config.services):
        if service.server_version is not None and service.mode != "pool":
            message = "this has no effect: in a relay the server greets"
            yield Finding(("service", index, "server_version"), message)
    if all(service.mode != "pool" for service in config.services):
        for key in ("pool", "users"):
            if key in config.model_fields_set:
                path: Path = ("user", 0) if key == "users" else ("pool",)
                yield Finding(path, 'this has no effect: no service has mode = "pool"')
    used = {member.name for service in config.services for member in service.servers}
    for index, server in enumerate(config.servers):
        if server.name not in used:
            yield Finding(("server", index), "no service names this server")


def _own_ports(config: Config) -> Iterator[Finding]:
    for path, _, address in _listening(config):
        for server in config.servers:
            ports = server.source.ports
            if ports is None or address.ip is None or not ports[0] <= address.port <= ports[1]:
                continue
            if address.ip.is_unspecified or str(address.ip) in server.source.ips:
                message = f"the port is also one of source.ports ({ports[0]}-{ports[1]})"
                hint = "connections to servers skip it; move one of them"
                yield Finding(path, message, _q(address), hint=hint)
                break


def _kernel_ports(config: Config) -> Iterator[Finding]:
    kernel = kernel_range()
    if kernel is None:
        return
    tables: list[tuple[Path, Source]] = [(("source", "ports"), config.source)]
    for index, server in enumerate(config.servers):
        if "ports" in server.source.model_fields_set:
            tables.append((("server", index, "source", "ports"), server.source))
    reserved = reserved_ports()
    ranges = ((path, source.ports) for path, source in tables if source.ports)
    found = [(path, ports, overlap(ports, kernel, reserved)) for path, ports in ranges]
    line = reserving((shared for _, _, shared in found if shared), reserved)
    for path, ports, shared in found:
        if shared is None:
            continue
        message = (
            f"{shared[0]}-{shared[1]} lies in net.ipv4.ip_local_port_range"
            f" ({kernel[0]}-{kernel[1]}): other programs get these ports from the kernel, and each"
            " port that we hold is taken from every connection of this host for which the kernel"
            " chooses"
        )
        hint = f"keep them for explicit binds, in /etc/sysctl.d/portside.conf: {line}"
        yield Finding(path, message, f'"{ports[0]}-{ports[1]}"', hint=hint)


def _privileged_ports(config: Config) -> Iterator[Finding]:
    first = _first_unprivileged_port()
    for path, _, address in _listening(config):
        if address.ip is not None and address.port < first and not _may_bind_low_ports():
            message = f"a port below {first} needs CAP_NET_BIND_SERVICE, which this user has not"
            yield Finding(path, message, _q(address))


def _first_unprivileged_port() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return _FIRST_FREE_PORT


def _may_bind_low_ports() -> bool:
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            effective = next(line for line in file if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) & _CAP_NET_BIND_SERVICE)
    except (OSError, StopIteration, ValueError):
        return os.geteuid() == 0


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
    except (KeyError, ValueError):  # no such name; a NUL byte in it
        return False
    return True


def _nearest(name: str, names: Iterable[str]) -> str:
    known = list(names)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"there are: {', '.join(known)}" if known else ""


def _q(value: object) -> str:
    return f'"{value}"'


_MISTAKES: Final = (
    _something_to_do,
    accounts.mistakes,
    _unique_names,
    _members,
    _listeners,
    _socket_owners,
    _requirements,
    _checks,
    _sources,
    _own_destinations,
    _admin,
    _log_file,
    verify_tls.mistakes,
)
_DOUBTS: Final = (
    accounts.doubts,
    _unsafe_writes,
    _aborting_checks,
    _no_new_sessions,
    _mixed_families,
    _same_instance,
    _local_files,
    _pools,
    _unused,
    _own_ports,
    _absent_sources,
    _large_reserve,
    _kernel_ports,
    _privileged_ports,
    verify_tls.doubts,
    open_files.doubts,
)
