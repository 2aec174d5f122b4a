"""What a client does to see every form of reply: run directly and through a pool, and compare."""

from __future__ import annotations

import struct

from tests.support.flag_client import QUERY_ATTRIBUTES, FlagClient

MAKE = (
    "DROP TABLE IF EXISTS app.flags",
    "CREATE TABLE app.flags (a INT, b TEXT)",
    "INSERT INTO app.flags VALUES (7, 'seven')",
    "DROP PROCEDURE IF EXISTS app.two",
    "CREATE PROCEDURE app.two() BEGIN SELECT 1; SELECT 2, 3; END",
)

QUERIES = (
    "SELECT 1",
    "SELECT 1/0, 'x'",
    "SHOW WARNINGS",
    "SELECT * FROM nope.nope",
    "SELECT a FROM app.flags WHERE 1 = 0",
    "UPDATE app.flags SET b = 'other'",
    "SET time_zone = '+02:00'",
    "SELECT @@time_zone",
    "CALL app.two()",
    "SELECT 1; SELECT 2; UPDATE app.flags SET b = 'third'; SELECT 3",
    "SELECT CONNECTION_ID()",
    "SET NAMES latin1",
    "USE app",
    "SELECT DATABASE()",
    "ANALYZE TABLE app.flags",
    "SET resultset_metadata = NONE",
    "SELECT 5, 6",
)

PREPARED = ("SELECT ?, 'b'", "SELECT 1", "SELECT * FROM app.flags")


def program(client: FlagClient) -> dict[str, list[bytes]]:
    """Everything that was seen, packet by packet."""
    seen = {"ping": client.ask(b"\x0e")}
    for text in QUERIES:
        seen[text] = client.query(text)
        if "CONNECTION_ID" in text:
            # The definition and the form count, not the number.
            seen[text][-1 - (len(seen[text]) > 3)] = b""
    for text in PREPARED:
        seen.update(prepared(client, text))
    seen["at last"] = client.query("SELECT 9")
    return seen


def prepared(client: FlagClient, text: str) -> dict[str, list[bytes]]:
    """Prepared, executed twice, and fetched through a cursor."""
    number, definitions = client.prepare(text)
    # Its id is the server's affair.
    definitions[0] = definitions[0][5:]
    seen = {f"prepare {text}": definitions}
    values = b""
    if "?" in text:
        named = client.flags & QUERY_ATTRIBUTES
        values = b"\x01\x00\x01\x08\x00\x00" if named else b"\x00\x01\x08\x00"
        values += struct.pack("<q", 77)
    for cursor in (0, 0, 1):
        command = b"\x17" + struct.pack("<IBI", number, cursor, 1) + values
        seen[f"execute {text} {cursor}"] = client.ask(command)
        if cursor and seen[f"execute {text} {cursor}"][0][0] != 0xFF:
            seen[f"fetch {text}"] = fetch(client, number)
    client.say(b"\x19" + struct.pack("<I", number))
    return seen


def fetch(client: FlagClient, number: int) -> list[bytes]:
    """All rows of a cursor."""
    client.say(b"\x1c" + struct.pack("<II", number, 100))
    rows = [client.read()]
    while rows[-1][0] not in (0xFE, 0xFF):
        rows.append(client.read())
    return rows
