"""Prepared statements of the binary protocol, byte by byte, on a PyMySQL connection.

PyMySQL has none. What a client library would hide is an argument here: whether types are sent again
(``bind``), the statement's id, the cursor flags.
"""

from __future__ import annotations

import struct
from typing import Any

import pymysql
from pymysql.connections import MySQLResult

PREPARE, EXECUTE, LONG_DATA, CLOSE, RESET, FETCH, BULK = 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1C, 0xFA
LONGLONG, DOUBLE, NULL, TEXT = 8, 5, 6, 253
LAST_PREPARED = 0xFFFFFFFF


def encode(value: Any) -> tuple[int, bytes]:
    """Type and bytes of one parameter."""
    if value is None:
        return NULL, b""
    if isinstance(value, int):
        return LONGLONG, struct.pack("<q", value)
    if isinstance(value, float):
        return DOUBLE, struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return TEXT, b"\xfe" + struct.pack("<Q", len(data)) + data


def parameters(values: tuple[Any, ...], types: list[int] | None, bind: bool) -> bytes:
    """Null bitmap, bind flag, types and values."""
    encoded = [encode(value) for value in values]
    nulls = bytearray((len(values) + 7) // 8)
    for n, value in enumerate(values):
        if value is None:
            nulls[n // 8] |= 1 << n % 8
    given = types or [kind for kind, _ in encoded]
    body = bytes(nulls) + bytes([bind])
    if bind:
        body += b"".join(struct.pack("<H", kind) for kind in given)
    return body + b"".join(data for _, data in encoded)


class Statement:
    """A prepared statement: ``execute`` gives (columns, rows as bytes, counts)."""

    def __init__(self, connection: Any, text: str) -> None:
        self.connection = connection
        connection._execute_command(PREPARE, text)
        packet = connection._read_packet()
        data = packet.get_all_data()
        self.id, self.columns, self.parameters = struct.unpack_from("<IHH", data, 1)
        for count in (self.parameters, self.columns):
            for _ in range(count + 1 if count else 0):  # the EOF behind them
                connection._read_packet()

    def send(
        self,
        *values: Any,
        bind: bool = True,
        types: list[int] | None = None,
        flags: int = 0,
        number: int | None = None,
    ) -> None:
        """Sends EXECUTE and reads nothing."""
        head = struct.pack("<IBI", self.id if number is None else number, flags, 1)
        body = parameters(values, types, bind) if values else b""
        self.connection._execute_command(EXECUTE, head + body)

    def execute(self, *values: Any, **options: Any) -> Any:
        self.send(*values, **options)
        return self.read()

    def read(self) -> Any:
        """The reply to an EXECUTE: columns with types, rows as they came, affected rows."""
        connection = self.connection
        packet = connection._read_packet()
        if packet.is_ok_packet():
            result = MySQLResult(connection)
            result._read_ok_packet(packet)
            connection.server_status = result.server_status
            return ([], [], result.affected_rows, result.insert_id, result.warning_count)
        columns = []
        for _ in range(packet.read_length_encoded_integer()):
            field = connection._read_packet(pymysql.protocol.FieldDescriptorPacket)
            columns.append((field.name, field.type_code))
        status = struct.unpack_from("<H", connection._read_packet().get_all_data(), 3)[0]
        rows = [] if status & 0x40 else self.rows()
        return (columns, rows, 0, 0, 0)

    def rows(self) -> list[bytes]:
        rows = []
        while True:
            packet = self.connection._read_packet()
            if packet.is_eof_packet():
                return rows
            rows.append(packet.get_all_data())

    def fetch(self, count: int) -> list[bytes]:
        self.connection._execute_command(FETCH, struct.pack("<II", self.id, count))
        return self.rows()

    def long_data(self, parameter: int, data: bytes) -> None:
        self.connection._execute_command(LONG_DATA, struct.pack("<IH", self.id, parameter) + data)

    def reset(self) -> None:
        self.connection._execute_command(RESET, struct.pack("<I", self.id))
        self.connection._read_packet()

    def close(self) -> None:
        self.connection._execute_command(CLOSE, struct.pack("<I", self.id))
