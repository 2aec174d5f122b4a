"""The synchronous client of the admin API: what every runtime command uses.

Speaks HTTP/1.1 over a unix socket or TCP with the standard library. Turns every failure into one
sentence; knows nothing of what the answers mean.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from portside.admin.address import AdminAddress, choose
from portside.errors import NoInstance, PortsideError
from portside.foreign_text import one_line

API_LEVEL = "1"
"""Raised when an answer changes its meaning; new keys and new paths do not raise it."""
VERSION_HEADER = "Portside-Version"
API_HEADER = "Portside-Api"


class Refused(PortsideError):
    """The instance said no: its error, with its hint behind it.

    Attributes:
        status: the HTTP status.
        body: the whole JSON answer; a refused reload carries ``mistakes`` in it.
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        text = str(body.get("error", f"the instance answered {status}"))
        hint = str(body.get("hint", ""))
        super().__init__(f"{text} {hint}".strip())
        self.status = status
        self.body = body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class AdminClient:
    """Asks one instance; a connection per question.

    Args:
        address: as ``-a/--admin``; None: ``$PORTSIDE_ADMIN``, else the default socket.
        token: for TCP; None: ``$PORTSIDE_ADMIN_TOKEN``, or the file of that name + ``_FILE``.
        timeout_s: for the whole answer; a reload with slow name servers takes a few seconds.
    """

    def __init__(
        self, address: str | None = None, token: str | None = None, timeout_s: float = 15.0
    ) -> None:
        self.address: AdminAddress = choose(address)
        self._token = _token_of_environment() if token is None else token
        self._timeout_s = timeout_s

    def get(self, path: str, **query: str | int | bool | None) -> Any:  # noqa: ANN401
        """The JSON answer to ``GET path``; None values of ``query`` are left out.

        Raises:
            NoInstance: nothing answers at the address.
            Refused: it answered with an error.
            PortsideError: what answers is not Portside, or another version's API.
        """
        asked = {key: str(value) for key, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(asked)}" if asked else path, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """The JSON answer to ``POST path``; raises as ``get``."""
        return self._ask("POST", path, dict(body or {}))

    def stream_events(self, after: int | None = None) -> Iterator[dict[str, Any]]:
        """Events as they happen, until the instance ends or the caller stops.

        Args:
            after: the id of an event: those after it first, as far as they are kept; None: from
                now on.

        Raises:
            NoInstance, Refused, PortsideError: as ``get``; also when the instance falls silent.
        """
        path = "/v1/events/stream" + ("" if after is None else f"?after={after}")
        with self._exchange("GET", path, None) as response:
            self._judge(response)
            try:
                for line in response:
                    if line.startswith(b"data: "):
                        yield _harmless(json.loads(line[6:]))
            except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
                raise PortsideError(
                    f"the events of the instance at {self.address} broke off:"
                    f" {one_line(str(error))}."
                ) from None

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:  # noqa: ANN401
        with self._exchange(method, path, body) as response:
            self._judge(response)
            try:
                return _harmless(json.loads(response.read()))
            except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
                raise PortsideError(
                    f"the answer of the instance at {self.address} broke off:"
                    f" {one_line(str(error))}."
                ) from None

    def _judge(self, response: http.client.HTTPResponse) -> None:
        level = response.getheader(API_HEADER)
        if level is None:
            raise self._stranger()
        if level != API_LEVEL:
            version = response.getheader(VERSION_HEADER, "another version")
            raise PortsideError(
                f"the instance at {self.address} is Portside {one_line(version)}, whose admin API "
                f"(level {one_line(level)}) this command (level {API_LEVEL}) does not speak: "
                "use that version's command."
            )
        if response.status >= 400:
            try:
                body = _harmless(json.loads(response.read()))
            except (OSError, ValueError, RecursionError, http.client.HTTPException):
                body = {}
            body = body if isinstance(body, dict) else {}
            if response.status == 401:  # the hint is for those who speak HTTP themselves
                body["hint"] = (
                    "Set $PORTSIDE_ADMIN_TOKEN, or $PORTSIDE_ADMIN_TOKEN_FILE to its file."
                )
            raise Refused(response.status, body)

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            try:
                connection.request(method, quote(path, safe="/?&=%:,+-._~"), payload, headers)
                response = connection.getresponse()
            except OSError as error:
                raise self._unreachable(error) from None
            except http.client.HTTPException:
                raise self._stranger() from None
            yield response
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.address.path is not None:
            return _UnixConnection(self.address.path, self._timeout_s)
        return http.client.HTTPConnection(
            self.address.host, self.address.port, timeout=self._timeout_s
        )

    def _stranger(self) -> PortsideError:
        return PortsideError(f"what answers at {self.address} is not a Portside instance.")

    def _unreachable(self, error: Exception) -> PortsideError:
        if isinstance(error, PermissionError):
            return NoInstance(
                f"no permission to use the admin socket {self.address}: "
                "it is for its owner and group."
            )
        if isinstance(error, TimeoutError):
            return PortsideError(
                f"the instance at {self.address} did not answer within {self._timeout_s:g} s."
            )
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        return NoInstance(
            f"no running instance at {self.address} ({reason}); "
            "another one is chosen with -a/--admin or $PORTSIDE_ADMIN."
        )


def _harmless(value: Any) -> Any:  # noqa: ANN401  a tree of JSON
    """The answer without characters that would steer a terminal; lines stay lines."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in value)
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    if isinstance(value, dict):
        return {_harmless(key): _harmless(item) for key, item in value.items()}
    return value


def _token_of_environment() -> str:
    token = os.environ.get("PORTSIDE_ADMIN_TOKEN", "")
    path = os.environ.get("PORTSIDE_ADMIN_TOKEN_FILE", "")
    if token or not path:
        return token
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise PortsideError(
            f"cannot read the token file {path} of $PORTSIDE_ADMIN_TOKEN_FILE: {error.strerror}."
        ) from None
