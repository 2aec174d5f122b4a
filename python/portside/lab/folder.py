"""The temporary folder of one lab, with a lock that says whether that lab still runs.

The lock is the folder's own: labs may have different /run folders, as unprivileged ones do, and
still share the folder for temporary files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from portside.lab.hosts import uninterrupted

_PREFIX = "portside-lab-"


@contextlib.contextmanager
def lab_folder() -> Iterator[Path]:
    """A new folder, locked; whoever leaves the block removes it, undisturbed by signals."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    held = _lock(folder)
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        with uninterrupted():
            shutil.rmtree(folder, ignore_errors=True)
            if held is not None:
                os.close(held)


def clean_folders() -> list[Path]:
    """Removes the folders of labs that have ended, and returns them."""
    gone = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        held = _lock(folder)
        if held is None:
            continue  # its lab runs, or it is not ours
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
        gone.append(folder)
    return gone


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None when another process does."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held
