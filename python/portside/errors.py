"""What can go wrong, as types: one tree under `PortsideError`, one enum of exit codes.

An error here is a sentence for an administrator, never a traceback. It must not know where it is
printed: the command line, the admin interface and the Python API all show the same text. Secrets
never reach a `Problem`: whoever makes one passes a value that may be shown.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass


class ExitCode(enum.IntEnum):
    """What a command ends with; the same for every command."""

    GOOD = 0
    """It was done, or the answer is yes."""
    NO = 1
    """The answer is no, or the input is wrong."""
    USAGE = 2
    """The command line itself is wrong (click's own code)."""
    OUR_FAULT = 70
    """A mistake of ours; EX_SOFTWARE of sysexits.h."""


class PortsideError(Exception):
    """Base of everything Portside raises on purpose; `str()` is a sentence or several lines."""


class NoInstance(PortsideError):
    """No running Portside answered at an admin address; the text names the address tried."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration, or one thing worth a warning.

    Shape: `line` and `column` count from 1; 0 means that no place in the file is to blame.
    `key` is the dotted path as the file's reader sees it (`server db1 check.interval`);
    `value` is the text of the offending value, or "" when there is none or it is a secret.
    """

    file: str
    line: int
    column: int
    key: str
    value: str
    message: str
    """What is wrong, one sentence without a full stop."""
    expected: str = ""
    hint: str = ""
    """The nearest key, or what to do."""

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}:{self.column}"
        key = f"{self.key}: " if self.key else ""
        value = f" (found {self.value})" if self.value else ""
        expected = f"; expected {self.expected}" if self.expected else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}: {key}{self.message}{value}{expected}{hint}"

    def as_dict(self) -> dict[str, str | int]:
        """The same as a JSON-ready object, for `portside check --json` and the admin interface."""
        return asdict(self)


class ConfigError(PortsideError):
    """A configuration that cannot be used; `problems` holds every mistake found, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
