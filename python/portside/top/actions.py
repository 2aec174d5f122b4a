"""What a key does to the line under the cursor, with the question that is asked before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from portside.cli.runtime import request_of
from portside.top.order import Line

Row = Mapping[str, Any]

VERBS = {"d": "drain", "m": "maint", "r": "ready", "p": "pause", "k": "kill"}
"""By key; a weight (w) is asked for first, see ``members`` and ``weight``."""


@dataclass(frozen=True, slots=True)
class Action:
    """A verb of ``portside``, its arguments, and the question before it."""

    verb: str
    args: tuple[str, ...]
    question: str


def action(key: str, line: Line | None, status: Row) -> Action | str:
    """What ``key`` does to ``line``, or the sentence why it does nothing."""
    verb = VERBS[key]
    if verb == "kill":
        if line is None or line.session is None:
            return f"{key} cuts a session: choose one in the view 4."
        about = line.detail.partition("; ")[0]
        return Action(verb, (str(line.session),), f"Cut {about}? A query that runs is lost.")
    if verb == "pause":
        if line is None or not line.service:
            return f"{key} pauses a service: choose a line of one."
        return _pause(line.service, status)
    if line is None or not line.server:
        return f"{key} is for a server: choose a line of one."
    return _server(verb, line.server, status)


def _server(verb: str, server: str, status: Row) -> Action:
    row: Row = next((each for each in status["servers"] if each["name"] == server), {})
    running = int(row.get("sessions", 0))
    count = "1 session" if running == 1 else f"{running:,} sessions"
    where = ", ".join(row.get("services", ())) or "no service"
    effect = {
        "drain": f"It gets no new sessions in {where}; {count} there may go on.",
        "maint": f"It gets no new sessions in {where}; {count} there will end between two commands"
        " and lose what is not committed.",
        "ready": f"It takes sessions in {where} as its checks allow.",
    }[verb]
    return Action(verb, (server,), f"portside {verb} {server}\n{effect}")


def _pause(service: str, status: Row) -> Action:
    row: Row = next((each for each in status["services"] if each["name"] == service), {})
    if row.get("paused"):
        text = f"portside resume {service}\nClients that wait go on."
        return Action("resume", (service,), text)
    text = f"portside pause {service}\nNew clients wait in the queue; running sessions go on."
    return Action("pause", (service,), text)


def members(line: Line | None, status: Row) -> dict[str, Row]:
    """The members whose weight w may set on ``line``: by "service/server"."""
    if line is None or not line.server:
        return {}
    return {
        f"{service['name']}/{member['server']}": member
        for service in status["services"]
        for member in service["members"]
        if member["server"] == line.server and line.service in ("", service["name"])
    }


def weight(member: str, row: Row, given: str) -> Action:
    """Sets a weight to what was typed.

    Raises:
        PortsideError: that is no weight.
    """
    request_of("weight", (member, given))
    service, _, server = member.partition("/")
    to = f"what the file says, {row['file_weight']}" if given == "file" else given
    none = " It gets no new sessions." if given == "0" else ""
    text = (
        f"portside weight {member} {given}\n"
        f"Server {server} in service {service}: from {row['weight']} to {to}.{none}"
    )
    return Action("weight", (member, given), text)
