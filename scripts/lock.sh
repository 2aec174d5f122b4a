#!/bin/sh
# Writes requirements-dev.txt anew from pyproject.toml, and requirements-pyz.txt, the libraries of
# doctor.pyz: every package with its hashes. Needs uv.
set -eu
cd "$(dirname "$0")/.."
echo "click rich pymysql" | tr ' ' '\n' | uv pip compile --quiet --no-deps --python-version 3.9 --generate-hashes \
  --custom-compile-command scripts/lock.sh --output-file requirements-pyz.txt -
exec uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev \
  --custom-compile-command scripts/lock.sh pyproject.toml --output-file requirements-dev.txt "$@"
