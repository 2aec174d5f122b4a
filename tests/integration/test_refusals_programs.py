"""What people read when Portside says no: every ERR in place of a greeting, in four programs.

Each refusal is one service of one instance, kept in its state for the whole module; each program
connects to each of them.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import pytest

from tests.support.chaos import Behaviour, ChaosServer
from tests.support.client_programs import PROGRAMS, missing
from tests.support.proxy import Proxy
from tests.support.raw_client import RawClient

SEEK = re.escape(". On the proxy: portside show servers")

# service -> (number, pattern of the whole text)
SAID = {
    "nobody": (
        1429,
        r"no eligible server: drained \(server drained is in drain; .*\) zero \(weight 0 .*\)"
        + SEEK,
    ),
    "refused": (1429, r"server gone: 127\.0\.0\.1:\d+: Connection refused" + SEEK),
    "hung": (1429, r"server hung: 127\.0\.0\.1:\d+: no answer to connect within 300 ms" + SEEK),
    "full": (1040, r"no free slot and the queue is full \(0 wait\)"),
    "waiting": (
        1040,
        r"waited 0\.3 s for a free slot \(1 of 1 sessions\)",
    ),
    "denied": (1130, r"client address 127\.0\.0\.1 is not allowed here \(allow, deny\)"),
    "many": (1203, r"client address 127\.0\.0\.1 already has max_connections_per_client sessions"),
    "proxied": (
        1043,
        r"no PROXY header within 1 s; accept_proxy has a network that 127\.0\.0\.1 is in",
    ),
}
# What a server itself said is passed on as it is.
PASSED_ON = {
    "e1040": (1040, "Too many connections"),
    "e1129": (1129, "Host '10.0.0.5' is blocked because of many connection errors"),
    "e1130": (1130, "Host '10.0.0.5' is not allowed to connect to this MariaDB server"),
}


def server(name: str, address: str) -> str:
    return f'[[server]]\nname = "{name}"\naddress = "{address}"\ncheck = false\n'


def service(name: str, members: str, more: str = "") -> str:
    return (
        f'[[service]]\nname = "{name}"\nlisten = "127.0.0.1:0"\nservers = [{members}]\n'
        f"retries = 0\n{more}\n"
    )


@pytest.fixture(scope="module")
def proxy(server_dir) -> Iterator[Proxy]:
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(ChaosServer())
        gone = stack.enter_context(ChaosServer(Behaviour.REFUSE))
        hung = stack.enter_context(ChaosServer(Behaviour.HANG))
        toml = '[timeouts]\nconnect = "300ms"\nqueue = "300ms"\n'
        for name, one in (("good", good), ("gone", gone), ("hung", hung)):
            toml += server(name, one.address)
        toml += server("drained", good.address) + server("zero", good.address)
        toml += service("nobody", '"drained", { name = "zero", weight = 0 }')
        toml += service("refused", '"gone"') + service("hung", '"hung"')
        toml += service("full", '"good"', "max_connections = 1\nqueue = 0")
        toml += service("waiting", '"good"', "max_connections = 1")
        toml += service("denied", '"good"', 'deny = ["127.0.0.0/8"]')
        toml += service("many", '"good"', "max_connections_per_client = 1")
        toml += service("proxied", '"good"', 'accept_proxy = ["127.0.0.0/8"]')
        for name, error in PASSED_ON.items():
            own = stack.enter_context(ChaosServer())
            own.behave(Behaviour.ERR, error)
            toml += server(name, own.address) + service(name, f'"{name}"')
        with Proxy(server_dir / "refusals", toml) as one:
            one.admin.post("/v1/servers/drained/drain")
            holders = [RawClient(one.address(name)) for name in ("full", "waiting", "many")]
            for holder in holders:
                holder.login()
            yield one
            for holder in holders:
                holder.close()
            one.assert_at_rest()
            one.stop()


@pytest.fixture(params=PROGRAMS)
def program(request) -> str:
    if (why := missing(request.param)) is not None:
        pytest.skip(why)
    return request.param


def shown(program: str, number: int, text: str) -> tuple[int, str]:
    """The mariadb CLI with TLS wraps every ERR in place of a greeting, a real server's too."""
    if program == "mariadb-tls":
        found = re.search(r"packet was: (\d+) - (.*)$|: (\d+) - (.*)$", text, re.DOTALL)
        assert number == 2002 and found, (number, text)
        return int(found[1] or found[3]), found[2] or found[4]
    return number, text


@pytest.mark.parametrize("name", SAID)
def test_number_and_text(proxy, program, name):
    number, pattern = SAID[name]
    if any(one["breaker"] == "open" for one in proxy.stats()["servers"]):
        time.sleep(1.05)  # until the breaker lets somebody try again; nothing observable ends it
    start = time.monotonic()
    error = PROGRAMS[program](*proxy.address(name))
    assert error is not None, "it logged in"
    seen, text = shown(program, *error)
    assert seen == number
    assert re.fullmatch(rf"portside: service {name}: {pattern}", text), text
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_servers_own_error_is_passed_on(proxy, program, name):
    # A blocked address is tried again after 5 s; until then Portside says why by itself.
    error = PROGRAMS[program](*proxy.address(name))
    assert error is not None
    seen, text = shown(program, *error)
    if name == "e1040" or (seen, text) == PASSED_ON[name]:
        assert (seen, text) == PASSED_ON[name]
    else:
        assert seen == 1041
        assert re.fullmatch(
            rf"portside: service {name}: server {name}: none of our addresses may be used: .*"
            r"FLUSH HOSTS, GRANT.*",
            text,
        ), text


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "PROXY"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 99999\r\n", "PROXY"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nmore", "bytes behind the PROXY header"),
        (b"PROXY " + b"x" * 300, "PROXY"),
        (bytes.fromhex("0d0a0d0a000d0a515549540a") + b"\x31\x11\x00\x0c" + bytes(12), "PROXY"),
    ],
)
def test_bad_proxy_headers(proxy, header, said):
    mark = proxy.log_size()
    with RawClient(proxy.address("proxied")) as client:
        client.send(header)
        number, text = client.error()
    assert number == 1043
    assert text.startswith("portside: service proxied: ") and said in text, text
    assert proxy.last_line(mark)["end"] == "bad-proxy-header/accept"


def test_texts_fit_every_clients_buffer(server_dir):
    """512 bytes at most, however long the names are."""
    servers = [f"{'x' * 60}{n}" for n in range(12)]
    toml = "".join(server(name, "127.0.0.1:9") for name in servers)
    members = ", ".join(f'{{ name = "{name}", weight = 0 }}' for name in servers)
    with Proxy(server_dir / "refusals-long", toml + service("long", members)) as proxy:
        with RawClient(proxy.address("long")) as client:
            number, text = client.error()
        assert number == 1429
        assert 490 < len(text.encode()) <= 505
        proxy.stop()
