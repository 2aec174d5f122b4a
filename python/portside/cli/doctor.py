"""``portside doctor``: examines this host, or several over ssh, and says what is wrong with them.

The first line is the verdict. Also the command of doctor.pyz, so it imports nothing but the
standard library, click and rich, and runs on Python 3.9.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from portside import doctor
from portside.cli import table
from portside.doctor import screen
from portside.doctor.errors import DoctorError
from portside.doctor.finding import Severity
from portside.doctor.login import read_login
from portside.doctor.remote import Failure, examine_hosts
from portside.doctor.report import FailOn, Report
from portside.doctor.sysctl_file import sysctl_file
from portside.errors import ExitCode


@dataclass(frozen=True)
class Options:
    """The command line."""

    verbose: bool = False
    as_json: bool = False
    sysctl_file: Path | None = None
    fail_on: str = Severity.CRITICAL.value
    ssh: tuple[str, ...] = ()
    mysql: str | None = None
    mysql_password_file: Path | None = None


def main(options: Options) -> int:
    """Prints the report; NO when it is as bad as ``fail_on``, or a host could not be examined.

    Raises:
        DoctorError: wrong input.
    """
    if options.ssh:
        return _many(options)
    login = read_login(options.mysql, options.mysql_password_file) if options.mysql else None
    report = doctor.examine(login=login)
    if options.sysctl_file is not None:
        return write_settings(report, options.sysctl_file)
    with table.written():
        if options.as_json:
            print(json.dumps(report.as_dict(), indent=2))
        else:
            show(screen.one_host(report, options.verbose), sys.stdout)
    return ExitCode.NO if report.fails(FailOn(options.fail_on)) else ExitCode.GOOD


def _many(options: Options) -> int:
    answers: list[tuple[str, Report | Failure]] = []
    for host, answer in examine_hosts(options.ssh, window_s=1.0):
        if sys.stderr.isatty():
            print(f"\r{len(answers) + 1} of {len(options.ssh)} hosts", end="", file=sys.stderr)
        answers.append((host, answer if isinstance(answer, Failure) else doctor.diagnose(answer)))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    with table.written():
        if options.as_json:
            print(json.dumps({"hosts": [_as_dict(*each) for each in answers]}, indent=2))
        else:
            show(screen.many_hosts(answers, options.verbose), sys.stdout)
    good = all(
        isinstance(each, Report) and not each.fails(FailOn(options.fail_on)) for _, each in answers
    )
    return ExitCode.GOOD if good else ExitCode.NO


def _as_dict(host: str, answer: Report | Failure) -> dict[str, object]:
    if isinstance(answer, Failure):
        return {"asked": host, "failed": answer.reason}
    return {"asked": host, **answer.as_dict()}


def write_settings(report: Report, path: Path) -> int:
    """Writes the sysctl.d file to ``path``, or prints it for "-".

    Raises:
        DoctorError: it cannot be written.
    """
    text = sysctl_file(report)
    if str(path) == "-":
        with table.written():
            print(text, end="")
        return ExitCode.GOOD
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise DoctorError(f"--sysctl-file {path} cannot be written: {error.strerror}") from error
    print(f"written: {path}; put in force with: sysctl -p {path}")
    return ExitCode.GOOD


def show(parts: Sequence[screen.Part], stream: TextIO) -> None:
    """Writes a screen: with colours and folded on a terminal, else as plain text."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, no_color="NO_COLOR" in os.environ)
    for part in parts:
        if isinstance(part, str):
            table.write(part, stream)
        elif isinstance(part, table.Cell):
            style = part.style if stream.isatty() else ""
            console.print(Text(part.text, style), soft_wrap=not stream.isatty())
        elif stream.isatty():
            shown = table.as_rich(part)
            shown.show_header = any(part.heads)
            console.print(shown)
        else:
            text = table.plain(part)
            stream.write(text if any(part.heads) else text.partition("\n")[2])
