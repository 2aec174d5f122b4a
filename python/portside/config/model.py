"""The configuration as frozen models: the shape of the file, and after loading its resolved values.

One set of classes serves both, so that a key, its default and its documentation exist once. The
attribute's docstring is the text of docs/configuration.md. Rules of this file:

- An attribute is called after its TOML key; with a unit in its name (`interval_s`, `alias` in TOML
  `interval`) where it is a number of something, and `..._written` where the file's value needs
  resolving: the property of the plain name is what the program uses.
- Inheritance has been applied by `load`: `server.close.to_server` is the value in force. What the
  table itself set, as against what it inherited, is its `model_fields_set`: `dump` writes that.
- Nothing here reads a file or the clock, and one table knows nothing of another: that is `verify`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StringConstraints,
)

from portside.config import forms
from portside.config.addresses import (
    Address,
    ListenAddress,
    Network,
    SourceAddress,
    expand_sources,
)
from portside.config.pem import Pem
from portside.config.positions import Positions
from portside.config.secret import Secret
from portside.config.units import Bytes, Seconds, SecondsOrNever

Name = Annotated[
    str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$")
]
Text = Annotated[str, StringConstraints(strict=True, min_length=1)]
Positive = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
Count = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]

CheckType = Literal["tcp", "login", "query", "mysql", "python"]
ToServer = Literal["eof-reset", "eof", "linger2", "reset-now", "fin"]
Balance = Literal["roundrobin", "leastconn", "random2", "first", "client-hash"]

# What a key accepts besides the shape the model keeps; the second argument is for the JSON Schema.
Workers = Annotated[
    Literal["auto"] | Positive,
    BeforeValidator(forms.workers, json_schema_input_type=Literal["auto"] | Positive),
]
ServerVersion = Annotated[str, BeforeValidator(forms.server_version, json_schema_input_type=str)]
Networks = Annotated[
    tuple[Network, ...], BeforeValidator(forms.one_or_many, json_schema_input_type=str | list[str])
]
Addresses = Annotated[
    tuple[Address, ...],
    BeforeValidator(forms.one_or_many, json_schema_input_type=Address | list[Address]),
    Field(min_length=1),
]
PortRange = Annotated[
    tuple[int, int] | None,
    BeforeValidator(forms.port_range, json_schema_input_type=str),
    PlainSerializer(forms.write_port_range, return_type=str | None),
]
AbsolutePath = Annotated[str, BeforeValidator(forms.absolute_path, json_schema_input_type=str)]
FunctionName = Annotated[str, BeforeValidator(forms.function_name, json_schema_input_type=str)]
LogSampling = Annotated[str, BeforeValidator(forms.log_sampling, json_schema_input_type=str)]
FileMode = Annotated[str, BeforeValidator(forms.file_mode, json_schema_input_type=str)]


class Table(BaseModel):
    """A table of the file: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True
    )

    def over(self, inherited: Self) -> Self:
        """This table with the keys it does not set taken from `inherited`; lists replace.

        `model_fields_set` of the result is this table's own, so that merging again (a server's
        table over its service's) still tells own from inherited.
        """
        own = self.model_fields_set
        values = {
            name: getattr(self if name in own else inherited, name)
            for name in type(self).model_fields
        }
        return self.model_construct(_fields_set=set(own), **values)


class Portside(Table):
    """The process."""

    workers_written: Workers = Field(default="auto", alias="workers")
    """Worker threads; "auto" is one for each processor we may use. Cannot change on reload."""
    max_sessions: Positive | None = None
    """Sessions in the whole process; absent: what the file limit allows (see `portside check`)."""
    resolve_s: SecondsOrNever = Field(default=30.0, alias="resolve")
    """How often host names of servers are resolved again; "never": only at start and on reload."""

    @property
    def workers(self) -> int:
        """The number of workers in force."""
        if self.workers_written == "auto":
            return len(os.sched_getaffinity(0))
        return self.workers_written


class Admin(Table):
    """The admin interface: the unix socket always, TCP only with a token."""

    socket_written: AbsolutePath | None = Field(default=None, alias="socket")
    """Path of the socket, mode 0660. Absent: /run/portside/admin.sock, or
    $XDG_RUNTIME_DIR/portside/admin.sock for a user who cannot write there."""
    listen: ListenAddress | None = None
    """A TCP address besides the socket; needs `token`, also on loopback."""
    token: Secret | None = None
    """What a TCP client must present (`Authorization: Bearer`)."""

    @property
    def socket(self) -> str:
        """The path of the unix socket in force for the present user."""
        return self.socket_written or default_admin_socket()


def default_admin_socket() -> str:
    """Where the admin socket is when the file does not say: one rule for `run` and its clients.

    /run/portside for root and for whoever may write there (a unit's RuntimeDirectory=), else the
    user's runtime directory, else, without a login session, the user's cache.
    """
    if os.geteuid() == 0 or os.access("/run/portside", os.W_OK):
        return "/run/portside/admin.sock"
    folder = os.environ.get("XDG_RUNTIME_DIR") or os.path.expanduser("~/.cache")
    return f"{folder}/portside/admin.sock"


class Metrics(Table):
    """The read-only listener for Prometheus and health checks of Portside itself."""

    listen: ListenAddress | None = None
    """Address; absent: none. Anybody who reaches it may read it."""


class Source(Table):
    """Our side of connections to servers."""

    addresses: tuple[SourceAddress, ...] = ()
    """IPv4 and IPv6 addresses, also a local network up to 256 addresses ("10.9.0.0/24").
    Absent: the address that the route to the server uses."""
    ports: PortRange = None
    """A range "lo-hi", or "auto": 12000-29999, outside the kernel's own.
    Absent: the kernel chooses."""
    reserve: Count = 16
    """Tuples per source address and destination kept for checks, in the whole process."""
    keepalive_s: SecondsOrNever = Field(default=60.0, alias="keepalive")
    """Idle time after which the kernel probes a silent peer (TCP_KEEPIDLE)."""
    user_timeout_s: SecondsOrNever = Field(default=30.0, alias="user_timeout")
    """How long sent data may stay unacknowledged before the connection fails (TCP_USER_TIMEOUT)."""

    @property
    def ips(self) -> tuple[str, ...]:
        """Every single source address, networks expanded."""
        return expand_sources(self.addresses)


class Close(Table):
    """Who closes first, and how."""

    to_server: ToServer = "eof-reset"
    """Towards the server. "eof-reset": QUIT, wait for the server's FIN, RST: no TIME_WAIT anywhere.
    "eof": the same with a FIN. "linger2": QUIT, then let the kernel forget the socket. "reset-now":
    RST without waiting; counted as Aborted_clients where QUIT is lost. "fin": our FIN first,
    TIME_WAIT on our side."""
    to_client: Literal["fin-reset", "fin"] = "fin-reset"
    """Towards the client. "fin-reset": wait for its FIN, then RST. "fin": a plain close."""
    deadline_s: Seconds = Field(default=1.0, alias="deadline")
    """How long to wait for the server's FIN."""
    abandon_bytes: Bytes = 1 << 20
    """How much of a reply is drained after its client went away in the middle of a query."""
    abandon_time_s: Seconds = Field(default=30.0, alias="abandon_time")
    """How long such a reply is drained before the connection is reset."""
    tls_hold_s: Seconds = Field(default=0.2, alias="tls_hold")
    """How long a client's FIN is held back when TLS hides its QUIT."""


class Timeouts(Table):
    """How long things may take."""

    connect_s: Seconds = Field(default=3.0, alias="connect")
    """Until the server accepts the connection; per attempt."""
    login_s: Seconds = Field(default=10.0, alias="login")
    """From the server's greeting to the end of the login."""
    queue_s: SecondsOrNever = Field(default=5.0, alias="queue")
    """How long a session may wait for a free place on a server."""
    idle_s: SecondsOrNever = Field(default=None, alias="idle")
    """Silence in both directions; "never" leaves it to the server's wait_timeout."""
    drain_s: SecondsOrNever = Field(default=30.0, alias="drain")
    """How long running sessions may go on when Portside, a service or a server is drained."""


class Check(Table):
    """How a server's health is probed."""

    type_written: CheckType | None = Field(default=None, alias="type")
    """Kind of check: "tcp" (connect, then RST: invisible to the server), "login", "query", "mysql"
    (greeting only; the server counts it as an aborted connection), "python". Absent: "query" with a
    query, "login" with a user, else "tcp"."""
    user: Text | None = None
    """The account that checks log in with."""
    password: Secret | None = None
    """Its password."""
    query: Text | None = None
    """A statement whose success is the check."""
    function: FunctionName | None = None
    """Your own check, "package.module:function", for type = "python"; runs in its own process."""
    interval_s: Seconds = Field(default=2.0, alias="interval")
    """Time between checks; each is jittered by up to a tenth."""
    fast_interval_s: Seconds = Field(default=0.5, alias="fast_interval")
    """Time between checks while a server is going down or coming back."""
    timeout_s: Seconds = Field(default=2.0, alias="timeout")
    """How long one check may take in all."""
    fall: Positive = 3
    """Failures in a row that take a server down."""
    rise: Positive = 2
    """Successes in a row that bring it back."""

    @property
    def type(self) -> CheckType:
        """The kind of check in force."""
        if self.type_written is not None:
            return self.type_written
        if self.query is not None:
            return "query"
        return "login" if self.user is not None else "tcp"

    @property
    def logs_in(self) -> bool:
        """Whether the check sees inside the server: only then are read_only and lag known."""
        return self.user is not None and self.type in ("login", "query")


CheckOrFalse = Annotated[
    Check | None,
    BeforeValidator(forms.check_or_false, json_schema_input_type=Literal[False] | Check),
]


class Log(Table):
    """The session log, written by the data plane."""

    format: Literal["json", "text"] = "json"
    """One JSON object or one line of text per session."""
    sessions: LogSampling = "all"
    """Which sessions: "all", "errors" or "1/100" (every hundredth good one; failed ones always)."""
    file: AbsolutePath | None = None
    """Path, reopened on SIGUSR1; absent: standard output."""


class Pool(Table):
    """Pool mode: server connections shared by sessions."""

    max: Positive = 100
    """Server connections per server, whole process."""
    min_idle: Count = 0
    """Server connections that lie ready per server, besides those in use."""
    max_lifetime_s: SecondsOrNever = Field(default=3600.0, alias="max_lifetime")
    """Age at which a server connection is replaced."""
    idle_s: SecondsOrNever = Field(default=300.0, alias="idle")
    """Idle time after which a server connection is closed."""
    open_rate: Positive = 50
    """New server connections per second and server."""
    rsa_key: Pem | None = None
    """PEM file of the RSA key under which clients without TLS send their password where only a
    caching_sha2_password hash is known; absent: made at each start."""


class Tls(Table):
    """Pool mode: TLS 1.2 and 1.3 for clients. A relay passes TLS through to the server."""

    certificate: Pem | None = None
    """PEM file of the certificate, followed by what signed it (fullchain.pem). With a certificate
    the greeting offers TLS. Read again by `portside reload`."""
    key: Pem | None = None
    """PEM file of its key: RSA from 2048 bits, ECDSA (least work for this host) or Ed25519."""
    required: StrictBool = False
    """Clients without TLS are turned away with error 3159; unix sockets are as good as TLS."""
    client_ca: Pem | None = None
    """PEM file of who may have signed clients' certificates; absent: they are not asked for."""
    client_verify: Literal["required", "optional"] = "required"
    """With `client_ca`: whether a client must show a certificate (so TLS is a must, too), or only a
    good one if any."""


class ServerTls(Table):
    """TLS towards a server, for pooled connections and checks; as MySQL's --ssl-mode has it."""

    mode: Literal["disabled", "preferred", "required", "verify-ca", "verify-identity"] = "disabled"
    """"disabled": none (passwords are hidden by the plugin's scramble or RSA). "preferred": if the
    server offers it. "required": or no connection. "verify-ca": with a certificate that `ca`
    signed. "verify-identity": and that is for `name`."""
    ca: Pem | None = None
    """PEM file of who signed the server's certificate (MySQL makes a ca.pem in its datadir)."""
    certificate: Pem | None = None
    """PEM file of our certificate, for accounts that REQUIRE X509."""
    key: Pem | None = None
    """PEM file of its key."""
    name: Text | None = None
    """Whom the certificate must be for; absent: the host name or IP address of `address`."""

    @property
    def verifies(self) -> bool:
        """Whether the server's certificate matters."""
        return self.mode in ("verify-ca", "verify-identity")


class User(Table):
    """Pool mode: an account that clients log in with."""

    name: Text
    """The account's name."""
    password: Secret | None = None
    """Its password."""
    password_hash: Secret | None = None
    """In place of the password, its hash as a server stores it: "*..." of mysql_native_password,
    "$A$005$..." of caching_sha2_password (or its bytes as hexadecimal digits), 43 characters of
    ed25519. What each allows: docs/pooling.md, "Stored hashes"."""
    services: tuple[Name, ...] = ()
    """Services it may use; absent: all."""
    schema_name: Text | None = Field(default=None, alias="schema")
    """Default schema."""
    from_networks: Networks = Field(default=(), alias="from")
    """Networks it may come from; absent: all."""
    max_connections: Positive | None = None
    """Sessions at a time."""
    server_user: Text | None = None
    """The account on the servers; absent: the same name."""
    server_password: Secret | None = None
    """Its password; absent: the same (with password_hash: what clients have proved to know)."""


class Server(Table):
    """One MySQL or MariaDB instance."""

    name: Name
    """How services, commands, metrics and messages call it."""
    addresses: Addresses = Field(alias="address")
    """Where it listens: "ip:port", "[ip6]:port", "host:port", "unix:/path", or a list of addresses
    of this ONE instance (each is a destination: more tuples)."""
    max_connections: Positive | None = None
    """Connections at a time, exact over all workers and services; absent: no limit."""
    send_proxy: StrictBool = False
    """Send a PROXY v2 header (MariaDB with proxy_protocol_networks; Oracle MySQL cannot)."""
    slowstart_s: SecondsOrNever = Field(default=None, alias="slowstart")
    """Time over which a server that came back grows to its full weight; absent: at once."""
    source: Source = Source()
    """Overrides keys of [source]."""
    close: Close = Close()
    """Overrides keys of [close]; wins over a service's, since the path belongs to the server."""
    timeouts: Timeouts = Timeouts()
    """Overrides keys of [timeouts]; `connect` and `login` matter here."""
    check: CheckOrFalse = Check()
    """Overrides keys of [check]; false: the server is always taken for alive."""
    tls: ServerTls = ServerTls()
    """TLS of pooled connections and checks; sessions of a relay bring their own."""

    @property
    def tls_name(self) -> str | None:
        """Whom its certificate must be for; None: the address that is connected to."""
        names = (address.host for address in self.addresses if address.kind == "name")
        return self.tls.name or next(names, None)


class Member(Table):
    """A server's part in a service."""

    name: Name
    """The server."""
    weight: Annotated[StrictInt, Field(ge=0, le=256)] = 1
    """Share of new sessions, 0 to 256; 0: no new sessions."""
    backup: StrictBool = False
    """Used only while no other server is eligible."""


class Listen(Table):
    """An address where clients connect."""

    address: ListenAddress
    """One of "ip:port", "[::]:port" (both families) and "unix:/path"."""
    mode: FileMode | None = None
    """Mode of a unix socket, such as "0660"."""
    user: Text | None = None
    """Owner of a unix socket."""
    group: Text | None = None
    """Group of a unix socket."""
    backlog: Annotated[StrictInt, Field(ge=1, le=65535)] = 4096
    """Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn."""


ListenList = Annotated[
    tuple[Listen, ...],
    BeforeValidator(forms.listen_list, json_schema_input_type=str | Listen | list[str | Listen]),
    Field(min_length=1),
]
MemberList = Annotated[
    tuple[Member, ...],
    BeforeValidator(forms.member_list, json_schema_input_type=list[Name | Member]),
    Field(min_length=1),
]


class Service(Table):
    """A listener and its rules."""

    name: Name
    """How commands, metrics and messages call it."""
    listen: ListenList
    """An address, { address, mode, user, group }, or a list of them."""
    mode: Literal["relay", "pool"] = "relay"
    """How sessions are carried. "relay": layer 4, credentials never seen. "pool":
    layer 7, sessions share server connections (docs/pooling.md)."""
    require: Literal["none", "writable", "replicating"] = "none"
    """What makes a server eligible: nothing, read_only = OFF, or a running replica (a writable
    primary satisfies it). Needs a check that logs in."""
    max_lag_s: SecondsOrNever = Field(default=None, alias="max_lag")
    """Largest replication lag with require = "replicating"; absent: any known lag."""
    failback_written: Literal["manual", "auto"] | None = Field(default=None, alias="failback")
    """What happens when a server returns. "manual": after a backup took over it waits for
    `portside switch`. Absent: "manual" for a service with a backup, else "auto"."""
    on_down: Literal["close-sessions", "keep-sessions"] = "close-sessions"
    """What happens to sessions on a server that goes down."""
    balance: Balance = "roundrobin"
    """How a server is chosen."""
    servers: MemberList
    """Names of servers, or { name, weight, backup }."""
    max_connections: Positive | None = None
    """Sessions at a time; absent: what the process can hold."""
    max_connections_per_client: Positive | None = None
    """Sessions at a time from one client address."""
    queue: Count = 1000
    """Sessions that may wait for a free place, for timeouts.queue at most."""
    retries: Annotated[StrictInt, Field(ge=0, le=100)] = 3
    """Further attempts, on other servers where possible, before the client gets an error."""
    allow: Networks = ()
    """Client networks that may connect; absent: all."""
    deny: Networks = ()
    """Client networks that may not; wins over allow."""
    probe_networks: Networks = ()
    """Networks of health probes: accepted and closed without a server connection."""
    accept_proxy: Networks = ()
    """Networks whose connections must start with a PROXY v1 or v2 header."""
    close: Close = Close()
    """Overrides keys of [close]."""
    timeouts: Timeouts = Timeouts()
    """Overrides keys of [timeouts]; `queue`, `idle` and `drain` matter here."""
    pool: Pool = Pool()
    """Overrides keys of [pool]."""
    tls: Tls = Tls()
    """Overrides keys of [tls]."""
    server_version: ServerVersion | None = None
    """Pool mode: the version that clients are told; absent: the lowest of the servers' versions."""
    local_infile: StrictBool = False
    """Pool mode: let clients send files (LOAD DATA LOCAL INFILE). Only the file that the client's
    own statement names is asked for."""

    @property
    def has_backup(self) -> bool:
        """Whether a member is a backup."""
        return any(member.backup for member in self.servers)

    @property
    def failback(self) -> Literal["manual", "auto"]:
        """The rule in force for a server that returns."""
        return self.failback_written or ("manual" if self.has_backup else "auto")


class Config(Table):
    """A whole file."""

    portside: Portside = Portside()
    admin: Admin = Admin()
    metrics: Metrics = Metrics()
    source: Source = Source()
    close: Close = Close()
    timeouts: Timeouts = Timeouts()
    check: Check = Check()
    log: Log = Log()
    pool: Pool = Pool()
    tls: Tls = Tls()
    servers: tuple[Server, ...] = Field(default=(), alias="server")
    services: tuple[Service, ...] = Field(default=(), alias="service")
    users: tuple[User, ...] = Field(default=(), alias="user")

    _positions: Positions = PrivateAttr(default_factory=Positions.none)

    @property
    def positions(self) -> Positions:
        """Where each key stands in the file that this was loaded from."""
        return self._positions

    @property
    def by_name(self) -> Mapping[str, Server]:
        """Servers by name."""
        return {server.name: server for server in self.servers}

    def service(self, name: str) -> Service | None:
        """The service of that name."""
        return next((service for service in self.services if service.name == name), None)

    def with_positions(self, positions: Positions) -> Self:
        """The same configuration, knowing where its keys stand."""
        copy = self.model_copy()
        copy._positions = positions
        return copy


def member_close(service: Service, server: Server) -> Close:
    """How sessions of a service on a server close: the server's keys, the service's, [close]."""
    return server.close.over(service.close)


def resolve(config: Config) -> Config:
    """The configuration with inheritance applied: every table of a server or service complete."""
    servers = tuple(
        server.model_copy(
            update={
                "source": server.source.over(config.source),
                "close": server.close.over(config.close),
                "timeouts": server.timeouts.over(config.timeouts),
                "check": server.check and server.check.over(config.check),
            }
        )
        for server in config.servers
    )
    services = tuple(
        service.model_copy(
            update={
                "close": service.close.over(config.close),
                "timeouts": service.timeouts.over(config.timeouts),
                "pool": service.pool.over(config.pool),
                "tls": service.tls.over(config.tls),
            }
        )
        for service in config.services
    )
    return config.model_copy(update={"servers": servers, "services": services})
