"""Fixtures around a running ``portside run``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.instance import Instance
from tests.support.namespace import Namespace


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as sockets need it."""
    made = Path(tempfile.mkdtemp(prefix="ps-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def run_portside(folder: Path) -> Iterator[Callable[..., Instance]]:
    """Starts ``portside run`` with a configuration; ended after the test.

    Arguments as ``Instance``; ``start=False`` only makes it.
    """
    made: list[Instance] = []

    def make(text: str, *, start: bool = True, **settings: object) -> Instance:
        own = folder / f"i{len(made)}"
        own.mkdir()
        instance = Instance(own, text, **settings)  # type: ignore[arg-type]
        made.append(instance)
        return instance.start() if start else instance

    yield make
    for instance in made:
        instance.stop()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace; skips without root."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Namespace() as made:
        yield made
