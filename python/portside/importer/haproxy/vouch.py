"""Asks a HAProxy on this host whether it takes the files, and what it is.

`haproxy -c` knows its own grammar best: what it refuses is shown with its words and lines. Without
one, the importer's own reading is all there is. The only file of the importer that starts programs.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from portside.errors import ConfigError, PortsideError, Problem
from portside.importer.haproxy.conditions import Facts, numbers

# A file of 10,000 lines takes HAProxy 0.1 s; names of servers that do not resolve take longer.
_TIMEOUT_S: Final = 60
# "[ALERT]    (812) : config : ..." since 2.4, "[ALERT] 123/104530 (812) : ..." before.
_ALERT: Final = re.compile(r"\[ALERT\]\s+(?:\d+/\d+\s+)?\(\d+\)\s*:\s*(?:config\s*:\s*)?(.*)")
_PLACE: Final = re.compile(r"(?:parsing )?\[(.+):(\d+)\]\s*:\s*(.*)")
_SUMMARY: Final = re.compile(r"Fatal errors found|Error\(s\) found in configuration")
_HINT: Final = "haproxy -c refuses it; --no-haproxy imports it without asking"


def facts(program: str) -> Facts:
    """Version and features of a HAProxy.

    Raises:
        PortsideError: it does not run.
    """
    text = _run([program, "-vv"]).stdout
    version = re.search(r"[Vv]ersion (\S+)", text)
    features = re.search(r"^Feature list\s*:\s*(.*)$", text, re.MULTILINE)
    names = re.findall(r"\+(\S+)", features[1]) if features else []
    return Facts(numbers(version[1]) if version else (), frozenset(names))


def vouch(program: str, files: Sequence[Path]) -> None:
    """Returns when HAProxy takes the files.

    Raises:
        ConfigError: it refuses them, with its words and lines.
        PortsideError: it does not run.
    """
    arguments = [part for file in files for part in ("-f", str(file))]
    done = _run([program, "-c", *arguments])
    if done.returncode == 0:
        return
    problems = []
    for line in done.stderr.splitlines():
        found = _ALERT.search(line)
        if found is None or _SUMMARY.search(found[1]):
            continue
        place = _PLACE.match(found[1])
        if place is not None:
            problem = Problem(place[1], int(place[2]), 1, "", "", place[3].rstrip(". "), hint=_HINT)
        else:
            problem = Problem(str(files[0]), 0, 0, "", "", found[1].rstrip(". "), hint=_HINT)
        problems.append(problem)
    if not problems:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason"]
        problems = [Problem(str(files[0]), 0, 0, "", "", last[0], hint=_HINT)]
    raise ConfigError(tuple(problems))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PortsideError(
            f"{command[0]} does not answer ({error}): --no-haproxy imports the file without asking"
        ) from None
