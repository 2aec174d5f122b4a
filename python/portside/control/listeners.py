"""Listening sockets that the engine gets instead of opening them: inherited ones, and free ports.

A service manager's sockets (``$LISTEN_FDS``) are matched by address. A listen address with port 0
is bound here, once, and the descriptor handed over: to read a free port and bind it later would
be a race. The engine duplicates what it gets, so everything here stays open until ``close``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from portside.config.addresses import Address
from portside.config.model import Config, Listen
from portside.control.notify import InheritedListener
from portside.control.owner import explain_bind_failure
from portside.errors import PortsideError


class Listeners:
    """Sockets by the address they listen on."""

    def __init__(self, inherited: Iterable[InheritedListener] = ()) -> None:
        self._fds: dict[str, list[int]] = {}
        for one in inherited:
            _prepare(one.fd)
            self._fds.setdefault(one.address, []).append(one.fd)
        self._chosen: dict[tuple[str, str, int], tuple[Address, socket.socket]] = {}

    @property
    def fds(self) -> dict[str, tuple[int, ...]]:
        """Descriptors by address, for the snapshot's ``listen[].fds``."""
        found = {address: tuple(fds) for address, fds in self._fds.items()}
        found |= {str(at): (one.fileno(),) for at, one in self._chosen.values()}
        return found

    def place(self, config: Config) -> Config:
        """``config`` with every port 0 replaced by a free port, the same one after a reload.

        Raises:
            PortsideError: the address cannot be bound.
        """
        services = tuple(
            service.model_copy(
                update={
                    "listen": tuple(
                        self._placed(service.name, at, listen)
                        for at, listen in enumerate(service.listen)
                    )
                }
            )
            if any(one.address.kind == "ip" and one.address.port == 0 for one in service.listen)
            else service
            for service in config.services
        )
        return config.model_copy(update={"services": services})

    def unused(self, config: Config) -> tuple[str, ...]:
        """Inherited addresses that no service listens on."""
        wanted = {str(listen.address) for service in config.services for listen in service.listen}
        return tuple(sorted(set(self._fds) - wanted))

    def retire(self, config: Config) -> None:
        """Closes chosen ports that ``config`` (placed) no longer listens on."""
        wanted = {str(listen.address) for service in config.services for listen in service.listen}
        for key, (address, listener) in list(self._chosen.items()):
            if str(address) not in wanted:
                listener.close()
                del self._chosen[key]

    def close(self) -> None:
        """Closes everything; the engine has ended."""
        for _, listener in self._chosen.values():
            listener.close()
        for fds in self._fds.values():
            for fd in fds:
                os.close(fd)
        self._chosen.clear()
        self._fds.clear()

    def _placed(self, service: str, at: int, listen: Listen) -> Listen:
        if listen.address.kind != "ip" or listen.address.port != 0:
            return listen
        key = (service, listen.address.host, at)
        if key not in self._chosen:
            self._chosen[key] = _bind_free(listen)
        return listen.model_copy(update={"address": self._chosen[key][0]})


def _prepare(fd: int) -> None:
    """Options that accepted sockets inherit, as the engine sets them on listeners of its own."""
    listener = socket.socket(fileno=os.dup(fd))
    with listener:
        if listener.family == socket.AF_UNIX:
            return
        # A login is a dialogue of small packets: Nagle's algorithm would add 40 ms to it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _bind_free(listen: Listen) -> tuple[Address, socket.socket]:
    host = listen.address.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, 0))
        _prepare(listener.fileno())
        listener.listen(listen.backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise PortsideError(explain_bind_failure(str(listen.address), error.errno or 0)) from None
    return Address("ip", host, int(listener.getsockname()[1])), listener
