# make demo     the 60-second story, on a real shop; DB=postgresql: on a PostgreSQL server that it starts
# make test     make check, then the tests with a sample of the faults
# make slow     the tests that take long: a hundred thousand files, every interruption, every way a disk fills up
# make soak     PostgreSQL for hours: whoever is killed at every word, SOAK_KILLS=20 times; SOAK_ROUNDS=1000 under writers
# make check    ruff, mypy --strict, import-linter
# make format   lets ruff put right what it can
# make crash    every fault at every call
# make bench-quick  rfs beside restic and git, on a hundred thousand files; ARGS=--all: borg, too
# make bench-databases  rfs beside pg_dump, dslr and SQLite's backup API; ARGS="--scale 0.1": a smaller one
# make bench-conditions  false rollbacks and misses of conditions, on ten thousand histories whose truth is known
# make lock     pins newer dependencies
#
# Needs Python 3.11 or newer and nothing else; everything goes into .venv.
# Another Python: make test PYTHON=python3.12 (which gets a .venv-3.12 of its own).

.DEFAULT_GOAL := test
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

ifdef PYTHON
  VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
else
  PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
    $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
  VENV := .venv
endif
ifeq ($(strip $(PYTHON)),)
  $(error No Python of 3.11 or newer was found. Install one, or name it: make test PYTHON=/path/to/python3.12)
endif

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Twice quiet: what it may have to say about indexes it did not need is no news to anybody.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
MINOR := import sys; print(sys.version_info[:2])

.PHONY: demo test slow soak check format crash bench-quick bench-databases bench-conditions lock clean

demo: DB = sqlite
demo: $(STAMP)
	@$(BIN)/rfs demo --db $(DB)

# Four for two processors: a third of the time a test waits, for the disk or for a service that starts.
test: check
	@$(BIN)/pytest -n 4 -m "not slow"

slow: $(STAMP)
	@$(BIN)/pytest -n 2 -m "slow and not crash and not soak"

soak: export SOAK_KILLS ?= 20
soak: export SOAK_ROUNDS ?= 1000
soak: $(STAMP)
	@$(BIN)/pytest -n 2 -m slow -k "every_word or fifty_rounds" \
	  tests/integration/test_postgresql_killed.py tests/integration/test_postgresql_under_load.py

check: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

crash: $(STAMP)
	@$(BIN)/pytest -n 2 --dist worksteal tests/crash

bench-quick: $(STAMP)
	@$(BIN)/python -m benchmarks.quick $(ARGS)

# Made anew only when the lock, the package's metadata or the C library changed; the package itself is linked, not copied.
$(STAMP): requirements/lock.txt pyproject.toml hatch_build.py src/rfs/production/rollback/drivers/files/bulk.c
	@echo "Installing into $(VENV) …"
	@[ "$$($(BIN)/python -c '$(MINOR)' 2>/dev/null)" = "$$($(PYTHON) -c '$(MINOR)')" ] || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --requirement requirements/lock.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

bench-databases: $(STAMP)
	@$(BIN)/python -m benchmarks.databases $(ARGS)

bench-conditions: $(STAMP)
	@$(BIN)/python -m benchmarks.conditions $(ARGS)

lock: $(STAMP)
	@$(PIP) install uv
	@$(BIN)/uv pip compile --quiet --upgrade --universal --no-emit-index-url --python-version 3.11 --group dev \
	  --custom-compile-command "make lock" --output-file requirements/lock.txt pyproject.toml

clean:
	@rm -rf .venv .venv-* dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
