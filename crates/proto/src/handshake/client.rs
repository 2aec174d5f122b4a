//! A client's login as a state machine.

use super::seal::rsa_oaep;
use super::{scramble_native, scramble_sha2};
use crate::command::{capability, marker, MAX_PAYLOAD};
use crate::login::{first_packet, Event, Garbage, Greeting, GREETING_MAX};
use crate::wire::{packet, put_lenenc_bytes, Assembler, Reader};

const NATIVE: &str = "mysql_native_password";
const SHA2: &str = "caching_sha2_password";

/// utf8mb4_general_ci: known to every version since 5.5.
const DEFAULT_COLLATION: u8 = 45;

/// Flags of every login.
const BASE: u32 = capability::LONG_PASSWORD
    | capability::LONG_FLAG
    | capability::PROTOCOL_41
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::MULTI_RESULTS
    | capability::PLUGIN_AUTH
    | capability::PLUGIN_AUTH_LENENC_DATA;

/// Payload bytes of an authentication packet at most.
const PACKET_MAX: usize = 16 * 1024;

/// More data of `caching_sha2_password`: the server had the password in its cache, OK follows.
const FAST_AUTH_OK: u8 = 3;
/// The server wants the password itself, over a channel that nobody can read.
const FULL_AUTH: u8 = 4;
/// Asks the server for its RSA key.
const KEY_REQUEST: u8 = 2;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes, read on.
    Send(Vec<u8>),
    /// Write these bytes, begin TLS, and feed again: the login goes inside.
    StartTls(Vec<u8>),
    /// Logged in; commands may be sent.
    Done,
}

/// Why a login failed. The connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// An ERR in place of a greeting.
    #[error("the server refused the connection: ERR {errno}: {message}")]
    Refused {
        /// The server's error number.
        errno: u16,
        /// The server's text.
        message: String,
    },
    /// An ERR in answer to the login.
    #[error("the server refused the login: ERR {errno}: {message}")]
    Denied {
        /// The server's error number, e.g. 1045.
        errno: u16,
        /// The server's text.
        message: String,
    },
    /// Not a MySQL server.
    #[error(transparent)]
    Garbage(#[from] Garbage),
    /// The server's RSA key cannot be used.
    #[error("caching_sha2_password: the server's public key cannot be used: {0}")]
    Key(String),
    /// `caching_sha2_password` without the account in the server's cache.
    #[error(
        "caching_sha2_password wants the password itself, which needs TLS or RSA; log in once with another \
         client, so that the server has it in its cache, or use mysql_native_password"
    )]
    NeedsSecureChannel,
    /// TLS is a must, and the greeting does not offer it.
    #[error("the server offers no TLS")]
    NoTls,
    /// A plugin that is not implemented.
    #[error("the server wants the authentication plugin {0:?}; known are {NATIVE} and {SHA2}")]
    UnknownPlugin(String),
    /// A packet that fits nowhere.
    #[error("unexpected packet while logging in: {0}")]
    Unexpected(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Greeting,
    /// TLS begins; the login is the first that goes inside.
    Tls,
    Answer,
    /// The RSA key was asked for; kept is the salt that hides the password in it.
    Key([u8; 20]),
    Done,
}

/// How the bytes of a login travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As they are, for everybody on the way to read.
    Plain,
    /// Where nobody else can read: a unix socket, as `is_secure_transport` in MySQL has it.
    Secure,
    /// In TLS if the server offers it.
    TlsIfOffered,
    /// In TLS, or not at all.
    Tls,
}

/// What a login announces besides what every login does.
#[derive(Clone, Debug)]
pub struct Announce {
    /// Capability flags to ask for, as far as the server offers them; MariaDB's own in the upper half.
    pub capabilities: u64,
    /// The collation's number.
    pub collation: u8,
    /// Random bytes for one RSA encryption (`caching_sha2_password` without TLS).
    pub seed: [u8; 20],
    /// Which way.
    pub transport: Transport,
}

/// One login: [`Self::feed`] until [`Step::Done`].
pub struct ClientLogin {
    user: String,
    password: String,
    schema: Option<String>,
    plugin: String,
    salt: [u8; 20],
    announce: Option<Announce>,
    greeting: Option<Greeting>,
    assembler: Assembler,
    state: State,
    /// Nobody else can read what is sent: a password may go as it is.
    is_secure: bool,
}

/// Without the password.
impl std::fmt::Debug for ClientLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ClientLogin");
        shown
            .field("user", &self.user)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl ClientLogin {
    /// A login before the server's first byte. No TLS, no compression.
    pub fn new(user: &str, password: &str, schema: Option<&str>) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            schema: schema.map(str::to_owned),
            plugin: String::new(),
            salt: [0; 20],
            announce: None,
            greeting: None,
            assembler: Assembler::default(),
            state: State::Greeting,
            is_secure: false,
        }
    }

    /// The same with flags and a collation of one's own, and with random bytes for RSA.
    #[must_use]
    pub fn announcing(mut self, announce: Announce) -> Self {
        self.is_secure = announce.transport == Transport::Secure;
        self.announce = Some(announce);
        self
    }

    /// The server's greeting, once it was received.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    /// Looks at bytes from the server up to the next step. None: all were taken, more are needed. Bytes
    /// behind the OK stay in `bytes`.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Result<Option<Step>, LoginError> {
        loop {
            let step = match self.state {
                State::Done => return Ok(None),
                State::Greeting => {
                    let event = self.assembler.next(bytes, GREETING_MAX, first_packet);
                    match event.map_err(|_| Garbage::TooLong)? {
                        None => return Ok(None),
                        Some(event) => Some(self.greeted(event)?),
                    }
                }
                State::Tls => Some(self.log_in(2)?),
                State::Answer | State::Key(_) => {
                    let take = |sequence, payload: &[u8]| (sequence, payload.to_vec());
                    match self.assembler.next(bytes, PACKET_MAX, take) {
                        Ok(None) => return Ok(None),
                        Ok(Some((sequence, payload))) => self.answered(sequence, &payload)?,
                        Err(_) => return Err(LoginError::Unexpected("longer than 16 KiB")),
                    }
                }
            };
            if step.is_some() {
                return Ok(step);
            }
        }
    }

    fn greeted(&mut self, event: Event) -> Result<Step, LoginError> {
        let greeting = match event {
            Event::Greeting(greeting) => greeting,
            Event::RefusedErr { errno, message } => {
                return Err(LoginError::Refused { errno, message })
            }
            Event::Garbage(reason) => return Err(reason.into()),
            Event::LoginOk | Event::LoginErr { .. } => {
                return Err(LoginError::Unexpected("an end before the beginning"))
            }
        };
        // A default that we lack: answer with the oldest; the server switches to what the account has.
        let plugin = if greeting.plugin == SHA2 {
            SHA2
        } else {
            NATIVE
        };
        plugin.clone_into(&mut self.plugin);
        self.salt = greeting.salt;
        let is_offered = greeting.capabilities & capability::SSL != 0;
        self.greeting = Some(greeting);
        match self.announce.as_ref().map(|a| a.transport) {
            Some(Transport::Tls) if !is_offered => Err(LoginError::NoTls),
            Some(Transport::Tls | Transport::TlsIfOffered) if is_offered => Ok(self.ask_for_tls()),
            _ => self.log_in(1),
        }
    }

    /// The front of the login packet alone, with the flag for TLS (`SSLRequest`).
    fn ask_for_tls(&mut self) -> Step {
        self.is_secure = true;
        self.state = State::Tls;
        Step::StartTls(packet(1, &self.front()))
    }

    fn log_in(&mut self, sequence: u8) -> Result<Step, LoginError> {
        let login = self.login()?;
        self.state = State::Answer;
        Ok(Step::Send(packet(sequence, &login)))
    }

    /// Flags that both sides have.
    fn flags(&self) -> u64 {
        let offered = self.greeting.as_ref().map_or(0, Greeting::all_capabilities);
        let offered = offered | u64::from(capability::LONG_PASSWORD);
        let mut flags = u64::from(BASE);
        if let Some(announce) = self.announce.as_ref() {
            // Without MULTI_RESULTS, if that is what is asked for.
            flags = flags & !u64::from(capability::MULTI_RESULTS) | announce.capabilities;
            if matches!(announce.transport, Transport::Tls | Transport::TlsIfOffered) {
                flags |= u64::from(capability::SSL);
            }
        }
        if self.schema.is_some() {
            flags |= u64::from(capability::CONNECT_WITH_DB);
        }
        flags &= offered;
        if flags >> 32 != 0 {
            // So MariaDB knows that the reserved bytes are flags.
            flags &= !u64::from(capability::LONG_PASSWORD);
        }
        flags
    }

    fn front(&self) -> Vec<u8> {
        let announce = self.announce.as_ref();
        let [flags @ .., a, b, c, d] = self.flags().to_le_bytes();
        let mut payload = Vec::with_capacity(160);
        payload.extend_from_slice(&flags);
        payload.extend_from_slice(&MAX_PAYLOAD.to_le_bytes());
        payload.push(announce.map_or(DEFAULT_COLLATION, |a| a.collation));
        payload.extend_from_slice(&[0; 19]);
        payload.extend_from_slice(&[a, b, c, d]);
        payload
    }

    fn login(&self) -> Result<Vec<u8>, LoginError> {
        let flags = self.flags() as u32;
        let mut payload = self.front();
        payload.extend_from_slice(self.user.as_bytes());
        payload.push(0);
        // At most 32 bytes, so the one-byte and the length-encoded length look the same.
        put_lenenc_bytes(&mut payload, &self.scramble(&self.salt)?);
        if flags & capability::CONNECT_WITH_DB != 0 {
            payload.extend_from_slice(self.schema.as_deref().unwrap_or_default().as_bytes());
            payload.push(0);
        }
        if flags & capability::PLUGIN_AUTH != 0 {
            payload.extend_from_slice(self.plugin.as_bytes());
            payload.push(0);
        }
        Ok(payload)
    }

    fn scramble(&self, salt: &[u8; 20]) -> Result<Vec<u8>, LoginError> {
        match self.plugin.as_str() {
            NATIVE => Ok(scramble_native(self.password.as_bytes(), salt)),
            SHA2 => Ok(scramble_sha2(self.password.as_bytes(), salt)),
            other => Err(LoginError::UnknownPlugin(other.to_owned())),
        }
    }

    fn answered(&mut self, sequence: u8, payload: &[u8]) -> Result<Option<Step>, LoginError> {
        let mut reader = Reader(payload);
        match reader.u8() {
            Some(marker::AUTH_MORE_DATA) if matches!(self.state, State::Key(_)) => {
                self.encrypted(sequence, reader.0).map(Some)
            }
            Some(marker::OK) => {
                self.state = State::Done;
                Ok(Some(Step::Done))
            }
            Some(marker::ERR) => {
                let errno = reader.u16().unwrap_or(0);
                if reader.0.first() == Some(&b'#') {
                    let _ = reader.take(6);
                }
                Err(LoginError::Denied {
                    errno,
                    message: String::from_utf8_lossy(reader.0).into_owned(),
                })
            }
            Some(marker::EOF) => {
                if reader.0.is_empty() {
                    return Err(LoginError::UnknownPlugin("mysql_old_password".to_owned()));
                }
                self.plugin = String::from_utf8_lossy(reader.until_nul()).into_owned();
                let salt = reader.array().unwrap_or_default();
                self.salt = salt;
                let answer = self.scramble(&salt)?;
                Ok(Some(Step::Send(packet(sequence.wrapping_add(1), &answer))))
            }
            Some(marker::AUTH_MORE_DATA) => match (self.plugin.as_str(), reader.u8()) {
                (SHA2, Some(FAST_AUTH_OK)) => Ok(None),
                (SHA2, Some(FULL_AUTH)) if self.is_secure => {
                    let mut password = self.password.clone().into_bytes();
                    password.push(0);
                    let sequence = sequence.wrapping_add(1);
                    Ok(Some(Step::Send(packet(sequence, &password))))
                }
                (SHA2, Some(FULL_AUTH)) if self.announce.is_some() => {
                    self.state = State::Key(self.salt);
                    let sequence = sequence.wrapping_add(1);
                    Ok(Some(Step::Send(packet(sequence, &[KEY_REQUEST]))))
                }
                (SHA2, Some(FULL_AUTH)) => Err(LoginError::NeedsSecureChannel),
                _ => Err(LoginError::Unexpected("more data that was not asked for")),
            },
            _ => Err(LoginError::Unexpected(
                "neither OK, ERR, switch nor more data",
            )),
        }
    }

    /// The password under the server's key: NUL-terminated, XOR the salt, OAEP with SHA-1. Source: MySQL
    /// `sql-common/client_authentication.cc`, `caching_sha2_password_auth_client`.
    fn encrypted(&mut self, sequence: u8, pem: &[u8]) -> Result<Step, LoginError> {
        let State::Key(salt) = self.state else {
            return Err(LoginError::Unexpected("a key that was not asked for"));
        };
        let seed = self.announce.as_ref().map_or([0; 20], |a| a.seed);
        let hidden = (self.password.as_bytes().iter().chain(&[0]))
            .zip(salt.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect::<Vec<u8>>();
        let sealed = rsa_oaep(pem, &hidden, seed).map_err(LoginError::Key)?;
        self.state = State::Answer;
        Ok(Step::Send(packet(sequence.wrapping_add(1), &sealed)))
    }
}
