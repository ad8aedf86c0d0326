# Every target sets up what it needs; a fresh machine wants only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready

# Compiled modules are kept, whatever the shell says: the tests alone start hundreds of processes.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help run test test-all check format reference bench chaos clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing (on Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@$(BIN)/python -m compileall -q src
	@touch $@

$(READY): $(INSTALLED)
	@echo "Installing the tools for development into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(INSTALLED) ## Start the platform on synthetic data and print the cockpit's address
	@ORCH_LOG_FORMAT=$${ORCH_LOG_FORMAT:-text} exec $(BIN)/mdo up

test: $(READY) ## Run the test suite (under 10 minutes on two cores)
	$(BIN)/python -m pytest -m 'not chaos' -n 3 --dist worksteal

test-all: $(READY) ## Run every test, the long fault runs too
	$(BIN)/python -m pytest

check: $(READY) ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: $(READY) ## Write docs/reference from the code
	$(BIN)/python scripts/reference.py

bench: $(READY) ## Measure against the targets; writes bench-results/
	$(BIN)/python -m benchmarks

chaos: $(READY) ## Kill and cut power at every step, for as long as it takes
	$(BIN)/python -m pytest -m chaos --timeout 3600 -n 2 --dist worksteal

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
