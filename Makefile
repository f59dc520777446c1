# The ways to run, check, test and measure mybouncer. Every step provides what it needs and skips what is there.
#
#   make run                                   a demonstration on a MariaDB of its own (ARGS=--once: show and leave)
#   make run BACKEND=mysql://127.0.0.1:3306    the pooler in front of that server
#   make check                                 lint, format, types, layers
#   make test                                  everything, on real MariaDB and MySQL servers (ARGS="-k pins -x")
#   make soak-differential                     a million statements, direct and through, answers compared (ARGS="--seed 7")
#   make clients                               other people's test suites, direct and through (some 15 minutes)
#   make matrix                                logins of every client library, against the table in docs/matrix.md
#   make soak-pools                            four ordinary connection pools at load for SECONDS (1800)
#   make bench                                 comparisons with other poolers
#   make venv                                  the environment for development, in .venv
#   make clean                                 removes what these made in the checkout
#
# PYTHON is the Python to make .venv from. With TEST_REQUIRE_SERVERS=1 a server that cannot be had is a failure
# and not a skip.

SHELL := /bin/bash
BIN := .venv/bin
WORKERS ?= 2
ARGS ?=
SECONDS ?= 1800
export BACKEND PYTHON

.DEFAULT_GOAL := help
.PHONY: help run venv check test soak-differential clients matrix soak-pools bench clean servers

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

run:
	@scripts/venv run
ifdef BACKEND
	@exec $(BIN)/mybouncer serve --backend "$$BACKEND" $(ARGS)
else
	@scripts/install-packages run
	@exec $(BIN)/mybouncer demo $(ARGS)
endif

venv:
	@scripts/venv dev

check: venv
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/python -m pytest -q --no-header -p no:cacheprovider tests/test_layers.py

# Without root there may be no way to get the servers; then their tests are skipped, and the run says so.
servers:
	@scripts/install-packages test || [ -z "$$TEST_REQUIRE_SERVERS" ]
	@scripts/mysql-server >/dev/null || [ -z "$$TEST_REQUIRE_SERVERS" ]
	@scripts/mariadb-server >/dev/null || [ -z "$$TEST_REQUIRE_SERVERS" ]
	@scripts/npm-drivers >/dev/null || [ -z "$$TEST_REQUIRE_SERVERS" ]
	@scripts/promtool >/dev/null || [ -z "$$TEST_REQUIRE_SERVERS" ]

test: venv servers
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(ARGS)

# Stops at the first difference and prints how to play it again.
soak-differential: venv servers
	$(BIN)/python -m tests.live.differential --statements 1000000 $(ARGS)

clients: venv servers
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup tests/clients/test_suites.py tests/clients/test_dumps.py \
		--tables tests/clients/results $(ARGS)

matrix: venv servers
	@scripts/install-packages matrix
	$(BIN)/python -m pytest -q tests/clients/test_matrix.py --matrix $(ARGS)

soak-pools: venv servers
	$(BIN)/python -m pytest -q -x tests/clients/test_pools.py --soak $(SECONDS) $(ARGS)

bench: venv servers
	@scripts/install-packages bench
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find proxy tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
