//! A client's login as a state machine.

use super::offer::KEY_REQUEST;
use super::plugin::Plugin;
use super::scramble::scramble_native_once;
use super::seal::rsa_oaep;
use super::{ed25519, scramble_native, scramble_sha2, Credential};
use crate::command::{capability, com, marker, MAX_PAYLOAD};
use crate::login::{first_packet, Event, Garbage, Greeting, GREETING_MAX};
use crate::refuse_login::{self, Refusal};
use crate::wire::{packet, put_lenenc_bytes, Assembler, Reader};

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

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes, read on.
    Send(Vec<u8>),
    /// Write these bytes and begin TLS; then [`ClientLogin::within_tls`].
    StartTls(Vec<u8>),
    /// Logged in; commands may be sent.
    Done,
    /// The login has failed. To leave without these bytes would count against our address; the server's FIN follows.
    Leave(Vec<u8>, LoginError),
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
    /// `mysql_clear_password` over a channel that others can read.
    #[error("mysql_clear_password sends the password itself: it needs TLS towards this server ([[server]] tls = {{ mode = \"required\" }})")]
    NeedsTls,
    /// A method that needs more of the password than is known.
    #[error(
        "{} needs the account's password, of which only a hash is known: set server_password, or give the account \
         mysql_native_password on the server",
        .0.name()
    )]
    NeedsPassword(Plugin),
    /// TLS is a must, and the greeting does not offer it.
    #[error("the server offers no TLS")]
    NoTls,
    /// Its certificate is not one that may hear a password; the text says why.
    #[error("{0}")]
    Untrusted(String),
    /// A plugin that is not implemented.
    #[error(
        "the server wants the authentication plugin {0:?}; known are mysql_native_password, caching_sha2_password, \
         client_ed25519 and, over TLS, mysql_clear_password"
    )]
    UnknownPlugin(String),
    /// A packet that fits nowhere.
    #[error("unexpected packet while logging in: {0}")]
    Unexpected(&'static str),
}

#[derive(Debug)]
enum State {
    Greeting,
    /// TLS begins; the login is the first that goes inside.
    Tls,
    /// There is no TLS, or with the wrong server: the login ends in order, with this error.
    Refusal(Refusal, LoginError),
    /// Whether the server has changed the method already: it may once.
    Answer {
        switched: bool,
    },
    /// The RSA key was asked for.
    Key,
    /// Nothing is left to be said: OK or ERR.
    Verdict,
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
    /// Connection attributes; where the server takes none they are left out.
    pub attributes: &'static [(&'static str, &'static str)],
}

/// One login: [`Self::feed`] until [`Step::Done`].
pub struct ClientLogin {
    user: String,
    credential: Credential,
    schema: Option<String>,
    plugin: Plugin,
    nonce: [u8; 32],
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
    pub fn new(user: &str, credential: impl Into<Credential>, schema: Option<&str>) -> Self {
        Self {
            user: user.to_owned(),
            credential: credential.into(),
            schema: schema.map(str::to_owned),
            plugin: Plugin::Native,
            nonce: [0; 32],
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

    /// Whether it only ends in order, without having begun.
    pub fn is_hopeless(&self) -> bool {
        matches!(self.state, State::Refusal(..))
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
                // Of TLS nobody knows yet whom it is with.
                State::Done | State::Tls => return Ok(None),
                State::Greeting => {
                    let event = self.assembler.next(bytes, GREETING_MAX, first_packet);
                    match event.map_err(|_| Garbage::TooLong)? {
                        None => return Ok(None),
                        Some(event) => Some(self.greeted(event)?),
                    }
                }
                State::Refusal(ref mut refusal, ref why) => match refusal.feed(bytes) {
                    refuse_login::Step::Wait => return Ok(None),
                    refuse_login::Step::Send(answer) => Some(Step::Send(answer)),
                    refuse_login::Step::SendAndClose(_) | refuse_login::Step::Close => {
                        return Err(why.clone())
                    }
                },
                State::Answer { .. } | State::Key | State::Verdict => {
                    let take = |sequence, payload: &[u8]| (sequence, payload.to_vec());
                    match self.assembler.next(bytes, PACKET_MAX, take) {
                        Ok(None) => return Ok(None),
                        Ok(Some((sequence, payload))) => self
                            .answered(sequence, &payload)
                            .or_else(|why| self.leave(sequence, why))?,
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
        self.plugin = match Plugin::from_name(greeting.plugin.as_bytes()) {
            Some(Plugin::Sha2) if self.password().is_some() => Plugin::Sha2,
            _ => Plugin::Native,
        };
        for (to, from) in self.nonce.iter_mut().zip(greeting.salt) {
            *to = from;
        }
        let is_offered = greeting.capabilities & capability::SSL != 0;
        self.greeting = Some(greeting);
        match self.announce.as_ref().map(|a| a.transport) {
            Some(Transport::Tls) if !is_offered => self.be_refused(),
            Some(Transport::Tls | Transport::TlsIfOffered) if is_offered => Ok(self.ask_for_tls()),
            _ => self.log_in(1),
        }
    }

    /// To leave now would count against our address (`crate::refuse_login`); the password stays here.
    fn be_refused(&mut self) -> Result<Step, LoginError> {
        let greeting = self.greeting.as_ref().ok_or(LoginError::NoTls)?;
        let (refusal, bytes) = refuse_login::start(greeting);
        self.state = State::Refusal(refusal, LoginError::NoTls);
        Ok(Step::Send(bytes))
    }

    /// TLS has begun: the login, to a server that may hear it, else the login of nobody with the reason why not.
    pub fn within_tls(&mut self, verdict: Result<(), String>) -> Result<Step, LoginError> {
        match (&self.state, verdict) {
            (State::Tls, Ok(())) => self.log_in(2),
            (State::Tls, Err(why)) => {
                let why = LoginError::Untrusted(why);
                self.state = State::Refusal(Refusal::default(), why);
                let nobody = self.login_as(refuse_login::USER, &[]);
                Ok(Step::Send(packet(2, &nobody)))
            }
            _ => Err(LoginError::Unexpected("TLS that was not asked for")),
        }
    }

    /// What the server has asked for cannot be said: it gets an answer that is certainly wrong.
    fn leave(&mut self, sequence: u8, why: LoginError) -> Result<Option<Step>, LoginError> {
        match why {
            LoginError::Key(_)
            | LoginError::NeedsSecureChannel
            | LoginError::NeedsTls
            | LoginError::NeedsPassword(_)
            | LoginError::UnknownPlugin(_) => {
                // Other lengths are broken packets to MariaDB's ed25519.
                let wrong: &[u8] = match self.plugin {
                    Plugin::Ed25519 => &[0; 64],
                    Plugin::Native | Plugin::Sha2 | Plugin::Clear => &[],
                };
                let answer = packet(sequence.wrapping_add(1), wrong);
                Ok(Some(Step::Leave(answer, why)))
            }
            why => Err(why),
        }
    }

    /// The front of the login packet alone, with the flag for TLS (`SSLRequest`).
    fn ask_for_tls(&mut self) -> Step {
        self.is_secure = true;
        self.state = State::Tls;
        Step::StartTls(packet(1, &self.front()))
    }

    fn log_in(&mut self, sequence: u8) -> Result<Step, LoginError> {
        let login = self.login_as(&self.user, &self.answer()?);
        self.state = State::Answer { switched: false };
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
            if !announce.attributes.is_empty() {
                flags |= u64::from(capability::CONNECT_ATTRS);
            }
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

    /// Its flags are those of the request for TLS: MariaDB reads the login by these.
    fn login_as(&self, user: &str, answer: &[u8]) -> Vec<u8> {
        let flags = self.flags() as u32;
        let mut payload = self.front();
        payload.extend_from_slice(user.as_bytes());
        payload.push(0);
        // At most 32 bytes, so the one-byte and the length-encoded length look the same.
        put_lenenc_bytes(&mut payload, answer);
        if flags & capability::CONNECT_WITH_DB != 0 {
            payload.extend_from_slice(self.schema.as_deref().unwrap_or_default().as_bytes());
            payload.push(0);
        }
        self.put_method(&mut payload);
        payload
    }

    /// The end of a login: the method's name, and the connection attributes.
    fn put_method(&self, payload: &mut Vec<u8>) {
        let flags = self.flags() as u32;
        if flags & capability::PLUGIN_AUTH != 0 {
            payload.extend_from_slice(self.plugin.name().as_bytes());
            payload.push(0);
        }
        if flags & capability::CONNECT_ATTRS != 0 {
            let mut pairs = Vec::with_capacity(128);
            let attributes = self.announce.as_ref().map_or(&[][..], |a| a.attributes);
            for text in attributes.iter().flat_map(|(name, value)| [name, value]) {
                put_lenenc_bytes(&mut pairs, text.as_bytes());
            }
            put_lenenc_bytes(payload, &pairs);
        }
    }

    /// After [`Step::Done`]: the same account logs in anew on the same connection (`COM_CHANGE_USER`), which the server
    /// treats as a new session. Write the bytes and feed until `Done`. None: its answer is too long for the command.
    /// `seed`: as in [`Announce`], never the same twice.
    ///
    /// The answer is to the last scramble that the server has told, as in MySQL's own clients.
    pub fn again(&mut self, seed: [u8; 20]) -> Option<Vec<u8>> {
        debug_assert!(matches!(self.state, State::Done));
        let announce = self.announce.as_mut()?;
        announce.seed = seed;
        let collation = announce.collation;
        let answer = self.answer().ok()?;
        let mut payload = Vec::with_capacity(160);
        payload.push(com::CHANGE_USER);
        payload.extend_from_slice(self.user.as_bytes());
        payload.push(0);
        payload.push(u8::try_from(answer.len()).ok()?);
        payload.extend_from_slice(&answer);
        // No schema.
        payload.push(0);
        payload.extend_from_slice(&u16::from(collation).to_le_bytes());
        self.put_method(&mut payload);
        self.assembler = Assembler::default();
        self.state = State::Answer { switched: false };
        Some(packet(0, &payload))
    }

    /// Whether nobody else can read what is sent.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    fn password(&self) -> Option<&[u8]> {
        match &self.credential {
            Credential::Password(password) => Some(password),
            Credential::Sha1(_) | Credential::Unknown => None,
        }
    }

    /// What the method in force is answered with.
    fn answer(&self) -> Result<Vec<u8>, LoginError> {
        let salt = self.nonce.first_chunk().unwrap_or(&[0; 20]);
        match (self.plugin, &self.credential) {
            (Plugin::Native, Credential::Password(password)) => Ok(scramble_native(password, salt)),
            (Plugin::Native, Credential::Sha1(once)) => Ok(scramble_native_once(once, salt)),
            // The server says no, in its own words.
            (Plugin::Native, Credential::Unknown) => Ok(Vec::new()),
            (Plugin::Sha2, Credential::Password(password)) => Ok(scramble_sha2(password, salt)),
            (Plugin::Ed25519, Credential::Password(password)) => {
                Ok(ed25519::sign(password, &self.nonce).to_vec())
            }
            (Plugin::Clear, Credential::Password(_)) if !self.is_secure => {
                Err(LoginError::NeedsTls)
            }
            (Plugin::Clear, Credential::Password(password)) => Ok(with_nul(password)),
            (plugin, Credential::Sha1(_) | Credential::Unknown) => {
                Err(LoginError::NeedsPassword(plugin))
            }
        }
    }

    fn answered(&mut self, sequence: u8, payload: &[u8]) -> Result<Option<Step>, LoginError> {
        let mut reader = Reader(payload);
        match reader.u8() {
            Some(marker::OK) if !matches!(self.state, State::Key) => {
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
            Some(marker::EOF) => self.switched(sequence, reader),
            Some(marker::AUTH_MORE_DATA) => self.more_data(sequence, reader.0),
            _ => Err(LoginError::Unexpected(
                "neither OK, ERR, switch nor more data",
            )),
        }
    }

    /// The account's method is another one than the greeting's. Once, as in MySQL's own clients: a server that goes
    /// on is collecting answers.
    fn switched(
        &mut self,
        sequence: u8,
        mut reader: Reader<'_>,
    ) -> Result<Option<Step>, LoginError> {
        if reader.0.is_empty() {
            return Err(LoginError::UnknownPlugin("mysql_old_password".to_owned()));
        }
        if !matches!(self.state, State::Answer { switched: false }) {
            return Err(LoginError::Unexpected("a second switch of the method"));
        }
        let name = reader.until_nul();
        let Some(plugin) = Plugin::from_name(name) else {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(LoginError::UnknownPlugin(name));
        };
        self.plugin = plugin;
        self.nonce = [0; 32];
        // Two methods end it with a NUL, which is not taken in.
        for (to, from) in self.nonce.iter_mut().zip(reader.0) {
            *to = *from;
        }
        if plugin == Plugin::Ed25519 && reader.0.len() != 32 {
            return Err(LoginError::Unexpected("a scramble of another length"));
        }
        self.state = State::Answer { switched: true };
        let answer = self.answer()?;
        Ok(Some(Step::Send(packet(sequence.wrapping_add(1), &answer))))
    }

    fn more_data(&mut self, sequence: u8, data: &[u8]) -> Result<Option<Step>, LoginError> {
        let next = sequence.wrapping_add(1);
        match (&self.state, self.plugin, data) {
            (State::Key, _, pem) => self.encrypted(next, pem).map(Some),
            (State::Answer { .. }, Plugin::Sha2, [FAST_AUTH_OK]) => {
                self.state = State::Verdict;
                Ok(None)
            }
            (State::Answer { .. }, Plugin::Sha2, [FULL_AUTH]) if self.is_secure => {
                self.state = State::Verdict;
                let password = with_nul(self.password().unwrap_or_default());
                Ok(Some(Step::Send(packet(next, &password))))
            }
            (State::Answer { .. }, Plugin::Sha2, [FULL_AUTH]) if self.announce.is_some() => {
                self.state = State::Key;
                Ok(Some(Step::Send(packet(next, &[KEY_REQUEST]))))
            }
            (State::Answer { .. }, Plugin::Sha2, [FULL_AUTH]) => {
                Err(LoginError::NeedsSecureChannel)
            }
            _ => Err(LoginError::Unexpected("more data that was not asked for")),
        }
    }

    /// The password under the server's key: NUL-terminated, XOR the salt, OAEP with SHA-1. Source: MySQL
    /// `sql-common/client_authentication.cc`, `caching_sha2_password_auth_client`.
    fn encrypted(&mut self, sequence: u8, pem: &[u8]) -> Result<Step, LoginError> {
        let seed = self.announce.as_ref().map_or([0; 20], |a| a.seed);
        let hidden = with_nul(self.password().unwrap_or_default())
            .iter()
            .zip(self.nonce.iter().take(20).cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect::<Vec<u8>>();
        let sealed = rsa_oaep(pem, &hidden, seed).map_err(LoginError::Key)?;
        self.state = State::Verdict;
        Ok(Step::Send(packet(sequence, &sealed)))
    }
}

fn with_nul(password: &[u8]) -> Vec<u8> {
    [password, &[0]].concat()
}
