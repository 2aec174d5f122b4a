# Every target works from a fresh clone: it sets up what it needs first (scripts/setup.py).
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
PY := .venv/bin/python
PYTEST := $(PY) -m pytest

# A minimal Debian has no python3; root can mend that here, others are told.
PYTHON3 = command -v python3 >/dev/null || { [ "$$(id -u)" = 0 ] && \
	{ apt-get -q update && apt-get -q install -y --no-install-recommends python3; } >/dev/null; } || \
	{ echo "setup: python3 is missing: apt-get install python3"; exit 1; }

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z.-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: ## installs what is missing: packages, Rust, .venv, the extension (fast when all is there)
	@$(PYTHON3); python3 scripts/setup.py test

.PHONY: demo
demo: ## real MariaDB primary and two replicas, PHP-like load, Portside in front (KEEP=1 leaves it running)
	@$(PYTHON3); python3 scripts/setup.py demo
	@$(PY) -m portside demo $(if $(KEEP),--keep)

.PHONY: check
check: ## formats, lints, types, stubs, unit tests: under a minute when warm
	@scripts/check.sh

.PHONY: test
test: setup ## sets up, then runs every test (Rust and Python)
	@scripts/check.sh --no-unit
	@# portside-py has no Rust tests, and linking them would need libpython's development package.
	cargo test --workspace --exclude portside-py --locked --quiet
	$(PYTEST)

.PHONY: test-all
test-all: test ## the tests and the long random ones
	PROPTEST_CASES=2000 cargo test --locked --quiet -p portside-proto -p portside-core

.PHONY: lab
lab: setup ## the article's experiment in network namespaces: table, lab.svg, lab.html (FULL=1: the real port ranges)
	@$(PY) -m portside lab $(if $(FULL),,--quick) --svg lab.svg --html lab.html --json lab.json $(LAB)

.PHONY: doctor.pyz
doctor.pyz: ## doctor, trace and plan in one file for any host with Python 3.9: scp it, run it
	@$(PYTHON3); [ -x $(PY) ] || python3 scripts/setup.py test
	@$(PY) scripts/pyz.py doctor.pyz doctor trace plan

.PHONY: bench
bench: setup ## Portside against HAProxy, a bare relay and the direct connection: CPU, rate, memory
	@$(PY) benches/relay.py $(BENCH)
