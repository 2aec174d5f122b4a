//! The snapshot as it crosses from Python: the one definition of its shape.
//!
//! Pure data with serde; docs/internals/architecture.md describes every key. Unknown keys are refused,
//! so that a Python side of another version is told apart from a valid one. `plan.rs` turns it into what
//! the workers use.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// One whole configuration with the state that Python decided: eligibility, weights, pauses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Grows with every snapshot.
    pub generation: u64,
    /// Worker threads; fixed by the first snapshot.
    pub workers: usize,
    /// False while draining.
    #[serde(default = "yes")]
    pub accepting: bool,
    /// Sessions this process may hold: two descriptors each.
    pub max_sessions: usize,
    /// The session log.
    pub log: LogSpec,
    /// Servers, in the file's order.
    pub servers: Vec<ServerSpec>,
    /// Services, in the file's order.
    pub services: Vec<ServiceSpec>,
    /// Accounts of pool mode.
    #[serde(default)]
    pub users: Vec<UserSpec>,
}

/// Pool mode: an account that clients log in with.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: Option<String>,
    /// In place of it, a hash as a server stores it.
    pub password_hash: Option<String>,
    /// Services it may use; empty: all.
    #[serde(default)]
    pub services: Vec<String>,
    /// Schema of clients that name none.
    pub schema: Option<String>,
    /// Networks it may come from; empty: all.
    #[serde(default)]
    pub from: Vec<IpNet>,
    /// Sessions at a time.
    pub max_connections: Option<u32>,
    /// The account on the servers.
    pub server_user: String,
    /// Its password; none: the clients' own.
    pub server_password: Option<String>,
}

/// Without passwords.
impl std::fmt::Debug for UserSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSpec")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Pool mode: how many server connections, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// Connections per server, whole process.
    pub max: u32,
    /// Connections per server that idleness does not close.
    pub min_idle: u32,
    /// Age at which a connection is replaced.
    pub max_lifetime_ms: Option<u64>,
    /// Idle time after which it is closed.
    pub idle_ms: Option<u64>,
    /// New connections per second and server.
    pub open_rate: u32,
    /// From accept to the client's login.
    pub login_ms: u64,
    /// Clients may load files of theirs (LOAD DATA LOCAL).
    pub local_infile: bool,
}

impl PoolSpec {
    /// Limits of a server that two services share: the most that either allows, and the shorter lifetime.
    pub(crate) fn and(self, other: Self) -> Self {
        let (one, two) = (self.max_lifetime_ms, other.max_lifetime_ms);
        Self {
            max: self.max.max(other.max),
            min_idle: self.min_idle.max(other.min_idle),
            max_lifetime_ms: one.into_iter().chain(two).min(),
            // None is never.
            idle_ms: self.idle_ms.zip(other.idle_ms).map(|(a, b)| a.max(b)),
            open_rate: self.open_rate.max(other.open_rate),
            login_ms: self.login_ms.max(other.login_ms),
            local_infile: self.local_infile || other.local_infile,
        }
    }
}

fn yes() -> bool {
    true
}

/// Where session lines go and which.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    /// A file; none = standard output.
    pub path: Option<String>,
    /// Shape of a line.
    pub format: LogFormat,
    /// `all`, `errors` or `1/N`.
    pub sessions: String,
}

/// Shape of a session line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// `key=value` words.
    Text,
}

/// One MySQL or MariaDB instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Unique name.
    pub name: String,
    /// `ip:port`, `[ip6]:port` or `unix:PATH`; all of one instance.
    pub destinations: Vec<String>,
    /// Sessions on this server in the whole process.
    pub max_connections: Option<u32>,
    /// Our side of the connections.
    pub source: SourceSpec,
    /// Send a PROXY v2 header first.
    #[serde(default)]
    pub send_proxy: bool,
    /// For connect().
    pub connect_ms: u64,
    /// For the greeting and for the login.
    pub login_ms: u64,
    /// Silence before keepalive probes.
    pub keepalive_ms: Option<u64>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout_ms: Option<u64>,
    /// Pool mode; none: no TLS.
    #[serde(default)]
    pub tls: Option<ServerTlsSpec>,
}

/// How far a server's TLS goes: MySQL's `--ssl-mode`, but for "disabled".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// If the server offers it.
    Preferred,
    /// Or no connection.
    Required,
    /// With a certificate that the ca signed.
    VerifyCa,
    /// And that is for this server.
    VerifyIdentity,
}

impl TlsMode {
    /// Whether it looks at the certificate at all.
    pub fn is_verifying(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyIdentity)
    }
}

/// TLS towards a server. Certificates and keys are PEM texts.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTlsSpec {
    /// How far it goes.
    pub mode: TlsMode,
    /// Who may have signed the server's certificate.
    pub ca: Option<String>,
    /// Ours, where the server wants one.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Whom the certificate must be for; none: the address.
    pub name: Option<String>,
}

/// Without texts.
impl std::fmt::Debug for ServerTlsSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTlsSpec")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// TLS towards clients. Certificates and keys are PEM texts.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTlsSpec {
    /// The certificate and what signed it.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Clients without TLS are turned away.
    pub required: bool,
    /// Who may have signed clients' certificates; none: they are not asked for.
    pub client_ca: Option<String>,
    /// Clients must have one.
    pub client_verify: bool,
}

/// Without texts.
impl std::fmt::Debug for ServiceTlsSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceTlsSpec")
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// Our addresses and ports towards a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Empty: the address that the route uses.
    pub addresses: Vec<IpAddr>,
    /// None: kernel-chosen.
    pub ports: Option<(u16, u16)>,
    /// Tuples per address and destination kept for checks.
    #[serde(default)]
    pub reserve: u32,
}

/// A listener and its rules.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Unique name.
    pub name: String,
    /// Addresses.
    pub listen: Vec<ListenSpec>,
    /// Networks that may send a PROXY header (and must).
    #[serde(default)]
    pub accept_proxy: Vec<IpNet>,
    /// Clients that may come; empty = all.
    #[serde(default)]
    pub allow: Vec<IpNet>,
    /// Clients that may not.
    #[serde(default)]
    pub deny: Vec<IpNet>,
    /// Probes of other balancers: accepted and closed without a server.
    #[serde(default)]
    pub probe_networks: Vec<IpNet>,
    /// roundrobin | leastconn | random2 | first | client-hash
    pub balance: String,
    /// Sessions of this service in the whole process.
    pub max_connections: Option<u32>,
    /// Sessions that may wait.
    pub queue: u32,
    /// Sessions per client address.
    pub max_connections_per_client: Option<u32>,
    /// Longest wait; none = for ever.
    pub queue_ms: Option<u64>,
    /// Silence in both directions.
    pub idle_ms: Option<u64>,
    /// Further tries after a failed connect or greeting.
    pub retries: u32,
    /// fin-reset | fin
    pub to_client: String,
    /// Clients wait.
    #[serde(default)]
    pub paused: bool,
    /// Pool mode; none: relay mode.
    #[serde(default)]
    pub pool: Option<PoolSpec>,
    /// Pool mode; none: no TLS.
    #[serde(default)]
    pub tls: Option<ServiceTlsSpec>,
    /// Pool mode: the version that clients are told; none: that of the servers.
    #[serde(default)]
    pub server_version: Option<String>,
    /// Pool mode: the key for passwords of clients without TLS, in PEM; none: one is made.
    #[serde(default)]
    pub rsa_key: Option<Hidden>,
    /// Its servers.
    pub members: Vec<MemberSpec>,
}

/// A text that is not shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// One listening address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSpec {
    /// `ip:port`, `[ip6]:port` or `unix:PATH`.
    pub address: String,
    /// Unix only: permissions.
    pub mode: Option<u32>,
    /// Unix only: owner.
    pub uid: Option<u32>,
    /// Unix only: group.
    pub gid: Option<u32>,
    /// For listen().
    pub backlog: i32,
    /// Inherited descriptors (LISTEN_FDS) to use instead of binding.
    #[serde(default)]
    pub fds: Vec<i32>,
}

/// A server as a member of a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberSpec {
    /// Its name.
    pub server: String,
    /// Effective weight times 100.
    pub weight: u32,
    /// Only while no other is eligible.
    pub backup: bool,
    /// May get new sessions.
    pub eligible: bool,
    /// If not, why, in words.
    #[serde(default)]
    pub why: String,
    /// How connections to it are closed.
    pub close: CloseSpec,
}

/// How connections to a server are closed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseSpec {
    /// eof-reset | eof | linger2 | reset-now | fin
    pub to_server: String,
    /// For the server's FIN.
    pub deadline_ms: u64,
    /// Reply bytes read for a client that is gone.
    pub abandon_bytes: u64,
    /// And for how long.
    pub abandon_ms: u64,
    /// How long a client's FIN is held back when TLS hides QUIT.
    pub tls_hold_ms: u64,
}
