# Everything one needs to type. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PYTHON

.PHONY: help install demo test long lint format lock clean kills memory ports faults benchmark acceptance conformance clients compat

help:  ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

install:  ## make .venv from the lock that fits this machine (RAYBATCH_LOCK=cpu or gpu, PYTHON=...)
	@bash requirements/install.sh

demo: install  ## a batch from upload to results, on the model that comes with the installation
	.venv/bin/raybatch demo

test: install clients lint  ## everything that can be checked on this machine
	.venv/bin/pytest

long: install  ## the tests that take minutes each
	.venv/bin/pytest -m long

lint: install  ## style, types and who may import whom
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --verbose

format: install  ## let ruff rewrite what it can
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

kills: install  ## kill what runs a batch, five times each, and check every row
	.venv/bin/python -m jobs.kills

faults: install  ## break all that can break under a batch, and check every row (docs/durability.md)
	.venv/bin/python -m jobs.faults

memory: install  ## peak memory of each process, small batch against large
	.venv/bin/python -m jobs.memory

benchmark: install  ## a batch against vLLM's own LLM.generate, and a small batch beside a large one
	.venv/bin/python -m jobs.benchmark parity
	.venv/bin/python -m jobs.benchmark sharing

acceptance: install  ## what was asked for, box by box, each with its evidence
	.venv/bin/python -m jobs.acceptance

clients: install  ## make .cache/clients: LiteLLM, and Node with the openai package of npm
	@bash requirements/clients.sh

compat: clients  ## real clients against a server: URL=http://... of a running one, else one of its own
	.venv/bin/python -m jobs.compat $(if $(URL),--url $(URL))

conformance: install  ## the ledger's suite on the next DuckDB
	.venv/bin/uv pip install --quiet --no-deps --target .cache/duckdb2 duckdb==2.0.0
	PYTHONPATH=.cache/duckdb2 .venv/bin/pytest tests/conformance/test_ledger_contract.py tests/ledger

ports: install  ## every listening port, and what it tells a stranger
	.venv/bin/python -m jobs.ports

lock: install  ## resolve every lock in requirements anew
	@bash requirements/lock.sh
	@bash requirements/clients.sh lock

clean:  ## remove what was built in this checkout
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
