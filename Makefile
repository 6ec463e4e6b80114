# Everything here makes its own environment in .venv; nothing needs to be installed first but Python 3.11.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/run.stamp
DEV := $(VENV)/dev.stamp
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run test chaos check fmt lock clean

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUN)  ## Run the bridge on an embedded broker, with a live view of every event
	@$(BIN)/bridge dev $(ARGS)

test: $(DEV)  ## Run all tests, on the embedded broker and on Apache Kafka; ARGS="-k name" to choose
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

chaos: $(DEV)  ## Break everything around the bridge, and show that nothing is lost; CHAOS_SEED=n to repeat a run
	@CHAOS=long $(BIN)/python -m pytest tests/chaos tests/integration/test_security.py -q $(ARGS)

check: $(DEV)  ## Lint, check the format and the types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

fmt: $(DEV)  ## Format the code and mend what can be mended by a tool
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

lock: $(DEV)  ## Choose the newest dependencies and write them down with their hashes
	@$(BIN)/python -m pip install --quiet uv
	@$(UV_COMPILE) --upgrade --extra embedded --output-file requirements.lock pyproject.toml
	@$(UV_COMPILE) --upgrade --extra embedded --group dev --output-file tests/requirements.lock pyproject.toml

clean:  ## Remove the environment, caches and build output
	@rm -rf $(VENV) .cache dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	@echo "making an environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(RUN): $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(DEV): $(RUN) tests/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@
