"""The examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from portside.demo.mariadb import find_program

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_pytest_example_passes_on_its_own():
    if find_program("mariadbd") is None:
        pytest.skip("mariadbd is not installed: apt-get install mariadb-server-core")
    folder = EXAMPLES / "07-pytest-fixture"
    done = subprocess.run(
        # No conftest of ours above it, and none of our settings: as a reader would copy it.
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            "/dev/null",
            "--rootdir",
            str(folder),
            str(folder),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = len(re.findall(r"^def test_", (folder / "test_app.py").read_text(), re.M))
    assert f"{written} passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    "file", sorted(EXAMPLES.glob("*/*.toml")), ids=lambda path: path.parent.name
)
def test_the_configurations_are_without_a_mistake(file):
    done = subprocess.run(
        [sys.executable, "-m", "portside", "check", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=file.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
