# Everything one needs to type. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PYTHON

.PHONY: help install demo test long lint format lock clean kills memory ports faults benchmark acceptance conformance clients compat queues soak mutants simulate exhaust plans browser console frames screenshots

help:  ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

install:  ## make .venv from the lock that fits this machine (RAYBATCH_LOCK=cpu or gpu, PYTHON=...)
	@bash requirements/install.sh

demo: install  ## a batch from upload to results, on the model that comes with the installation
	.venv/bin/raybatch demo

test: install clients browser lint  ## everything that can be checked on this machine
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

queues: install  ## the same kills on raybatch, Celery and Procrastinate; needs Debian's redis-server and postgresql
	@bash requirements/queues.sh
	.venv/bin/python -m jobs.queues

soak: install  ## hours of use (HOURS=1), and what grows meanwhile
	.venv/bin/python -m jobs.soak --hours $(or $(HOURS),1)

simulate: install  ## histories of the simulated world, SEEDS=1000 of them (docs/simulation.md)
	.venv/bin/python -m tests.simulation.simulate --seeds $(or $(SEEDS),1000)

mutants: install  ## put each known bug into the code in turn, and see that the simulation notices it
	.venv/bin/python -m tests.simulation.mutants

exhaust: install  ## everything that can happen in a small world, with FAULTS=1 of any kind
	.venv/bin/python -m tests.simulation.exhaust --faults $(or $(FAULTS),1)

plans: install  ## the plans of SEEDS=20 simulated histories, on real processes
	.venv/bin/python -m tests.simulation.on_processes --seeds $(or $(SEEDS),20)

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

browser: clients  ## make .cache/browser: a Chromium and the accessibility rules, from npm
	@bash tests/console/browser.sh

console: install browser  ## the web console in a real browser
	.venv/bin/pytest tests/console

frames: install browser  ## a batch of 200,000 rows in the console: first row, frames, memory
	.venv/bin/python -m tests.console.frames

screenshots: install browser  ## docs/pictures: every page of the console, light, dark and on a phone
	.venv/bin/python -m tests.console.pictures

lock: install  ## resolve every lock in requirements anew
	@bash requirements/lock.sh
	@bash requirements/clients.sh lock
	@bash requirements/queues.sh lock

clean:  ## remove what was built in this checkout
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
