"""`portside explain`: what a word in a log line, metric, event or view means, and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby

import click

from portside import _core, explain
from portside.errors import ExitCode


def main(word: str | None, as_json: bool) -> int:
    """Prints one code, or all of them by kind.

    Raises:
        UnknownCode: the word is no code.
    """
    known = explain.codes(_core.explain_codes())
    found = explain.explain(word, known) if word else list(known)
    if as_json:
        click.echo(json.dumps([asdict(code) for code in found], indent=2, ensure_ascii=False))
    elif word:
        for code in found:
            click.echo(str(code))
    else:
        for kind, group in groupby(found, key=lambda code: code.kind):
            click.secho(kind, bold=True)
            for code in group:
                click.echo(
                    click.wrap_text(
                        f"{code.text} {code.advice}",
                        width=100,
                        initial_indent=f"  {code.code:<20}",
                        subsequent_indent=" " * 22,
                    )
                )
    return ExitCode.GOOD
