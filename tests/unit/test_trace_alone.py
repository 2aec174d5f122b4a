"""Trace and plan are in doctor.pyz: they start without the data plane, pydantic and pyroute2."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "portside"
FILES = [
    *(PACKAGE / "trace").glob("*.py"),
    *(PACKAGE / "plan").glob("*.py"),
    *(PACKAGE / "cli" / name for name in ("trace.py", "plan.py", "table.py", "duration.py")),
]
ALONE = """
import sys
for missing in ("portside._core", "pydantic", "pyroute2", "pymysql", "starlette", "uvicorn"):
    sys.modules[missing] = None
from portside.cli import run_command
assert run_command(["plan", "--rate", "100"]) == 0
assert run_command(["trace", "--read", "/nonexistent"]) == 1
"""


def test_they_start_alone():
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_python_3_9_reads_them(file: Path):
    text = file.read_text()
    ast.parse(text, feature_version=(3, 9))
    assert "from __future__ import annotations" in text
    assert not any(
        word in text for word in ("slots=True", "kw_only", "strict=True", "tomllib.load(")
    )
