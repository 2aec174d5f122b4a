"""What the admin API's verbs take as a body: strict models, so that a typing error changes nothing.

A key that is misspelt or a value of another type is refused with its name: silence would do
something else than was asked. Bodies are bounded in bytes and in time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from portside.admin.connections import IDLE_S
from portside.control.refusal import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_BYTES = 64 * 1024


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NoBody(_Body):
    """Of verbs that say everything in their path."""


class ReloadBody(_Body):
    """``dry_run``: only say what would change."""

    dry_run: bool = False


class WeightBody(_Body):
    """``weight``: null goes back to the file's; the verb knows the range."""

    weight: int | None


class SwitchBody(_Body):
    """``server``: who takes the sessions."""

    server: str


EXAMPLES = {
    NoBody: "Send no body.",
    ReloadBody: 'Send {"dry_run": true}, or no body.',
    WeightBody: 'Send {"weight": 10}, or null for the file\'s.',
    SwitchBody: 'Send {"server": "db1"}.',
}

B = TypeVar("B", bound=_Body)


async def read(request: Request, model: type[B]) -> B:
    """The body of a request; without one, what the model says by itself.

    Raises:
        Refusal: 400 it is not what the model says, 408 it does not come, 413 it is too large.
    """
    raw = await _bytes(request)
    try:
        return model.model_validate_json(raw.strip() or b"{}")
    except ValidationError as error:
        # The first alone: errors() of 64 KiB of garbage must not become an answer of megabytes.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][:1])[:60]
        text = f"{where}: {first['msg']}" if where else first["msg"]
        raise Refusal(f"the request's body is wrong: {text}.", EXAMPLES[model]) from None


async def _bytes(request: Request) -> bytes:
    raw = b""
    try:
        async with asyncio.timeout(IDLE_S):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > MAX_BYTES:
                    raise Refusal("the request is too large.", status=413)
    except TimeoutError:
        text = f"the request's body did not come within {IDLE_S:g} s."
        raise Refusal(text, status=408) from None
    return raw
