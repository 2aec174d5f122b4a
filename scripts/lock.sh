#!/bin/sh
# Writes requirements-dev.txt anew from pyproject.toml, requirements-pyz.txt, the libraries of
# doctor.pyz, and those of the client programs: every package with its hashes. Needs uv.
set -eu
cd "$(dirname "$0")/.."
compile() {
  uv pip compile --quiet --generate-hashes --custom-compile-command scripts/lock.sh "$@"
}
echo "click rich pymysql" | tr ' ' '\n' |
  compile --no-deps --python-version 3.9 --output-file requirements-pyz.txt -
# What client programs need; suite: the last PyMySQL on PyPI that brings its own tests.
for part in requirements mysqlclient suite; do
  compile --python-version 3.11 $([ $part = suite ] && echo --no-deps) \
    "tests/clients/python/$part.in" --output-file "tests/clients/python/$part.txt"
done
compile --universal --python-version 3.11 --extra dev pyproject.toml \
  --output-file requirements-dev.txt "$@"
