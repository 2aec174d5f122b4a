"""The entry of doctor.pyz: the command line with only the commands that are in that file.

Without a command it is the doctor, since that is what it is copied to a host for.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import NoReturn

from portside.cli import cli, run_command


def main() -> NoReturn:
    """Ends with the command's exit code."""
    cli.commands = {
        name: command for name, command in cli.commands.items() if find_spec(f"portside.cli.{name}")
    }
    # --version asks the data plane, which is not in here.
    cli.params = [each for each in cli.params if each.name != "version"]
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help"}):
        arguments = ["doctor", *arguments]
    sys.exit(run_command(arguments))
