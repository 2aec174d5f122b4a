#!/bin/sh
# Writes requirements-dev.txt anew from pyproject.toml: every package with its hashes. Needs uv.
set -eu
cd "$(dirname "$0")/.."
exec uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev \
  --custom-compile-command scripts/lock.sh pyproject.toml --output-file requirements-dev.txt "$@"
