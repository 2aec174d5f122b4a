"""Free ports that nobody else can take between "found" and "used".

A port is bound, not listening, with SO_REUSEADDR, and stays bound until it is released. The kernel
lets a second socket with SO_REUSEADDR bind and listen there meanwhile (mariadbd, haproxy and
Portside all set it), so there is no moment at which the port belongs to nobody.

Ports come from 30000-32767: below ``ip_local_port_range`` (a server that is down for a moment does
not lose its port to somebody's connect()) and above Portside's own source ports (12000-29999).
"""

from __future__ import annotations

import errno
import random
import socket
from types import TracebackType

LOWEST, HIGHEST = 30000, 32767
# A host without IPv6 refuses its sockets or its addresses.
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class HeldPort:
    """One TCP port, ours until ``release()``.

    Attributes:
        address: the IP address it is held on.
        port: its number.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        """Binds a random free port of the range; OSError when every one is taken."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address = address
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        candidates = list(range(LOWEST, HIGHEST + 1))
        # A seeded or shared order would make two test runs collide on purpose.
        random.SystemRandom().shuffle(candidates)
        for port in candidates:
            if _is_taken(port):
                continue
            try:
                self._socket.bind((address, port))
            except OSError:
                continue
            self.port = port
            return
        self._socket.close()
        raise OSError(f"no free port between {LOWEST} and {HIGHEST} on {address}")

    def release(self) -> int:
        """Gives the port up and returns its number; harmless when called twice."""
        self._socket.close()
        return self.port

    def __enter__(self) -> HeldPort:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _is_taken(port: int) -> bool:
    """True when somebody holds or just held the number, on whatever address of either family.

    Bound without SO_REUSEADDR. A server on 127.0.0.1 is in the way of a listener on [::], which
    takes both families, and the other way round.
    """
    for family, every in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((every, port))
        except OSError as error:
            if error.errno not in _NO_SUCH_FAMILY:
                return True
    return False


def free_port(address: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, for programs that do not set SO_REUSEADDR."""
    return HeldPort(address).release()
