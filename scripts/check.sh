#!/bin/bash
# Formats, lints, types, stubs and (unless --no-unit) unit tests. The first failure ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin

step() {
  local name=$1 started=$SECONDS
  shift
  if ! "$@" >.cache/check.log 2>&1; then
    cat .cache/check.log
    echo "check: $name failed: $*"
    exit 1
  fi
  echo "check: $name ($((SECONDS - started)) s)"
}

skip() { echo "check: $1 skipped: $2"; }

mkdir -p .cache
if cargo fmt --version >/dev/null 2>&1; then
  step "cargo fmt" cargo fmt --all --check
else
  skip "cargo fmt" "apt-get install rustfmt-web, or rustup component add rustfmt"
fi
if cargo clippy --version >/dev/null 2>&1; then
  step "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings
else
  skip "clippy" "Debian 12 has none for its newer Rust; rustup component add clippy"
fi
# The engine holds no protocol knowledge: sessions are state machines of crates/core.
step "no COM_ in the engine" bash -c '! grep -rn "COM_" crates/engine'
step "ruff" "$bin/ruff" check
step "ruff format" "$bin/ruff" format --check
step "mypy" "$bin/mypy"
step "stubtest" "$bin/python" -m mypy.stubtest portside._core
if [ "${1:-}" != --no-unit ]; then
  step "cargo test proto, core" cargo test --locked --quiet -p portside-proto -p portside-core
  step "pytest tests/unit" "$bin/python" -m pytest -q tests/unit
fi
