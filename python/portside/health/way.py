"""How a check gets to a destination: from which of our addresses, with whose port.

For: leasing a port from the data plane's ledger where ports are ours to choose, so that checks
have the ledger's reserve and no program on this host gets in their way; elsewhere the kernel
chooses. It must not know what is said on the connection (probe.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .connection import (
    CheckError,
    CheckSocket,
    NoPort,
    PortDoor,
    PortRefused,
    has_timestamps,
    open_to,
)
from .judge import Status
from .target import Destination

# Ports that the kernel refuses inside one check; each costs 3 to 4 microseconds.
MAX_TRIES = 64


@dataclass(slots=True)
class Way:
    """One way to one destination.

    Attributes:
        destination: where to.
        source: our address; "" = not chosen yet, or the kernel's choice.
        server: its name, for the ledger.
        ports: where ports are leased; None: the kernel chooses.
        avoid: our addresses that this check has tried already.
        unstamped: destinations without TCP timestamps; the ledger wants to know of them.
    """

    destination: Destination
    source: str = ""
    server: str = ""
    ports: PortDoor | None = None
    avoid: tuple[str, ...] = ()
    unstamped: set[str] = field(default_factory=set)

    async def open(self, deadline: float, *, quiet: bool = False) -> CheckSocket:
        """A connection; ``source`` is then the address that it has, where that was leased.

        Raises:
            CheckError: as ``open_to``; NO_SOURCE without our address, SOCKERR without a port.
        """
        if self.ports is None or self.destination.path:
            return await open_to(self.destination, self.source, deadline, quiet=quiet)
        for _ in range(MAX_TRIES):
            try:
                lease = self.ports.lease(self.server, self.destination.text, self.avoid)
            except NoPort as error:
                # A shortage ends by itself: sessions may wait for a port, so it is no NO_SOURCE.
                status = Status.NO_SOURCE if error.is_gone else Status.SOCKERR
                raise CheckError(status, f"{error}; not the database") from None
            source = self.source if lease is None else lease.source
            if lease is not None:
                self.source = source
            try:
                sock = await open_to(self.destination, source, deadline, quiet=quiet, lease=lease)
            except PortRefused:
                continue
            if not has_timestamps(sock):
                self.unstamped.add(self.destination.text)
            return sock
        text = f"the kernel refused {MAX_TRIES} source ports towards {self.destination.text}"
        raise CheckError(Status.SOCKERR, f"{text}; not the database")
