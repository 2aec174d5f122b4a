"""Whether the session log's file can be opened now. The data plane opens it; this asks first.

For: a reload and SIGUSR1, which must not say "done" while lines still go to the old file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from portside.errors import PortsideError


def refuse_unwritable(path: str | None) -> None:
    """Opens the file as the data plane will, and makes it if need be; None: standard output.

    Raises:
        PortsideError: it cannot be opened; lines go on to where they went.
    """
    if path is None or _is_special(Path(path)):
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise PortsideError(f"[log] file {path}: {error.strerror}.") from None


def _is_special(path: Path) -> bool:
    """A pipe or a device: to open it may wait, or mean something."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
