"""The admin API as an ASGI application on a double: paths, answers, errors, the token."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from portside.admin import metrics, server
from portside.admin.views import as_json
from starlette.applications import Starlette

from tests.support.engine_double import session
from tests.unit.test_control_instance import TEXT, Stage, play

DOCS = Path(__file__).parents[2] / "docs"


class Answer:
    """Status, headers and body of one request."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status = messages[0]["status"]
        self.headers = {k.decode(): v.decode() for k, v in messages[0]["headers"]}
        self.text = b"".join(m.get("body", b"") for m in messages[1:]).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


async def ask(
    app: Starlette, method: str, path: str, body: object = None, token: str | None = None
) -> Answer:
    """One request, without a socket."""
    path, _, query = path.partition("?")
    headers = [(b"host", b"x")]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": headers,
        "client": None,
        "server": None,
    }
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return Answer(messages)


def api(stage: Stage, token: str | None = None) -> Starlette:
    return server.build(stage.host, "1.2.3", None if token is None else lambda: token)


def test_every_answer_says_who_we_are():
    async def scene(stage: Stage) -> None:
        for path in ("/v1/status", "/nowhere"):
            answer = await ask(api(stage), "GET", path)
            assert answer.headers["portside-version"] == "1.2.3"
            assert answer.headers["portside-api"] == "1"

    play(scene)


def test_reads():
    async def scene(stage: Stage) -> None:
        app = api(stage)
        stage.engine.running = [session(1, "read", "db1"), session(2, "read", "db2")]
        status = (await ask(app, "GET", "/v1/status")).json
        assert status["sessions"] == 2
        assert [s["name"] for s in status["servers"]] == ["db1", "db2"]
        services = json.loads(json.dumps(as_json(stage.host.instance.services())))
        assert (await ask(app, "GET", "/v1/services")).json == services
        assert (await ask(app, "GET", "/v1/servers")).json[1]["destinations"] == [
            "10.0.0.12:3306",
            "10.0.0.13:3306",
        ]
        chosen = (await ask(app, "GET", "/v1/sessions?server=db2")).json
        assert [one["id"] for one in chosen] == [2]
        assert (await ask(app, "GET", "/v1/stats")).json["generation"] >= 1
        config = (await ask(app, "GET", "/v1/config")).json
        assert config["toml"].startswith("[portside]")
        assert {"key", "value", "origin"} == set(config["values"][0])

    play(scene)


def test_verbs_answer_with_a_sentence():
    async def scene(stage: Stage) -> None:
        app = api(stage)
        stage.engine.running = [session(7, "read", "db1")]
        for path, body, words in (
            ("/v1/servers/db1/drain", None, "now in drain"),
            ("/v1/servers/db1/maint", None, "now in maint"),
            ("/v1/servers/db1/ready", None, "now ready"),
            ("/v1/services/read/servers/db2/weight", {"weight": 5}, "has weight 5 now (file: 10)"),
            ("/v1/services/read/servers/db2/weight", {"weight": None}, "weight 10 again"),
            ("/v1/services/read/pause", None, "is paused"),
            ("/v1/services/read/resume", None, "takes clients"),
            ("/v1/sessions/7/kill", None, "session 7 is being closed."),
            ("/v1/reload", {"dry_run": True}, "already in force"),
        ):
            answer = await ask(app, "POST", path, body)
            assert answer.status == 200, answer.text
            assert words in answer.json["message"]

    play(scene)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error", "hint"),
    [
        ("GET", "/v2/status", None, 404, "there is no /v2/status here.", "docs/admin-api.md"),
        ("GET", "/v1/reload", None, 405, "GET is not for /v1/reload.", ""),
        ("POST", "/v1/servers/db3/drain", None, 404, "there is no server 'db3'.", "Did you mean"),
        (
            "POST",
            "/v1/services/read/switch",
            {},
            400,
            "server: Field required",
            '{"server": "db1"}',
        ),
        ("POST", "/v1/services/read/switch", {"server": "db1"}, 409, "has no backup", ""),
        (
            "POST",
            "/v1/services/read/servers/db1/weight",
            {"weight": "5"},
            400,
            "weight: Input should be a valid integer",
            '{"weight": 10}',
        ),
        (
            "POST",
            "/v1/services/read/servers/db1/weight",
            {"wieght": 3},
            400,
            "weight: Field required",
            '{"weight": 10}',
        ),
        ("POST", "/v1/services/read/servers/db1/weight", None, 400, "weight: Field required", ""),
        ("POST", "/v1/services/read/servers/db1/weight", {"weight": True}, 400, "weight", ""),
        ("POST", "/v1/services/read/servers/db1/weight", {"weight": 257}, 400, "256", ""),
        (
            "POST",
            "/v1/services/read/servers/db1/weight",
            b'{"weight":' + b"9" * 6000 + b"}",
            400,
            "number out of range",
            "",
        ),
        ("POST", "/v1/reload", {"dry_run": "yes"}, 400, "dry_run: ", '{"dry_run": true}'),
        ("POST", "/v1/reload", {"dryrun": True}, 400, "dryrun: Extra inputs", ""),
        ("POST", "/v1/reload", b"[1]", 400, "body is wrong", ""),
        ("POST", "/v1/reload", b"{", 400, "body is wrong", ""),
        ("POST", "/v1/reload", b"[" * 60_000, 400, "body is wrong", ""),
        ("POST", "/v1/reload", b'{"' + b"k" * 9000 + b'": 1}', 400, "body is wrong", ""),
        ("POST", "/v1/servers/db1/drain", {"wait": True}, 400, "wait: Extra", "no body"),
        ("GET", "/v1/sessions?limit=%C2%B2", None, 400, "limit must be a whole number", ""),
        ("GET", "/v1/sessions?limit=" + "9" * 6000, None, 400, "limit must be a whole number", ""),
        ("POST", f"/v1/sessions/{10**26}/kill", None, 400, "a session must be a whole", ""),
        ("POST", "/v1/sessions/x/kill", None, 400, "a session must be a whole number", ""),
        ("POST", "/v1/sessions/9/kill", None, 404, "there is no session 9.", "show sessions"),
        ("POST", "/v1/reload", b"x" * 70_000, 413, "too large", ""),
        ("GET", "/v1/sessions?limit=-1", None, 400, "limit must be a whole number", ""),
        ("GET", "/v1/events?after=x", None, 400, "after must be a whole number", ""),
    ],
)
def test_errors_are_json_with_a_hint(method, path, body, status, error, hint):
    async def scene(stage: Stage) -> None:
        answer = await ask(api(stage), method, path, body)
        assert answer.status == status
        assert error in answer.json["error"]
        assert hint in answer.json["hint"]
        assert len(answer.text) < 500

    play(scene)


def test_a_refused_reload_lists_its_mistakes():
    async def scene(stage: Stage) -> None:
        stage.file = TEXT.replace("weight = 10", "weigth = 10")
        answer = await ask(api(stage), "POST", "/v1/reload", {})
        assert answer.status == 409
        assert answer.json["error"] == (
            "not reloaded: 1 mistake; the configuration in force stays."
        )
        assert "unknown key" in answer.json["mistakes"][0]

    play(scene)


def test_tcp_needs_the_token():
    async def scene(stage: Stage) -> None:
        app = api(stage, token="s3cret")
        for token in (None, "", "s3cre", "s3crets"):
            answer = await ask(app, "GET", "/v1/status", token=token)
            assert answer.status == 401
            assert "s3cret" not in answer.text
        assert (await ask(app, "GET", "/v1/status", token="s3cret")).status == 200

    play(scene)


def test_healthz_follows_draining_and_the_service():
    async def scene(stage: Stage) -> None:
        app = api(stage)
        assert (await ask(app, "GET", "/healthz")).text == "ok\n"
        assert (await ask(app, "GET", "/healthz?service=read")).status == 200
        assert (await ask(app, "GET", "/healthz?service=nope")).status == 503
        await ask(app, "POST", "/v1/services/read/pause")
        paused = await ask(app, "GET", "/healthz?service=read")
        assert (paused.status, paused.text) == (503, "paused\n")
        await stage.host.instance.drain(0.0)
        drained = await ask(app, "GET", "/healthz")
        assert (drained.status, drained.text) == (503, "draining\n")

    play(scene)


def test_events_can_be_read_from_a_point():
    async def scene(stage: Stage) -> None:
        app = api(stage)
        await ask(app, "POST", "/v1/services/read/pause")
        events = (await ask(app, "GET", "/v1/events")).json
        assert events[-1]["kind"] == "admin_pause"
        last = events[-1]["id"]
        assert (await ask(app, "GET", f"/v1/events?after={last}")).json == []

    play(scene)


def test_the_documented_paths_are_the_served_ones():
    async def scene(stage: Stage) -> set[str]:
        return {
            f"{next(iter(route.methods - {'HEAD'}))} {route.path.replace(':int', '')}"
            for route in api(stage).routes
        }

    served = play(scene)
    text = (DOCS / "admin-api.md").read_text()
    documented = set(re.findall(r"^\| `((?:GET|POST) /[^`?]*)", text, re.MULTILINE))
    assert documented == served


def test_metrics_are_what_the_docs_say():
    text = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(portside_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|", text, re.MULTILINE)
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), meaning.strip())
        for name, kind, labels, meaning in rows
    }
    assert documented == {f.name: (f.kind, f.labels, f.text) for f in metrics.FAMILIES.values()}


def test_every_family_is_scraped_and_follows_the_conventions():
    async def scene(stage: Stage) -> str:
        app = metrics.build(stage.host, "1.2.3")
        return (await ask(app, "GET", "/metrics")).text

    text = play(scene)
    for family in metrics.FAMILIES.values():
        assert f"# TYPE {family.name.removesuffix('_total')}" in text.replace("_total ", " ")
        assert family.name.endswith("_total") == (family.kind == "counter")
    assert 'portside_member_sessions_total{server="db1",service="read"} 3.0' in text
    assert 'portside_server_up{server="db1"} 1.0' in text
    assert 'portside_closes_total{code="eof-reset",side="server"} 3.0' in text


def test_labels_are_bounded_and_units_are_base_units():
    named = {"service", "server", "source", "destination", "worker", "version", "certificate"}
    listed = {"side", "code", "kind", "direction", "state", "reason"}
    for family in metrics.FAMILIES.values():
        assert set(family.labels) <= named | listed, family.name
        assert not re.search(r"_(ms|us|ns|minutes|hours|kib|mib|percent)(_|$)", family.name)
        assert family.text.endswith(".")


def test_metrics_cannot_change_anything():
    async def scene(stage: Stage) -> None:
        app = metrics.build(stage.host, "1.2.3")
        assert (await ask(app, "GET", "/healthz")).status == 200
        assert (await ask(app, "POST", "/v1/reload")).status == 404

    play(scene)
