//! Names that may stand before a parenthesis without leaving a trace on the connection.
//!
//! Built-in functions of MySQL 9 and MariaDB 10.6 to 11, and keywords. A name that is missing costs sharing, never
//! a wrong answer: its session is pinned. Source: the "Function and Operator Reference" of both manuals.

/// Whether this upper-case name is a keyword or a built-in function without side effects. What is built in with
/// the other family alone may be anybody's stored function here.
pub(super) fn is_harmless(name: &[u8], is_mariadb: bool) -> bool {
    let elsewhere = if is_mariadb { MYSQL } else { MARIADB };
    std::str::from_utf8(name)
        .is_ok_and(|name| NAMES.binary_search(&name).is_ok() && !elsewhere.contains(&name))
}

/// Whether this is a function only where its parenthesis follows at once (or sql_mode has IGNORE_SPACE); else it
/// may be a stored one. Source: "Function Name Parsing and Resolution" of MySQL's manual.
pub(super) fn is_glued(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| GLUED.binary_search(&name).is_ok())
}

/// Sorted.
#[rustfmt::skip]
const GLUED: &[&str] = &[
    "ADDDATE", "BIT_AND", "BIT_OR", "BIT_XOR", "CAST", "COUNT", "CUME_DIST", "CURDATE", "CURTIME", "DATE_ADD",
    "DATE_SUB", "DENSE_RANK", "EXTRACT", "FIRST_VALUE", "GROUP_CONCAT", "JSON_ARRAYAGG", "JSON_OBJECTAGG",
    "LAG", "LEAD", "MAX", "MEDIAN", "MID", "MIN", "NOW", "NTH_VALUE", "NTILE", "PERCENTILE_CONT",
    "PERCENTILE_DISC", "PERCENT_RANK", "POSITION", "RANK", "SESSION_USER", "STD", "STDDEV", "STDDEV_POP",
    "STDDEV_SAMP", "SUBDATE", "SUBSTR", "SUBSTRING", "SUM", "SYSDATE", "SYSTEM_USER", "TRIM", "VARIANCE", "VAR_POP", "VAR_SAMP",
];

/// Of [`NAMES`], built in (or a keyword that names no function) with MySQL alone.
#[rustfmt::skip]
const MYSQL: &[&str] = &[
    "AGAINST", "ANY_VALUE", "BIN_TO_UUID", "DUPLICATE", "ESCAPE", "FORMAT_BYTES", "FORMAT_PICO_TIME",
    "GEOMETRYCOLLECTION", "GROUPING", "IS_UUID", "JSON_SCHEMA_VALID", "JSON_STORAGE_FREE", "JSON_STORAGE_SIZE",
    "JSON_TABLE", "LATERAL", "LINESTRING", "MBRCOVEREDBY", "MBRCOVERS", "MULTILINESTRING", "MULTIPOINT",
    "MULTIPOLYGON", "OF", "POINT", "POLYGON", "PS_CURRENT_THREAD_ID",
    "REGEXP_LIKE", "STATEMENT_DIGEST", "STATEMENT_DIGEST_TEXT", "ST_ISVALID", "ST_LATITUDE", "ST_LONGITUDE",
    "ST_SIMPLIFY", "ST_SWAPXY", "ST_TRANSFORM", "UUID_TO_BIN", "VALIDATE_PASSWORD_STRENGTH",
    "WAIT_FOR_EXECUTED_GTID_SET",
];

/// Of [`NAMES`], built in with MariaDB alone; MD5, SHA and SHA1 are no more with MySQL 9.
#[rustfmt::skip]
const MARIADB: &[&str] = &[
    "ADD_MONTHS", "CHR", "COLUMN_CHECK", "COLUMN_CREATE", "COLUMN_EXISTS", "COLUMN_GET", "COLUMN_JSON",
    "COLUMN_LIST", "CRC32C", "DECODE", "ENCODE", "ENCRYPT", "JSON_COMPACT", "JSON_DETAILED", "JSON_EQUALS",
    "JSON_EXISTS", "JSON_LOOSE", "JSON_NORMALIZE", "JSON_QUERY", "LASTVAL", "LENGTHB", "MASTER_GTID_WAIT",
    "MBREQUAL", "MD5", "MEDIAN", "NATURAL_SORT_KEY", "NEXTVAL", "NVL", "NVL2", "OLD_PASSWORD",
    "PERCENTILE_CONT", "PERCENTILE_DISC", "SETVAL", "SFORMAT", "SHA", "SHA1", "TO_CHAR", "WITHIN",
];

/// Sorted.
#[rustfmt::skip] // one name a line would be a file of its own
const NAMES: &[&str] = &[
    "ABS", "ACOS", "ADDDATE", "ADDTIME", "ADD_MONTHS", "AES_DECRYPT", "AES_ENCRYPT", "AGAINST", "ALL", "AND",
    "ANY", "ANY_VALUE", "AS", "ASCII", "ASIN", "ATAN", "ATAN2", "AVG", "BENCHMARK", "BETWEEN", "BIN", "BINARY",
    "BIN_TO_UUID", "BIT_AND", "BIT_COUNT", "BIT_LENGTH", "BIT_OR", "BIT_XOR", "BY", "CASE", "CAST", "CEIL",
    "CEILING", "CHAR", "CHARACTER", "CHARACTER_LENGTH", "CHARSET", "CHAR_LENGTH", "CHR", "COALESCE",
    "COERCIBILITY", "COLLATE", "COLLATION", "COLUMN_CHECK", "COLUMN_CREATE", "COLUMN_EXISTS", "COLUMN_GET",
    "COLUMN_JSON", "COLUMN_LIST", "COMPRESS", "CONCAT", "CONCAT_WS", "CONNECTION_ID", "CONV", "CONVERT",
    "CONVERT_TZ", "COS", "COT", "COUNT", "CRC32", "CRC32C", "CUME_DIST", "CURDATE", "CURRENT_DATE",
    "CURRENT_ROLE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "CURRENT_USER", "CURTIME", "DATABASE", "DATE",
    "DATEDIFF", "DATETIME", "DATE_ADD", "DATE_FORMAT", "DATE_SUB", "DAY", "DAYNAME", "DAYOFMONTH", "DAYOFWEEK",
    "DAYOFYEAR", "DECIMAL", "DECODE", "DEFAULT", "DEGREES", "DENSE_RANK", "DESCRIBE", "DISTINCT", "DIV", "DO",
    "DOUBLE", "DUPLICATE", "ELSE", "ELT", "ENCODE", "ENCRYPT", "ESCAPE", "EXCEPT", "EXISTS", "EXP", "EXPLAIN",
    "EXPORT_SET", "EXTRACT", "EXTRACTVALUE", "FIELD", "FIND_IN_SET", "FIRST_VALUE", "FLOAT", "FLOOR", "FOR",
    "FORCE", "FORMAT", "FORMAT_BYTES", "FORMAT_PICO_TIME", "FOUND_ROWS", "FROM", "FROM_BASE64", "FROM_DAYS",
    "FROM_UNIXTIME", "GEOMETRYCOLLECTION", "GET_LOCK", "GREATEST", "GROUP", "GROUPING", "GROUP_CONCAT",
    "HAVING", "HEX", "HOUR", "IF", "IFNULL", "IGNORE", "IN", "INDEX", "INET6_ATON", "INET6_NTOA", "INET_ATON",
    "INET_NTOA", "INSERT", "INSTR", "INTERSECT", "INTERVAL", "INTO", "IS", "ISNULL", "IS_FREE_LOCK", "IS_IPV4",
    "IS_IPV4_COMPAT", "IS_IPV4_MAPPED", "IS_IPV6", "IS_USED_LOCK", "IS_UUID", "JOIN", "JSON_ARRAY",
    "JSON_ARRAYAGG", "JSON_ARRAY_APPEND", "JSON_ARRAY_INSERT", "JSON_COMPACT", "JSON_CONTAINS",
    "JSON_CONTAINS_PATH", "JSON_DEPTH", "JSON_DETAILED", "JSON_EQUALS", "JSON_EXISTS", "JSON_EXTRACT",
    "JSON_INSERT", "JSON_KEYS", "JSON_LENGTH", "JSON_LOOSE", "JSON_MERGE", "JSON_MERGE_PATCH",
    "JSON_MERGE_PRESERVE", "JSON_NORMALIZE", "JSON_OBJECT", "JSON_OBJECTAGG", "JSON_OVERLAPS", "JSON_PRETTY",
    "JSON_QUERY", "JSON_QUOTE", "JSON_REMOVE", "JSON_REPLACE", "JSON_SCHEMA_VALID", "JSON_SEARCH", "JSON_SET",
    "JSON_STORAGE_FREE", "JSON_STORAGE_SIZE", "JSON_TABLE", "JSON_TYPE", "JSON_UNQUOTE", "JSON_VALID",
    "JSON_VALUE", "KEY", "LAG", "LASTVAL", "LAST_DAY", "LAST_INSERT_ID", "LAST_VALUE", "LATERAL", "LCASE",
    "LEAD", "LEAST", "LEFT", "LENGTH", "LENGTHB", "LIKE", "LIMIT", "LINES", "LINESTRING", "LN", "LOAD_FILE",
    "LOCALTIME", "LOCALTIMESTAMP", "LOCATE", "LOG", "LOG10", "LOG2", "LOWER", "LPAD", "LTRIM", "MAKEDATE",
    "MAKETIME", "MAKE_SET", "MASTER_GTID_WAIT", "MASTER_POS_WAIT", "MATCH", "MAX", "MBRCONTAINS",
    "MBRCOVEREDBY", "MBRCOVERS", "MBRDISJOINT", "MBREQUAL", "MBREQUALS", "MBRINTERSECTS", "MBROVERLAPS",
    "MBRTOUCHES", "MBRWITHIN", "MD5", "MEDIAN", "MICROSECOND", "MID", "MIN", "MINUTE", "MOD", "MONTH",
    "MONTHNAME", "MULTILINESTRING", "MULTIPOINT", "MULTIPOLYGON", "NAME_CONST",
    "NATURAL_SORT_KEY", "NCHAR", "NEXTVAL", "NOT", "NOW", "NTH_VALUE", "NTILE", "NULLIF", "NVL", "NVL2", "OCT",
    "OCTET_LENGTH", "OF", "OFFSET", "OLD_PASSWORD", "ON", "OR", "ORD", "ORDER", "OVER", "PARTITION", "PASSWORD",
    "PERCENTILE_CONT", "PERCENTILE_DISC", "PERCENT_RANK", "PERIOD_ADD", "PERIOD_DIFF", "PI", "POINT", "POLYGON",
    "POSITION", "POW", "POWER", "PRIMARY", "PS_CURRENT_THREAD_ID", "QUARTER", "QUOTE", "RADIANS", "RAND",
    "RANDOM_BYTES", "RANK", "REAL", "REGEXP", "REGEXP_INSTR", "REGEXP_LIKE", "REGEXP_REPLACE", "REGEXP_SUBSTR",
    "RELEASE_ALL_LOCKS", "RELEASE_LOCK", "REPEAT", "REPLACE", "RETURNING", "REVERSE", "RIGHT", "RLIKE", "ROUND",
    "ROW", "ROWS", "ROW_COUNT", "ROW_NUMBER", "RPAD", "RTRIM", "SCHEMA", "SECOND", "SEC_TO_TIME", "SELECT",
    "SESSION_USER", "SET", "SETVAL", "SFORMAT", "SHA", "SHA1", "SHA2", "SIGN", "SIGNED", "SIN", "SLEEP", "SOME",
    "SOUNDEX", "SPACE", "SQRT", "STATEMENT_DIGEST", "STATEMENT_DIGEST_TEXT", "STD", "STDDEV", "STDDEV_POP",
    "STDDEV_SAMP", "STRAIGHT_JOIN", "STRCMP", "STR_TO_DATE", "ST_AREA", "ST_ASBINARY", "ST_ASGEOJSON",
    "ST_ASTEXT", "ST_ASWKB", "ST_ASWKT", "ST_BUFFER", "ST_CENTROID", "ST_CONTAINS", "ST_CROSSES",
    "ST_DIFFERENCE", "ST_DIMENSION", "ST_DISJOINT", "ST_DISTANCE", "ST_DISTANCE_SPHERE", "ST_ENDPOINT",
    "ST_ENVELOPE", "ST_EQUALS", "ST_EXTERIORRING", "ST_GEOMCOLLFROMTEXT", "ST_GEOMETRYN", "ST_GEOMETRYTYPE",
    "ST_GEOMFROMGEOJSON", "ST_GEOMFROMTEXT", "ST_GEOMFROMWKB", "ST_INTERSECTION", "ST_INTERSECTS",
    "ST_ISCLOSED", "ST_ISEMPTY", "ST_ISVALID", "ST_LATITUDE", "ST_LENGTH", "ST_LONGITUDE", "ST_NUMGEOMETRIES",
    "ST_NUMPOINTS", "ST_OVERLAPS", "ST_POINTFROMTEXT", "ST_POINTN", "ST_POLYFROMTEXT", "ST_SIMPLIFY", "ST_SRID",
    "ST_STARTPOINT", "ST_SWAPXY", "ST_TOUCHES", "ST_TRANSFORM", "ST_UNION", "ST_WITHIN", "ST_X", "ST_Y",
    "SUBDATE", "SUBSTR", "SUBSTRING", "SUBSTRING_INDEX", "SUBTIME", "SUM", "SYSDATE", "SYSTEM_USER", "TABLE",
    "TAN", "THEN", "TIME", "TIMEDIFF", "TIMESTAMP", "TIMESTAMPADD", "TIMESTAMPDIFF", "TIME_FORMAT",
    "TIME_TO_SEC", "TO_BASE64", "TO_CHAR", "TO_DAYS", "TO_SECONDS", "TRIM", "TRUNCATE", "UCASE", "UNCOMPRESS",
    "UNCOMPRESSED_LENGTH", "UNHEX", "UNION", "UNIX_TIMESTAMP", "UNSIGNED", "UPDATE", "UPDATEXML", "UPPER",
    "USE", "USER", "USING", "UTC_DATE", "UTC_TIME", "UTC_TIMESTAMP", "UUID", "UUID_SHORT", "UUID_TO_BIN",
    "VALIDATE_PASSWORD_STRENGTH", "VALUE", "VALUES", "VARCHAR", "VARIANCE", "VAR_POP", "VAR_SAMP", "VERSION",
    "WAIT_FOR_EXECUTED_GTID_SET", "WEEK", "WEEKDAY", "WEEKOFYEAR", "WEIGHT_STRING", "WHEN", "WHERE", "WITH",
    "WITHIN", "XOR", "YEAR", "YEARWEEK",
];

#[cfg(test)]
mod tests {
    use super::{is_glued, is_harmless, GLUED, MARIADB, MYSQL, NAMES};

    #[test]
    fn the_lists_are_sorted_and_agree() {
        for list in [NAMES, GLUED, MYSQL, MARIADB] {
            assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
            for name in list {
                assert!(NAMES.contains(name) || name.contains("STDDEV"), "{name}");
            }
        }
    }

    #[test]
    fn a_name_of_the_other_family_may_be_a_stored_function() {
        for (name, mariadb, mysql) in [
            ("COUNT", true, true),
            ("MY_FUNCTION", false, false),
            ("NVL", true, false),
            ("NEXTVAL", true, false),
            ("UUID_TO_BIN", false, true),
            // Of a component, which may be missing.
            ("MYSQL_QUERY_ATTRIBUTE_STRING", false, false),
        ] {
            assert_eq!(is_harmless(name.as_bytes(), true), mariadb, "{name}");
            assert_eq!(is_harmless(name.as_bytes(), false), mysql, "{name}");
        }
        assert!(is_glued(b"COUNT") && is_glued(b"PERCENTILE_DISC"));
        assert!(!is_glued(b"ABS"));
    }
}
