use super::*;

/// Statement, its pins.
const PINS: &[(&str, &[Pin])] = &[
    ("SELECT 1", &[]),
    (
        "  (select count(*) from t where a in (1, 2)) union (select 1)",
        &[],
    ),
    (
        "SELECT 'it''s @x; GET_LOCK(1)', \"@y\" FROM `a@b` -- @z",
        &[],
    ),
    ("SELECT '\\'@x'", &[]),
    ("SELECT @x", &[Pin::UserVariable]),
    ("SELECT 1 INTO @x", &[Pin::UserVariable]),
    ("SELECT @@version, @@session.sql_mode", &[]),
    ("INSERT INTO t (a, b) VALUES (now(), concat('a', 'b'))", &[]),
    (
        "INSERT INTO shop.t (a) VALUES (1) ON DUPLICATE KEY UPDATE a = VALUES(a)",
        &[],
    ),
    ("INSERT INTO `shop`.`t` (a) VALUES (1)", &[]),
    ("INSERT t (a) SELECT f(1)", &[Pin::Function]),
    ("INSERT IGNORE INTO t(a) VALUES (1)", &[]),
    ("REPLACE INTO t (a) VALUES (1)", &[]),
    ("SELECT HIGH_PRIORITY f(1)", &[Pin::Function]),
    ("INSERT INTO t SELECT HIGH_PRIORITY f(1)", &[Pin::Function]),
    ("INSERT INTO date (a) VALUES (1)", &[]),
    (
        "INSERT LOW_PRIORITY IGNORE INTO shop.date (a) VALUES (1)",
        &[],
    ),
    (
        "INSERT INTO t (a) VALUES (1) RETURNING id",
        &[Pin::InsertId],
    ),
    ("DELETE FROM t RETURNING id", &[]),
    ("WITH c (a) AS (SELECT 1) SELECT a FROM c", &[]),
    ("WITH RECURSIVE c (a) AS (SELECT 1) SELECT a FROM c", &[]),
    ("SELECT COUNT (*) FROM t", &[Pin::Function]),
    ("SELECT ABS (1)", &[]),
    ("CREATE TABLE t AS SELECT f(1)", &[Pin::Function]),
    ("ANALYZE SELECT f(1)", &[Pin::Function]),
    ("SHOW TABLES WHERE f(1)", &[Pin::Function]),
    ("COMMIT RELEASE", &[Pin::Statement]),
    ("ROLLBACK AND CHAIN", &[]),
    ("CREATE OR REPLACE DATABASE shop", &[Pin::Statement]),
    ("CREATE DATABASE shop", &[]),
    ("SELECT @@`warning_count`", &[Pin::UserVariable]),
    ("SELECT @@session . warning_count", &[Pin::UserVariable]),
    ("SELECT shop.f (1)", &[Pin::Function]),
    ("SELECT `f`(1)", &[Pin::Function]),
    ("SELECT shop.count(1)", &[Pin::Function]),
    ("SELECT my_function(1)", &[Pin::Function]),
    ("SELECT a FROM t JOIN u USING (id) WHERE x LIKE ('%')", &[]),
    ("SELECT GET_LOCK('a', 1)", &[Pin::Lock]),
    ("SELECT NEXTVAL(s)", &[Pin::InsertId]),
    ("SELECT NEXT VALUE FOR s", &[Pin::InsertId]),
    ("SELECT SQL_CALC_FOUND_ROWS * FROM t", &[Pin::FoundRows]),
    ("CREATE TEMPORARY TABLE t (a INT)", &[Pin::TemporaryTable]),
    (
        "CREATE OR REPLACE TEMPORARY TABLE t (a INT)",
        &[Pin::TemporaryTable],
    ),
    ("CREATE TABLE t (a VARCHAR(10), KEY my_key (a))", &[]),
    ("CREATE OR REPLACE VIEW v AS SELECT 1", &[]),
    ("CREATE PROCEDURE p() SELECT 1", &[Pin::Statement]),
    (
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        &[Pin::Statement],
    ),
    ("DROP TABLE IF EXISTS t", &[]),
    ("DROP TEMPORARY TABLE t", &[Pin::TemporaryTable]),
    ("DROP DATABASE shop", &[Pin::Statement]),
    ("ALTER TABLE t ADD COLUMN b INT", &[]),
    (
        "LOAD DATA LOCAL INFILE 'x' INTO TABLE t FIELDS TERMINATED BY ',' IGNORE 1 LINES (a, b) SET c = UPPER(d)",
        &[Pin::InsertId],
    ),
    ("LOAD DATA INFILE 'x' INTO TABLE shop.t (a)", &[Pin::InsertId]),
    (
        "LOAD DATA INFILE 'x' INTO TABLE t (a, @b)",
        &[Pin::UserVariable, Pin::InsertId],
    ),
    ("LOAD INDEX INTO CACHE t", &[Pin::Statement]),
    ("LOCK TABLES t READ", &[Pin::Lock]),
    ("FLUSH TABLES WITH READ LOCK", &[Pin::Lock]),
    ("HANDLER t OPEN", &[Pin::Statement]),
    ("XA START 'a'", &[Pin::Statement]),
    ("CALL p()", &[Pin::Call]),
    ("PREPARE s FROM 'SELECT 1'", &[Pin::TextPrepare]),
    ("BEGIN", &[]),
    ("BEGIN WORK;", &[]),
    ("BEGIN NOT ATOMIC SELECT 1; END", &[Pin::Statement]),
    ("START TRANSACTION READ ONLY", &[]),
    ("START SLAVE", &[Pin::Statement]),
    ("SAVEPOINT a", &[]),
    ("SELECT 1; SELECT 2", &[]),
    ("SELECT 1; SET sql_mode = ''", &[Pin::Statement]),
    ("SELECT 1; USE shop", &[Pin::Statement]),
    ("SET sql_mode = ''; SELECT 1", &[Pin::Statement]),
    ("SELECT 1; LOCK TABLES t READ", &[Pin::Lock]),
    ("/*!40101 SET NAMES utf8 */", &[]),
    ("/*! LOCK TABLES t READ */", &[Pin::Lock]),
    (
        "SELECT 1 /*!40000 , @x */",
        &[Pin::Statement, Pin::UserVariable],
    ),
    ("SELECT 1 /*! , @x */", &[Pin::UserVariable]),
    ("SELECT /*! SQL_NO_CACHE */ 1", &[]),
    // What some versions skip may hide what the others run.
    ("/*!999999 SELECT */ LOCK TABLES t READ", &[Pin::Statement]),
    (
        "SELECT 1 /*!999999 ' */, @x := 5 /* ' */",
        &[Pin::Statement],
    ),
    (
        "SELECT 1 /*M!999999 ' */, @x := 5 /* ' */",
        &[Pin::Statement],
    ),
    (
        "/*!99999 SET NAMES '*/ LOCK TABLES t READ; -- ' */",
        &[Pin::Statement],
    ),
    ("/*!99999 SELECT /* */ 1 */", &[Pin::Statement]),
    ("/*!99999 SELECT 1", &[Pin::Statement]),
    ("/*!99999 USE */ COMMIT", &[Pin::Statement]),
    ("/*!99999 SET NAMES */ COMMIT", &[Pin::Statement]),
    ("SELECT /*+ QB_NAME(`a*/b`) */ 1", &[Pin::Statement]),
    ("SELECT /*+ MAX_EXECUTION_TIME(1000) */ 1", &[]),
    ("SELECT 1 --\u{a0}'\n, 2", &[Pin::Statement]),
    ("SELECT 1 --\x7f'\n, @x", &[Pin::UserVariable]),
    ("SELECT 1 /* @x */", &[]),
    ("SELECT 1--@x", &[Pin::UserVariable]),
    ("SET @x = 1", &[Pin::Setting, Pin::UserVariable]),
    ("SET GLOBAL max_connections = 5", &[Pin::Setting]),
    ("SET @@global.max_connections = 5", &[Pin::Setting]),
    (
        "SET sql_mode = CONCAT(@@sql_mode, ',ANSI')",
        &[Pin::Setting],
    ),
    ("SET sql_mode = 'ANSI_QUOTES'", &[Pin::Unreadable]),
    ("SET sql_mode = 'NO_BACKSLASH_ESCAPES'", &[Pin::Unreadable]),
    ("SET NAMES gbk", &[Pin::Unreadable]),
    (
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        &[Pin::Setting],
    ),
    (
        "SET @@transaction_isolation = 'READ-COMMITTED'",
        &[Pin::Setting],
    ),
    ("SET PASSWORD = 'x'", &[Pin::Statement]),
    ("SET ROLE admin", &[Pin::Statement]),
    ("SET CHARACTER SET utf8", &[Pin::Setting]),
    (
        "SET STATEMENT max_statement_time=1 FOR SELECT 1",
        &[Pin::Statement],
    ),
    ("SET sql_mode = 0x414E53495F51554F544553", &[Pin::Setting]),
    ("SET NAMES 'gb\\k'", &[Pin::Setting]),
    ("SET NAMES swe7", &[Pin::Unreadable]),
    ("SET autocommit = 0, sql_mode = ''", &[Pin::Setting]),
    ("SET sql_mode = '', autocommit = off", &[Pin::Setting]),
    ("SET collation_database = latin1_bin", &[Pin::Setting]),
    ("SET optimizer_trace = 'enabled=on'", &[Pin::Setting]),
    ("SET insert_id = 5", &[Pin::Setting]),
    ("SET timestamp = 5", &[Pin::Setting]),
    ("SET autocommit = 0", &[]),
    ("SET collation_connection = 33", &[Pin::Setting]),
    ("GRANT ALL ON *.* TO a", &[Pin::Statement]),
    ("", &[]),
    (";", &[]),
    ("'", &[Pin::Statement]),
];

#[test]
fn statements_pin_as_the_table_says() {
    for (text, pins) in PINS {
        let mut want = Pins::NONE;
        for pin in *pins {
            want.add(*pin);
        }
        assert_eq!(classify(text.as_bytes(), true).pins, want, "{text}");
    }
}

#[test]
fn a_byte_that_latin1_has_as_white_space_may_end_a_word() {
    for text in [
        &b"SHOW\xa0WARNINGS"[..],
        b"SELECT @@error_count\xa0",
        b"SELECT\xa0FOUND_ROWS()",
        b"SELECT \xc3\xa0b",
    ] {
        let verdict = classify(text, true);
        assert!(verdict.pins.has(Pin::Statement) && verdict.asks.diagnostics);
    }
    assert!(classify(b"SELECT\xa0FOUND_ROWS()", true).asks.found_rows);
    // A part of a character.
    for text in ["SELECT voil\u{e0}", "SELECT \u{420}\u{430}\u{420}"] {
        assert_eq!(classify(text.as_bytes(), true).pins, Pins::NONE);
    }
}

#[test]
fn settings_that_can_be_replayed() {
    for text in [
        "SET NAMES utf8mb4",
        "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_unicode_ci'",
        "SET SESSION sql_mode = 'STRICT_TRANS_TABLES', time_zone = '+00:00';",
        "SET @@session.wait_timeout = 28800, @@local.sql_mode=''",
        "SET foreign_key_checks=0",
        "SET lock_wait_timeout := 5",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET autocommit=1, sql_mode=TRADITIONAL",
    ] {
        assert_eq!(classify(text.as_bytes(), true).kind, Kind::Set, "{text}");
    }
    // The global value may be one in which texts cannot be read.
    for text in ["SET NAMES DEFAULT", "SET sql_mode = DEFAULT"] {
        assert!(
            classify(text.as_bytes(), true).pins.has(Pin::Unreadable),
            "{text}"
        );
    }
}

#[test]
fn statements_that_ask_for_the_one_before() {
    let asks = |text: &str| classify(text.as_bytes(), true).asks;
    assert!(asks("SHOW WARNINGS").diagnostics);
    assert!(asks("show count(*) errors").diagnostics);
    assert!(asks("SELECT @@warning_count").diagnostics);
    assert!(asks("SELECT LAST_INSERT_ID()").insert_id);
    assert!(asks("SELECT @@session.identity").insert_id);
    assert!(asks("SELECT FOUND_ROWS()").found_rows);
    assert!(asks("SELECT row_count()").row_count);
    assert!(asks("SHOW VARIABLES").diagnostics);
    assert!(asks("SHOW SESSION VARIABLES LIKE '%_ID'").insert_id);
    assert!(asks("SHOW VARIABLES WHERE variable_name = 'identity'").insert_id);
    assert!(asks("SELECT @@last_gtid").stale);
    assert!(asks("SHOW VARIABLES LIKE 'last_gtid'").stale);
    assert!(asks("SELECT `found_rows`(), `LAST_INSERT_ID` ()").found_rows);
    assert!(asks("SELECT `found_rows`(), `LAST_INSERT_ID` ()").insert_id);
    assert!(asks("PREPARE p FROM 'SELECT Found_Rows()'").found_rows);
    assert!(asks("EXECUTE IMMEDIATE CONCAT('SELECT ', 'ROW_COUNT()')").row_count);
    assert!(asks("SHOW STATUS LIKE 'Last_query_cost'").stale);
    assert!(asks("show session status like 'last%'").stale);
    assert_eq!(asks("SHOW STATUS LIKE 'Threads%'"), Asks::default());
    assert_eq!(asks("SHOW GLOBAL STATUS"), Asks::default());
    for hidden in ["SELECT @@`error_count`", "SELECT 1 /*!50000 + 1 */"] {
        assert!(
            asks(hidden).diagnostics && asks(hidden).insert_id,
            "{hidden}"
        );
    }
    assert_eq!(asks("SHOW VARIABLES LIKE 'sql_mode'"), Asks::default());
    assert_eq!(asks("SHOW TABLES"), Asks::default());
}

#[test]
fn statements_that_portside_answers_or_follows() {
    let kind = |text: &str| classify(text.as_bytes(), true).kind;
    assert_eq!(kind("USE `shop`;"), Kind::Use((*b"shop").into()));
    assert_eq!(kind("use shop"), Kind::Use((*b"shop").into()));
    let kill = |id, query| Kind::Kill {
        id: Some(id),
        query,
    };
    assert_eq!(kind("KILL 7"), kill(7, false));
    assert_eq!(kind("kill query 7;"), kill(7, true));
    assert_eq!(kind("KILL CONNECTION 7"), kill(7, false));
    assert_eq!(kind("KILL HARD 7"), Kind::OtherId);
    for other in [
        "KILL 7 + 1",
        "SELECT 1; KILL 7",
        "KILL 7; SELECT 1",
        "EXPLAIN FORMAT=JSON FOR CONNECTION 7",
        "SHOW EXPLAIN FOR 7",
    ] {
        assert_eq!(kind(other), Kind::OtherId, "{other}");
    }
    assert_eq!(
        kind("EXPLAIN SELECT connection FROM t FOR UPDATE"),
        Kind::Plain
    );
    for (text, name) in [
        ("DROP DATABASE IF EXISTS shop;", &b"shop"[..]),
        ("drop schema `shop`", b"shop"),
        ("CREATE OR REPLACE DATABASE shop CHARSET utf8mb4", b"shop"),
    ] {
        assert_eq!(kind(text), Kind::DropSchema(name.into()), "{text}");
    }
    for own in ["KILL CONNECTION_ID()", "kill connection connection_id ( );"] {
        assert_eq!(
            kind(own),
            Kind::Kill {
                id: None,
                query: false
            },
            "{own}"
        );
    }
}

#[test]
fn whether_the_own_id_is_asked_for() {
    for (text, own_id) in [
        ("SELECT connection_id FROM t", OwnId::No),
        ("SELECT shop.connection_id()", OwnId::No),
        ("SELECT CONNECTION_ID()", OwnId::Called),
        ("SELECT CONNECTION_ID() + a FROM t", OwnId::Unsure),
        ("SELECT 1 /*!50000 , CONNECTION_ID() */", OwnId::Unsure),
        ("PREPARE p FROM 'SELECT connection_id()'", OwnId::Unsure),
        ("PREPARE p FROM 'SELECT 1'", OwnId::No),
        ("SELECT @@pseudo_thread_id", OwnId::Unsure),
        ("SET @@pseudo_thread_id = 5", OwnId::No),
    ] {
        assert_eq!(classify(text.as_bytes(), true).own_id, own_id, "{text}");
    }
}

#[test]
fn only_reads_may_run_under_settings_that_are_in_doubt() {
    let is_read = |text: &str| classify(text.as_bytes(), true).is_read;
    for text in [
        "SELECT 1",
        "(select a from t) union (select 2)",
        "SELECT a FROM t WHERE b = 'INTO' LIMIT 1;",
        "/* a hint */ SHOW WARNINGS",
        "SHOW TABLES",
    ] {
        assert!(is_read(text), "{text}");
    }
    for text in [
        "SELECT a FROM t FOR UPDATE",
        "SELECT a FROM t LOCK IN SHARE MODE",
        "SELECT a INTO OUTFILE '/tmp/a' FROM t",
        "SELECT f(1)",
        "SELECT NEXTVAL(s)",
        "SELECT GET_LOCK('a', 1)",
        "SELECT @a := 1",
        "SELECT SQL_CALC_FOUND_ROWS a FROM t",
        "SELECT 1; SELECT 2",
        "INSERT INTO t SELECT 1",
        "WITH c AS (SELECT 1) DELETE FROM t",
        "SELECT 1 /*!50000 INTO OUTFILE '/tmp/a' */",
        "DELETE FROM t; SELECT 1",
        "DELETE FROM t RETURNING a",
        "EXPLAIN ANALYZE SELECT 1",
        "ANALYZE SELECT 1",
        "SHOW PROFILES",
        "SHOW TABLES WHERE f(1)",
        "DO 1",
        "CALL p()",
    ] {
        assert!(!is_read(text), "{text}");
    }
}

#[test]
fn what_a_failure_or_a_warning_may_leave() {
    let halfway = |text: &str| classify(text.as_bytes(), true).may_fail_halfway;
    assert!(halfway("INSERT INTO t (a) VALUES (1), (2)"));
    assert!(halfway("INSERT INTO t SELECT a FROM u"));
    assert!(halfway("INSERT INTO t (a) VALUES (1), (2); SELECT 1"));
    assert!(halfway(
        "CREATE TABLE t (id INT) SELECT 1 UNION ALL SELECT 1"
    ));
    assert!(halfway("CREATE TABLE t TABLE u"));
    assert!(!halfway("CREATE TABLE t (id INT)"));
    // A trigger behind it may fail.
    assert!(halfway("INSERT INTO t (a) VALUES (1)"));
    assert!(!halfway("SELECT a, b FROM t"));
    let has_table = |text: &str| classify(text.as_bytes(), true).has_table;
    for text in [
        "SELECT 1 FROM t",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "SHOW TABLES FROM `a`",
    ] {
        assert!(has_table(text), "{text}");
    }
    for text in [
        "SELECT 1 FROM dual",
        "SELECT TRIM('a' FROM b)",
        "SET a = 1",
        "BEGIN",
        "SELECT 'FROM t'",
    ] {
        assert!(!has_table(text), "{text}");
    }
}

#[test]
fn a_name_may_be_a_stored_function_with_one_family_only() {
    for (text, is_mariadb, is_stored) in [
        ("SELECT MD5('a')", false, true),
        ("SELECT MD5('a')", true, false),
        ("SELECT POINT()", true, true),
        ("SELECT RANK ()", true, true),
        ("SELECT MEDIAN(a)", false, true),
    ] {
        let pins = classify(text.as_bytes(), is_mariadb).pins;
        assert_eq!(pins.has(Pin::Function), is_stored, "{text}");
    }
    assert!(classify(b"ANALYZE INSERT INTO t VALUES (1)", true)
        .pins
        .has(Pin::InsertId));
    assert!(classify(b"SELECT NVL(a, 1) FROM t", true).pins.is_empty());
    assert_eq!(
        classify(b"SELECT NVL(a, 1) FROM t", false).pins,
        Pins::of(Pin::Function)
    );
    assert_eq!(
        classify(b"SELECT NEXTVAL('s')", false).pins,
        Pins::of(Pin::Function)
    );
}

#[test]
fn what_leaves_a_trace() {
    assert!(!Pins::of(Pin::Warnings).leave_a_trace());
    assert!(Pins::of(Pin::InsertId).leave_a_trace());
    assert!(Pins::of(Pin::Lock).leave_a_trace());
    assert!(Pins::of(Pin::Transaction).leave_a_trace());
    assert!(!Pins::of(Pin::Setting).leave_a_doubt());
    assert!(classify(b"SET ROLE admin", true).pins.leave_a_doubt());
    assert!(classify(b"CALL p()", true).pins.leave_a_doubt());
    // A stored function can SET ROLE, a statement prepared as text can USE.
    assert!(Pins::of(Pin::Function).leave_a_doubt());
    assert!(Pins::of(Pin::TextPrepare).leave_a_doubt());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\PC\\x00-\\xff]{0,80}") {
        classify(text.as_bytes(), true);
    }

    #[test]
    fn pieces_of_sql_make_it_pin_or_share_but_never_panic(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "SELECT", "'", "\"", "`", "\\", "/*!", "*/", "--", "@", "@@", "(", ")", ";", "SET", "a", ".", " ", "1",
            ]), 0..20)
    ) {
        classify(parts.concat().as_bytes(), true);
    }
}
