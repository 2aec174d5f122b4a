//! What the engine refuses to do, as one sentence for an administrator.

use std::io;

/// An answer of "no" to Python.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// One sentence.
    pub message: String,
    /// The system's error number, 0 if it was not the system.
    pub errno: i32,
    /// The listen address it is about, "" if none.
    pub address: String,
}

impl EngineError {
    /// A snapshot that cannot be used: our own fault, since Python has checked it.
    pub fn snapshot(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            errno: 0,
            address: String::new(),
        }
    }

    /// The session log cannot be written there.
    pub fn log(path: &str, error: &io::Error) -> Self {
        Self {
            message: format!("cannot open the session log {path}: {}", said(error)),
            errno: error.raw_os_error().unwrap_or(0),
            address: String::new(),
        }
    }

    /// The system refused something about a listener.
    pub fn listen(what: &str, address: &str, error: &io::Error) -> Self {
        Self {
            message: format!("cannot {what} {address}: {}", said(error)),
            errno: error.raw_os_error().unwrap_or(0),
            address: address.to_owned(),
        }
    }
}

/// An error in the system's words; its number is left out, since people read this.
pub fn said(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) if error.raw_os_error().is_some() => text[..end].to_owned(),
        _ => text,
    }
}

/// Errors of this host, not of a server: a check says SOCKERR, a verdict stays, the session may queue.
pub fn is_local_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EADDRINUSE
                | libc::EADDRNOTAVAIL
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EPERM
                | libc::ENETUNREACH
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_in_words() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(said(&refused), "Connection refused");
        assert_eq!(
            said(&io::Error::other("no (os error 1)")),
            "no (os error 1)"
        );
        let listen = EngineError::listen("listen on", "127.0.0.1:1", &refused);
        assert_eq!(
            listen.message,
            "cannot listen on 127.0.0.1:1: Connection refused"
        );
        let log = EngineError::log("/x", &refused);
        assert_eq!(
            log.message,
            "cannot open the session log /x: Connection refused"
        );
        assert_eq!(log.errno, libc::ECONNREFUSED);
    }
}
