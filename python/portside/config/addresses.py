"""Addresses and networks as the file writes them: "ip:port", "[ip6]:port", "unix:/path".

Values only: no name is resolved and nothing is opened here. The texts raised say what was expected.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from portside.config.units import bad_value

ADDRESS_FORM: Final = '"ip:port", "[ip6]:port", "host:port" or "unix:/path"'
LISTEN_FORM: Final = '"ip:port", "[ip6]:port" or "unix:/path"'
# sun_path holds 108 bytes with the final NUL: unix(7).
_UNIX_PATH_MAX: Final = 107
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
# The whole of a local network is used as source addresses; /24 keeps the rings within memory.
LOCAL_NETWORK_MAX: Final = 256

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens; `str()` is the canonical text, ready for the snapshot.

    Shape: `kind` "ip" (host is a literal without brackets), "name" (host must be resolved) or
    "unix" (path, absolute; host "" and port 0).
    """

    kind: Literal["ip", "name", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> IPAddress | None:
        """The literal address, or None for a name or a unix socket."""
        return ipaddress.ip_address(self.host) if self.kind == "ip" else None

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            parse_address, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "description": ADDRESS_FORM}


def parse_address(value: object, lowest_port: int = 1) -> Address:
    """The address a string names."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise bad_value(ADDRESS_FORM)
    if value.startswith("unix:"):
        return Address("unix", path=_unix_path(value[5:]))
    if value.startswith("/"):
        raise bad_value(ADDRESS_FORM, f'did you mean "unix:{value}"?')
    host, port = _split(value, lowest_port)
    if (ip := _ip(host)) is not None:
        return Address("ip", str(ip), port)
    if re.fullmatch(r"[\d.]+", host) or not _HOST.fullmatch(host):
        raise bad_value(ADDRESS_FORM, f'"{host}" is neither an IP address nor a host name')
    return Address("name", host, port)


def parse_listen_address(value: object) -> Address:
    """As `parse_address`, without names: a listener must not move with DNS."""
    if isinstance(value, str) and value.startswith("*:"):
        hint = f'for every address of both families: "[::]{value[1:]}"'
        raise bad_value(LISTEN_FORM, hint)
    try:
        # Port 0: the kernel chooses one, for tests and examples (control/listeners binds it).
        address = parse_address(value, lowest_port=0)
    except PydanticCustomError as error:
        raise bad_value(LISTEN_FORM, (error.context or {}).get("hint", "")) from None
    if address.kind == "name":
        raise bad_value(LISTEN_FORM, "a listener needs an IP address, not a name")
    return address


def parse_network(value: object) -> IPNetwork:
    """A network "ip/bits", or one address."""
    form = 'a network such as "10.0.0.0/8" or an address'
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):
        raise bad_value(form)
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        hint = f'did you mean "{ipaddress.ip_network(value, strict=False)}"?'
    except ValueError:
        hint = ""
    raise bad_value(form, hint)


def parse_source(value: object) -> str:
    """A source address or a local network, in canonical text."""
    form = "an IP address without a port, or a local network of at most 256 addresses"
    if not isinstance(value, str):
        raise bad_value(form)
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        host = value.rpartition(":")[0]
        hint = "ports are given by source.ports" if host and _ip(host.strip("[]")) else ""
        raise bad_value(form, hint) from None
    if network.num_addresses > LOCAL_NETWORK_MAX:
        smallest = 24 if network.version == 4 else 120
        raise bad_value(form, f"/{smallest} is the largest network")
    return str(network) if "/" in value else str(network.network_address)


@lru_cache(maxsize=256)  # every snapshot asks for every server's, and they rarely change
def expand_sources(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Every single address of a `source.addresses`; at most 256 for each entry, no duplicates.

    A network's first and last address are used too: with `ip route add local 10.9.0.0/24 dev lo`
    the kernel binds and answers for all 256. Source: measured on Linux 6.18.
    """
    single = (str(ip) for entry in addresses for ip in ipaddress.ip_network(entry))
    return tuple(dict.fromkeys(single))


def _split(value: str, lowest_port: int = 1) -> tuple[str, int]:
    host, colon, port_text = value.rpartition(":")
    if host.startswith("[") and host.endswith("]") and _ip(host[1:-1], 6):
        host = host[1:-1]
    elif ":" in host or "[" in host or _ip(value, 6):
        raise bad_value(ADDRESS_FORM, 'an IPv6 address goes in brackets: "[fd00::1]:3306"')
    if not colon or not host:
        raise bad_value(ADDRESS_FORM, f'did you mean "{value}:3306"?' if value else "")
    if not re.fullmatch(r"\d{1,5}", port_text) or not lowest_port <= int(port_text) <= 65535:
        raise bad_value(ADDRESS_FORM, "a port is a number from 1 to 65535")
    return host, int(port_text)


def _ip(text: str, version: int | None = None) -> IPAddress | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return ip if version in (None, ip.version) else None


def _unix_path(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise bad_value('"unix:/path"', "the path of a unix socket is absolute")
    if len(path.encode()) > _UNIX_PATH_MAX:
        raise bad_value('"unix:/path"', f"the path may have {_UNIX_PATH_MAX} bytes")
    return path


Network = Annotated[IPNetwork, BeforeValidator(parse_network)]
"""A client network; a single address is a network of one."""
SourceAddress = Annotated[str, BeforeValidator(parse_source)]
"""A source address or a local network, as written."""
ListenAddress = Annotated[Address, BeforeValidator(parse_listen_address)]
"""An address without names."""
