#!/usr/bin/env python3
"""Builds doctor.pyz: ``portside doctor`` (with trace and plan) in one file for any host.

    .venv/bin/python scripts/pyz.py doctor.pyz doctor trace plan

Pure Python, for 3.9 and newer, without the data plane. The libraries are those of
requirements-pyz.txt, the last ones for Python 3.9; pip checks their hashes. A subcommand is bundled
as ``portside/cli/NAME.py`` with ``portside/NAME.py`` or ``portside/NAME/``; one that is not
there yet is left out and told.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path
from shutil import copytree, ignore_patterns

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "portside"
LIBRARIES = ROOT / "requirements-pyz.txt"
SHARED = (
    "__init__.py",
    "__main__.py",
    "counted.py",
    "errors.py",
    "foreign_text.py",
    "cli/__init__.py",
    "cli/table.py",
    "cli/pyz.py",
    "cli/duration.py",  # trace and plan read times with it
)
# Must be understood by every Python that somebody may start it with.
MAIN = """\
import sys
if sys.version_info < (3, 9):
    sys.exit("doctor.pyz needs Python 3.9 or newer; this is %d.%d" % sys.version_info[:2])
from portside.cli.pyz import main
main()
"""
NOISE = ignore_patterns("__pycache__", "*.pyi", "*.so", "tests", "bin", "RECORD", "INSTALLER")


def main() -> None:
    """Builds the file named first from the subcommands named after it."""
    target, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        add_libraries(tree)
        there = [name for name in names if (PACKAGE / "cli" / f"{name}.py").exists()]
        files = [PACKAGE / name for name in SHARED if (PACKAGE / name).exists()]
        for name in there:
            files += [PACKAGE / "cli" / f"{name}.py", *sources(name)]
        for file in files:
            inside = tree / "portside" / file.relative_to(PACKAGE)
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(file.read_bytes())
        (tree / "__main__.py").write_text(MAIN)
        zipapp.create_archive(tree, target, "/usr/bin/env python3", compressed=True)
    size_kib = Path(target).stat().st_size // 1024
    print(f"{target}: {', '.join(there)}; {size_kib} KiB, Python 3.9 or newer")
    if missing := [name for name in names if name not in there]:
        print(f"left out, there is no such command yet: {', '.join(missing)}")


def sources(name: str) -> list[Path]:
    """``portside/NAME.py``, or every module of ``portside/NAME/``."""
    module = PACKAGE / f"{name}.py"
    return [module] if module.exists() else sorted((PACKAGE / name).rglob("*.py"))


def add_libraries(tree: Path) -> None:
    """Puts them into ``tree``; ends the build with pip's words when they cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.9"),
            *("--target", folder, "-r", str(LIBRARIES)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"doctor.pyz: the libraries cannot be had: {done.stderr.strip()}")
        copytree(folder, tree, ignore=NOISE, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
