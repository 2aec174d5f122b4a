//! Why a session ended and how its two connections were closed: the enums that the log line, the metric
//! label, the admin view and `portside explain` share.
//!
//! Pure data. A termination is a cause and the phase it met, written `cause/phase` (`quit/command`).

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant),+ }

        impl $name {
            /// Every value, in declaration order: index of a counter array.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The word used in logs, metrics and views.
            pub const fn word(self) -> &'static str { match self { $(Self::$variant => $word),+ } }
            /// What it means, in sentences (`portside explain`).
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

words! {
    /// What ended a session.
    Cause {
        /// The client said QUIT: the good end.
        Quit = "quit",
        /// The client closed without QUIT. Portside said QUIT for it where the protocol allowed, so the database does not count an aborted client.
        ClientEof = "client-eof",
        /// The client reset its connection, or its host vanished (keepalive, TCP_USER_TIMEOUT).
        ClientReset = "client-reset",
        /// The server closed first: wait_timeout, KILL, shutdown, or a refused login.
        ServerEof = "server-eof",
        /// The server reset its connection, or its host vanished: a crash, a firewall, or an address that moved.
        ServerReset = "server-reset",
        /// No connection to any server could be made: refused or unreachable. The client got an ERR packet.
        ConnectFailed = "connect-failed",
        /// No server answered the connect within timeouts.connect. The client got an ERR packet.
        ConnectTimeout = "connect-timeout",
        /// A server accepted but did not greet within timeouts.login, or greeted with something that is not MySQL. The client got an ERR packet.
        NoGreeting = "no-greeting",
        /// The server sent an ERR in place of its greeting (1040, 1129, 1130) and no other server was left. The client got that ERR.
        Refused = "refused-by-server",
        /// No server of the service is eligible. The client got an ERR packet that says why for each; look at portside show servers.
        NoServer = "no-server",
        /// No source port was left towards the server. This is the proxy's host, not the database; look at portside show ports.
        NoSource = "no-source",
        /// This proxy's host ran out of descriptors, memory or buffers. Not the database.
        LocalResource = "local-resource",
        /// The session waited longer than timeouts.queue for a free slot.
        QueueTimeout = "queue-timeout",
        /// The queue of the service was full.
        QueueFull = "queue-full",
        /// The login was not finished within timeouts.login.
        LoginTimeout = "login-timeout",
        /// Nothing moved for timeouts.idle.
        IdleTimeout = "idle-timeout",
        /// The client's address is not allowed (allow, deny), or it has too many connections.
        Denied = "denied",
        /// The client is in probe_networks: accepted and closed, no server was asked.
        Probe = "probe",
        /// The PROXY header was missing, late (1 s) or malformed.
        BadProxyHeader = "bad-proxy-header",
        /// The login was refused (pool mode): wrong user or password, too many sessions or failed logins, an account that was removed, no TLS where it is required, or a schema that is not there or not this account's. The log line's error says which.
        LoginDenied = "login-denied",
        /// The client broke the protocol (pool mode) and was told so.
        ProtocolError = "protocol-error",
        /// The TLS handshake with the client failed (pool mode); the session's error says why.
        TlsFailed = "tls-failed",
        /// An administrator (or on_down) closed it.
        Killed = "killed",
        /// Portside was draining or stopping.
        Drained = "drained",
        /// A fault of Portside itself; please report it with the log.
        Internal = "internal",
    }
}

words! {
    /// Why a TLS handshake failed.
    TlsFailure {
        /// What came is no TLS: a cleartext login behind the request for TLS, or another protocol.
        NotTls = "not-tls",
        /// The peer speaks neither TLS 1.2 nor TLS 1.3.
        Version = "version",
        /// No cipher, key exchange or signature that both sides know.
        Cipher = "cipher",
        /// The peer's certificate is missing, expired, for another name, or signed by somebody unknown.
        Certificate = "certificate",
        /// The peer refused with an alert; mostly it does not accept Portside's certificate.
        Refused = "refused",
        /// The peer went away in the middle.
        Left = "left",
        /// The peer stopped in the middle; timeouts.login ended it.
        Timeout = "timeout",
        /// The server does not offer TLS, and its tls.mode insists.
        NotOffered = "not-offered",
        /// Anything else against the protocol.
        Broken = "broken",
    }
}

words! {
    /// Where in its life a session was.
    Phase {
        /// Between accept and the choice of a server.
        Accept = "accept",
        /// Waiting for a free slot.
        Queue = "queue",
        /// Connecting to a server.
        Connect = "connect",
        /// Connected, before the server's greeting was complete.
        Greeting = "greeting",
        /// Between greeting and the server's OK.
        Login = "login",
        /// Logged in, no query running (as far as a relay can see).
        Command = "command",
        /// A query or its reply was under way.
        Query = "query",
        /// TLS passed through: what happens inside cannot be seen.
        Tls = "tls",
    }
}

words! {
    /// How the connection to the server was closed.
    ServerClose {
        /// QUIT, the server's FIN, then our RST: no TIME_WAIT on either host, nothing aborted.
        EofReset = "eof-reset",
        /// QUIT, the server's FIN, then our FIN: the server keeps the TIME_WAIT.
        EofFin = "eof",
        /// QUIT, then a close that keeps nothing once the server has acknowledged it (TCP_LINGER2 = -1).
        Linger2 = "linger2",
        /// QUIT and RST at once, as HAProxy's nolinger. Counts as aborted where QUIT is lost or a query runs.
        ResetNow = "reset-now",
        /// QUIT and FIN at once, as every MySQL client does: we keep the TIME_WAIT, the tuple rests 60 s.
        Fin = "fin",
        /// No FIN from the server by the deadline; it had acknowledged everything, so RST.
        LateReset = "late-reset",
        /// No FIN from the server by the deadline and bytes or a reply were outstanding: delivered with TCP_LINGER2 = -1.
        LateLinger2 = "late-linger2",
        /// A reply for a client that is gone was longer than abandon_bytes or took longer than abandon_time: RST. The database counts an aborted client.
        Abandoned = "abandoned",
        /// Closed where no QUIT was possible (half a packet, login under way): the database counts an aborted connection.
        Cut = "cut",
        /// The server had reset the connection, or it never came to be.
        Lost = "lost",
        /// There was no connection.
        None = "none",
    }
}

impl ServerClose {
    /// Whether the server's FIN was still missing when `close.deadline` had passed.
    pub const fn is_late(self) -> bool {
        matches!(self, Self::LateReset | Self::LateLinger2)
    }
}

words! {
    /// How the connection to the client was closed.
    ClientClose {
        /// The client's FIN, then our RST: no TIME_WAIT on the web server.
        FinReset = "fin-reset",
        /// A plain close (to_client = "fin").
        Fin = "fin",
        /// We had to close first (the client waits for our FIN, or the server closed): FIN without TIME_WAIT (TCP_LINGER2 = -1).
        Linger2 = "linger2",
        /// The client had reset the connection.
        Lost = "lost",
    }
}

words! {
    /// Why a pool session keeps its server connection (docs/pooling.md). The first holds until the state is gone, the others until the session ends, or resets itself.
    Pin {
        /// A transaction is open. Ends with it.
        Transaction = "transaction",
        /// autocommit is off. Ends when it is on again.
        Autocommit = "autocommit",
        /// The last statement had warnings or an error, and SHOW WARNINGS may follow. Ends with the next statement, or after a second.
        Warnings = "warnings",
        /// The last statement changed rows, and ROW_COUNT() may follow. Ends with the next statement, or after a second.
        RowCount = "row-count",
        /// SQL_CALC_FOUND_ROWS: FOUND_ROWS() may follow. Ends with the next statement, or after a second.
        FoundRows = "found-rows",
        /// A prepared statement is bound to the connection: long data, a cursor, a bulk execution, types that MySQL remembers, or a session that changed its settings meanwhile. Ends when all such are closed.
        Statements = "statements",
        /// An insert id was made: LAST_INSERT_ID() may follow at any time.
        InsertId = "insert-id",
        /// A user variable (@name) was used.
        UserVariable = "user-variable",
        /// A temporary table was made or dropped.
        TemporaryTable = "temporary-table",
        /// LOCK TABLES, GET_LOCK() or another lock of the connection.
        Lock = "lock",
        /// SET of something that is not a plain value, or of a variable that cannot be replayed.
        Setting = "setting",
        /// PREPARE, EXECUTE or DEALLOCATE as SQL text.
        TextPrepare = "text-prepare",
        /// CALL: a procedure may leave anything behind.
        Call = "call",
        /// A function that is not built in: it may leave anything behind.
        Function = "function",
        /// A statement that Portside does not know to be without traces.
        Statement = "statement",
        /// A statement longer than 1 MiB: it is passed on unread.
        Long = "long-statement",
        /// The character set or sql_mode makes SQL text unreadable for Portside (gbk, sjis, ANSI_QUOTES, NO_BACKSLASH_ESCAPES).
        Unreadable = "unreadable",
        /// A command that changes the connection itself (COM_SET_OPTION, COM_RESET_CONNECTION where it changes the character set).
        Command = "command",
    }
}
