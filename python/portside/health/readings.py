"""Reads role and lag out of what a server answered. Pure: rows in, ``judge.Readings`` out.

For: read_only and its relatives, and the replication status of MariaDB (SHOW ALL SLAVES STATUS) and
MySQL (SHOW REPLICA STATUS, SHOW SLAVE STATUS before 8.0.22), whose column names differ. It must not
know how a row was fetched (login.py).

The rule of all of it: what is not known stays None. A lag that cannot be read is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portside.foreign_text import one_line

from .judge import Readings

Row = Mapping[str, object]


@dataclass(frozen=True)
class Dialect:
    """Which statements a server understands; made from the version in its greeting."""

    is_mariadb: bool
    version: tuple[int, int, int]

    @property
    def read_only_query(self) -> str:
        """One row; each column a flag that stops writes. An unknown variable is an error."""
        if self.is_mariadb:
            return "SELECT @@global.read_only, @@global.innodb_read_only"
        if self.version >= (5, 7, 8):
            return "SELECT @@global.read_only, @@global.super_read_only, @@global.innodb_read_only"
        return "SELECT @@global.read_only, @@global.innodb_read_only"

    @property
    def replica_query(self) -> str:
        """One row per replication channel, none on a server that replicates from nobody."""
        if self.is_mariadb:
            return "SHOW ALL SLAVES STATUS"
        return "SHOW REPLICA STATUS" if self.version >= (8, 0, 22) else "SHOW SLAVE STATUS"

    @property
    def missing_grant(self) -> str:
        """The privilege that ``replica_query`` needs."""
        if self.is_mariadb:
            # MariaDB split SUPER / REPLICATION CLIENT in 10.5.
            return "REPLICA MONITOR" if self.version >= (10, 5, 9) else "REPLICATION CLIENT"
        return "REPLICATION CLIENT"

    def statement_limit(self, limit_s: float) -> str:
        """Makes the server end our own check query, so that hung checks do not pile up there.

        It does not see that we hung up while it waits for a lock. MariaDB counts seconds for any
        statement, MySQL milliseconds for SELECT only. One row is enough for any check.
        """
        if self.is_mariadb:
            return f"SET SESSION max_statement_time={max(0.001, limit_s):.3f}, sql_select_limit=1"
        if self.version >= (5, 7, 8):
            return (
                f"SET SESSION max_execution_time={max(1, int(limit_s * 1000))}, sql_select_limit=1"
            )
        return "SET SESSION sql_select_limit=1"


def dialect_of(version: str) -> Dialect:
    """The dialect of a greeting's version, such as "5.5.5-10.4.1-MariaDB-log" or "9.7.0"."""
    is_mariadb = "mariadb" in version.lower()
    # MariaDB before 11 hides behind 5.5.5- so that old replicas accept it.
    text = version.removeprefix("5.5.5-") if is_mariadb else version
    numbers: list[int] = []
    for part in text.split("-")[0].split("."):
        digits = "".join(char for char in part if char in "0123456789")
        numbers.append(int(digits) if digits else 0)
    numbers += [0, 0, 0]
    return Dialect(is_mariadb, (numbers[0], numbers[1], numbers[2]))


def is_read_only(row: Sequence[object]) -> bool | None:
    """True when any flag of ``read_only_query`` is on. MariaDB 12 has words besides ON."""
    if not row:
        return None
    flags = [str(value).strip().upper() for value in row if value is not None]
    return any(flag not in {"0", "OFF", "FALSE", ""} for flag in flags)


def replication_of(rows: Sequence[Row], read_only: bool | None) -> Readings:
    """Readings of a replication status: every channel must run, and the worst lag counts."""
    channels = [_channel(row) for row in rows]
    active = [channel for channel in channels if not channel.is_switched_off]
    if not active:
        return Readings(read_only=read_only, replica=False)
    broken = [channel for channel in active if not channel.runs]
    if broken:
        note = "; ".join(channel.trouble for channel in broken)
        return Readings(read_only, replica=True, replicating=False, note=note)
    lags = [channel.lag_s for channel in active]
    known = [lag for lag in lags if lag is not None]
    worst = max(known) if len(known) == len(lags) else None
    return Readings(read_only, replica=True, replicating=True, lag_s=worst)


@dataclass(frozen=True)
class _Channel:
    name: str
    io: str
    sql: str
    error: str
    lag_s: float | None

    @property
    def runs(self) -> bool:
        return self.io == "Yes" and self.sql == "Yes"

    @property
    def is_switched_off(self) -> bool:
        """Both threads stopped and no error: someone said STOP REPLICA, as for a promotion."""
        return self.io == "No" and self.sql == "No" and not self.error

    @property
    def trouble(self) -> str:
        name = f"channel {self.name}: " if self.name else ""
        error = f": {self.error}" if self.error else ""
        return f"{name}IO thread {self.io or '?'}, SQL thread {self.sql or '?'}{error}"


def _channel(row: Row) -> _Channel:
    def text(*names: str) -> str:
        for name in names:
            value = row.get(name)
            if value is not None:
                return one_line(value.decode() if isinstance(value, bytes) else str(value))
        return ""

    errors = [text("Last_IO_Error"), text("Last_SQL_Error")]
    lag = text("Seconds_Behind_Source", "Seconds_Behind_Master")
    return _Channel(
        name=text("Channel_Name", "Connection_name"),
        io=text("Replica_IO_Running", "Slave_IO_Running"),
        sql=text("Replica_SQL_Running", "Slave_SQL_Running"),
        error="; ".join(error for error in errors if error),
        lag_s=float(lag) if lag else None,
    )
