"""The admin API: HTTP paths onto the verbs of a running instance.

Served over a unix socket (its mode is the permission) and, when configured, over TCP with a
bearer token. Translates only: every answer is a view, every verb a function of ``control.verbs``.
Errors are JSON: ``{"error": ..., "hint": ...}``. The paths stand in docs/admin-api.md, held by a
drift test.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from portside.admin.bodies import NoBody, ReloadBody, SwitchBody, WeightBody
from portside.admin.bodies import read as _body
from portside.admin.client import API_HEADER, API_LEVEL, VERSION_HEADER
from portside.admin.views import as_json
from portside.control import verbs
from portside.control.refusal import Refusal
from portside.control.state import AdminState

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from portside.control.event_ring import Event
    from portside.control.host import Host

MAX_SESSIONS = 10_000
MAX_ID = 2**53
"""Of an event: what JavaScript's numbers hold exactly."""
MAX_STREAMS = 64
"""Readers of the event stream at a time, so that commands find a connection (control.limits)."""
BEAT_S = 10.0
"""A comment after so much silence: a reader knows that we live, and we that it is gone."""
RETRY_MS = 2000
"""How long a browser's EventSource waits before it connects again."""


Token = Callable[[], str]
"""The token in force now: a reload may change it under connections that stay open."""
_STILL_VALID = "portside.token_is_still_valid"


class _Door:
    """Says who we are in every answer, and lets nobody in over TCP without the token."""

    def __init__(self, app: ASGIApp, version: str, token: Token | None) -> None:
        self._app = app
        self._token = token
        self._headers = [
            (VERSION_HEADER.lower().encode(), version.encode()),
            (API_HEADER.lower().encode(), API_LEVEL.encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"")
        if not self._is_valid(given):
            answer = _error(401, "a token is needed.", "Send Authorization: Bearer TOKEN.")
            await answer(scope, receive, named)
            return
        scope[_STILL_VALID] = lambda: self._is_valid(given)
        await self._app(scope, receive, named)

    def _is_valid(self, given: bytes) -> bool:
        """Over a unix socket always: its mode was the permission."""
        if self._token is None:
            return True
        # Constant time: the comparison must not tell how much of a guess was right.
        return hmac.compare_digest(given, b"Bearer " + self._token().encode())


def build(host: Host, version: str, token: Token | None = None) -> Starlette:
    """The application; ``token`` None means that the transport itself is the permission (unix)."""
    api = _Api(host)
    read = ["GET"]
    act = ["POST"]
    routes = [
        Route("/healthz", api.healthz, methods=read),
        Route("/v1/status", api.status, methods=read),
        Route("/v1/services", api.services, methods=read),
        Route("/v1/servers", api.servers, methods=read),
        Route("/v1/ports", api.ports, methods=read),
        Route("/v1/sessions", api.sessions, methods=read),
        Route("/v1/events", api.events, methods=read),
        Route("/v1/events/stream", api.events_stream, methods=read),
        Route("/v1/config", api.config, methods=read),
        Route("/v1/stats", api.stats, methods=read),
        Route("/v1/reload", api.reload, methods=act),
        Route("/v1/servers/{server}/drain", api.drain, methods=act),
        Route("/v1/servers/{server}/maint", api.maint, methods=act),
        Route("/v1/servers/{server}/ready", api.ready, methods=act),
        Route("/v1/services/{service}/servers/{server}/weight", api.weight, methods=act),
        Route("/v1/services/{service}/pause", api.pause, methods=act),
        Route("/v1/services/{service}/resume", api.resume, methods=act),
        Route("/v1/services/{service}/switch", api.switch, methods=act),
        Route("/v1/sessions/{session}/kill", api.kill, methods=act),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Door, version=version, token=token)],
        exception_handlers={Refusal: _on_refusal, HTTPException: _on_http, Exception: _on_fault},
    )


def _error(status: int, text: str, hint: str = "", **more: object) -> JSONResponse:
    return JSONResponse({"error": text, "hint": hint, **more}, status_code=status)


async def _on_refusal(_request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    more = {"mistakes": list(error.mistakes)} if error.mistakes else {}
    return _error(error.status, error.text, error.hint, **more)


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return _error(405, f"{request.method} is not for {request.url.path}.")
    return _error(status, f"there is no {request.url.path} here.", "See docs/admin-api.md.")


async def _on_fault(_request: Request, _error_: Exception) -> Response:
    return _error(500, "a fault of Portside's.", "The traceback is in its log; please report it.")


class _Api:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._instance = host.instance

    async def healthz(self, request: Request) -> Response:
        service = request.query_params.get("service")
        good, text = self._instance.healthz(service)
        return PlainTextResponse(text + "\n", status_code=200 if good else 503)

    async def status(self, _request: Request) -> Response:
        return JSONResponse(as_json(self._host.status()))

    async def services(self, _request: Request) -> Response:
        return JSONResponse(as_json(self._instance.services()))

    async def servers(self, _request: Request) -> Response:
        return JSONResponse(as_json(self._instance.servers()))

    async def ports(self, request: Request) -> Response:
        rows = self._instance.ports(request.query_params.get("server"))
        return JSONResponse(as_json(rows))

    async def stats(self, _request: Request) -> Response:
        return JSONResponse(self._instance.stats())

    async def sessions(self, request: Request) -> Response:
        limit = _number(request, "limit", 1000, MAX_SESSIONS)
        sessions = await self._instance.sessions(limit)
        wanted = {key: request.query_params.get(key) for key in ("service", "server", "state")}
        chosen = [
            session
            for session in sessions
            if all(value is None or getattr(session, key) == value for key, value in wanted.items())
        ]
        return JSONResponse(as_json(chosen))

    async def events(self, request: Request) -> Response:
        after = _number(request, "after", 0, MAX_ID)
        limit = _number(request, "limit", 100, 1000)
        return JSONResponse(as_json(self._instance.events(after, limit)))

    async def events_stream(self, request: Request) -> Response:
        ring = self._instance.ring
        if ring.followers >= MAX_STREAMS:
            raise Refusal(
                f"{MAX_STREAMS} readers follow the events already.",
                "Ask /v1/events?after=ID now and then.",
                status=503,
            )
        told = request.headers.get("last-event-id") or request.query_params.get("after")
        after = None if told is None else _whole("after (or Last-Event-ID)", told, MAX_ID)

        async def lines() -> AsyncIterator[str]:
            yield f"retry: {RETRY_MS}\n\n"
            async for event in ring.follow(after, BEAT_S):
                if not request.scope[_STILL_VALID]():
                    return  # it was let in with a token that a reload has replaced
                yield ": still here\n\n" if event is None else _sse(event)

        return StreamingResponse(
            lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def config(self, _request: Request) -> Response:
        return JSONResponse(self._host.config_view())

    async def reload(self, request: Request) -> Response:
        asked = await _body(request, ReloadBody)
        view = await self._host.reload(dry_run=asked.dry_run)
        if not view.ok:
            raise Refusal(view.message, status=409, mistakes=view.mistakes)
        return JSONResponse(as_json(view))

    async def drain(self, request: Request) -> Response:
        return await self._set_server(request, AdminState.DRAIN)

    async def maint(self, request: Request) -> Response:
        return await self._set_server(request, AdminState.MAINT)

    async def ready(self, request: Request) -> Response:
        return await self._set_server(request, AdminState.READY)

    async def _set_server(self, request: Request, state: AdminState) -> Response:
        await _body(request, NoBody)
        return _said(await verbs.set_server(self._instance, request.path_params["server"], state))

    async def weight(self, request: Request) -> Response:
        asked = await _body(request, WeightBody)
        service, server = request.path_params["service"], request.path_params["server"]
        return _said(await verbs.set_weight(self._instance, service, server, asked.weight))

    async def pause(self, request: Request) -> Response:
        await _body(request, NoBody)
        return _said(await verbs.set_pause(self._instance, request.path_params["service"], True))

    async def resume(self, request: Request) -> Response:
        await _body(request, NoBody)
        return _said(await verbs.set_pause(self._instance, request.path_params["service"], False))

    async def switch(self, request: Request) -> Response:
        asked = await _body(request, SwitchBody)
        service = request.path_params["service"]
        return _said(await verbs.switch(self._instance, service, asked.server))

    async def kill(self, request: Request) -> Response:
        await _body(request, NoBody)
        session = _whole("a session", request.path_params["session"], verbs.MAX_SESSION)
        return _said(await verbs.kill(self._instance, session))


def _said(sentence: str) -> Response:
    return JSONResponse({"message": sentence})


def _number(request: Request, key: str, default: int, most: int) -> int:
    return _whole(key, request.query_params.get(key, str(default)), most)


def _whole(name: str, text: str, most: int) -> int:
    # By length first: int() of a million digits takes long, and isdigit() knows digits of others.
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > most:
        raise Refusal(f"{name} must be a whole number from 0 to {most}.")
    return int(text)


def _sse(event: Event) -> str:
    """One server-sent event; JSON has no line break, so one data line holds it."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(asdict(event))}\n\n"
