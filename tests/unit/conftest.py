"""Fixtures of several files of unit tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from portside.importer.imported import Imported, import_haproxy

Import = Callable[..., Imported]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Imports a text, without asking any HAProxy; the result has been loaded."""

    def work(text: str | bytes, **options: object) -> Imported:
        file = tmp_path / "haproxy.cfg"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        given_options = {"environment": {"HOME": "/root"}, "ask": False, "file_limit": 20_000}
        return import_haproxy([file], **{**given_options, **options})  # type: ignore[arg-type]

    return work
