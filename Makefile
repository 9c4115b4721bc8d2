# Needs python3 (3.10 or newer, PYTHON=... for another), pip and make; everything else goes into a virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Passed on to what a target runs: make demo ARGS=--json, make test ARGS="-k lease"
ARGS ?=
# Tests that run at a time: most of them wait for processes.
WORKERS ?= 4
PYTEST = python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-oldest lint wheel bench screenshots clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo ## plain Celery against dynamic priorities, for real, under a minute
	@$(BIN)/python -m example_project.demo $(ARGS)

test: $(VENV)/.dev ## the whole test suite
	$(BIN)/$(PYTEST) $(ARGS)

test-quick: $(VENV)/.test ## unit and contract tests that take seconds
	$(BIN)/$(PYTEST) -m "not slow" tests/unit tests/contract $(ARGS)

test-oldest: ## the whole test suite on the oldest versions that pyproject.toml allows
	$(MAKE) VENV=.venv-oldest CONSTRAINTS="-c tests/oldest.txt" .venv-oldest/.test
	.venv-oldest/bin/$(PYTEST) $(ARGS)

lint: $(VENV)/.dev ## ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

screenshots: $(VENV)/.dev ## the pictures of the page in Flower in docs/flower, taken of the demo's shop by Chromium
	$(BIN)/python -m example_project.demo.screenshots

bench: $(VENV)/.dev ## throughput, what tracing and monitoring cost, ticks from 1k to 1M pending, what operators wait for, Flower's page
	@$(BIN)/python -m bench $(ARGS)

clean: ## remove virtual environments, caches and builds
	rm -rf .venv .venv-* build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An extra is installed anew only when pyproject.toml or the constraints changed.
$(VENV)/.%: pyproject.toml tests/oldest.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[$*]"
	touch $@
