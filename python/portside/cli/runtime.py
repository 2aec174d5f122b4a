"""The verbs that change a running instance: each prints one sentence of what happened.

Grammar and option parsing are in ``cli/__init__``; names are checked by the instance, which knows
them, so that a typing error is answered with the nearest name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from portside.admin.client import AdminClient, Refused
from portside.errors import ExitCode, PortsideError


def main(
    verb: str, args: Sequence[str], admin: str | None, options: Mapping[str, Any] | None = None
) -> int:
    """Does ``verb`` at the instance at ``admin``.

    Raises:
        NoInstance: nothing answers there.
        Refused: the instance said no, with the reason.
        PortsideError: the arguments make no sense.
    """
    given = options or {}
    if verb == "reload":
        return _reload(AdminClient(admin), bool(given.get("dry_run")), bool(given.get("json")))
    path, body = request_of(verb, args)
    answer = AdminClient(admin).post(path, body)
    click.echo(json.dumps(answer, ensure_ascii=False) if given.get("json") else answer["message"])
    return ExitCode.GOOD


def request_of(verb: str, args: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The path and body of a verb; pure.

    Raises:
        PortsideError: an argument has the wrong form.
    """
    first = quote(args[0], safe="")
    if verb in {"drain", "maint", "ready"}:
        return f"/v1/servers/{first}/{verb}", {}
    if verb in {"pause", "resume"}:
        return f"/v1/services/{first}/{verb}", {}
    if verb == "switch":
        return f"/v1/services/{first}/switch", {"server": args[1]}
    if verb == "kill":
        if not args[0].isdigit():
            raise PortsideError(
                f"{args[0]!r} is not a session's number: see portside show sessions."
            )
        return f"/v1/sessions/{args[0]}/kill", {}
    if verb == "weight":
        service, slash, server = args[0].partition("/")
        if not slash or not service or not server:
            raise PortsideError(f"{args[0]!r} is not SERVICE/SERVER, such as read/db2.")
        where = f"/v1/services/{quote(service, safe='')}/servers/{quote(server, safe='')}/weight"
        return where, {"weight": _weight(args[1])}
    raise ValueError(verb)


def _weight(text: str) -> int | None:
    if text == "file":
        return None
    if not text.isdigit():
        raise PortsideError(
            f"{text!r} is not a weight: a whole number from 0, or file for the file's value."
        )
    return int(text)


def _reload(client: AdminClient, dry_run: bool, as_json: bool) -> int:
    try:
        answer = client.post("/v1/reload", {"dry_run": dry_run})
    except Refused as refused:
        mistakes = refused.body.get("mistakes", [])
        if as_json:
            click.echo(json.dumps(refused.body, indent=2, ensure_ascii=False))
            return ExitCode.NO
        if not mistakes:
            raise
        for mistake in mistakes:
            click.echo(mistake, err=True)
        click.echo(refused.body["error"], err=True)
        return ExitCode.NO
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return ExitCode.GOOD
    click.echo(answer["message"])
    for change in answer["changes"]:
        click.echo(f"  {change}")
    for doubt in answer.get("warnings", ()):  # an older instance has none
        click.echo(f"warning: {doubt}", err=True)
    return ExitCode.GOOD
