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
.PHONY: help demo test test-quick test-oldest test-wheel coverage lint audit docs architecture wheel bench screenshots clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo ## plain Celery and static priorities against dynamic ones, for real, under two minutes
	@$(BIN)/python -m example_project.demo $(ARGS)

test: $(VENV)/.dev ## the whole test suite
	$(BIN)/$(PYTEST) $(ARGS)

test-quick: $(VENV)/.test ## unit and contract tests that take seconds
	$(BIN)/$(PYTEST) -m "not slow" tests/unit tests/contract $(ARGS)

test-oldest: ## the whole test suite on the oldest versions that pyproject.toml allows
	$(MAKE) VENV=.venv-oldest CONSTRAINTS="-c tests/oldest.txt" .venv-oldest/.test
	.venv-oldest/bin/$(PYTEST) $(ARGS)

# From a copy of the sdist without the package, so that only the installed wheel can be imported. Two files look at sources.
test-wheel: wheel ## unit, contract and integration tests on the built wheel
	rm -rf build/wheel && mkdir -p build/wheel
	tar -xzf dist/*.tar.gz -C build/wheel --strip-components=1
	rm -r build/wheel/celery_dynprio
	$(PYTHON) -m venv build/wheel/.venv
	build/wheel/.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[test]"
	cd build/wheel && .venv/bin/python -c 'import celery_dynprio as it; assert "site-packages" in it.__file__, it.__file__'
	cd build/wheel && .venv/bin/$(PYTEST) --ignore tests/integration/test_wheel.py --ignore tests/integration/test_types.py \
		tests/unit tests/contract tests/integration $(ARGS)

coverage: $(VENV)/.test ## what test-quick covers of the package; fails below the floor in pyproject.toml
	$(BIN)/$(PYTEST) -m "not slow" --cov=celery_dynprio tests/unit tests/contract $(ARGS)

lint: $(VENV)/.dev ## linters of Python, its types and layers, of JavaScript, Lua and workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive celery_dynprio
	$(BIN)/oxlint --deny-warnings celery_dynprio/monitoring/flower/static
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml docs/examples/*.yml
	@if command -v luacheck; then luacheck --quiet celery_dynprio; else echo "no luacheck here: Lua is not checked"; fi

audit: $(VENV)/.audit ## known vulnerabilities of what the newest install brings; asks a service on the internet
	$(BIN)/pip-audit --vulnerability-service osv --skip-editable

docs: $(VENV)/.docs ## the site with the docs, in build/site
	$(BIN)/mkdocs build --strict

architecture: $(VENV)/.docs ## the picture of the architecture in docs, from the imports
	$(BIN)/python docs/site/architecture.py

wheel: $(VENV)/.package ## the wheel and the sdist, in dist, checked
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

screenshots: $(VENV)/.dev ## the pictures of Flower's page in docs/flower and of a replay's in docs/lab, taken of the demo's shop by Chromium
	$(BIN)/python -m example_project.demo.screenshots
	$(BIN)/python -m example_project.demo.report_screenshots

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
