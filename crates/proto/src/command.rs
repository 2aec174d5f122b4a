//! Numbers of the MySQL protocol: commands, capability flags, status flags, packet markers.
//!
//! The only place in the workspace that has them. Source: MySQL `include/my_command.h` and
//! `include/mysql_com.h`, MariaDB `include/mysql_com.h`; both use the same values for what is listed,
//! except where the comment names one of them.

/// First payload byte of a command packet.
pub mod com {
    /// The client ends the session; the server answers with nothing and closes.
    pub const QUIT: u8 = 0x01;
    /// Changes the current schema.
    pub const INIT_DB: u8 = 0x02;
    /// A text query.
    pub const QUERY: u8 = 0x03;
    /// Column definitions of a table (deprecated, still sent by old clients).
    pub const FIELD_LIST: u8 = 0x04;
    /// FLUSH as a command (deprecated; MySQL 9 has none).
    pub const REFRESH: u8 = 0x07;
    /// Ends the server (deprecated).
    pub const SHUTDOWN: u8 = 0x08;
    /// A one-line status text.
    pub const STATISTICS: u8 = 0x09;
    /// SHOW PROCESSLIST as a command (deprecated; MySQL 9 has none).
    pub const PROCESS_INFO: u8 = 0x0a;
    /// Kills a connection by its id (deprecated).
    pub const PROCESS_KILL: u8 = 0x0c;
    /// Makes the server write about itself to its log.
    pub const DEBUG: u8 = 0x0d;
    /// Answered with OK; nothing else happens.
    pub const PING: u8 = 0x0e;
    /// Logs in again on the same connection, with an authentication exchange.
    pub const CHANGE_USER: u8 = 0x11;
    /// Turns the connection into a stream of binary log events.
    pub const BINLOG_DUMP: u8 = 0x12;
    /// Registers a replica.
    pub const REGISTER_SLAVE: u8 = 0x15;
    /// Prepares a statement.
    pub const STMT_PREPARE: u8 = 0x16;
    /// Executes a prepared statement.
    pub const STMT_EXECUTE: u8 = 0x17;
    /// Sends one parameter in pieces; has no answer.
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    /// Frees a prepared statement; has no answer.
    pub const STMT_CLOSE: u8 = 0x19;
    /// Frees what was sent as long data.
    pub const STMT_RESET: u8 = 0x1a;
    /// Multi-statements on or off.
    pub const SET_OPTION: u8 = 0x1b;
    /// Reads rows of an open cursor.
    pub const STMT_FETCH: u8 = 0x1c;
    /// Binary log stream positioned by GTID.
    pub const BINLOG_DUMP_GTID: u8 = 0x1e;
    /// Resets session state without a new login.
    pub const RESET_CONNECTION: u8 = 0x1f;
    /// Turns the connection into a stream of a copy of the server (MySQL).
    pub const CLONE: u8 = 0x20;
}

/// Capability flags, exchanged in greeting and login. Bits 0-15 are in the greeting's first half.
pub mod capability {
    /// `CLIENT_LONG_PASSWORD`; MariaDB calls it `CLIENT_MYSQL` and leaves it out of its own greeting.
    pub const LONG_PASSWORD: u32 = 1;
    /// Affected rows counts found rows.
    pub const FOUND_ROWS: u32 = 1 << 1;
    /// More flags per column.
    pub const LONG_FLAG: u32 = 1 << 2;
    /// `db.table.column` is refused; ODBC only.
    pub const NO_SCHEMA: u32 = 1 << 4;
    /// The login names a schema.
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    /// zlib compression: 7-byte frames after the login.
    pub const COMPRESS: u32 = 1 << 5;
    /// No effect since 3.22; sent by ODBC clients.
    pub const ODBC: u32 = 1 << 6;
    /// The client can send files (LOAD DATA LOCAL).
    pub const LOCAL_FILES: u32 = 1 << 7;
    /// Spaces are allowed between a function's name and its parenthesis.
    pub const IGNORE_SPACE: u32 = 1 << 8;
    /// Today's protocol (4.1 and later).
    pub const PROTOCOL_41: u32 = 1 << 9;
    /// `interactive_timeout` instead of `wait_timeout`.
    pub const INTERACTIVE: u32 = 1 << 10;
    /// TLS: the client's packet with this flag is followed by a TLS handshake.
    pub const SSL: u32 = 1 << 11;
    /// OK packets carry status flags.
    pub const TRANSACTIONS: u32 = 1 << 13;
    /// 20-byte salt; today it always comes with `PROTOCOL_41`.
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    /// Several statements in one query.
    pub const MULTI_STATEMENTS: u32 = 1 << 16;
    /// Several results per query.
    pub const MULTI_RESULTS: u32 = 1 << 17;
    /// Several results per prepared statement.
    pub const PS_MULTI_RESULTS: u32 = 1 << 18;
    /// Login and greeting name an authentication plugin.
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    /// The login carries key/value attributes.
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    /// The login's authentication data has a length-encoded length.
    pub const PLUGIN_AUTH_LENENC_DATA: u32 = 1 << 21;
    /// The client can be told that its password expired.
    pub const CAN_HANDLE_EXPIRED_PASSWORDS: u32 = 1 << 22;
    /// OK packets carry session state changes.
    pub const SESSION_TRACK: u32 = 1 << 23;
    /// No EOF packet after column definitions; OK instead of EOF at the end of rows.
    pub const DEPRECATE_EOF: u32 = 1 << 24;
    /// Result set metadata may be left out.
    pub const OPTIONAL_RESULTSET_METADATA: u32 = 1 << 25;
    /// zstd compression (MySQL 8.0.18 and later): the same 7-byte frames.
    pub const ZSTD_COMPRESSION: u32 = 1 << 26;
    /// Query attributes (MySQL).
    pub const QUERY_ATTRIBUTES: u32 = 1 << 27;
    /// Several authentication factors (MySQL).
    pub const MULTI_FACTOR_AUTHENTICATION: u32 = 1 << 28;
}

/// MariaDB's own flags, as the upper half of 64 bits. They stand in bytes that are reserved elsewhere, and count
/// only where `LONG_PASSWORD` is missing. Source: MariaDB `include/mysql_com.h`.
pub mod extended {
    /// Progress reports: an ERR packet with [`super::PROGRESS_REPORT`] for its number in the middle of a reply.
    pub const PROGRESS: u64 = 1 << 32;
    /// Several commands in one packet; no released server has it.
    pub const MULTI: u64 = 1 << 33;
    /// `COM_STMT_BULK_EXECUTE`.
    pub const BULK: u64 = 1 << 34;
    /// Column definitions carry more about types.
    pub const METADATA: u64 = 1 << 35;
    /// An execution leaves out definitions that the client has seen.
    pub const CACHE_METADATA: u64 = 1 << 36;
    /// A result for each row of a bulk execution (11.5).
    pub const BULK_UNIT_RESULTS: u64 = 1 << 37;
}

/// Number of an ERR packet that is no error.
pub const PROGRESS_REPORT: u16 = 0xffff;

/// Status flags of OK and EOF packets.
pub mod status {
    /// A transaction is open.
    pub const IN_TRANS: u16 = 1;
    /// `autocommit` is on.
    pub const AUTOCOMMIT: u16 = 1 << 1;
    /// Another result follows.
    pub const MORE_RESULTS_EXISTS: u16 = 1 << 3;
    /// The rows wait in a cursor on the server.
    pub const CURSOR_EXISTS: u16 = 1 << 6;
    /// `sql_mode` has NO_BACKSLASH_ESCAPES.
    pub const NO_BACKSLASH_ESCAPES: u16 = 1 << 9;
    /// The result set is the OUT parameters of a prepared CALL.
    pub const PS_OUT_PARAMS: u16 = 1 << 12;
    /// A read-only transaction is open.
    pub const IN_TRANS_READONLY: u16 = 1 << 13;
    /// Session state changes follow in the OK packet.
    pub const SESSION_STATE_CHANGED: u16 = 1 << 14;
    /// `sql_mode` has ANSI_QUOTES (MariaDB).
    pub const ANSI_QUOTES: u16 = 1 << 15;
    /// Those that tell of the session; the others are about one statement.
    pub const LASTING: u16 =
        IN_TRANS | AUTOCOMMIT | NO_BACKSLASH_ESCAPES | IN_TRANS_READONLY | ANSI_QUOTES;
}

/// First payload byte of server packets.
pub mod marker {
    /// OK.
    pub const OK: u8 = 0x00;
    /// More authentication data (only while logging in).
    pub const AUTH_MORE_DATA: u8 = 0x01;
    /// Authentication with the next factor (MySQL, only while logging in).
    pub const AUTH_NEXT_FACTOR: u8 = 0x02;
    /// The server asks for a local file.
    pub const LOCAL_INFILE: u8 = 0xfb;
    /// EOF; while logging in: switch to another authentication plugin.
    pub const EOF: u8 = 0xfe;
    /// ERR.
    pub const ERR: u8 = 0xff;
}

/// Payload bytes in one packet at most; a packet of exactly this length is continued by the next.
pub const MAX_PAYLOAD: u32 = 0x00ff_ffff;

/// Bytes of a packet header: length (3, little-endian), sequence.
pub const HEADER_LEN: usize = 4;

/// Bytes of a compressed frame's header: length as sent (3), sequence, length before compression (3;
/// 0 = the payload is not compressed).
pub const FRAME_HEADER_LEN: usize = 7;
