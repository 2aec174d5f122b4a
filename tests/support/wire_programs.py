"""Hypothesis strategies for programs of SQL, for comparing two ways to one server.

A statement may be wrong, but must be wrong in the same way twice: nothing here depends on the
clock, on chance, or on what other clients do. Lists per product are what only one of them can read.
"""

from __future__ import annotations

import struct
from itertools import combinations

from hypothesis import strategies as st

from tests.support.wire_play import (
    NULL,
    Again,
    Command,
    Execute,
    LongData,
    OfStatement,
    OwnId,
    Parameter,
    Prepare,
    Query,
    Step,
)

SCHEMA = "same"

TABLES = (
    f"DROP DATABASE IF EXISTS {SCHEMA}; DROP DATABASE IF EXISTS other; CREATE DATABASE {SCHEMA};"
    f"CREATE DATABASE other CHARACTER SET latin1; USE {SCHEMA};"
    "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(10), amount INT UNIQUE,"
    " data BLOB);"
    "CREATE TABLE kinds (a TINYINT, b SMALLINT UNSIGNED, c MEDIUMINT, d BIGINT UNSIGNED,"
    " e DECIMAL(20,5), f FLOAT, g DOUBLE, h BIT(12), i DATE, j DATETIME(6), k TIMESTAMP NULL,"
    " l TIME(3), m YEAR, n CHAR(5), o VARBINARY(9), p ENUM('x','y'), q SET('u','v'), r JSON,"
    " s POINT, u LONGTEXT) CHARACTER SET utf8mb4;"
    "INSERT INTO kinds (a, d, e, g, h, i, j, l, m, n, o, p, q, r, s) VALUES (-7,"
    " 18446744073709551615, 12345.67891, 0.1, b'101', '2001-02-03', '2001-02-03 04:05:06.789',"
    " '-12:34:56.7', 1999, 'äb', x'00ff27', 'y', 'u,v', '{\"a\": [1, null]}', POINT(1, 2)), ("
    + "NULL, "
    * 14
    + "NULL);"
    "CREATE TABLE log (n INT); CREATE VIEW v AS SELECT id, name FROM t;"
    "CREATE TRIGGER tr BEFORE DELETE ON t FOR EACH ROW INSERT INTO log VALUES (OLD.id)"
)
ROUTINES = (
    "CREATE PROCEDURE two_results() BEGIN SELECT 1 AS one; SELECT 2 AS two, 3 AS three; END",
    "CREATE PROCEDURE leaves() BEGIN SET @left = 5; INSERT INTO t (name) VALUES ('p'); END",
    "CREATE FUNCTION add_one(n INT) RETURNS INT DETERMINISTIC BEGIN SET @b = n; RETURN n + 1; END",
)

SETTINGS = (
    "SET NAMES utf8mb4",
    "SET NAMES latin1",
    "set names 'utf8mb4' collate 'utf8mb4_bin'",
    "SET NAMES gbk",
    "SET CHARACTER SET latin1",
    "SET character_set_results = NULL",
    "SET collation_connection = latin1_general_cs, character_set_client = latin1",
    "SET sql_mode = ''",
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ZERO_DATE'",
    "SET @@sql_mode = CONCAT(@@sql_mode, ',PIPES_AS_CONCAT')",
    "SET sql_mode = 'ANSI_QUOTES'",
    "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
    "SET sql_mode = 0x414E53495F51554F544553",
    "SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO,IGNORE_SPACE'",
    "SET time_zone = '+02:00', lock_wait_timeout = 7",
    "SET @@session.group_concat_max_len = 1234",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION TRANSACTION READ ONLY",
    "SET SESSION TRANSACTION READ WRITE",
    "SET TRANSACTION READ ONLY",
    "SET @@transaction_isolation = 'SERIALIZABLE'",
    "SET foreign_key_checks = 0",
    "SET sql_select_limit = 2",
    "SET sql_select_limit = DEFAULT",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "SET autocommit = 0, sql_mode = ''",
    "SET wait_timeout = 100, net_read_timeout = 77",
    "SET SESSION lc_time_names = 'de_DE', div_precision_increment = 2",
    "SET @@max_error_count = 1",
    "SET @@session.sort_buffer_size = DEFAULT",
    "SET LOCAL lock_wait_timeout = 11, @@local.net_write_timeout = 33",
    "SET @a = 5, @b = 'x'",
    "SET @a := @@global.max_connections",
    "SET timestamp = 1000000000",
    "SET insert_id = 50",
    "SET last_insert_id = 77",
    "SET rand_seed1 = 1, rand_seed2 = 2",
    "SET completion_type = 1",
    "SET no_such_variable = 1",
    "SET lock_wait_timeout = 0",
    "SET max_sort_length = 1",
    "/*!40101 SET NAMES utf8mb4 */",
    "/*!99999 SET NAMES latin1 */",
    "SET ROLE NONE",
)

LOOKS = (
    "SELECT DATABASE(), @@autocommit, @@sql_mode, @@time_zone",
    "SELECT @@character_set_client, @@collation_connection, @@character_set_results",
    "SELECT @@group_concat_max_len, @@foreign_key_checks, @@sql_select_limit, @@lock_wait_timeout",
    "SELECT @@transaction_isolation, @@net_write_timeout, @@max_sort_length, @@insert_id",
    "SELECT @@wait_timeout, @@session.net_read_timeout, @@max_error_count, @@sort_buffer_size",
    "SELECT 1/3, DATE_FORMAT('2001-02-03', '%M'), @@lc_time_names",
    "SHOW VARIABLES LIKE '%\\_timeout'",
    "SHOW SESSION VARIABLES WHERE Variable_name IN ('div_precision_increment', 'time_zone')",
    "SHOW SESSION STATUS LIKE 'Ssl_cipher'",
    "SHOW STATUS LIKE 'Last_query_cost'",
    "SELECT @@collation_database, USER(), CURRENT_USER()",
    "SELECT @a, @b, @left",
    "SELECT LAST_INSERT_ID(), @@identity",
    "SELECT ROW_COUNT()",
    "SELECT FOUND_ROWS()",
    "SELECT @@warning_count, @@error_count",
    "SELECT @@`warning_count`",
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SHOW COUNT(*) WARNINGS",
    "SHOW VARIABLES LIKE 'sql\\_mode'",
    "SHOW SESSION VARIABLES LIKE '%warning_count'",
    "SHOW VARIABLES LIKE 'last_insert_id'",
    "GET DIAGNOSTICS @a = NUMBER",
    "SELECT COUNT(*), MIN(id), MAX(id) FROM t",
    "SELECT id, name, amount, data FROM t ORDER BY id LIMIT 5",
    "SELECT * FROM kinds",
    "SELECT a, f, h, n, s FROM kinds WHERE a IS NULL",
    "SELECT SQL_CALC_FOUND_ROWS id FROM t ORDER BY id LIMIT 1",
    "(SELECT SQL_CALC_FOUND_ROWS 1) UNION (SELECT 2) LIMIT 1",
    "SELECT * FROM tmp",
    "SELECT IS_FREE_LOCK('same')",
    "SELECT 'a;b', \"it's @x\", /* @y */ 'c' -- @z",
    "SELECT 'x' # '\n, 2",
    "SELECT REPEAT('x', 300000)",
    "SELECT id FROM t WHERE id < 0",
    "SELECT * FROM no_such_table",
    "SELECT * FROM nowhere.t",
    "SELECT no_such_function(1)",
    "SELEC 1",
    "SELECT 1/0, CAST('abc' AS SIGNED)",
    "SELECT _latin1'\xe4', 'ä', N'x', x'ff', b'1', 1e3, 1.50, NULL, TRUE, DATE '2001-01-01'",
    "SELECT 1 /*! + 1 */, 2 /*!50000 + 1 */, 3 /*!999999 + 1 */",
    "SELECT /*+ MAX_EXECUTION_TIME(9999) */ 1",
    "SELECT 1 AS `a``b`, 'it''s', 'a' 'b'",
    "SHOW TABLES",
    "SHOW COLUMNS FROM t",
    "SHOW CREATE TABLE log",
    "DESCRIBE t",
    "EXPLAIN SELECT 1",
    "WITH c (a) AS (SELECT 1 UNION SELECT 2) SELECT * FROM c",
    "CALL two_results()",
    "CALL leaves()",
    "CALL no_such_procedure()",
    "SELECT add_one(@@autocommit)",
    "SELECT add_one(1) FROM t LIMIT 1",
    "DO 1",
    "DO add_one(3)",
    "SELECT GET_LOCK('same', 0)",
    "SELECT RELEASE_LOCK('same')",
    "SELECT RAND(3)",
    "SELECT count (*) FROM t",
    "SELECT 1 INTO @a",
    "SELECT 'x' INTO OUTFILE '/nowhere/x'",
    "SELECT id FROM t FOR UPDATE",
    "SELECT 1 FROM DUAL WHERE FALSE",
    "SELECT 1;",
    ";",
    "",
    "-- nothing",
    "SELECT 1\x00, 2",
    "USE other",
    "USE same",
    "USE nowhere",
    "SELECT 1; USE other",
    "SELECT 1; SET @a = 9; SELECT @a",
    "SELECT 1; SELEC 2; SELECT 3",
    "CHECK TABLE log",
    "XA RECOVER",
    "SELECT CONNECTION_ID() = CONNECTION_ID()",
    "SELECT CONNECTION_ID() DIV CONNECTION_ID() AS one FROM t WHERE id < CONNECTION_ID()",
    "SELECT IS_USED_LOCK('same') = CONNECTION_ID()",
    "SELECT COUNT(*) FROM information_schema.processlist WHERE id = CONNECTION_ID()",
    "DO CONNECTION_ID()",
    "EXPLAIN SELECT CONNECTION_ID()",
    "KILL QUERY CONNECTION_ID()",
)

# The first column is the id.
OWN_IDS = (
    "SELECT CONNECTION_ID()",
    "select connection_id( ) as id",
    "SELECT SQL_NO_CACHE CONNECTION_ID(), 'x', 2",
    "SELECT CONNECTION_ID()*1 LIMIT 1",
    "SELECT (SELECT CONNECTION_ID())",
    "SELECT * FROM (SELECT CONNECTION_ID()) d",
    "SELECT MAX(CONNECTION_ID()) FROM t",
    "(SELECT CONNECTION_ID()) UNION ALL (SELECT CAST(1 AS UNSIGNED))",
    "WITH c AS (SELECT CONNECTION_ID()) SELECT * FROM c",
    "SELECT IF(1, CONNECTION_ID(), CONNECTION_ID())",
)

WRITES = (
    "INSERT INTO t (name, amount) VALUES ('n{n}', {n})",
    "INSERT INTO t (name) VALUES ('a'), ('b'), (NULL)",
    "INSERT INTO t (amount) VALUES (100), ({n}), (100)",
    "INSERT INTO t (id, name) VALUES ({n}, 'given')",
    "INSERT IGNORE INTO t (id, name) VALUES ({n}, 'far too long')",
    "INSERT INTO t (id, name) VALUES ({n}, 'u') ON DUPLICATE KEY UPDATE name = 'again'",
    "INSERT INTO t (name, amount) VALUES ('toolongname{n}', 'abc')",
    "INSERT INTO t (name) SELECT name FROM v WHERE id < {n}",
    "REPLACE INTO t (id, name) VALUES ({n}, 'replaced')",
    "UPDATE t SET amount = amount + 1 WHERE id % 2 = 0",
    "UPDATE t SET name = 'same' WHERE id = {n}",
    "UPDATE t SET id = LAST_INSERT_ID(id) WHERE id = {n}",
    "DELETE FROM t WHERE id = {n}",
    "DELETE FROM t WHERE id > 60",
    "INSERT INTO t (data) VALUES ('\\0\\n\\'')",
    "LOAD DATA INFILE '/nowhere' INTO TABLE t",
    "TRUNCATE TABLE t",
    "ALTER TABLE t COMMENT = 'c{n}'",
    "CREATE TABLE IF NOT EXISTS log (n INT)",
    "CREATE TABLE made AS SELECT 1 AS a, add_one(1) AS b",
    "DROP TABLE IF EXISTS made",
    "CREATE OR REPLACE VIEW v AS SELECT id, name FROM t",
    "CREATE TEMPORARY TABLE IF NOT EXISTS tmp (a INT)",
    "INSERT INTO tmp VALUES ({n})",
    "DROP TEMPORARY TABLE IF EXISTS tmp",
)

MARIADB = (
    "INSERT INTO t (name) VALUES ('r') RETURNING id, name",
    "DELETE FROM t WHERE id = {n} RETURNING *",
    "CREATE SEQUENCE IF NOT EXISTS sq",
    "SELECT NEXTVAL(sq)",
    "SELECT LASTVAL(sq)",
    "SET STATEMENT sql_mode = '' FOR SELECT @@sql_mode",
    "BEGIN NOT ATOMIC SELECT 1; SET @a = 4; END",
    "EXECUTE IMMEDIATE 'USE other'",
    "EXECUTE IMMEDIATE 'SELECT ?' USING 3",
    "VALUES (1, 2), (3, 4)",
    "ANALYZE TABLE log",
    "SELECT NVL(NULL, 1), TO_CHAR(DATE '2001-02-03')",
    "CREATE OR REPLACE DATABASE other",
)
MYSQL = (
    "VALUES ROW(1, 2), ROW(3, 4)",
    "TABLE log",
    "LOCK INSTANCE FOR BACKUP",
    "UNLOCK INSTANCE",
    "SELECT ANY_VALUE(id) FROM v",
    "SELECT UUID_TO_BIN('6ccd780c-baba-1026-9564-5b8c656024db')",
    "SELECT /*+ SET_VAR(sort_buffer_size = 65536) */ @@sort_buffer_size",
    "SET @@session.sql_require_primary_key = 0",
    "SELECT JSON_EXTRACT(r, '$.a') FROM kinds",
)

BLOCKS = (
    ("BEGIN", "{write}", "{look}", "COMMIT"),
    ("START TRANSACTION", "{write}", "SAVEPOINT s", "{write}", "ROLLBACK TO s", "COMMIT"),
    ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", "{write}", "ROLLBACK"),
    ("BEGIN", "{write}", "{look}", "ROLLBACK AND CHAIN", "{write}", "ROLLBACK"),
    ("SAVEPOINT s", "ROLLBACK TO s"),
    ("SET autocommit = 0", "{write}", "ROLLBACK", "{write}", "SET autocommit = 1"),
    ("LOCK TABLES t WRITE, v READ", "{write}", "UNLOCK TABLES"),
    ("PREPARE p FROM 'SELECT ? + 1'", "SET @v = 4", "EXECUTE p USING @v", "DEALLOCATE PREPARE p"),
    ("HANDLER t OPEN", "HANDLER t READ FIRST", "HANDLER t CLOSE"),
    ("XA START 'x'", "{write}", "XA END 'x'", "XA ROLLBACK 'x'"),
    ("SELECT 1; SELECT 2, 3; INSERT INTO t (name) VALUES ('multi')", "{look}"),
    ("{write}", "SELECT ROW_COUNT()"),
    ("{write}", "SHOW WARNINGS", "SELECT @@warning_count"),
    ("SELECT 1/0", "SET @@sql_select_limit = 9", "SHOW WARNINGS"),
    ("INSERT INTO t (name) VALUES ('id')", "{look}", "SELECT LAST_INSERT_ID()"),
    ("SELECT SQL_CALC_FOUND_ROWS id FROM t LIMIT 1", "SELECT FOUND_ROWS()"),
    (
        "BEGIN",
        "DELETE FROM log",
        "INSERT INTO log VALUES (CONNECTION_ID())",
        "SELECT COUNT(*) FROM log WHERE n = CONNECTION_ID()",
        "ROLLBACK",
    ),
    ("DROP DATABASE other", "{look}", "CREATE DATABASE IF NOT EXISTS other"),
)

PREPARED = (
    ("SELECT ?, ?", 2),
    ("SELECT id, name FROM t WHERE id > ? ORDER BY id", 1),
    ("INSERT INTO t (name, data) VALUES (?, ?)", 2),
    ("UPDATE t SET name = ? WHERE id = ?", 2),
    ("SELECT * FROM kinds", 0),
    ("SELECT ? + @@autocommit, DATABASE()", 1),
    ("CALL two_results()", 0),
    ("SELECT LAST_INSERT_ID(), ?", 1),
    ("SET @a = ?", 1),
    ("SELEC ?", 1),
    ("DELETE FROM t WHERE id = ?", 1),
    ("SHOW WARNINGS", 0),
    ("SELECT CONNECTION_ID() = CONNECTION_ID(), ?", 1),
    ("SELECT 1/0 UNION ALL SELECT id FROM t", 0),
)


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


PARAMETERS = st.one_of(
    st.integers(-128, 127).map(lambda n: Parameter(1, struct.pack("<b", n))),
    st.integers(0, 65535).map(lambda n: Parameter(2, struct.pack("<H", n), unsigned=True)),
    st.integers(1, 70).map(lambda n: Parameter(3, struct.pack("<i", n))),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: Parameter(8, struct.pack("<q", n))),
    st.sampled_from([0.5, -1.25, 1e10]).map(lambda n: Parameter(4, struct.pack("<f", n))),
    st.sampled_from([0.1, -2.5e-7]).map(lambda n: Parameter(5, struct.pack("<d", n))),
    st.just(Parameter(NULL, None)),
    st.sampled_from([1, 3, 8, 12, 253]).map(lambda kind: Parameter(kind, None)),
    st.sampled_from([b"", b"a", b"it's", b"\xc3\xa4", b"\x00\xff", b"x" * 200]).map(
        lambda text: Parameter(253, _text(text))
    ),
    st.sampled_from([b"12.50", b"-1"]).map(lambda text: Parameter(246, _text(text))),
    st.just(Parameter(252, _text(b"blob\x00"))),
    st.just(Parameter(10, b"\x04\xd1\x07\x02\x03")),
    st.just(Parameter(12, b"\x07\xd1\x07\x02\x03\x04\x05\x06")),
    st.just(Parameter(11, b"\x08\x01\x00\x00\x00\x00\x0c\x22\x38")),
)


# Rows of the FETCHes after an EXECUTE with a cursor.
FETCHES = ((), (1,), (1, 1, 100), (100, 1), (0,))


@st.composite
def _binary(draw: st.DrawFn) -> list[Step]:
    """A statement prepared, executed a few times, and perhaps closed."""
    slot = draw(st.integers(0, 2))
    text, count = draw(st.sampled_from(PREPARED))
    steps: list[Step] = [Prepare(slot, text.encode())]
    parameters = draw(st.tuples(*[PARAMETERS] * count))
    cursor = draw(st.integers(0, 3)) == 0
    for number in range(draw(st.integers(1, 3))):
        if count and draw(st.integers(0, 9)) == 0:
            steps.append(LongData(slot, 0, b"long"))
        steps.append(Execute(slot, parameters, types=number == 0, cursor=cursor))
        if cursor:
            steps += [OfStatement(slot, 28, rows) for rows in draw(st.sampled_from(FETCHES))]
        if draw(st.booleans()):
            steps.append(draw(_single(())))
    if draw(st.integers(0, 2)):
        steps.append(OfStatement(slot, 25))
    return steps


def _filled(text: str) -> st.SearchStrategy[Step]:
    return st.tuples(st.sampled_from(WRITES), st.sampled_from(LOOKS), st.integers(1, 70)).map(
        lambda drawn: Query(
            text.replace("{write}", drawn[0])
            .replace("{look}", drawn[1])
            .replace("{n}", str(drawn[2]))
            .encode()
        )
    )


def _single(more: tuple[str, ...]) -> st.SearchStrategy[Step]:
    return st.sampled_from((*SETTINGS, *LOOKS, *LOOKS, *WRITES, *WRITES, *more)).flatmap(_filled)


def _varied(step: Step, how: int) -> Step:
    """The same statement in other letters, behind a comment, in parentheses."""
    if not isinstance(step, Query):
        return step
    text = step.text
    if how == 1 and not set(b"'\"`") & set(text) and b"DATABASE" not in text:
        return Query(text.swapcase())
    if how == 2:
        return Query(b"/* @x */ -- '\n\t" + text)
    if how == 3 and text.startswith(b"SELECT") and b";" not in text and b"INTO" not in text:
        return Query(b"(" + text + b"\n)")
    return step


COMMANDS = (
    Command(2, b"other"),  # INIT_DB
    Command(2, b"same"),
    Command(2, b"nowhere"),
    Command(14),  # PING
    Command(31),  # RESET_CONNECTION
    Execute(2),
    OfStatement(1, 26),
    OfStatement(1, 28, 2),
    *(OwnId(text.encode(), is_prepared) for text in OWN_IDS for is_prepared in (False, True)),
)


def programs(*, is_mariadb: bool) -> st.SearchStrategy[list[Step]]:
    """Programs of some 5 to 40 steps."""
    more = MARIADB if is_mariadb else MYSQL
    single = st.tuples(_single(more), st.integers(0, 9)).map(lambda drawn: [_varied(*drawn)])
    block = st.sampled_from(BLOCKS).flatmap(lambda b: st.tuples(*map(_filled, b)).map(list))
    command = st.sampled_from(COMMANDS).map(lambda step: [step])
    after = st.tuples(st.sampled_from(COMMANDS), _single(())).map(list)
    part = st.one_of(single, single, single, block, block, _binary(), command, after)
    # Else one INSERT would keep the connection to the program's end.
    end = st.sampled_from([[], [], [Command(31)], [Again()]])
    parts = st.lists(st.tuples(part, end), min_size=4, max_size=12)
    return parts.map(lambda drawn: [step for pair in drawn for steps in pair for step in steps])


def pairwise(names: list[str]) -> list[frozenset[str]]:
    """Sets of flags such that each pair of flags occurs in all four ways. Deterministic."""
    missing = {
        (one, other, a, b)
        for one, other in combinations(names, 2)
        for a in (False, True)
        for b in (False, True)
    }
    rows = []
    while missing:
        row: dict[str, bool] = {}
        for name in names:
            wins = [
                sum((other, name, row[other], on) in missing for other in row)
                + sum(m[0] == name and m[2] == on for m in missing) / 1000
                for on in (False, True)
            ]
            row[name] = wins[1] >= wins[0]
        missing -= {(a, b, row[a], row[b]) for a, b in combinations(names, 2)}
        rows.append(frozenset(name for name in names if row[name]))
    return rows
