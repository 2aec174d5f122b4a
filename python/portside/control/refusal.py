"""A verb that a running instance refuses: what, why, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterable

from portside.errors import PortsideError


class Refusal(PortsideError):
    """The instance says no; nothing has changed.

    Attributes:
        text: one sentence.
        hint: what to do instead, or empty.
        status: the HTTP status that fits: 400 wrong input, 404 unknown name, 409 not now.
        mistakes: for a refused reload, one text per mistake.
    """

    def __init__(
        self, text: str, hint: str = "", *, status: int = 400, mistakes: Iterable[str] = ()
    ) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__(" ".join([text, hint]).strip())
        self.text = text
        self.hint = hint
        self.status = status


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like ``name``, or empty."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else ""


def unknown(what: str, name: str, known: Iterable[str]) -> Refusal:
    """The refusal for a name that does not exist, with the nearest or all the names there are."""
    names = sorted(known)
    close = nearest(name, names)
    if close:
        hint = f"Did you mean {close!r}?"
    elif names:
        hint = f"There {'is' if len(names) == 1 else 'are'}: {', '.join(names[:10])}."
    else:
        hint = ""
    return Refusal(f"there is no {what} {name!r}.", hint, status=404)
